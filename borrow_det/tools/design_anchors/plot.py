"""Plot of anchors and of the objects of a dataset."""

import os
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Blue and orange differ for color-blind readers, and the markers differ as well.
_STYLES: dict[str, dict[str, Any]] = {
    "config": {"color": "#1f5fa8", "marker": "x", "s": 40, "linewidths": 1.4},
    "proposal": {"color": "#e07b00", "marker": "s", "s": 34, "facecolors": "none"},
}
_MAX_POINTS = 10_000


def write(
    png: str | os.PathLike,
    design: dict[str, Any],
    objects: np.ndarray,
    shapes: dict[str, np.ndarray],
) -> None:
    """Draws the objects with both sets of anchors, and the covered share by size.

    Args:
      png: file to write.
      design: contents of design.json, of which theta and bins are used.
      objects: (height, width) of the objects in pixels, [N, 2].
      shapes: (height, width) of the anchors in pixels, [k, 2], by name of the set.
    """
    figure = Figure(figsize=(14, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_shapes(left, objects, shapes)
    _draw_bins(right, design)
    FigureCanvasAgg(figure).print_figure(str(png), dpi=110)


def _draw_shapes(
    axes: Axes, objects: np.ndarray, shapes: dict[str, np.ndarray]
) -> None:
    step = -(-len(objects) // _MAX_POINTS)
    height, width = objects[::step].T
    axes.scatter(width, height, s=4, color="#9a9a9a", alpha=0.6, label="objects")
    for name, anchors in shapes.items():
        style = dict(_STYLES[name])
        if "facecolors" in style:
            style["edgecolors"] = style.pop("color")
        axes.scatter(anchors[:, 1], anchors[:, 0], label=f"anchors, {name}", **style)
    axes.set(xscale="log", yscale="log", xlabel="width in input pixels")
    axes.set_ylabel("height in input pixels")
    axes.set_aspect("equal")
    axes.set_title("objects and anchor shapes")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def _draw_bins(axes: Axes, design: dict[str, Any]) -> None:
    bins = [b for b in design["bins"] if b["objects"]]
    places = np.arange(len(bins))
    for offset, (name, style) in zip((-0.2, 0.2), _STYLES.items(), strict=True):
        shares = [b[name] for b in bins]
        axes.bar(places + offset, shares, 0.38, color=style["color"], label=name)
    labels = [f"{b['size']}\n{b['objects']}" for b in bins]
    axes.set_xticks(places, labels, fontsize=9)
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("size in input pixels; number of objects")
    axes.set_ylabel(f"share of objects with IoU >= {design['theta']:g}")
    axes.set_title("objects covered by the anchor grid")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=9, loc="upper center", ncols=2)
