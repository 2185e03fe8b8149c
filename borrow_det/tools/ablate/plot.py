"""Plot of a sweep: the seeds of each row, their mean and its confidence interval."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from borrow_det.tools.ablate.summary import Results
from borrow_det.visualization import figures, fonts

_POINTS = "#1f5fa8"
_BASELINE = "#e07b00"


def write(
    png: str | os.PathLike,
    records: Sequence[Mapping[str, Any]],
    results: Results,
    metric: str,
) -> None:
    """Draws one metric, with a panel for each split that has it.

    Bars are the 95 % confidence intervals of the paired differences over seeds, or over
    images if there is one seed, drawn around the means of the rows. The dashed line is
    the mean of the baseline, if it has one.

    Args:
      png: file to write.
      records: records of `summary.summarize`.
      results: results from which the records were made.
      metric: name of the metric.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["metrics"].get(metric, {}).get("mean") is not None:
            panels.setdefault(record["split"], []).append(record)
    texts = map(fonts.readable, (*panels, *results, metric))
    figures.write_png(png, lambda: _draw(panels, results, metric), texts)


def _draw(
    panels: Mapping[str, Sequence[Mapping[str, Any]]], results: Results, metric: str
) -> Figure:
    """Draws the records of each split; see `write`."""
    rows = [row for row, by_seed in results.items() if by_seed]
    labels = [fonts.drawable(row, f"row {i}") for i, row in enumerate(rows, start=1)]
    figure = Figure(
        figsize=(3.5 + 3.2 * max(1, len(panels)), 1.4 + 0.3 * len(rows)),
        layout="constrained",
    )
    axes = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    for panel, (split, split_records) in zip(axes, panels.items(), strict=False):
        for record in split_records:
            values = [r[split][metric] for r in results[record["name"]].values()]
            _draw_row(panel, rows.index(record["name"]), record, values, metric)
        panel.set_title(fonts.readable(split), parse_math=False)
        panel.set_xlabel(fonts.readable(metric))
        panel.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), labels, parse_math=False)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _draw_row(
    axes: Axes, y: int, record: Mapping[str, Any], values: Sequence[float], metric: str
) -> None:
    """Draws a row's seeds, their mean, and the interval of the difference around it."""
    figures = record["metrics"][metric]
    mean, difference = figures["mean"], figures["difference"]
    style: dict[str, Any] = {"color": _POINTS, "alpha": 0.35, "markeredgecolor": "none"}
    axes.plot(values, [y] * len(values), "o", markersize=4, **style)
    if record["name"] == record["baseline"]:
        axes.plot([mean], [y], "D", markersize=6, color=_BASELINE)
        axes.axvline(mean, color=_BASELINE, ls="--", lw=1, zorder=0)
        return
    axes.plot([mean], [y], "D", markersize=6, color=_POINTS)
    interval = difference
    if interval["low"] is None:
        interval = figures["bootstrap"] or interval
    if difference["mean"] is not None and interval["low"] is not None:
        ends = (
            difference["mean"] - interval["low"],
            interval["high"] - difference["mean"],
        )
        # Percentiles of a skewed distribution may exclude the difference itself.
        widths = [[max(end, 0.0)] for end in ends]
        axes.errorbar(mean, y, xerr=widths, color=_POINTS, capsize=3, lw=1.2)
