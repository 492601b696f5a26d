"""The main job without hardware: train, convert, check, replay a held-back recording."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from rtconv.audio import read_audio
from rtconv.evaluation.matching import match_events
from rtconv.evaluation.mixture import load_mixture, write_mixture
from rtconv.evaluation.plots import plot_detection
from rtconv.evaluation.replay import replay
from rtconv.files import atomic_path
from rtconv.labels import label_path, read_labels
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event
from rtconv.training.trainer import Progress, train

DATA = Path(__file__).parent / "data"
#: Seconds by which an event may miss the end of a placed sound.
COLLAR = 0.05


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    samplerate : int
        Hz.
    seconds : float
        Length of the held-back recording.
    placed, found, false_alarms : int
        Sounds in it, those with an event within `COLLAR`, and events without one.
    placed_at : list of int
        Samples at which the placed sounds end.
    events : list of Event
    times_real_time : float
        Length of the recording over the time that its replay took.
    """

    samplerate: int
    seconds: float
    placed: int
    found: int
    false_alarms: int
    placed_at: list[int]
    events: list[Event]
    times_real_time: float


def run_demo(
    folder: Path,
    progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = print,
) -> DemoResult:
    """Train a detector on real recordings and try it on another one.

    Writes ``demo.pickle``, ``demo.safetensors``, ``held-back.flac`` with its labels,
    ``detection.png`` and ``result.json``.

    Parameters
    ----------
    folder : Path
    progress : callable, optional
        See `rtconv.train`.
    say : callable
        Is told each step in a sentence.
    """
    say("Training a snare drum detector on five takes among speech, music and noises ...")
    detector = train(DATA / "demo.yaml", folder / "demo", progress)
    certificate = detector.model.certificate
    assert certificate is not None
    say(
        f"Converted to {folder / 'demo.safetensors'}: the streaming network is at most "
        f"{certificate.largest_difference:.1e} of full scale off {certificate.oracle}."
    )
    recording = folder / "held-back.flac"
    write_mixture(load_mixture(DATA / "held-back.yaml"), recording)
    result = _replay_held_back(detector, recording)
    with atomic_path(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(asdict(result), indent=2) + "\n")
    _plot(detector, recording, result, folder / "detection.png")
    return result


def describe_demo(result: DemoResult, folder: Path) -> str:
    """The events beside the truth, and what to try next."""
    ends = np.array(result.placed_at) / result.samplerate
    times = np.array([event.time for event in result.events])
    matching = match_events(ends, times, COLLAR)
    event_of = dict(matching.pairs.tolist())
    rows = [(end, event_of.get(i)) for i, end in enumerate(ends)]
    rows += [(None, i) for i in [*matching.false_alarms, *matching.duplicates]]
    rows.sort(key=lambda row: times[row[1]] if row[0] is None else row[0])
    lines = [f"{'placed, ends at':>16} {'event at':>12} {'off by':>10} {'score':>8}"]
    for end, index in rows:
        event = None if index is None else result.events[index]
        off = "" if end is None or event is None else f"{(event.time - end) * 1000:+.2f} ms"
        lines.append(
            f"{'nothing' if end is None else f'{end:.4f} s':>16} "
            f"{'missed' if event is None else f'{event.time:.4f} s':>12} {off:>10} "
            f"{'' if event is None else f'{event.score:.3f}':>8}"
        )
    detector, recording = folder / "demo.safetensors", folder / "held-back.flac"
    lines += [
        "",
        f"{result.found} of {result.placed} placed sounds found, "
        f"{result.false_alarms} false alarm(s) in {result.seconds:.0f} s; "
        f"replayed {result.times_real_time:.0f} times faster than real time.",
        f"The picture is {folder / 'detection.png'}.",
        "",
        "Try next:",
        f"  rtconv inspect {detector}",
        f"  rtconv replay {detector} {recording} --format table",
        f"  rtconv listen {detector}",
        "  and a sound of your own: README.md, 'Train your own'",
    ]
    return "\n".join(lines)


def _replay_held_back(detector: Detector, recording: Path) -> DemoResult:
    begin = perf_counter()
    events = list(replay(detector, recording))
    took = perf_counter() - begin
    samples = read_audio(recording, detector.samplerate)
    ends = [label.end for label in read_labels(label_path(recording))]
    matching = match_events(np.array(ends), np.array([event.time for event in events]), COLLAR)
    seconds = len(samples) / detector.samplerate
    return DemoResult(
        samplerate=detector.samplerate,
        seconds=seconds,
        placed=len(ends),
        found=len(matching.pairs),
        false_alarms=len(matching.false_alarms) + len(matching.duplicates),
        placed_at=[round(end * detector.samplerate) for end in ends],
        events=events,
        times_real_time=seconds / took,
    )


def _plot(detector: Detector, recording: Path, result: DemoResult, path: Path) -> None:
    samples = read_audio(recording, detector.samplerate)[:, 0]
    scores = detector.process(samples)
    plot_detection(samples, scores, result.events, detector.model, path, result.placed_at)
