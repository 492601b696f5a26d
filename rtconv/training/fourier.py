"""Long filters by FFT, for calibration: the same scores up to rounding, much sooner.

A closed form of a sound of a second has a filter of thousands of taps at the full
rate. Live, its direct form is what keeps the bits the same for any block; to listen
to hours of background once, overlap-add is a hundred times faster. The order of
summation is another one, which moves a score by some 1e-6 of full scale.
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import oaconvolve

from rtconv.model.layers import ACTIVATIONS, Layer
from rtconv.stream.network import Network, open_network

#: Taps from which on a filter is long, and below which it is summed directly.
LONG, FEW = 256, 16
#: Pairs of channel and filter of one layer up to which it is worth it.
MOST_PAIRS = 4


def open_quick_network(layers: Sequence[Layer]) -> Network:
    """The network that listens to hours soonest: by FFT where there are few, long filters."""
    long = any(layer.kernel_size >= LONG for layer in layers)
    plain = all(layer.strides == 1 for layer in layers)
    few = all(layer.in_channels * layer.filters <= MOST_PAIRS for layer in layers)
    return FourierNetwork(layers) if long and plain and few else open_network(layers)


class FourierNetwork:
    """A cascade without strides that takes large blocks, in float32.

    Parameters
    ----------
    layers : sequence of Layer
        All with strides 1.

    Attributes
    ----------
    channels, outputs : int
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.channels, self.outputs = layers[0].in_channels, layers[-1].filters
        self._layers = layers
        self.reset()

    def reset(self) -> None:
        """Forget all past samples."""
        self._past = [
            np.zeros((layer.history, layer.in_channels), np.float32) for layer in self._layers
        ]

    def step(self, block: np.ndarray) -> np.ndarray:
        """Scores (frames, outputs) of the next samples (frames, channels), float32."""
        frames = np.asarray(block, np.float32)
        for i, layer in enumerate(self._layers):
            x = np.concatenate([self._past[i], frames])
            self._past[i] = x[len(x) - layer.history :]
            frames = _layer(layer, x)
        return frames


def _layer(layer: Layer, x: np.ndarray) -> np.ndarray:
    """The layer's output; x begins with its history."""
    frames = len(x) - layer.history
    taps = layer.dense.reshape(layer.kernel_size, layer.in_channels // layer.groups, -1)
    sums = np.zeros((frames, layer.filters), np.float32)
    if layer.bias is not None:
        sums += layer.bias
    inputs, outputs = taps.shape[1], layer.filters // layer.groups
    for group in range(layer.groups):
        channels = x[:, group * inputs : (group + 1) * inputs]
        filters = slice(group * outputs, (group + 1) * outputs)
        sums[:, filters] += _convolved(channels, taps[:, :, filters], layer.dilation_rate)
    y = ACTIVATIONS[layer.activation](sums)
    return y + x[layer.history :] if layer.residual else y


def _convolved(x: np.ndarray, taps: np.ndarray, dilation_rate: int) -> np.ndarray:
    """Sums over taps (kernel_size, channels, filters), the first of which meets the newest x."""
    history = (len(taps) - 1) * dilation_rate
    y = np.zeros((len(x) - history, taps.shape[2]), np.float32)
    for channel, column in np.ndindex(taps.shape[1:]):
        column_taps, signal = taps[:, channel, column], x[:, channel]
        ages = np.flatnonzero(column_taps)
        if len(ages) < FEW:
            for age in ages:
                begin = history - age * dilation_rate
                y[:, column] += column_taps[age] * signal[begin : begin + len(y)]
        else:
            spread = np.zeros(history + 1, np.float32)
            spread[::dilation_rate] = column_taps
            y[:, column] += oaconvolve(signal, spread, "valid")
    return y
