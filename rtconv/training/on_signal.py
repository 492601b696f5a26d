"""Training on a signal that is written in the config, as the lecture does."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from rtconv.config import Config, LayerSettings
from rtconv.errors import RtconvError
from rtconv.training.closed_form import L1_LIMIT, l1_optimum
from rtconv.training.progress import Progress

#: Steps of the optimiser in one compiled call.
STEPS_PER_CALL = 500
#: A call's batches stay below this, at most 64 MB.
MAX_FRAMES_PER_CALL = 1 << 24


def train_on_signal(
    network: Any, config: Config, progress: Callable[[Progress], None]
) -> dict[str, Any]:
    """Train a Keras model on the config's signal, over and over.

    Returns
    -------
    dict
        For the training record: the curve, and with the mean absolute error its distance
        from the exact optimum, where that can be computed.
    """
    from rtconv.training.keras_model import predict
    from rtconv.training.optimize import Optimization

    assert config.training is not None
    assert config.training.signal is not None
    settings, signal = config.training, config.training.signal
    if config.channels != 1 or len(config.output_names) != 1:
        raise RtconvError(f"{config.name}: training.signal needs one channel and one output")
    x = np.array(signal.input, np.float32)[:, np.newaxis]
    target = np.array(signal.target, np.float32)[:, np.newaxis]
    steps, hop = settings.epochs, prod(layer.strides for layer in config.network)
    optimization = Optimization(network, settings, steps)
    per_call = max(1, min(STEPS_PER_CALL, MAX_FRAMES_PER_CALL // len(x)))
    curve = []
    while optimization.step < steps:
        count = min(per_call, steps - optimization.step)
        targets = _repeated(target[::hop], count)
        loss = optimization.run(_repeated(x, count), targets, np.ones_like(targets))
        curve.append([optimization.step, loss])
        progress(Progress(optimization.step, steps, loss))
    record: dict[str, Any] = {"curve": curve}
    if settings.chosen_loss == "mean_absolute_error":
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
    if config.network != [plain] or layer.kernel_size * len(x) > L1_LIMIT:
        return {}
    _, optimum = l1_optimum(x[:, 0], target[:, 0], layer.kernel_size, layer.dilation_rate)
    return {"optimum": optimum, "ratio": error / optimum} if optimum > 0 else {"optimum": 0.0}
