"""How good a detector is: misses, false alarms per hour, and how sure one can be of them.

Conventions: an event belongs to at most one label and a label to at most one
event (`rtconv.evaluation.matching`); the refractory time is applied by the
picker, before anything is counted; duplicates are no false alarms, but they are
events, so that they lower precision and F1; hours are those of the whole
recordings. Confidence intervals are exact: Clopper and Pearson (1934) for
misses, Garwood (1936) for rates. Where the count is 0, all of the error
probability goes to the upper bound: none in T hours says at most 3.0 / T per
hour at 95 %.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from rtconv.evaluation.matching import match_events
from rtconv.evaluation.trace import ScoreTrace
from rtconv.model.detector import Output

CONFIDENCE = 0.95

_LEVELS = 10  # thresholds from which the DET curve takes scores of events


@dataclass(frozen=True)
class Interval:
    """Bounds of a confidence interval."""

    low: float
    high: float


def rate_interval(count: int, hours: float, confidence: float = CONFIDENCE) -> Interval:
    """Confidence interval of a rate per hour, from a Poisson count."""
    tail = (1 - confidence) / (1 if count == 0 else 2)
    low = 0.0 if count == 0 else float(stats.chi2.ppf(tail, 2 * count)) / 2
    return Interval(low / hours, float(stats.chi2.ppf(1 - tail, 2 * count + 2)) / 2 / hours)


def proportion_interval(count: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Confidence interval of a proportion, from a binomial count; 0 to 1 of nothing."""
    if total == 0:
        return Interval(0.0, 1.0)
    tail = (1 - confidence) / (1 if count in (0, total) else 2)
    low = 0.0 if count == 0 else float(stats.beta.ppf(tail, count, total - count + 1))
    high = 1.0 if count == total else float(stats.beta.isf(tail, count + 1, total - count))
    return Interval(low, high)


def describe_rate(count: int, hours: float) -> str:
    """A rate with its confidence, such as "0 in 7.2 h: at most 0.42/h at 95 %"."""
    interval = rate_interval(count, hours)
    if count == 0:
        return f"0 in {hours:.3g} h: at most {_two_digits(interval.high)}/h at 95 %"
    return (
        f"{count} in {hours:.3g} h: {_two_digits(count / hours)}/h, "
        f"{_two_digits(interval.low)} to {_two_digits(interval.high)}/h at 95 %"
    )


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


@dataclass(frozen=True)
class Counts:
    """What was counted at one threshold.

    Attributes
    ----------
    labels, hits, duplicates, false_alarms : int
    hours : float
    """

    labels: int
    hits: int
    duplicates: int
    false_alarms: int
    hours: float

    @property
    def misses(self) -> int:
        """Labels without an event."""
        return self.labels - self.hits

    @property
    def miss_rate(self) -> float:
        """Misses by labels; NaN without labels."""
        return self.misses / self.labels if self.labels else math.nan

    @property
    def false_alarms_per_hour(self) -> float:
        """False alarms by hours of recording."""
        return self.false_alarms / self.hours

    @property
    def precision(self) -> float:
        """Hits by all events; NaN without events."""
        events = self.hits + self.duplicates + self.false_alarms
        return self.hits / events if events else math.nan

    @property
    def recall(self) -> float:
        """Hits by labels; NaN without labels."""
        return self.hits / self.labels if self.labels else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, over events; NaN without any."""
        both = self.labels + self.hits + self.duplicates + self.false_alarms
        return 2 * self.hits / both if both else math.nan


@dataclass(frozen=True, eq=False)
class Scored:
    """A recording that the network went through.

    Attributes
    ----------
    trace : ScoreTrace
    reference : ndarray, (labels,)
        Reference times of the labels (their ends), seconds.
    """

    trace: ScoreTrace
    reference: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it leads to."""

    threshold: float
    counts: Counts


def count(recordings: Sequence[Scored], output: Output, collar: float) -> Counts:
    """Count over recordings what a picker with these settings does."""
    labels = hits = duplicates = false_alarms = 0
    for recording in recordings:
        times = np.array([event.time for event in recording.trace.events(output)])
        matching = match_events(recording.reference, times, collar)
        labels += len(recording.reference)
        hits += len(matching.pairs)
        duplicates += len(matching.duplicates)
        false_alarms += len(matching.false_alarms)
    return Counts(labels, hits, duplicates, false_alarms, _hours(recordings))


def operating_point(
    recordings: Sequence[Scored], output: Output, collar: float, false_alarms_per_hour: float
) -> OperatingPoint:
    """The lowest threshold with at most so many false alarms per hour.

    Parameters
    ----------
    recordings : sequence of Scored
    output : Output
        Its threshold and release are replaced, see `Output.at_threshold`.
    collar : float
        Seconds.
    false_alarms_per_hour : float
    """
    thresholds = _thresholds(recordings, output)
    allowed = math.floor(false_alarms_per_hour * _hours(recordings) * (1 + 1e-9))

    def counts_at(threshold: float) -> Counts:
        return count(recordings, output.at_threshold(threshold), collar)

    index = _lowest(thresholds, lambda t: counts_at(t).false_alarms <= allowed)
    threshold = _just_above(thresholds) if index < 0 else float(thresholds[index])
    return OperatingPoint(threshold, counts_at(threshold))


