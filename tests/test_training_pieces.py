"""Filters that begin as pieces of the patterns."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import signal

from rtconv.audio import write_audio
from rtconv.config import load_config, parse_config
from rtconv.errors import RtconvError
from rtconv.training.data import load_dataset

RATE, TAPS, COUNT = 4000, 128, 3
LAYER = {
    "filters": 16,
    "kernel_size": TAPS,
    "use_bias": False,
    "activation": "square",
    "kernel_initializer": "gabor",
    "band": [100, 1800],
    "pieces": COUNT,
}
SETTINGS = {
    "name": "burst",
    "samplerate": RATE,
    "network": [LAYER, {"filters": 1, "kernel_size": 1, "activation": "sigmoid"}],
    "training": {"positives": ["burst.wav"], "backgrounds": ["hum.wav"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A burst of noise, in a background that is loud at low frequencies."""
    folder = tmp_path_factory.mktemp("pieces")
    rng = np.random.default_rng(0)
    burst = np.pad(0.3 * rng.standard_normal(RATE // 10), RATE // 5)
    write_audio(folder / "burst.wav", burst.astype(np.float32), RATE)
    hum = signal.lfilter([0.05], [1, -0.95], rng.standard_normal(60 * RATE))
    write_audio(folder / "hum.wav", hum.astype(np.float32), RATE)
    (folder / "burst.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def test_a_piece_stands_out_of_the_background_more_than_any_cosine(folder: Path) -> None:
    from rtconv.training.keras_model import build
    from rtconv.training.pieces import begin_with_pieces

    config = load_config(folder / "burst.yaml")
    dataset = load_dataset(config)
    network = build(config)
    begin_with_pieces(network, config, dataset)
    kernel = network.get_weights()[0][:, 0]
    # The others are cosines and sines over the whole band.
    frequencies = np.abs(np.fft.rfft(kernel[:, : 8 - COUNT], RATE, axis=0)).argmax(axis=0)
    np.testing.assert_allclose(frequencies, np.geomspace(100, 1800, 8 - COUNT), atol=3)

    def power(x: np.ndarray) -> np.ndarray:
        y = np.array([signal.lfilter(taps[::-1], 1, x) for taps in kernel.T])  # Keras correlates
        return y[:8] ** 2 + y[8:] ** 2

    (pattern,) = dataset.patterns
    background = dataset.backgrounds.read(0, 20 * RATE)
    contrast = power(pattern.active).max(axis=1) / power(background).mean(axis=1)
    assert contrast[-COUNT:].min() > 2 * contrast[:-COUNT].max()
    # As loud as the others are, at any phase.
    gains = np.abs(np.fft.fft(kernel[:, :8] + 1j * kernel[:, 8:], 1024, axis=0)).max(axis=0)
    np.testing.assert_allclose(gains, gains[0], rtol=0.02)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([{**LAYER, "pieces": 8}], "network.0: pieces"),
        ([{**LAYER, "kernel_initializer": "zeros", "band": None}], "network.0: pieces"),
        ([LAYER, LAYER], "network.1: pieces"),
    ],
)
def test_pieces_where_there_can_be_none_are_named(layers: list[dict], named: str) -> None:
    last = {"filters": 1, "kernel_size": 1, "activation": "sigmoid"}
    with pytest.raises(RtconvError, match=named):
        parse_config({**SETTINGS, "network": [*layers, last]}, Path("burst.yaml"))
