"""The rows of an evaluation: with every box, however many, and which are small."""

import types

import numpy as np
import pytest

from borrow_det.data import sources
from borrow_det.tasks.detection_evaluator import DetectionEvaluator, score


@pytest.fixture
def evaluator(tiny_config):
    split = sources.load(tiny_config.dataset, "val")
    return DetectionEvaluator(split, tiny_config)


@pytest.mark.parametrize(
    ("max_boxes", "rows"), [(12, 12), (4, 12), (3, 12), (50, 50), (0, 12)]
)
def test_no_box_is_left_out(tiny_config, evaluator, max_boxes, rows):
    tiny_config.dataset.max_boxes = max_boxes
    counts = [len(evaluator.split[i]["boxes"]) for i in range(len(evaluator.split))]
    assert 8 < max(counts) <= 12
    batches = evaluator.batches()
    found = []
    for batch in batches:
        assert batch["boxes"].shape == (4, rows, 4)
        found += batch["box_mask"].sum(axis=1).tolist()
    assert found == [*counts, 0]  # The last row is padding.
    assert batches.counts == {}


def test_small_is_the_area_of_the_annotation(tiny_config, evaluator):
    record = dict(evaluator.split[0])
    record["area"] = np.full(len(record["boxes"]), 1025.0, np.float32)
    record["area"][[0, 2]] = 0.0, 1024.0
    row = evaluator.row(record)
    np.testing.assert_array_equal(np.flatnonzero(row["small"]), [0, 2])
    assert len(row["small"]) == 12


def test_small_can_be_measured_in_pixels_of_the_input(tiny_config, evaluator):
    record = dict(evaluator.split[0])
    # An eighth of the image.
    tiny_config.input_size = (record["height"] // 2, record["width"] // 4)
    record["area"] = np.full(len(record["boxes"]), 8 * 1024 + 8.0, np.float32)
    record["area"][1] = 8 * 1024
    tiny_config.evaluation.area_pixels = "input"
    row = evaluator.row(record)
    np.testing.assert_array_equal(np.flatnonzero(row["small"]), [1])


def test_the_pixels_of_areas_decide_which_objects_are_small(tiny_config):
    """A 40 x 40 object of a 256 x 512 image is 20 x 20 where the input is 128 x 256."""
    tiny_config.input_size = (128, 256)
    near, far = [0.0, 0.0, 40.0, 40.0], [100.0, 100.0, 80.0, 80.0]
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "height": 256, "width": 512}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": near, "area": 1600.0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": far, "area": 6400.0},
        ],
    }
    found = [{"image_id": 7, "category_id": 3, "bbox": near, "score": 0.9}]
    original = score(truth, found, tiny_config)
    assert np.isnan(original["AP_small"])
    tiny_config.evaluation.area_pixels = "input"
    of_input = score(truth, found, tiny_config)
    assert of_input["AP_small"] == 1.0
    assert of_input["AP_medium"] == 0.0
    assert of_input["objects_small_with_lender"] == 1
    assert of_input["objects_small_without_lender"] == 0
    assert of_input["AP_small_with_lender"] == 1.0
    assert of_input["AP"] == original["AP"] == pytest.approx(0.5, abs=0.01)


def test_attention_and_ap_count_the_same_small_objects(tiny_config, evaluator):
    tiny_config.evaluation.area_pixels = "input"
    # About half of the objects are small there.
    area = np.median([a["area"] for a in evaluator.truth["annotations"]])
    side = int(32 * 64 / area**0.5)
    tiny_config.input_size = (side, side)
    row = evaluator.row
    rows = [row(evaluator.split[i]) for i in range(len(evaluator.split))]
    attended = sum(int(r["small"].sum()) for r in rows)
    figures = score(evaluator.truth, [], tiny_config)
    counted = [figures[f"objects_small_{g}_lender"] for g in ("with", "without")]
    assert 0 < attended < len(evaluator.truth["annotations"])
    assert attended == sum(counted)


@pytest.mark.parametrize(("pixels", "accuracy"), [("original", np.nan), ("input", 1)])
def test_counterfactual_metrics_measure_areas_in_the_same_pixels(
    tiny_config, pixels, accuracy
):
    """An 80 x 80 object of a 400 x 400 image is small where the input is 64 x 64."""
    tiny_config.evaluation.area_pixels = pixels
    box = {"image_id": 1, "category_id": 2, "bbox": [0, 0, 80, 80]}
    truth = {
        "images": [{"id": 1, "height": 400, "width": 400}],
        "categories": [{"id": 2, "name": "cat"}],
        "annotations": [box],
    }
    splits = {"validation": None, "swapped": "validation"}
    evaluators = [
        DetectionEvaluator(
            types.SimpleNamespace(name=name, counterfactual_of=factual),
            tiny_config,
            truth,
        )
        for name, factual in splits.items()
    ]
    figures = DetectionEvaluator.compare(
        evaluators, lambda evaluator: [{**box, "score": 0.9}]
    )
    for split in splits:
        np.testing.assert_equal(figures[f"{split}/small_accuracy"], accuracy)


@pytest.mark.parametrize(
    ("objects", "area_pixels", "expected"),
    [
        ([], "original", None),
        ([{"side": 32, "iscrowd": 1}], "original", None),
        ([{"side": 32}], "original", "AP_small"),
        ([{"side": 33}], "original", "AP"),
        ([{"side": 33}], "input", "AP_small"),  # The input has half the pixels.
        ([{"side": 33, "area": 1024}], "original", "AP_small"),
        ([{"side": 20, "difficult": 1}, {"side": 50}], "original", "AP"),
    ],
)
def test_the_best_checkpoint_is_chosen_by_small_objects_that_count(
    tiny_config, objects, area_pixels, expected
):
    tiny_config.evaluation.area_pixels = area_pixels
    tiny_config.input_size = (64, 64)
    annotations = [
        {"id": i, "image_id": 7, "category_id": 3, "bbox": [0, 0, o["side"], o["side"]]}
        | {name: value for name, value in o.items() if name != "side"}
        for i, o in enumerate(objects, start=1)
    ]
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "height": 64, "width": 128}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": annotations,
    }
    evaluator = DetectionEvaluator(types.SimpleNamespace(), tiny_config, truth)
    assert evaluator.default_metric() == expected
    # It is one of those that are defined, of which AP_small is one with small objects.
    names = evaluator.choosing_metrics()
    assert names[:1] == (() if expected is None else ("AP",))
    assert ("AP_small" in names) == (expected == "AP_small")


def test_a_run_without_references_counts_lenders_in_groups_that_a_field_names(
    tiny_config,
):
    found = {}
    for kind, field in (("none", ""), ("none", "_(1?)"), ("group", "_(1?)")):
        tiny_config.references.update(kind=kind, field=field)
        split = sources.load(tiny_config.dataset, "val")
        evaluator = DetectionEvaluator(split, tiny_config)
        figures = evaluator.score([])
        found[kind, field] = {k: v for k, v in figures.items() if "in_group" in k}
        fields = next(iter(evaluator.batches())).keys()
        assert ("reference_image" in fields) == (kind == "group")
    assert found["none", ""] == {}
    np.testing.assert_equal(found["none", "_(1?)"], found["group", "_(1?)"])
    assert found["none", "_(1?)"]["objects_small_with_lender_in_group"] > 0
