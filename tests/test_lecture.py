"""Each experiment of the lecture: its claim, with numbers."""

import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

import rtconv.lecture
from rtconv.errors import RtconvError
from rtconv.lecture import backprop, digits, filterbank, matched, ramp
from rtconv.lecture.sheet import Sheet
from rtconv.stream.network import open_network
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """One folder for all: `ramp` leaves its weights there for those that read them."""
    folder = tmp_path_factory.mktemp("lecture")
    return Sheet(plots=folder, folder=folder)


def run(name, sheet, *figures):
    numbers = rtconv.lecture.run(name, sheet)
    for figure in figures or [name]:
        drawn = (sheet.plots / f"{figure}.png").read_bytes()
        assert drawn.startswith(b"\x89PNG")
        assert len(drawn) > 5000
    return numbers


def test_ramp_comes_near_the_optimum_and_saves_its_weights(sheet):
    numbers = run("ramp", sheet)
    assert numbers["optimum"] <= numbers["error"] <= 1.05 * numbers["optimum"]
    assert numbers["peak_sample"] == 16
    assert numbers["peak"] == pytest.approx(1, abs=0.01)
    assert numbers["difference"] < 1e-6
    with open(sheet.folder / "convnetweights.pickle", "rb") as file:  # as the notes' programs do
        weights = pickle.load(file)
    assert [(w.shape, w.dtype) for w in weights] == [((8, 1, 1), np.float32)]


def test_ramp_is_that_of_configs():
    config = rtconv.load_config(ROOT / "configs" / "ramp.yaml")
    assert config.training.signal.input == ramp.X.tolist()
    assert config.training.signal.target == ramp.TARGET.tolist()
    assert config.network[0].kernel_size == ramp.KERNEL_SIZE


def test_valid_is_seven_samples_shorter_and_equal_from_there_on(sheet):
    numbers = run("valid", sheet)
    assert numbers["outputs"] == 23 - 7
    assert numbers["peak"] == 16 - 7
    assert numbers["same_weights"] < 1e-7
    assert numbers["trained_apart"] < 0.01


def test_pytorch_gives_the_same_detector_and_correlates_as_keras_does(sheet):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    numbers = run("pytorch", sheet, "pytorch", "orders")
    assert numbers["difference"] < 1e-6
    assert numbers["peak_sample"] == 16
    assert numbers["error"] < 0.009
    orders = numbers["orders"]
    assert orders["Keras Conv1D"] == orders["PyTorch Conv1d"] == orders["correlation (SciPy)"]
    assert orders["Keras Conv1D"] == orders["true convolution (SciPy)"][::-1]


def test_dense_equals_valid_for_every_block(sheet):
    numbers = run("dense", sheet)
    assert numbers["outputs"] == 23 - 8 + 1
    assert numbers["difference"] < 1e-6


def test_streaming_equals_keras_and_the_wrong_order_is_far_off(sheet, capsys):
    numbers = run("streaming", sheet)
    assert numbers["difference"] < 1e-6
    assert numbers["compiled_difference"] < 1e-6
    assert numbers["wrong_difference"] == pytest.approx(0.66, abs=0.01)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1:9] for row in rows if row[:1] == ["13"]] == [list("43210000")]


def test_streaming_trains_where_there_are_no_weights(tmp_path, capsys):
    weights = ramp.read_weights(Sheet(folder=tmp_path))
    assert weights[0].shape == (8, 1, 1)
    assert "the experiment ramp comes first" in capsys.readouterr().out


def test_matched_filter_has_the_snr_and_the_trained_filter_the_narrow_peak(sheet):
    numbers = run("matched", sheet, "matched", "matched_rates")
    assert numbers["matched snr"] == pytest.approx(10 * np.log10(30))
    for name in ("Wiener", "L1 optimum", "trained"):
        assert numbers[f"{name} snr"] < numbers["matched snr"] - 3
        assert numbers[f"{name} width"] < numbers["matched width"] / 2
        assert numbers[f"{name} side lobe"] > numbers["matched side lobe"]
        assert numbers[f"{name} valley"] > numbers["matched valley"] + 0.5
    assert numbers["trained snr"] == pytest.approx(numbers["L1 optimum snr"], abs=0.1)


