"""The reference network keeps the contract and agrees with Keras and SciPy."""

import numpy as np
import pytest
import scipy.signal
from hypothesis import HealthCheck, given, settings

from rtconv.model.dense import layers_from_weights
from rtconv.model.layers import Layer
from rtconv.stream.reference import ReferenceNetwork
from tests.contract import check_contract, check_field_is_reached, make_layer, networks, table
from tests.keras_oracle import keras_scores

BLOCKSIZES = (1, 3, 64)


def keras_can(layers):
    """Keras on the CPU knows no layer with both strides and dilation, nor grouped dilation."""
    return all(
        (layer.strides == 1 or layer.dilation_rate == 1)
        and (layer.groups == 1 or layer.dilation_rate == 1)
        for layer in layers
    )


@pytest.mark.parametrize("name", table())
def test_contract_over_the_table(name):
    layers = table()[name]
    oracle = (lambda x: keras_scores(layers, x)) if keras_can(layers) else None
    check_contract(layers, ReferenceNetwork, oracle, 5e-6, BLOCKSIZES)


@given(networks(max_kernel_size=12, max_dilation_rate=5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_contract_over_random_networks(layers):
    check_contract(layers, ReferenceNetwork, blocksizes=(1, 7))


@pytest.mark.parametrize("strides", [1, 3])
def test_receptive_field_is_as_long_as_claimed(strides):
    rng = np.random.default_rng(0)
    layers = [
        make_layer(rng, 1, 3, 5, strides=strides),
        make_layer(rng, 3, 2, 4, dilation_rate=7),
        make_layer(rng, 2, 1, 3, strides=2),
    ]
    check_field_is_reached(layers, ReferenceNetwork(layers))


def test_a_single_layer_is_a_fir_filter():
    rng = np.random.default_rng(0)
    taps = rng.normal(size=31).astype(np.float32)
    x = rng.normal(size=(200, 1)).astype(np.float32)
    scores = ReferenceNetwork([Layer(taps[:, np.newaxis], kernel_size=31)]).step(x)
    np.testing.assert_allclose(scores[:, 0], scipy.signal.lfilter(taps, 1, x[:, 0]), atol=1e-5)


def test_the_wrong_order_of_the_taps_is_far_off():
    """The lecture's ramp: its network, flipped, gives something else altogether."""
    from rtconv.config import LayerSettings

    network = [LayerSettings(filters=1, kernel_size=5, use_bias=False)]
    kernel = np.arange(5, dtype=np.float32).reshape(5, 1, 1) / 30
    ramp = np.r_[np.zeros(9), np.arange(5), np.zeros(9)].astype(np.float32)[:, np.newaxis]
    right, wrong = (
        ReferenceNetwork(layers_from_weights([kernel], network, order=order)).step(ramp)
        for order in ("correlation", "convolution")
    )
    assert right[:, 0].argmax() == 13
    assert right.max() == pytest.approx(1)
    assert abs(right - wrong).max() > 0.3
