"""A sound card without hardware: private sound servers, and programs that meet them.

PortAudio looks for devices once in a process, so whatever uses it runs in a
process of its own with `PulseCard.environment`.

PulseAudio delivers bit-exact and in real time. JACK's dummy driver paces its
blocks strictly and is the only one here that flags an overrun.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

REPOSITORY = Path(__file__).parents[1]
#: Seconds after which a server or a program counts as failed.
PATIENCE = 20.0


class _Card:
    """Programs that use a card; they end with it."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self._programs: list[subprocess.Popen] = []

    def python(self, program: str, *arguments: str) -> subprocess.Popen:
        """Start a Python program on the card."""
        return self._start("-c", program, *arguments)

    def rtconv(self, *arguments: str) -> subprocess.Popen:
        """Start the command line on the card."""
        return self._start("-m", "rtconv", *arguments)

    def _start(self, *arguments: str) -> subprocess.Popen:
        program = subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._programs.append(program)
        return program

    def _end_programs(self) -> None:
        for program in self._programs:
            program.kill()
            program.wait()
            for stream in (program.stdout, program.stderr):
                with suppress(ValueError):  # a thread that reads it closes it
                    stream.close()


class PulseCard(_Card):
    """A PulseAudio server with virtual microphones.

    Devices as PortAudio names them: ``vmic`` (what `play` plays), ``wavmic``
    (the file given as `samples`, from its first sample on, then silence) and
    ``speaker`` (an output whose sound arrives at ``vmic``).

    Parameters
    ----------
    samplerate : int
        Hz.
    channels : int
    samples : ndarray, (frames,) or (frames, channels), optional
        What ``wavmic`` delivers.

    Raises
    ------
    RuntimeError
        If the server does not start.
    """

    def __init__(
        self, samplerate: int = 48000, channels: int = 1, samples: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.samplerate, self.channels = samplerate, channels
        self.folder = Path(tempfile.mkdtemp(prefix="virtual-card-"))
        self._samples = self.folder / "input.f32"
        np.asarray(np.zeros(1) if samples is None else samples, "<f4").tofile(self._samples)
        configuration = self.folder / "asound.conf"
        configuration.write_text(
            "pcm.vmic { type pulse device card.monitor }\n"
            "pcm.speaker { type pulse device card }\n"
            "pcm.wavmic { type file slave.pcm vmic file /dev/null "
            f'infile "{self._samples}" format raw }}\n'
        )
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            "XDG_RUNTIME_DIR": str(self.folder),
            "PULSE_RUNTIME_PATH": str(self.folder),
            "PULSE_SERVER": f"unix:{self.folder}/native",
            "PULSE_COOKIE": str(self.folder / "cookie"),
            "ALSA_CONFIG_PATH": f"/usr/share/alsa/alsa.conf:{configuration}",
            "JACK_NO_START_SERVER": "1",
        }
        self.server: subprocess.Popen | None = None

    def __enter__(self) -> "PulseCard":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end_programs()
        self.stop()
        shutil.rmtree(self.folder)

    def start(self) -> None:
        """Start the server and wait until its microphone is there."""
        sink = f"rate={self.samplerate} channels={self.channels} format=float32le norewinds=1"
        socket = self.folder / "native"
        socket.unlink(missing_ok=True)  # left by a server that was killed
        home = {**self.environment, "HOME": str(self.folder)}
        self.server = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1"),
                *("--use-pid-file=no", "--log-level=error", "--enable-memfd=no"),
                *("-L", f"module-native-protocol-unix auth-anonymous=1 socket={socket}"),
                *("-L", f"module-null-sink sink_name=card {sink}"),
            ],
            env=home,
        )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.server.poll() is not None:
                raise RuntimeError("pulseaudio ended at its start")
            if "card.monitor" in self.control("list", "short", "sources"):
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError("pulseaudio did not offer its microphone")

    def control(self, *words: str) -> str:
        """What pactl answers."""
        return subprocess.run(
            ["pactl", *words], env=self.environment, capture_output=True, text=True, check=False
        ).stdout

    def stop(self, with_signal: int = signal.SIGTERM) -> None:
        """End the server."""
        if self.server is not None:
            self.server.send_signal(with_signal)
            try:
                self.server.wait(5)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server = None

    def play(self, samples: np.ndarray) -> None:
        """Play samples into ``vmic`` in real time, and wait until they are played."""
        file = self.folder / "play.f32"
        np.asarray(samples, "<f4").tofile(file)
        layout = f"--rate={self.samplerate}", f"--channels={self.channels}"
        subprocess.run(
            ["pacat", "-d", "card", "--raw", "--format=float32le", *layout, str(file)],
            env=self.environment,
            check=True,
        )


class JackCard(_Card):
    """A JACK server with the dummy driver; devices ``system`` and whatever is connected.

    Raises
    ------
    RuntimeError
        If the server does not start.
    """

    def __init__(self, samplerate: int = 48000, blocksize: int = 64) -> None:
        super().__init__()
        self.samplerate, self.blocksize = samplerate, blocksize
        self.name = f"rtconv{os.getpid()}"
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
            "JACK_NO_START_SERVER": "1",
            "JACK_DEFAULT_SERVER": self.name,
            "PULSE_SERVER": "unix:/nonexistent",
        }

    def __enter__(self) -> "JackCard":
        if subprocess.run(["pgrep", "-x", "jackd"], stdout=subprocess.DEVNULL).returncode:
            # Servers that were killed stay in JACK's registry, which has room for eight.
            _remove_shared_memory("jack*")
        self.server = subprocess.Popen(
            f"jackd -R -n {self.name} -d dummy -r {self.samplerate} -p {self.blocksize}".split(),
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = subprocess.run(
            ["jack_wait", "-s", self.name, "-w", "-t", "10"],
            env=self.environment,
            capture_output=True,
            check=False,
        )
        if ready.returncode or self.server.poll() is not None:
            self.__exit__()
            raise RuntimeError("jackd did not start")
        return self

    def __exit__(self, *error: object) -> None:
        self._end_programs()
        self.server.terminate()
        try:
            self.server.wait(5)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        _remove_shared_memory(f"jack*{self.name}*")


def _remove_shared_memory(pattern: str) -> None:
    for file in Path("/dev/shm").glob(pattern):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


class Lines(threading.Thread):
    """Collects the lines of a stream in the background, with the time at which each came."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.lines: list[tuple[float, str]] = []
        self.start()

    def run(self) -> None:
        with self._stream:
            for line in self._stream:
                self.lines.append((time.monotonic(), line))

    def wait_for(self, text: str, since: int = 0) -> float:
        """The time of the first line with `text`, after the first `since` lines."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for moment, line in self.lines[since:]:
                if text in line:
                    return moment
            time.sleep(0.01)
        raise TimeoutError(f"{text!r} did not come, but {[line for _, line in self.lines]}")
