"""An evaluation as a table, and as an HTML page with plots."""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtconv.evaluation.measures import Counts, describe_rate, proportion_interval, rate_interval
from rtconv.evaluation.plots import empty_figure
from rtconv.evaluation.quality import Evaluation, OutputEvaluation, Spread
from rtconv.files import atomic_path

if TYPE_CHECKING:
    from rich.console import RenderableType

#: A condition with more different values, such as a file's name, is not tabulated.
MOST_VALUES = 20
#: Misses and false alarms that the page lists.
MOST_LISTED = 50

#: Colour and line of each detector in the plots, told apart in grey as well.
_STYLES = [("#1f4e79", "-"), ("#c55a11", "--"), ("#548235", ":"), ("#7f7f7f", "-.")]


def measure_rows(output: OutputEvaluation, samplerate: int) -> list[tuple[str, str]]:
    """What is measured, and the measure of it, as text."""
    counts = output.counts
    rows = [
        ("threshold", f"{output.threshold:.4g}"),
        ("misses", describe_misses(counts)),
        ("false alarms", describe_rate(counts.false_alarms, counts.hours)),
        ("duplicates", str(counts.duplicates)),
        ("precision, F1", f"{_percent(counts.precision)}, {_percent(counts.f1)}"),
        ("timing error", _error_text(output.error, samplerate)),
        ("delay of the decision", _delay_text(output.delay)),
    ]
    for rate, point in output.points.items():
        text = f"{describe_misses(point.counts)}, threshold {point.threshold:.4g}"
        if rate * counts.hours < 1:
            text += f"; no false alarm in {counts.hours:.2g} h"
        rows.append((f"misses at {rate:g} false alarm{'s' * (rate != 1)}/h", text))
    return rows


def describe_misses(counts: Counts) -> str:
    """Misses with their confidence interval, such as "3 of 50: 6.0 %, 1.3 to 16.5 %"."""
    if not counts.labels:
        return "no labels"
    interval = proportion_interval(counts.misses, counts.labels)
    return (
        f"{counts.misses} of {counts.labels}: {_percent(counts.miss_rate)}, "
        f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
    )


def summary(evaluation: Evaluation) -> str:
    """One line: what was evaluated on how much."""
    count = len(evaluation.recordings)
    text = (
        f"{count} recording{'s' * (count != 1)}, {evaluation.hours:.3g} h, "
        f"collar {evaluation.collar:g} s"
    )
    if evaluation.other_labels:
        text += f", {evaluation.other_labels} labels of other sounds left out"
    return text


def format_table(evaluations: Sequence[Evaluation]) -> "RenderableType":
    """The measures as a table for the terminal, one column for each score.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        Of one or several detectors on the same recordings.
    """
    from rich.console import Group
    from rich.table import Table

    columns = _columns(evaluations)
    measures = Table("", *columns, title=summary(evaluations[0]), title_justify="left")
    for row in _measure_table(evaluations):
        measures.add_row(*row)
    conditions = Table("condition", "labels", *(f"misses of {name}" for name in columns))
    for row in _condition_table(evaluations):
        conditions.add_row(*row)
    return Group(measures, conditions) if conditions.row_count else measures


def write_report(evaluations: Sequence[Evaluation], folder: Path | str) -> Path:
    """Write ``index.html``, a page with plots, and ``evaluation.json`` into a folder.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        Of one or several detectors on the same recordings.
    folder : path
        Made if it does not exist.

    Returns
    -------
    Path
        Of the page.
    """
    folder = Path(folder)
    with atomic_path(folder / "evaluation.json") as temporary:
        temporary.write_text(format_json(evaluations), encoding="utf-8")
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(_page(evaluations), encoding="utf-8")
    return folder / "index.html"


def format_json(evaluations: Sequence[Evaluation]) -> str:
    """One JSON object, or a list of them for several detectors."""
    values = [evaluation.to_dict() for evaluation in evaluations]
    return json.dumps(values[0] if len(values) == 1 else values, indent=1, allow_nan=False)


def _outputs(evaluations: Sequence[Evaluation]) -> list[tuple[str, Evaluation, OutputEvaluation]]:
    """Every score with a name that tells it from the others."""
    every = [(e, output) for e in evaluations for output in e.outputs]
    names = [output.name for _, output in every]
    return [
        (output.name if names.count(output.name) == 1 else f"{e.detector} ({i + 1})", e, output)
        for i, (e, output) in enumerate(every)
    ]


