"""PortAudio, as far as it needs care: loaded late, told plainly, never waited for."""

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from rtconv.errors import RtconvError

#: Seconds that opening and closing a stream may take. Some host APIs hang when their server
#: is gone.
OPEN_DEADLINE, CLOSE_DEADLINE = 10.0, 5.0
#: Of the sound libraries' threads: as PulseAudio's own. More would starve a server that is
#: polled for on a single core.
_NICENESS = -11


@cache
def portaudio() -> Any:
    """The module `sounddevice`, imported when it is first needed.

    Raises
    ------
    RtconvError
        If PortAudio cannot be loaded.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise RtconvError(
            "the sound library PortAudio cannot be loaded, install it (Debian: libportaudio2)"
        ) from error
    except Exception as error:  # PortAudioError, of the module that could not be imported
        raise RtconvError(f"PortAudio does not start: {one_line(error)}") from error
    return sounddevice


def restart() -> None:
    """Let PortAudio look for devices again; no stream may be open.

    Raises
    ------
    RtconvError
        If it hangs: it is then unusable for the rest of the process.
    """
    sounddevice = portaudio()

    def work() -> None:
        with suppress(sounddevice.PortAudioError):
            sounddevice._terminate()
        with suppress(sounddevice.PortAudioError):
            sounddevice._initialize()

    within_deadline(work, CLOSE_DEADLINE, "PortAudio")


def within_deadline(work: Callable[[], Any], seconds: float, name: str) -> Any:
    """What `work` returns or raises, unless it takes too long.

    It runs in a thread that is left to itself when it hangs. PortAudio must
    then not be terminated at the program's exit, which would hang as well.

    Parameters
    ----------
    work : callable
    seconds : float
    name : str
        Of what may hang, for the error.

    Raises
    ------
    RtconvError
        If it takes longer.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="rtconv-portaudio").start()
    try:
        return outcome.result(seconds)
    except FutureTimeoutError:
        atexit.unregister(portaudio()._exit_handler)
        raise RtconvError(f"{name}: hangs, perhaps its server is gone; start again") from None


@contextmanager
def favoured_threads() -> Iterator[None]:
    """Let the sound libraries' threads that start meanwhile be scheduled before others.

    Where this is not allowed (``ulimit -e``), or the system is not Linux,
    nothing changes. It is no real-time scheduling: with that, ALSA's plugin for
    PulseAudio, which polls, can lock out the server that it waits for.
    """
    before = _native_threads()
    yield
    own = {thread.native_id for thread in threading.enumerate()}
    with suppress(PermissionError, ProcessLookupError):
        for number in _native_threads() - before - own:
            os.setpriority(os.PRIO_PROCESS, number, _NICENESS)


def _native_threads() -> set[int]:
    try:
        return {int(number) for number in os.listdir("/proc/self/task")}
    except OSError:
        return set()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off stderr what ALSA and JACK print there of themselves; errors are raised anyway."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def one_line(error: Exception) -> str:
    """An error's text without line breaks and full stop."""
    return " ".join(str(error).split()).rstrip(".")
