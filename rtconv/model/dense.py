"""Conv1D weights to Dense format and back.

Keras computes a correlation, ``y[n] = sum_k w[k] x[n - (K-1) + k]``: w[K-1]
meets the newest sample. The shifting buffer holds the newest frame first, so
the Dense matrix is the time-reversed kernel. Keras on Theano, the first edition
of the lecture, computed a true convolution: there w[0] meets the newest sample
and the order stays.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rtconv.config import LayerSettings
from rtconv.errors import RtconvError
from rtconv.model.layers import Layer, check_cascade

Order = Literal["correlation", "convolution", "pytorch"]

#: ``epsilon`` of ``keras.layers.BatchNormalization``.
BATCH_NORMALIZATION_EPSILON = 1e-3


def dense_from_conv1d(kernel: np.ndarray, order: Order = "correlation") -> np.ndarray:
    """The Dense matrix of a Conv1D kernel.

    Parameters
    ----------
    kernel : ndarray, (kernel_size, in_channels // groups, filters)
        For ``order="pytorch"``, (filters, in_channels // groups, kernel_size).
    order : {'correlation', 'convolution', 'pytorch'}
        Which tap meets the newest sample: the last (Keras on TensorFlow, JAX or
        PyTorch), the first (Keras on Theano), or the last in PyTorch's layout.

    Returns
    -------
    ndarray, (kernel_size * in_channels // groups, filters), float32
        Row ``j * in_channels // groups + c`` meets channel c of tap age j.
    """
    if order == "pytorch":
        kernel = kernel.transpose(2, 1, 0)
    if order != "convolution":
        kernel = np.flip(kernel, axis=0)
    return np.ascontiguousarray(kernel.reshape(-1, kernel.shape[2]), np.float32)


def conv1d_from_dense(dense: np.ndarray, kernel_size: int) -> np.ndarray:
    """The Conv1D kernel (correlation) of a Dense matrix, the inverse of `dense_from_conv1d`.

    Parameters
    ----------
    dense : ndarray, (kernel_size * in_channels // groups, filters)
    kernel_size : int

    Returns
    -------
    ndarray, (kernel_size, in_channels // groups, filters)
    """
    return np.flip(dense.reshape(kernel_size, -1, dense.shape[1]), axis=0).copy()


def layers_from_weights(
    weights: Sequence[np.ndarray],
    network: Sequence[LayerSettings],
    channels: int = 1,
    order: Order = "correlation",
) -> list[Layer]:
    """Layers in Dense form from a network's settings and its Conv1D weights.

    Parameters
    ----------
    weights : sequence of ndarray
        For each layer its kernel, its bias if it has one, and with batch
        normalisation gamma, beta, moving mean and moving variance, which are
        folded into the Dense weights. This is what ``get_weights()`` gives.
    network : sequence of LayerSettings
    channels : int
        Channels of the input.
    order : {'correlation', 'convolution', 'pytorch'}
        See `dense_from_conv1d`.

    Returns
    -------
    list of Layer

    Raises
    ------
    RtconvError
        If the number or the shape of the arrays does not fit the network.
    """
    expected = _expected_shapes(network, channels, order)
    if len(weights) != len(expected):
        raise RtconvError(
            f"{len(weights)} arrays of weights, the network needs {len(expected)} "
            f"({', '.join(name for name, _ in expected)})"
        )
    for (name, shape), array in zip(expected, weights, strict=True):
        if array.shape != shape:
            raise RtconvError(f"{name} has the shape {array.shape}, the network needs {shape}")
    arrays = iter(weights)
    layers = []
    for settings in network:
        dense = dense_from_conv1d(next(arrays), order)
        bias = next(arrays) if settings.use_bias else None
        if settings.batch_normalization:
            dense, bias = _fold(dense, bias, *(next(arrays) for _ in range(4)))
        layers.append(
            Layer(
                dense=dense,
                bias=None if bias is None else np.ascontiguousarray(bias, np.float32),
                in_channels=channels,
                **settings.model_dump(
                    include={
                        "kernel_size", "strides", "dilation_rate", "groups", "activation", "residual"
                    }
                ),
            )
        )  # fmt: skip
        channels = settings.filters
    check_cascade(layers)
    return layers


def weights_from_layers(layers: Sequence[Layer]) -> list[np.ndarray]:
    """Conv1D weights of layers, as ``get_weights()`` of the same Keras network gives them.

    Batch normalisation has been folded away and does not come back.
    """
    weights = []
    for layer in layers:
        weights.append(conv1d_from_dense(layer.dense, layer.kernel_size))
        if layer.bias is not None:
            weights.append(layer.bias.copy())
    return weights


def _expected_shapes(
    network: Sequence[LayerSettings], channels: int, order: Order
) -> list[tuple[str, tuple[int, ...]]]:
    expected: list[tuple[str, tuple[int, ...]]] = []
    for i, layer in enumerate(network):
        shape = (layer.kernel_size, channels // layer.groups, layer.filters)
        expected.append((f"layer {i} kernel", shape[::-1] if order == "pytorch" else shape))
        vectors = ["bias"] if layer.use_bias else []
        if layer.batch_normalization:
            vectors += ["gamma", "beta", "moving mean", "moving variance"]
        expected += [(f"layer {i} {name}", (layer.filters,)) for name in vectors]
        channels = layer.filters
    return expected


def _fold(
    dense: np.ndarray,
    bias: np.ndarray | None,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fold ``gamma * (y - mean) / sqrt(variance + epsilon) + beta`` into the layer."""
    with np.errstate(invalid="ignore"):  # a negative variance gives NaN, which Layer refuses
        scale = gamma / np.sqrt(variance.astype(np.float64) + BATCH_NORMALIZATION_EPSILON)
    shifted = beta + ((0 if bias is None else bias) - mean) * scale
    return (dense * scale).astype(np.float32), shifted.astype(np.float32)
