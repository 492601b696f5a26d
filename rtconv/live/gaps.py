"""Where a stream of blocks lost samples, judged from the records of the callback.

Three witnesses, because none is reliable everywhere:

- the flag ``input overflow`` of the host API, with the step of the ADC's clock
  for the length. JACK and sound hardware set it, PulseAudio never does;
- what found no room in the ring: counted exactly;
- the count of samples against the clock. A block's *lag* is the time of its
  arrival minus the duration of all samples up to it. Bursts and delays raise
  it for a while; the smallest lag of a second rises for good only when samples
  are missing.

After a pause in the arrivals, or a jump of the ADC's clock, it takes a second
to tell a delay from a loss. Blocks are held back for this second, so that no
event is told that a loss has put together or put in the wrong place.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rtconv.live.callback import INPUT_OVERFLOW, INPUT_UNDERFLOW
from rtconv.live.ring import Chunk

#: A pause in the arrivals that makes a loss possible, seconds. Streams whose
#: blocks come in longer bursts have a longer one.
PAUSE = 0.03
#: The smallest loss that is told from the clock alone, seconds.
TOLERANCE = 0.02
#: Time over which the smallest lag is taken, seconds.
WINDOW = 1.0
#: Blocks are never held back for longer, seconds.
MOST_HELD = 3.0


@dataclass(frozen=True)
class Loss:
    """Samples that are missing before what follows; `length` as in `Gap`."""

    length: int | None
    reason: str


@dataclass(frozen=True)
class Run:
    """Blocks without a loss between them; `reset` if the networks were reset before."""

    chunk: Chunk
    reset: bool


Piece = Loss | Run


@dataclass
class _Suspicion:
    """A pause whose outcome is not known yet, and what came since."""

    reason: str
    certain: bool  # that samples are missing
    begin: float
    pause: float  # arrival after the last pause
    lag: float = np.inf
    held: list[Piece] = field(default_factory=list)


class GapFinder:
    """Splits blocks into runs and losses.

    Parameters
    ----------
    samplerate : int
        Hz.

    Attributes
    ----------
    drift : float
        Parts per million by which the sample clock is slower than the wall
        clock since the stream was opened, apart from losses; NaN until ten
        seconds have passed.
    """

    def __init__(self, samplerate: int) -> None:
        self.samplerate = samplerate
        self._suspicion: _Suspicion | None = None
        self._before: list[Piece] = []
        self._interruption: tuple[str, float | None, float] | None = None
        self._start_again()

    def _start_again(self) -> None:
        self.drift = np.nan
        self._last: np.void | None = None  # the last block
        self._samples = 0  # that arrived or are known to be missing
        self._window = (0.0, np.inf, 0.0)  # its begin, smallest lag and longest interval
        self._usual: tuple[float, float] | None = None  # lag and interval, of a whole window
        self._first_lag: tuple[float, float] | None = None  # time and lag

    @property
    def holds_back(self) -> bool:
        """Whether blocks are held back, so that there is no hurry with further ones."""
        return self._suspicion is not None

    def interrupted(self, reason: str, asleep: float = 0.0) -> None:
        """Note that the stream broke off, and goes on with the next block.

        Parameters
        ----------
        reason : str
        asleep : float
            Seconds that passed meanwhile without being counted by the clock of
            the blocks, because the machine slept.
        """
        if self._interruption is not None:  # no block came between two of them
            first_reason, last_arrival, slept = self._interruption
            self._interruption = (first_reason, last_arrival, slept + asleep)
            return
        self._before = list(self.finish())
        last_arrival = None if self._last is None else float(self._last["arrived"]) * 1e-9
        self._start_again()
        self._interruption = (reason, last_arrival, asleep)

    def push(self, chunk: Chunk) -> Iterator[Piece]:
        """Take the next blocks.

        Yields
        ------
        Loss or Run
            What is certain by now, in the order of the stream.
        """
        yield from self._before
        self._before = []
        blocks = chunk.blocks
        if self._interruption is not None:
            yield self._end_interruption(blocks[0])
        pauses = self._pauses(blocks)
        flagged = (blocks["flags"] & (INPUT_UNDERFLOW | INPUT_OVERFLOW)) != 0
        special = pauses | flagged | (blocks["lost"] > 0) | (blocks["reset"] > 0)
        cuts = sorted({0, *np.flatnonzero(special).tolist(), len(blocks)})
        for first, last in pairwise(cuts):
            block = blocks[first]
            yield from self._losses(block, bool(pauses[first]))
            run = Run(chunk.part(first, last), bool(block["reset"]))
            yield from self._give(run)
            yield from self._judge(run.chunk.blocks)

    def finish(self) -> Iterator[Piece]:
        """End of the stream: what was held back, taken as complete."""
        yield from self._before
        self._before = []
        if self._suspicion is not None:
            yield from self._suspicion.held
            self._suspicion = None
        if self._interruption is not None:
            yield Loss(None, self._interruption[0])
            self._interruption = None

    def _end_interruption(self, block: np.void) -> Loss:
        """The loss between the last block before an interruption and the first after it."""
        assert self._interruption is not None
        reason, last_arrival, asleep = self._interruption
        self._interruption = None
        if last_arrival is None:
            return Loss(None, reason)
        seconds = float(block["arrived"]) * 1e-9 - last_arrival + asleep
        return Loss(max(0, round(seconds * self.samplerate) - int(block["frames"])), reason)

    def _give(self, piece: Piece) -> Iterator[Piece]:
        if self._suspicion is None:
            yield piece
        else:
            self._suspicion.held.append(piece)

    def _pauses(self, blocks: np.ndarray) -> np.ndarray:
        """Before which blocks the arrivals paused, or the ADC's clock jumped."""
        before = blocks[:1] if self._last is None else self._last.reshape(1)
        joined = np.concatenate([before, blocks])
        durations = joined["frames"] / self.samplerate
        intervals = np.diff(joined["arrived"]) * 1e-9
        begin, lag, longest = self._window
        self._window = (begin, lag, max(longest, float(intervals.max())))
        if self._usual is None:
            return np.zeros(len(blocks), bool)
        longest = max(PAUSE, 2 * float(durations.max()), 2 * self._usual[1])
        jumps = np.diff(joined["adc_time"]) - durations[:-1]
        return (intervals > longest) | (jumps > longest)

    def _losses(self, block: np.void, pause: bool) -> Iterator[Piece]:
        """Losses before a block, as far as its record tells."""
        if block["lost"]:
            yield from self._lose(int(block["lost"]), "ring overrun")
        if block["flags"] & INPUT_UNDERFLOW:
            yield from self._lose(0, "input underflow")
        if block["flags"] & INPUT_OVERFLOW:
            length = self._adc_step(block)
            if length is None and self._usual is not None:
                self._suspect(block, "input overflow", certain=True)
            else:
                yield from self._lose(length, "input overflow")
        elif pause:
            self._suspect(block, "samples missing after a pause", certain=False)
        self._last = block

    def _lose(self, length: int | None, reason: str) -> Iterator[Piece]:
        self._samples += length or 0
        yield from self._give(Loss(length, reason))

    def _adc_step(self, block: np.void) -> int | None:
        """Samples that the ADC's clock skipped before a block; None if it cannot be right."""
        if self._last is None:
            return None
        step = (block["adc_time"] - self._last["adc_time"]) * self.samplerate
        length = round(float(step)) - int(self._last["frames"])
        elapsed = (block["arrived"] - self._last["arrived"]) * 1e-9 + 0.1
        return length if 0 < length <= elapsed * self.samplerate else None

    def _suspect(self, block: np.void, reason: str, certain: bool) -> None:
        now = float(block["arrived"]) * 1e-9
        if self._suspicion is None:
            self._suspicion = _Suspicion(reason, certain, now, now)
        elif now - self._suspicion.begin < MOST_HELD - WINDOW:
            self._suspicion.pause, self._suspicion.lag = now, np.inf
            self._suspicion.certain |= certain

    def _judge(self, blocks: np.ndarray) -> Iterator[Piece]:
        """Follow the lag over a run of blocks, and decide what it can decide."""
        self._last = blocks[-1]
        ends = self._samples + np.cumsum(blocks["frames"])
        self._samples = int(ends[-1])
        arrived = blocks["arrived"] * 1e-9
        lags = arrived - ends / self.samplerate
        now = float(arrived[-1])
        if self._suspicion is not None:
            settled = lags[arrived >= self._suspicion.pause + WINDOW / 2]
            self._suspicion.lag = min(self._suspicion.lag, settled.min(initial=np.inf))
            if now >= self._suspicion.pause + WINDOW:
                yield from self._verdict(self._suspicion, now)
            return
        begin, lag, longest = self._window
        if begin == 0:
            begin = now
        self._window = (begin, min(lag, float(lags.min())), longest)
        if now >= begin + WINDOW:
            yield from self._close_window(now)

    def _verdict(self, suspicion: _Suspicion, now: float) -> Iterator[Piece]:
        assert self._usual is not None
        self._suspicion = None
        excess = suspicion.lag - self._usual[0]
        if excess > TOLERANCE:
            length = round(excess * self.samplerate)
            self._samples += length
            yield Loss(length, suspicion.reason)
        elif suspicion.certain:
            yield Loss(None, suspicion.reason)
        yield from suspicion.held
        self._window = (now, np.inf, 0.0)

    def _close_window(self, now: float) -> Iterator[Piece]:
        """A second without suspicion; a loss that came without a pause is noticed here."""
        _, lag, longest = self._window
        if self._usual is not None and lag - self._usual[0] > TOLERANCE:
            length = round((lag - self._usual[0]) * self.samplerate)
            yield from self._lose(length, "samples missing against the clock")
            lag = self._usual[0]
        if self._first_lag is None:
            self._first_lag = now, lag
        elapsed = now - self._first_lag[0]
        if elapsed > 10:
            self.drift = 1e6 * (lag - self._first_lag[1]) / elapsed
        self._usual = (lag, longest)
        self._window = (now, np.inf, 0.0)
