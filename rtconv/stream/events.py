"""Scores to events: one state machine for live, replay and evaluation.

A candidate starts at ``score >= threshold``. Its peak, the first largest score,
is followed until the candidate is decided: at the first ``score < release`` (or
NaN), or after `max_hold`, or when the stream ends. After max_hold the score must
first fall below release before another candidate can start. A candidate whose
peak lies less than `refractory` after the peak of the last event is dropped; it
counts for this detector alone.

With ``decision: crossing`` the candidate is decided at its first sample, which
is then the event's sample; the next one needs a fall below release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtconv.config import PickerSettings
from rtconv.model.detector import Output


@dataclass(frozen=True)
class Event:
    """A detected sound.

    Attributes
    ----------
    detector : str
        Name of the output.
    channel : int
        Channel of the input, counted from 1; 0 is the mean of all channels, or
        a network that takes several.
    sample : int
        The score's peak (or crossing), counted from the stream's start.
    time : float
        ``sample / samplerate``, seconds.
    score : float
        Score at `sample`.
    decided : int
        Sample at which the event was known.
    start : int or None
        Sample at which the pattern started, where its length is known.
    """

    detector: str
    channel: int
    sample: int
    time: float
    score: float
    decided: int
    start: int | None = None


@dataclass(frozen=True)
class Gap:
    """Samples that were lost.

    Attributes
    ----------
    sample : int
        The first one, on the stream's sample clock.
    length : int or None
        Their number; None where it cannot be known.
    reason : str
    """

    sample: int
    length: int | None
    reason: str


class EventPicker:
    """Picks the events of one score.

    Any partition of the scores into blocks gives the same events.

    Parameters
    ----------
    output : Output
        Name and settings.
    samplerate : int
        Hz.
    channel : int
        Passed on to the events.
    """

    def __init__(self, output: Output, samplerate: int, channel: int = 1) -> None:
        self.settings: PickerSettings = output
        self.detector = output.name
        self.samplerate = samplerate
        self.channel = channel
        self.reset()

    def reset(self) -> None:
        """Start again at sample 0."""
        self.position = 0
        self._first: int | None = None  # where the open candidate started
        self._peak = (0, 0.0)  # its sample and score
        self._armed = True
        self._last: int | None = None  # peak of the last event

    def push(self, scores: np.ndarray) -> list[Event]:
        """Take the next scores of the stream.

        Parameters
        ----------
        scores : ndarray, (frames,)
            NaN where there is no valid score; it ends a candidate, starts none.

        Returns
        -------
        list of Event
            Those that were decided in this block.
        """
        events: list[Event | None] = []
        above = scores >= self.settings.threshold
        below = ~(scores >= self.settings.release)
        n = 0
        while n < len(scores):
            if self._first is not None:
                n, event = self._follow(scores, below, n)
                events.append(event)
            elif not self._armed:
                n = _next_true(below, n)
                self._armed = n < len(scores)
            else:
                n = _next_true(above, n)
                if n < len(scores):
                    n, event = self._open(scores, n)
                    events.append(event)
        self.position += len(scores)
        return [event for event in events if event is not None]

    def finish(self) -> list[Event]:
        """End of the stream: decide the open candidate, if there is one."""
        if self._first is None:
            return []
        event = self._decide(self.position)
        return [] if event is None else [event]

    def skip(self, frames: int) -> list[Event]:
        """Pass a gap: the clock goes on by `frames`, an open candidate is decided before it."""
        events = self.finish()
        self._armed = True
        self.position += frames
        return events

    def _open(self, scores: np.ndarray, n: int) -> tuple[int, Event | None]:
        self._first = self.position + n
        self._peak = (self._first, float(scores[n]))
        self._armed = False
        if self.settings.decision == "crossing":
            return n + 1, self._decide(self._first)
        return n + 1, None

    def _follow(self, scores: np.ndarray, below: np.ndarray, n: int) -> tuple[int, Event | None]:
        """Follow the candidate from scores[n] on, to its end or the block's."""
        assert self._first is not None
        hold_end = self._first + round(self.settings.max_hold * self.samplerate) - self.position
        end = min(_next_true(below, n), max(hold_end, n))
        run = scores[n:end]
        if len(run):
            best = int(run.argmax())
            if run[best] > self._peak[1]:
                self._peak = (self.position + n + best, float(run[best]))
        if end >= len(scores):
            return len(scores), None
        return end, self._decide(self.position + end)

    def _decide(self, decided: int) -> Event | None:
        sample, score = self._peak
        self._first = None
        refractory = self.settings.refractory * self.samplerate
        if self._last is not None and sample - self._last < refractory:
            return None
        self._last = sample
        length = self.settings.pattern
        return Event(
            detector=self.detector,
            channel=self.channel,
            sample=sample,
            time=sample / self.samplerate,
            score=score,
            decided=decided,
            start=None if length is None else max(0, sample - round(length * self.samplerate) + 1),
        )


class EventPickers:
    """One picker for each output of a network.

    Parameters
    ----------
    outputs : sequence of Output
    samplerate : int
    channel : int
    """

    def __init__(self, outputs: Sequence[Output], samplerate: int, channel: int = 1) -> None:
        self._pickers = [EventPicker(output, samplerate, channel) for output in outputs]

    def push(self, scores: np.ndarray) -> list[Event]:
        """Take the next scores, (frames, outputs); events in the order they were decided."""
        return _in_order([p.push(scores[:, i]) for i, p in enumerate(self._pickers)])

    def finish(self) -> list[Event]:
        """End of the stream: decide what is open."""
        return _in_order([picker.finish() for picker in self._pickers])

    def skip(self, frames: int) -> list[Event]:
        """Pass a gap of `frames` samples."""
        return _in_order([picker.skip(frames) for picker in self._pickers])


def _in_order(lists: Sequence[Sequence[Event]]) -> list[Event]:
    return sorted((event for events in lists for event in events), key=lambda e: e.decided)


def _next_true(mask: np.ndarray, start: int) -> int:
    """Index of the first True at or after `start`, or the mask's length."""
    offset = int(mask[start:].argmax()) if start < len(mask) else 0
    return start + offset if start < len(mask) and mask[start + offset] else len(mask)
