"""COCO's average precision, from COCO-format records.

Ground truth is a COCO dictionary with `images` (`id`), `annotations` (`image_id`,
`category_id`, `bbox`; optionally `area`, `iscrowd`, `difficult`) and `categories`
(`id`, `name`). Detections are a COCO results list (`image_id`, `category_id`,
`bbox`, `score`; `with_areas` adds `box_area`). `bbox` is [x, y, width, height] in
pixels. The functions do not change the records and do not check them:
evaluation/coco_format.py and coco_results.py read the files of a user.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import faster_coco_eval
import numpy as np

from borrow_det.ops import boxes as box_ops

# Square pixels, both ends included.
AREA_RANGES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
ALL_AREAS = (0.0, 1e10)
_Area = TypeVar("_Area", float, np.ndarray)
# Outside every area range, so that COCO ignores the object.
_IGNORED_AREA = 1e11


def coco_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
    area_ranges: Mapping[str, tuple[float, float]] = AREA_RANGES,
) -> dict[str, float]:
    """Computes COCO's box metrics.

    The values equal those of pycocotools up to rounding; faster-coco-eval computes
    them. The size of an object is the `area` of its annotation, or that of its box if
    `area` is absent. Crowds follow COCO's rule: detections inside a crowd are neither
    true nor false positives. A `difficult` object is ignored like an object outside an
    area range: by ordinary IoU and for one detection, since it is one object and not a
    region. Training and VOC's metrics ignore the same objects; converters that keep
    them as ordinary objects give lower values.

    Args:
      ground_truth: COCO dictionary (see the module docstring).
      detections: COCO results list.
      max_detections: number of detections of an image and class that count, best first;
        COCO uses 100.
      area_ranges: name to (smallest, largest) area in square pixels, inclusive.

    Returns:
      AP (mean over IoU 0.50, 0.55 ... 0.95), AP50, AP75, AR_1, AR_10,
      AR_{max_detections}; AP_{name}, AP50_{name}, AR_{name} for each area range;
      AP/{class} and AP50/{class} for each class. All are in [0, 1], or nan without an
      object to find.

    Raises:
      ValueError: max_detections is not positive.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}, but must be positive")
    limits = sorted({n for n in (1, 10) if n < max_detections} | {max_detections})
    names = [category["name"] for category in ground_truth["categories"]]
    areas = {"all": ALL_AREAS, **area_ranges}
    precision, recall = _coco_arrays(ground_truth, detections, limits, areas)
    # precision [T IoUs, R recalls, K classes, A areas, M limits]; recall has no R.
    metrics = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[0, :, :, 0, -1]),
        "AP75": _mean(precision[5, :, :, 0, -1]),
    }
    for index, limit in enumerate(limits):
        metrics[f"AR_{limit}"] = _mean(recall[:, :, 0, index])
    for index, name in enumerate(area_ranges, start=1):
        metrics[f"AP_{name}"] = _mean(precision[:, :, :, index, -1])
        metrics[f"AP50_{name}"] = _mean(precision[0, :, :, index, -1])
        metrics[f"AR_{name}"] = _mean(recall[:, :, index, -1])
    for index, name in enumerate(names):
        metrics[f"AP/{name}"] = _mean(precision[:, :, index, 0, -1])
        metrics[f"AP50/{name}"] = _mean(precision[0, :, index, 0, -1])
    return metrics


def subset_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    counts: Sequence[bool],
    area_range: tuple[float, float],
    max_detections: int = 100,
) -> tuple[float, float, float]:
    """Computes AP, AP50 and AR over a subset of the objects in an area range.

    The other objects are treated like objects outside the range: they are not counted
    as misses, and detections on them are not false positives. With all objects of the
    range in the subset, the values equal those of `coco_metrics`.

    Args:
      ground_truth: COCO dictionary (see the module docstring).
      detections: COCO results list.
      counts: for each annotation, true if the object is in the subset.
      area_range: smallest and largest area in square pixels, inclusive.
      max_detections: see `coco_metrics`.

    Returns:
      (AP, AP50, AR), means over the classes that have an object in the subset; nan
      without such a class.
    """
    annotations = [
        annotation if count else {**annotation, "area": _IGNORED_AREA}
        for annotation, count in zip(ground_truth["annotations"], counts, strict=True)
    ]
    # Classes without an object in the subset do not affect the means.
    found = {
        annotation["category_id"]
        for annotation, count in zip(annotations, counts, strict=True)
        if count
    }
    classes = [c for c in ground_truth["categories"] if c["id"] in found]
    if not classes:
        return math.nan, math.nan, math.nan
    truth = {**ground_truth, "annotations": annotations, "categories": classes}
    areas = {"subset": area_range}
    precision, recall = _coco_arrays(truth, detections, [max_detections], areas)
    return _mean(precision), _mean(precision[0]), _mean(recall)


def object_area(annotation: Mapping[str, Any]) -> float:
    """Returns an object's size in square pixels: its `area`, or that of its box.

    An area that is absent, null or 0 is unknown.
    """
    _, _, width, height = map(float, annotation["bbox"])
    return float(annotation.get("area") or width * height)


