"""Plots of an evaluation's curves: precision against recall, and both over the score.

The curves are those of evaluation/analysis.py. Each picture has a row of panels of the
classes and one of the sizes. Lines differ by their dashes as well as by their colors.
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from borrow_det.evaluation.analysis import ALL, curve_key
from borrow_det.evaluation.curves import BEST_F1
from borrow_det.visualization import figures, fonts

# The most lines of classes that a panel shows.
DRAWN_CLASSES = 8
# Colors that people with color blindness can tell apart (Okabe and Ito, 2008), and
# dashes; their numbers have no common factor, so that pairs repeat late.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
_LABELS = {
    "score": "minimum score",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
}


class _Line(NamedTuple):
    text: str  # For the legend.
    curve: Mapping[str, Any]  # Of the analysis.
    style: dict[str, Any]  # Options of Axes.plot.


def precision_recall(
    analysis: Mapping[str, Any], png: str | os.PathLike, title: str
) -> None:
    """Plots precision against recall, by class and by size.

    The point of the best F1 is marked on the curve of all classes.

    Args:
      analysis: see evaluation/analysis.py.
      png: file to write.
      title: heading of the picture.
    """
    _write(analysis, png, title, [("recall", "precision")])


def over_score(analysis: Mapping[str, Any], png: str | os.PathLike, title: str) -> None:
    """Plots F1, precision and recall over the minimum score, by class and by size.

    A vertical line marks the score of the best F1 of all classes.

    Args:
      analysis: see evaluation/analysis.py.
      png: file to write.
      title: heading of the picture.
    """
    panels = [("score", name) for name in ("f1", "precision", "recall")]
    _write(analysis, png, title, panels)


def drawn_classes(analysis: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Chooses the classes with the most objects.

    Returns:
      (at most DRAWN_CLASSES labels to draw, the other labels), in their order.
    """
    names = analysis["classes"]
    counts = [analysis["curves"][curve_key(n)][ALL]["objects"] for n in names]
    order = sorted(range(len(names)), key=lambda k: -counts[k])
    drawn = sorted(k for k in order[:DRAWN_CLASSES] if counts[k])
    return drawn, sorted(set(order) - set(drawn))


def _write(
    analysis: Mapping[str, Any],
    png: str | os.PathLike,
    title: str,
    panels: Sequence[tuple[str, str]],
) -> None:
    names = [fonts.label(name, k) for k, name in enumerate(analysis["classes"])]
    title = fonts.readable(title)
    figures.write_png(
        png, lambda: _figure(analysis, names, title, panels), [title, *names]
    )


def _figure(
    analysis: Mapping[str, Any],
    names: Sequence[str],
    title: str,
    panels: Sequence[tuple[str, str]],
) -> Figure:
    """Draws a row of panels with a legend for the classes, and one for the sizes."""
    drawn, others = drawn_classes(analysis)
    note = _note(analysis, names, others)
    width = 5.0 * len(panels) + 3.2
    note = "\n".join(textwrap.wrap(note, int(13 * width))) if note else ""
    lines_of_note = note.count("\n") + 1 if note else 0
    figure = Figure(figsize=(width, 8.4 + 0.17 * lines_of_note), layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    if note:
        figure.supxlabel(note, fontsize=8, x=0.01, ha="left", parse_math=False)
    axes = figure.subplots(2, len(panels), squeeze=False)
    rows = (_class_lines(analysis, names, drawn), _size_lines(analysis))
    best = analysis["operating_points"][BEST_F1]
    for row, lines in zip(axes, rows, strict=True):
        for panel, (x, y) in zip(row, panels, strict=True):
            _plot(panel, lines, x, y, best)
        legend = row[-1].legend(
            loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, handlelength=4
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _class_lines(
    analysis: Mapping[str, Any], names: Sequence[str], drawn: Sequence[int]
) -> list[_Line]:
    curves = analysis["curves"]
    lines = [
        _Line(
            f"{names[k]} {_summary(curves[curve_key(analysis['classes'][k])][ALL])}",
            curves[curve_key(analysis["classes"][k])][ALL],
            _style(i),
        )
        for i, k in enumerate(drawn, start=1)  # The line of all is solid.
    ]
    total = curves[ALL][ALL]
    whole = {"color": "black", "linewidth": 2.6, "linestyle": "-"}
    return [_Line(f"all classes {_summary(total)}", total, whole), *lines]


def _size_lines(analysis: Mapping[str, Any]) -> list[_Line]:
    curves = analysis["curves"][ALL]
    lines = []
    for i, size in enumerate(analysis["sizes"]):
        style = {"color": "black", "linewidth": 2.6} if size == ALL else _style(i)
        text = "all sizes" if size == ALL else size
        lines.append(_Line(f"{text} {_summary(curves[size])}", curves[size], style))
    return lines


def _style(i: int) -> dict[str, Any]:
    return {
        "color": _COLORS[i % len(_COLORS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "linewidth": 1.6,
    }


def _summary(curve: Mapping[str, Any]) -> str:
    """Returns the best F1 and the number of objects of a curve, for the legend."""
    if not curve["objects"]:
        return "(no objects)"
    best = max(curve["f1"], default=0.0)
    return f"(F1 {best:.3f}, {curve['objects']:,} objects)"


def _note(
    analysis: Mapping[str, Any], names: Sequence[str], others: Sequence[int]
) -> str:
    """Returns a text about the classes that are not drawn, with their best F1."""
    curves = {
        k: analysis["curves"][curve_key(analysis["classes"][k])][ALL] for k in others
    }
    some = [
        f"{names[k]} {max(curve['f1'], default=0.0):.3f}"
        for k, curve in curves.items()
        if curve["objects"]
    ]
    none = [names[k] for k, curve in curves.items() if not curve["objects"]]
    text = f"Not drawn, with the best F1: {', '.join(some)}. " if some else ""
    return text + (f"Without objects: {', '.join(none)}." if none else "")


def _plot(
    axes: Axes,
    lines: Sequence[_Line],
    x: str,
    y: str,
    best: Mapping[str, float] | None,
) -> None:
    """Draws one panel; the first line is on top of the others."""
    # Between two scores, the detections of the higher one are kept.
    drawstyle = "steps-post" if x == "score" else "default"
    for line, zorder in zip(lines, [3, *[2] * len(lines)], strict=False):
        curve = line.curve
        marker = "o" if len(curve["score"]) < 3 else None
        axes.plot(
            *(curve[x], curve[y]),
            label=line.text,
            marker=marker,
            ms=3,
            zorder=zorder,
            drawstyle=drawstyle,
            **line.style,
        )
    if best and x == "score":
        axes.axvline(best["score"], color="black", lw=1, ls=":", zorder=1)
        axes.set_title(f"best F1 at a score of {best['score']:.3f}", fontsize=9)
    elif best:
        axes.plot(best[x], best[y], "D", color="black", ms=7, mfc="white", zorder=4)
        axes.set_title(
            f"diamond: best F1 {best['f1']:.3f}, score {best['score']:.3f}", fontsize=9
        )
    else:
        axes.set_title("no detections or no objects", fontsize=9)
    axes.set_xlabel(_LABELS[x])
    axes.set_ylabel(_LABELS[y])
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
