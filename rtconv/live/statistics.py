"""What a listening detector counts."""

from dataclasses import dataclass, field, fields
from math import isnan, nan
from typing import Any

import numpy as np

from rtconv.live.callback import INPUT_OVERFLOW, OUTPUT_UNDERFLOW
from rtconv.live.gaps import GapFinder
from rtconv.live.source import Source

_QUANTILES = (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
#: Edges of the histogram of loads, 1.2 % apart.
_EDGES = np.geomspace(1e-5, 100, 1363)


@dataclass
class Statistics:
    """Counts of a listening detector; they only grow.

    Attributes
    ----------
    device : str
    samplerate : int
        Hz.
    latency, output_latency : float
        Of the devices, seconds, as PortAudio tells them; NaN without an output.
    locked : bool
        Whether the ring cannot be paged out.
    samples, blocks : int
        That arrived.
    smallest_block, largest_block : int
        Frames; 0 before the first.
    overflows : int
        Blocks before which the host API reported lost samples.
    underflows : int
        Blocks at which the output had run dry.
    gaps, lost : int
        Gaps, and the samples in them as far as their number is known.
    reopened : int
        How often the device was lost and came back.
    events, dropped : int
        Events that were found, and those nobody fetched in time.
    triggers : int
        Pulses on the output.
    drift : float
        Parts per million by which the sample clock is slower than the wall
        clock, since the device was opened; NaN until it can be told.
    """

    device: str = ""
    samplerate: int = 0
    latency: float = nan
    output_latency: float = nan
    locked: bool = False
    samples: int = 0
    blocks: int = 0
    smallest_block: int = 0
    largest_block: int = 0
    overflows: int = 0
    underflows: int = 0
    gaps: int = 0
    lost: int = 0
    reopened: int = 0
    events: int = 0
    dropped: int = 0
    triggers: int = 0
    drift: float = nan
    _loads: np.ndarray = field(default_factory=lambda: np.zeros(len(_EDGES) + 1, np.int64))
    _largest_load: float = 0.0

    def start(self, source: Source) -> None:
        """Note what is listened to."""
        self.device = str(source.device)
        self.samplerate = source.model.samplerate
        self.latency, self.output_latency = source.latency, source.output_latency
        self.locked = source.locked

    def look(self, gaps: GapFinder, triggers: int) -> None:
        """Note what others have counted."""
        self.triggers = triggers
        self.drift = gaps.drift

    def count(self, blocks: np.ndarray) -> None:
        """Count blocks (ndarray of `rtconv.live.ring.BLOCK`) that arrived."""
        frames = blocks["frames"]
        smallest = int(frames.min())
        self.smallest_block = min(self.smallest_block or smallest, smallest)
        self.largest_block = max(self.largest_block, int(frames.max()))
        self.samples += int(frames.sum())
        self.blocks += len(blocks)
        self.overflows += int(((blocks["flags"] & INPUT_OVERFLOW) != 0).sum())
        self.underflows += int(((blocks["flags"] & OUTPUT_UNDERFLOW) != 0).sum())
        loads = blocks["spent"] * 1e-9 * self.samplerate / frames
        np.add.at(self._loads, np.searchsorted(_EDGES, loads), 1)
        self._largest_load = max(self._largest_load, float(loads.max()))

    def load(self, quantile: float) -> float:
        """Time in the callback as a part of the block's duration: a quantile over all blocks."""
        if not self.blocks:
            return nan
        if quantile >= 1:
            return self._largest_load
        index = int(np.searchsorted(np.cumsum(self._loads), quantile * self.blocks))
        return min(float(_EDGES[min(index, len(_EDGES) - 1)]), self._largest_load)

    def as_dict(self) -> dict[str, Any]:
        """All counts as JSON values; what is not known is None."""
        values: dict[str, Any] = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if not item.name.startswith("_")
        }
        values["seconds"] = self.samples / self.samplerate if self.samplerate else 0.0
        for name, quantile in _QUANTILES:
            values[f"load_{name}"] = self.load(quantile)
        return {
            name: None if isinstance(value, float) and isnan(value) else value
            for name, value in values.items()
        }

    def __str__(self) -> str:
        seconds = self.samples / self.samplerate if self.samplerate else 0.0
        loads = ", ".join(
            f"{name} {100 * self.load(quantile):.2f} %" for name, quantile in _QUANTILES
        )
        drift = "not known yet" if isnan(self.drift) else f"{self.drift:+.1f} ppm"
        return "\n".join(
            [
                f"{self.device}: {seconds:.1f} s at {self.samplerate} Hz, "
                f"latency {1000 * self.latency:.1f} ms",
                f"{self.blocks} blocks of {self.smallest_block} to {self.largest_block} samples; "
                f"callback, part of the period: {loads}",
                f"{self.overflows} overflows, {self.gaps} gaps with {self.lost} samples, "
                f"reopened {self.reopened} times, drift {drift}",
                f"{self.events} events, {self.dropped} dropped, {self.triggers} triggers"
                + (f", {self.underflows} underflows of the output" if self.underflows else ""),
            ]
        )
