"""The streaming network in NumPy, sample by sample: the readable definition.

Every layer holds a shifting buffer, newest frame first, as the lecture draws
it. A new frame enters at index 0 and pushes the older ones up; the frames that
the taps meet are rows 0, dilation_rate, 2 * dilation_rate, ... of the buffer:

        new frame ->  | x[n] | x[n-1] | x[n-2] | ... | x[n-(K-1)D] |
                         |               |
                       tap 0           tap 1      (dilation_rate D = 2)

Their values in one row times the Dense matrix are the layer's new frame. It
is computed in float64; this network is slow, and the oracle of all others.
"""

from collections.abc import Sequence

import numpy as np

from rtconv.model.layers import ACTIVATIONS, Layer, check_cascade


class _LayerBuffer:
    """One layer's shifting buffer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.dense = layer.dense.astype(np.float64)
        self.bias = np.zeros(layer.filters) if layer.bias is None else layer.bias.astype(np.float64)
        self.activation = ACTIVATIONS[layer.activation]
        self.reset()

    def reset(self) -> None:
        self.buffer = np.zeros((self.layer.history + 1, self.layer.in_channels))
        self.frames_until_output = 0

    def push(self, frame: np.ndarray) -> np.ndarray | None:
        """Shift a frame in; the new output frame, or None between strides."""
        layer = self.layer
        self.buffer[1:] = self.buffer[:-1]
        self.buffer[0] = frame
        if self.frames_until_output > 0:
            self.frames_until_output -= 1
            return None
        self.frames_until_output = layer.strides - 1
        seen = self.buffer[:: layer.dilation_rate]  # (kernel_size, in_channels)
        groups = seen.reshape(layer.kernel_size, layer.groups, -1)
        dense = self.dense.reshape(len(self.dense), layer.groups, -1)
        sums = np.concatenate([groups[:, g].reshape(-1) @ dense[:, g] for g in range(layer.groups)])
        output = self.activation(sums + self.bias)
        return output + frame if layer.residual else output


class ReferenceNetwork:
    """A cascade of causal Conv1D layers, run one sample at a time.

    Parameters
    ----------
    layers : sequence of Layer

    Attributes
    ----------
    channels, outputs : int
        Channels of the input and number of scores.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        check_cascade(layers)
        self.channels = layers[0].in_channels
        self.outputs = layers[-1].filters
        self._buffers = [_LayerBuffer(layer) for layer in layers]
        self.reset()

    def reset(self) -> None:
        """Forget all past samples."""
        for buffer in self._buffers:
            buffer.reset()
        self._scores: np.ndarray = np.zeros(self.outputs)

    def step(self, block: np.ndarray) -> np.ndarray:
        """Scores of the next samples of the stream.

        Parameters
        ----------
        block : ndarray, (frames, channels), float32
            Any number of frames, also none.

        Returns
        -------
        ndarray, (frames, outputs), float32
            One row per sample; between network outputs the last one is held.
        """
        scores = np.empty((len(block), self.outputs), np.float32)
        with np.errstate(all="ignore"):  # NaN, Inf and overflow in, NaN or Inf out
            for n, sample in enumerate(block.astype(np.float64)):
                self._push(sample)
                scores[n] = self._scores
        return scores

    def _push(self, frame: np.ndarray) -> None:
        """Shift one sample into the cascade, as far as the strides let it through."""
        for buffer in self._buffers:
            output = buffer.push(frame)
            if output is None:
                return
            frame = output
        self._scores = frame
