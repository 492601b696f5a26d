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

import numpy as np

from rtconv.errors import RtconvError
from rtconv.live.gaps import GapFinder, Loss, Piece
from rtconv.live.source import Channel, Source
from rtconv.live.statistics import Statistics
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event, Gap
from rtconv.stream.tracker import Tracker

#: Events and gaps that wait for the user's thread; further ones are dropped.
QUEUE_SIZE = 10_000
#: Seconds between two looks of the reader into the ring.
_READ_INTERVAL = 0.01
#: Seconds between attempts to open a device: the first, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


def listen(
    detector: Detector,
    device: int | str | None = None,
    *,
    blocksize: int = 64,
    channel: Channel = 1,
    duration: float | None = None,
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
    channel : int, sequence of int, or 'all'
        For a detector of one channel: 1 for the device's first, ...; several,
        or 'all', each on its own; 0 for the mean of all. A detector of several
        channels takes the first ones, or as many as are listed.
    duration : float, optional
        Seconds of the stream's clock, after which it ends by itself.
    on_message : callable, optional
        Is told, in another thread, what happens to the device.
    on_scores : callable, optional
        Is given, in another thread, the scores as they come, (frames, columns),
        float32; with several channels the columns of the first come first.

    Returns
    -------
    LiveDetector
        Use it in a ``with`` statement; entering opens the device.
    """
    return LiveDetector(detector, device, blocksize, channel, duration, on_message, on_scores)


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
        detector: Detector,
        device: int | str | None,
        blocksize: int,
        channel: Channel,
        duration: float | None,
        on_message: Callable[[str], None] | None,
        on_scores: Callable[[np.ndarray], None] | None,
    ) -> None:
        if blocksize < 1:
            raise RtconvError(f"blocksize is {blocksize}, it must be at least 1")
        self.model = detector.model
        self.statistics = Statistics(samplerate=detector.samplerate)
        self._open = lambda: Source(detector.model, device, blocksize, channel)
        self._end = None if duration is None else round(duration * detector.samplerate)
        self._tell = on_message or (lambda message: None)
        self._show = on_scores or (lambda scores: None)
        self._records: queue.Queue[Event | Gap] = queue.Queue(QUEUE_SIZE)
        self._finished = threading.Event()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "LiveDetector":
        self._source = self._open()
        self._tracker = Tracker(self.model, self._source.channels)
        self._gaps = GapFinder(self.model.samplerate)
        self._asked_reset = False
        self.statistics.device = str(self._source.device)
        self.statistics.latency = self._source.latency
        self.statistics.locked = self._source.locked
        self._thread = threading.Thread(target=self._run, daemon=True, name="rtconv-reader")
        self._thread.start()
        return self

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

    def close(self) -> None:
        """Stop listening. What was decided by then can still be fetched."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        """Run the reader thread."""
        try:
            while not self._stop.is_set():
                self._drain()
                if not self._stop.is_set() and not self._source.alive():
                    self._reopen()
                self._stop.wait(_READ_INTERVAL)
            self._source.close()
            self._drain()
            for piece in self._gaps.finish():
                self._take(piece)
        except Exception as error:  # handed to the user's thread
            self._error = error
        finally:
            for event in self._tracker.finish():
                self._put(event)
            self._finished.set()

    def _drain(self) -> None:
        """Take what is in the ring."""
        while (chunk := self._source.read()) is not None:
            self.statistics.count(chunk.blocks)
            for piece in self._gaps.push(chunk):
                self._take(piece)
        if self._tracker.waits_for_reset and not self._asked_reset:
            self._source.want_reset()
            self._asked_reset = True

    def _take(self, piece: Piece) -> None:
        """Hand a piece of the stream to the tracker, as far as the duration reaches."""
        if self._end is not None and self._tracker.position >= self._end:
            self._stop.set()
            return
        if isinstance(piece, Loss):
            self.statistics.gaps += 1
            self.statistics.lost += piece.length or 0
            for record in self._tracker.gap(piece.length, piece.reason):
                self._put(record)
            return
        if piece.reset:
            self._tracker.reset()
            self._asked_reset = False
        scores = piece.chunk.scores
        if self._end is not None:
            left = self._end - self._tracker.position
            scores = [columns[:left] for columns in scores]
        self._show(np.concatenate(scores, axis=1))
        for event in self._tracker.push(scores):
            self._put(event)
        if self._end is not None and self._tracker.position >= self._end:
            self._stop.set()

    def _put(self, record: Event | Gap) -> None:
        self.statistics.events += isinstance(record, Event)
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.statistics.dropped += 1

    def _reopen(self) -> None:
        """Wait until the device is back."""
        lost_at = self._source.last_block
        self._tell(f"{self._source.device}: is lost, waiting for it")
        pause = _FIRST_PAUSE
        while not self._source.reopen():
            if self._stop.wait(pause):
                break
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            self.statistics.reopened += 1
            self._tell(f"{self._source.device}: is back")
        self._gaps.lost(time.monotonic() - lost_at, "device lost")