def detection_error_tradeoff(
    recordings: Sequence[Scored],
    output: Output,
    collar: float,
    false_alarms_per_hour: float = 100.0,
    points: int = 200,
) -> list[OperatingPoint]:
    """The DET curve: misses against false alarms per hour as the threshold falls.

    Each point is counted by the picker itself. The thresholds are scores of
    events, at several thresholds since a low one may put the event on an early
    side peak, down to where there are more than `false_alarms_per_hour`.

    Returns
    -------
    list of OperatingPoint
        In falling order of the threshold.
    """
    lowest = operating_point(recordings, output, collar, false_alarms_per_hour)
    highest = max(_thresholds(recordings, output), default=lowest.threshold)
    scores = {
        event.score
        for threshold in np.linspace(lowest.threshold, highest, _LEVELS)
        for recording in recordings
        for event in recording.trace.events(output.at_threshold(float(threshold)))
    }
    falling = sorted(scores | {lowest.threshold}, reverse=True)
    chosen = np.unique(np.linspace(0, len(falling) - 1, points).astype(int))
    return [
        OperatingPoint(t, count(recordings, output.at_threshold(t), collar))
        for t in (falling[i] for i in chosen)
    ]


@dataclass(frozen=True)
class Calibration:
    """A threshold solved from background, and how sure it is.

    Attributes
    ----------
    threshold : float
    wish : float
        False alarms per hour that were asked for.
    false_alarms : int
        Those in the background at this threshold.
    hours : float
        Length of the background.
    """

    threshold: float
    wish: float
    false_alarms: int
    hours: float

    @property
    def interval(self) -> Interval:
        """Confidence interval of the false alarms per hour."""
        return rate_interval(self.false_alarms, self.hours)

    def __str__(self) -> str:
        return f"threshold {self.threshold:.4g}, {describe_rate(self.false_alarms, self.hours)}"

    @property
    def warning(self) -> str | None:
        """What is wrong with the length of the background, or None."""
        if self.wish * self.hours >= 1:
            return None
        needed = rate_interval(0, 1).high / self.wish
        return (
            f"{self.hours:.2g} h of background are too short to set a threshold for "
            f"{self.wish:g} false alarms per hour: it is set just above the highest of their "
            f"scores, and {self.interval.high:.2g}/h cannot be excluded; "
            f"about {needed:.2g} h are needed"
        )


def solve_threshold(
    backgrounds: Sequence[ScoreTrace], output: Output, false_alarms_per_hour: float
) -> Calibration:
    """The threshold at which a background gives the wished false alarms per hour.

    The k-th highest false score of T hours is exceeded k / T times an hour, on
    average. Between two ranks the threshold is interpolated; below the first,
    when the background is too short for the wish, it lies just above the
    highest score (`Calibration.warning` says so).

    Parameters
    ----------
    backgrounds : sequence of ScoreTrace
        Scores of recordings without the sound that neither training nor mining saw.
    output : Output
        Its threshold and release are replaced, see `Output.at_threshold`.
    false_alarms_per_hour : float
        The wish.
    """
    recordings = [Scored(trace) for trace in backgrounds]
    hours = _hours(recordings)
    expected = false_alarms_per_hour * hours

    def events_at(threshold: float) -> int:
        at = output.at_threshold(threshold)
        return sum(len(trace.events(at)) for trace in backgrounds)

    thresholds = _thresholds(recordings, output)
    index = _lowest(thresholds, lambda t: events_at(t) <= expected)
    if index < 0:
        threshold = _just_above(thresholds)
    else:
        threshold = float(thresholds[index])
        if index + 1 < len(thresholds):
            following = float(thresholds[index + 1])
            between = threshold + (expected - math.floor(expected)) * (following - threshold)
            # Another threshold means another release, which may split a candidate.
            threshold = between if events_at(between) <= expected else threshold
    return Calibration(threshold, false_alarms_per_hour, events_at(threshold), hours)


def _hours(recordings: Sequence[Scored]) -> float:
    return sum(recording.trace.seconds for recording in recordings) / 3600


def _thresholds(recordings: Sequence[Scored], output: Output) -> np.ndarray:
    """Thresholds at which the events can change, in falling order, down to the floor."""
    peaks = [recording.trace.peaks() for recording in recordings]
    falling = np.unique(np.concatenate([np.zeros(0, np.float32), *peaks]))[::-1]
    falling = falling[np.isfinite(falling)]
    floor = max((recording.trace.floor for recording in recordings), default=-np.inf)
    last = _lowest(falling, lambda t: bool(np.float32(output.at_threshold(t).release) >= floor))
    return falling[: last + 1]


def _lowest(falling: np.ndarray, allowed: Callable[[float], bool]) -> int:
    """Index of the lowest threshold that is allowed, -1 if the highest is not.

    From the top in doubling steps, then by bisection: low thresholds, which
    have many events, are tried only where it is needed.
    """
    good, bad = -1, 0
    while bad < len(falling) and allowed(float(falling[bad])):
        good, bad = bad, 2 * bad + 1
    bad = min(bad, len(falling))
    while bad - good > 1:
        middle = (good + bad) // 2
        if allowed(float(falling[middle])):
            good = middle
        else:
            bad = middle
    return good


def _just_above(falling: np.ndarray) -> float:
    highest = falling[0] if len(falling) else np.float32(0)
    return float(np.nextafter(np.float32(highest), np.float32(np.inf)))