def test_simulated_rates_are_those_of_theory(sheet):
    numbers = run("matched", sheet, "matched_rates")
    for name in ("matched", "Wiener", "L1 optimum", "trained"):
        loss = numbers["matched snr"] - numbers[f"{name} snr"]
        rate = norm.sf(norm.isf(1e-3) - np.sqrt(10 ** ((matched.SNRS - loss) / 10)))
        deviation = np.sqrt(rate * (1 - rate) / matched.TRIALS)
        assert np.all(np.abs(numbers[f"{name} detected"] - rate) < 4 * deviation + 1e-6), name
    # 320 false alarms are expected of each simulation, and neighbours depend on each other.
    assert 0.7e-3 < numbers["false alarms min"] < numbers["false alarms max"] < 1.3e-3


def test_peak_width_and_side_lobe_of_a_known_answer():
    impulse = np.zeros(8)
    impulse[3] = 1 / 4  # meets the ramp's largest value at the pattern's end: answers 0 1 2 3 4
    assert matched.side_lobe(impulse) < -100
    assert matched.peak_width(impulse) == pytest.approx((4 + 1) * (1 - np.sqrt(0.5)))
    echo = impulse.copy()
    echo[0] = -1 / 8  # before the peak the answers are then -3/8 -1/4 1/2 3/4
    assert matched.side_lobe(echo) == pytest.approx(20 * np.log10(3 / 8))


def test_filterbank_separates_the_chirps_and_streams_as_it_computes_offline(sheet):
    numbers = run("filterbank", sheet, "filterbank", "filterbank_chirps")
    assert numbers["ripple"] < 0.05
    assert numbers["attenuation"] > 90
    assert numbers["difference"] < 1e-4
    for chirp, other in (("rising", "falling"), ("falling", "rising")):
        assert numbers[f"{chirp} chirp, {chirp} score"] > 20
        assert numbers[f"{chirp} chirp, {other} score"] < 6


def test_filterbank_is_a_filter_bank():
    x = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    subbands = open_network(filterbank.network()[:1]).step(x)[:: filterbank.SUBBANDS]
    for k, taps in enumerate(filterbank.cosine_modulated_bank().T):
        filtered = lfilter(taps, [1], x.mean(axis=1))[:: filterbank.SUBBANDS]
        np.testing.assert_allclose(subbands[:, k], filtered**2, atol=1e-5)


def test_activations_and_derivatives_agree_with_automatic_differentiation(sheet):
    numbers = run("activations", sheet)
    assert set(numbers) == {
        f"{name} {what}"
        for name in ("sigmoid", "tanh", "relu", "leaky_relu")
        for what in ("value", "derivative")
    }
    assert max(numbers.values()) < 1e-6


def test_backprop_gradients_are_tensorflows_and_both_methods_learn(sheet):
    numbers = run("backprop", sheet)
    assert numbers["difference"] < 1e-6
    assert numbers["Adam loss"] < numbers["gradient descent loss"] < 0.1
    assert numbers["Adam correct"] > 0.98


def test_backprop_is_the_local_rule_of_the_notes():
    """One example, one weight at a time, as the notes write it."""
    network = backprop.Network(inputs=3, hidden=2, outputs=2, seed=1)
    before = [w.copy() for w in network.weights]
    x, d, alpha = np.array([0.2, -0.5, 0.9]), np.array([1.0, 0.0]), 0.3
    network.step(x[np.newaxis], d[np.newaxis], backprop.gradient_descent(alpha))

    def f(s):
        return 1 / (1 + np.exp(-s))

    w_h, w_o = before
    x = np.array([1, *x])
    h = np.array([1, *f(x @ w_h)])
    delta = f(h @ w_o) - d
    for k in range(2):
        o = f(h @ w_o[:, k])
        for j in range(3):
            expected = w_o[j, k] - alpha * delta[k] * o * (1 - o) * h[j]
            assert network.weights[1][j, k] == pytest.approx(expected)
    for j in range(2):
        back = sum(
            delta[k] * f(h @ w_o[:, k]) * (1 - f(h @ w_o[:, k])) * w_o[j + 1, k] for k in range(2)
        )
        for i in range(4):
            expected = w_h[i, j] - alpha * back * h[j + 1] * (1 - h[j + 1]) * x[i]
            assert network.weights[0][i, j] == pytest.approx(expected)


