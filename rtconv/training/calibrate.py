"""The threshold, from false alarms on background that training never saw."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.config import Config
from rtconv.evaluation.measures import Calibration, rate_interval, solve_threshold
from rtconv.evaluation.mixing import gain_for_snr, local_level
from rtconv.evaluation.trace import ScoreTrace
from rtconv.model.detector import Output
from rtconv.model.layers import Layer, receptive_field
from rtconv.training.backgrounds import Backgrounds
from rtconv.training.batches import vary
from rtconv.training.data import Dataset, Pattern
from rtconv.training.fourier import open_quick_network
from rtconv.training.listening import trace_background

#: Mixtures by which misses are estimated.
MIXTURES = 200
#: Seconds around a pattern's end in which its peak is looked for.
COLLAR = 0.25
#: Places of a background that are named when they score like the sound.
SUSPECTS = 3
#: Least distance of the threshold from the highest false score of a short background,
#: before the last sigmoid.
LEAST_RISE = 0.2


@dataclass(frozen=True)
class Expectation:
    """A threshold, and what to expect of it.

    Attributes
    ----------
    calibration : Calibration
    misses : float
        Share of `MIXTURES` mixtures of patterns with background that stay below it.
    held_back : bool
        Whether training never saw the recordings of these patterns.
    suspects : list of str
        See `suspects`.
    """

    calibration: Calibration
    misses: float
    held_back: bool
    suspects: list[str]

    def sentences(self) -> list[str]:
        """What the user should know."""
        recordings = "set aside" if self.held_back else "it was trained on"
        lines = [
            f"{self.calibration} on backgrounds set aside, "
            f"{self.misses:.0%} misses expected by recordings {recordings}"
        ]
        if self.calibration.warning is not None:
            wish = self.calibration.wish
            lines.append(
                f"to show {wish:g} false alarms per hour takes {rate_interval(0, wish).high:.2g} h "
                "of background: with less, the threshold is raised by a rule of thumb"
            )
        return lines

    def record(self) -> dict[str, Any]:
        """For the training record."""
        return {
            **asdict(self.calibration),
            "at_most_per_hour": self.calibration.interval.high,
            "misses": self.misses,
            "held_back": self.held_back,
        }


def picker_of(config: Config, output: int, threshold: float = 0.5) -> Output:
    """Name and picker settings of an output, with a threshold where the config has none."""
    name = config.output_names[output]
    return Output(name=name, **config.detection_of(name).picker(threshold).model_dump())


def score_patterns(
    layers: Sequence[Layer],
    patterns: Sequence[Pattern],
    backgrounds: Backgrounds,
    config: Config,
    seed: Sequence[int],
) -> list[np.ndarray]:
    """Peak scores of patterns that are mixed into a background.

    `MIXTURES` mixtures, varied and as loud as the config's `augment` says.

    Returns
    -------
    list of ndarray
        For each output, the peaks of its patterns.
    """
    assert config.training is not None
    augment, rate = config.training.augment, config.samplerate
    network = open_quick_network(layers)
    collar = round(COLLAR * rate)
    settling = max(receptive_field(layers), collar)
    found: list[list[float]] = [[] for _ in range(layers[-1].filters)]
    for i in range(MIXTURES):
        rng = np.random.default_rng([*seed, i])
        pattern = patterns[i % len(patterns)]
        assert pattern.output is not None
        variant = vary(pattern, augment, rate, rng)
        length = settling + len(variant.samples) + collar
        x = backgrounds.read(int(rng.integers(backgrounds.frames)), length)
        start, end = settling + variant.start, settling + variant.end
        active = variant.samples[variant.start : variant.end]
        level = local_level(x, start, end, rate)
        gain = gain_for_snr(active, level, rng.uniform(*augment.snr_db))
        x[settling : settling + len(variant.samples)] += gain * variant.samples
        network.reset()
        x /= max(1, np.abs(x).max())
        scores = network.step(x[:, np.newaxis])[:, pattern.output]
        found[pattern.output].append(float(scores[end - collar : end + collar].max()))
    return [np.array(peaks) for peaks in found]


def thresholds_of(
    layers: Sequence[Layer],
    dataset: Dataset,
    config: Config,
    deployed: Sequence[Layer] | None = None,
    others: Sequence[Backgrounds] = (),
) -> tuple[list[Layer], list[Expectation]]:
    """Solve the threshold of each output from its `false_alarms_per_hour`.

    Then the last layer is changed so that the threshold is 0.5, and a score says the
    same of every detector: a sigmoid's bias is moved, a linear layer without bias is
    scaled; others keep their threshold. Where the background is too short for the
    wish, the threshold is raised to halfway between the highest false score and the
    weakest twentieth of the patterns, or a little at least. A threshold that the
    config gives stays as it is, and is only measured.

    Parameters
    ----------
    layers : sequence of Layer
    dataset : Dataset
    config : Config
    deployed : sequence of Layer, optional
        The same network at the full rate, if that is what will run.
    others : sequence of Backgrounds
        Variants of the calibration background: the threshold is the highest of those
        that keep the wish on each.

    Returns
    -------
    layers : list of Layer
    expectations : list of Expectation
    """
    sigmoid = layers[-1].activation == "sigmoid" and not layers[-1].residual
    variants = (dataset.calibration, *others)
    heard = {
        i: trace_background(layers, variant, deployed=deployed)
        for i, variant in enumerate(variants)
    }
    peaks = _peaks(deployed or layers, dataset, config)
    expectations, deciding = [], []
    for output, of_patterns in enumerate(peaks):
        picker = picker_of(config, output)
        each = [_solve(picker, t[output], of_patterns, config, sigmoid) for t in heard.values()]
        deciding.append(int(np.argmax([calibration.threshold for calibration in each])))
        solved = each[deciding[-1]]
        misses = float((of_patterns < solved.threshold).mean())
        like = suspects(heard[0][output], picker, of_patterns, dataset.calibration)
        expectations.append(Expectation(solved, misses, bool(dataset.validation), like))
    thresholds = [expectation.calibration.threshold for expectation in expectations]
    last = _with_threshold_half(layers[-1], thresholds)
    if last is not None and all(
        config.detection_of(n).threshold is None for n in config.output_names
    ):
        layers = [*layers[:-1], last]
        if deployed is not None:
            deployed = [*deployed[:-1], replace(deployed[-1], bias=last.bias, dense=last.dense)]
        heard = {i: trace_background(layers, variants[i], deployed=deployed) for i in set(deciding)}
        thresholds = [0.5] * len(thresholds)
    return list(layers), [
        _counted(expectation, heard[deciding[i]][i], picker_of(config, i, thresholds[i]))
        for i, expectation in enumerate(expectations)
    ]


def _counted(expectation: Expectation, trace: ScoreTrace, picker: Output) -> Expectation:
    """With the false alarms of the network as it is now: what is moved is rounded anew."""
    calibration = replace(
        expectation.calibration,
        threshold=picker.threshold,
        false_alarms=len(trace.events(picker)),
    )
    return replace(expectation, calibration=calibration)


def suspects(
    trace: ScoreTrace, picker: Output, peaks: np.ndarray, backgrounds: Backgrounds
) -> list[str]:
    """Places in a background that score like the sound itself.

    Returns
    -------
    list of str
        At most one sentence: the network may be wrong there, or the sound may be in the
        background.
    """
    like = trace.events_from(picker, float(np.median(peaks)))
    if not like:
        return []
    like.sort(key=lambda event: -event.score)
    places = []
    for event in like[:SUSPECTS]:
        name, seconds = backgrounds.where(event.sample)
        places.append(f"{Path(name).name} at {seconds:.1f} s")
    more = f" and at {len(like) - SUSPECTS} more places" if len(like) > SUSPECTS else ""
    return [
        f"{picker.name}: backgrounds score like the sound: {', '.join(places)}{more}; "
        "listen there, and if it is the sound, take that file out of the backgrounds"
    ]


def recordings_record(
    config: Config,
    dataset: Dataset,
    expectations: Sequence[Expectation],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Split and calibration for the training record; the user is told what to expect."""
    for name, expectation in zip(config.output_names, expectations, strict=True):
        for sentence in expectation.sentences():
            note(f"{name}: {sentence}")
        for sentence in expectation.suspects:
            note(sentence)
    assert config._path is not None
    return {
        "data": dataset.record(config._path.parent),
        "calibration": {
            name: expectation.record()
            for name, expectation in zip(config.output_names, expectations, strict=True)
        },
    }