def with_areas(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the records with areas measured in images that are resized to `size`.

    Boxes, and with them overlaps, do not change; area ranges do.

    Args:
      ground_truth: COCO dictionary; its images need `width` and `height`.
      detections: COCO results list.
      size: (height, width) in pixels.

    Returns:
      (ground truth, detections), with `area` in each annotation and `box_area` in each
      detection.
    """
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in ground_truth["images"]
    }

    def area(record: Mapping[str, Any]) -> float:
        return area_in(object_area(record), sizes[record["image_id"]], size)

    annotations = [{**a, "area": area(a)} for a in ground_truth["annotations"]]
    sized = [{**d, "box_area": area(d)} for d in detections]
    return {**ground_truth, "annotations": annotations}, sized


def area_in(area: _Area, own: tuple[float, float], size: tuple[int, int]) -> _Area:
    """Converts areas from an image of size `own` to one of `size`, (height, width)."""
    # Multiplied before dividing: an area exactly at a limit stays there.
    return area * math.prod(size) / math.prod(own)


def is_small(area: float | np.ndarray) -> bool | np.ndarray:
    """Returns true for areas, in square pixels, in COCO's small range."""
    least, largest = AREA_RANGES["small"]
    return (least <= area) & (area <= largest)


def is_ignored(annotation: Mapping[str, Any]) -> bool:
    """Returns true for a crowd or a difficult object, which metrics ignore."""
    return bool(annotation.get("iscrowd", 0) or annotation.get("difficult", 0))


def _mean(values: np.ndarray) -> float:
    """Mean without the -1 that the library writes for classes without objects."""
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan


def _coco_arrays(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    limits: Sequence[int],
    areas: Mapping[str, tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the library's precision [T, R, K, A, M] and recall [T, K, A, M].

    T are the IoU thresholds, R the recalls, K the classes, A the `areas`, M the
    `limits` of detections. Classes are evaluated separately, as COCO's metrics are
    defined: the library's records of all classes together would need more memory than
    the detections.
    """
    images = image_ranks(ground_truth)
    objects = grouped(ground_truth["annotations"], "category_id")
    detected = grouped(detections, "category_id")
    # Without classes, evaluates one without objects, so that the arrays have a K axis.
    classes = [category["id"] for category in ground_truth["categories"]] or [None]
    arrays = [
        _coco_class_arrays(
            images, objects.get(c, ()), detected.get(c, ()), limits, areas
        )
        for c in classes
    ]
    precision, recall = zip(*arrays, strict=True)
    return np.concatenate(precision, axis=2), np.concatenate(recall, axis=1)


def image_ranks(ground_truth: Mapping[str, Any]) -> dict[Any, int]:
    """Numbers the image ids from 1: the reference breaks ties of scores by them."""
    ids = (image["id"] for image in ground_truth["images"])
    image_ids = sorted(ids, key=lambda value: (isinstance(value, str), value))
    return {image_id: i for i, image_id in enumerate(image_ids, start=1)}


def _coco_class_arrays(
    images: Mapping[Any, int],
    objects: Sequence[Mapping[str, Any]],
    detected: Sequence[Mapping[str, Any]],
    limits: Sequence[int],
    areas: Mapping[str, tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `_coco_arrays` of one class, K = 1.

    `images` numbers the image ids from 1. The records are numbered from 1, too: an
    annotation id of 0 means "not matched" to the library.
    """

    def library_records(
        records: Iterable[Mapping[str, Any]],
    ) -> Iterator[dict[str, Any]]:
        for index, record in enumerate(records, start=1):
            x, y, width, height = map(float, record["bbox"])
            yield {
                "id": index,
                "image_id": images[record["image_id"]],
                "category_id": 1,
                "bbox": [x, y, width, height],
                "area": record.get("box_area", width * height),
            }

    def library_set(annotations: list[dict[str, Any]]) -> faster_coco_eval.COCO:
        return faster_coco_eval.COCO(
            {
                "images": [{"id": i} for i in images.values()],
                "categories": [{"id": 1, "name": "the class"}],
                "annotations": annotations,
            },
            print_function=logging.debug,
        )

    targets = list(library_records(objects))
    for target, annotation in zip(targets, objects, strict=True):
        target["iscrowd"] = int(annotation.get("iscrowd", 0))
        target["area"] = object_area(annotation)
        if annotation.get("difficult", 0) and not target["iscrowd"]:
            target["area"] = _IGNORED_AREA
    results = list(library_records(detected))
    for result, detection in zip(results, detected, strict=True):
        result["score"] = float(detection["score"])
    evaluator = faster_coco_eval.COCOeval_faster(
        library_set(targets),
        library_set(results),
        "bbox",
        print_function=logging.debug,
    )
    evaluator.params.maxDets = list(limits)
    evaluator.params.areaRng = [list(area) for area in areas.values()]
    evaluator.params.areaRngLbl = list(areas)
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"], evaluator.eval["recall"]


def grouped(
    records: Sequence[Mapping[str, Any]], key: str
) -> dict[Any, list[Mapping[str, Any]]]:
    """Groups records by the value of `key`, in their order."""
    groups: dict[Any, list] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups


def pairwise_iou(
    found: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    one: float = 0.0,
) -> np.ndarray:
    """Computes the IoU of the boxes of detections and objects.

    Args:
      found: D records with `bbox`.
      truth: G records with `bbox`.
      one: pixels that are added to every width and height.

    Returns:
      float64 [D, G] in [0, 1].
    """
    return box_ops.iou(_corners(found), _corners(truth), one)


def _corners(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns `bbox` as [x_min, y_min, x_max, y_max], float64 [N, 4]."""
    boxes = np.array([record["bbox"] for record in records], np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
