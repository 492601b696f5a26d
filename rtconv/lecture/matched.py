"""The trained filter beside the matched filter, least squares and the L1 optimum.

The notes compare the trained weights with a matched filter, which has the largest
possible SNR at its output, and say of the trained one: "This may not have a maximum
SNR, but a more narrow peak at detection". Here are both in numbers, in white noise.

With the noise variance v, the pattern's energy E and a filter that answers the pattern
with a at its end, the output SNR is ``a^2 / (v sum(h^2))``, for the matched filter
``E / v``. At the false-alarm rate P of one sample the detection rate is
``Q(Q^-1(P) - sqrt(output SNR))``, with the tail Q of the normal distribution.

What the narrow peak is good for is to tell overlapping patterns apart. In white noise
it does not locate a single one better: there the matched filter's peak is the most
likely position, and the simulation agrees.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import norm

from rtconv.lecture import ramp
from rtconv.lecture.sheet import Sheet
from rtconv.model.dense import dense_from_conv1d
from rtconv.training.closed_form import fir_layer, l1_optimum, matched_filter, wiener_filter

#: The ramp up to the sample at which it is reported; all filters are compared there.
PATTERN = ramp.X[9:17]
ENERGY = float(PATTERN @ PATTERN)
#: Of one sample.
FALSE_ALARM_RATE = 1e-3
#: ``E / v`` in dB.
SNRS = np.arange(0.0, 25, 3)
TRIALS = 20_000
#: Samples from one pattern of the simulation to the next.
PERIOD = 16


def filters(weights: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The filters by name, each answering `PATTERN` with 1; tap 0 meets the newest sample."""
    white = [np.random.default_rng(0).normal(size=100_000)]
    taps = {
        "matched": matched_filter(PATTERN)[0].dense[:, 0],
        "Wiener": wiener_filter(PATTERN, white, interval=3)[0].dense[:, 0],
        "L1 optimum": l1_optimum(ramp.X, ramp.TARGET, ramp.KERNEL_SIZE)[0],
        "trained": dense_from_conv1d(weights[0])[:, 0],
    }
    return {name: h / (h @ PATTERN[::-1]) for name, h in taps.items()}


def output_snr(h: np.ndarray) -> float:
    """Output SNR in dB in white noise of variance 1."""
    return float(10 * np.log10((h @ PATTERN[::-1]) ** 2 / (h @ h)))


def peak_width(h: np.ndarray) -> float:
    """Width of the peak at -3 dB in samples, between samples on straight lines."""
    y = np.abs(np.convolve(h, PATTERN))
    peak = len(PATTERN) - 1
    sides = (y[peak::-1], y[peak:])
    return sum(float(np.interp(-np.sqrt(0.5) * y[peak], *_falling(side))) for side in sides)


def side_lobe(h: np.ndarray) -> float:
    """Largest output beside the main lobe, which ends at the first minima, in dB of the peak."""
    y = np.abs(np.convolve(h, PATTERN))
    peak = len(PATTERN) - 1
    outside = [side[len(_falling(side)[0]) :] for side in (y[peak::-1], y[peak:])]
    return float(20 * np.log10(max(np.concatenate(outside).max(initial=0) / y[peak], 1e-6)))


