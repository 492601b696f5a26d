"""Where events go: one line each, in the format that the user chose."""

import csv
import json
from dataclasses import asdict
from typing import IO, Literal, Protocol

from rtconv.stream.events import Event, Gap

Format = Literal["table", "jsonl", "csv", "labels"]

_COLUMNS = ("detector", "channel", "sample", "time", "score", "decided", "start")


class EventWriter(Protocol):
    """Writes events to a text stream as they come."""

    def event(self, event: Event, file: str | None = None) -> None:
        """Write an event; `file` where there are several."""

    def gap(self, gap: Gap, file: str | None = None) -> None:
        """Write a gap; `file` where there are several."""


class JsonLinesWriter:
    """One JSON object per line; a gap has the single key ``gap``."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def event(self, event: Event, file: str | None = None) -> None:
        """Write an event."""
        values = asdict(event) if file is None else {"file": file, **asdict(event)}
        print(json.dumps(values), file=self._stream, flush=True)

    def gap(self, gap: Gap, file: str | None = None) -> None:
        """Write a gap."""
        values = {"gap": asdict(gap)} if file is None else {"file": file, "gap": asdict(gap)}
        print(json.dumps(values), file=self._stream, flush=True)


class CsvWriter:
    """Comma-separated values with a header; a gap is a row of the detector ``gap``."""

    def __init__(self, stream: IO[str], files: bool) -> None:
        self._stream = stream
        self._csv = csv.writer(stream, lineterminator="\n")
        self._csv.writerow(["file", *_COLUMNS] if files else _COLUMNS)

    def event(self, event: Event, file: str | None = None) -> None:
        """Write an event."""
        row = [getattr(event, name) for name in _COLUMNS]
        self._csv.writerow(row if file is None else [file, *row])
        self._stream.flush()

    def gap(self, gap: Gap, file: str | None = None) -> None:
        """Write a gap."""
        row = ["gap", "", gap.sample, "", "", "", gap.length]
        self._csv.writerow(row if file is None else [file, *row])
        self._stream.flush()


class LabelsWriter:
    """An Audacity label track: start and end in seconds, name and score."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def event(self, event: Event, file: str | None = None) -> None:
        """Write an event: from the pattern's start, where it is known, to its end."""
        start = event.time
        if event.start is not None and event.sample > 0:
            start = event.time * event.start / event.sample
        line = f"{start:.6f}\t{event.time:.6f}\t{event.detector} {event.score:.3f}"
        print(line, file=self._stream, flush=True)

    def gap(self, gap: Gap, file: str | None = None) -> None:
        """Write nothing: a label track has no place for gaps."""


class TableWriter:
    """Aligned columns for a person."""

    def __init__(self, stream: IO[str], files: bool) -> None:
        self._stream = stream
        header = f"{'time':>12}  {'detector':<20} {'score':>8} {'sample':>12} {'channel':>7}"
        print(header + ("  file" if files else ""), file=stream, flush=True)

    def event(self, event: Event, file: str | None = None) -> None:
        """Write an event."""
        line = (
            f"{_clock(event.time):>12}  {event.detector:<20} {event.score:>8.3f} "
            f"{event.sample:>12} {event.channel or 'mean':>7}"
        )
        print(line + ("" if file is None else f"  {file}"), file=self._stream, flush=True)

    def gap(self, gap: Gap, file: str | None = None) -> None:
        """Write a gap."""
        length = "an unknown number of" if gap.length is None else gap.length
        print(
            f"-- {length} samples lost from sample {gap.sample} on ({gap.reason})",
            file=self._stream,
            flush=True,
        )


def write_record(writer: EventWriter, record: Event | Gap, file: str | None = None) -> None:
    """Write an event or a gap; `file` where there are several."""
    if isinstance(record, Event):
        writer.event(record, file)
    else:
        writer.gap(record, file)


def open_writer(format: Format, stream: IO[str], files: bool = False) -> EventWriter:
    """A writer of the given format.

    Parameters
    ----------
    format : {'table', 'jsonl', 'csv', 'labels'}
    stream : text stream
    files : bool
        Whether events come from several files, which are then named.
    """
    if format == "jsonl":
        return JsonLinesWriter(stream)
    if format == "csv":
        return CsvWriter(stream, files)
    if format == "labels":
        return LabelsWriter(stream)
    return TableWriter(stream, files)


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss.mmm."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest / 1000:06.3f}"
