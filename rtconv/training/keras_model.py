"""A network's settings as a Keras model.

Importing this module loads TensorFlow, which otherwise greets every program
with pages of its own log.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rtconv.config import Config, LayerSettings
from rtconv.model.dense import BATCH_NORMALIZATION_EPSILON
from rtconv.model.layers import LEAKY_RELU_SLOPE, LOG_FLOOR


@contextmanager
def _standard_error_closed() -> Iterator[None]:
    """TensorFlow logs through the file descriptor before it can be told not to."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _standard_error_closed():
    import keras
    import tensorflow

    tensorflow.config.list_logical_devices()  # starts the devices, the last thing that is logged

#: What the certificate calls this oracle.
ORACLE = f"keras {keras.__version__} / tensorflow {tensorflow.__version__}"

#: What a Gabor filter makes of a sine of amplitude 1 in its band.
GABOR_GAIN = 19.2

_ACTIVATIONS = {
    "leaky_relu": lambda x: keras.ops.leaky_relu(x, negative_slope=LEAKY_RELU_SLOPE),
    "square": keras.ops.square,
    "log": lambda x: keras.ops.log(keras.ops.maximum(x, LOG_FLOOR)),
}


def build(config: Config) -> keras.Model:
    """The Keras model of a config's network, with fresh weights.

    It takes (batch, frames, channels) and gives (batch, frames / hop, outputs):
    every layer pads causally, and its first output falls on its first input.
    ``get_weights()`` is the list that `rtconv.model.dense.layers_from_weights`
    takes.
    """
    inputs = outputs = keras.Input((None, config.channels))
    for i, settings in enumerate(config.network):
        outputs = _apply(settings, outputs, f"layer{i}", config.samplerate)
    return keras.Model(inputs, outputs)


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """Scores of a whole signal, one row per sample.

    Parameters
    ----------
    model : keras.Model
        From `build`.
    x : ndarray, (frames, channels), float32

    Returns
    -------
    ndarray, (frames, outputs), float32
        Between network outputs the last one is held.
    """
    scores = model(x[np.newaxis], training=False).numpy()[0]
    hop = -(-len(x) // len(scores))
    return np.repeat(scores, hop, axis=0)[: len(x)]


def _apply(
    settings: LayerSettings, inputs: keras.KerasTensor, name: str, samplerate: int
) -> keras.KerasTensor:
    # Keras knows no strides together with a dilation: there the stride picks afterwards.
    picked = settings.dilation_rate > 1 and settings.strides > 1
    x = keras.layers.Conv1D(
        padding="causal",
        strides=1 if picked else settings.strides,
        name=name,
        kernel_initializer=_initializer(settings, samplerate),
        bias_initializer=keras.initializers.Constant(settings.bias_initializer),
        trainable=settings.trainable,
        **settings.model_dump(
            include={"filters", "kernel_size", "dilation_rate", "groups", "use_bias"}
        ),
    )(inputs)
    if picked:
        x = x[:, :: settings.strides]
    if settings.batch_normalization:
        # With the usual 0.99, a training of a few hundred steps would end before it settles.
        x = keras.layers.BatchNormalization(
            epsilon=BATCH_NORMALIZATION_EPSILON, momentum=0.95, name=f"{name}_normalization"
        )(x)
    if settings.activation != "linear":
        activation = _ACTIVATIONS.get(settings.activation, settings.activation)
        x = keras.layers.Activation(activation, name=f"{name}_{settings.activation}")(x)
    if settings.dropout:
        x = keras.layers.SpatialDropout1D(settings.dropout, name=f"{name}_dropout")(x)
    return keras.layers.Add()([x, inputs]) if settings.residual else x


def _initializer(settings: LayerSettings, samplerate: int) -> Any:
    """Keras' initializer of that name, or one of ours as a function of the kernel's shape."""
    ours = {
        "gabor": lambda shape: _gabor(shape, settings, samplerate),
        "pairs": lambda shape: np.tile(np.eye(shape[2]), (2, 1))[np.newaxis],
        "identity": lambda shape: np.tile(np.eye(shape[1]), (1, shape[2] // shape[1]))[np.newaxis],
        "average": lambda shape: np.full(shape, 1 / (shape[0] * shape[1])),
    }
    if settings.kernel_initializer not in ours:
        return settings.kernel_initializer
    return lambda shape, dtype: keras.ops.convert_to_tensor(
        ours[settings.kernel_initializer](shape), dtype
    )


def _gabor(shape: tuple[int, ...], settings: LayerSettings, samplerate: int) -> np.ndarray:
    assert settings.band is not None
    taps, channels, filters = shape
    pairs = as_pairs(gabor_filters(taps, filters // 2, settings.band, samplerate))
    return np.repeat(pairs[:, np.newaxis], channels, axis=1)


def gabor_filters(taps: int, count: int, band: tuple[float, float], samplerate: int) -> np.ndarray:
    """Waves under a Hann window, their frequencies spread geometrically over `band` in Hz.

    Returns
    -------
    ndarray, (taps, count), complex128
        Real and imaginary part answer to a sine of amplitude 1 with `GABOR_GAIN`.
    """
    frequencies = np.geomspace(*band, count)
    window = np.hanning(taps)
    window *= 2 * GABOR_GAIN / window.sum()
    time = (np.arange(taps) - taps / 2) / samplerate
    return np.exp(2j * np.pi * frequencies * time[:, np.newaxis]) * window[:, np.newaxis]


def as_pairs(waves: np.ndarray) -> np.ndarray:
    """Filters (taps, 2 * count), float64: the real parts of complex ones, then the imaginary."""
    return np.concatenate([waves.real, waves.imag], axis=1)
