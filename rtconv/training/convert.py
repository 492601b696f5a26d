"""Conv1D weights to a detector file; needs no Keras."""

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rtconv
from rtconv.config import Config, load_config
from rtconv.errors import RtconvError
from rtconv.model.dense import Order, layers_from_weights
from rtconv.model.detector import Model, Output
from rtconv.model.layers import Layer
from rtconv.model.weights import load_weights
from rtconv.stream.certify import Oracle, certify
from rtconv.stream.detector import Detector
from rtconv.stream.reference import ReferenceNetwork

#: What the certificate calls the oracle of weights that do not come from training.
REFERENCE = f"reference network, numpy {np.__version__}"


def convert(
    weights_path: Path | str,
    config_path: Path | str,
    output: Path | str | None = None,
    order: Order = "correlation",
) -> Detector:
    """Convert pickled Conv1D weights to a detector.

    Parameters
    ----------
    weights_path : path
        A pickled list of arrays, as ``keras.Model.get_weights`` gives them.
    config_path : path
        Needs name, samplerate and network only.
    output : path, optional
        BASE of ``BASE.safetensors``; ``models/<name>`` by default.
    order : {'correlation', 'convolution', 'pytorch'}
        See `rtconv.model.dense.dense_from_conv1d`.

    Returns
    -------
    Detector

    Raises
    ------
    RtconvError
        If the weights are refused or do not fit the network, or the streaming
        network differs from the reference.
    """
    config = load_config(config_path)
    weights = load_weights(weights_path)
    try:
        layers = layers_from_weights(weights, config.deployed().network, config.channels, order)
    except RtconvError as error:
        raise RtconvError(f"{weights_path}: does not fit {config_path}: {error}") from error
    outputs = [
        Output(name=name, **config.detection_of(name).picker().model_dump())
        for name in config.output_names
    ]
    training = {
        "imported": {"weights": Path(weights_path).name, "order": order},
        "config": record_of(config),
        "versions": versions(),
    }
    model = Model(config.name, config.samplerate, layers, outputs, training=training)
    detector = Detector(certify(model, reference_oracle(layers), REFERENCE))
    detector.save(f"{base_path(config, output)}.safetensors")
    return detector


def reference_oracle(layers: Sequence[Layer]) -> Oracle:
    """Scores of a whole signal by the reference network, for certification."""
    reference = ReferenceNetwork(layers)

    def oracle(x: np.ndarray) -> np.ndarray:
        reference.reset()
        return reference.step(x)

    return oracle


def base_path(config: Config, output: Path | str | None) -> Path:
    """BASE of the files that are written for a config."""
    return Path("models", config.name) if output is None else Path(output)


def record_of(config: Config) -> dict[str, Any]:
    """The config as it goes into the training record."""
    return config.model_dump(mode="json", exclude_defaults=True)


def versions(*packages: Any) -> dict[str, str]:
    """Versions of rtconv, Python and NumPy, and of the modules that are given."""
    named = {module.__name__: module.__version__ for module in (rtconv, np, *packages)}
    return {"python": platform.python_version(), **named}
