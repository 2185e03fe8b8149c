"""Learning curves of a run."""

import io
import itertools
import json
import os
import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from borrow_det.evaluation import metric_names
from borrow_det.io import paths
from borrow_det.visualization import fonts

_EVALUATION = re.compile(r"(?:(?P<split>.*)/)?(?P<metric>A[PR]\d*(?:_\w+)?|top\d)")

_Points = list[tuple[int, float]]  # (step, value).


def learning_curves(
    metrics_jsonl: str | os.PathLike, png: str | os.PathLike
) -> list[str]:
    """Plots a run's metrics.jsonl against the step.

    The panels show the losses, the learning rate, and for each split its AP and AR
    (`SPLIT/AP50_small`, without single classes) or its top-1 and top-5 accuracy. A
    panel without values is left out. Metrics of earlier versions have their present
    names.

    Args:
      metrics_jsonl: path of the metrics, as `metric_writer` writes them.
      png: path of the picture; not written if there are no panels.

    Returns:
      Titles of the panels.
    """
    panels = _panels(_series(paths.as_path(metrics_jsonl)))
    if not panels:
        return []
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    file = io.BytesIO()
    texts = itertools.chain(panels, *panels.values())
    with fonts.figure_text(map(fonts.readable, texts)):
        figure = Figure(figsize=(7 * columns, 4.2 * rows), layout="constrained")
        for i, (title, curves) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, columns, i)
            _plot(axes, title, curves)
        FigureCanvasAgg(figure).print_figure(file, dpi=110, format="png")
    paths.as_path(png).write_bytes(file.getvalue())
    return list(panels)


def _series(path: paths.Path) -> dict[str, _Points]:
    """Reads metric name -> points, in the order of the file, without nulls."""
    series: dict[str, _Points] = {}
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        step = record.pop("step")
        for name, value in record.items():
            if value is not None:
                name = metric_names.current_name(name)
                series.setdefault(name, []).append((step, value))
    return series


def _panels(series: dict[str, _Points]) -> dict[str, dict[str, _Points]]:
    """Sorts series into panels: title -> {name of the curve: points}."""
    panels: dict[str, dict[str, _Points]] = {}
    for name, points in series.items():
        evaluation = _EVALUATION.fullmatch(name)
        if evaluation:
            title = evaluation["split"] or "evaluation"
            panels.setdefault(title, {})[evaluation["metric"]] = points
        elif "loss" in name:
            panels.setdefault("loss", {})[name] = points
        elif "learning_rate" in name:
            panels.setdefault("learning rate", {})[name] = points
    return dict(
        sorted(panels.items(), key=lambda p: (p[0] != "loss", p[0] != "learning rate"))
    )


def _plot(axes: Axes, title: str, curves: dict[str, _Points]) -> None:
    for label, points in curves.items():
        steps, values = np.array(points, np.float64).T
        # Markers show single evaluations; a training log has too many values for them.
        marker = "o" if len(points) < 40 else None
        axes.plot(
            steps,
            values,
            linewidth=1.4,
            marker=marker,
            ms=3,
            label=fonts.readable(label),
        )
    values = np.concatenate([[v for _, v in points] for points in curves.values()])
    if title == "loss" and (values > 0).all():
        axes.set_yscale("log")
    elif title not in ("loss", "learning rate"):
        axes.set_ylim(-0.02, 1.02)
    axes.set_title(fonts.readable(title), parse_math=False)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2 if len(curves) > 6 else 1)
