"""Decimation inside the network: a strided filter as its first layer."""

from dataclasses import replace
from math import ceil, pi

import numpy as np

from rtconv.model.detector import Model
from rtconv.model.layers import Layer

#: Attenuation of what would be mirrored into the band below `PASSBAND`, dB.
ATTENUATION = 80.0
#: Edge of the passband, as a part of the lower samplerate.
PASSBAND = 0.45


def lowpass(factor: int) -> np.ndarray:
    """Taps of a linear-phase lowpass filter for decimation, gain 1 at frequency 0.

    A windowed sinc with a Kaiser window. Its transition band lies around half
    the lower samplerate, so that only frequencies above `PASSBAND` receive
    mirrored ones. Length and window follow Kaiser's formulas (Oppenheim and
    Schafer, Discrete-Time Signal Processing, 7.5).

    Parameters
    ----------
    factor : int

    Returns
    -------
    ndarray, (taps,), float64
    """
    transition = 2 * pi * 2 * (0.5 - PASSBAND) / factor  # radians per sample
    order = 2 * ceil((ATTENUATION - 8) / (2.285 * transition) / 2)
    n = np.arange(order + 1) - order / 2
    beta = 0.1102 * (ATTENUATION - 8.7)
    taps = np.sinc(n / factor) * np.kaiser(order + 1, beta)
    return taps / taps.sum()


def decimated(model: Model, factor: int) -> Model:
    """The same detector for a samplerate that is `factor` times higher.

    Its scores come later by the filter's delay, half its length: 25 samples of
    the lower rate.

    Parameters
    ----------
    model : Model
    factor : int

    Returns
    -------
    Model
        Without a certificate; `model` itself when the factor is 1.
    """
    if factor == 1:
        return model
    taps = lowpass(factor).astype(np.float32)
    filter_layer = Layer(
        np.repeat(taps[:, np.newaxis], model.channels, axis=1),
        in_channels=model.channels,
        kernel_size=len(taps),
        strides=factor,
        groups=model.channels,
    )
    return replace(
        model,
        samplerate=model.samplerate * factor,
        layers=[filter_layer, *model.layers],
        certificate=None,
    )
