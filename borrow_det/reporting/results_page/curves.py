"""Curves of an evaluation as inline SVG, which needs no script."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Sides of a plot in units of its SVG, and the room around it for texts.
_WIDTH, _HEIGHT = 240, 170
_LEFT, _TOP, _RIGHT, _BOTTOM = 34, 8, 8, 22
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Title, field of the x axis and field of the y axis of each plot.
_PLOTS = (
    ("Precision over recall", "recall", "precision"),
    ("F1 over the score", "score", "f1"),
    ("Precision over the score", "score", "precision"),
    ("Recall over the score", "score", "recall"),
)

_Line = tuple[str, Sequence[float], Sequence[float]]  # (CSS class, x, y).


def figures(curves: Mapping[str, Any], threshold: float, sizes: Sequence[str]) -> str:
    """Draws the curves of a class, with a line for each size.

    Args:
      curves: curves by size, from STEP.analysis.json.
      threshold: threshold to mark on the axes of scores.
      sizes: sizes to draw, at most four; those without a curve are left out.

    Returns:
      HTML: the plots and their legend, or a sentence if no size has a curve.
    """
    drawn = [size for size in sizes if curves.get(size, {}).get("score")]
    if not drawn:
        return "<p>No curves: there is no detection or no object.</p>\n"
    kinds = {size: f"line{sizes.index(size)}" for size in drawn}
    plots = []
    for title, x, y in _PLOTS:
        lines = [(kinds[size], curves[size][x], curves[size][y]) for size in drawn]
        plots.append(_plot(title, lines, threshold if x == "score" else None))
    legend = "".join(
        '<li><svg class="sample" viewBox="0 0 40 8" aria-hidden="true">'
        f'<path class="{kinds[size]}" d="M0 4H40"/></svg> '
        f"{html.escape(size)}: {curves[size]['objects']} objects</li>"
        for size in drawn
    )
    return (
        f'<div class="charts">{"".join(plots)}</div>\n'
        f'<ul class="legend">{legend}</ul>\n'
    )


def _plot(title: str, lines: Iterable[_Line], threshold: float | None) -> str:
    """Draws lines over axes from 0 to 1."""
    right, floor = _LEFT + _WIDTH, _TOP + _HEIGHT
    parts = []
    for tick in _TICKS:
        x, y = _place(tick, tick)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y}H{right}M{x} {_TOP}V{floor}"/>'
            f'<text class="end" x="{_LEFT - 4}" y="{y + 4}">{tick:g}</text>'
            f'<text x="{x}" y="{floor + 14}">{tick:g}</text>'
        )
    if threshold is not None:
        x, _ = _place(threshold, 0)
        parts.append(f'<path class="threshold" d="M{x} {_TOP}V{floor}"/>')
    parts += [f'<path class="{kind}" d="{_path(x, y)}"/>' for kind, x, y in lines]
    box = f"0 0 {right + _RIGHT} {floor + _BOTTOM}"
    return (
        f'<figure><figcaption>{title}</figcaption><svg class="chart" viewBox="{box}" '
        f'role="img" aria-label="{title}">{"".join(parts)}</svg></figure>\n'
    )


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Returns the path through the points, without those that look the same."""
    points = dict.fromkeys(_place(x, y) for x, y in zip(xs, ys, strict=True))
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _place(x: float, y: float) -> tuple[float, float]:
    """Returns the place of a point of [0, 1]², to half a unit."""
    across, up = _LEFT + x * _WIDTH, _TOP + (1 - y) * _HEIGHT
    return round(2 * across) / 2, round(2 * up) / 2
