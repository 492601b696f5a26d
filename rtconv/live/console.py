"""Listening from the command line: events out, signals in, statistics to a file."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from rtconv.errors import RtconvError
from rtconv.files import atomic_path
from rtconv.live.engine import LiveDetector
from rtconv.live.sinks import EventWriter, write_record

#: Seconds between two versions of the statistics file.
STATISTICS_INTERVAL = 5.0


def run(
    live: LiveDetector,
    writer: EventWriter,
    tell: Callable[[str], None],
    statistics: Path | None = None,
) -> None:
    """Listen until the stream ends, and write its events and gaps as they come.

    SIGINT (Ctrl-C) and SIGTERM end it cleanly, a second one at once. SIGUSR1
    tells the statistics.

    Parameters
    ----------
    live : LiveDetector
        Not yet entered.
    writer : EventWriter
    tell : callable
        For everything that is no event.
    statistics : Path, optional
        A JSON file that is brought up to date all the time.
    """
    _handle_signals(live, tell)
    done = threading.Event()
    with live:
        tell(live.description)
        if statistics is not None:
            write_statistics(live, statistics)  # tells at once when it cannot
            threading.Thread(
                target=_keep_statistics, args=(live, statistics, done, tell), daemon=True
            ).start()
        try:
            for record in live.records():
                write_record(writer, record)
        finally:
            done.set()
            live.close()
            tell(str(live.statistics))
    if statistics is not None:
        write_statistics(live, statistics)


def write_statistics(live: LiveDetector, path: Path) -> None:
    """Write the statistics as JSON.

    Raises
    ------
    RtconvError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(live.statistics.as_dict(), indent=2) + "\n")


def hide_native_messages() -> None:
    """Let only this program's own messages through to stderr, not those of the sound libraries."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _handle_signals(live: LiveDetector, tell: Callable[[str], None]) -> None:
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        if asked:
            os._exit(128 + number)  # something hangs: no cleaning up
        asked.append(number)
        live.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda number, frame: tell(str(live.statistics)))


def _keep_statistics(
    live: LiveDetector, path: Path, done: threading.Event, tell: Callable[[str], None]
) -> None:
    while not done.wait(STATISTICS_INTERVAL):
        try:
            write_statistics(live, path)
        except RtconvError as error:
            tell(f"{error}; statistics are no longer written")
            return