def _falling(side: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The start of a curve up to its first minimum: its negative values, its positions."""
    rises = np.flatnonzero(np.diff(side) > 0)
    length = rises[0] + 1 if len(rises) else len(side)
    return -side[:length], np.arange(length)


def valley(h: np.ndarray) -> float:
    """Depth of the valley between the peaks of two ramps two samples apart, 0 to 1."""
    y = np.convolve(h, PATTERN + np.roll(PATTERN, -2))
    peak = len(PATTERN) - 1
    return float(1 - y[peak - 1] / min(y[peak - 2], y[peak]))


def detection_rate(snr: np.ndarray | float) -> np.ndarray:
    """What theory says, for an output SNR as a ratio."""
    return norm.sf(norm.isf(FALSE_ALARM_RATE) - np.sqrt(snr))


def simulate(h: np.ndarray, snr: float) -> tuple[float, float, float]:
    """Rates of one filter over many ramps in white noise, through the streaming network.

    Parameters
    ----------
    h : ndarray, (kernel_size,)
    snr : float
        ``E / v`` in dB.

    Returns
    -------
    detected : float
        Share of the ramps with a score above the threshold at their end.
    located : float
        Share of the ramps whose largest score is at their end.
    false_alarms : float
        Share of the samples of noise alone with a score above the threshold.
    """
    detector = ramp.detector_of([fir_layer(h)])
    sigma = np.sqrt(ENERGY / 10 ** (snr / 10))
    rng = np.random.default_rng(round(snr))
    noise = sigma * rng.normal(size=TRIALS * PERIOD)
    end = PERIOD // 2 + len(PATTERN) // 2
    period = np.zeros(PERIOD)
    period[end - len(PATTERN) + 1 : end + 1] = PATTERN
    threshold = norm.isf(FALSE_ALARM_RATE) * sigma * np.sqrt(h @ h)
    scores = detector.process(noise + np.tile(period, TRIALS)).reshape(TRIALS, PERIOD)
    detected = np.mean(scores[:, end] >= threshold)
    located = np.mean(scores.argmax(axis=1) == end)
    return float(detected), float(located), float(np.mean(detector.process(noise) >= threshold))


def run(sheet: Sheet) -> dict[str, Any]:
    """Measure all filters, and simulate them in noise."""
    chosen = filters(ramp.read_weights(sheet))
    rates = {name: np.array([simulate(h, snr) for snr in SNRS]) for name, h in chosen.items()}
    print(f"\nWhite noise of variance 1, pattern of energy {ENERGY:.0f}:")
    print("filter       output SNR   below matched   width at -3 dB   side lobe   valley")
    numbers: dict[str, Any] = {}
    for name, h in chosen.items():
        snr, width, lobe = output_snr(h), peak_width(h), side_lobe(h)
        loss = output_snr(chosen["matched"]) - snr
        lobe_text = f"{lobe:.1f} dB" if lobe > -119 else "none"
        print(
            f"{name:11}{snr:8.1f} dB{loss:12.1f} dB{width:10.2f} samples"
            f"{lobe_text:>12}{valley(h):9.2f}"
        )
        numbers |= {f"{name} snr": snr, f"{name} width": width, f"{name} side lobe": lobe}
        numbers |= {f"{name} valley": valley(h)}
    titles = (
        f"ramps detected, at {FALSE_ALARM_RATE:g} false alarms per sample",
        "ramps whose largest score is at the right sample",
    )
    for column, title in enumerate(titles):
        print(f"\nShare of {title}:")
        print(f"{'E / v':11}" + "".join(f"{snr:5.0f} dB" for snr in SNRS))
        for name, rate in rates.items():
            print(f"{name:11}" + "".join(f"{r:8.3f}" for r in rate[:, column]))
    theory = detection_rate(10 ** (SNRS / 10))
    deviation = float(np.abs(rates["matched"][:, 0] - theory).max())
    false_alarms = np.concatenate([rate[:, 2] for rate in rates.values()])
    print(f"\nMatched filter, simulation against theory: at most {deviation:.4f} apart")
    print(f"False-alarm rates: {false_alarms.min():.5f} to {false_alarms.max():.5f}")
    _draw_filters(sheet, chosen)
    _draw_rates(sheet, chosen, rates)
    return (
        numbers
        | {
            "deviation": deviation,
            "false alarms min": float(false_alarms.min()),
            "false alarms max": float(false_alarms.max()),
        }
        | {f"{name} detected": rate[:, 0].tolist() for name, rate in rates.items()}
    )


def _draw_filters(sheet: Sheet, chosen: Mapping[str, np.ndarray]) -> None:
    with sheet.figure("matched", rows=2) as (top, bottom):
        for (name, h), marker in zip(chosen.items(), "os^x", strict=True):
            options = {"marker": marker, "fillstyle": "none", "label": name}
            top.plot(h[::-1], **options)
            bottom.plot(np.convolve(h, PATTERN), **options)
        top.set(title="The weights", xlabel="tap (the last meets the newest sample)")
        top.set(ylabel="weight")
        bottom.set(title="The answers to the ramp", xlabel="sample", ylabel="score")
        top.legend()
        bottom.legend()


def _draw_rates(
    sheet: Sheet, chosen: Mapping[str, np.ndarray], rates: Mapping[str, np.ndarray]
) -> None:
    fine = np.linspace(SNRS[0], SNRS[-1], 200)
    with sheet.figure("matched_rates", rows=3, height=2.2, sharex=True) as axes:
        for (name, rate), marker in zip(rates.items(), "os^x", strict=True):
            options = {"marker": marker, "fillstyle": "none", "linewidth": 0.8, "label": name}
            loss = output_snr(chosen["matched"]) - output_snr(chosen[name])
            theory = axes[0].plot(fine, detection_rate(10 ** ((fine - loss) / 10)), linewidth=0.8)
            colour = theory[0].get_color()
            axes[0].plot(SNRS, rate[:, 0], **options | {"linestyle": "", "color": colour})
            axes[1].plot(SNRS, rate[:, 1], **options)
            axes[2].plot(SNRS, rate[:, 2], **options)
        axes[0].set(title="Ramps detected: theory (lines) and simulation", ylabel="share")
        axes[1].set(title="Ramps whose largest score is at the right sample", ylabel="share")
        axes[2].set(title="False alarms in noise alone", ylabel="share of samples")
        axes[2].set(
            xlabel="pattern energy over noise variance (dB)", ylim=(0, 2 * FALSE_ALARM_RATE)
        )
        axes[0].legend()
