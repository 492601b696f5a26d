"""The threshold, from false alarms on background that training never saw.

All of it works on raw scores, before the last sigmoid, where there are no ties
and tails are straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rtconv.config import Config
from rtconv.evaluation.mixing import gain_for_snr, local_level
from rtconv.model.layers import Layer, hop, receptive_field
from rtconv.stream.network import open_network
from rtconv.training.batches import vary
from rtconv.training.data import Backgrounds, Dataset, Pattern

#: Seconds that the network is given at a time.
CHUNK = 30.0
#: Peaks of the background that a tail is fitted to.
TAIL = 20
#: Mixtures by which misses are estimated.
MIXTURES = 200
#: Seconds around a pattern's end in which its peak is looked for.
COLLAR = 0.25


@dataclass(frozen=True)
class Peaks:
    """Highest raw scores of a background, at least a refractory time apart.

    Attributes
    ----------
    heights : ndarray, (peaks,)
        Descending.
    samples : ndarray, (peaks,)
        Where they are.
    hours : float
        Length of the background.
    """

    heights: np.ndarray
    samples: np.ndarray
    hours: float


def raw_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The network without its last sigmoid."""
    last = layers[-1]
    if last.activation == "sigmoid" and not last.residual:
        last = replace(last, activation="linear")
    return [*layers[:-1], last]


def background_peaks(
    layers: Sequence[Layer],
    backgrounds: Backgrounds,
    refractory: float,
    first: int = 0,
    frames: int | None = None,
) -> list[Peaks]:
    """Peaks of the raw scores of a background, for each output.

    Parameters
    ----------
    layers : sequence of Layer
    backgrounds : Backgrounds
    refractory : float
        Seconds.
    first, frames : int
        The part to look at; all of it by default.
    """
    frames = backgrounds.frames if frames is None else min(frames, backgrounds.frames)
    step, rate = hop(layers), backgrounds.samplerate
    window = max(1, round(refractory * rate / step))
    chunk = max(1, round(CHUNK * rate / (window * step))) * window * step
    network = open_network(raw_layers(layers))
    heights, places = [], []
    for start in range(0, frames, chunk):
        block = backgrounds.read(first + start, min(chunk, frames - start))
        scores = network.step(block[:, np.newaxis])[::step]
        padding = -len(scores) % window
        scores = np.pad(scores, ((0, padding), (0, 0)), constant_values=-np.inf)
        windows = scores.reshape(-1, window, scores.shape[1])
        best = windows.argmax(axis=1)
        heights.append(np.take_along_axis(windows, best[:, np.newaxis], axis=1)[:, 0])
        places.append((best + np.arange(len(best))[:, np.newaxis] * window) * step + start + first)
    tops, samples = np.concatenate(heights), np.concatenate(places)
    hours = frames / rate / 3600
    return [
        _separate(tops[:, output], samples[:, output], refractory * rate, hours)
        for output in range(tops.shape[1])
    ]


def _separate(heights: np.ndarray, samples: np.ndarray, apart: float, hours: float) -> Peaks:
    """Of two neighbouring windows' peaks that are too close, the higher one."""
    close = np.diff(samples) < apart
    lower = np.zeros(len(heights), bool)
    lower[1:] |= close & (heights[1:] <= heights[:-1])
    lower[:-1] |= close & (heights[:-1] < heights[1:])
    heights, samples = heights[~lower], samples[~lower]
    order = np.argsort(-heights)
    return Peaks(heights[order], samples[order], hours)


def positive_peaks(
    layers: Sequence[Layer],
    patterns: Sequence[Pattern],
    backgrounds: Backgrounds,
    config: Config,
    seed: Sequence[int],
) -> list[np.ndarray]:
    """Raw scores at the ends of patterns that are mixed into a background.

    `MIXTURES` mixtures, varied and as loud as the config's `augment` says.

    Returns
    -------
    list of ndarray
        For each output, the heights of its patterns' peaks.
    """
    assert config.training is not None
    augment, rate = config.training.augment, config.samplerate
    network = open_network(raw_layers(layers))
    settling = receptive_field(layers)
    collar = round(COLLAR * rate)
    found: list[list[float]] = [[] for _ in range(layers[-1].filters)]
    for i in range(MIXTURES):
        rng = np.random.default_rng([*seed, i])
        pattern = patterns[i % len(patterns)]
        assert pattern.output is not None
        variant = vary(pattern, augment, rate, rng)
        length = settling + len(variant.samples) + collar
        x = backgrounds.read(int(rng.integers(backgrounds.frames)), length)
        active = variant.samples[variant.start : variant.end]
        start, end = settling + variant.start, settling + variant.end
        gain = gain_for_snr(active, local_level(x, start, end, rate), rng.uniform(*augment.snr_db))
        x[settling : settling + len(variant.samples)] += gain * variant.samples
        network.reset()
        scores = network.step(np.clip(x, -1, 1)[:, np.newaxis])
        found[pattern.output].append(
            float(scores[end - collar : end + collar, pattern.output].max())
        )
    return [np.array(heights) for heights in found]


