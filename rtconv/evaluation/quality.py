"""Evaluating a detector on labelled recordings.

Whole files go through the streaming network and the event picker, as they would
live. Beside a recording lies its label track (`rtconv.labels`); a label marks
the pattern, and its end is the reference time: an event is a hit within
`collar` of it. The timing error is the event's time minus the label's end,
negative when it came before; the delay is counted to the sample at which the
event was decided.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.audio import audio_info
from rtconv.errors import RtconvError
from rtconv.evaluation.matching import match_events
from rtconv.evaluation.measures import (
    Counts,
    Interval,
    OperatingPoint,
    Scored,
    detection_error_tradeoff,
    operating_point,
    proportion_interval,
    rate_interval,
)
from rtconv.evaluation.replay import Channel, replay
from rtconv.evaluation.trace import ScoreTrace
from rtconv.labels import Label, label_names, label_path, read_labels
from rtconv.model.detector import Output
from rtconv.stream.detector import Detector
from rtconv.stream.events import Event

#: False alarms per hour at which the misses are told.
RATES = (0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Spread:
    """Where a measured time lies, in seconds.

    Attributes
    ----------
    median, low, high : float
        50th, 5th and 95th percentile.
    p95 : float
        95th percentile of the distance from 0.
    """

    median: float
    low: float
    high: float
    p95: float


@dataclass(frozen=True)
class Hit:
    """A label and its event, times in seconds."""

    path: Path
    label: Label
    time: float
    error: float
    delay: float
    score: float


@dataclass(frozen=True)
class Miss:
    """A label without an event."""

    path: Path
    label: Label


@dataclass(frozen=True)
class Surplus:
    """An event without a label: a duplicate or a false alarm."""

    path: Path
    time: float
    score: float


@dataclass(frozen=True)
class OutputEvaluation:
    """How good one score of a detector is.

    Attributes
    ----------
    name : str
    threshold : float
        The detector's own, at which everything but `points` and `curve` is counted.
    counts : Counts
    hits, misses, duplicates, false_alarms : sequences
    points : dict
        For each of `RATES` the lowest threshold with at most so many false
        alarms per hour in these recordings, and its counts.
    curve : sequence of OperatingPoint
        The detection error tradeoff.
    """

    name: str
    threshold: float
    counts: Counts
    hits: Sequence[Hit]
    misses: Sequence[Miss]
    duplicates: Sequence[Surplus]
    false_alarms: Sequence[Surplus]
    points: dict[float, OperatingPoint]
    curve: Sequence[OperatingPoint]

    @property
    def error(self) -> Spread | None:
        """The signed timing error of the hits."""
        return spread([hit.error for hit in self.hits])

    @property
    def delay(self) -> Spread | None:
        """From the pattern's end to the decision, of the hits."""
        return spread([hit.delay for hit in self.hits])

    @property
    def conditions(self) -> dict[str, dict[str, Counts]]:
        """Labels and hits for each value of each condition that the labels tell.

        The recording itself is the condition ``recording``. Only labels and hits
        are counted: an event that is no hit belongs to no condition.
        """
        labels = [(hit.path, hit.label, 1) for hit in self.hits]
        labels += [(miss.path, miss.label, 0) for miss in self.misses]
        tally: dict[str, dict[str, list[int]]] = {}
        for path, label, hit in labels:
            for key, value in {"recording": path.name, **label.conditions}.items():
                tally.setdefault(key, {}).setdefault(value, []).append(hit)
        return {
            key: {
                value: Counts(len(hits), sum(hits), 0, 0, self.counts.hours)
                for value, hits in sorted(values.items(), key=lambda item: _natural(item[0]))
            }
            for key, values in tally.items()
        }


