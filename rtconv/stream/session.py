"""Recorded sessions: what a detector heard, so that it can be heard again to the bit.

Two files: ``SESSION.wav`` holds the samples that arrived, one column for each
channel that was listened to, float32. ``SESSION.session.jsonl`` says how they
came: a first line about the session, then lines in the order of the stream::

    {"blocks": [[64, 750], [32, 1]]}                    sizes and how many of each
    {"gap": {"length": 96000, "reason": "device lost"}} before the next block
    {"reset": true}                                     of the networks, likewise

Both are brought up to date once a second. A file above 4 GB is an RF64 file
(EBU Tech 3306).
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from rtconv.config import Settings
from rtconv.errors import RtconvError
from rtconv.model.decimation import decimated
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event, Gap
from rtconv.stream.network import open_network
from rtconv.stream.tracker import Tracker

#: Bytes; a larger WAV file needs sizes of 64 bits.
_LARGEST_RIFF = 2**32 - 1
_SIZE_IS_IN_DS64 = 2**32 - 1

Count = Annotated[int, Field(ge=0, lt=2**40)]


class SessionInfo(Settings):
    """The first line of a session's log.

    Attributes
    ----------
    detector, device : str
        Names.
    samplerate : int
        Hz, of the device.
    channels : list of int
        For each network the channel it listened to, as events name it.
    inputs : int
        Channels of a network's input.
    """

    rtconv_session: Literal[1] = 1
    detector: str
    device: str
    samplerate: int = Field(ge=1, le=10_000_000)
    channels: list[int] = Field(min_length=1, max_length=1024)
    inputs: int = Field(ge=1, le=1024)


class _GapLine(Settings):
    length: Count | None
    reason: str


class _Line(Settings):
    """Any other line of the log."""

    blocks: tuple[tuple[Count, Count], ...] = ()
    gap: _GapLine | None = None
    reset: bool = False


def log_path(path: Path | str) -> Path:
    """The log that belongs to a session's sound file."""
    return Path(path).with_suffix(".session.jsonl")


def is_session(path: Path | str) -> bool:
    """Whether a sound file is a recorded session."""
    return log_path(path).is_file()


