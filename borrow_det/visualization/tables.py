"""The figures of an evaluation as a short text for people."""

import math
from collections.abc import Mapping, Sequence

PER_CLASS_FIELDS = ("AP", "AP50", "AP_11point", "AP_allpoint")
MAIN_FIELDS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP50_small",
    "AP50_medium",
    "AP50_large",
)

BORROWING_FIELDS = (
    "AP_small_with_source",
    "AP_small_without_source",
    "borrow/precision_same",
    "borrow/lift_same",
    "borrow/lift_other",
    "borrow/entropy",
    "borrow/query_dependence",
)


def markdown_report(
    evaluations: Mapping[str, Mapping[str, float]],
    reference_lines: Mapping[str, float],
    fields: Sequence[str] = MAIN_FIELDS,
) -> str:
    """A Markdown table of splits by metrics.

    Args:
      evaluations: split to its metrics (average_precision.py).
      reference_lines: what a figure is to be held against, by meaning
        (`{"chance": 0.25}`); may be empty.
      fields: the metrics to show; those that no split has are left out.

    Returns:
      Lines without a trailing newline; a figure that is absent or nan shows "-".
    """
    shown = [f for f in fields if any(f in metrics for metrics in evaluations.values())]
    rows = [
        (split, [metrics.get(field, math.nan) for field in shown])
        for split, metrics in evaluations.items()
    ]
    text = markdown_table("split", shown, rows)
    if reference_lines:
        parts = (f"{value:.2f} = {name}" for name, value in reference_lines.items())
        text += "\n\nReference lines: " + ", ".join(parts)
    return text


def per_class_table(
    metrics: Mapping[str, float],
    class_names: Sequence[str],
    fields: Sequence[str] = PER_CLASS_FIELDS,
) -> str:
    """A Markdown table of classes by metrics.

    Args:
      metrics: those of one split (average_precision.py: COCO's, VOC's or both).
      class_names: the rows, in order; the last row is the mean over all classes.
      fields: the metrics to show, without `/class`; those that there are not are left
        out.

    Returns:
      Lines without a trailing newline; a class without objects shows "-".
    """
    shown = [
        field
        for field in fields
        if any(f"{field}/{name}" in metrics for name in class_names)
    ]
    rows = [
        (name, [metrics.get(f"{field}/{name}", math.nan) for field in shown])
        for name in class_names
    ]
    rows.append(("all", [metrics.get(field, math.nan) for field in shown]))
    return markdown_table("class", shown, rows)


def markdown_table(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | str]]],
) -> str:
    """A table of figures, aligned so that its Markdown also reads as text.

    Args:
      corner: what the rows' names are.
      columns: the heads of the columns of figures.
      rows: (name, a figure or its text for each column); nan shows "-".

    Returns:
      Lines without a trailing newline.
    """
    cells = [[corner, *columns]]
    for name, values in rows:
        # A bar in a name would end its cell.
        cells.append([name.replace("|", "\\|"), *map(_cell, values)])
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(row, widths) for row in (cells[0], rule, *cells[1:])]
    return "\n".join(lines)


def _line(cells, widths):
    first, *others = cells
    padded = [first.ljust(widths[0])]
    padded += [c.rjust(width) for c, width in zip(others, widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"


def _cell(value):
    if isinstance(value, str):
        return value
    return "-" if math.isnan(value) else f"{value:.3f}"
