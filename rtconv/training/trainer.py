"""Training with Keras: a config's data to a certified detector."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.config import Config, LayerSettings, SignalSettings, load_config
from rtconv.errors import RtconvError
from rtconv.model.dense import layers_from_weights
from rtconv.model.detector import Model, Output
from rtconv.model.weights import save_weights
from rtconv.stream.certify import certify
from rtconv.stream.detector import Detector
from rtconv.training.closed_form import l1_optimum
from rtconv.training.convert import base_path, record_of, versions

#: Steps of the optimiser in one compiled call.
STEPS_PER_CALL = 500
#: A call's batches stay below this, at most 64 MB.
MAX_FRAMES_PER_CALL = 1 << 24
#: Coefficients of a linear program that is solved in about a second.
MAX_LINEAR_PROGRAM = 1_000_000


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    step, steps : int
        Steps of the optimiser, done and in all.
    loss : float
        Mean over the last call.
    figures : dict
        Validation figures by name, as they are known.
    """

    step: int
    steps: int
    loss: float
    figures: dict[str, float] = field(default_factory=dict)


def train(
    config_path: Path | str,
    output: Path | str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Detector:
    """Train a detector.

    Parameters
    ----------
    config_path : path
    output : path, optional
        BASE of ``BASE.pickle``, which is Keras' ``get_weights()``, and
        ``BASE.safetensors``, the detector; ``models/<name>`` by default.
    progress : callable, optional
        Called with a `Progress` after every compiled call.

    Returns
    -------
    Detector

    Raises
    ------
    RtconvError
        If the config is at fault or its data, or the streaming network differs
        from Keras.
    """
    config = load_config(config_path)
    if config.training is None:
        raise RtconvError(f"{config_path}: has no training section")
    if config.training.signal is None:
        raise RtconvError(f"{config_path}: training.positives cannot be trained from yet")
    # Imported late, for it takes seconds: what is wrong with a config shows at once.
    from rtconv.training.keras_model import ORACLE, build, keras, predict, tensorflow

    keras.utils.set_random_seed(config.training.seed)
    tensorflow.config.experimental.enable_op_determinism()
    network = build(config)
    result = _train_on_signal(network, config, config.training.signal, progress)
    layers = layers_from_weights(network.get_weights(), config.network, config.channels)
    outputs = [
        Output(name=name, **config.detection_of(name).picker().model_dump())
        for name in config.output_names
    ]
    record = {
        "config": record_of(config),
        "seed": config.training.seed,
        "versions": versions(keras, tensorflow),
        **result,
    }
    model = Model(config.name, config.samplerate, layers, outputs, training=record)
    detector = Detector(certify(model, lambda x: predict(network, x), ORACLE))
    base = base_path(config, output)
    save_weights(f"{base}.pickle", network.get_weights())
    detector.save(f"{base}.safetensors")
    return detector


def _train_on_signal(
    network: Any,
    config: Config,
    signal: SignalSettings,
    progress: Callable[[Progress], None] | None,
) -> dict[str, Any]:
    """Train on one signal over and over; returns what the record says of it."""
    from rtconv.training.keras_model import predict
    from rtconv.training.optimize import Optimization

    assert config.training is not None
    if config.channels != 1 or len(config.output_names) != 1:
        raise RtconvError(f"{config.name}: training.signal needs one channel and one output")
    x = np.array(signal.input, np.float32)[:, np.newaxis]
    target = np.array(signal.target, np.float32)[:, np.newaxis]
    hop = prod(layer.strides for layer in config.network)
    optimization = Optimization(network, config.training)
    steps = config.training.epochs
    per_call = max(1, min(STEPS_PER_CALL, MAX_FRAMES_PER_CALL // len(x)))
    curve = []
    while optimization.step < steps:
        count = min(per_call, steps - optimization.step)
        targets = _repeated(target[::hop], count)
        loss = optimization.run(_repeated(x, count), targets, np.ones_like(targets))
        curve.append([optimization.step, loss])
        if progress is not None:
            progress(Progress(optimization.step, steps, loss))
    record: dict[str, Any] = {"curve": curve}
    if config.training.loss == "mean_absolute_error":
        error = float(np.abs(predict(network, x) - target).mean())
        record |= {"error": error, **_distance_from_optimum(config, x, target, error)}
    return record


def _repeated(x: np.ndarray, steps: int) -> np.ndarray:
    return np.broadcast_to(x, (steps, 1, *x.shape))


def _distance_from_optimum(
    config: Config, x: np.ndarray, target: np.ndarray, error: float
) -> dict[str, float]:
    """The exact optimum, where the network is one small FIR and it can be computed."""
    layer = config.network[0]
    plain = LayerSettings(
        filters=1,
        use_bias=False,
        **layer.model_dump(include={"kernel_size", "dilation_rate"}),
    )
    if config.network != [plain] or layer.kernel_size * len(x) > MAX_LINEAR_PROGRAM:
        return {}
    _, optimum = l1_optimum(x[:, 0], target[:, 0], layer.kernel_size, layer.dilation_rate)
    return {"optimum": optimum, "ratio": error / optimum} if optimum > 0 else {"optimum": 0.0}
