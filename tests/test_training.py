"""Training on a signal, and conversion."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import rtconv
from rtconv.training.closed_form import l1_optimum
from rtconv.training.trainer import Progress

ROOT = Path(__file__).parent.parent
RAMP = ROOT / "configs" / "ramp.yaml"


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, rtconv.Detector, list[Progress]]:
    base = tmp_path_factory.mktemp("ramp") / "ramp"
    seen: list[Progress] = []
    return base, rtconv.train(RAMP, base, seen.append), seen


def test_ramp_comes_close_to_the_exact_optimum(ramp) -> None:
    _, detector, seen = ramp
    record = detector.model.training
    x, target = ramp_signal()
    scores = detector.process(x)
    assert np.abs(scores - target).mean() == pytest.approx(record["error"], abs=1e-6)
    assert record["optimum"] == pytest.approx(0.0074728, abs=1e-7)
    assert record["optimum"] <= record["error"] <= 0.0080
    assert record["ratio"] == record["error"] / record["optimum"]
    assert (seen[-1].step, seen[-1].steps) == (5000, 5000)
    assert seen[-1].loss < 0.01 < seen[0].loss


def test_pickle_is_what_keras_gives(ramp) -> None:
    from rtconv.config import load_config
    from rtconv.training.keras_model import build, predict

    base, detector, _ = ramp
    with open(f"{base}.pickle", "rb") as file:
        weights = pickle.load(file)
    assert [w.shape for w in weights] == [(8, 1, 1)]
    model = build(load_config(RAMP))
    model.set_weights(weights)
    x = np.random.default_rng(0).uniform(-1, 1, 500).astype(np.float32)
    np.testing.assert_allclose(
        detector.process(x), predict(model, x[:, np.newaxis])[:, 0], rtol=0, atol=1e-6
    )


def test_same_seed_same_weights(ramp, tmp_path: Path) -> None:
    base, _, _ = ramp
    rtconv.train(RAMP, tmp_path / "again")
    assert Path(f"{base}.pickle").read_bytes() == (tmp_path / "again.pickle").read_bytes()


def test_committed_ramp_is_what_training_gives(ramp) -> None:
    _, detector, _ = ramp
    committed = rtconv.load(ROOT / "models" / "ramp.safetensors")
    x, _ = ramp_signal()
    np.testing.assert_allclose(committed.process(x), detector.process(x), atol=0.02)
    assert committed.process(x).argmax() == 16


def test_l1_optimum_is_not_beaten_nearby() -> None:
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=60), rng.normal(size=60)
    weights, error = l1_optimum(x, target, 4, dilation_rate=2)

    def error_of(w: np.ndarray) -> float:
        fir = np.zeros(7)
        fir[::2] = w
        return float(np.abs(np.convolve(x, fir)[:60] - target).mean())

    assert error_of(weights) == pytest.approx(error)
    assert all(error_of(weights + rng.normal(0, 1e-2, 4)) > error for _ in range(200))


def test_converted_pickle_is_the_trained_detector(ramp, tmp_path: Path) -> None:
    base, detector, _ = ramp
    converted = rtconv.convert(f"{base}.pickle", RAMP, tmp_path / "converted")
    x = np.random.default_rng(0).uniform(-1, 1, 500).astype(np.float32)
    np.testing.assert_array_equal(converted.process(x), detector.process(x))
    loaded = rtconv.load(tmp_path / "converted.safetensors")
    np.testing.assert_array_equal(loaded.process(x), detector.process(x))


def test_order_of_the_taps_is_the_callers_word(ramp, tmp_path: Path) -> None:
    base, _, _ = ramp
    with open(f"{base}.pickle", "rb") as file:
        kernel = pickle.load(file)[0]
    impulse = np.zeros(8, np.float32)
    impulse[0] = 1
    for order, taps in (("correlation", kernel[::-1, 0, 0]), ("convolution", kernel[:, 0, 0])):
        detector = rtconv.convert(f"{base}.pickle", RAMP, tmp_path / order, order)
        np.testing.assert_array_equal(detector.process(impulse), taps)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "other.yaml"
    config.write_text("{name: other, samplerate: 8000, network: [{filters: 2, kernel_size: 8}]}")
    with pytest.raises(
        rtconv.RtconvError, match=r"ramp.pickle: does not fit .*other.yaml: 1 array"
    ):
        rtconv.convert(ROOT / "models" / "ramp.pickle", config, tmp_path / "other")
    assert not list(tmp_path.glob("other.s*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{name: a, samplerate: 1, network: [{filters: 1, kernel_size: 1}]}",
            "no training section",
        ),
        (
            "{name: a, samplerate: 1, channels: 2, network: [{filters: 1, kernel_size: 1}],"
            " training: {signal: {input: [0], target: [0]}}}",
            "one channel and one output",
        ),
        (
            "{name: a, samplerate: 8000, network: [{filters: 1, kernel_size: 1}],"
            " training: {positives: [a.yaml]}}",
            "focal_crossentropy needs activation sigmoid",
        ),
    ],
)
def test_impossible_trainings_are_refused(text: str, message: str, tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(text)
    with pytest.raises(rtconv.RtconvError, match=message):
        rtconv.train(config, tmp_path / "a")


def ramp_signal() -> tuple[np.ndarray, np.ndarray]:
    x, target = np.zeros(23, np.float32), np.zeros(23, np.float32)
    x[9:14] = range(5)
    target[16] = 1
    return x, target
