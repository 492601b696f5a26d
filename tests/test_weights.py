"""Pickles: ours for the lecture, theirs for us, and nothing in a bad one runs."""

import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from rtconv.config import LayerSettings
from rtconv.errors import RtconvError
from rtconv.model.dense import (
    conv1d_from_dense,
    dense_from_conv1d,
    layers_from_weights,
    weights_from_layers,
)
from rtconv.model.weights import load_weights, save_weights
from tests.contract import table
from tests.keras_oracle import keras_scores


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = [(8, 1, 4), (4,), (3, 4, 1), (1,)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def equal(a, b):
    return len(a) == len(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True)
    )


def test_plain_pickle_reads_what_we_write(tmp_path, weights):
    save_weights(tmp_path / "w.pickle", weights)
    with open(tmp_path / "w.pickle", "rb") as file:
        read = pickle.load(file)
    assert type(read) is list
    assert equal(read, weights)
    assert os.listdir(tmp_path) == ["w.pickle"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_we_read_every_protocol(tmp_path, weights, protocol):
    (tmp_path / "w.pickle").write_bytes(pickle.dumps(weights, protocol))
    assert equal(load_weights(tmp_path / "w.pickle"), weights)


def test_other_precisions_byte_orders_and_layouts(tmp_path, weights):
    stored = [weights[0].astype(">f4"), weights[1].astype("f8"), np.asfortranarray(weights[2])]
    (tmp_path / "w.pickle").write_bytes(pickle.dumps([*stored, weights[3]]))
    assert equal(load_weights(tmp_path / "w.pickle"), weights)


class Runs:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class Evaluates:
    def __reduce__(self):
        return eval, ("open('pwned', 'w')",)


def nested_key():
    """A key whose hash takes for ever."""
    key = ()
    for _ in range(60):
        key = (key, key)
    return key


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Runs()), "system"),
        (pickle.dumps([np.zeros(3, np.float32), Evaluates()]), "eval"),
        (pickle.dumps([np.array([Runs()], object)]), "system"),
        (pickle.dumps([np.array(["a"], object)]), "array 0 is an object array"),
        (pickle.dumps([np.array([1, 2])]), "array 0 is an array of 'i8'"),
        (pickle.dumps([np.zeros(2, np.float32), 3]), "entry 1 of the list is not a NumPy array"),
        (pickle.dumps(np.zeros(2, np.float32)), "holds no list"),
        (pickle.dumps({"a": 1}), "not a pickled list"),
        (pickle.dumps(print), "print"),
        (pickle.dumps([[np.zeros(2, np.float32)]]), "entry 0"),
        (b"", "not a pickled list"),
        (b"RIFF....WAVE", "not a pickled list"),
        (pickle.dumps([np.zeros(9, np.float32)])[:-20], "not a pickled list"),
        # Requests for memory that the C unpickler would make at once.
        (b"\x80\x04]r\xff\xff\xff\x7f.", "holds no list|not a pickled|^$"),
        (b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.", "not a pickled list"),
    ],
    ids=range(15),
)  # fmt: skip
def test_a_bad_pickle_is_refused_by_name(tmp_path, monkeypatch, content, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pickle"
    path.write_bytes(content)
    if says.endswith("^$"):  # an empty list with an absurd memo: harmless, and no weights
        assert load_weights(path) == []
    else:
        with pytest.raises(RtconvError, match=says) as error:
            load_weights(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_a_nested_key_does_not_hang(tmp_path):
    path = tmp_path / "bad.pickle"
    body = b"\x80\x04}" + b")" + b"\x94h\x00\x86" * 0
    # } () then 60 times (t, t), None, SETITEM: hashing the key takes 2**60 steps
    doubled = b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
    path.write_bytes(body + doubled + b"Ns.")
    with pytest.raises(RtconvError, match="not a pickled list"):
        load_weights(path)


def test_200_fuzzed_pickles_run_nothing_and_crash_nothing(tmp_path, weights):
    """In a process of its own, whose audit hook sees everything that would run."""
    rng = random.Random(0)
    seeds = [pickle.dumps(weights, p) for p in range(6)] + [pickle.dumps([Runs(), Evaluates()])]
    for i in range(200):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 12)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        (tmp_path / f"{i}.pickle").write_bytes(data)
    program = """
import sys, pathlib
from rtconv.model.weights import load_weights
from rtconv.errors import RtconvError
import numpy, rtconv.files
forbidden = {"os.system", "exec", "compile", "subprocess.Popen", "import", "os.exec", "os.posix_spawn"}
def hook(name, arguments):
    if armed and (name in forbidden or (name == "open" and "w" in str(arguments[1]))):
        print("ran", name, arguments); sys.stdout.flush()
b'a'.decode('raw_unicode_escape')  # loads the codec
armed = False
sys.addaudithook(hook)
answers = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pickle")):
    armed = True
    try:
        load_weights(path)
    except RtconvError as error:
        assert "\\n" not in str(error)
    armed = False
    answers += 1
print("answers", answers)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "answers 200\n", done.stdout + done.stderr
    assert done.returncode == 0


NETWORK = [
    LayerSettings(filters=4, kernel_size=8),
    LayerSettings(filters=1, kernel_size=3),
]


def test_a_list_that_does_not_fit_is_refused(weights):
    with pytest.raises(RtconvError, match="3 arrays of weights, the network needs 4"):
        layers_from_weights(weights[:3], NETWORK)
    with pytest.raises(RtconvError, match=r"layer 0 kernel has the shape \(3, 4, 1\)"):
        layers_from_weights(weights[2:] + weights[:2], NETWORK)
    weights[1][2] = np.nan
    with pytest.raises(RtconvError, match="not finite"):
        layers_from_weights(weights, NETWORK)


@pytest.mark.parametrize("order", ["correlation", "convolution", "pytorch"])
def test_every_order_puts_the_right_tap_on_the_newest_sample(weights, order):
    kernel = weights[0]
    given = {"correlation": kernel, "convolution": kernel[::-1]}.get(order)
    given = kernel.transpose(2, 1, 0) if given is None else given
    dense = dense_from_conv1d(given, order)
    np.testing.assert_array_equal(dense[0], kernel[-1, 0])
    np.testing.assert_array_equal(conv1d_from_dense(dense, 8), kernel)


@pytest.mark.parametrize("name", table())
def test_dense_and_back(name):
    layers = table()[name]
    network = [
        LayerSettings(
            filters=layer.filters,
            use_bias=layer.bias is not None,
            **{
                key: getattr(layer, key)
                for key in (
                    "kernel_size", "strides", "dilation_rate", "groups", "activation", "residual"
                )
            },
        )
        for layer in layers
    ]  # fmt: skip
    again = layers_from_weights(weights_from_layers(layers), network, layers[0].in_channels)
    for old, new in zip(layers, again, strict=True):
        np.testing.assert_array_equal(old.dense, new.dense)
        assert (old.bias is None) == (new.bias is None)
        assert old.bias is None or np.array_equal(old.bias, new.bias)


def test_batch_normalisation_is_folded_as_keras_computes_it():
    import keras

    from rtconv.stream.reference import ReferenceNetwork

    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((None, 1)),
            keras.layers.Conv1D(6, 5, padding="causal", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Conv1D(1, 3, padding="causal"),
            keras.layers.BatchNormalization(),
        ]
    )
    model.set_weights([rng.uniform(0.2, 1, w.shape) for w in model.get_weights()])
    network = [
        LayerSettings(
            filters=6, kernel_size=5, use_bias=False, batch_normalization=True, activation="relu"
        ),
        LayerSettings(filters=1, kernel_size=3, batch_normalization=True),
    ]
    layers = layers_from_weights(model.get_weights(), network)
    x = rng.uniform(-1, 1, (300, 1)).astype(np.float32)
    expected = np.asarray(model(x[np.newaxis], training=False))[0]
    np.testing.assert_allclose(ReferenceNetwork(layers).step(x), expected, atol=2e-6)
    np.testing.assert_allclose(keras_scores(layers, x), expected, atol=2e-6)


def test_a_keras_dense_model_with_our_dense_weights_gives_the_same():
    """The lecture's Dense network over cut-out blocks, newest sample first."""
    import keras

    layer = table()["stereo"][0]
    model = keras.Sequential(
        [keras.Input((layer.dense.shape[0],)), keras.layers.Dense(3, activation="relu")]
    )
    model.set_weights([layer.dense, layer.bias])
    x = np.random.default_rng(0).uniform(-1, 1, (60, 2)).astype(np.float32)
    K = layer.kernel_size
    blocks = np.stack([x[n - K + 1 : n + 1][::-1].reshape(-1) for n in range(K - 1, len(x))])
    dense = np.asarray(model(blocks))
    np.testing.assert_allclose(dense, keras_scores([layer], x)[K - 1 :], atol=1e-6)
