"""A detector that listens to a sound device.

The audio callback (`rtconv.live.callback`) writes to a ring; a reader thread
takes blocks from there, finds gaps, picks events and queues them for the
user's thread. Nothing waits for what comes after it: a busy program delays its
events, it does not lose samples.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from rtconv.errors import RtconvError
from rtconv.live import portaudio
from rtconv.live.devices import DeviceMissingError
from rtconv.live.gaps import GapFinder, Loss, Piece, Run
from rtconv.live.source import Channel, Source, Trigger
from rtconv.live.statistics import Statistics
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event, Gap
from rtconv.stream.session import SessionInfo, SessionWriter
from rtconv.stream.tracker import Tracker

#: Events and gaps that wait for the user's thread; further ones are dropped.
QUEUE_SIZE = 10_000
#: Seconds between two looks of the reader into the ring, and while blocks are held back.
_READ_INTERVAL, _HOLD_INTERVAL = 0.02, 0.1
#: Seconds between attempts to open a device: the shortest, a part of the time since it was lost,
#: and the longest. Every attempt costs the system's sound libraries some memory for good.
_FIRST_PAUSE, _PART, _LONGEST_PAUSE = 0.2, 0.02, 30.0
#: A jump of the clock that runs on while the machine sleeps, seconds.
_SLEEP = 0.1


def listen(
    detector: Detector,
    device: int | str | None = None,
    *,
    blocksize: int = 64,
    latency: float | None = None,
    channel: Channel = 1,
    duration: float | None = None,
    wait: bool = False,
    trigger: Trigger | None = None,
    record: Path | str | None = None,
    on_message: Callable[[str], None] | None = None,
    on_scores: Callable[[np.ndarray], None] | None = None,
) -> "LiveDetector":
    """Listen to a sound device.

    Parameters
    ----------
    detector : Detector
        Its own stream is not touched.
    device : int or str, optional
        Number, name, part of a name, or ``name, host API``; see
        `rtconv.live.devices.find_device`. The default input unless told.
    blocksize : int
        Samples per call of the audio callback. Changes no score.
    latency : float, optional
        To ask the devices for, seconds; their own low one unless told. An
        output that stutters needs a higher one.
    channel : int, sequence of int, or 'all'
        For a detector of one channel: 1 for the device's first, ...; several,
        or 'all', each on its own; 0 for the mean of all. A detector of several
        channels takes the first ones, or as many as are listed.
    duration : float, optional
        Seconds of the stream's clock, after which it ends by itself.
    wait : bool
        Wait for a device that is not there yet, instead of raising.
    trigger : Trigger, optional
        Sends a pulse to an output device at every crossing of the first output,
        or its score as sound.
    record : path, optional
        Where to record the session; see `rtconv.stream.session`.
    on_message : callable, optional
        Is told, perhaps in another thread, what happens to the device.
    on_scores : callable, optional
        Is given, in another thread, the scores as they come, (frames, columns),
        float32; with several channels the columns of the first come first.

    Returns
    -------
    LiveDetector
        Use it in a ``with`` statement; entering opens the device.
    """
    if blocksize < 1:
        raise RtconvError(f"blocksize is {blocksize}, it must be at least 1")

    def open_source() -> Source:
        return Source(detector.model, device, blocksize, channel, trigger, latency)

    return LiveDetector(
        open_source,
        duration,
        wait,
        record,
        on_message or (lambda message: None),
        on_scores or (lambda scores: None),
    )


class LiveDetector:
    """Events from a sound device; made by `listen`.

    Iterating gives events as they are decided, and waits for the next one. It
    ends when the stream ends: after its duration, by `close`, or with an error.

    Attributes
    ----------
    statistics : Statistics
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        duration: float | None,
        wait: bool,
        record: Path | str | None,
        tell: Callable[[str], None],
        show: Callable[[np.ndarray], None],
    ) -> None:
        self.statistics = Statistics()
        self._open_source, self._duration, self._wait = open_source, duration, wait
        self._record, self._tell, self._show = record, tell, show
        self._records: queue.Queue[Event | Gap] = queue.Queue(QUEUE_SIZE)
        self._finished = threading.Event()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._session: SessionWriter | None = None

    def __enter__(self) -> "LiveDetector":
        self._source = source = self._wait_for_source() if self._wait else self._open_source()
        try:
            self._start(source)
        except BaseException:
            source.close()
            raise
        return self

    def _start(self, source: Source) -> None:
        model = source.model
        if self._record is not None:
            info = SessionInfo(
                detector=model.name,
                device=str(source.device),
                samplerate=model.samplerate,
                channels=source.channels,
                inputs=model.channels,
            )
            self._session = SessionWriter(self._record, info)
        self.statistics.start(source)
        self._end = None if self._duration is None else round(self._duration * model.samplerate)
        self._tracker = Tracker(model, source.channels)
        self._gaps = GapFinder(model.samplerate)
        self._asked_reset = False
        self._slept = _time_asleep()
        self._thread = threading.Thread(target=self._run, daemon=True, name="rtconv-reader")
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        return (record for record in self.records() if isinstance(record, Event))

    def records(self) -> Iterator[Event | Gap]:
        """Events and gaps in the order of the stream; waits for the next one.

        Raises
        ------
        RtconvError
            When the device failed for good.
        """
        while not (self._finished.is_set() and self._records.empty()):
            try:
                yield self._records.get(timeout=0.1)
            except queue.Empty:
                continue
        if self._error is not None:
            raise self._error

    def poll(self) -> list[Event]:
        """Events that were decided since the last call; never waits."""
        events = []
        try:
            while True:
                record = self._records.get_nowait()
                if isinstance(record, Event):
                    events.append(record)
        except queue.Empty:
            return events

    @property
    def description(self) -> str:
        """What is listened to, and how late an event is told: one line."""
        return self._source.describe()

    def stop(self) -> None:
        """Let the stream end soon; does not wait for it."""
        self._stop.set()

    def close(self) -> None:
        """Stop listening. What was decided by then can still be fetched."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _wait_for_source(self) -> Source:
        told = False
        for _ in _attempts(self._stop):
            try:
                return self._open_source()
            except DeviceMissingError as error:
                if not told:
                    self._tell(f"{error}; waiting for it")
                told = True
                portaudio.restart()
        raise RtconvError("stopped before there was a device")

    def _run(self) -> None:
        """Run the reader thread."""
        try:
            while not self._stop.is_set():
                self._notice_sleep()
                self._drain()
                if not self._stop.is_set() and not self._source.alive():
                    self._reopen()
                self._stop.wait(_HOLD_INTERVAL if self._gaps.holds_back else _READ_INTERVAL)
            self._source.close()
        except Exception as error:  # handed to the user's thread
            self._error = error
            with suppress(RtconvError):
                self._source.close()
        try:
            self._drain()
            for piece in self._gaps.finish():
                self._take(piece)
            for event in self._tracker.finish():
                self._put(event)
            self._write_session(lambda session: session.close())
        except Exception as error:
            self._error = self._error or error
        finally:
            self._finished.set()

    def _drain(self) -> None:
        """Take what is in the ring."""
        while (chunk := self._source.read()) is not None:
            self.statistics.count(chunk.blocks)
            if self._session is None:
                chunk = chunk.without_samples()  # it may be held back for seconds
            for piece in self._gaps.push(chunk):
                self._take(piece)
        if self._tracker.waits_for_reset and not self._asked_reset:
            self._source.want_reset()
            self._asked_reset = True
        self.statistics.look(self._gaps, self._source.triggers)

    def _take(self, piece: Piece) -> None:
        """Hand a piece of the stream to the tracker and to the recording."""
        if self._is_over():
            return
        if isinstance(piece, Loss):
            self.statistics.gaps += 1
            self.statistics.lost += piece.length or 0
            self._write_session(lambda session: session.gap(piece.length, piece.reason))
            for record in self._tracker.gap(piece.length, piece.reason):
                self._put(record)
        else:
            self._take_run(piece)
        self._is_over()

    def _is_over(self) -> bool:
        """Whether the duration has been reached; the stream then ends."""
        over = self._end is not None and self._tracker.position >= self._end
        if over:
            self._stop.set()
        return over

    def _take_run(self, run: Run) -> None:
        if run.reset:
            self._tracker.reset()
            self._asked_reset = False
            self._write_session(lambda session: session.reset())
        chunk = run.chunk
        if self._end is not None:
            chunk = chunk.head(self._end - self._tracker.position)
        sizes = chunk.blocks["frames"].tolist()
        self._write_session(lambda session: session.push(chunk.samples, sizes))
        self._show(np.concatenate(chunk.scores, axis=1))
        for event in self._tracker.push(chunk.scores):
            self._put(event)

    def _put(self, record: Event | Gap) -> None:
        self.statistics.events += isinstance(record, Event)
        try:
            self._records.put_nowait(record)
        except queue.Full:
            if not self.statistics.dropped:
                self._tell(f"events are dropped, {QUEUE_SIZE} of them were not fetched")
            self.statistics.dropped += 1

    def _write_session(self, write: Callable[[SessionWriter], None]) -> None:
        """Record; a recording that fails is told and ends, listening goes on."""
        session = self._session
        if session is None:
            return
        try:
            write(session)
        except RtconvError as error:
            self._session = None
            self._tell(f"{error}; the recording ends here")
            with suppress(RtconvError):
                session.close()

    def _notice_sleep(self) -> None:
        """Find out whether the machine slept: only one of two clocks ran on meanwhile."""
        asleep = _time_asleep() - self._slept
        if asleep > _SLEEP:
            self._slept += asleep
            self._gaps.interrupted("the machine slept", asleep)
            self._tell(f"the machine slept for {asleep:.0f} s")

    def _reopen(self) -> None:
        """Wait until the device is back."""
        self._gaps.interrupted("device lost")
        self._tell(f"{self._source.device}: is lost, waiting for it")
        for _ in _attempts(self._stop):
            if self._source.reopen():
                self.statistics.reopened += 1
                self._tell(f"{self._source.device}: is back")
                return


def _attempts(stop: threading.Event) -> Iterator[None]:
    """Attempts with growing pauses until `stop` is set."""
    begin = time.monotonic()
    while not stop.is_set():
        yield
        elapsed = time.monotonic() - begin
        stop.wait(min(max(_FIRST_PAUSE, _PART * elapsed), _LONGEST_PAUSE))


def _time_asleep() -> float:
    """Seconds that this machine has slept, up to a constant; 0 where it cannot be known."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
