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
    mean; the dashed line is the baseline's mean.

    Args:
      png: the picture to write.
      records: of ablation_summary.summarize; of each split the first is the baseline.
      results: row -> seed -> split -> metric -> value.
      metric: the name of the metric.
    """
    panels = {}
    for record in records:
        if record["metrics"].get(metric, {}).get("mean") is not None:
            panels.setdefault(record["split"], []).append(record)
    rows = max((len(of_split) for of_split in panels.values()), default=1)
    figure = Figure(
        figsize=(3.5 + 3.2 * max(1, len(panels)), 1.4 + 0.3 * rows),
        layout="constrained",
    )
    axes = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    for place, (split, of_split) in zip(axes, panels.items(), strict=False):
        values = {
            record["name"]: [
                by_split[split][metric] for by_split in results[record["name"]].values()
            ]
            for record in of_split
        }
        _draw(place, of_split, values, metric)
        place.set_title(split)
        place.set_xlabel(metric)
    FigureCanvasAgg(figure).print_figure(str(png), dpi=110)


def _draw(axes, records, values, metric):
    for place, record in enumerate(records):
        figures = record["metrics"][metric]
        mean, difference = figures["mean"], figures["difference"]
        of_seeds = values[record["name"]]
        look = {"color": _POINTS, "alpha": 0.35, "markeredgecolor": "none"}
        axes.plot(of_seeds, [place] * len(of_seeds), "o", markersize=4, **look)
        color = _POINTS if place else _BASELINE
        axes.plot([mean], [place], "D", markersize=6, color=color)
        if place and difference["low"] is not None:
            below = difference["mean"] - difference["low"]
            axes.errorbar(mean, place, xerr=below, color=color, capsize=3, lw=1.2)
    axes.axvline(
        records[0]["metrics"][metric]["mean"], color=_BASELINE, ls="--", lw=1, zorder=0
    )
    axes.set_yticks(range(len(records)), [record["name"] for record in records])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