@dataclass(frozen=True)
class Evaluation:
    """How good a detector is on labelled recordings.

    Attributes
    ----------
    detector : str
    samplerate : int
        Hz.
    collar : float
        Seconds.
    recordings : dict
        Their lengths in seconds, by path.
    outputs : sequence of OutputEvaluation
    other_labels : int
        Labels with the name of no output, which were left out.
    """

    detector: str
    samplerate: int
    collar: float
    recordings: dict[Path, float]
    outputs: Sequence[OutputEvaluation]
    other_labels: int

    @property
    def hours(self) -> float:
        """Length of all recordings."""
        return sum(self.recordings.values()) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; what is not defined is null."""
        return {
            "detector": self.detector,
            "samplerate": self.samplerate,
            "collar": self.collar,
            "hours": self.hours,
            "recordings": {str(path): seconds for path, seconds in self.recordings.items()},
            "other_labels": self.other_labels,
            "outputs": [_output_dict(output) for output in self.outputs],
        }


def evaluate(
    detector: Detector,
    files: Iterable[Path | str],
    *,
    collar: float = 0.5,
    channel: Channel = 0,
    jobs: int = 1,
    on_progress: Callable[[float], None] = lambda seconds: None,
) -> Evaluation:
    """Evaluate a detector on recordings with label tracks beside them.

    A label counts for the output whose name it bears. For a detector with one
    output, all labels count where none bears its name.

    Parameters
    ----------
    detector : Detector
        Its stream is not touched.
    files : paths of sound files
        The labels of ``FILE.wav`` are in ``FILE.txt``, an Audacity label track;
        it is empty where the sound does not occur.
    collar : float
        Seconds by which an event may be off the label's end to be a hit.
    channel : int
        For a detector of one channel: 0 the mean of the file's channels, 1 the
        first, ...
    jobs : int
        Threads; they change no bit.
    on_progress : callable
        Is told the seconds of recording that were gone through since the last call.

    Raises
    ------
    RtconvError
        If a file or its label track is missing, cannot be read or does not fit.
    """
    if not collar >= 0:
        raise RtconvError(f"the collar is {collar:g} s, it must not be negative")
    if channel == "all":
        raise RtconvError("labels belong to the recording: evaluate one channel or the mean")
    paths = [Path(file) for file in files]
    tracks = [read_label_track(path) for path in paths]
    recordings = {path: audio_info(path).seconds for path in paths}
    every = [label for track in tracks for label in track]
    chosen = [_labels_of(output, detector.model.outputs, every) for output in _names(detector)]
    runs = [_run(detector, path, channel, jobs, on_progress) for path in paths]
    outputs = [
        _evaluate_output(
            output,
            [
                (path, [label for label in track if label.name in names], events[i], traces[i])
                for path, track, (events, traces) in zip(paths, tracks, runs, strict=True)
            ],
            collar,
        )
        for i, (output, names) in enumerate(zip(detector.model.outputs, chosen, strict=True))
    ]
    known = set().union(*chosen)
    others = sum(label.name not in known for label in every)
    return Evaluation(detector.name, detector.samplerate, collar, recordings, outputs, others)


def read_label_track(path: Path) -> list[Label]:
    """The labels beside a sound file.

    Raises
    ------
    RtconvError
        If there is no label track, or it does not fit.
    """
    seconds = audio_info(path).seconds
    track = label_path(path)
    if not track.is_file():
        raise RtconvError(
            f"{path}: has no label track {track.name} beside it, write one with Audacity; "
            "an empty file says that the sound does not occur"
        )
    return read_labels(track, seconds)


def spread(values: Sequence[float]) -> Spread | None:
    """Percentiles of measured times; None without any."""
    if not len(values):
        return None
    low, median, high = np.percentile(values, [5, 50, 95])
    return Spread(float(median), float(low), float(high), float(np.percentile(np.abs(values), 95)))


def _names(detector: Detector) -> list[str]:
    return [output.name for output in detector.model.outputs]


def _labels_of(name: str, outputs: Sequence[Output], labels: Sequence[Label]) -> set[str]:
    """Names of the labels that count for an output."""
    names = set(label_names(labels))
    return names if len(outputs) == 1 and name not in names else {name}


def _run(
    detector: Detector,
    path: Path,
    channel: Channel,
    jobs: int,
    on_progress: Callable[[float], None],
) -> tuple[list[list[Event]], list[ScoreTrace]]:
    """Events and score of each output over one file."""
    traces = [ScoreTrace(detector.samplerate) for _ in detector.model.outputs]

    def keep(scores: np.ndarray) -> None:
        for trace, column in zip(traces, scores.T, strict=True):
            trace.push(column)
        on_progress(len(scores) / detector.samplerate)

    found = list(replay(detector, path, channel=channel, jobs=jobs, on_scores=keep))
    events = [[event for event in found if event.detector == name] for name in _names(detector)]
    return events, traces


def _evaluate_output(
    output: Output,
    runs: Sequence[tuple[Path, list[Label], list[Event], ScoreTrace]],
    collar: float,
) -> OutputEvaluation:
    hits, misses, duplicates, false_alarms = [], [], [], []
    scored = []
    for path, labels, events, trace in runs:
        ends = np.array([label.end for label in labels])
        scored.append(Scored(trace, ends))
        matching = match_events(ends, np.array([event.time for event in events]), collar)
        hits += [_hit(path, labels[i], events[j], trace.samplerate) for i, j in matching.pairs]
        misses += [Miss(path, labels[i]) for i in matching.missed]
        duplicates += [_surplus(path, events[j]) for j in matching.duplicates]
        false_alarms += [_surplus(path, events[j]) for j in matching.false_alarms]
    hours = sum(recording.trace.seconds for recording in scored) / 3600
    return OutputEvaluation(
        name=output.name,
        threshold=output.threshold,
        counts=Counts(
            len(hits) + len(misses), len(hits), len(duplicates), len(false_alarms), hours
        ),
        hits=hits,
        misses=misses,
        duplicates=duplicates,
        false_alarms=false_alarms,
        points={rate: operating_point(scored, output, collar, rate) for rate in RATES},
        curve=detection_error_tradeoff(scored, output, collar),
    )


def _hit(path: Path, label: Label, event: Event, samplerate: int) -> Hit:
    delay = event.decided / samplerate - label.end
    return Hit(path, label, event.time, event.time - label.end, delay, event.score)


def _surplus(path: Path, event: Event) -> Surplus:
    return Surplus(path, event.time, event.score)


def _natural(value: str) -> tuple[int, float, str]:
    """Numbers in their order, then words in theirs."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def _output_dict(output: OutputEvaluation) -> dict[str, Any]:
    return {
        "name": output.name,
        "threshold": output.threshold,
        **_counts_dict(output.counts),
        "timing_error": _spread_dict(output.error),
        "delay": _spread_dict(output.delay),
        "at_false_alarms_per_hour": {
            f"{rate:g}": {"threshold": point.threshold, **_counts_dict(point.counts)}
            for rate, point in output.points.items()
        },
        "conditions": {
            key: {value: _miss_dict(counts) for value, counts in values.items()}
            for key, values in output.conditions.items()
        },
        "curve": [
            {
                "threshold": point.threshold,
                "false_alarms_per_hour": point.counts.false_alarms_per_hour,
                "miss_rate": _number(point.counts.miss_rate),
                "f1": _number(point.counts.f1),
            }
            for point in output.curve
        ],
        "missed": [
            {
                "recording": str(miss.path),
                "start": miss.label.start,
                "end": miss.label.end,
                "text": miss.label.text,
            }
            for miss in output.misses
        ],
        "false": [
            {"recording": str(event.path), "time": event.time, "score": event.score}
            for event in output.false_alarms
        ],
    }


def _counts_dict(counts: Counts) -> dict[str, Any]:
    return {
        **_miss_dict(counts),
        "duplicates": counts.duplicates,
        "false_alarms": counts.false_alarms,
        "false_alarms_per_hour": counts.false_alarms_per_hour,
        "false_alarms_per_hour_interval": _interval(
            rate_interval(counts.false_alarms, counts.hours)
        ),
        "precision": _number(counts.precision),
        "f1": _number(counts.f1),
    }


def _miss_dict(counts: Counts) -> dict[str, Any]:
    return {
        "labels": counts.labels,
        "hits": counts.hits,
        "miss_rate": _number(counts.miss_rate),
        "miss_rate_interval": _interval(proportion_interval(counts.misses, counts.labels)),
    }


def _spread_dict(value: Spread | None) -> dict[str, float] | None:
    return None if value is None else dict(vars(value))


def _interval(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
