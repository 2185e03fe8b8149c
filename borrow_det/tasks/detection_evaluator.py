"""The data of a detection run, and detections as files, figures and pictures."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from borrow_det.data import pipeline, sources
from borrow_det.data.images import decode
from borrow_det.errors import InputError
from borrow_det.evaluation import average_precision, borrowing
from borrow_det.tasks.task import Data, EvalSet, Figures
from borrow_det.visualization import annotate, tables

FIGURES = Figures(
    console=("AP", "AP50", "AP_small", "AP50_small", "borrow/lift_same"),
    report=tables.MAIN_FIELDS,
    details=tables.BORROWING_FIELDS,
    per_class=tables.PER_CLASS_FIELDS,
)


def open_data(config) -> Data:
    """Opens the splits of a detection run, and reads all their boxes.

    Raises:
      InputError: on unknown, empty or unsuitable splits, and wrong fields of
        config.dataset.
    """
    train_split, *eval_splits = sources.load_splits(
        config.dataset, (config.dataset.train_split, *config.dataset.eval_splits)
    )
    if train_split.whole_images:
        raise InputError(
            f"{train_split.dataset} names classes of images, and no boxes: it is for "
            "task=classification"
        )
    boxes = {split.name: dict(split.counts) for split in eval_splits}
    boxes[train_split.name] = {
        **train_split.counts,
        **pipeline.check_training_data(train_split, config),
    }
    for split in eval_splits:
        pipeline.check_split(split, config)
    eval_sets = [EvalSet(s, sources.ground_truth(s)) for s in eval_splits]
    return Data(train_split, eval_sets, boxes)


@dataclasses.dataclass(frozen=True)
class EvalRow:
    """From a record to one row of an evaluation's batch.

    Attributes:
      boxes_row: the row of training, of as many boxes as the split needs.
      size: (height, width) in whose pixels objects are small; None: the image's own.
    """

    boxes_row: pipeline.BoxesRow
    size: tuple[int, int] | None

    @classmethod
    def of(cls, eval_set: EvalSet, config) -> "EvalRow":
        """Rows of a split: none of its boxes is left out.

        They have room for dataset.max_boxes, or a multiple of that where an image
        holds more: splits then share a program that is compiled for their shapes.
        """
        counts = collections.Counter(
            a["image_id"] for a in eval_set.truth["annotations"]
        )
        unit = config.dataset.max_boxes
        units = max(1, -(-max(counts.values(), default=0) // unit))
        row = pipeline.BoxesRow.of(eval_set.split, config.dataset)
        row = dataclasses.replace(row, max_boxes=units * unit)
        return cls(row, area_size(config))

    def __call__(self, record: dict) -> dict[str, np.ndarray]:
        """A row of training without its counts, and `small`, bool [G].

        Small are objects of COCO's small area range.
        """
        row = self.boxes_row(record)
        del row["cut_boxes"], row["bad_boxes"]  # Training counts them.
        area = record["area"].astype(np.float64)
        if self.size:
            own = record["height"], record["width"]
            area = average_precision.area_in(area, own, self.size)
        small = np.zeros_like(row["box_mask"])
        small[row["box_mask"]] = average_precision.is_small(area)
        return {**row, "small": small}


def area_size(config) -> tuple[int, int] | None:
    """(height, width) in whose pixels objects are small; None: each image's own."""
    of_input = config.evaluation.area_pixels == "input"
    return tuple(config.input_size) if of_input else None


def sized(
    truth: Mapping[str, Any], detections: list[dict], config
) -> tuple[Mapping[str, Any], list[dict]]:
    """COCO records with areas in the pixels in which objects are small."""
    size = area_size(config)
    if size is None:
        return truth, detections
    return average_precision.with_areas(truth, detections, size)


def coco_results(
    image_id: int,
    size: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    category_ids: tuple[int, ...],
) -> list[dict[str, Any]]:
    """One image's detections in COCO's results format.

    Args:
      image_id: the image.
      size: its (height, width) in pixels.
      boxes: float [n, 4], normalised `[y_min, x_min, y_max, x_max]`.
      scores: float [n].
      labels: int [n].
      category_ids: the id of each label.
    """
    low, high = boxes[:, :2] * size, boxes[:, 2:] * size
    xywh = np.concatenate([low[:, ::-1], (high - low)[:, ::-1]], axis=1)
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [round(float(v), 3) for v in box],
            "score": float(score),
        }
        for box, score, label in zip(xywh, scores, labels, strict=True)
    ]


def score(truth: Mapping[str, Any], detections: list[dict], config) -> dict[str, float]:
    """COCO's metrics, those of small objects with and without a source, and VOC's.

    The last where `evaluation.voc` asks for them.
    """
    limit = config.evaluation.max_detections
    truth, detections = sized(truth, detections, config)
    metrics = average_precision.coco_metrics(truth, detections, limit)
    metrics |= borrowing.split_metrics(
        truth, detections, metrics, config.evaluation.lender_scale, limit
    )
    if config.evaluation.voc:
        # Sources' boxes are continuous: VOC's inclusive pixels were turned into such
        # when they were read (data/datasets/records.py).
        metrics |= average_precision.voc_metrics(
            truth, detections, inclusive_pixels=False
        )
    return metrics


def draw_scene(split: sources.Split, index: int) -> np.ndarray:
    """An image with its ground truth, uint8 RGB [H, W, 3]."""
    record = split[index]
    image = decode.decode_image(record, record["file_name"])
    return annotate.draw_boxes(
        image, record["boxes"], record["labels"], split.class_names
    )


def draw_pictures(
    split: sources.Split, detections: list[dict], config
) -> dict[str, np.ndarray]:
    """Pictures of the first images, by name: ground truth left, detections right."""
    count = min(config.report.num_pictures, len(split))
    records = [split[i] for i in range(count)]
    ids = {record["image_id"] for record in records}
    label = {category: i for i, category in enumerate(split.category_ids)}
    drawn = {image_id: [] for image_id in ids}
    for detection in detections:
        visible = detection["score"] >= config.report.min_score
        if visible and detection["image_id"] in ids:
            drawn[detection["image_id"]].append(detection)
    pictures = {}
    for record in records:
        image = decode.decode_image(record, record["file_name"])
        found = drawn[record["image_id"]]
        sides = (
            annotate.draw_boxes(
                image, record["boxes"], record["labels"], split.class_names
            ),
            annotate.draw_boxes(
                image,
                _normalized(found, image.shape[:2]),
                np.array([label[d["category_id"]] for d in found], int),
                split.class_names,
                np.array([d["score"] for d in found]),
            ),
        )
        name = f"{record['image_id']}_{pathlib.Path(record['file_name']).stem}"
        pictures[name] = annotate.contact_sheet(sides, columns=2)
    return pictures


def _normalized(detections, size):
    """COCO boxes as normalised corners [n, 4]."""
    boxes = np.array([d["bbox"] for d in detections], float).reshape(-1, 4)
    y, x = boxes[:, 1], boxes[:, 0]
    corners = np.stack([y, x, y + boxes[:, 3], x + boxes[:, 2]], axis=1)
    return corners / np.array([*size, *size])
