"""The figures of an evaluation as a short text for people."""

import math
from collections.abc import Mapping, Sequence

MAIN_FIELDS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP50_small",
    "AP50_medium",
    "AP50_large",
)


def markdown_report(
    evaluations: Mapping[str, Mapping[str, float]],
    reference_lines: Mapping[str, float],
    fields: Sequence[str] = MAIN_FIELDS,
) -> str:
    """A Markdown table of splits by metrics, aligned so that it also reads as text.

    Args:
      evaluations: split to its metrics (average_precision.py).
      reference_lines: what a figure is to be held against, by meaning
        (`{"chance": 0.25}`); may be empty.
      fields: the metrics to show; those that no split has are left out.

    Returns:
      Lines without a trailing newline; a figure that is absent or nan shows "-".
    """
    shown = [f for f in fields if any(f in metrics for metrics in evaluations.values())]
    rows = [["split", *shown]]
    for split, metrics in evaluations.items():
        rows.append([split, *(_cell(metrics.get(field, math.nan)) for field in shown)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, _line(rule, widths))
    if reference_lines:
        parts = (f"{value:.2f} = {name}" for name, value in reference_lines.items())
        lines += ["", "Reference lines: " + ", ".join(parts)]
    return "\n".join(lines)


def _line(cells, widths):
    first, *others = cells
    padded = [first.ljust(widths[0])]
    padded += [c.rjust(width) for c, width in zip(others, widths[1:], strict=True)]
    return "| " + " | ".join(padded) + " |"


def _cell(value):
    return "-" if math.isnan(value) else f"{value:.3f}"
