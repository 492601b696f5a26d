"""Keras is the oracle: its scores are those of the converted network."""

import numpy as np
import pytest

from rtconv.config import parse_config
from rtconv.model.dense import layers_from_weights
from rtconv.model.layers import ACTIVATIONS, hop, receptive_field
from rtconv.stream.compiled import CompiledNetwork
from rtconv.stream.reference import ReferenceNetwork
from rtconv.training.keras_model import build, keras, predict

NETWORKS = {
    **{
        name: [
            {"filters": 3, "kernel_size": 4, "activation": name},
            {"filters": 1, "kernel_size": 2},
        ]
        for name in ACTIVATIONS
    },
    "groups": [
        {"filters": 4, "kernel_size": 3},
        {"filters": 6, "kernel_size": 5, "groups": 2},
    ],
    "strides and dilation": [
        {"filters": 2, "kernel_size": 5, "strides": 3},
        {"filters": 2, "kernel_size": 4, "dilation_rate": 3},
        {"filters": 2, "kernel_size": 3, "dilation_rate": 2, "strides": 2, "groups": 2},
    ],
    "normalised residual": [
        {"filters": 4, "kernel_size": 3, "use_bias": False, "batch_normalization": True},
        {
            "filters": 4,
            "kernel_size": 3,
            "dilation_rate": 2,
            "batch_normalization": True,
            "activation": "relu",
            "residual": True,
        },
    ],
    "two channels": [{"filters": 2, "kernel_size": 7, "use_bias": False}],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_keras_gives_the_scores_of_the_converted_network(name: str) -> None:
    channels = 2 if name == "two channels" else 1
    config = parse_config(
        {"name": "n", "samplerate": 8000, "channels": channels, "network": NETWORKS[name]}
    )
    keras.utils.set_random_seed(1)
    model = build(config)
    rng = np.random.default_rng(2)
    # Fresh biases are zero and fresh moving averages one: then nothing would be seen.
    weights = [(rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else w) for w in model.get_weights()]
    model.set_weights(weights)
    x = rng.uniform(-1, 1, (200, channels)).astype(np.float32)
    network = ReferenceNetwork(layers_from_weights(model.get_weights(), config.network, channels))
    np.testing.assert_allclose(predict(model, x), network.step(x), atol=2e-6, rtol=2e-6)


def test_log_has_its_floor() -> None:
    config = parse_config(
        {
            "name": "n",
            "samplerate": 8000,
            "network": [
                {"filters": 1, "kernel_size": 1, "use_bias": False, "activation": "square"},
                {"filters": 1, "kernel_size": 1, "use_bias": False, "activation": "log"},
            ],
        }
    )
    model = build(config)
    model.set_weights([np.ones((1, 1, 1)), np.ones((1, 1, 1))])
    x = np.array([[0.0], [1.0], [1e-9]], np.float32)
    expected = np.log([[1e-10], [1.0], [1e-10]])
    np.testing.assert_allclose(predict(model, x), expected, rtol=1e-6)


def test_precise_networks_give_the_strided_scores_and_those_between() -> None:
    network = NETWORKS["strides and dilation"]
    config = parse_config({"name": "n", "samplerate": 8000, "network": network, "precise": True})
    model = build(config)
    weights = model.get_weights()
    strided = layers_from_weights(weights, config.network)
    deployed = layers_from_weights(weights, config.deployed().network)
    assert (hop(strided), hop(deployed)) == (6, 1)
    assert receptive_field(strided) == receptive_field(deployed)
    x = np.random.default_rng(3).uniform(-1, 1, (300, 1)).astype(np.float32)
    scores = CompiledNetwork(deployed).step(x)
    np.testing.assert_allclose(scores[::6], CompiledNetwork(strided).step(x)[::6], atol=1e-6)
    # Later than the receptive field, what lies between is the network a few samples later.
    later = CompiledNetwork(strided).step(x[2:])
    between = np.arange(6 * (receptive_field(strided) // 6 + 1), 294, 6)
    np.testing.assert_allclose(scores[between + 2], later[between], atol=1e-6)
    full = build(config.deployed())
    full.set_weights(weights)
    np.testing.assert_allclose(predict(full, x), scores, atol=1e-5)
