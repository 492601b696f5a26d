"""The same network in Keras: an oracle that is not the code under test."""

import os
from collections.abc import Sequence

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rtconv.model.dense import weights_from_layers
from rtconv.model.layers import LEAKY_RELU_SLOPE, LOG_FLOOR, Layer, hop


def keras_scores(layers: Sequence[Layer], x: np.ndarray) -> np.ndarray:
    """Scores (frames, outputs) of a signal (frames, channels), held over each hop."""
    import keras
    from keras import layers as kl
    from keras import ops

    activations = {
        "square": ops.square,
        "log": lambda v: ops.log(ops.maximum(v, LOG_FLOOR)),
        "leaky_relu": lambda v: keras.activations.leaky_relu(v, LEAKY_RELU_SLOPE),
    }
    given = keras.Input((None, layers[0].in_channels))
    y = given
    for layer in layers:
        new = kl.Conv1D(
            layer.filters,
            layer.kernel_size,
            strides=layer.strides,
            dilation_rate=layer.dilation_rate,
            groups=layer.groups,
            padding="causal",
            use_bias=layer.bias is not None,
            activation=activations.get(layer.activation, layer.activation),
        )(y)
        y = kl.Add()([y, new]) if layer.residual else new
    model = keras.Model(given, y)
    model.set_weights(weights_from_layers(layers))
    scores = np.asarray(model(x[np.newaxis], training=False))[0]
    return np.repeat(scores, hop(layers), axis=0)[: len(x)]
