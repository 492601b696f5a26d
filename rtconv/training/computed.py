"""Closed forms of the recordings, calibrated like a network."""

from collections.abc import Callable, Sequence

import numpy as np

from rtconv.config import Config, Method
from rtconv.model.dense import weights_from_layers
from rtconv.model.layers import Layer, multiply_adds_per_sample
from rtconv.training.calibrate import recordings_record, thresholds_of
from rtconv.training.closed_form import L1_LIMIT, closed_form
from rtconv.training.convert import REFERENCE, reference_oracle, versions
from rtconv.training.data import Dataset
from rtconv.training.progress import Result

#: Seconds of each excerpt of background that a closed form is made from, and their number.
EXCERPT_SECONDS, EXCERPTS = 10.0, 60
#: Multiply-adds that go into calibrating a closed form.
MAX_MULTIPLY_ADDS = 1e12


def compute(config: Config, dataset: Dataset, note: Callable[[str], None]) -> Result:
    """A closed form of the recordings, calibrated like a network."""
    assert config.training is not None
    layers = computed_layers(config.training.method, dataset)
    layers, expectations = thresholds_of(layers, dataset, config, listening_time(layers, dataset))
    return Result(
        layers=layers,
        weights=weights_from_layers(layers),
        thresholds=[e.calibration.threshold for e in expectations],
        record=recordings_record(config, dataset, expectations, note),
        oracle=reference_oracle(layers),
        oracle_name=REFERENCE,
        versions=versions(),
    )


def computed_layers(method: Method, dataset: Dataset) -> list[Layer]:
    """The layers of a closed form, from the patterns and ten minutes of background."""
    assert method != "network"
    rng = np.random.default_rng(0)
    backgrounds = dataset.backgrounds
    frames = round(EXCERPT_SECONDS * backgrounds.samplerate)
    excerpts = [
        backgrounds.read(int(rng.integers(backgrounds.frames)), frames) for _ in range(EXCERPTS)
    ]
    if method == "l1":
        length = max(len(pattern.active) for pattern in dataset.patterns)
        excerpts = [excerpts[0][: max(0, L1_LIMIT // length - 2 * length)]]
    patterns = [pattern.active for pattern in dataset.patterns]
    return closed_form(method, patterns, [x for x in excerpts if x.any()])


def listening_time(layers: Sequence[Layer], dataset: Dataset) -> float:
    """Seconds of background that a closed form is calibrated with.

    A long filter at the full rate takes longer than a network: as much as can be heard
    in about a minute.
    """
    per_second = multiply_adds_per_sample(layers) * dataset.calibration.samplerate
    return min(dataset.calibration.seconds, MAX_MULTIPLY_ADDS / per_second)
