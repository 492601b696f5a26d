"""The contract of every streaming network, stated once.

whole signal = any partition of it (the same bits), reset, causality, receptive
field, containment of NaN, and agreement with the oracle.
"""

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from rtconv.model.layers import ACTIVATIONS, Layer, hop, receptive_field

BLOCKSIZES = (1, 2, 3, 7, 16, 63, 64, 65, 129, 441, 1024)


def make_layer(
    rng: np.random.Generator,
    in_channels: int,
    filters: int,
    kernel_size: int,
    *,
    use_bias: bool = True,
    groups: int = 1,
    **more,
) -> Layer:
    """A layer with random weights of a size that keeps signals near full scale."""
    rows = kernel_size * (in_channels // groups)
    dense = rng.normal(0, rows**-0.5, (rows, filters)).astype(np.float32)
    bias = rng.normal(0, 0.2, filters).astype(np.float32) if use_bias else None
    return Layer(dense, bias, in_channels, kernel_size, groups=groups, **more)


def table() -> dict[str, list[Layer]]:
    """Networks that each stress something."""
    rng = np.random.default_rng(1)

    def L(*args, **more):  # noqa: N802
        return make_layer(rng, *args, **more)

    return {
        "ramp": [L(1, 1, 8, use_bias=False)],
        "one tap": [L(1, 1, 1)],
        "two outputs": [L(1, 4, 9, activation="tanh"), L(4, 2, 5)],
        "stereo": [L(2, 3, 7, activation="relu"), L(3, 1, 3)],
        "long filter": [L(1, 1, 600)],
        "long filter with stride": [L(1, 1, 257, strides=4)],
        "dilated": [
            L(1, 5, 3, activation="relu"),
            *[
                L(5, 5, 3, dilation_rate=2**i, residual=True, activation="relu")
                for i in range(1, 5)
            ],
            L(5, 1, 1, activation="sigmoid"),
        ],
        "strides": [
            L(1, 6, 16, strides=8, activation="square"),
            L(6, 3, 1, groups=3, activation="log"),
            L(3, 4, 4, strides=3, activation="softplus"),
            L(4, 1, 3, dilation_rate=2, activation="sigmoid"),
        ],
        "groups": [L(1, 12, 5), L(12, 12, 3, groups=4, activation="leaky_relu"), L(12, 1, 2)],
        "depthwise": [L(1, 8, 4), L(8, 8, 5, groups=8, dilation_rate=3), L(8, 1, 1)],
        "wide": [L(1, 33, 10, activation="relu"), L(33, 17, 3, activation="tanh"), L(17, 1, 4)],
    }


@st.composite
def networks(draw: st.DrawFn, max_kernel_size: int = 40, max_dilation_rate: int = 16):
    """Random cascades: odd channel counts, strides, groups, residuals, every activation."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    channels = draw(st.integers(1, 3))
    layers: list[Layer] = []
    for _ in range(draw(st.integers(1, 4))):
        filters = draw(st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17]))
        residual = draw(st.booleans()) and bool(layers)
        if residual:
            filters = channels
        divisors = [g for g in range(1, channels + 1) if channels % g == 0 and filters % g == 0]
        layers.append(
            make_layer(
                rng,
                channels,
                filters,
                draw(st.integers(1, max_kernel_size)),
                use_bias=draw(st.booleans()),
                groups=draw(st.sampled_from(divisors)),
                strides=1 if residual else draw(st.sampled_from([1, 1, 1, 2, 3, 8])),
                dilation_rate=draw(st.integers(1, max_dilation_rate)),
                activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
                residual=residual,
            )
        )
        channels = filters
    return layers


def step_in_blocks(network, x: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Scores of x, given in blocks of the sizes, repeated as often as needed."""
    network.reset()
    scores, n, i = [], 0, 0
    while n < len(x):
        block = x[n : n + sizes[i % len(sizes)]].copy()
        scores.append(network.step(block))
        block[:] = np.nan  # a network that kept a view of it would show it
        n, i = n + len(block), i + 1
    return np.concatenate(scores)


def check_contract(
    layers: Sequence[Layer],
    open_network: Callable,
    oracle: Callable[[np.ndarray], np.ndarray] | None = None,
    tolerance: float = 2e-6,
    blocksizes: Sequence[int] = BLOCKSIZES,
    seed: int = 0,
) -> None:
    """Check everything that is promised of a streaming network.

    Parameters
    ----------
    layers : sequence of Layer
    open_network : callable
        Makes the network from the layers.
    oracle : callable, optional
        Scores (frames, outputs) of a signal (frames, channels).
    tolerance : float
        Largest difference from the oracle, relative to the largest score.
    blocksizes : sequence of int
    seed : int
    """
    rng = np.random.default_rng(seed)
    field, step = receptive_field(layers), hop(layers)
    length = min(field, 4000) + 2 * step + 150
    x = rng.uniform(-1, 1, (length, layers[0].in_channels)).astype(np.float32)
    network = open_network(layers)
    whole = network.step(x)
    assert whole.shape == (length, layers[-1].filters)
    assert whole.dtype == np.float32

    for size in blocksizes:
        np.testing.assert_array_equal(step_in_blocks(network, x, [size]), whole, f"blocks {size}")
    partition = [*rng.integers(0, 70, 50).tolist(), 1]
    np.testing.assert_array_equal(step_in_blocks(network, x, partition), whole, str(partition))
    network.reset()
    np.testing.assert_array_equal(network.step(x), whole, "reset")

    # A score is new once in a hop and held in between.
    held = np.repeat(whole[::step], step, axis=0)[:length]
    np.testing.assert_array_equal(whole, held)

    check_reach(layers, network, x, whole)

    if oracle is not None:
        expected = oracle(x)
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(whole / scale, expected / scale, rtol=0, atol=tolerance)


def check_reach(layers: Sequence[Layer], network, x: np.ndarray, whole: np.ndarray) -> None:
    """One sample moves nothing before it, and nothing beyond the receptive field."""
    field, step = receptive_field(layers), hop(layers)
    at = len(x) // 7
    end = at + field + step - 1
    for value in (np.float32(3.0), np.float32(np.nan), np.float32(np.inf)):
        moved = x.copy()
        moved[at] = value
        network.reset()
        scores = network.step(moved)
        np.testing.assert_array_equal(scores[:at], whole[:at], f"{value} before its time")
        np.testing.assert_array_equal(scores[end:], whole[end:], f"{value} outlives the field")


def check_field_is_reached(layers: Sequence[Layer], network) -> None:
    """The claimed receptive field is not too large: its oldest sample moves a score.

    For networks that pass every sample on (no dead activations): linear ones.
    """
    field, step = receptive_field(layers), hop(layers)
    newest = -(-(field - 1) // step) * step  # a sample at which a network output is made
    x = np.zeros((newest + 1, layers[0].in_channels), np.float32)
    still = network.step(x)
    network.reset()
    x[newest - field + 1] = 1
    assert (network.step(x)[newest] != still[newest]).any()
