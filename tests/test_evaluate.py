"""A pass over a split is complete for any batch size, and its metrics are right."""

import json
import shutil

import jax
import numpy as np
import pytest

from borrow_det import evaluate
from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError
from borrow_det.tasks import detection, detection_evaluator
from borrow_det.workdir import checkpoints


def make_mesh(devices):
    axes = {"data": -1, "fsdp": 1}
    return mesh_lib.make_mesh(axes, jax.devices()[:devices])


@pytest.fixture(scope="module")
def run_pass(tiny_run):
    """A function: what is found in the 7 images of val in batches of some size.

    (detections, the measures of what was observed)
    """
    split = sources.load(tiny_run.config.dataset, "val")
    variables = checkpoints.restore_variables(tiny_run.workdir)

    def run_pass(batch_size, devices):
        config = tiny_run.config.copy_and_resolve_references()
        config.eval_batch_size = batch_size
        mesh = make_mesh(devices)
        task = detection.DetectionTask(config, 4)
        predictor = evaluate.Predictor(task, mesh)
        evaluator = detection_evaluator.DetectionEvaluator(split, config)
        found, observations = [], []
        for image_id, one in predictor.predict(variables, evaluator.batches()):
            found += evaluator.results(image_id, one)
            observations.append(evaluator.observe(one))
        return found, evaluator.measure(observations)

    return run_pass


