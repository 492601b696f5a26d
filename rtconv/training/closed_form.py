"""Detectors that are computed instead of trained.

Notation: the pattern is ``s[0] ... s[L-1]``, a filter has the taps
``h[0] ... h[K-1]`` and gives ``y[n] = sum_j h[j] x[n-j]``, so that h[0] meets the
newest sample, as the first row of a Dense matrix does. Every filter here answers
the pattern alone with 1 at the pattern's last sample, and needs no lookahead.

    matched filter             largest output SNR in white noise
    whitened matched filter    largest output SNR in the given background
    Wiener filter              least squares to an impulse at the pattern's end
    L1 optimum                 least mean absolute error to that impulse
    normalised correlation     does not depend on the level

Each is an ordinary cascade of layers. Sources: G. L. Turin, "An introduction to
matched filters", 1960; H. L. Van Trees, "Detection, Estimation, and Modulation
Theory", part I, 1968; N. Levinson, "The Wiener RMS error criterion in filter design
and prediction", 1946.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from rtconv.errors import RtconvError
from rtconv.model.layers import Layer

#: Prediction order of the whitening filter.
WHITENING_ORDER = 64
#: White noise added to a background, relative to its power: what lies more than 30 dB
#: below it in the spectrum is not amplified further. Speech and music are seldom loud at
#: high frequencies, but when they are, it is then that a whitened detector fires wrongly.
LOADING = 1e-3
#: Energy, relative to the pattern's, at which normalised correlation loses half its score.
FLOOR_DB = -60.0
#: Coefficients above which the linear program of the L1 optimum takes too long.
L1_LIMIT = 1_000_000


def fir_layer(taps: np.ndarray) -> Layer:
    """A filter as a layer; ``taps[0]`` meets the newest sample."""
    return Layer(_float32(taps)[:, np.newaxis], kernel_size=len(taps))


def matched_filter(pattern: np.ndarray) -> list[Layer]:
    """The time-reversed pattern: ``h[j] = s[L-1-j] / sum(s^2)``.

    In white noise of variance v the output SNR at the pattern's end is
    ``sum(s^2) / v``, which no linear filter exceeds (Turin, 1960).

    Parameters
    ----------
    pattern : ndarray, (frames,)

    Returns
    -------
    list of Layer
    """
    pattern = _pattern(pattern)
    return [fir_layer(pattern[::-1] / (pattern @ pattern))]


def whitened_matched_filter(
    pattern: np.ndarray, backgrounds: Sequence[np.ndarray], order: int = WHITENING_ORDER
) -> list[Layer]:
    """A whitening filter, and the matched filter for the pattern that it lets through.

    In the frequency domain ``S*(f) / P(f)``, with the background's power spectrum P.
    For a background that is autoregressive of `order`, the cascade has the taps
    ``R^-1 s_rev / (s_rev' R^-1 s_rev)`` with the background's covariance matrix R, and
    the largest SNR (Van Trees, 1968, section 4.3).

    Parameters
    ----------
    pattern : ndarray, (frames,)
    backgrounds : sequence of ndarray, (frames,)
    order : int
        See `whitening_filter`.

    Returns
    -------
    list of Layer
    """
    whitening = whitening_filter(backgrounds, order)
    whitened = np.convolve(_pattern(pattern), whitening)[: len(pattern)]
    return [fir_layer(whitening), *matched_filter(whitened)]


def wiener_filter(
    pattern: np.ndarray,
    backgrounds: Sequence[np.ndarray],
    kernel_size: int | None = None,
    interval: float | None = None,
) -> list[Layer]:
    """Least squares to an impulse at the pattern's end, scaled to 1 there.

    The filter that minimises ``sum_n ((h * s)[n] - d[n])^2 + interval * h' R h``: the
    error over one pattern with ``d[L-1] = 1`` and zero elsewhere, and the background's
    output power over `interval` samples. Its normal equations
    ``(A + interval * R) h = s_rev`` hold the autocorrelations A of the pattern and R of
    the background (Levinson, 1946). A short interval narrows the peak towards an
    inverse filter, a long one leads to the whitened matched filter.

    Parameters
    ----------
    pattern : ndarray, (frames,)
    backgrounds : sequence of ndarray, (frames,)
    kernel_size : int
        The pattern's length if it is not given.
    interval : float
        Samples from one pattern to the next; the pattern's length if it is not given.

    Returns
    -------
    list of Layer
    """
    from scipy.linalg import solve_toeplitz

    pattern = _pattern(pattern)
    length = len(pattern)
    kernel_size = kernel_size or length
    column = _autocorrelation_sum([pattern], kernel_size)
    column += (interval or length) * _loaded_autocorrelation(backgrounds, kernel_size)
    reversed_pattern = np.zeros(kernel_size)
    reversed_pattern[:length] = pattern[::-1][:kernel_size]
    taps = solve_toeplitz(column, reversed_pattern)
    return [fir_layer(taps / (taps @ reversed_pattern))]


def l1_filter(
    pattern: np.ndarray, backgrounds: Sequence[np.ndarray], kernel_size: int | None = None
) -> list[Layer]:
    """Least mean absolute output, with 1 at the pattern's end.

    `l1_optimum` for the pattern, silence and the backgrounds. The pattern's end weighs
    as much as all other samples together: with one sample among many, the best filter
    would be none.

    Parameters
    ----------
    pattern : ndarray, (frames,)
    backgrounds : sequence of ndarray, (frames,)
        Together at most ``L1_LIMIT / kernel_size`` frames.
    kernel_size : int
        The pattern's length if it is not given.

    Returns
    -------
    list of Layer
    """
    pattern = _pattern(pattern)
    kernel_size = kernel_size or len(pattern)
    silence = np.zeros(kernel_size - 1)
    x = np.concatenate([pattern, silence, *backgrounds])
    target, weights = np.zeros(len(x)), np.ones(len(x))
    target[len(pattern) - 1] = 1
    weights[len(pattern) - 1] = len(x)
    return [fir_layer(l1_optimum(x, target, kernel_size, weights=weights)[0])]


def l1_optimum(
    x: np.ndarray,
    target: np.ndarray,
    kernel_size: int,
    dilation_rate: int = 1,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The causal FIR filter whose output has the least mean absolute error.

    A linear program, solved exactly: minimise the mean of ``weights[n] e[n]`` with
    ``-e[n] <= sum_j h[j] x[n - j * dilation_rate] - target[n] <= e[n]``.

    Parameters
    ----------
    x, target : ndarray, (frames,)
    kernel_size, dilation_rate : int
    weights : ndarray, (frames,)
        All 1 if they are not given.

    Returns
    -------
    taps : ndarray, (kernel_size,)
        ``taps[0]`` meets the newest sample: a column of the Dense matrix.
    error : float
        The weighted mean of the absolute error.

    Raises
    ------
    RtconvError
        If the problem is too large.
    """
    from scipy.linalg import toeplitz
    from scipy.optimize import linprog
    from scipy.sparse import bmat, eye

    frames, length = len(x), (kernel_size - 1) * dilation_rate + 1
    if length * frames > L1_LIMIT:
        raise RtconvError(
            f"the L1 optimum of a filter of {length} samples over {frames} samples is too large a linear "
            f"program (at most {L1_LIMIT:,} coefficients), use the method wiener"
        )
    delayed, errors = toeplitz(x, np.zeros(length))[:, ::dilation_rate], eye(frames)
    weights = np.ones(frames) if weights is None else weights
    solution = linprog(
        c=np.concatenate([np.zeros(kernel_size), weights / frames]),
        A_ub=bmat([[delayed, -errors], [-delayed, -errors]], format="csr"),
        b_ub=np.concatenate([target, -target]),
        bounds=[(None, None)] * kernel_size + [(0, None)] * frames,
        method="highs",
    )
    if solution.x is None:
        raise RtconvError(f"the L1 optimum was not found: {solution.message}")
    return solution.x[:kernel_size], float(solution.fun)


def normalised_correlation(
    pattern: np.ndarray,
    backgrounds: Sequence[np.ndarray] = (),
    order: int = WHITENING_ORDER,
    floor_db: float = FLOOR_DB,
) -> list[Layer]:
    """Squared correlation coefficient of the pattern and the newest samples, as a cascade.

    The score ``c^2 / (E + floor)`` lies in 0 to 1, with the correlation c of the newest
    samples with the pattern of energy 1, and their energy E over the pattern's length.
    It does not depend on the level, nor on the sign, of what is well above the floor; in
    silence it is 0. The steps: correlate beside an identity, `square`, moving sum of
    the second channel, `log` of ``c^2`` and of ``E + floor - c^2``, and the sigmoid of
    their difference, which is the score.

    Parameters
    ----------
    pattern : ndarray, (frames,)
        Silence is put before it where its length has a prime factor above 11, because
        the moving sum is a cascade of short sums, one for each prime factor. The score
        depends on the samples of this length only, which is half of the cascade's
        receptive field.
    backgrounds : sequence of ndarray, (frames,)
        With these, pattern and samples are whitened first.
    order : int
        See `whitening_filter`.
    floor_db : float
        dB of the pattern's energy, after whitening.

    Returns
    -------
    list of Layer
    """
    from scipy.fft import next_fast_len

    pattern, whitening = _pattern(pattern), []
    if backgrounds:
        taps = whitening_filter(backgrounds, order)
        pattern = np.convolve(pattern, taps)[: len(pattern)]
        whitening = [fir_layer(taps)]
    energy = pattern @ pattern
    length = next_fast_len(len(pattern))
    # A floor of energy 1 lies far above LOG_FLOOR, so that silence scores 0.
    scale = 1 / np.sqrt(energy * 10 ** (floor_db / 10))
    correlate_beside_identity = np.zeros((length, 2))
    correlate_beside_identity[: len(pattern), 0] = pattern[::-1] * scale / np.sqrt(energy)
    correlate_beside_identity[0, 1] = scale
    return [
        *whitening,
        Layer(_float32(correlate_beside_identity), kernel_size=length, activation="square"),
        *_moving_sum_of_second_channel(length),
        Layer(
            _float32([[1, -1], [0, 1]]),
            bias=_float32([0, 1]),
            in_channels=2,
            activation="log",
        ),
        Layer(_float32([[1], [-1]]), in_channels=2, activation="sigmoid"),
    ]


def whitening_filter(backgrounds: Sequence[np.ndarray], order: int = WHITENING_ORDER) -> np.ndarray:
    """The prediction-error filter of a background, which leaves white noise of variance 1.

    Parameters
    ----------
    backgrounds : sequence of ndarray, (frames,)
    order : int
        Past samples that predict the newest one.

    Returns
    -------
    ndarray, (order + 1,)
        Its spectrum is the inverse of the background's, smoothed.
    """
    from scipy.linalg import solve_toeplitz

    correlation = _loaded_autocorrelation(backgrounds, order + 1)
    prediction = solve_toeplitz(correlation[:-1], correlation[1:])
    variance = correlation[0] - prediction @ correlation[1:]
    return np.concatenate([[1], -prediction]) / np.sqrt(variance)


def autocorrelation(signals: Sequence[np.ndarray], lags: int) -> np.ndarray:
    """Mean over all samples of ``x[n] x[n+k]``, for k from 0 to ``lags - 1``.

    Parameters
    ----------
    signals : sequence of ndarray, (frames,)
    lags : int

    Returns
    -------
    ndarray, (lags,)

    Raises
    ------
    RtconvError
        If the signals are silent.
    """
    total = _autocorrelation_sum(signals, lags)
    if not total[0] > 0:
        raise RtconvError("the backgrounds are silent or there are none, give some with sound")
    return total / sum(len(signal) for signal in signals)


def _loaded_autocorrelation(backgrounds: Sequence[np.ndarray], lags: int) -> np.ndarray:
    correlation = autocorrelation(backgrounds, lags)
    correlation[0] *= 1 + LOADING
    return correlation


def average_pattern(positives: Sequence[np.ndarray]) -> np.ndarray:
    """One pattern from several recordings of it.

    Each recording is brought to energy 1, moved to where it correlates best with the
    mean of those before it, and added. The first stays where it is: its last sample is
    the pattern's end.

    Parameters
    ----------
    positives : sequence of ndarray, (frames,)

    Returns
    -------
    ndarray, (frames,)
        As long as the first, with the mean energy of the recordings.
    """
    from scipy.signal import correlate, correlation_lags

    total = np.zeros(len(positives[0]))
    energies = []
    for recording in map(_pattern, positives):
        energies.append(recording @ recording)
        shift = 0
        if total.any():
            lags = correlation_lags(len(total), len(recording))
            shift = int(lags[correlate(total, recording).argmax()])
        start, end = max(0, shift), min(len(total), shift + len(recording))
        total[start:end] += recording[start - shift : end - shift] / np.sqrt(energies[-1])
    return total * np.sqrt(np.mean(energies) / (total @ total))


Method = Literal["matched_filter", "whitened", "wiener", "l1", "normalised", "whitened_normalised"]

#: What `closed_form` builds from a pattern and backgrounds.
METHODS: dict[Method, Callable[[np.ndarray, Sequence[np.ndarray]], list[Layer]]] = {
    "matched_filter": lambda pattern, backgrounds: matched_filter(pattern),
    "whitened": whitened_matched_filter,
    "wiener": wiener_filter,
    "l1": l1_filter,
    "normalised": lambda pattern, backgrounds: normalised_correlation(pattern),
    "whitened_normalised": normalised_correlation,
}


def closed_form(
    method: Method, positives: Sequence[np.ndarray], backgrounds: Sequence[np.ndarray]
) -> list[Layer]:
    """A detector's layers from recordings, with no training.

    Parameters
    ----------
    method : str
        A name in `METHODS`.
    positives : sequence of ndarray, (frames,)
        Recordings of the pattern, each from its start to its end; see `average_pattern`.
    backgrounds : sequence of ndarray, (frames,)

    Returns
    -------
    list of Layer
    """
    return METHODS[method](average_pattern(positives), backgrounds)


def _pattern(pattern: np.ndarray) -> np.ndarray:
    pattern = np.asarray(pattern, np.float64)
    if not pattern.any():
        raise RtconvError("the pattern is silent, give a recording with sound")
    return pattern


def _float32(values: object) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def _moving_sum_of_second_channel(length: int) -> list[Layer]:
    """Sums over `length` samples: sums of p over sums of q are sums over p * q."""
    layers, dilation_rate = [], 1
    for factor in _prime_factors(length):
        taps = np.zeros((factor, 2))
        taps[0, 0], taps[:, 1] = 1, 1
        layers.append(
            Layer(
                _float32(taps),
                in_channels=2,
                kernel_size=factor,
                dilation_rate=dilation_rate,
                groups=2,
            )
        )
        dilation_rate *= factor
    return layers


def _prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def _autocorrelation_sum(signals: Sequence[np.ndarray], lags: int) -> np.ndarray:
    from scipy.fft import irfft, next_fast_len, rfft

    total = np.zeros(lags)
    for signal in signals:
        size = next_fast_len(len(signal) + lags, real=True)
        power = np.abs(rfft(np.asarray(signal, np.float64), size)) ** 2
        total += irfft(power, size)[:lags]
    return total
