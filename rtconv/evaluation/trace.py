"""A score kept for picking events at any threshold, in bounded memory.

A score that is held over a hop is kept once. Below its release threshold a
score is only "below": how far makes no difference to the picker. So what does
not reach a floor is dropped, and the floor rises when too much is left. Events
at a threshold whose release is not below the floor are exactly those of
`rtconv.stream.events.EventPicker` over the whole score.
"""

import numpy as np

from rtconv.model.detector import Output
from rtconv.stream.events import Event, EventPicker

#: Stretches of constant score that a trace keeps, 20 bytes each.
LIMIT = 1 << 21


class ScoreTrace:
    """The score of one output over one recording.

    Parameters
    ----------
    samplerate : int
        Hz.
    limit : int
        Stretches to keep at most.

    Attributes
    ----------
    frames : int
        Scores taken so far.
    floor : float32
        Scores below it are not kept.
    """

    def __init__(self, samplerate: int, limit: int = LIMIT) -> None:
        self.samplerate = samplerate
        self.limit = limit
        self.frames = 0
        self.floor = np.float32(-np.inf)
        self._blocks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._kept = 0

    @property
    def seconds(self) -> float:
        """Length of the recording so far."""
        return self.frames / self.samplerate

    def push(self, scores: np.ndarray) -> None:
        """Take the next scores, (frames,), float32; NaN counts as below everything."""
        if not len(scores):
            return
        starts = np.concatenate([[0], np.flatnonzero(scores[1:] != scores[:-1]) + 1])
        lengths = np.diff(starts, append=len(scores))
        self._add(scores[starts], starts + self.frames, lengths)
        self.frames += len(scores)
        while self._kept > self.limit:
            values, starts, lengths = self._stretches()
            self.floor = np.nextafter(np.median(values), np.float32(np.inf), dtype=np.float32)
            self._blocks, self._kept = [], 0
            self._add(values, starts, lengths)

    def events(self, output: Output) -> list[Event]:
        """The events that a picker with these settings finds.

        Raises
        ------
        ValueError
            If the release lies below the floor: what the picker would need is gone.
        """
        # In float32, in which the picker compares.
        threshold, release = np.float32(output.threshold), np.float32(output.release)
        if not release >= self.floor:
            raise ValueError(f"release {output.release} is below the floor {self.floor}")
        values, starts, lengths = self._stretches()
        held = np.flatnonzero(values >= release)
        parted = starts[held[1:]] > (starts + lengths)[held[:-1]]
        first = np.concatenate([[0], np.flatnonzero(parted) + 1])[: len(held)]
        last = np.append(first[1:], len(held))
        peaks = np.maximum.reduceat(values[held], first) if len(held) else values[:0]
        picker = EventPicker(output, self.samplerate)
        events = []
        for run in np.flatnonzero(peaks >= threshold):
            run_of = slice(held[first[run]], held[last[run] - 1] + 1)
            events += picker.skip(int(starts[run_of.start]) - picker.position)
            events += picker.push(np.repeat(values[run_of], lengths[run_of]))
        return events + picker.finish()

    def events_from(self, output: Output, threshold: float) -> list[Event]:
        """The events at a threshold, or at the lowest one that what is kept allows."""
        floor = float(self.floor)
        # The release of a positive threshold is half of it.
        lowest = 2 * floor if floor > 0 else floor
        return self.events(output.at_threshold(max(threshold, lowest)))

    def peaks(self) -> np.ndarray:
        """The local maxima of what is kept: scores at which the events can change."""
        values, starts, lengths = self._stretches()
        apart = starts[1:] > (starts + lengths)[:-1]
        rises = np.concatenate([[True], (values[1:] >= values[:-1]) | apart])[: len(values)]
        falls = np.concatenate([(values[:-1] >= values[1:]) | apart, [True]])[: len(values)]
        return values[rises & falls]

    def _add(self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        kept = values >= self.floor
        self._blocks.append((values[kept], starts[kept], lengths[kept]))
        self._kept += int(np.count_nonzero(kept))

    def _stretches(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score, first sample and length of each stretch, in the order of time."""
        if len(self._blocks) != 1:
            none = (np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
            values, starts, lengths = (
                np.concatenate(parts) for parts in zip(none, *self._blocks, strict=True)
            )
            self._blocks = [(values, starts, lengths)]
        return self._blocks[0]
