"""A run's metrics of a folder equal those of `score` on its files to the last digit."""

import json
import math

import numpy as np
import PIL.Image
import pytest

from borrow_det import evaluate
from borrow_det.configs import base
from borrow_det.evaluation import coco_format
from borrow_det.io.problems import Problems
from borrow_det.ops.nms import NmsOutput
from borrow_det.tasks.detection import DetectionPrediction
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tools import score
from borrow_det.tools.common import cli

IMAGES, OBJECTS, FOUND = 12, 9, 30
SIDE = 160
ROOT = {"id": 0, "name": "cell", "supercategory": "none"}
CATEGORIES = [
    {"id": 7, "name": "cell", "supercategory": "cell"},
    {"id": 3, "name": "cell", "supercategory": "cell"},
    {"id": 12, "name": "other", "supercategory": "cell"},
]


def annotation_file(rng):
    """Returns a file with random objects, whose sizes span the area ranges."""
    images, notes = [], []
    for i in range(IMAGES):
        height, width = (SIDE - i, SIDE - 3 * i)
        images.append(
            {"id": 100 + i, "file_name": f"{i}.png", "width": width, "height": height}
        )
        for _ in range(OBJECTS):
            sides = np.exp(rng.uniform(np.log(4), np.log(110), 2))
            low = rng.uniform(0, np.maximum([width, height] - sides, 1))
            sides = np.minimum(sides, [width, height] - low)
            notes.append(
                {
                    "id": len(notes) + 1,
                    "image_id": 100 + i,
                    "category_id": int(rng.choice([3, 7, 12])),
                    "bbox": [*low.tolist(), *sides.tolist()],
                    "area": float(sides.prod()) * 0.7,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return {
        "images": images,
        "annotations": notes,
        "categories": [dict(category) for category in (ROOT, *CATEGORIES)],
    }


def set_each(records, key, *values):
    """Sets a field of the records to the values in turn; `...` removes it."""
    for i, record in enumerate(records):
        value = values[i % len(values)]
        record.pop(key, None)
        if value is not ...:
            record[key] = value


def as_texts(data):
    for key in ("images", "categories"):
        set_each(data[key], "id", *(f"k{r['id']}" for r in data[key]))
    for key in ("image_id", "category_id"):
        values = [f"k{r[key]}" for r in data["annotations"]]
        set_each(data["annotations"], key, *values)


def outside(data):
    """Moves boxes out of their images, by half a pixel and by more; empties others."""
    for i, note in enumerate(data["annotations"]):
        if i % 5 < 3:
            note["bbox"][0] = (-0.5, -7.3, -200.0)[i % 5]
        if i % 11 == 0:
            note["bbox"] = [[1, 2, 0, 4], [1, 2, 3], None, [1, 2, 3, 1e999]][i % 4]


def polygons(data):
    for note in data["annotations"][::2]:
        x, y, width, height = note.pop("bbox")
        note["segmentation"] = [[x, y, x + width, y, x + width / 3, y + height]]


FORMS = {
    "plain": lambda data: None,
    "ignore": lambda data: set_each(data["annotations"], "ignore", 1, 0, False, "1"),
    "difficult": lambda data: set_each(data["annotations"], "difficult", "0", 1, "1"),
    "area absent": lambda data: set_each(data["annotations"], "area", ...),
    "area null": lambda data: set_each(data["annotations"], "area", None),
    "area 0": lambda data: set_each(data["annotations"], "area", 0, 0.0, 500),
    "text ids": as_texts,
    "texts of integers as ids": lambda data: (
        set_each(data["images"], "id", *(str(r["id"]) for r in data["images"])),
        set_each(data["annotations"], "category_id", "3", 7.0, 12, "12"),
    ),
    "only the root": lambda data: (
        set_each(data["categories"], "name", "cell", "cell", "b", "c"),
        set_each(data["annotations"], "category_id", 7),
    ),
    "root with objects": lambda data: set_each(
        data["annotations"], "category_id", 0, 3, 7, 12
    ),
    "polygons": polygons,
    "boxes outside, clip": outside,
    "boxes outside, drop": outside,
}


class Predictor:
    """Predicts boxes near the objects of each image, and false ones."""

    def __init__(self, split):
        self._split = split
        self._rng = np.random.default_rng(1)

    def predict(self, variables, batches, after_batch):
        del variables, after_batch
        position = 0
        for batch in batches:
            for image_id in batch["image_id"][batch["mask"]]:
                record = self._split[position]
                assert record["image_id"] == image_id
                position += 1
                yield int(image_id), self._prediction(record)

    def _prediction(self, record):
        rng = self._rng
        boxes = rng.uniform(0, 0.5, (FOUND, 4))
        boxes[:, 2:] += 0.5
        labels = rng.integers(0, len(self._split.class_names), FOUND)
        count = min(len(record["boxes"]), FOUND - 5)
        shift = rng.normal(0, 0.01, (count, 4))
        boxes[:count] = np.clip(record["boxes"][:count] + shift, 0, 1)
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        labels[:count] = record["labels"][:count]
        mask = np.arange(FOUND) < FOUND - 2
        # Few values, so that scores are equal across images.
        scores = rng.integers(1, 9, FOUND) / 10
        found = NmsOutput(
            boxes.astype(np.float32),
            scores.astype(np.float32),
            labels.astype(np.int32),
            mask,
            np.zeros(FOUND, np.int32),
        )
        return DetectionPrediction(found, {})


@pytest.mark.parametrize("form", FORMS)
def test_a_run_and_score_agree_to_the_last_digit(tmp_path, capsys, form):
    rng = np.random.default_rng(0)
    data = annotation_file(rng)
    FORMS[form](data)
    folder = tmp_path / "set"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for image in data["images"]:
        pixels = np.zeros((image["height"], image["width"], 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    truth_path = folder / "annotations" / "val.json"
    truth_path.write_text(json.dumps(data))
    policy = form.rpartition(", ")[2] if ", " in form else "error"

    config = base.get_config()
    config.dataset.name, config.dataset.path = "folder", str(folder)
    config.dataset.data_dir = str(tmp_path / "prepared")
    config.dataset.eval_splits = ("val",)
    config.dataset.bad_boxes = policy
    config.dataset.canvas = (SIDE, SIDE)
    config.borrow.enabled = False
    config.report.num_pictures = 1
    config.evaluation.voc = True
    (split,) = DetectionEvaluator.open_splits(config, ["val"])
    evaluator = DetectionEvaluator(split, config)
    path = tmp_path / "W/evaluations/val/4.json"
    evaluate.evaluate(Predictor(split), {}, evaluator, path)
    of_run = json.loads(path.read_text())
    results_path = path.with_suffix(".detections.json")

    capsys.readouterr()
    flags = [
        *(f"--ground_truth={truth_path}", f"--detections={results_path}"),
        *(f"--bad_boxes={policy}", "--voc", "--noinclusive_pixels"),
    ]
    assert cli.call(score.main, ["score", *flags]) == 0
    of_score = json.loads(capsys.readouterr().out)
    assert 0.05 < of_score["AP"] < 0.95
    assert of_score["AP_small"] is not None
    assert {name: of_run[name] for name in of_score} == of_score
    names = {name.removeprefix("AP/") for name in of_score if name.startswith("AP/")}
    assert names == set(split.class_names)

    annotations = coco_format.read_annotations(truth_path, Problems())
    ids = {image.id for image in annotations.images}
    found = json.loads(results_path.read_text())
    assert {detection["image_id"] for detection in found} == ids
    assert {d["category_id"] for d in found} <= set(split.category_ids)


def test_flags_and_areas_change_the_metrics():
    values = {}
    for form in ("plain", "ignore", "difficult", "area absent"):
        data = annotation_file(np.random.default_rng(0))
        FORMS[form](data)
        annotations = coco_format.parse_annotations(data, "f.json", Problems())
        objects = [o for image in annotations.images for o in image.objects]
        values[form] = (
            sum(o.is_difficult for o in objects),
            sum(o.area or math.nan for o in objects),
        )
    assert values["plain"][0] == 0
    assert values["ignore"][0] == IMAGES * OBJECTS // 2
    assert values["difficult"][0] == IMAGES * OBJECTS * 2 // 3
    assert math.isnan(values["area absent"][1])
