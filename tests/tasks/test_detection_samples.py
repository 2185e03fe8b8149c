"""Resampled metrics equal those of an evaluation if every image is drawn once."""

import json

import numpy as np
import pytest

from borrow_det.data import sources
from borrow_det.errors import InputError
from borrow_det.evaluation import bootstrap
from borrow_det.tasks import detection_samples
from borrow_det.tasks.detection_evaluator import DetectionEvaluator


def guess(truth, seed):
    """Detections on the objects, shifted, and some of them of the wrong class."""
    rng = np.random.default_rng(seed)
    classes = [category["id"] for category in truth["categories"]]
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": int(
                annotation["category_id"] if rng.random() < 0.7 else rng.choice(classes)
            ),
            "bbox": [v + rng.normal(0, 0.8) for v in annotation["bbox"]],
            "score": float(rng.random()),
        }
        for annotation in truth["annotations"] * 2
    ]


FIELDS = {
    "none": {},
    "input": {"evaluation.area_pixels": "input", "input_size": (32, 32)},
    "few": {"evaluation.max_detections": 2},
    "group": {"references.kind": "group", "references.field": r"_\d*(\d)"},
}


@pytest.mark.parametrize("kind", FIELDS)
def test_metrics_of_every_image_once_are_those_of_the_evaluation(kind, tiny_config):
    tiny_config.update_from_flattened_dict(FIELDS[kind])
    (split,) = sources.load_splits(tiny_config.dataset, ["train"])
    evaluator = DetectionEvaluator(split, tiny_config)
    results = guess(evaluator.truth, 5)
    units = detection_samples.units(evaluator)
    assert units.kind == ("group" if kind == "group" else "image")
    found = detection_samples.metrics(
        evaluator, results, units, np.ones((len(units.keys), 1))
    )
    expected = evaluator.score(results)
    limit = tiny_config.evaluation.max_detections
    sets = ["small", "small_with_lender", "small_without_lender"]
    if kind == "group":
        sets += ["small_with_lender_in_group", "small_without_lender_in_group"]
    assert {*found} == {
        *("AP", "AP50", "AP75", f"AR_{limit}"),
        *(f"{figure}_{name}" for figure in ("AP", "AP50", "AR") for name in sets),
    }
    for name, values in found.items():
        assert values == pytest.approx([expected[name]], abs=1e-12, nan_ok=True), name


def test_units_are_the_groups_of_references_then_of_the_dataset(tiny_config):
    tiny_config.dataset.group = "_(1?)"
    (split,) = sources.load_splits(tiny_config.dataset, ["train"])

    def keys():
        return detection_samples.units(DetectionEvaluator(split, tiny_config)).keys

    assert keys() == ("", "1")
    tiny_config.references.field = r"_\d*(\d)"
    assert len(keys()) == 10
    tiny_config.references.field = "clip"
    with pytest.raises(InputError, match="no image has the field 'clip'"):
        keys()


def test_images_of_a_video_are_one_unit(tiny_config, tmp_path, scenes):
    content = json.loads((scenes / "annotations" / "train.json").read_text())
    for image in content["images"]:
        image["video"] = image["id"] // 4
        image["file_name"] = str(scenes / image["file_name"])
    (tmp_path / "train.json").write_text(json.dumps(content))
    tiny_config.dataset.path = str(tmp_path)
    tiny_config.dataset.eval_splits = ("train",)
    (split,) = sources.load_splits(tiny_config.dataset, ["train"])
    units = detection_samples.units(DetectionEvaluator(split, tiny_config))
    assert (units.kind, units.keys) == ("group", ("2", "3", "4", "5"))
    assert units.of_image[11] == 0
    assert units.of_image[12] == 1


def test_shares_of_every_image_once_are_those_of_the_comparison(
    few_scenes, tiny_config, tmp_path
):
    tiny_config.dataset.name = "scale_pairs"
    tiny_config.dataset.image_size = 64
    tiny_config.dataset.data_dir = str(tmp_path)
    names = ["validation", "swapped", "alone"]
    with few_scenes(num_train=2, num_validation=8):
        splits = sources.load_splits(tiny_config.dataset, names)
    evaluators = [DetectionEvaluator(split, tiny_config) for split in splits]
    results = {
        split.name: guess(evaluator.truth, seed)
        for seed, (split, evaluator) in enumerate(zip(splits, evaluators, strict=True))
    }

    def read_results(evaluator):
        return results[evaluator.split.name]

    units = detection_samples.units(evaluators[0])
    expected = DetectionEvaluator.compare(evaluators, read_results)
    found = detection_samples.compared(evaluators, read_results, units, np.ones((8, 1)))
    assert {*found} == {*expected} >= {"swapped/consistency", "alone/small_accuracy"}
    for name, values in found.items():
        assert values == pytest.approx([expected[name]]), name
    weights = bootstrap.draw(8, 200)
    varied = detection_samples.compared(evaluators, read_results, units, weights)
    consistency = varied["swapped/consistency"]
    assert consistency.std() > 0
    assert consistency.mean() == pytest.approx(expected["swapped/consistency"], abs=0.1)
