"""Ground truth of metrics, as a COCO dictionary, from annotations of any format.

Evaluation and `score` make it here, so that both give the same metrics.
"""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from borrow_det.evaluation import bad_boxes
from borrow_det.evaluation.annotations import Annotations, Image, Object
from borrow_det.io.problems import Problems

_KINDS = {
    bad_boxes.NOT_FINITE: "box that is not finite",
    bad_boxes.EMPTY: "box without area",
    bad_boxes.BESIDE: "box outside its image",
    bad_boxes.OUTSIDE: "box outside its image",
}


def to_coco(
    annotations: Annotations, policy: str, problems: Problems
) -> dict[str, Any]:
    """Returns annotations as a COCO dictionary, with dataset.bad_boxes applied.

    Args:
      annotations: annotations of one split. The boxes of an image without `height` and
        `width` are only checked for negative coordinates and for area.
      policy: dataset.bad_boxes.
      problems: receives the invalid boxes if the policy is "error". They are left out.

    Returns:
      {"images": [{id, file_name, width, height}], "annotations": [{id, image_id,
      category_id, bbox, area, iscrowd, difficult}], "categories": [{id, name}]}, in the
      order of the annotations; `width` and `height` are left out if they are unknown.
      bbox is [x, y, width, height] in pixels, as annotated unless the policy clips it;
      area is in square pixels, iscrowd and difficult are 0 or 1.
    """
    bad_boxes.check_policy(policy)
    category_ids = [category.id for category in annotations.categories]
    records: list[dict[str, Any]] = []
    for image in annotations.images:
        for found, bbox, area in _kept(annotations.path, image, policy, problems):
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": image.id,
                    "category_id": category_ids[found.category],
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(found.is_crowd),
                    "difficult": int(found.is_difficult),
                }
            )
    return {
        "images": [_image_record(image) for image in annotations.images],
        "annotations": records,
        "categories": [category._asdict() for category in annotations.categories],
    }


def corners(bbox: np.ndarray) -> np.ndarray:
    """Converts COCO's boxes [x, y, width, height] to [y_min, x_min, y_max, x_max].

    Args:
      bbox: float64 [n, 4] in pixels.

    Returns:
      float64 [n, 4] in pixels.
    """
    x, y, width, height = bbox.T
    # Infinite numbers are the business of bad_boxes.judge.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([y, x, y + height, x + width], axis=-1)


def from_corners(boxes: np.ndarray) -> np.ndarray:
    """Converts [y_min, x_min, y_max, x_max] to COCO's boxes [x, y, width, height].

    Args:
      boxes: float64 [n, 4] in pixels.

    Returns:
      float64 [n, 4] in pixels.
    """
    y_min, x_min, y_max, x_max = boxes.T
    return np.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=-1)


def boxes_of_metrics(
    bbox: np.ndarray, clipped: np.ndarray, faults: np.ndarray
) -> np.ndarray:
    """Returns the boxes that metrics use: as annotated unless a policy clips them.

    Args:
      bbox: float64 [n, 4], [x, y, width, height] in pixels, as annotated.
      clipped: float64 [n, 4], boxes of `bad_boxes.judge`.
      faults: uint8 [n], of `bad_boxes.judge`.

    Returns:
      float64 [n, 4], [x, y, width, height] in pixels.
    """
    y_min, x_min, y_max, x_max = clipped.T
    inside = np.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=-1)
    return np.where((faults == bad_boxes.OUTSIDE)[:, None], inside, bbox)


def areas_of_metrics(area: np.ndarray, bbox: np.ndarray) -> np.ndarray:
    """Returns the annotated areas, or those of the boxes if they are unknown.

    Args:
      area: float64 [n], square pixels as annotated; nan if absent.
      bbox: float64 [n, 4], of `boxes_of_metrics`.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # Such boxes are dropped.
        return np.where(np.isnan(area), bbox[:, 2] * bbox[:, 3], area)


def annotated_boxes(objects: Sequence[Object]) -> np.ndarray:
    """Returns the boxes of objects, float64 [n, 4]; nan for objects without a box."""
    boxes = [o.bbox or (math.nan,) * 4 for o in objects]
    return np.array(boxes, np.float64).reshape(-1, 4)


def annotated_areas(objects: Sequence[Object]) -> np.ndarray:
    """Returns the areas of objects, float64 [n]; nan for objects without one."""
    return np.array([o.area or math.nan for o in objects], np.float64)


def add_box_problem(
    problems: Problems,
    file: pathlib.Path,
    image: Image,
    found: Object,
    fault: int,
    size: tuple[float, float],
) -> None:
    """Adds the problem of an invalid box.

    Args:
      problems: receives the problem.
      file: file or folder that was read.
      image: image of the object.
      found: object with the box.
      fault: of `bad_boxes.judge`, not GOOD.
      size: (height, width) of the image in pixels; infinite if unknown.
    """
    kind, reason = _KINDS[fault], bad_boxes.reason(fault, *size)
    if fault in (bad_boxes.OUTSIDE, bad_boxes.BESIDE) and math.inf in size:
        reason = "is outside its image"
    if found.bbox is None:
        kind = "box that is not four numbers"
        reason = "is not four numbers [x, y, width, height]"
    numbers = ", ".join(f"{value:.10g}" for value in found.bbox or ())
    shown = found.bbox_text or f"[{numbers}]"
    name = image.file_name or f"image {image.id}"
    problems.add(kind, file, found.record, f"the box {shown} in {name} {reason}")


def _kept(
    file: pathlib.Path, image: Image, policy: str, problems: Problems
) -> list[tuple[Object, list[float], float]]:
    """Returns (object, bbox, area) of the objects that the policy keeps."""
    if not image.objects:
        return []
    size = image.height or math.inf, image.width or math.inf
    bbox = annotated_boxes(image.objects)
    clipped, faults = bad_boxes.judge(corners(bbox), np.array(size))
    if policy == "error":
        for i in np.flatnonzero(faults != bad_boxes.GOOD):
            found = image.objects[i]
            add_box_problem(problems, file, image, found, int(faults[i]), size)
    bbox = boxes_of_metrics(bbox, clipped, faults)
    area = areas_of_metrics(annotated_areas(image.objects), bbox)
    keep = bad_boxes.kept(faults, policy)
    rows = zip(image.objects, bbox.tolist(), area.tolist(), keep, strict=True)
    return [(o, box, size) for o, box, size, kept in rows if kept]


def _image_record(image: Image) -> dict[str, Any]:
    record: dict[str, Any] = {"id": image.id, "file_name": image.file_name}
    if image.width is not None and image.height is not None:
        record |= {"width": image.width, "height": image.height}
    return record