def _columns(evaluations: Sequence[Evaluation]) -> list[str]:
    return [name for name, _, _ in _outputs(evaluations)]


def _measure_table(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    columns = [measure_rows(output, e.samplerate) for _, e, output in _outputs(evaluations)]
    return [[row[0][0], *(text for _, text in row)] for row in zip(*columns, strict=True)]


def _condition_table(evaluations: Sequence[Evaluation]) -> list[list[str]]:
    """Rows of the conditions that have between 2 and `MOST_VALUES` different values."""
    conditions = [output.conditions for _, _, output in _outputs(evaluations)]
    rows = []
    for key, values in conditions[0].items():
        if not 2 <= len(values) <= MOST_VALUES:
            continue
        for value, counts in values.items():
            others = [other.get(key, {}).get(value) for other in conditions]
            misses = [_short_misses(counts) if counts else "" for counts in others]
            rows.append([f"{key} {value}", str(counts.labels), *misses])
    return rows


def _short_misses(counts: Counts) -> str:
    interval = proportion_interval(counts.misses, counts.labels)
    return f"{_percent(counts.miss_rate)} ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)"


def _percent(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.1f} %"


def _error_text(value: Spread | None, samplerate: int) -> str:
    if value is None:
        return "–"
    return (
        f"median {1000 * value.median:+.1f} ms, 5 to 95 %: {1000 * value.low:+.1f} to "
        f"{1000 * value.high:+.1f} ms, p95 of its size {1000 * value.p95:.1f} ms = "
        f"{value.p95 * samplerate:.0f} samples"
    )


def _delay_text(value: Spread | None) -> str:
    if value is None:
        return "–"
    return f"median {1000 * value.median:.0f} ms, 95 % within {1000 * value.high:.0f} ms"


def _page(evaluations: Sequence[Evaluation]) -> str:
    outputs = _outputs(evaluations)
    columns = [name for name, _, _ in outputs]
    conditions = _condition_table(evaluations)
    sections = [
        f"<h1>{html.escape(evaluations[0].detector)}</h1>",
        f"<p>{html.escape(summary(evaluations[0]))}</p>",
        _html_table(["", *columns], _measure_table(evaluations)),
        "<p>Intervals hold with 95 % confidence. An event is a hit within the collar of a "
        "label's end, each label has one; further events there are duplicates, all others "
        "false alarms. Negative timing errors are early.</p>",
        "<h2>Misses against false alarms</h2>",
        "<p>Every threshold, through the event picker. The marked point is the detector's own "
        "threshold, with its 95 % intervals. What has no false alarm stands at the left edge.</p>",
        _svg(_plot_tradeoff(outputs)),
        "<h2>Choosing a threshold</h2>",
        "".join(_svg(_plot_thresholds(name, output)) for name, _, output in outputs),
        "<h2>When the events come</h2>",
        "<p>The middle 99 % of the timing errors.</p>",
        _svg(_plot_timing(outputs)),
    ]
    if conditions:
        sections += [
            "<h2>Conditions</h2>",
            _html_table(
                ["condition", "labels", *(f"misses of {name}" for name in columns)], conditions
            ),
        ]
    for name, _, output in outputs:
        sections += _lists(name, output)
    return _PAGE.format(title=html.escape(evaluations[0].detector), body="\n".join(sections))


def _lists(name: str, output: OutputEvaluation) -> list[str]:
    """Where to listen: the misses and the false alarms."""
    misses = [
        [str(miss.path), f"{miss.label.start:.3f}", f"{miss.label.end:.3f}", miss.label.text]
        for miss in output.misses[:MOST_LISTED]
    ]
    highest = sorted(output.false_alarms, key=lambda event: -event.score)[:MOST_LISTED]
    false = [[str(e.path), f"{e.time:.3f}", f"{e.score:.4g}"] for e in highest]
    title = html.escape(name)
    return [
        f"<h2>Misses of {title}: {len(misses)} of {len(output.misses)}</h2>",
        _html_table(["recording", "start (s)", "end (s)", "label"], misses),
        f"<h2>False alarms of {title}: {len(false)} of {len(output.false_alarms)}, "
        "the highest first</h2>",
        _html_table(["recording", "time (s)", "score"], false),
    ]


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def _plot_tradeoff(outputs: Sequence[tuple[str, Evaluation, OutputEvaluation]]) -> Any:
    figure = empty_figure(8, 4.5)
    axis = figure.subplots()
    lowest = min(0.5 / e.hours for _, e, _ in outputs)
    for i, (name, _, output) in enumerate(outputs):
        colour, line = _STYLES[i % len(_STYLES)]
        rates = [max(p.counts.false_alarms_per_hour, lowest) for p in output.curve]
        misses = [100 * p.counts.miss_rate for p in output.curve]
        axis.step(rates, misses, line, where="post", color=colour, label=name)
        _mark(axis, output.counts, lowest, colour)
    axis.set(
        xscale="log", xlabel="false alarms per hour", ylabel="misses (%)", ylim=(-2, 102),
        xlim=(lowest * 0.9, 100),
    )  # fmt: skip
    axis.grid(which="both", alpha=0.25)
    axis.legend()
    return figure


def _mark(axis: Any, counts: Counts, lowest: float, colour: str) -> None:
    """The detector's own threshold, with the intervals of both measures."""
    if not counts.labels:
        return
    rate = max(counts.false_alarms_per_hour, lowest)
    misses = 100 * counts.miss_rate
    across = rate_interval(counts.false_alarms, counts.hours)
    along = proportion_interval(counts.misses, counts.labels)
    axis.plot([max(across.low, lowest), across.high], [misses] * 2, color=colour, linewidth=0.8)
    axis.plot([rate] * 2, [100 * along.low, 100 * along.high], color=colour, linewidth=0.8)
    axis.plot(rate, misses, "o", color=colour, markersize=6)


def _plot_thresholds(name: str, output: OutputEvaluation) -> Any:
    figure = empty_figure(8, 3.2)
    axis = figure.subplots()
    thresholds = [point.threshold for point in output.curve]
    # The points fall: each holds from its threshold down to the next one.
    miss_rates = [100 * p.counts.miss_rate for p in output.curve]
    axis.step(thresholds, miss_rates, where="post", color=_STYLES[0][0])
    axis.axvline(output.threshold, color="0.3", linestyle=":", linewidth=1)
    axis.set(xlabel=f"threshold of {name}", ylabel="misses (%)", ylim=(-2, 102))
    axis.yaxis.label.set_color(_STYLES[0][0])
    right = axis.twinx()
    rates = [point.counts.false_alarms_per_hour for point in output.curve]
    right.step(thresholds, rates, where="post", color=_STYLES[1][0], linestyle="--")
    right.set(ylabel="false alarms per hour", yscale="symlog", ylim=(0, None))
    right.yaxis.label.set_color(_STYLES[1][0])
    axis.grid(alpha=0.25)
    return figure


def _plot_timing(outputs: Sequence[tuple[str, Evaluation, OutputEvaluation]]) -> Any:
    figure = empty_figure(8, 3)
    axis = figure.subplots()
    every = [1000 * hit.error for _, _, output in outputs for hit in output.hits]
    low, high = np.percentile(every, [0.5, 99.5]) if every else (0, 0)
    for i, (name, _, output) in enumerate(outputs):
        colour, line = _STYLES[i % len(_STYLES)]
        errors = [1000 * hit.error for hit in output.hits]
        if errors:
            style = {"color": colour, "linestyle": line, "linewidth": 1.4}
            axis.hist(
                errors, bins=80, range=(low - 1, high + 1), histtype="step", label=name, **style
            )
    axis.axvline(0, color="0.3", linestyle=":", linewidth=1)
    axis.set(xlabel="event minus label's end (ms)", ylabel="hits")
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
    return figure


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation of {title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
  color: #222; }}
h1 {{ font-size: 1.6em; margin-bottom: 0; }}
h2 {{ font-size: 1.15em; margin-top: 2em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .25em 1.2em .25em 0; border-bottom: 1px solid #ddd;
  vertical-align: top; overflow-wrap: anywhere; }}
td:first-child {{ min-width: 11em; }}
figure {{ margin: 1em 0; }}
svg {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
