"""Markdown tables of metrics and errors, readable as plain text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
    "AP_small_with_lender",
    "AP_small_without_lender",
    "AP_small_with_lender_in_group",
    "AP_small_without_lender_in_group",
    "attention/precision_same",
    "attention/precision_references",
    "attention/share_references",
    "attention/lift_same",
    "attention/lift_other",
    "attention/entropy",
    "attention/query_dependence",
)


def markdown_report(
    evaluations: Mapping[str, Mapping[str, float]],
    reference_lines: Mapping[str, float],
    fields: Sequence[str] = MAIN_FIELDS,
) -> str:
    """Formats the metrics of splits as a Markdown table, one row for each split.

    Args:
      evaluations: metrics of each split (see evaluation/average_precision.py).
      reference_lines: values to compare the metrics with, by meaning
        (`{"chance": 0.25}`); may be empty.
      fields: metrics to show; those that no split has are left out.

    Returns:
      The table, without a trailing newline; "-" for values that are absent or nan.
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
    """Formats the metrics of classes as a Markdown table, one row for each class.

    Args:
      metrics: metrics of one split, COCO's, VOC's or both (see evaluation/).
      class_names: the rows; a last row has the means over all classes.
      fields: metrics to show, without `/CLASS`; those that are absent are left out.

    Returns:
      The table, without a trailing newline; "-" for classes without objects.
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


def error_tables(errors: Mapping[str, Any]) -> str:
    """Formats the kinds of errors of an evaluation as Markdown tables.

    The counts are those at the score of the best F1. The second table has the small
    objects with and without a lender; it is left out if there are none.

    Args:
      errors: counts and costs by kind and size (evaluation/errors.py).

    Returns:
      The tables and a line about each, without a trailing newline; "-" for undefined
      costs.
    """
    kept, costs = errors["at_score"], errors["AP50_cost"]
    counts = kept["counts"]
    sizes = list(counts[errors["kinds"][0]])[1:]
    rows: list[tuple[str, list[float | str]]] = [
        (kind, [*map(str, counts[kind].values()), *map(_number, costs[kind].values())])
        for kind in errors["kinds"]
    ]
    columns = ("errors", *sizes, "AP50", *(f"AP50_{size}" for size in sizes))
    score = kept["score"]
    at_score = "" if score is None else f" at a score of {score:.3f}, the best F1"
    text = f"Errors by kind and size{at_score}; the AP50 that each kind costs:\n\n"
    text += markdown_table("kind", columns, rows)
    groups = kept["small_objects"]
    if any(group["objects"] for group in groups.values()):
        text += f"\n\nSmall objects{at_score}; the errors of those not found:\n\n"
        text += markdown_table(
            "small objects",
            list(groups["with_lender"]),
            [
                (name.replace("_", " "), [str(n) for n in group.values()])
                for name, group in groups.items()
            ],
        )
    return text


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def compared_by_split(
    compared: Mapping[str, float],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Groups metrics that compare splits, by `SPLIT/NAME`.

    Returns:
      (the metrics of each split, the names of all metrics).
    """
    splits: dict[str, dict[str, float]] = {}
    for name, value in compared.items():
        split, _, field = name.rpartition("/")
        splits.setdefault(split, {})[field] = value
    fields = dict.fromkeys(field for metrics in splits.values() for field in metrics)
    return splits, list(fields)


def markdown_table(
    corner: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | str]]],
) -> str:
    """Formats rows of values as a Markdown table with aligned columns.

    Args:
      corner: heading of the column of names.
      columns: headings of the columns of values.
      rows: (name, value or text for each column); "-" is shown for nan.

    Returns:
      The table, without a trailing newline.
    """
    cells = [[corner, *columns]]
    for name, values in rows:
        # An unescaped bar would end the cell.
        cells.append([name.replace("|", "\\|"), *map(_cell, values)])
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(row, widths) for row in (cells[0], rule, *cells[1:])]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = cells
    padded = [first.ljust(widths[0])]
    padded += [c.rjust(width) for c, width in zip(others, widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "-" if math.isnan(value) else f"{value:.3f}"
