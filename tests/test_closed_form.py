import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import cholesky, convolution_matrix, toeplitz
from scipy.signal import correlate, freqz, lfilter
from sklearn.linear_model import QuantileRegressor

from rtconv.errors import RtconvError
from rtconv.stream.network import open_network
from rtconv.training.closed_form import (
    LOADING,
    METHODS,
    autocorrelation,
    average_pattern,
    closed_form,
    l1_filter,
    l1_optimum,
    matched_filter,
    normalised_correlation,
    whitened_matched_filter,
    whitening_filter,
    wiener_filter,
)


def scores(layers, x):
    network = open_network(layers, engine="reference")
    return network.step(np.asarray(x, np.float32)[:, np.newaxis])[:, 0]


def taps(layers):
    """Impulse response of a cascade of linear single-channel layers."""
    response = np.ones(1)
    for layer in layers:
        response = np.convolve(response, layer.dense[:, 0].astype(float))
    return response


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def pattern(rng):
    return np.hanning(40) * rng.normal(size=40)


@pytest.fixture
def brown(rng):
    """A background whose power falls by 40 dB from low to high frequencies."""
    return lfilter([1], [1, -1.5, 0.6], rng.normal(size=20_000))


def test_matched_filter_is_the_correlation_with_the_pattern(rng, pattern):
    x = rng.normal(size=300)
    expected = correlate(x, pattern, "full")[: len(x)] / np.sum(pattern**2)
    assert_allclose(scores(matched_filter(pattern), x), expected, atol=1e-5)


def test_linear_filters_answer_the_pattern_with_one_at_its_end(pattern, brown):
    for method in ("matched_filter", "whitened", "wiener"):
        y = scores(METHODS[method](pattern, [brown]), pattern)
        assert y[-1] == pytest.approx(1, abs=1e-4), method


def test_whitening_filter_makes_the_background_white(rng):
    background = lfilter([1], [1, -0.6], rng.normal(size=20_000))  # 12 dB from low to high
    white = lfilter(whitening_filter([background], order=8), [1], background)
    correlation = autocorrelation([white[100:]], 20)
    assert correlation[0] == pytest.approx(1, rel=0.01)
    assert np.abs(correlation[1:]).max() < 0.03


def test_whitening_filter_is_the_inverse_of_the_background_and_noise_30_db_below_it(rng):
    poles = [1, -1.9, 0.91]
    rumble = lfilter([1], poles, rng.normal(size=200_000))
    _, response = freqz(whitening_filter([rumble], order=64), worN=512)
    _, spectrum = freqz([1], poles, worN=512)
    power = np.abs(spectrum) ** 2 + 1e-3 * np.mean(rumble**2)
    assert np.ptp(20 * np.log10(np.abs(spectrum))) > 50
    assert np.abs(10 * np.log10(np.abs(response) ** 2 * power)).max() < 1.5


def test_whitened_matched_filter_has_the_largest_snr_in_its_background(pattern, brown):
    """The taps are R^-1 s with R from the spectrum that the whitening filter inverts."""
    order, size = 4, len(pattern) + 4
    _, response = freqz(whitening_filter([brown], order), worN=1 << 16, whole=True)
    covariance = toeplitz(np.fft.ifft(1 / np.abs(response) ** 2).real[:size])
    reversed_pattern = np.concatenate([pattern[::-1], np.zeros(order)])
    best = np.linalg.solve(covariance, reversed_pattern)
    found = taps(whitened_matched_filter(pattern, [brown], order))
    assert_allclose(found, best / (best @ reversed_pattern), rtol=1e-3, atol=1e-4)

    def snr(h):
        return (h @ reversed_pattern) ** 2 / (h @ covariance @ h)

    white = np.concatenate([taps(matched_filter(pattern)), np.zeros(order)])
    assert snr(found) == pytest.approx(reversed_pattern @ best, rel=1e-4)
    assert snr(found) > 10 * snr(white)


def test_wiener_filter_is_the_least_squares_solution(pattern, brown):
    size, interval = 60, 500.0
    covariance = toeplitz(
        autocorrelation([brown], size) * np.where(np.arange(size), 1, 1 + LOADING)
    )
    rows = np.vstack(
        [convolution_matrix(pattern, size, "full"), np.sqrt(interval) * cholesky(covariance)]
    )
    target = np.zeros(len(rows))
    target[len(pattern) - 1] = 1
    best = np.linalg.lstsq(rows, target)[0]
    best /= np.convolve(best, pattern)[len(pattern) - 1]
    assert_allclose(taps(wiener_filter(pattern, [brown], size, interval)), best, atol=5e-3)


