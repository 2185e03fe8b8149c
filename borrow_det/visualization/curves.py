"""Learning curves of a run."""

import itertools
import json
import math
import os
import re
import textwrap
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from borrow_det.evaluation import metric_names
from borrow_det.io import paths
from borrow_det.visualization import figures, fonts

# Metrics of evaluations with a panel each, and why a split may have no value.
_LACKS = {
    "AP": "No object to find",
    "AP50": "No object to find",
    "AP_small": "No small object to find",
    "top1": "No value",
    "top5": "No value",
}
_EVALUATION = re.compile(rf"(?:(?P<split>[^/]*)/)?(?P<metric>{'|'.join(_LACKS)})")
_LOSS, _RATE = "loss", "learning rate"
_STYLES, _MARKERS = ("-", "--", "-.", ":"), "os^Dvx"
_NOTE_WIDTH = 90  # Characters of a line below a panel.

_Points = list[tuple[int, float]]  # (step, value), nan where it is undefined.


class Panel(NamedTuple):
    """One plot.

    Attributes:
      lines: (step, value) points by label, without nan; empty if all are undefined.
      notes: sentences about what the plot lacks.
    """

    lines: dict[str, _Points]
    notes: list[str]


def learning_curves(
    metrics_jsonl: str | os.PathLike, png: str | os.PathLike
) -> list[str]:
    """Plots a run's metrics.jsonl against the step.

    The panels show the losses, the learning rate, and AP, AP50 and AP_small, or top-1
    and top-5 accuracy, with one line for each split. A line below a panel
    lists what the panel lacks, such as splits without small objects. A metric that is
    in no line of the file has no panel. Metrics of earlier versions get their new
    names.

    Args:
      metrics_jsonl: path of the metrics, as `metric_writer` writes them.
      png: path of the picture; not written without panels.

    Returns:
      Titles of the panels.
    """
    panels = make_panels(_series(paths.as_path(metrics_jsonl)))
    if not panels:
        return []
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)

    def draw() -> Figure:
        figure = Figure(figsize=(8 * columns, 4.2 * rows), layout="constrained")
        for i, (title, panel) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, i)
            _plot(axes, title, panel)
        return figure

    texts = itertools.chain(*((*p.lines, *p.notes) for p in panels.values()))
    figures.write_png(png, draw, map(fonts.readable, texts))
    return list(panels)


def _series(path: paths.Path) -> dict[str, _Points]:
    """Reads metric name -> points, in the order of the file; nulls are nan."""
    series: dict[str, _Points] = {}
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        step = record.pop("step")
        for name, value in record.items():
            name = metric_names.current_name(name)
            value = math.nan if value is None else value
            series.setdefault(name, []).append((step, value))
    return series


def make_panels(series: dict[str, _Points]) -> dict[str, Panel]:
    """Sorts the series of a run into panels.

    Args:
      series: (step, value) points by the name of the metric, nan where undefined.

    Returns:
      The panels by title, in their order.
    """
    found: dict[str, dict[str, _Points]] = {}
    for name, points in series.items():
        evaluation = _EVALUATION.fullmatch(name)
        if evaluation:
            split = evaluation["split"] or "evaluation"
            found.setdefault(evaluation["metric"], {})[split] = points
        elif "loss" in name:
            found.setdefault(_LOSS, {})[name] = points
        elif "learning_rate" in name:
            found.setdefault(_RATE, {})[name] = points
    titles = [title for title in (_LOSS, _RATE, *_LACKS) if title in found]
    return {title: _panel(title, found[title]) for title in titles}


def _panel(title: str, series: dict[str, _Points]) -> Panel:
    """Leaves out undefined values, and notes which lines have no value."""
    defined = {
        name: [point for point in points if not math.isnan(point[1])]
        for name, points in series.items()
    }
    lines = {name: points for name, points in defined.items() if points}
    notes = []
    if absent := [name for name in series if name not in lines]:
        notes.append(f"{_LACKS.get(title, 'No value')}: {', '.join(absent)}.")
    steps = {step for points in lines.values() for step, _ in points}
    if title in _LACKS and len(steps) == 1:
        notes.append(f"One evaluation, at step {steps.pop()}.")
    return Panel(lines, notes)


def _plot(axes: Axes, title: str, panel: Panel) -> None:
    styles = itertools.cycle(_STYLES)
    markers = itertools.cycle(_MARKERS)
    for label, points in panel.lines.items():
        steps, values = np.array(points, np.float64).T
        # Markers show single evaluations; a training log has too many values for them.
        marker = next(markers) if len(points) < 40 else None
        axes.plot(
            steps,
            values,
            linewidth=1.4,
            linestyle=next(styles),
            marker=marker,
            ms=4,
            label=fonts.readable(label),
        )
    values = [value for points in panel.lines.values() for _, value in points]
    if title in _LACKS:
        top = 1.05 * max([*values, 0.01])  # Low values stay readable.
        axes.set_ylim(-0.02 * top, top)
    elif title == _LOSS and values and min(values) > 0:
        axes.set_yscale("log")
    axes.set_title(title)
    notes = [
        line
        for note in panel.notes
        for line in textwrap.wrap(fonts.readable(note), _NOTE_WIDTH)
    ]
    axes.set_xlabel("\n".join(["step", *notes]), parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if panel.lines:
        legend = axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        for text in legend.get_texts():
            text.set_parse_math(False)
    else:
        axes.set_xticks([])
