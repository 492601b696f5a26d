"""Closed forms of the recordings, calibrated like a network."""

from collections.abc import Callable

import numpy as np

from rtconv.config import Config, Method
from rtconv.model.dense import weights_from_layers
from rtconv.model.layers import Layer
from rtconv.training.calibrate import recordings_record, thresholds_of
from rtconv.training.closed_form import L1_LIMIT, closed_form
from rtconv.training.convert import REFERENCE, reference_oracle, versions
from rtconv.training.data import Dataset
from rtconv.training.progress import Result

#: Seconds of each excerpt of background that a closed form is made from, and their number.
EXCERPT_SECONDS, EXCERPTS = 10.0, 60


def compute(config: Config, dataset: Dataset, note: Callable[[str], None]) -> Result:
    """A closed form of the recordings, calibrated like a network."""
    assert config.training is not None
    layers = computed_layers(config.training.method, dataset)
    layers, expectations = thresholds_of(layers, dataset, config)
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
    excerpts = background_excerpts(dataset)
    if method == "l1":
        length = max(len(pattern.active) for pattern in dataset.patterns)
        excerpts = [excerpts[0][: max(0, L1_LIMIT // length - 2 * length)]]
    patterns = [pattern.active for pattern in dataset.patterns]
    return closed_form(method, patterns, excerpts)


def background_excerpts(dataset: Dataset) -> list[np.ndarray]:
    """Ten minutes of background from random places, without silence."""
    rng = np.random.default_rng(0)
    backgrounds = dataset.backgrounds
    frames = round(EXCERPT_SECONDS * backgrounds.samplerate)
    places = [int(rng.integers(backgrounds.frames)) for _ in range(EXCERPTS)]
    return [x for x in (backgrounds.read(place, frames) for place in places) if x.any()]
