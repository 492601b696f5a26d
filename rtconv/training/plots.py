"""A training in pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.config import Config
from rtconv.evaluation.mixing import gain_for_snr, local_level
from rtconv.evaluation.plots import empty_figure
from rtconv.files import atomic_path
from rtconv.model.dense import conv1d_from_dense
from rtconv.model.layers import Layer
from rtconv.stream.detector import Detector
from rtconv.training.calibrate import picker_of, score_patterns
from rtconv.training.data import Dataset
from rtconv.training.listening import trace_background

#: Seconds of background before the pattern of the example, and its SNR in dB.
EXAMPLE_SECONDS, EXAMPLE_SNR_DB = 2.0, 10.0
#: Thresholds of the curve of misses against false alarms.
THRESHOLDS = 30


def plot_training(detector: Detector, config: Config, dataset: Dataset | None, path: Path) -> None:
    """Draw loss, weights, the scores of an example, and misses against false alarms.

    Parameters
    ----------
    detector : Detector
    config : Config
    dataset : Dataset or None
        The example is its first recording in a background; without recordings, it is
        the signal that was trained on, and there are no false alarms to draw.
    path : Path
        The suffix chooses the format.
    """
    figure = empty_figure(8, 9)
    axes = figure.subplots(3 if dataset is None else 4, 1)
    _plot_curve(axes[0], detector.model.training.get("curve", []))
    _plot_weights(axes[1], detector)
    if dataset is None:
        assert config.training is not None
        assert config.training.signal is not None
        _plot_example(axes[2], detector, np.array(config.training.signal.input, np.float32), None)
    else:
        _plot_example(axes[2], detector, *_example(dataset))
        _plot_tradeoff(axes[3], detector, config, dataset)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def _plot_curve(axis: Any, curve: list[Any]) -> None:
    """The loss, and the validation misses where there are some."""
    points = [
        (p["step"], p["loss"], p["misses"]) if isinstance(p, dict) else (*p, 0) for p in curve
    ]
    axis.set(title="training", xlabel="step", ylabel="loss", yscale="log")
    if not points:
        axis.text(0.5, 0.5, "computed, not trained", ha="center", transform=axis.transAxes)
        return
    steps, losses, misses = np.array(points).T
    axis.plot(steps, losses, label="loss")
    axis.legend(loc="upper left")
    if misses.any():
        right = axis.twinx()
        right.plot(steps, 100 * misses, color="C1", label="validation misses")
        right.set(ylabel="misses (%)", ylim=(0, None))
        right.legend(loc="upper right")


def _plot_weights(axis: Any, detector: Detector) -> None:
    first = detector.model.layers[0]
    kernel = conv1d_from_dense(first.dense, first.kernel_size)
    axis.plot(kernel.reshape(first.kernel_size, -1), linewidth=0.7)
    axis.set(title="weights of the first layer", xlabel="tap (the last meets the newest sample)")


def _plot_example(axis: Any, detector: Detector, x: np.ndarray, end: int | None) -> None:
    time = np.arange(len(x)) / detector.samplerate
    axis.plot(time, x / max(float(np.abs(x).max()), 1e-9), color="0.7", linewidth=0.5)
    scores = detector.process(x).reshape(len(x), -1)
    for column, output in zip(scores.T, detector.model.outputs, strict=True):
        axis.plot(time, column, label=f"score of {output.name}")
        axis.axhline(output.threshold, linestyle=":", color="0.3")
    if end is not None:
        axis.axvline(end / detector.samplerate, linestyle="--", color="0.3", label="pattern's end")
    axis.set(title="an example", xlabel="time (s)")
    axis.legend(loc="upper left")


def _example(dataset: Dataset) -> tuple[np.ndarray, int]:
    """A pattern in a background, and where it ends."""
    pattern = (dataset.validation or dataset.patterns)[0]
    rate = dataset.samplerate
    lead = round(EXAMPLE_SECONDS * rate)
    x = dataset.calibration.read(0, lead + len(pattern.samples) + rate // 2)
    start, end = lead + pattern.start, lead + pattern.end
    gain = gain_for_snr(pattern.active, local_level(x, start, end, rate), EXAMPLE_SNR_DB)
    x[lead : lead + len(pattern.samples)] += gain * pattern.samples
    return x, end


def _plot_tradeoff(axis: Any, detector: Detector, config: Config, dataset: Dataset) -> None:
    layers = detector.model.layers
    patterns = dataset.validation or dataset.patterns
    peaks = score_patterns(layers, patterns, dataset.calibration, config, [0])
    strided, deployed = layers, None
    if config.precise and not config.closed_form:
        strided, deployed = _with_strides(layers, config), layers
    traces = trace_background(strided, dataset.calibration, deployed=deployed)
    for output, trace in enumerate(traces):
        picker = picker_of(config, output)
        thresholds = np.quantile(peaks[output], np.linspace(0, 1, THRESHOLDS))
        events = [len(trace.events_from(picker, float(t))) for t in thresholds]
        misses = [100 * float((peaks[output] < t).mean()) for t in thresholds]
        rates = np.array(events) / trace.seconds * 3600
        axis.step(rates, misses, where="post", marker=".", label=picker.name)
    axis.set(
        title="on what was set aside",
        xlabel="false alarms per hour",
        ylabel="misses (%)",
        xscale="symlog",
    )
    axis.legend()


def _with_strides(layers: Sequence[Layer], config: Config) -> list[Layer]:
    """What was trained, of a network that runs at the full rate."""
    return [
        replace(layer, strides=settings.strides, dilation_rate=settings.dilation_rate)
        for layer, settings in zip(layers, config.network, strict=True)
    ]
