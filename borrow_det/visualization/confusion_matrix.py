"""Plot of a confusion matrix, with counts and shares as text."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from borrow_det.evaluation.analysis import BACKGROUND
from borrow_det.evaluation.confusion import shares
from borrow_det.visualization import figures, fonts

_DPI = 100
_SMALL = 30  # Rows of a matrix with names on two of its sides only.
_EXPLANATION = (
    "Column background: objects that no detection takes. Row background: false "
    "positives that overlap no free object. Below each count: its share of the row. "
    "Framed: the correct class. Empty: 0."
)


def confusion_matrix(
    confusion: Mapping[str, Any], png: str | os.PathLike, title: str
) -> None:
    """Draws counts of annotated classes (rows) and detected classes (columns).

    A cell has its count and its share of the row, in percent; empty cells are zero.
    Darker cells have larger shares, and the diagonal is framed. The picture grows with
    the number of classes, so that the text stays readable.

    Args:
      confusion: `confusion` of an analysis (evaluation/analysis.py).
      png: file to write.
      title: heading of the picture.
    """
    *classes, _ = confusion["classes"]
    names = [fonts.label(name, k) for k, name in enumerate(classes)] + [BACKGROUND]
    title = fonts.readable(title)
    counts = np.array(confusion["counts"])
    figures.write_png(png, lambda: _figure(counts, names, title), [title, *names], _DPI)


def _figure(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    size = len(names)
    cell = float(np.clip(10 / size, 0.4, 0.9))  # Inches.
    font = float(np.clip(16 * cell, 6.5, 10))  # Points.
    width = max(6.5, cell * size + 3.2)
    figure = Figure(figsize=(width, cell * size + 3.0), layout="constrained")
    axes = figure.add_subplot()
    note = "\n".join(textwrap.wrap(_EXPLANATION, int(13 * width)))
    figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    fractions = shares(counts)
    axes.imshow(np.nan_to_num(fractions), cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        share = fractions[row, column]
        axes.text(
            *(column, row),
            f"{counts[row, column]:,}\n{_percent(share)}",
            ha="center",
            va="center",
            fontsize=font,
            linespacing=1.1,
            color="white" if share > 0.55 else "black",
            in_layout=False,
        )
    for k in range(size - 1):
        square = Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, ec="black", lw=1.4)
        axes.add_patch(square)
    _label(axes, counts, names, title, max(font, 7))
    return figure


def _label(
    axes: Axes, counts: np.ndarray, names: Sequence[str], title: str, font: float
) -> None:
    size = len(names)
    totals = counts.sum(axis=1)
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals, strict=True)]
    options: dict[str, Any] = {"fontsize": font, "parse_math": False}
    axes.set_yticks(range(size), rows, **options)
    axes.set_xticks(range(size), names, rotation=90, **options)
    # Far from the axes of a large matrix, names on one side cannot be followed.
    both = size > _SMALL
    axes.tick_params("x", top=both, labeltop=both, labelrotation=90)
    axes.tick_params("y", right=both, labelright=both)
    axes.set_ylabel("annotated (number)")
    axes.set_xlabel("detected")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#bbbbbb", lw=0.5)
    axes.tick_params(which="minor", length=0)


def _percent(share: float) -> str:
    """Returns a share as a rounded percentage; a small one is not rounded to 0."""
    return "<1%" if share < 0.005 else f"{100 * share:.0f}%"
