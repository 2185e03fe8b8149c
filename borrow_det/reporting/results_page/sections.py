"""Sections of a results page that need no script: figures, curves, confusion, errors.

Their numbers are those of STEP.json and STEP.analysis.json.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from borrow_det.evaluation.analysis import ALL, curve_key
from borrow_det.reporting import html_page
from borrow_det.reporting.results_page import curves as plots
from borrow_det.visualization import tables

_MOST_CLASSES = 100  # Of the confusion matrix and of the curves by class.
_SHADES = 10  # Classes shade1 to shade10 of page.css.
_MATRIX = (
    "Rows are annotated classes, columns detected ones. The column background counts "
    "objects without a detection, the row background detections without an object. A "
    "share is that of the row."
)
_KINDS = (
    "Kinds of false positives: localization overlaps an object of its class by an IoU "
    "of 0.1 to 0.5; classification is on an object of another class; with both, "
    "neither class nor box fit; duplicate is on an object that another detection "
    "found; background is any other. An object is missed if no detection finds it and "
    "no error of localization or classification is on it. The AP50 columns have the "
    "gain of AP50 if this kind alone were corrected, with detections of all scores."
)
_LENDERS = (
    "A lender is a larger object of the same class in the image, from which a small "
    "object may borrow features."
)


def figures(metrics: Mapping[str, float], max_detections: int) -> str:
    """Returns the tables of average precision by size, and of borrowing.

    Args:
      metrics: metrics of the evaluation.
      max_detections: number of detections of an image and class that count.
    """
    names = {
        "AP": ("AP", "AP_small", "AP_medium", "AP_large"),
        "AP50": ("AP50", "AP50_small", "AP50_medium", "AP50_large"),
        "AP75": ("AP75", "", "", ""),
        f"AR_{max_detections}": (
            *(f"AR_{max_detections}", "AR_small", "AR_medium", "AR_large"),
        ),
    }
    rows = [
        [row, *(number(metrics.get(cell)) if cell else "" for cell in cells)]
        for row, cells in names.items()
    ]
    columns = ("metric", "all", "small", "medium", "large")
    text = html_page.number_table(columns, rows, "Average precision and recall by size")
    borrowing = [
        [html.escape(name), number(metrics[name])]
        for name in tables.BORROWING_FIELDS
        if name in metrics
    ]
    if borrowing:
        text += html_page.number_table(("metric", "value"), borrowing, "Borrowing")
    return text


def classes(
    metrics: Mapping[str, float],
    class_names: Sequence[str],
    best: Mapping[str, Mapping[str, float] | None],
) -> str:
    """Returns the table of classes.

    Args:
      metrics: metrics of the evaluation.
      class_names: name of each label.
      best: point of the best F1 of each class; None without one.
    """
    fields = ("score", "precision", "recall", "f1")
    rows = []
    for name in class_names:
        point = best.get(name) or {}
        row = [metrics.get(f"{field}/{name}") for field in ("AP", "AP50")]
        row += [point.get(field) for field in fields]
        rows.append([html.escape(name), *map(number, row)])
    columns = ("class", "AP", "AP50", "score of best F1", "precision", "recall", "F1")
    return html_page.number_table(columns, rows, "Classes, each at its best F1")


def comparison(compared: Mapping[str, float]) -> str:
    """Returns the table of metrics that compare splits; "" without any."""
    splits, fields = tables.compared_by_split(compared)
    rows = [
        [html.escape(split), *(number(metrics.get(field)) for field in fields)]
        for split, metrics in splits.items()
    ]
    if not rows:
        return ""
    return html_page.number_table(("split", *fields), rows, "Comparison of the splits")


def curves(analysis: Mapping[str, Any], threshold: float) -> str:
    """Draws the curves of all classes together and of each class."""
    drawn, sizes = analysis["curves"], analysis["sizes"]
    names = analysis["classes"]
    text = plots.figures(drawn[ALL], threshold, sizes)
    if len(names) > _MOST_CLASSES:
        return text + _paragraph(
            f"Curves of the {len(names)} classes are in the analysis file only."
        )
    single = "".join(
        f"<h3>{html.escape(name)}</h3>\n"
        f"{plots.figures(drawn[curve_key(name)], threshold, sizes)}"
        for name in names
    )
    return f"{text}<details><summary>Curves by class</summary>\n{single}</details>\n"


def operating_points(analysis: Mapping[str, Any]) -> str:
    """Returns the table of operating points, without those that no score reaches."""
    fields = ("score", "precision", "recall", "f1")
    rows = [
        [html.escape(name), *(number(point[field]) for field in fields)]
        for name, point in analysis["operating_points"].items()
        if point
    ]
    columns = ("point", "score", "precision", "recall", "F1")
    return html_page.number_table(columns, rows, "Operating points") if rows else ""


def confusion(analysis: Mapping[str, Any]) -> str:
    """Returns the confusion matrix as a table of counts and shares of a row."""
    matrix = analysis["confusion"]
    names = matrix["classes"]
    if len(names) > _MOST_CLASSES + 1:
        return _paragraph(
            f"The matrix of {len(names)} rows is in the analysis file only."
        )
    rows = []
    for name, counts in zip(names, matrix["counts"], strict=True):
        total = sum(counts)
        cells = [_shaded(count, count / total if total else 0.0) for count in counts]
        rows.append([html.escape(name), *cells, str(total)])
    score = matrix["score"]
    caption = f"Confusion matrix at an IoU of {matrix['iou']:g}"
    caption += (
        "; no detection is counted, as there is no best F1"
        if score is None
        else f" and a score of {score:.3f}"
    )
    columns = ("annotated", *names, "sum")
    return _paragraph(_MATRIX) + html_page.number_table(columns, rows, caption)


def errors(analysis: Mapping[str, Any]) -> str:
    """Returns the tables of errors: counts by kind and size, and the AP they cost."""
    found, sizes = analysis["errors"], analysis["sizes"]
    kept = found["at_score"]
    score = kept["score"]
    at = "" if score is None else f" at a score of {score:.3f}, the best F1"
    rows = []
    for kind in found["kinds"]:
        counts = [str(kept["counts"][kind][size]) for size in sizes]
        costs = [number(found["AP50_cost"][kind][size]) for size in sizes]
        rows.append([html.escape(kind), *counts, *costs])
    columns = ("kind", *sizes, *(f"AP50, {size}" for size in sizes))
    groups = {
        "with a lender": kept["small_objects"]["with_lender"],
        "without a lender": kept["small_objects"]["without_lender"],
    }
    small = [[name, *map(str, group.values())] for name, group in groups.items()]
    outcomes = ("small objects", *groups["with a lender"])
    return (
        _paragraph(_KINDS)
        + html_page.number_table(columns, rows, f"Errors{at}; the AP50 that they cost")
        + _paragraph(_LENDERS)
        + html_page.number_table(outcomes, small, f"Small objects{at}")
    )


def _shaded(count: int, share: float) -> str:
    """Returns a count and its share, on a shade that grows with the share."""
    if not count:
        return '<span class="none">0</span>'
    shade = max(1, math.ceil(share * _SHADES))
    return f'<span class="shade{shade}">{count} <small>{share:.0%}</small></span>'


def _paragraph(sentence: str) -> str:
    return f"<p>{html.escape(sentence)}</p>\n"


def number(value: float | None) -> str:
    """Returns a metric as text; a dash if it is absent or undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
