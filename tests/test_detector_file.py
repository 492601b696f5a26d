"""Detector files: complete, certified, and harmless whatever is in them."""

import json
import os
import random

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rtconv.errors import RtconvError
from rtconv.model.detector import Model, Output, load_model, save_model
from rtconv.stream.certify import certify
from rtconv.stream.network import open_network
from tests.contract import table
from tests.keras_oracle import keras_scores


def settings(name):
    return Output(
        name=name, threshold=0.5, release=0.2, refractory=0.1, max_hold=1, decision="peak"
    )


@pytest.fixture
def model():
    layers = table()["two outputs"]
    made = Model("pair", 8000, layers, [settings("a"), settings("b")], training={"seed": 3})
    return certify(made, lambda x: keras_scores(layers, x), "keras")


def test_what_is_saved_is_loaded(tmp_path, model):
    path = tmp_path / "new" / "pair.safetensors"
    save_model(path, model)
    loaded = load_model(path)
    for name in ("name", "samplerate", "outputs", "certificate", "training"):
        assert getattr(loaded, name) == getattr(model, name)
    for old, new in zip(model.layers, loaded.layers, strict=True):
        np.testing.assert_array_equal(old.dense, new.dense)
        np.testing.assert_array_equal(old.bias, new.bias)
    assert os.listdir(path.parent) == ["pair.safetensors"]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_file_is_what_the_design_says(tmp_path, model):
    path = tmp_path / "pair.safetensors"
    save_model(path, model)
    tensors = load_file(path)
    assert set(tensors) == {"layer0.dense", "layer0.bias", "layer1.dense", "layer1.bias"}
    assert tensors["layer0.dense"].shape == (9, 4)


def test_certificate_says_what_was_tested(model):
    certificate = model.certificate
    assert certificate.oracle == "keras"
    assert 0 < certificate.largest_difference < 1e-5
    assert len(certificate.tested) == 12


def test_a_wrong_conversion_is_refused(model):
    flipped = [type(x)(**(vars(x) | {"dense": x.dense[::-1].copy()})) for x in model.layers]
    wrong = Model("pair", 8000, flipped, model.outputs)
    with pytest.raises(RtconvError, match="check the order of the taps"):
        certify(wrong, lambda x: keras_scores(model.layers, x), "keras")


def test_nothing_is_saved_without_a_certificate(tmp_path, model):
    bare = Model("pair", 8000, model.layers, model.outputs)
    with pytest.raises(RtconvError, match="certificate"):
        save_model(tmp_path / "x.safetensors", bare)
    assert not os.listdir(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, model, monkeypatch):
    path = tmp_path / "pair.safetensors"
    save_model(path, model)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(RtconvError, match=r"pair\.safetensors: cannot be written"):
        save_model(path, model)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["pair.safetensors"]


def rewrite(path, change_tensors=None, change_json=None):
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    values = json.loads(metadata["rtconv"])
    if change_tensors:
        change_tensors(tensors)
    if change_json:
        change_json(values)
    save_file(tensors, path, metadata={"rtconv": json.dumps(values)})


def set_path(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(values):
        for key in keys:
            values = values[key]
        values[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(change_tensors=lambda t: t["layer0.dense"].__setitem__(0, 7)), "certified"),
        (dict(change_tensors=lambda t: t.pop("layer1.dense")), "layer1.dense"),
        (dict(change_tensors=lambda t: t.update(x=np.zeros(1, np.float32))), "unexpected tensor"),
        (
            dict(change_tensors=lambda t: t.update({"layer1.bias": np.zeros(2)})),
            "float32 was expected",
        ),
        (dict(change_json=set_path("layers", 0, "activation", "relu")), "certified"),
        (dict(change_json=set_path("layers", 0, "activation", "exec")), "activation"),
        (dict(change_json=set_path("layers", 0, "kernel_size", 10**9)), "kernel_size"),
        (dict(change_json=set_path("layers", 0, "dilation_rate", 10**6)), "certified|history"),
        (dict(change_json=set_path("outputs", [])), "outputs"),
        (dict(change_json=set_path("outputs", 0, "threshold", "high")), "threshold"),
        (dict(change_json=set_path("samplerate", 0)), "samplerate"),
        (dict(change_json=set_path("format", 2)), "update rtconv"),
        (dict(change_json=set_path("more", 2)), "more"),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_changed_file_is_refused(tmp_path, model, change, says):
    path = tmp_path / "pair.safetensors"
    save_model(path, model)
    rewrite(path, **change)
    with pytest.raises(RtconvError, match=says) as error:
        load_model(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path, model):
    with pytest.raises(RtconvError, match="no such file"):
        load_model(tmp_path / "none.safetensors")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(RtconvError, match="is not a detector of rtconv"):
        load_model(tmp_path / "other.safetensors")
    for content in (b"", b"RIFF", b"\xff" * 100):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(RtconvError, match="is not a detector, or a damaged one"):
            load_model(tmp_path / "x.safetensors")


def test_200_fuzzed_detector_files_crash_nothing(tmp_path, model):
    path = tmp_path / "pair.safetensors"
    save_model(path, model)
    good = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            # Mostly in the header, where the structure is.
            limit = len(data) if rng.random() < 0.3 else 200
            data[rng.randrange(limit)] = rng.randrange(256)
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            loaded = load_model(path)
        except RtconvError as error:
            refused += 1
            assert "\n" not in str(error)
        else:  # the change hit what the digest does not cover: settings or record
            open_network(loaded.layers).step(np.zeros((10, 1), np.float32))
    assert refused > 100
