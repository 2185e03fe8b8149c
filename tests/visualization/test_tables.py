"""Tables of metrics as Markdown text."""

import math

from borrow_det.evaluation import errors, pairing
from borrow_det.visualization.tables import (
    error_tables,
    markdown_report,
    per_class_table,
)
from tests.evaluation.coco_records import FAR, A, B, detection, truth


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


def find_errors(*records, score=None):
    pairs = {
        size: pairing.pair(*records, area_range=area_range)
        for size, area_range in pairing.SIZES.items()
    }
    return errors.analyze(*records, pairs, 2.0, score)


def test_tables_of_errors():
    # A found and a missed cat of 20 x 20 pixels. A false positive comes first, and
    # another one has a lower score than the table counts.
    ground_truth = truth((1, 1, A, {}), (1, 1, B, {}))
    detections = [detection(1, 1, FAR, 0.9), detection(1, 1, A, 0.8)]
    detections.append(detection(2, 1, FAR, 0.1))
    text = error_tables(find_errors(ground_truth, detections, score=0.8))
    none = ["     0", "    0", "     0", "    0"]
    one = ["     1", "    1", "     0", "    0"]
    rows = [
        (kind, *counts, cost, f"     {cost}", "          -", "         -")
        for kind, counts, cost in (
            ("classification", none, "0.000"),
            ("localization", none, "0.000"),
            ("both", none, "0.000"),
            ("duplicate", none, "0.000"),
            ("background", one, "0.252"),
            ("missed", one, "0.248"),
        )
    ]
    assert text.splitlines() == [
        "Errors by kind and size at a score of 0.800, the best F1; the AP50 that each "
        "kind costs:",
        "",
        "| kind           | errors | small | medium | large |  AP50 | AP50_small | "
        "AP50_medium | AP50_large |",
        "| -------------- | -----: | ----: | -----: | ----: | ----: | ---------: | "
        "----------: | ---------: |",
        *("| " + " | ".join([kind.ljust(14), *cells]) + " |" for kind, *cells in rows),
        "",
        "Small objects at a score of 0.800, the best F1; the errors of those not "
        "found:",
        "",
        "| small objects  | objects | found | classification | localization | missed |",
        "| -------------- | ------: | ----: | -------------: | -----------: | -----: |",
        "| with lender    |       0 |     0 |              0 |            0 |      0 |",
        "| without lender |       2 |     1 |              0 |            0 |      1 |",
    ]


def test_without_small_objects_there_is_no_table_of_them():
    text = error_tables(find_errors(truth((1, 1, [0, 0, 100, 100], {})), []))
    assert "| missed         |      1 |" in text
    assert "small objects" not in text.lower()