def test_wiener_filter_goes_from_narrow_peak_to_largest_snr(pattern, brown):
    def output_noise_and_ripple(interval):
        h = taps(wiener_filter(pattern, [brown], 80, interval))
        ripple = np.convolve(h, pattern)
        ripple[len(pattern) - 1] = 0
        return h @ toeplitz(autocorrelation([brown], 80)) @ h, np.sum(ripple**2)

    noise, ripple = zip(*[output_noise_and_ripple(i) for i in (1e-3, 1, 1e3, 1e6)], strict=True)
    assert all(np.diff(noise) < 0)
    assert all(np.diff(ripple) > 0)


@pytest.mark.parametrize("dilation_rate", [1, 3])
def test_l1_optimum_is_the_median_regression(rng, dilation_rate):
    x, target = rng.normal(size=60), rng.normal(size=60)
    h, error = l1_optimum(x, target, 5, dilation_rate)
    delayed = np.stack(
        [np.concatenate([np.zeros(a), x[: 60 - a]]) for a in dilation_rate * np.arange(5)], axis=1
    )
    oracle = QuantileRegressor(quantile=0.5, alpha=0, fit_intercept=False).fit(delayed, target)
    assert error == pytest.approx(np.abs(delayed @ oracle.coef_ - target).mean(), abs=1e-9)
    assert error == pytest.approx(np.abs(delayed @ h - target).mean(), abs=1e-9)


def test_l1_filter_puts_its_peak_at_the_pattern_end(pattern, brown):
    layers = l1_filter(pattern, [0.01 * brown[:200]], kernel_size=40)
    y = scores(layers, np.concatenate([np.zeros(50), pattern, np.zeros(50)]))
    assert np.abs(y).argmax() == 89


@pytest.mark.parametrize("length", [1, 40, 41, 97])
def test_normalised_correlation_is_the_squared_correlation_coefficient(rng, length):
    pattern, x = rng.normal(size=length), rng.normal(size=400)
    x[150 : 150 + length] += 2 * pattern
    layers = normalised_correlation(pattern)
    size = layers[0].kernel_size
    assert length <= size <= 1.1 * length + 1
    correlation = correlate(x, pattern, "full")[: len(x)]
    energy = np.convolve(x**2, np.ones(size))[: len(x)]
    floor = 1e-6 * np.sum(pattern**2)
    expected = correlation**2 / np.sum(pattern**2) / (energy + floor)
    assert_allclose(scores(layers, x), expected, atol=1e-5)


def test_normalised_correlation_depends_on_neither_level_nor_sign(rng, pattern, brown):
    x = rng.normal(size=300)
    x[100:140] += 3 * pattern
    for layers in (normalised_correlation(pattern), normalised_correlation(pattern, [brown])):
        y = scores(layers, x)
        for gain in (-0.1, 10):
            assert_allclose(scores(layers, gain * x)[50:], y[50:], atol=1e-3)


def test_normalised_correlation_is_zero_in_silence_and_far_below_the_floor(pattern):
    layers = normalised_correlation(pattern)
    assert scores(layers, np.zeros(200)).max() < 1e-6
    assert scores(layers, 1e-5 * pattern).max() < 1e-3
    assert scores(layers, pattern)[-1] == pytest.approx(1, abs=1e-5)


def test_average_pattern_aligns_noisy_copies(rng, pattern):
    copies = []
    for shift in (0, 3, 7, 1, 5, 2, 6, 4):
        copy = np.concatenate([np.zeros(10 - shift), pattern, np.zeros(shift)])
        copies.append(2 * copy + 0.1 * rng.normal(size=50))
    average = average_pattern(copies)
    expected = np.concatenate([np.zeros(10), pattern])
    assert len(average) == 50
    assert np.corrcoef(average, expected)[0, 1] > np.corrcoef(copies[0], expected)[0, 1]
    assert np.corrcoef(average, expected)[0, 1] > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_pattern_in_its_background(rng, pattern, brown, method):
    background = 0.05 * brown
    x = background[1000:2000].copy()
    x[600:640] += pattern
    layers = closed_form(method, [pattern, 0.5 * pattern], [background[:900]])
    assert np.abs(scores(layers, x)).argmax() == 639


def test_bad_input_is_named(pattern, brown):
    with pytest.raises(RtconvError, match="pattern is silent"):
        matched_filter(np.zeros(10))
    with pytest.raises(RtconvError, match="backgrounds are silent"):
        whitened_matched_filter(pattern, [np.zeros(100)])
    with pytest.raises(RtconvError, match="backgrounds are silent or there are none"):
        wiener_filter(pattern, [])
    with pytest.raises(RtconvError, match="too large a linear program"):
        l1_filter(np.ones(1000), [brown])
