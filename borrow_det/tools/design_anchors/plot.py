"""A picture of anchors against the objects of a data set."""

import os

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Blue and orange stay apart for colour-blind readers, and the markers differ, too.
_LOOKS = {
    "config": {"color": "#1f5fa8", "marker": "x", "s": 40, "linewidths": 1.4},
    "proposal": {"color": "#e07b00", "marker": "s", "s": 34, "facecolors": "none"},
}
_MOST_POINTS = 10_000


def write(
    png: str | os.PathLike,
    design: dict,
    objects: np.ndarray,
    shapes: dict[str, np.ndarray],
) -> None:
    """Draws the objects with both sets of anchors, and the covered share by size.

    Args:
      png: the picture to write.
      design: as tools.design_anchors makes it; theta and bins are read.
      objects: [N, 2], (height, width) in pixels.
      shapes: by name of the set, (height, width) of its anchors [k, 2] in pixels.
    """
    figure = Figure(figsize=(14, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_shapes(left, objects, shapes)
    _draw_bins(right, design)
    FigureCanvasAgg(figure).print_figure(str(png), dpi=110)


def _draw_shapes(axes, objects, shapes):
    every = -(-len(objects) // _MOST_POINTS)
    height, width = objects[::every].T
    axes.scatter(width, height, s=4, color="#9a9a9a", alpha=0.6, label="objects")
    for name, of_set in shapes.items():
        look = dict(_LOOKS[name])
        if "facecolors" in look:
            look["edgecolors"] = look.pop("color")
        axes.scatter(of_set[:, 1], of_set[:, 0], label=f"anchors, {name}", **look)
    axes.set(xscale="log", yscale="log", xlabel="width, pixels of the input")
    axes.set_ylabel("height, pixels of the input")
    axes.set_aspect("equal")
    axes.set_title("objects and anchor shapes")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)


def _draw_bins(axes, design):
    bins = [b for b in design["bins"] if b["objects"]]
    places = np.arange(len(bins))
    for offset, (name, look) in zip((-0.2, 0.2), _LOOKS.items(), strict=True):
        shares = [b[name] for b in bins]
        axes.bar(places + offset, shares, 0.38, color=look["color"], label=name)
    labels = [f"{b['size']}\n{b['objects']}" for b in bins]
    axes.set_xticks(places, labels, fontsize=9)
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("size in pixels of the input; number of objects")
    axes.set_ylabel(f"share with IoU >= {design['theta']:g}")
    axes.set_title("covered by the anchors as placed")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=9, loc="upper center", ncols=2)
