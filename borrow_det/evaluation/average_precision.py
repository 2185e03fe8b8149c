"""Average precision as COCO and as Pascal VOC compute it, from COCO-format records.

Ground truth is a COCO dictionary with `images` (`id`), `annotations` (`image_id`,
`category_id`, `bbox`; optionally `area`, `iscrowd`, `difficult`) and `categories`
(`id`, `name`). Detections are a COCO results list (`image_id`, `category_id`,
`bbox`, `score`; `with_areas` adds `box_area`). `bbox` is [x, y, width, height] in
pixels. The records are taken to be sound and are left unchanged:
evaluation/coco_format.py checks those of a user.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import faster_coco_eval
import numpy as np

# Square pixels, both ends included.
AREA_RANGES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
_ALL_AREAS = (0.0, 1e10)
# Outside every range: COCO ignores such an object by its ordinary rule.
_IGNORED_AREA = 1e11


def coco_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
    area_ranges: Mapping[str, tuple[float, float]] = AREA_RANGES,
) -> dict[str, float]:
    """COCO's box metrics, by faster-coco-eval (the reference's numbers to rounding).

    An object's size is its annotation's `area` (its box's where there is none).
    Crowds are matched by COCO's rule: any number of detections inside one count
    neither for nor against. A `difficult` object is ignored as well, but as COCO
    ignores an object outside a size range, by ordinary IoU and for one detection:
    it is one object, not a region. Training leaves the same objects out, and so
    does VOC; converters that keep them as ordinary objects give lower figures.

    Args:
      ground_truth: COCO dictionary (module docstring).
      detections: COCO results list.
      max_detections: detections of an image and class that count, best first; any
        positive number (COCO's own is 100).
      area_ranges: name to (least, largest) area in square pixels, inclusive.

    Returns:
      AP (mean over IoU 0.50, 0.55 ... 0.95), AP50, AP75, AR_1, AR_10,
      AR_{max_detections}; AP_{name}, AP50_{name}, AR_{name} for each area range;
      AP/{class} and AP50/{class} for each class. nan where there is no object to
      find. In [0, 1].

    Raises:
      ValueError: max_detections is not positive.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}: it must be positive")
    limits = sorted({n for n in (1, 10) if n < max_detections} | {max_detections})
    names = [category["name"] for category in ground_truth["categories"]]
    areas = {"all": _ALL_AREAS, **area_ranges}
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
    """(AP, AP50, AR) over some of the objects of an area range.

    The others are treated as COCO treats an object outside of a range: they are no
    misses, and a detection that fits one is no false positive. Where `counts` is true
    of all objects of the range, these are its figures of `coco_metrics`.

    Args:
      ground_truth: COCO dictionary (module docstring).
      detections: COCO results list.
      counts: of each annotation, whether it is to be found.
      area_range: least and largest area in square pixels, inclusive.
      max_detections: as for `coco_metrics`.

    Returns:
      Means over the classes that have such an object; nan where none has.
    """
    annotations = [
        annotation if count else {**annotation, "area": _IGNORED_AREA}
        for annotation, count in zip(ground_truth["annotations"], counts, strict=True)
    ]
    # A class without objects to find has no say: it need not be scored.
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
    """An object's size in square pixels: its `area`, its box's where it has none."""
    _, _, width, height = map(float, annotation["bbox"])
    return float(annotation.get("area", width * height))


def with_areas(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The records with areas as in images that are stretched to `size`.

    Boxes, and so overlaps, stay as they are; what is small changes.

    Args:
      ground_truth: COCO dictionary; its images need `width` and `height`.
      detections: COCO results list.
      size: (height, width) in pixels.

    Returns:
      Both, each annotation with `area` and each detection with `box_area`.
    """
    sizes = {
        image["id"]: (image["height"], image["width"])
        for image in ground_truth["images"]
    }

    def area(record):
        return area_in(object_area(record), sizes[record["image_id"]], size)

    annotations = [{**a, "area": area(a)} for a in ground_truth["annotations"]]
    sized = [{**d, "box_area": area(d)} for d in detections]
    return {**ground_truth, "annotations": annotations}, sized


def area_in(
    area: float | np.ndarray, own: tuple[int, int], size: tuple[int, int]
) -> float | np.ndarray:
    """Areas in an image of `own` (height, width), as it is stretched to `size`."""
    # Whole numbers first, so that limits that are met exactly stay so.
    return area * math.prod(size) / math.prod(own)


def is_small(area: float | np.ndarray) -> bool | np.ndarray:
    """Whether areas, in square pixels, are in COCO's small range."""
    least, largest = AREA_RANGES["small"]
    return (least <= area) & (area <= largest)


def is_ignored(annotation: Mapping[str, Any]) -> bool:
    """Whether an object is a crowd or difficult: neither to be found nor a mistake."""
    return bool(annotation.get("iscrowd", 0) or annotation.get("difficult", 0))


def voc_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    iou: float = 0.5,
    inclusive_pixels: bool = True,
) -> dict[str, float]:
    """Pascal VOC's average precision, with the development kit's conventions.

    Detections of a class are taken best first (ties in the order of the list), each
    compared only with the object of its image that it overlaps most: a hit from
    `iou` on, unless that object was already found, which makes it a false positive.
    Hits on `difficult` objects and on crowds count neither for nor against.

    Source: VOCdevkit/VOCcode/VOCevaldet.m (2007: 11-point; 2010 on: all points).

    Args:
      ground_truth: COCO dictionary (module docstring).
      detections: COCO results list.
      iou: the least overlap of a hit.
      inclusive_pixels: a box from pixel 3 to pixel 5 is 3 wide, not 2: one is added
        to every width and height, as the development kit does. Matters for small
        objects only.

    Returns:
      AP_11point and AP_allpoint, means over the classes that have an object, and
      AP_11point/{class}, AP_allpoint/{class}, nan for classes without. In [0, 1].
    """
    objects = grouped(ground_truth["annotations"], "category_id")
    detected = grouped(detections, "category_id")
    metrics: dict[str, float] = {"AP_11point": math.nan, "AP_allpoint": math.nan}
    for category in ground_truth["categories"]:
        recall, precision = _voc_curve(
            grouped(objects.get(category["id"], ()), "image_id"),
            grouped(detected.get(category["id"], ()), "image_id"),
            iou,
            float(inclusive_pixels),
        )
        metrics[f"AP_11point/{category['name']}"] = _eleven_points(recall, precision)
        metrics[f"AP_allpoint/{category['name']}"] = _all_points(recall, precision)
    for kind in ("AP_11point", "AP_allpoint"):
        values = [v for k, v in metrics.items() if k.startswith(kind + "/")]
        values = [value for value in values if not math.isnan(value)]
        metrics[kind] = float(np.mean(values)) if values else math.nan
    return metrics


def _mean(values):
    """Mean without the -1 that the library writes where there is no object."""
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan


def _coco_arrays(ground_truth, detections, limits, areas):
    """The library's precision [T, R, K, A, M] and recall [T, K, A, M] arrays.

    A are `areas`, by name. Classes are evaluated one at a time, as COCO's metrics are
    defined: the library's own records of all detections at once would take more memory
    than the detections do.
    """
    # In the order of their ids, by which the reference breaks ties of scores.
    image_ids = sorted(image["id"] for image in ground_truth["images"])
    images = {image_id: i for i, image_id in enumerate(image_ids, start=1)}
    objects = grouped(ground_truth["annotations"], "category_id")
    detected = grouped(detections, "category_id")
    # Where there are no classes, one without objects: nothing to find.
    classes = [category["id"] for category in ground_truth["categories"]] or [None]
    arrays = [
        _coco_class_arrays(
            images, objects.get(c, ()), detected.get(c, ()), limits, areas
        )
        for c in classes
    ]
    precision, recall = zip(*arrays, strict=True)
    return np.concatenate(precision, axis=2), np.concatenate(recall, axis=1)


def _coco_class_arrays(images, objects, detected, limits, areas):
    """`_coco_arrays` of one class, K = 1.

    `images` numbers the image ids from 1, and so are records here: the library takes
    an annotation id of 0 for "not matched".
    """

    def records(sources):
        for index, source in enumerate(sources, start=1):
            x, y, width, height = map(float, source["bbox"])
            yield {
                "id": index,
                "image_id": images[source["image_id"]],
                "category_id": 1,
                "bbox": [x, y, width, height],
                "area": source.get("box_area", width * height),
            }

    def library_set(annotations):
        return faster_coco_eval.COCO(
            {
                "images": [{"id": i} for i in images.values()],
                "categories": [{"id": 1, "name": "the class"}],
                "annotations": annotations,
            },
            print_function=logging.debug,
        )

    targets = list(records(objects))
    for target, annotation in zip(targets, objects, strict=True):
        target["iscrowd"] = int(annotation.get("iscrowd", 0))
        target["area"] = object_area(annotation)
        if annotation.get("difficult", 0) and not target["iscrowd"]:
            target["area"] = _IGNORED_AREA
    results = list(records(detected))
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
    """Value of `key` to the records that have it, in their order."""
    groups: dict[Any, list] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups


def _voc_curve(objects, detected, iou, one):
    """Recall and precision after each detection of one class; recall nan if none.

    `objects` and `detected` map image ids to records; `one` is added to sides.
    """
    scores, hits, misses = [], [], []
    count = 0
    for image_id in {**objects, **detected}:
        truth = objects.get(image_id, [])
        ignored = np.array([is_ignored(t) for t in truth], bool)
        count += int(np.sum(~ignored))
        found = detected.get(image_id, [])
        # Within an image the order by score decides who hits first.
        order = np.argsort([-d["score"] for d in found], kind="stable")
        found = [found[i] for i in order]
        hit, miss = _voc_hits(pairwise_iou(found, truth, one), ignored, iou)
        scores += [d["score"] for d in found]
        hits += hit
        misses += miss
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    true = np.cumsum(np.asarray(hits, np.float64)[order])
    false = np.cumsum(np.asarray(misses, np.float64)[order])
    recall = true / count if count else np.full(len(order) + 1, math.nan)
    return recall, true / np.maximum(true + false, np.finfo(np.float64).tiny)


def _voc_hits(overlaps, ignored, iou):
    """For detections best first (rows): is it a hit, is it a false positive."""
    hits, misses = [], []
    taken = np.zeros(len(ignored), bool)
    for row in overlaps:
        best = int(np.argmax(row)) if len(row) else -1
        if best < 0 or row[best] < iou:
            hit, miss = False, True
        elif ignored[best]:
            hit, miss = False, False
        else:
            hit, miss = not taken[best], bool(taken[best])
            taken[best] = True
        hits.append(hit)
        misses.append(miss)
    return hits, misses


def pairwise_iou(
    found: Sequence[Mapping[str, Any]],
    truth: Sequence[Mapping[str, Any]],
    one: float = 0.0,
) -> np.ndarray:
    """IoU [D, G] of records' boxes; `one` is added to every width and height."""
    a = np.array([d["bbox"] for d in found], np.float64).reshape(-1, 1, 4)
    b = np.array([t["bbox"] for t in truth], np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    intersection = np.prod(np.maximum(high - low + one, 0.0), axis=-1)
    areas = np.prod(a[..., 2:] + one, axis=-1) + np.prod(b[..., 2:] + one, axis=-1)
    union = areas - intersection
    return np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )


def _eleven_points(recall, precision):
    """Mean over recalls 0, 0.1 ... 1 of the best precision from that recall on."""
    if np.isnan(recall).any():
        return math.nan
    # k * 0.1, not k / 10: 3, 6 and 7 times 0.1 lie one rounding above the tenth, so
    # that a recall of exactly 9 in 15 does not reach 0.6. Published figures have it so
    # (np.arange(0, 1.1, 0.1) of py-faster-rcnn's voc_eval and its descendants).
    levels = [k * 0.1 for k in range(11)]
    return float(np.mean([max(precision[recall >= t], default=0.0) for t in levels]))


def _all_points(recall, precision):
    """Area under the precision curve made monotone from the right."""
    if np.isnan(recall).any():
        return math.nan
    recall = np.concatenate([[0.0], recall])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best))
