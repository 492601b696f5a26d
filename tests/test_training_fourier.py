"""Long filters by FFT, against the network that users get."""

import numpy as np
import pytest

from rtconv.model.layers import Layer
from rtconv.stream.compiled import CompiledNetwork
from rtconv.training.closed_form import METHODS, closed_form
from rtconv.training.fourier import FourierNetwork, open_quick_network


@pytest.mark.parametrize("method", [name for name in METHODS if name != "l1"])
def test_closed_forms_score_as_in_the_streaming_network(method: str) -> None:
    rng = np.random.default_rng(0)
    pattern = rng.standard_normal(700) * np.hanning(700)
    background = np.convolve(rng.standard_normal(20_000), [1, 0.8, 0.3])
    layers = closed_form(method, [pattern], [background])
    x = rng.normal(0, 0.1, (10_000, 1)).astype(np.float32)
    x[4000:4700, 0] += 0.1 * pattern
    network = open_quick_network(layers)
    assert isinstance(network, FourierNetwork)
    expected = CompiledNetwork(layers).step(x)
    scores = np.concatenate([network.step(block) for block in np.array_split(x, [1, 3000, 3500])])
    np.testing.assert_allclose(scores, expected, atol=2e-6 * np.abs(expected).max())
    network.reset()
    np.testing.assert_allclose(network.step(x), expected, atol=2e-6 * np.abs(expected).max())


def test_layers_of_any_kind_without_strides() -> None:
    rng = np.random.default_rng(1)

    def dense(*shape: int) -> np.ndarray:
        return rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)

    layers = [
        Layer(dense(600, 4), rng.normal(0, 1, 4).astype(np.float32), kernel_size=600),
        Layer(
            dense(2 * 20, 4), None, 4, 20, dilation_rate=3, groups=2,
            activation="tanh", residual=True,
        ),
        Layer(dense(4, 2), None, 4, activation="square"),
    ]  # fmt: skip
    x = rng.standard_normal((3000, 1)).astype(np.float32)
    expected = CompiledNetwork(layers).step(x)
    np.testing.assert_allclose(FourierNetwork(layers).step(x), expected, atol=1e-4)


def test_strides_short_filters_and_many_of_them_stay_with_the_streaming_network() -> None:
    taps = np.ones((300, 1), np.float32)
    strided = [Layer(taps, kernel_size=300, strides=2)]
    short = [Layer(taps[:100], kernel_size=100)]
    many = [Layer(np.ones((300, 8), np.float32), kernel_size=300)]
    for layers in (strided, short, many):
        assert isinstance(open_quick_network(layers), CompiledNetwork)
