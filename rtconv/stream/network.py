"""Choosing the engine that runs a network."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from rtconv.model.layers import Layer

Engine = Literal["compiled", "reference"]


class Network(Protocol):
    """What every engine offers."""

    channels: int
    outputs: int

    def step(self, block: np.ndarray) -> np.ndarray:
        """Scores (frames, outputs) of the next samples (frames, channels), float32."""

    def reset(self) -> None:
        """Forget all past samples."""


def open_network(layers: Sequence[Layer], engine: Engine = "compiled") -> Network:
    """A network ready to run, with state of its own.

    Parameters
    ----------
    layers : sequence of Layer
    engine : {'compiled', 'reference'}
        Machine code, or the readable definition in NumPy, which is slow and
        agrees with it up to rounding.
    """
    if engine == "compiled":
        from rtconv.stream.compiled import CompiledNetwork

        return CompiledNetwork(layers)
    from rtconv.stream.reference import ReferenceNetwork

    return ReferenceNetwork(layers)