def _with_threshold_half(last: Layer, thresholds: Sequence[float]) -> Layer | None:
    """The last layer, changed so that what were the thresholds scores 0.5, if it can be."""
    if last.residual:
        return None
    if last.activation == "sigmoid" and last.bias is not None:
        shift = [_logit(threshold) for threshold in thresholds]
        return replace(last, bias=(last.bias - shift).astype(np.float32))
    if last.activation == "linear" and last.bias is None and min(thresholds) > 0:
        scale = 0.5 / np.array(thresholds)
        return replace(last, dense=(last.dense * scale).astype(np.float32))
    return None


def _peaks(layers: Sequence[Layer], dataset: Dataset, config: Config) -> list[np.ndarray]:
    assert config.training is not None
    patterns = dataset.validation or dataset.patterns
    return score_patterns(layers, patterns, dataset.calibration, config, [config.training.seed, 4])


def _solve(
    output: Output, trace: ScoreTrace, peaks: np.ndarray, config: Config, sigmoid: bool
) -> Calibration:
    wish = config.detection_of(output.name)
    calibration = solve_threshold([trace], output, wish.false_alarms_per_hour)
    if wish.threshold is not None:
        return replace(calibration, threshold=wish.threshold)
    inner, outer = (_logit, _sigmoid) if sigmoid else (float, float)
    highest = threshold = inner(calibration.threshold)
    if calibration.warning is not None and len(peaks):
        weakest = inner(float(np.quantile(peaks, 0.05)))
        least = LEAST_RISE if sigmoid else 0.02 * abs(highest)
        threshold = max(highest + least, (highest + weakest) / 2)
    return replace(calibration, threshold=outer(threshold))


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-6, 1 - 1e-6))
    return float(np.log(p / (1 - p)))


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