def test_adam_is_that_of_keras():
    import keras

    rng = np.random.default_rng(0)
    ours, theirs = np.ones(5), keras.Variable(np.ones(5))
    adam, oracle = backprop.Adam(0.1), keras.optimizers.Adam(0.1)
    for _ in range(10):
        gradient = rng.normal(size=5)
        ours -= adam([gradient])[0]
        oracle.apply([gradient], [theirs])
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_digits_are_read_by_all_three_networks(sheet, monkeypatch, capsys):
    def no_network():
        raise Exception("URL fetch failure:\nno route")

    monkeypatch.setattr("keras.datasets.mnist.load_data", no_network)
    numbers = run("digits", sheet)
    assert numbers["data"] == "scikit-learn's 1797 digits"
    assert min(numbers[name] for name in ("from scratch", "Dense", "convolutional")) >= 0.96
    out = capsys.readouterr().out
    assert "MNIST cannot be downloaded: URL fetch failure: no route" in out
    assert "scikit-learn's 1797 digits: 1347 for training, 450 for testing" in out


def test_digits_take_mnist_where_it_can_be_had(monkeypatch):
    """Stands for the download: the small digits in MNIST's size and type."""
    small = digits.load_small()

    def mnist():
        parts = [(small.images, small.labels), (small.test_images, small.test_labels)]
        return tuple(
            ((255 * np.kron(images[..., 0], np.ones((3, 3)))).astype(np.uint8), labels)
            for images, labels in parts
        )

    monkeypatch.setattr("keras.datasets.mnist.load_data", mnist)
    loaded = digits.load()
    assert loaded.name == "MNIST"
    assert loaded.images.shape == (1347, 24, 24, 1)
    assert loaded.images.max() == 1
    network = digits.convolutional_network(loaded.images.shape[1:])
    assert digits.train(network, loaded, epochs=3) > 0.85


def test_the_command_lists_the_experiments_and_runs_one(rtconv_command, tmp_path):
    listed = rtconv_command("lecture")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(
        rtconv.lecture.EXPERIMENTS
    )
    done = rtconv_command("lecture", "activations", "--plot", tmp_path / "plots")
    assert done.returncode == 0, done.stderr
    assert "automatic differentiation" in done.stdout
    assert (tmp_path / "plots" / "activations.png").exists()


def test_what_is_wrong_is_named(rtconv_command, sheet, monkeypatch, tmp_path):
    done = rtconv_command("lecture", "ramps")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rtconv: ramps: no such experiment, there are activations, ")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "rtconv.lecture.pytorch", raising=False)
    with pytest.raises(RtconvError, match=r"needs torch.*pip install 'rtconv\[torch\]'"):
        rtconv.lecture.run("pytorch", sheet)
    (tmp_path / "convnetweights.pickle").write_bytes(b"cos\nsystem\n")
    with pytest.raises(RtconvError, match=r"convnetweights\.pickle: refused"):
        rtconv.lecture.run("dense", Sheet(folder=tmp_path))


def test_show_needs_a_screen(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "get_backend", lambda: "agg")
    with pytest.raises(RtconvError, match="--plot DIR"):
        Sheet(show=True).wait()
    shown = SimpleNamespace(count=0)
    monkeypatch.setattr(pyplot, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(pyplot, "show", lambda: setattr(shown, "count", 1))
    Sheet(show=True).wait()
    assert shown.count == 1


def test_docs_name_every_experiment_and_every_figure_is_there():
    text = (ROOT / "docs" / "lecture.md").read_text(encoding="utf-8")
    for name in rtconv.lecture.EXPERIMENTS:
        assert f"$ rtconv lecture {name}" in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    for link in links:
        assert (ROOT / "docs" / link).is_file(), link
