"""A network's settings as a Keras model.

Importing this module loads TensorFlow, which otherwise greets every program
with pages of its own log.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
        outputs = _apply(settings, outputs, f"layer{i}")
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


def _apply(settings: LayerSettings, inputs: keras.KerasTensor, name: str) -> keras.KerasTensor:
    # Keras knows no strides together with a dilation: there the stride picks afterwards.
    picked = settings.dilation_rate > 1 and settings.strides > 1
    x = keras.layers.Conv1D(
        padding="causal",
        strides=1 if picked else settings.strides,
        name=name,
        **settings.model_dump(
            include={"filters", "kernel_size", "dilation_rate", "groups", "use_bias"}
        ),
    )(inputs)
    if picked:
        x = x[:, :: settings.strides]
    if settings.batch_normalization:
        x = keras.layers.BatchNormalization(epsilon=BATCH_NORMALIZATION_EPSILON)(x)
    x = keras.layers.Activation(_ACTIVATIONS.get(settings.activation, settings.activation))(x)
    return keras.layers.Add()([x, inputs]) if settings.residual else x
