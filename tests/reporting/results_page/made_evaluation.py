"""An evaluation of drawn images with hostile names, and its files."""

import io
import json
import types

import numpy as np
import PIL.Image

from borrow_det.configs import base
from borrow_det.evaluate import Evaluated
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.workdir import metadata
from tests.evaluation.random_records import random_records

HOSTILE = '<img src=x onerror=alert(1)>@SCRIPT@</script>&"'
CLASSES = ("cat", HOSTILE, "all")
STEP = 7
SIDE = 400


class MadeSplit:
    """Images of one color, with the names of the records."""

    dataset, name = "folder", "val[:40]"
    class_names, category_ids = CLASSES, (1, 2, 3)
    reference_lines = types.MappingProxyType({})

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        with io.BytesIO() as stream:
            color = (40 * index % 256, 200, 255 - 6 * index)
            PIL.Image.new("RGB", (SIDE, SIDE), color).save(stream, "png")
            image = stream.getvalue()
        record = self._images[index]
        return {**record, "image_id": record["id"], "image": image}


def make_evaluation(workdir, images=40, page_images=12, seed=0, step=STEP):
    """Writes the files of an evaluation of random records to a work directory.

    Half of the scores are multiples of 0.1, which are thresholds of the page.
    """
    truth, detections = random_records(seed, images)
    for category, name in zip(truth["categories"], CLASSES, strict=True):
        category["name"] = name
    for image in truth["images"]:
        image["file_name"] = f"{image['id']:02d} {HOSTILE}.png"
    rng = np.random.default_rng(seed)
    for detection in detections[::2]:
        detection["score"] = float(rng.uniform())
    config = base.get_config()
    config.report.page_images = page_images
    evaluator = DetectionEvaluator(MadeSplit(truth["images"]), config, truth)
    folder = workdir / "evaluations" / "val_40"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.detections.json").write_text(json.dumps(detections))
    analysis = evaluator.analyze(detections)
    (folder / f"{step}.analysis.json").write_text(json.dumps(analysis))
    metrics = evaluator.score(detections)
    path = folder / f"{step}.json"
    metadata.write_json(path, {"step": step} | metrics)
    return Evaluated(evaluator, step, path, metrics), detections
