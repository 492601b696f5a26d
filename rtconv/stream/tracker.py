"""Scores of a stream with gaps to events: the one path for live and recorded sessions."""

from collections.abc import Sequence

import numpy as np

from rtconv.model.detector import Model
from rtconv.stream.events import Event, EventPickers, Gap


class Tracker:
    """Picks events on the stream's clock, which runs on through gaps.

    After a gap no score is valid until the network has been reset and then has
    seen as many samples as it remembers: before that, its scores would mix both
    sides of the gap.

    Parameters
    ----------
    model : Model
    channels : sequence of int
        The channel that each network listens to, as events name it.

    Attributes
    ----------
    position : int
        The next sample on the stream's clock.
    """

    def __init__(self, model: Model, channels: Sequence[int]) -> None:
        self._pickers = [EventPickers(model.outputs, model.samplerate, c) for c in channels]
        self._memory = model.memory
        self._invalid = 0  # samples from here on
        self.waits_for_reset = False
        self.position = 0

    def push(self, scores: Sequence[np.ndarray]) -> list[Event]:
        """Take the next scores of every network, (frames, outputs) each."""
        frames = len(scores[0])
        invalid = frames if self.waits_for_reset else min(self._invalid, frames)
        self._invalid -= min(self._invalid, frames)
        self.position += frames
        events = []
        for picker, columns in zip(self._pickers, scores, strict=True):
            if invalid:
                columns = columns.copy()
                columns[:invalid] = np.nan
            events += picker.push(columns)
        return _in_order(events)

    def gap(self, length: int | None, reason: str) -> list[Event | Gap]:
        """Pass a gap: open candidates are decided before it."""
        gap = Gap(self.position, length, reason)
        events = [event for picker in self._pickers for event in picker.skip(length or 0)]
        self.position += length or 0
        self.waits_for_reset = True
        return [*_in_order(events), gap]

    def reset(self) -> None:
        """The networks were reset before the next sample."""
        self.waits_for_reset = False
        self._invalid = self._memory

    def finish(self) -> list[Event]:
        """End of the stream: decide what is open."""
        return _in_order([event for picker in self._pickers for event in picker.finish()])


def _in_order(events: Sequence[Event]) -> list[Event]:
    return sorted(events, key=lambda event: event.decided)
