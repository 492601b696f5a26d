"""The memory that the audio callback and Python share: a ring for one writer and one reader.

One piece of memory, allocated, touched and, where the system allows it, locked
before the stream starts::

    | control | lanes | blocks ...... | samples of lane 0 ... | scores of lane 0 ... | lane 1 ...

A *lane* is one network on one input (a channel, the mean, or as many channels
as the network takes). A *block* is the record of one call of the callback. The
callback writes samples, scores and then the block, and releases
`blocks_written`; `Ring.read` acquires that, copies, and releases `blocks_read`
and `samples_read`. Neither ever waits for the other. What finds no room is
lost, and counted in the next block.
"""

import ctypes
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from rtconv.config import PickerSettings
from rtconv.errors import RtconvError
from rtconv.live.callback import atomics
from rtconv.live.layout import BLOCK, CACHE_LINE, CONTROL, LANE
from rtconv.stream.compiled import CompiledNetwork


@dataclass(frozen=True)
class Chunk:
    """Consecutive blocks that were read from a ring.

    Attributes
    ----------
    blocks : ndarray of BLOCK
    samples : list of ndarray, (frames, inputs), float32
        For each lane.
    scores : list of ndarray, (frames, outputs), float32
        For each lane.
    """

    blocks: np.ndarray
    samples: list[np.ndarray]
    scores: list[np.ndarray]

    def part(self, first: int, last: int) -> "Chunk":
        """The blocks from `first` up to, not including, `last`."""
        ends = np.concatenate([[0], np.cumsum(self.blocks["frames"])])
        return self._cut(self.blocks[first:last], int(ends[first]), int(ends[last]))

    def head(self, frames: int) -> "Chunk":
        """No more than the first `frames` samples; the last block becomes shorter."""
        ends = np.cumsum(self.blocks["frames"])
        if ends[-1] <= frames:
            return self
        last = int(np.searchsorted(ends, frames))
        blocks = self.blocks[: last + 1].copy()
        blocks["frames"][last] -= ends[last] - frames
        return self._cut(blocks, 0, frames)

    def without_samples(self) -> "Chunk":
        """Blocks and scores alone, for less memory."""
        return Chunk(self.blocks, [columns[:0].copy() for columns in self.samples], self.scores)

    def _cut(self, blocks: np.ndarray, begin: int, end: int) -> "Chunk":
        samples = [columns[begin:end] for columns in self.samples]
        return Chunk(blocks, samples, [columns[begin:end] for columns in self.scores])


