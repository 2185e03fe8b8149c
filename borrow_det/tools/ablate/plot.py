"""A picture of a sweep: every row's seeds, their mean and its interval."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_POINTS = "#1f5fa8"
_BASELINE = "#e07b00"


def write(
    png: str | os.PathLike,
    records: Sequence[Mapping[str, Any]],
    results: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]],
    metric: str,
) -> None:
    """Draws one metric, a panel for each split that has it.

    The bar is the 95 % interval of the paired difference, drawn around the row's
    mean; the dashed line is the baseline's mean, where that has one.

    Args:
      png: the picture to write.
      records: of ablation_summary.summarize.
      results: row -> seed -> split -> metric -> value.
      metric: the name of the metric.
    """
    panels = {}
    for record in records:
        if record["metrics"].get(metric, {}).get("mean") is not None:
            panels.setdefault(record["split"], []).append(record)
    rows = [row for row, by_seed in results.items() if by_seed]
    figure = Figure(
        figsize=(3.5 + 3.2 * max(1, len(panels)), 1.4 + 0.3 * len(rows)),
        layout="constrained",
    )
    axes = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    for place, (split, of_split) in zip(axes, panels.items(), strict=False):
        for record in of_split:
            of_seeds = [r[split][metric] for r in results[record["name"]].values()]
            _draw(place, rows.index(record["name"]), record, of_seeds, metric)
        place.set_title(split)
        place.set_xlabel(metric)
        place.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), rows, parse_math=False)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    FigureCanvasAgg(figure).print_figure(str(png), dpi=110)


def _draw(axes, y, record, of_seeds, metric):
    """One row: its seeds, their mean, the difference's interval around that."""
    figures = record["metrics"][metric]
    mean, difference = figures["mean"], figures["difference"]
    look = {"color": _POINTS, "alpha": 0.35, "markeredgecolor": "none"}
    axes.plot(of_seeds, [y] * len(of_seeds), "o", markersize=4, **look)
    if record["name"] == record["baseline"]:
        axes.plot([mean], [y], "D", markersize=6, color=_BASELINE)
        axes.axvline(mean, color=_BASELINE, ls="--", lw=1, zorder=0)
        return
    axes.plot([mean], [y], "D", markersize=6, color=_POINTS)
    if difference["low"] is not None:
        half = difference["mean"] - difference["low"]
        axes.errorbar(mean, y, xerr=half, color=_POINTS, capsize=3, lw=1.2)
