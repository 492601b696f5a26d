"""What a layer is: a causal Conv1D in Dense form, with its cost and its reach.

A network is a cascade of such layers and nothing else. This module is the
definition; `rtconv.stream` runs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from rtconv.errors import RtconvError

#: Slope of ``leaky_relu`` below zero, as in ``keras.activations.leaky_relu``.
LEAKY_RELU_SLOPE = 0.2
#: ``log`` answers ``log(max(x, LOG_FLOOR))``; a larger floor is a bias before it.
LOG_FLOOR = 1e-10

#: Values that a layer may keep of the past; a damaged file could ask for any number.
MAX_HISTORY = 1 << 26

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x < 0, LEAKY_RELU_SLOPE * x, x),
    "tanh": np.tanh,
    "sigmoid": lambda x: 0.5 + 0.5 * np.tanh(0.5 * x),
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "square": np.square,
    "log": lambda x: np.log(np.maximum(x, LOG_FLOOR)),
}


@dataclass(frozen=True, eq=False)
class Layer:
    """A causal Conv1D layer in Dense form.

    ``y[m] = activation(bias + frames(m * strides) @ dense)``, where
    ``frames(n)`` are the `kernel_size` input frames of ages
    ``0, dilation_rate, 2 * dilation_rate, ...`` at input position n, newest
    first. With `residual` the layer's input ``x[m]`` is added after the
    activation.

    Parameters
    ----------
    dense : ndarray, (kernel_size * in_channels // groups, filters), float32
        Row ``j * (in_channels // groups) + c`` meets channel c (of the filter's
        group) of the frame that is ``j * dilation_rate`` old. Filter f belongs
        to group ``f // (filters // groups)``.
    bias : ndarray, (filters,), float32, or None
    in_channels, kernel_size, strides, dilation_rate, groups : int
        As in Keras.
    activation : str
        A name in `ACTIVATIONS`.
    residual : bool
        Needs ``strides == 1`` and ``filters == in_channels``.

    Raises
    ------
    RtconvError
        If the numbers do not fit each other or a weight is not finite.
    """

    dense: np.ndarray
    bias: np.ndarray | None = None
    in_channels: int = 1
    kernel_size: int = 1
    strides: int = 1
    dilation_rate: int = 1
    groups: int = 1
    activation: str = "linear"
    residual: bool = False

    def __post_init__(self) -> None:
        for name in ("in_channels", "kernel_size", "strides", "dilation_rate", "groups"):
            if getattr(self, name) < 1:
                raise RtconvError(f"{name} is {getattr(self, name)}, it must be at least 1")
        if self.in_channels % self.groups:
            raise RtconvError(f"groups {self.groups} does not divide {self.in_channels} channels")
        if self.activation not in ACTIVATIONS:
            raise RtconvError(
                f"unknown activation {self.activation!r}, known are {', '.join(ACTIVATIONS)}"
            )
        rows = self.kernel_size * (self.in_channels // self.groups)
        if self.dense.ndim != 2 or self.dense.shape[0] != rows or self.dense.shape[1] < 1:
            raise RtconvError(
                f"Dense weights have the shape {self.dense.shape}, ({rows}, filters) was expected"
            )
        if self.filters % self.groups:
            raise RtconvError(f"groups {self.groups} does not divide {self.filters} filters")
        if self.bias is not None and self.bias.shape != (self.filters,):
            raise RtconvError(
                f"the bias has the shape {self.bias.shape}, ({self.filters},) was expected"
            )
        if self.residual and (self.strides != 1 or self.filters != self.in_channels):
            raise RtconvError(
                "a residual layer needs strides 1 and as many filters as input channels, "
                f"not strides {self.strides} and {self.in_channels} -> {self.filters}"
            )
        if self.history * self.in_channels > MAX_HISTORY:
            raise RtconvError(
                f"kernel_size {self.kernel_size} with dilation_rate {self.dilation_rate} keeps a "
                f"history of more than {MAX_HISTORY} values"
            )
        for array in (self.dense, self.bias):
            if array is None:
                continue
            if array.dtype != np.float32:
                raise RtconvError(f"weights are {array.dtype}, float32 was expected")
            if not np.isfinite(array).all():
                raise RtconvError("a weight is not finite")

    @property
    def filters(self) -> int:
        """Number of output channels."""
        return self.dense.shape[1]

    @property
    def history(self) -> int:
        """Past input frames that the layer keeps: its whole state."""
        return (self.kernel_size - 1) * self.dilation_rate

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one output frame."""
        return self.dense.size


def check_cascade(layers: Sequence[Layer]) -> None:
    """Check that every layer takes what the one before it gives.

    Raises
    ------
    RtconvError
        If there is no layer, or two neighbours do not fit.
    """
    if not layers:
        raise RtconvError("a network needs at least one layer")
    for i, (before, after) in enumerate(pairwise(layers)):
        if before.filters != after.in_channels:
            raise RtconvError(
                f"layer {i} gives {before.filters} channels, layer {i + 1} takes {after.in_channels}"
            )


def hop(layers: Sequence[Layer]) -> int:
    """Samples per new network output: the product of the strides."""
    return prod(layer.strides for layer in layers)


def receptive_field(layers: Sequence[Layer]) -> int:
    """Samples that one network output depends on.

    ``1 + sum_i history_i * prod_{j<i} strides_j``. A score that is held over a
    hop is up to ``hop - 1`` samples older than that.
    """
    field, step = 1, 1
    for layer in layers:
        field += layer.history * step
        step *= layer.strides
    return field


def multiply_adds_per_sample(layers: Sequence[Layer]) -> float:
    """Multiply-adds per input sample of the whole cascade."""
    cost, step = 0.0, 1
    for layer in layers:
        step *= layer.strides
        cost += layer.multiply_adds / step
    return cost
