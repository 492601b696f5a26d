"""PortAudio, as far as it needs care: loaded late, told plainly, never waited for."""

import atexit
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from rtconv.errors import RtconvError

#: Seconds that closing a stream may take. Some host APIs hang when their server is gone.
CLOSE_DEADLINE = 2.0


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


def restart() -> bool:
    """Let PortAudio look for devices again; no stream may be open.

    Returns
    -------
    bool
        False if it hangs: it is then unusable for the rest of the process.
    """
    sounddevice = portaudio()

    def work() -> None:
        with suppress(sounddevice.PortAudioError):
            sounddevice._terminate()
        with suppress(sounddevice.PortAudioError):
            sounddevice._initialize()

    return within_deadline(work)


def close(stream: Any) -> bool:
    """Close a stream within `CLOSE_DEADLINE`; False if it hangs and was abandoned."""

    def work() -> None:
        stream.abort()
        stream.close()

    return within_deadline(work)


def within_deadline(work: Callable[[], None], seconds: float = CLOSE_DEADLINE) -> bool:
    """Run `work` in a thread that nobody waits for longer than `seconds`.

    When it hangs, PortAudio must not be terminated at the program's exit: that
    would hang as well.
    """
    thread = threading.Thread(target=work, daemon=True, name="rtconv-portaudio")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        atexit.unregister(portaudio()._exit_handler)
    return not thread.is_alive()


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
