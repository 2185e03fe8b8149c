"""Tables of metrics as Markdown text."""

import math

from borrow_det.visualization.tables import markdown_report, per_class_table


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


def test_per_class_table():
    metrics = {"AP": 0.5, "AP/cat": 0.75, "AP/sea | lion": 0.25, "AP50": 1.0}
    metrics |= {"AP50/cat": 1.0, "AP50/sea | lion": math.nan}
    metrics |= {"AP_11point/cat": 0.125, "AP_11point": 0.125}
    assert per_class_table(metrics, ["cat", "sea | lion"]).splitlines() == [
        "| class       |    AP |  AP50 | AP_11point |",
        "| ----------- | ----: | ----: | ---------: |",
        "| cat         | 0.750 | 1.000 |      0.125 |",
        "| sea \\| lion | 0.250 |     - |          - |",
        "| all         | 0.500 | 1.000 |      0.125 |",
    ]