class Ring:
    """The shared memory, seen from Python.

    Parameters
    ----------
    networks : sequence of CompiledNetwork
        One for each lane, all of one shape.
    channels : sequence of (sequence of int, or None)
        For each lane the device's channels that it takes, counted from 0; None
        for their mean.
    device_channels : int
    frames : int
        Samples that it holds.
    blocks : int
        Blocks that it holds.
    memory : int
        Samples after a reset for which scores are invalid.

    Attributes
    ----------
    control : ndarray of CONTROL, ()
    locked : bool
        Whether the memory cannot be paged out.
    """

    def __init__(
        self,
        networks: Sequence[CompiledNetwork],
        channels: Sequence[Sequence[int] | None],
        device_channels: int,
        frames: int,
        blocks: int,
        memory: int = 0,
    ) -> None:
        self._networks = list(networks)  # their state is in use as long as the ring is
        self._acquire, self._release = atomics()
        inputs, outputs = networks[0].channels, networks[0].outputs
        plan = _Plan()
        control = plan.reserve(CONTROL, 1)
        lanes = plan.reserve(LANE, len(networks))
        records = plan.reserve(BLOCK, blocks)
        sources = [plan.reserve(np.dtype("i8"), inputs) for _ in networks]
        samples = [plan.reserve(np.dtype("f4"), frames * inputs) for _ in networks]
        scores = [plan.reserve(np.dtype("f4"), frames * outputs) for _ in networks]
        memory_map = mmap.mmap(-1, plan.size)
        self._memory = np.frombuffer(memory_map, np.uint8)
        self._memory.fill(0)  # touches every page

        self.control = plan.view(self._memory, control)[0:1].reshape(())
        self._lanes = plan.view(self._memory, lanes)
        self._blocks = plan.view(self._memory, records)
        self._samples = [plan.view(self._memory, s).reshape(frames, inputs) for s in samples]
        self._scores = [plan.view(self._memory, s).reshape(frames, outputs) for s in scores]
        for lane, network, source, chosen, x, y in zip(
            self._lanes, networks, sources, channels, self._samples, self._scores, strict=True
        ):
            numbers = plan.view(self._memory, source)
            lane["step"], lane["reset"] = network.step_address, network.reset_address
            lane["state"] = network.state.ctypes.data
            lane["samples"], lane["scores"] = x.ctypes.data, y.ctypes.data
            if chosen is not None:
                numbers[:] = chosen
                lane["channels"] = numbers.ctypes.data
        values = {
            "block_capacity": blocks,
            "sample_capacity": frames,
            "blocks": self._blocks.ctypes.data,
            "lanes": self._lanes.ctypes.data,
            "lane_count": len(networks),
            "device_channels": device_channels,
            "inputs": inputs,
            "outputs": outputs,
            "memory": memory,
            "clock": _clock_address(),
            "armed": 1,
            "last_trigger": -(1 << 62),
            "score_channel": -1,
            "pattern_period": 1,
        }
        for name, value in values.items():
            self.control[name] = value
        states = [network.state for network in networks]
        self.locked = all([_lock(self._memory), *map(_lock, states)])

    @property
    def address(self) -> int:
        """Address of the control structure, the callback's user data."""
        return self.control.ctypes.data

    def want_reset(self) -> None:
        """Let the callback reset the networks before its next block."""
        self._store("resets_wanted", int(self.control["resets_wanted"]) + 1)

    def set_trigger(
        self, settings: PickerSettings, samplerate: int, length: int, level: float, channel: int
    ) -> None:
        """Let the callback write a pulse at every crossing of the first network's first score.

        Parameters
        ----------
        settings : PickerSettings
            Threshold, release and refractory time.
        samplerate : int
            Hz.
        length : int
            Of the pulse, samples.
        level : float
        channel : int
            Of the output device, counted from 1.
        """
        values = {
            "threshold": settings.threshold,
            "release": settings.release,
            "refractory": ceil(settings.refractory * samplerate),
            "pulse_length": length,
            "pulse_level": level,
            "pulse_channel": channel - 1,
        }
        for name, value in values.items():
            self.control[name] = value

    def play_pattern(self, pattern: np.ndarray, period: int) -> None:
        """Let the callback play samples (frames,) on the first output once every `period` samples.

        They begin at the multiples of `period`, counted as the positions of triggers are.
        """
        self._pattern = np.ascontiguousarray(pattern, np.float32)
        self.control["pattern"] = self._pattern.ctypes.data
        self.control["pattern_period"] = period
        self.control["pattern_length"] = len(self._pattern)

    def read(self, most: int = 1 << 12) -> Chunk | None:
        """Take the blocks that were written, up to `most` samples; None if there is none."""
        control = self.control
        written = self._acquire(self._field("blocks_written"))
        first = int(control["blocks_read"])
        if written == first:
            return None
        records = _ring_slice(self._blocks, first, written - first)
        total = np.cumsum(records["frames"])
        count = max(1, int(np.searchsorted(total, most, "right")))
        records, frames = records[:count], int(total[count - 1])
        start = int(records["first"][0])
        chunk = Chunk(
            records,
            [_ring_slice(samples, start, frames) for samples in self._samples],
            [_ring_slice(scores, start, frames) for scores in self._scores],
        )
        self._store("samples_read", start + frames)
        self._store("blocks_read", first + count)
        return chunk

    def _field(self, name: str) -> int:
        return self.address + CONTROL.fields[name][1]  # type: ignore[index]

    def _store(self, name: str, value: int) -> None:
        self._release(self._field(name), value)


class _Plan:
    """Pieces of one block of memory, each on cache lines of its own."""

    def __init__(self) -> None:
        self.size = 0

    def reserve(self, kind: np.dtype, count: int) -> tuple[int, np.dtype, int]:
        place = self.size
        self.size += kind.itemsize * count
        self.size += -self.size % CACHE_LINE
        return place, kind, count

    def view(self, memory: np.ndarray, piece: tuple[int, np.dtype, int]) -> np.ndarray:
        place, kind, count = piece
        return memory[place : place + kind.itemsize * count].view(kind)


def _ring_slice(ring: np.ndarray, first: int, count: int) -> np.ndarray:
    """A copy of `count` rows from `first` on, around the end if need be."""
    begin = first % len(ring)
    if begin + count <= len(ring):
        return ring[begin : begin + count].copy()
    return np.concatenate([ring[begin:], ring[: begin + count - len(ring)]])


def _clock_address() -> int:
    """Address of ``clock_gettime``, which reads the clock without entering the system."""
    if sys.platform == "win32":
        raise RtconvError("listening needs Linux or macOS, replay runs everywhere")
    return ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0


def _lock(memory: np.ndarray) -> bool:
    """Keep memory from being paged out; False where the system does not allow it."""
    libc = ctypes.CDLL(None)
    return libc.mlock(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)) == 0
