"""Plots of a network and of a detection, readable in grey."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtconv.errors import RtconvError
from rtconv.files import atomic_path
from rtconv.model.detector import Model
from rtconv.model.layers import Layer
from rtconv.stream.events import Event

#: More points than a plot has columns are drawn as their smallest and largest.
_COLUMNS = 2000


def plot_network(model: Model, path: Path | str) -> None:
    """Draw each layer's weights, and the frequency responses of the first one.

    Parameters
    ----------
    model : Model
    path : path of an image file
    """
    figure, axes = _figure(len(model.layers) + 1, f"{model.name}: weights")
    rate = float(model.samplerate)
    for i, (layer, axis) in enumerate(zip(model.layers, axes[:-1], strict=True)):
        _draw_weights(axis, layer, rate, f"layer {i}: {layer.activation}")
        rate /= layer.strides
    first = model.layers[0]
    kernel = first.dense.reshape(first.kernel_size, -1, first.filters)[:, 0]
    size = max(1024, 4 * first.kernel_size)
    response = np.abs(np.fft.rfft(kernel, size, axis=0))
    frequencies = np.fft.rfftfreq(size, first.dilation_rate / model.samplerate)
    axes[-1].plot(frequencies, 20 * np.log10(np.maximum(response, 1e-6)), linewidth=0.8)
    axes[-1].set(xlabel="frequency (Hz)", ylabel="magnitude (dB)", title="responses of layer 0")
    _save(figure, path)


def plot_detection(
    samples: np.ndarray,
    scores: np.ndarray,
    events: Sequence[Event],
    model: Model,
    path: Path | str,
    truth: Sequence[int] = (),
) -> None:
    """Draw a recording, its score and the events in it.

    Parameters
    ----------
    samples : ndarray, (frames,)
    scores : ndarray, (frames,)
    events : sequence of Event
    model : Model
        For the samplerate and the first output's threshold.
    path : path of an image file
    truth : sequence of int
        Samples at which the pattern really ended.
    """
    figure, (wave, score) = _figure(2, f"{model.name}: a detection", sharex=True)
    output = model.outputs[0]
    time, low, high = _envelope(samples, model.samplerate)
    wave.fill_between(time, low, high, color="0.45", linewidth=0.3)
    for i, end in enumerate(truth):
        wave.axvline(
            end / model.samplerate,
            color="black",
            linestyle=":",
            linewidth=0.9,
            label="end of a placed sound" if i == 0 else None,
        )
    wave.set(ylabel="amplitude (full scale 1)", title="waveform")
    time, low, high = _envelope(scores, model.samplerate)
    score.fill_between(time, low, high, color="0.45", linewidth=0.6)
    score.axhline(
        output.threshold,
        color="black",
        linestyle="--",
        linewidth=0.8,
        label=f"threshold {output.threshold:.3g}",
    )
    score.plot(
        [event.time for event in events],
        [event.score for event in events],
        "v",
        color="black",
        markersize=6,
        label=f"{len(events)} events",
    )
    score.set(xlabel="time (s)", ylabel="score", title=f"score of {output.name}")
    for axis in (wave, score):
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="upper right", fontsize=8)
    _save(figure, path)


def empty_figure(width: float, height: float) -> Any:
    """A matplotlib Figure of that size in inches, which draws without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RtconvError(
            "plots need matplotlib, install it with: pip install 'rtconv[train]'"
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure(rows: int, title: str, sharex: bool = False) -> tuple[Any, Any]:
    figure = empty_figure(9, 1.2 + 2.2 * rows)
    figure.suptitle(title)
    axes = figure.subplots(rows, 1, sharex=sharex, squeeze=False)[:, 0]
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def _save(figure: Any, path: Path | str) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_weights(axis: Any, layer: Layer, rate: float, title: str) -> None:
    if layer.dense.shape[1] == 1 and layer.in_channels == 1:
        age = np.arange(layer.kernel_size) * layer.dilation_rate / rate * 1000
        axis.plot(age, layer.dense[:, 0], "k.-", linewidth=0.8)
        axis.set(xlabel="age of the sample (ms)", ylabel="weight", title=title)
        return
    limit = float(np.abs(layer.dense).max()) or 1.0
    image = axis.imshow(layer.dense.T, cmap="gray", aspect="auto", vmin=-limit, vmax=limit)
    axis.figure.colorbar(image, ax=axis, label="weight")
    axis.set(xlabel="row of the Dense matrix (newest frame first)", ylabel="filter", title=title)
    axis.grid(visible=False)


def _envelope(values: np.ndarray, samplerate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times in seconds, and the smallest and largest value around each."""
    width = max(1, len(values) // _COLUMNS)
    rows = values[: len(values) // width * width].reshape(-1, width)
    return np.arange(len(rows)) * width / samplerate, rows.min(axis=1), rows.max(axis=1)
