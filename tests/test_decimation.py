"""Decimation as the network's first layer, against SciPy."""

import numpy as np
import pytest
import scipy.signal

from rtconv.model.decimation import ATTENUATION, PASSBAND, decimated, lowpass
from rtconv.model.layers import Layer
from rtconv.stream.compiled import CompiledNetwork
from tests.live_detectors import RAMP, ramp_model


@pytest.mark.parametrize("factor", [2, 3, 6, 12])
def test_the_filter_keeps_the_passband_and_stops_what_would_be_mirrored(factor):
    taps = lowpass(factor)
    frequencies, response = scipy.signal.freqz(taps, worN=8192, fs=factor)  # lower rate is 1
    gain = np.abs(response)
    ripple = 10 ** (-ATTENUATION / 20)
    np.testing.assert_allclose(gain[frequencies <= PASSBAND], 1, atol=2 * ripple)
    assert gain[frequencies >= 1 - PASSBAND].max() < 2 * ripple
    np.testing.assert_array_equal(taps, taps[::-1])  # linear phase
    assert (len(taps) - 1) / 2 / factor == pytest.approx(25, abs=1)


@pytest.mark.parametrize("channels", [1, 2])
def test_scores_are_those_of_the_filtered_and_decimated_signal(channels):
    """The oracle is SciPy's upfirdn, and the network at the lower rate."""
    factor = 3
    rng = np.random.default_rng(0)
    model = ramp_model(16000)
    if channels == 2:
        dense = rng.normal(0, 0.3, (14, 1)).astype(np.float32)
        layers = [Layer(dense, in_channels=2, kernel_size=7)]
        model = type(model)("stereo", 16000, layers, model.outputs)
    x = rng.uniform(-1, 1, (3000, channels)).astype(np.float32)
    faster = decimated(model, factor)
    assert (faster.samplerate, faster.hop) == (48000, 3)
    scores = CompiledNetwork(faster.layers).step(x)
    taps = lowpass(factor)
    low = scipy.signal.upfirdn(taps, x.astype(np.float64), up=1, down=factor, axis=0)
    low = low[: len(x) // factor].astype(np.float32)
    expected = CompiledNetwork(model.layers).step(low)
    np.testing.assert_allclose(scores[::factor], expected, atol=1e-5)
    np.testing.assert_array_equal(scores[1::factor], scores[::factor])  # held


def test_a_pattern_is_found_at_the_higher_rate():
    """Played three times as fast into three times the rate, it scores nearly 1."""
    from scipy.signal import resample_poly

    x = np.zeros(400)
    x[200:208] = RAMP
    model = ramp_model(16000)
    low = CompiledNetwork(model.layers).step(x[:, np.newaxis].astype(np.float32))
    high = CompiledNetwork(decimated(model, 3).layers).step(
        resample_poly(x, 3, 1)[:, np.newaxis].astype(np.float32)
    )
    assert low.max() == pytest.approx(1, abs=1e-5)
    assert high.max() == pytest.approx(1, abs=0.1)
    delay = int(high.argmax()) - 3 * int(low.argmax())
    assert delay == pytest.approx(75, abs=3)


def test_a_factor_of_one_changes_nothing():
    model = ramp_model()
    assert decimated(model, 1) is model
