"""What a training tells while it runs, and what comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtconv.model.layers import Layer
from rtconv.stream.certify import Oracle


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    step, steps : int
        Steps of the optimiser, done and in all.
    loss : float
        Mean over the last call.
    figures : dict
        Validation figures by name, as they are known.
    """

    step: int
    steps: int
    loss: float
    figures: dict[str, float] = field(default_factory=dict)


class Notes:
    """Sentences for the user, passed on and kept for the training record."""

    def __init__(self, note: Callable[[str], None] | None) -> None:
        self.sentences: list[str] = []
        self._note = note

    def __call__(self, sentence: str) -> None:
        """Tell the user a sentence."""
        self.sentences.append(sentence)
        if self._note is not None:
            self._note(sentence)


@dataclass(frozen=True)
class Result:
    """What a training, or a closed form, leads to.

    Attributes
    ----------
    layers : list of Layer
    weights : list of ndarray
        As ``get_weights()``.
    thresholds : list of float
    record : dict
        For the training record.
    oracle, oracle_name : callable, str
        What the streaming network is certified against.
    versions : dict
    """

    layers: list[Layer]
    weights: list[np.ndarray]
    thresholds: list[float]
    record: dict[str, Any]
    oracle: Oracle
    oracle_name: str
    versions: dict[str, str]
