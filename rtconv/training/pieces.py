"""Filters of a network that begin as pieces of the patterns, and not as plain cosines."""

from typing import Any

import numpy as np
from scipy.signal import hilbert

from rtconv.config import Config
from rtconv.training.closed_form import whitening_filter
from rtconv.training.computed import background_excerpts
from rtconv.training.data import Dataset
from rtconv.training.keras_model import GABOR_GAIN, as_pairs, gabor_filters


def begin_with_pieces(network: Any, config: Config, dataset: Dataset) -> None:
    """Change the first layer of a fresh Keras model as its setting `pieces` says."""
    settings = config.network[0]
    if settings.pieces == 0:
        return
    assert settings.band is not None
    layer = network.get_layer("layer0")
    kernel, *bias = layer.get_weights()
    taps, _, filters = kernel.shape
    bands = filters // 2 - settings.pieces
    waves = [
        gabor_filters(taps, bands, settings.band, config.samplerate),
        pattern_pieces(dataset, taps, settings.pieces),
    ]
    kernel[:, 0] = as_pairs(np.concatenate(waves, axis=1))
    layer.set_weights([kernel, *bias])


def pattern_pieces(dataset: Dataset, taps: int, count: int) -> np.ndarray:
    """Pieces of the patterns, each as a whitened matched filter with its quadrature.

    The sum of the squares of both answers to the piece at any phase. The pieces lie where
    the energy of a pattern is, one pattern after the other. Whitened is what the
    backgrounds hide least.

    Parameters
    ----------
    dataset : Dataset
    taps, count : int

    Returns
    -------
    ndarray, (taps, count), complex128
        Oldest sample first, as in Keras. The largest gain is that of the Gabor filters.
    """
    whitening = whitening_filter(background_excerpts(dataset))
    pieces = []
    for i in range(count):
        turn, which = divmod(i, len(dataset.patterns))
        turns = -(-count // len(dataset.patterns))
        x = dataset.patterns[which].active.astype(np.float64)
        energy = np.cumsum(np.square(x))
        centre = int(np.searchsorted(energy, (turn + 0.5) / turns * energy[-1]))
        piece = np.pad(x, taps)[centre + taps - taps // 2 :][:taps] * np.hanning(taps)
        # Once for what is heard, and once more to match what then comes.
        whitened = np.convolve(np.convolve(piece, whitening), whitening[::-1])
        whitened = whitened[len(whitening) - 1 :][:taps] * np.sqrt(np.hanning(taps))
        pieces.append(hilbert(whitened))
    gains = np.abs(np.fft.fft(pieces, 4 * taps, axis=1)).max(axis=1, keepdims=True)
    return (2 * GABOR_GAIN * np.array(pieces) / gains).T  # of a sine, which is half of a wave