def by_image(detections):
    """Boxes with scores, [n, 5], and categories of each image."""
    images = {}
    for d in detections:
        images.setdefault(d["image_id"], []).append(d)
    return {
        image_id: (
            np.array([[*d["bbox"], d["score"]] for d in found]),
            [d["category_id"] for d in found],
        )
        for image_id, found in images.items()
    }


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (3, 1), (8, 2)])
def test_detections_do_not_depend_on_the_batch(tiny_run, run_pass, batch_size, devices):
    path = tiny_run.workdir / "evaluations/val/4.detections.json"
    expected = json.loads(path.read_text())
    found, measures = run_pass(batch_size, devices)
    # All images are there, once and in order: the run's network finds in all.
    order = list(dict.fromkeys(d["image_id"] for d in found))
    assert order == list(range(10, 17))
    expected, by_id = by_image(expected), by_image(found)
    assert set(by_id) == set(expected)
    for image_id, (boxes, categories) in by_id.items():
        assert categories == expected[image_id][1]
        np.testing.assert_allclose(boxes, expected[image_id][0], atol=2e-3)
    truth = sources.ground_truth(sources.load(tiny_run.config.dataset, "val"))
    metrics = detection_evaluator.score(truth, found, tiny_run.config) | measures
    assert set(metrics) == set(tiny_run.metrics["val"])
    for name, value in tiny_run.metrics["val"].items():
        np.testing.assert_allclose(
            metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_evaluation_has_the_metrics_of_borrowing(tiny_run):
    metrics = tiny_run.metrics["val"]
    groups = ("with_lender", "without_lender")
    expected = {
        f"{name}_small_{group}"
        for name in ("AP", "AP50", "AR", "objects")
        for group in groups
    }
    figures = ("objects", "entropy", "query_dependence")
    figures += tuple(f"share_level{m}" for m in (2, 3, 4))
    for name in ("precision", "positions", "lift"):
        figures += (f"{name}_same", f"{name}_other")
    expected |= {f"attention/{part}{f}" for f in figures for part in ("", "level1/")}
    assert expected <= set(metrics)
    assert {n for n in metrics if n.startswith("attention")} <= expected
    # At 64 pixels all discs are small; the large ones have no source.
    split = sources.load(tiny_run.config.dataset, "val")
    boxes = [len(split[i]["boxes"]) for i in range(len(split))]
    assert metrics["objects_small_without_lender"] == 2 * len(boxes)
    assert metrics["objects_small_with_lender"] == sum(boxes) - 2 * len(boxes)
    assert 0 < metrics["attention/objects"] <= metrics["objects_small_with_lender"]
    shares = [metrics[f"attention/share_level{m}"] for m in (2, 3, 4)]
    assert sum(shares) == pytest.approx(1, rel=1e-5)
    precision = metrics["attention/lift_same"] * metrics["attention/positions_same"]
    assert metrics["attention/precision_same"] == pytest.approx(precision)


def test_evaluate_writes_what_it_returns(tiny_run, tmp_path):
    config = tiny_run.config.copy_and_resolve_references()
    config.evaluation.voc = True
    config.report.num_pictures = 3
    split = sources.load(config.dataset, "val[:5]")
    mesh = make_mesh(2)
    task = detection.DetectionTask(config, 4)
    variables = checkpoints.restore_variables(tiny_run.workdir)
    path = evaluate.metrics_path(tmp_path, "val[:5]", 17)
    metrics, pictures = evaluate.evaluate(
        evaluate.Predictor(task, mesh),
        variables,
        detection_evaluator.DetectionEvaluator(split, config),
        path,
    )
    folder = tmp_path / "evaluations" / "val_5"
    written = json.loads((folder / "17.json").read_text())
    assert written.pop("step") == 17
    expected = {k: None if np.isnan(v) else v for k, v in metrics.items()}
    assert written == expected
    np.testing.assert_equal(evaluate.read_metrics(path), metrics)
    assert {"AP", "AP_11point", "AP_allpoint"} <= set(metrics)
    detections = json.loads((folder / "17.detections.json").read_text())
    assert {d["image_id"] for d in detections} == set(range(10, 15))
    analysis = json.loads((folder / "17.analysis.json").read_text())
    assert analysis["classes"] == list(split.class_names)
    objects = analysis["curves"]["all"]["all"]["objects"]
    assert objects == sum(len(split[i]["boxes"]) for i in range(5))
    assert np.sum(analysis["confusion"]["counts"][:-1]) == objects
    for group, counts in analysis["errors"]["small_objects"].items():
        number = counts.pop("objects")
        assert number == metrics[f"objects_small_{group}"] == sum(counts.values())
    names = sorted(path.name for path in (folder / "17").iterdir())
    assert len(set(names)) == len(pictures) == 3
    assert set(names) < {f"{10 + i}_val_{i}.png" for i in range(5)}
    # Truth on the left, detections on the right, of 64 pixels each.
    assert pictures[0].shape[1] >= 128


def test_coco_results_are_pixels_and_category_ids():
    (result,) = detection_evaluator.coco_results(
        12,
        np.array([100, 200]),
        np.float32([[0.1, 0.2, 0.5, 0.25]]),
        np.float32([0.75]),
        np.array([1]),
        category_ids=(4, 9),
    )
    assert result == {
        "image_id": 12,
        "category_id": 9,
        "bbox": [40.0, 10.0, 10.0, 40.0],
        "score": 0.75,
    }


def copy_val(folder, destination):
    """Copies val alone, since train would be prepared, too; returns its COCO file."""
    coco = json.loads((folder / "annotations" / "val.json").read_text())
    (destination / "annotations").mkdir(parents=True)
    shutil.copy(folder / "annotations" / "val.json", destination / "annotations")
    (destination / "images").mkdir()
    for image in coco["images"]:
        shutil.copy(folder / "images" / image["file_name"], destination / "images")
    return coco


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
def test_ground_truth_as_detections_scores_one(shared, tmp_path, name):
    coco = copy_val(shared / "data" / name, tmp_path / name)
    config = base.get_config()
    config.dataset.name = "folder"
    config.dataset.path = str(tmp_path / name)
    config.dataset.data_dir = str(tmp_path)
    config.dataset.bad_boxes = "clip"
    config.evaluation.voc = True
    config.eval_batch_size = 10
    config.dataset.canvas = (96, 96)  # Smaller than the images.
    config.evaluation.max_detections = 1000
    split = sources.load(config.dataset, "val")
    truth = sources.ground_truth(split)
    assert [i["file_name"] for i in truth["images"]] == [
        i["file_name"] for i in coco["images"]
    ]
    sizes = {i["id"]: np.array([i["height"], i["width"]]) for i in coco["images"]}
    detections = []
    for i in range(len(split)):
        record = split[i]
        kept = ~record["is_crowd"] & ~record["is_difficult"]
        detections += detection_evaluator.coco_results(
            record["image_id"],
            sizes[record["image_id"]],
            record["boxes"][kept],
            np.ones(kept.sum(), np.float32),
            record["labels"][kept],
            split.category_ids,
        )
    assert len(detections) == len(coco["annotations"]) > 24
    for label, category_id in enumerate(split.category_ids):
        assert split.class_names[label] == next(
            c["name"] for c in coco["categories"] if c["id"] == category_id
        )
    metrics = detection_evaluator.score(truth, detections, config)
    for figure in ("AP", "AP50", "AP75", "AP_11point", "AP_allpoint"):
        assert metrics[figure] == pytest.approx(1.0, abs=1e-9), figure
    # Against the annotation file itself, as well as what was made of it.
    for annotation in coco["annotations"]:
        annotation.setdefault("difficult", 0)
    again = detection_evaluator.score(coco, detections, config)
    assert again["AP50"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("val", "val"), "evaluations of val and of val"),
        (("val[:8]", "val[8:]"), r"of val\[8:\] and of val\[:8\].* one folder, val_8"),
        (("counterfactual",), "of counterfactual and of what compares splits"),
    ],
)
def test_splits_that_would_share_a_folder_are_refused(splits, message):
    with pytest.raises(InputError, match=message):
        evaluate.check_splits(splits)
    evaluate.check_splits(("val", "train[:8]"))