class SessionWriter:
    """Records a session.

    Parameters
    ----------
    path : path of the sound file
    info : SessionInfo

    Raises
    ------
    RtconvError
        If a file cannot be written; also by the other methods.
    """

    def __init__(self, path: Path | str, info: SessionInfo) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() != ".wav":
            raise RtconvError(f"{path}: a session is recorded to a .wav file")
        self._sizes: list[int] = []
        self._unsaved = 0
        self._samplerate = info.samplerate
        try:
            self._wav = _GrowingWav(self._path, info.samplerate, len(info.channels) * info.inputs)
            self._log: IO[str] = log_path(path).open("w", encoding="utf-8")
            self._log.write(info.model_dump_json() + "\n")
            self._save()
        except OSError as error:
            raise self._failure(error) from error

    def push(self, samples: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
        """Record blocks: for each network (frames, inputs), and the blocks' sizes."""
        try:
            self._wav.write(np.concatenate(samples, axis=1))
            self._sizes += sizes
            self._unsaved += len(samples[0])
            if self._unsaved >= self._samplerate // 2:
                self._save()
        except OSError as error:
            raise self._failure(error) from error

    def gap(self, length: int | None, reason: str) -> None:
        """Record a gap before the next block."""
        self._note({"gap": {"length": length, "reason": reason}})

    def reset(self) -> None:
        """Record that the networks were reset before the next block."""
        self._note({"reset": True})

    def close(self) -> None:
        """End the recording."""
        try:
            self._save()
        except OSError as error:
            raise self._failure(error) from error
        finally:
            for file in (self._wav, self._log):
                with suppress(OSError):  # what cannot be written any more was told
                    file.close()

    def _note(self, line: dict[str, Any]) -> None:
        try:
            self._note_blocks()
            print(json.dumps(line), file=self._log)
        except OSError as error:
            raise self._failure(error) from error

    def _note_blocks(self) -> None:
        if self._sizes:
            runs = [[size, len(list(same))] for size, same in groupby(self._sizes)]
            print(json.dumps({"blocks": runs}), file=self._log)
            self._sizes = []

    def _save(self) -> None:
        """Bring both files up to date, the sound first: the log never promises too much."""
        self._unsaved = 0
        self._wav.save()
        self._note_blocks()
        self._log.flush()

    def _failure(self, error: OSError) -> RtconvError:
        return RtconvError(f"{self._path}: cannot be written ({error.strerror})")


class _GrowingWav:
    """A float32 WAV file whose header is right whenever it was saved."""

    def __init__(self, path: Path, samplerate: int, channels: int) -> None:
        self._file = path.open("wb")
        self._samplerate, self._frame = samplerate, 4 * channels
        self._bytes = 0
        self.save()

    def write(self, samples: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(samples, "<f4").tobytes())
        self._bytes += samples.size * 4

    def save(self) -> None:
        header = self._header()
        self._file.seek(0)
        self._file.write(header)
        self._file.seek(len(header) + self._bytes)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _header(self) -> bytes:
        """RIFF, or RF64 with the sizes in its chunk ds64, which takes the place of JUNK."""
        frames = self._bytes // self._frame
        rate, frame = self._samplerate, self._frame
        layout = struct.pack("<HHIIHHH", 3, frame // 4, rate, rate * frame, frame, 32, 0)
        size = 4 + 36 + 8 + len(layout) + 12 + 8 + self._bytes
        large = size > _LARGEST_RIFF
        sizes = struct.pack("<QQQI", size, self._bytes, frames, 0) if large else bytes(28)
        short = [_SIZE_IS_IN_DS64 if large else n for n in (size, frames, self._bytes)]
        return b"".join(
            [
                struct.pack("<4sI4s", b"RF64" if large else b"RIFF", short[0], b"WAVE"),
                struct.pack("<4sI", b"ds64" if large else b"JUNK", len(sizes)) + sizes,
                struct.pack("<4sI", b"fmt ", len(layout)) + layout,
                struct.pack("<4sII", b"fact", 4, short[1]),
                struct.pack("<4sI", b"data", short[2]),
            ]
        )


def session_info(path: Path | str) -> SessionInfo:
    """What a session's log tells of it.

    Raises
    ------
    RtconvError
        If it cannot be read.
    """
    with _open_log(path) as log:
        return _parse(SessionInfo, path, log.readline())


def replay_session(
    detector: Detector,
    path: Path | str,
    on_scores: Callable[[np.ndarray], None] | None = None,
) -> Iterator[Event | Gap]:
    """Run a detector over a recorded session.

    Parameters
    ----------
    detector : Detector
        The one that listened, or another for the same channels and samplerate.
    path : path of the session's sound file
    on_scores : callable, optional
        Is given the scores of the samples that arrived, (frames, columns),
        float32; the columns of the first channel come first.

    Yields
    ------
    Event or Gap
        With the same detector exactly those of the session.

    Raises
    ------
    RtconvError
        If the files cannot be read or do not fit the detector.
    """
    with _open_log(path) as log:
        info = _parse(SessionInfo, path, log.readline())
        factor, rest = divmod(info.samplerate, detector.samplerate)
        if rest or info.inputs != detector.model.channels:
            raise RtconvError(
                f"{path}: was recorded at {info.samplerate} Hz for networks of "
                f"{info.inputs} channels, the detector takes {detector.samplerate} Hz and "
                f"{detector.model.channels}"
            )
        model = decimated(detector.model, factor)
        tracker = Tracker(model, info.channels)
        networks = [open_network(model.layers, detector.engine) for _ in info.channels]
        for samples, line in _segments(path, log, info):
            if line.reset:
                tracker.reset()
                for network in networks:
                    network.reset()
            if line.gap is not None:
                yield from tracker.gap(line.gap.length, line.gap.reason)
            columns = np.split(samples, len(networks), axis=1)
            scores = [network.step(x) for network, x in zip(networks, columns, strict=True)]
            if on_scores is not None:
                on_scores(np.concatenate(scores, axis=1))
            yield from tracker.push(scores)
        yield from tracker.finish()


def _open_log(path: Path | str) -> IO[str]:
    try:
        return log_path(path).open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RtconvError(f"{log_path(path)}: cannot be read ({error.strerror})") from error


def _segments(
    path: Path | str, log: IO[str], info: SessionInfo
) -> Iterator[tuple[np.ndarray, _Line]]:
    """Each line of the log with its samples (frames, columns)."""
    import soundfile

    columns = len(info.channels) * info.inputs
    try:
        with soundfile.SoundFile(path) as file:
            if file.channels != columns:
                raise RtconvError(f"{path}: has {file.channels} channels, its log tells {columns}")
            for text in log:
                if not text.endswith("\n"):
                    return  # the program ended while it wrote the line
                line = _parse(_Line, path, text)
                frames = sum(size * count for size, count in line.blocks)
                if frames > file.frames - file.tell():
                    raise RtconvError(f"{path}: is shorter than its log tells")
                yield file.read(frames, dtype="float32", always_2d=True), line
    except (soundfile.SoundFileError, OSError) as error:
        raise RtconvError(f"{path}: is not a session that can be read ({error})") from error


def _parse(kind: Any, path: Path | str, text: str) -> Any:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise RtconvError(f"{log_path(path)}: is not the log of a session") from error