def solve_threshold(peaks: Peaks, false_alarms_per_hour: float) -> float:
    """Raw score above which the background has that many peaks an hour.

    Where the background holds few peaks that matter, they are extrapolated: the
    number above t falls as ``exp(-t / mean excess)``, the mean excess is that of the
    `TAIL` highest.
    """
    wanted = false_alarms_per_hour * peaks.hours
    count = int(wanted)
    heights = peaks.heights
    if 5 <= count < len(heights) - 1:
        return float(heights[count - 1] + heights[count]) / 2
    tail = heights[: TAIL + 1]
    base = float(tail[-1])
    excess = max(float(tail.mean()) - base, 1e-3)
    solved = base + excess * float(np.log(max(1, len(tail) - 1) / wanted))
    # No more false alarms than were asked for in what was heard.
    above = float(heights[min(count, len(heights) - 1)])
    return max(solved, above + 1e-3 * abs(excess))


def upper_rate(count: int, hours: float, confidence: float = 0.95) -> float:
    """Highest rate an hour under which as few as `count` events in `hours` are still likely.

    The exact upper limit of a Poisson rate: F. Garwood, "Fiducial limits for the
    Poisson distribution", 1936.
    """
    from scipy.stats import chi2

    return float(chi2.ppf(confidence, 2 * (count + 1)) / 2 / hours)


@dataclass(frozen=True)
class Calibration:
    """How a threshold was found, and what to expect of it.

    Attributes
    ----------
    threshold : float
        Of the raw score.
    wanted : float
        False alarms per hour that were asked for.
    hours : float
        Length of the background.
    false_alarms : int
        Peaks of the background above the threshold.
    upper : float
        False alarms per hour, at most, at 95 % confidence.
    misses : float
        Share of the mixtures below the threshold.
    held_back : bool
        Whether these were made from recordings that training never saw.
    """

    threshold: float
    wanted: float
    hours: float
    false_alarms: int
    upper: float
    misses: float
    held_back: bool

    @property
    def too_short(self) -> bool:
        """Whether the background is too short to show the wanted rate."""
        return upper_rate(0, self.hours) > self.wanted

    def sentences(self) -> list[str]:
        """What the user should know."""
        share = "recordings it never saw" if self.held_back else "the recordings it was trained on"
        lines = [
            f"{self.false_alarms} false alarms in {_duration(self.hours)} of background it never "
            f"heard: at most {self.upper:.2g} an hour at 95 % confidence; "
            f"{self.misses:.0%} misses expected, by {share}"
        ]
        if self.too_short:
            lines.append(
                f"the background set aside is too short to show {self.wanted:g} false alarms an "
                f"hour, which takes {_duration(3 / self.wanted)}: the threshold is extrapolated"
            )
        return lines

    def record(self) -> dict[str, Any]:
        """For the training record."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def calibrate(layers: Sequence[Layer], dataset: Dataset, config: Config) -> list[Calibration]:
    """Solve the threshold of each output from its `false_alarms_per_hour`.

    A threshold that the config gives stays as it is, and is only measured.
    """
    assert config.training is not None
    patterns = dataset.validation or dataset.patterns
    seed = [config.training.seed, 4]
    positives = positive_peaks(layers, patterns, dataset.calibration, config, seed)
    calibrations = []
    for output, name in enumerate(config.output_names):
        wish = config.detection_of(name)
        peaks = background_peaks(layers, dataset.calibration, wish.refractory)[output]
        threshold = solve_threshold(peaks, wish.false_alarms_per_hour)
        if peaks.heights[0] < threshold and len(positives[output]):
            # Not higher than half of the way to the positives, where there is a gap.
            weakest = float(np.quantile(positives[output], 0.05))
            highest = float(peaks.heights[0])
            threshold = min(threshold, max(highest, (highest + weakest) / 2))
        if wish.threshold is not None:
            threshold = raw_score(wish.threshold, layers)
        count = int((peaks.heights >= threshold).sum())
        calibrations.append(
            Calibration(
                threshold=threshold,
                wanted=wish.false_alarms_per_hour,
                hours=peaks.hours,
                false_alarms=count,
                upper=upper_rate(count, peaks.hours),
                misses=float((positives[output] < threshold).mean()),
                held_back=bool(dataset.validation),
            )
        )
    return calibrations


def raw_score(score: float, layers: Sequence[Layer]) -> float:
    """A score before the last sigmoid."""
    if raw_layers(layers)[-1] is layers[-1]:
        return score
    inside = np.clip(score, 1e-7, 1 - 1e-7)
    return float(np.log(inside / (1 - inside)))


def score_of(raw: float, layers: Sequence[Layer]) -> float:
    """The inverse of `raw_score`."""
    return raw if raw_layers(layers)[-1] is layers[-1] else float(1 / (1 + np.exp(-raw)))


def _duration(hours: float) -> str:
    """A length of time as it is said."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours >= 1 / 30 else f"{hours * 3600:.0f} s"
