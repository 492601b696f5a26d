"""A chirp from the microphone, with the scores drawn as they come.

The ramp scaled up to something that can be heard: a tone whose frequency is a ramp.
It is found by its normalised correlation, whose score is 1 for the chirp at any level;
the other detectors of the lecture, and any detector file, can listen in its place.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from scipy import signal

import rtconv
from rtconv.audio import write_audio
from rtconv.config import DetectionSettings
from rtconv.errors import RtconvError
from rtconv.lecture import filterbank, ramp
from rtconv.lecture.sheet import Sheet
from rtconv.live.portaudio import one_line, portaudio
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event
from rtconv.training.closed_form import matched_filter, normalised_correlation

SAMPLERATE = 48_000
#: Seconds of the chirp, and Hz at its start and end.
LENGTH, LOW, HIGH = 0.1, 500, 5000
#: Seconds from one chirp of the test sound to the next, and how many there are.
INTERVAL, CHIRPS = 1.0, 5
#: Seconds that a line of the drawing stands for, and characters of its width.
LINE, WIDTH = 0.05, 50


def chirp() -> np.ndarray:
    """The chirp, (frames,), with its ends faded over 5 ms; amplitude 0.5."""
    t = np.arange(round(LENGTH * SAMPLERATE)) / SAMPLERATE
    window = signal.windows.tukey(len(t), 0.01 / LENGTH)
    return 0.5 * window * signal.chirp(t, LOW, LENGTH, HIGH, phi=-90)


def chirps() -> np.ndarray:
    """`CHIRPS` chirps, one at the end of each `INTERVAL`, then silence as long, (frames,)."""
    x = np.zeros(round((CHIRPS + 1) * INTERVAL * SAMPLERATE))
    for end in ends():
        x[end + 1 - len(chirp()) : end + 1] = chirp()
    return x


def ends() -> list[int]:
    """Samples at which the chirps of the test sound end."""
    return [round(i * INTERVAL * SAMPLERATE) - 1 for i in range(1, CHIRPS + 1)]


def _chirp_detector(layers: list[Layer], threshold: float) -> Detector:
    settings = DetectionSettings(threshold=threshold, refractory=0.2, pattern=LENGTH).picker()
    return Detector(
        Model("chirp", SAMPLERATE, layers, [Output(name="chirp", **settings.model_dump())])
    )


#: The detectors of the lecture by name; `ramp` reads the weights of its experiment.
DETECTORS: dict[str, Callable[[Sheet], Detector]] = {
    "chirp": lambda sheet: _chirp_detector(normalised_correlation(chirp()), 0.2),
    "matched": lambda sheet: _chirp_detector(matched_filter(chirp()), 0.2),
    "filterbank": lambda sheet: filterbank.detector(),
    "ramp": lambda sheet: ramp.detector(ramp.read_weights(sheet)),
}


class Meter:
    """Draws scores as lines of text, with the threshold in the middle.

    Parameters
    ----------
    detector : Detector

    Attributes
    ----------
    largest : float
        Largest score so far.
    """

    def __init__(self, detector: Detector) -> None:
        self.largest = -np.inf
        self._samplerate = detector.samplerate
        self._full = 2 * max(output.threshold for output in detector.model.outputs)
        self._position = 0
        self._pending = np.zeros(0, np.float32)

    def push(self, scores: np.ndarray) -> None:
        """Take the next scores, (frames, outputs), and print the lines that are complete."""
        length = round(LINE * self._samplerate)
        self._pending = np.concatenate([self._pending, scores.max(axis=1)])
        while len(self._pending) >= length:
            line, self._pending = self._pending[:length], self._pending[length:]
            self._position += length
            self._print(float(line.max()))

    def _print(self, score: float) -> None:
        self.largest = max(self.largest, score)
        bar = "#" * round(WIDTH * min(max(score / self._full, 0), 1))
        left, right = bar[: WIDTH // 2], bar[WIDTH // 2 :]
        drawn = f"[{left:{WIDTH // 2}}|{right:{WIDTH // 2}}]"
        _print_line(f"{self._position / self._samplerate:8.2f} s {drawn} {score:8.3f}")


def _print_line(line: str) -> None:
    """Print in one go: scores and events come from two threads."""
    print(line + "\n", end="", flush=True)


def _printed(event: Event) -> Event:
    _print_line(f"{event.time:10.4f} s  {event.detector}, score {event.score:.3f}")
    return event


def _play(device: str) -> None:
    """Play the test sound on an output device while the program goes on."""
    sounddevice = portaudio()
    try:
        sounddevice.play(
            chirps().astype(np.float32),
            SAMPLERATE,
            device=None if device == "default" else device,
            latency=0.5,  # seconds: playing runs beside the drawing
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise RtconvError(
            f"--play {device}: is neither a sound file's name nor an output that works, "
            f"try chirps.wav or default ({one_line(error)})"
        ) from error


def run(
    sheet: Sheet,
    play: str | None = None,
    device: str | None = None,
    duration: float | None = None,
    detector: str = "chirp",
) -> dict[str, Any]:
    """Listen, and draw the scores; or write the test sound.

    Parameters
    ----------
    sheet : Sheet
        Nothing is drawn on it.
    play : str, optional
        A sound file to write the test sound to, which is then all that is done; or an
        output device to play it on, ``default`` for the system's.
    device : str, optional
        Input, as for `rtconv.listen`.
    duration : float, optional
        Seconds; until Ctrl-C if it is not given.
    detector : str
        A name in `DETECTORS`, or a detector file.

    Returns
    -------
    dict
        The events, and the largest score.
    """
    if play is not None and Path(play).suffix:
        write_audio(play, chirps(), SAMPLERATE)
        print(f"{play}: {CHIRPS} chirps of {LENGTH} s, {LOW} to {HIGH} Hz, one a second")
        return {}
    made = DETECTORS[detector](sheet) if detector in DETECTORS else rtconv.load(detector)
    meter = Meter(made)
    live = rtconv.listen(
        made, device, duration=duration, on_message=_print_line, on_scores=meter.push
    )
    events = []
    with suppress(KeyboardInterrupt), live:
        if play is not None:
            _play(play)
        for event in live:
            events.append(_printed(event))
    events += map(_printed, live)  # what was decided when Ctrl-C came
    print(f"\n{live.statistics}")
    return {"events": events, "largest": meter.largest}
