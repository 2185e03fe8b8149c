"""The report's text."""

import math

from borrow_det.evaluation.report import markdown_report


def test_table_and_reference_lines():
    evaluations = {
        "validation": {"AP": 0.5, "AP50_small": 0.998, "AR_100": 0.7},
        "alone": {"AP": math.nan, "AP50_small": 0.25},
    }
    text = markdown_report(evaluations, {"chance": 0.25, "knows species": 0.5})
    assert text.splitlines() == [
        "| split      |    AP | AP50_small |",
        "| ---------- | ----: | ---------: |",
        "| validation | 0.500 |      0.998 |",
        "| alone      |     - |      0.250 |",
        "",
        "Reference lines: 0.25 = chance, 0.50 = knows species",
    ]


def test_without_reference_lines_there_is_only_the_table():
    text = markdown_report({"val": {"AR_1": 0.1, "AP": 1.0}}, {}, fields=("AR_1",))
    assert text.splitlines() == [
        "| split |  AR_1 |",
        "| ----- | ----: |",
        "| val   | 0.100 |",
    ]
