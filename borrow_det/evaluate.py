"""A complete pass over a split: every image once, then metrics, files and pictures."""

import contextlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from borrow_det import json_files, sharding, visualize
from borrow_det import workdir as workdir_lib
from borrow_det.data import pipeline, sources
from borrow_det.evaluation import average_precision


def make_detect(task, mesh) -> Callable:
    """The compiled detection function of (variables, images, image sizes)."""
    split, whole = sharding.split_batch(mesh), sharding.replicated(mesh)
    return jax.jit(task.detect, in_shardings=(whole, split, split), out_shardings=whole)


def evaluate(
    detect: Callable,
    variables: dict,
    source: sources.Source,
    truth: Mapping[str, Any],
    config,
    mesh,
    workdir: pathlib.Path,
    step: int,
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Evaluates one split, whose `sources.ground_truth` is `truth`.

    Writes to `evaluations/SPLIT` `STEP.detections.json` (COCO results), pictures, the
    ground truth on their left, the detections on their right, to `STEP/`, and last,
    so that it stands for a whole evaluation, `STEP.json`.

    Returns:
      (metrics, pictures).
    """
    with contextlib.closing(pipeline.eval_batches(source, config)) as batches:
        detections = list(
            run_detector(detect, variables, batches, mesh, truth, source.category_ids)
        )
    metrics = score(truth, detections, config)
    path = metrics_path(workdir, source.split, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".detections.json").write_text(json.dumps(detections))
    pictures = draw_pictures(source, detections, config)
    for name, picture in pictures.items():
        visualize.write_image(path.with_suffix("") / f"{name}.png", picture)
    finite = {k: v if np.isfinite(v) else None for k, v in metrics.items()}
    workdir_lib.write_json(path, {"step": step, **finite})
    return metrics, list(pictures.values())


def metrics_path(workdir: pathlib.Path, split: str, step: int) -> pathlib.Path:
    """Where an evaluation's metrics stand; the file exists when it is complete."""
    return pathlib.Path(workdir) / "evaluations" / split_folder(split) / f"{step}.json"


def read_metrics(path: pathlib.Path) -> dict[str, float]:
    """The metrics of an earlier evaluation; undefined ones are nan."""
    record = json_files.read(path)
    del record["step"]
    return {name: np.nan if v is None else v for name, v in record.items()}


def run_detector(
    detect: Callable,
    variables: dict,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh,
    truth: Mapping[str, Any],
    category_ids: tuple[int, ...],
) -> Iterable[dict[str, Any]]:
    """Yields COCO results of every image that a batch's mask does not exclude."""
    sizes = {
        image["id"]: np.array([image["height"], image["width"]])
        for image in truth["images"]
    }
    for batch in batches:
        found = jax.device_get(
            detect(
                variables,
                *sharding.put_batch(
                    {name: batch[name] for name in ("image", "image_size")}, mesh
                ).values(),
            )
        )
        for i in np.flatnonzero(batch["mask"]):
            image_id = int(batch["image_id"][i])
            kept = found.mask[i]
            yield from coco_results(
                image_id,
                sizes[image_id],
                found.boxes[i][kept],
                found.scores[i][kept],
                found.labels[i][kept],
                category_ids,
            )


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
    """COCO's metrics, and VOC's where `evaluation.voc` asks for them."""
    metrics = average_precision.coco_metrics(
        truth, detections, config.evaluation.max_detections
    )
    if config.evaluation.voc:
        # Sources' boxes are continuous: VOC's inclusive pixels were turned into such
        # when they were read (data/records.py).
        metrics |= average_precision.voc_metrics(
            truth, detections, inclusive_pixels=False
        )
    return metrics


def draw_pictures(
    source: sources.Source, detections: list[dict], config
) -> dict[str, np.ndarray]:
    """Pictures of the first images, by name: ground truth left, detections right."""
    count = min(config.report.num_pictures, len(source))
    records = [source[i] for i in range(count)]
    ids = {record["image_id"] for record in records}
    label = {category: i for i, category in enumerate(source.category_ids)}
    drawn = {image_id: [] for image_id in ids}
    for detection in detections:
        visible = detection["score"] >= config.report.min_score
        if visible and detection["image_id"] in ids:
            drawn[detection["image_id"]].append(detection)
    pictures = {}
    for record in records:
        image = pipeline.decode_image(record, record["file_name"])
        found = drawn[record["image_id"]]
        sides = (
            visualize.draw_boxes(
                image, record["boxes"], record["labels"], source.class_names
            ),
            visualize.draw_boxes(
                image,
                _normalized(found, image.shape[:2]),
                np.array([label[d["category_id"]] for d in found], int),
                source.class_names,
                np.array([d["score"] for d in found]),
            ),
        )
        name = f"{record['image_id']}_{pathlib.Path(record['file_name']).stem}"
        pictures[name] = visualize.contact_sheet(sides, columns=2)
    return pictures


def split_folder(split: str) -> str:
    """A folder name for a split: `train[:16]` becomes `train_16`."""
    return re.sub(r"[^\w.+-]+", "_", split).strip("_")


def _normalized(detections, size):
    """COCO boxes as normalised corners [n, 4]."""
    boxes = np.array([d["bbox"] for d in detections], float).reshape(-1, 4)
    y, x = boxes[:, 1], boxes[:, 0]
    corners = np.stack([y, x, y + boxes[:, 3], x + boxes[:, 2]], axis=1)
    return corners / np.array([*size, *size])
