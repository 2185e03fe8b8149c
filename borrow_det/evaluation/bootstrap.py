"""Bootstrap over the images of an evaluation: how much a metric depends on them.

A resample draws as many images as there are, with replacement, and the metric of the
images that were drawn is computed again. Two detectors are compared on the same
resamples (a paired bootstrap), so that what makes images easy or hard for both cancels.
Where images belong to groups, such as the frames of a video, entire groups are drawn,
since the images of a group are not independent observations. Intervals are percentiles
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

The detections of an image take the same objects in every resample. They are paired once
(`Matcher`), and a resample only weighs the images by how often they were drawn.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from scipy import stats

from borrow_det.evaluation import average_precision, pairing

CONFIDENCE = 0.95
POWER = 0.8  # Probability of finding the minimum detectable effect.
_SEED = 0
_IOUS = np.linspace(0.5, 0.95, 10)  # COCO's thresholds.
_BLOCK = 2**22  # Numbers in the largest arrays; bounds the memory.


class Units(NamedTuple):
    """Images, or groups of images, that a resample draws.

    Attributes:
      of_image: the unit of each image by id, counted from 0.
      keys: the key of each unit.
      kind: "image" or "group".
    """

    of_image: Mapping[Hashable, int]
    keys: tuple[Hashable, ...]
    kind: str

    def numbers(self, records: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """Returns the unit of each record with an `image_id`, int [N]."""
        return np.array([self.of_image[r["image_id"]] for r in records], int)


def make_units(image_ids: Sequence[Hashable], keys: Sequence[Hashable]) -> Units:
    """Returns the units of images with these keys, equal for those of a group."""
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    of_image = {i: number[key] for i, key in zip(image_ids, keys, strict=True)}
    kind = "group" if len(number) < len(of_image) else "image"
    return Units(of_image, tuple(number), kind)


def draw(units: int, count: int) -> np.ndarray:
    """Draws resamples; the same ones for the same numbers.

    Args:
      units: number of units, U.
      count: number of resamples, B.

    Returns:
      float64 [U, B], how often each unit was drawn; every column sums to U.
    """
    shares = np.full(units, 1 / units)
    drawn = np.random.default_rng(_SEED).multinomial(units, shares, size=count)
    return np.ascontiguousarray(drawn.T, np.float64)


class Curve(NamedTuple):
    """The detections of one class that count at one IoU.

    Attributes:
      hits: int [H], the unit of each true positive, by falling score.
      false: sparse [H, U], the number of false positives of each unit between a true
        positive and the one before. Those after the last one do not affect AP.
    """

    hits: np.ndarray
    false: scipy.sparse.csr_array


class Matches(NamedTuple):
    """Detections paired with the objects of an area range.

    Attributes:
      objects: float64 [K, U], the number of objects to find, by class and unit.
      curves: for each of COCO's ten IoUs, the curve of each class.
    """

    objects: np.ndarray
    curves: tuple[tuple[Curve, ...], ...]


class Matcher:
    """Pairs detections with several sets of objects at each of COCO's IoUs."""

    def __init__(
        self,
        truth: Mapping[str, Any],
        detections: Sequence[Mapping[str, Any]],
        units: Units,
        max_detections: int = 100,
    ):
        """Finds the objects that each detection overlaps.

        Args:
          truth: COCO dictionary (see average_precision.py).
          detections: COCO results list.
          units: units of the images.
          max_detections: number of detections of an image and class that count.
        """
        annotations = truth["annotations"]
        self._annotations = annotations
        self._shape = len(truth["categories"]), len(units.keys)
        self._objects = (
            pairing.label_numbers(truth, annotations),
            units.numbers(annotations),
        )
        self._labels = pairing.label_numbers(truth, detections)
        self._units = units.numbers(detections)
        self._pairing = pairing.Pairing(truth, detections, max_detections, _IOUS[0])

    def match(
        self,
        area_range: tuple[float, float] = average_precision.ALL_AREAS,
        subset: np.ndarray | None = None,
    ) -> Matches:
        """Pairs the detections with objects.

        Args:
          area_range: smallest and largest area in square pixels, inclusive.
          subset: bool [G], the objects to find in this range; the others are ignored,
            as in `average_precision.subset_metrics`. None: all of them.
        """
        counts = pairing.counted_objects(self._annotations, area_range)
        if subset is not None:
            counts &= subset
        objects = np.zeros(self._shape)
        np.add.at(objects, tuple(numbers[counts] for numbers in self._objects), 1.0)
        classes, units = self._shape
        curves = []
        for iou in _IOUS:
            pairs = self._pairing.pair(iou, counts, area_range)
            order = pairs.order[~pairs.ignored[pairs.order]]
            hit = pairs.hit
            found = [order[self._labels[order] == k] for k in range(classes)]
            curves.append(tuple(_curve(self._units[d], hit[d], units) for d in found))
        return Matches(objects, tuple(curves))


def _curve(of_unit: np.ndarray, hit: np.ndarray, units: int) -> Curve:
    """Returns the curve of detections in the order of their scores."""
    hits = of_unit[hit]
    before = np.cumsum(hit)
    false = ~hit & (before < len(hits))
    ones = np.ones(false.sum())
    places = before[false], of_unit[false]
    table = scipy.sparse.coo_array((ones, places), shape=(len(hits), units))
    return Curve(hits, table.tocsr())


