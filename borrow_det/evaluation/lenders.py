"""Average precision of small objects with and without a lender, for any detector.

A small object has an area in COCO's small range and is neither crowd nor difficult. The
area is in square pixels of the original image or of the network's input
(`evaluation.area_pixels`). A lender of a small object is another such object of the
same class in the same image, with at least `scale` times its side (square root of the
box's area; `evaluation.lender_scale`).

The metrics are
  AP_small_with_lender, AP50_small_with_lender: AP of the small objects that have a
    lender. COCO's rule for objects outside an area range applies to the others.
  AP_small_without_lender, AP50_small_without_lender: AP of the small objects that have
    none. Every false positive counts in both groups, and weighs more in the smaller
    one. Compare models by each figure, not one group with the other.
  AR_small_with_lender, AR_small_without_lender: average recall. False positives do not
    count, so these two may be compared.
  objects_small_with_lender, objects_small_without_lender: the number of objects.
With groups of images, such as those of a video or of a camera (references.kind=group
or references.field):
  AP_small_with_lender_in_group, AP_small_without_lender_in_group, and likewise AP50_,
    AR_ and objects_: the same for lenders in any image of the group, the object's own
    included. Sides are then compared as shares of their images, since the network sees
    every image at the size of its input.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.evaluation import average_precision
from borrow_det.ops import borrow_targets

_GROUP_METRICS = ("AP", "AP50", "AR")


def lender_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    scale: float,
    max_detections: int = 100,
    keys: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """Computes AP, AP50 and AR of small objects with and without a lender.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      metrics: `coco_metrics` of these. If all small objects are in one group, its
        figures are taken from here.
      scale: least ratio of a lender's side to the small object's side.
      max_detections: see `coco_metrics`.
      keys: see `with_and_without`.

    Returns:
      The figures of each group and its number of objects (see the module docstring).
    """
    groups = with_and_without(ground_truth, scale, keys)
    return _small_metrics(ground_truth, detections, metrics, groups, max_detections)


def _small_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    groups: Mapping[str, np.ndarray],
    max_detections: int,
) -> dict[str, float]:
    """Computes AP, AP50 and AR of groups of small objects, and their numbers.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      detections: COCO results list.
      metrics: `coco_metrics` of these. If all small objects are in one group, its
        figures are taken from here.
      groups: bool [N] by name, the annotations of each group; each small object is in
        one of them.
      max_detections: see `coco_metrics`.

    Returns:
      `AP_small_GROUP`, `AP50_small_GROUP`, `AR_small_GROUP`, `objects_small_GROUP`.
    """
    figures = {}
    total = sum(int(counts.sum()) for counts in groups.values())
    for group, counts in groups.items():
        if counts.sum() == total:
            values = tuple(metrics[f"{name}_small"] for name in _GROUP_METRICS)
        else:
            values = average_precision.subset_metrics(
                ground_truth,
                detections,
                counts.tolist(),
                average_precision.AREA_RANGES["small"],
                max_detections,
            )
        for name, value in zip(_GROUP_METRICS, values, strict=True):
            figures[f"{name}_small_{group}"] = value
        figures[f"objects_small_{group}"] = float(counts.sum())
    return figures


def small_objects(
    annotations: Sequence[Mapping[str, Any]], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks of the small objects and of those with a lender: bool [N] each.

    Args:
      annotations: COCO annotations; crowds and difficult objects are in neither mask.
      scale: least ratio of a lender's side to the object's side.
    """
    small = [
        not average_precision.is_ignored(annotation)
        and average_precision.is_small(average_precision.object_area(annotation))
        for annotation in annotations
    ]
    images = [annotation["image_id"] for annotation in annotations]
    areas = [_box_area(annotation) for annotation in annotations]
    return np.array(small, bool), _with_lender(annotations, images, areas, scale)


def with_and_without(
    ground_truth: Mapping[str, Any],
    scale: float,
    keys: Sequence[Hashable] | None = None,
) -> dict[str, np.ndarray]:
    """Returns the small objects with and without a lender.

    Args:
      ground_truth: COCO dictionary (see average_precision.py).
      scale: least ratio of a lender's side to the small object's side.
      keys: a key for each of the images, equal for those in which lenders count; None:
        only lenders in the image of an object count.

    Returns:
      bool [N], the annotations of each set, by `with_lender` and `without_lender`, with
      the suffix `_in_group` if there are keys.
    """
    annotations = ground_truth["annotations"]
    small, lent = small_objects(annotations, scale)
    suffix = ""
    if keys is not None:
        lent = has_lender(annotations, ground_truth["images"], keys, scale)
        suffix = "_in_group"
    return {
        f"with_lender{suffix}": small & lent,
        f"without_lender{suffix}": small & ~lent,
    }


def has_lender(
    annotations: Sequence[Mapping[str, Any]],
    images: Sequence[Mapping[str, Any]],
    keys: Sequence[Hashable],
    scale: float,
) -> np.ndarray:
    """Returns which objects have a lender in their group of images, bool [N].

    Args:
      annotations: COCO annotations; crowds and difficult objects have no lender, and
        are none.
      images: COCO images with `width` and `height`.
      keys: the key of the group of each image.
      scale: least ratio of a lender's side to the object's side.
    """
    image_area = {image["id"]: image["width"] * image["height"] for image in images}
    group = {image["id"]: key for image, key in zip(images, keys, strict=True)}
    of_image = [annotation["image_id"] for annotation in annotations]
    areas = [
        _box_area(annotation) / image_area[image]
        for annotation, image in zip(annotations, of_image, strict=True)
    ]
    return _with_lender(annotations, [group[i] for i in of_image], areas, scale)


def _box_area(annotation: Mapping[str, Any]) -> float:
    _, _, width, height = annotation["bbox"]
    return width * height


def _with_lender(
    annotations: Sequence[Mapping[str, Any]],
    keys: Sequence[Hashable],
    areas: Sequence[float],
    scale: float,
) -> np.ndarray:
    """Returns which objects have a lender among those with the same key, bool [N].

    Args:
      annotations: COCO annotations.
      keys: the key of each: its image or a group of images.
      areas: areas of the boxes, in one unit for the objects with a key.
      scale: least ratio of a lender's side to the object's side.
    """
    members: dict[Hashable, list[int]] = {}
    for index, (annotation, key) in enumerate(zip(annotations, keys, strict=True)):
        if not average_precision.is_ignored(annotation):
            members.setdefault((key, annotation["category_id"]), []).append(index)
    found = np.zeros(len(annotations), bool)
    for indices in members.values():
        side = np.array([areas[i] for i in indices], float) ** 0.5
        larger = borrow_targets.is_larger(side.max(keepdims=True), side, scale)
        found[indices] = (side > 0) & larger
    return found
