"""The report of a run, on the console and in its file."""

import math
import types

import numpy as np
import PIL.Image
import pytest

from borrow_det.evaluation import analysis
from borrow_det.reporting import report
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.visualization import tables
from tests.evaluation.coco_records import A, detection, truth


@pytest.fixture
def write(tmp_path):
    """A function: writes the report of splits with these classes."""

    def write(metrics, compared=None, class_names=("cat", "dog"), analyses=None):
        evaluators = [
            types.SimpleNamespace(
                split=types.SimpleNamespace(
                    name=name, class_names=class_names, reference_lines={}
                ),
                figures=DetectionEvaluator.figures,
                results_name=DetectionEvaluator.results_name,
            )
            for name in metrics
        ]
        return report.write_report(
            evaluators,
            tmp_path,
            metrics,
            compared or {},
            analyses or {name: {} for name in metrics},
            with_curves=False,
        )

    return write


def test_each_class_of_each_split_has_a_row(write, tmp_path):
    metrics = {
        "val": {"AP": 0.5, "AP/cat": 0.75, "AP/dog": 0.25, "AP50/cat": 1.0},
        "test": {"AP": 0.125, "AP/cat": math.nan, "AP/dog": 0.125},
    }
    metrics["test"] |= {"AP_11point": 0.375, "AP_11point/dog": 0.375}
    (tmp_path / "evaluations").mkdir()
    shown = write(metrics)
    written = (tmp_path / "report.md").read_text()
    assert written.splitlines()[4:] == [
        "",
        "val, class by class:",
        "",
        "| class |    AP |  AP50 |",
        "| ----- | ----: | ----: |",
        "| cat   | 0.750 | 1.000 |",
        "| dog   | 0.250 |     - |",
        "| all   | 0.500 |     - |",
        "",
        "test, class by class:",
        "",
        "| class |    AP | AP_11point |",
        "| ----- | ----: | ---------: |",
        "| cat   |     - |          - |",
        "| dog   | 0.125 |      0.375 |",
        "| all   | 0.125 |      0.375 |",
    ]
    assert shown.startswith(written + "\n")
    assert shown.endswith(f"detections: {tmp_path / 'evaluations'}")


@pytest.mark.parametrize(("count", "on_console"), [(30, True), (31, False)])
def test_many_classes_are_in_the_file_only(write, tmp_path, count, on_console):
    names = tuple(f"class {i}" for i in range(count))
    metrics = {"val": {f"AP/{name}": 0.5 for name in names}}
    shown = write(metrics, class_names=names)
    assert ("class 29" in shown) == on_console
    assert f"| class {count - 1} |" in (tmp_path / "report.md").read_text()


def test_details_and_comparisons_have_separate_tables(write, tmp_path):
    metrics = {
        "val": {"AP": 0.5, "attention/lift_same": 2.5, "attention/entropy": 0.75}
    }
    compared = {"val/small_recall": 0.75, "swapped/small_recall": 1.0}
    compared |= {"swapped/consistency": 0.125}
    shown = write(metrics, compared)
    expected = [
        "| split |    AP |",
        "| ----- | ----: |",
        "| val   | 0.500 |",
        "",
        "| split | attention/lift_same | attention/entropy |",
        "| ----- | ------------------: | ----------------: |",
        "| val   |               2.500 |             0.750 |",
        "",
        "| split   | small_recall | consistency |",
        "| ------- | -----------: | ----------: |",
        "| val     |        0.750 |           - |",
        "| swapped |        1.000 |       0.125 |",
    ]
    assert shown.splitlines()[: len(expected)] == expected
    assert (tmp_path / "report.md").read_text().splitlines()[:12] == expected


def test_errors_of_splits_with_an_analysis_are_in_the_file_only(write, tmp_path):
    metrics = {name: {"AP": 0.5, "AP/cat": 0.5} for name in ("val", "test")}
    ground_truth = truth((1, 1, A, {}))
    found = analysis.analyze(ground_truth, [detection(1, 1, A, 0.5)], 2.0)
    shown = write(metrics, analyses={"val": found, "test": {}})
    table = tables.error_tables(found["errors"])
    written = (tmp_path / "report.md").read_text()
    assert written.endswith(f"\n\nval:\n\n{table}\n")
    assert "kind" not in shown


@pytest.fixture
def contact_sheet(tmp_path):
    """A function: writes a sheet of a split, and returns the images that it shows."""

    def contact_sheet(total, images, seed=0):
        shown = []

        def scene(split, index, side):
            shown.append(index)
            return np.full((side, side // 2, 3), index, np.uint8)

        evaluator = types.SimpleNamespace(scene=scene)
        report.write_contact_sheet(evaluator, range(total), images, tmp_path, seed)
        return shown

    return contact_sheet


def test_the_contact_sheet_has_random_images_of_the_seed(contact_sheet, tmp_path):
    shown = contact_sheet(200, 9, seed=1)
    assert len(set(shown)) == 9
    assert shown != list(range(9))
    assert contact_sheet(200, 9, seed=1) == shown
    assert contact_sheet(200, 9, seed=2) != shown
    sheet = PIL.Image.open(tmp_path / "contact_sheet.jpg")
    # Three rows of three images of 480 x 240 pixels.
    assert sheet.size == (3 * 248 + 8, 3 * 488 + 8)
    assert (tmp_path / "contact_sheet.jpg").stat().st_size < 1_000_000


def test_a_contact_sheet_of_no_images_is_not_written(contact_sheet, tmp_path):
    assert contact_sheet(200, 0) == contact_sheet(0, 9) == []
    assert list(tmp_path.iterdir()) == []