def resampled(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Computes COCO's metrics of resamples.

    With weights of 1 they equal those of `average_precision.coco_metrics`, and with
    other integers those of a split with that many copies of each image.

    Args:
      matches: paired detections.
      weights: float64 [U, B], how often each unit was drawn.

    Returns:
      AP, AP50, AP75 and AR, float64 [B] each; nan where no object was drawn.
    """
    largest = max((len(c.hits) for of_iou in matches.curves for c in of_iou), default=0)
    width = max(1, _BLOCK // max(largest, 1))
    blocks = [
        _resampled(matches, weights[:, start : start + width])
        for start in range(0, weights.shape[1], width)
    ]
    return {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}


def _resampled(matches: Matches, weights: np.ndarray) -> dict[str, np.ndarray]:
    objects = matches.objects @ weights  # [K, B]
    shape = len(_IOUS), *objects.shape
    precision, recall = np.zeros(shape), np.zeros(shape)
    for t, of_iou in enumerate(matches.curves):
        for k, curve in enumerate(of_iou):
            if len(curve.hits):
                precision[t, k], recall[t, k] = _figures(curve, objects[k], weights)
    defined = objects > 0
    classes = np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)

    def mean(values: np.ndarray) -> np.ndarray:
        """Means over the classes with objects, of values [K, B]."""
        return np.sum(values, axis=0, where=defined) / classes

    return {
        "AP": mean(precision.mean(axis=0)),
        "AP50": mean(precision[0]),
        "AP75": mean(precision[5]),
        "AR": mean(recall.mean(axis=0)),
    }


def _figures(
    curve: Curve, objects: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (AP, recall) of a class with true positives, [B] each."""
    found = np.cumsum(weights[curve.hits], axis=0)  # [H, B]
    false = np.cumsum(curve.false @ weights, axis=0)
    precision = found / np.maximum(found + false, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    recall = found / np.maximum(objects, 1)
    # Each of COCO's recalls takes the precision of the first hit that reaches it.
    reached = np.searchsorted(pairing.RECALLS, recall, side="right")
    taken = np.diff(reached, axis=0, prepend=0)
    return (best * taken).sum(axis=0) / len(pairing.RECALLS), recall[-1]


def resampled_share(
    flags: Sequence[tuple[Hashable, bool]], units: Units, weights: np.ndarray
) -> np.ndarray:
    """Computes the share of true flags in resamples, float64 [B]; nan without any.

    Args:
      flags: (image id, flag) of each object.
      units: units of the images.
      weights: float64 [U, B], how often each unit was drawn.
    """
    totals = np.zeros((2, len(units.keys)))
    for image_id, flag in flags:
        totals[:, units.of_image[image_id]] += flag, 1
    true, all_ = totals @ weights
    return np.divide(true, all_, out=np.full_like(true, np.nan), where=all_ > 0)


class Samples(NamedTuple):
    """Metrics of one evaluation on resamples.

    Attributes:
      units: what the resamples draw.
      values: float64 [B] by name of the metric.
    """

    units: Units
    values: Mapping[str, np.ndarray]


def difference(
    values: Sequence[Samples], baseline: Sequence[Samples], metric: str
) -> dict[str, Any] | None:
    """Returns the interval of the mean difference of pairs of evaluations.

    Args:
      values: evaluations, for example with several seeds.
      baseline: an evaluation for each of these, on the same resamples.
      metric: name of the metric.

    Returns:
      The fields of `interval`; `log_ratio_std`, the standard deviation of the logarithm
      of the ratio of the two means, None if it is not finite in all resamples; the
      `unit` and the number of `units`. None without pairs, without this metric, with a
      single unit, or if a pair is not of the same images and groups.
    """
    pairs = list(zip(values, baseline, strict=True))
    for pair in pairs:
        if pair[0].units != pair[1].units or any(metric not in s.values for s in pair):
            return None
    if not pairs or len(pairs[0][0].units.keys) < 2:
        return None
    units = pairs[0][0].units
    own, others = (
        np.array([samples.values[metric] for samples in side])
        for side in zip(*pairs, strict=True)
    )
    found = interval((own - others).mean(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = interval(np.log(own.mean(axis=0) / others.mean(axis=0)))
    # A resample in which one of them is zero has no finite ratio.
    complete = ratio["samples"] == found["samples"]
    return {
        **found,
        "log_ratio_std": ratio["std"] if complete else None,
        "unit": units.kind,
        "units": len(units.keys),
    }


def interval(values: np.ndarray) -> dict[str, float | int | None]:
    """Returns the percentile interval of a statistic over resamples.

    Args:
      values: float64 [B], nan where it is undefined.

    Returns:
      {low, high, std, samples}: the ends of the 95 % interval, the standard deviation,
      and the number of resamples in which the statistic is defined. Values are None
      with less than two of these.
    """
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return {"low": None, "high": None, "std": None, "samples": len(values)}
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return {
        "low": float(low),
        "high": float(high),
        "std": float(values.std(ddof=1)),
        "samples": len(values),
    }


def detectable_effect(error: float, degrees_of_freedom: float = math.inf) -> float:
    """Returns the minimum detectable effect of a two-sided test at 5 %.

    It is the true difference that such a test finds with a probability of 80 %:
    (t_0.975 + t_0.8) times the standard error.

    Args:
      error: standard error of the difference.
      degrees_of_freedom: those of Student's t; infinite for the normal distribution.
    """
    both_sides = stats.t.ppf((1 + CONFIDENCE) / 2, degrees_of_freedom)
    return float((both_sides + stats.t.ppf(POWER, degrees_of_freedom)) * error)
