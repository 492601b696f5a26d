"""A network listening to hours of background."""

from collections.abc import Sequence

import numpy as np

from rtconv.evaluation.trace import ScoreTrace
from rtconv.model.layers import Layer, hop, receptive_field
from rtconv.training.backgrounds import Backgrounds
from rtconv.training.fourier import open_quick_network

#: Seconds that the network is given at a time.
CHUNK = 30
#: Score from which on a background is looked at closely, at the full rate.
REFINED = 0.2


def trace_background(
    layers: Sequence[Layer],
    backgrounds: Backgrounds,
    seconds: float | None = None,
    deployed: Sequence[Layer] | None = None,
) -> list[ScoreTrace]:
    """Scores of a background, or of its first seconds, for each output.

    With `deployed`, the same network at the full rate, these are its scores wherever
    they are high: to run it over hours would take too long.
    """
    frames = backgrounds.frames
    if seconds is not None:
        frames = min(frames, round(seconds * backgrounds.samplerate))
    traces = [ScoreTrace(backgrounds.samplerate) for _ in range(layers[-1].filters)]
    network = open_quick_network(layers)
    refine = None if deployed is None else _Refinement(deployed, hop(layers), backgrounds)
    chunk = CHUNK * backgrounds.samplerate
    for start in range(0, frames, chunk):
        block = backgrounds.read(start, min(chunk, frames - start))
        scores = network.step(block[:, np.newaxis])
        if refine is not None:
            refine(scores, start)
        for output, trace in enumerate(traces):
            trace.push(scores[:, output])
    return traces


class _Refinement:
    """Puts the scores of a network at the full rate where those of the strided one are high.

    Parameters
    ----------
    layers : sequence of Layer
        Of the network at the full rate.
    hop : int
        Samples over which the strided network holds a score.
    backgrounds : Backgrounds
        What both hear.
    """

    def __init__(self, layers: Sequence[Layer], hop: int, backgrounds: Backgrounds) -> None:
        self.hop, self.backgrounds = hop, backgrounds
        self.lead = receptive_field(layers)
        self._network = open_quick_network(layers)

    def __call__(self, scores: np.ndarray, start: int) -> None:
        """Change scores (frames, outputs) that begin at sample `start` of the background."""
        reach = 2 * self.hop
        for first, last in _high_places(scores, reach):
            before = min(self.lead, start + first)
            x = self.backgrounds.read(start + first - before, before + last - first)
            self._network.reset()
            scores[first:last] = self._network.step(x[:, np.newaxis])[before:]


def _high_places(scores: np.ndarray, reach: int) -> list[tuple[int, int]]:
    """Spans around the scores from `REFINED` on, joined where they overlap."""
    high = np.flatnonzero((scores >= REFINED).any(axis=1))
    breaks = np.flatnonzero(np.diff(high) > 2 * reach) + 1
    return [
        (max(0, int(part[0]) - reach), min(len(scores), int(part[-1]) + reach))
        for part in np.split(high, breaks)
        if len(part)
    ]
