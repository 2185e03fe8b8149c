"""The evaluation of detections: batches with boxes, COCO results, metrics, pictures."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from borrow_det.data import groups, learnable, native_scale, pipeline, rows, sources
from borrow_det.data.images import decode
from borrow_det.data.reference_rows import ReferencesRow, with_references
from borrow_det.data.rows import MakeRow
from borrow_det.errors import InputError
from borrow_det.evaluation import (
    analysis,
    average_precision,
    borrowing,
    counterfactual,
    lenders,
    voc,
)
from borrow_det.evaluation.coco_values import Id
from borrow_det.models.source_levels import source_levels
from borrow_det.tasks import detection_pictures
from borrow_det.tasks.detection import DetectionPrediction
from borrow_det.tasks.evaluation_tiles import EvaluationTiles, detected
from borrow_det.tasks.task import Figures
from borrow_det.visualization import annotate, tables


class DetectionEvaluator:
    """Evaluates detections on one split; see `Evaluator` in tasks/task.py.

    Attributes:
      split: the split.
      config: the run's configuration.
    """

    figures = Figures(
        console=("AP", "AP50", "AP_small", "AP50_small", "attention/lift_same"),
        report=tables.MAIN_FIELDS,
        details=tables.BORROWING_FIELDS,
        per_class=tables.PER_CLASS_FIELDS,
    )
    results_name = "detections"

    def __init__(
        self,
        split: sources.Split,
        config: ml_collections.ConfigDict,
        truth: Mapping[str, Any] | None = None,
    ):
        """Reads the annotations unless `truth`, in COCO's format, is given."""
        self.split = split
        self.config = config
        self.truth = sources.ground_truth(split) if truth is None else truth
        # Images by their image_id in batches.
        self._images = {
            image.get("batch_id", image["id"]): image for image in self.truth["images"]
        }
        self._tiles = EvaluationTiles.of(config)

    @staticmethod
    def open_splits(
        config: ml_collections.ConfigDict, names: Sequence[str]
    ) -> list[sources.Split]:
        """Opens splits of a set with boxes.

        Raises:
          InputError: a split is unknown, empty or without boxes, or a field of
            config.dataset is wrong.
        """
        splits = sources.load_splits(config.dataset, names)
        for split in splits:
            if split.whole_images:
                raise InputError(
                    f"{split.dataset} has classes of images and no boxes: it is for "
                    "task=classification"
                )
            pipeline.check_split(split, config)
        return splits

    @staticmethod
    def check_training_split(
        split: sources.Split, config: ml_collections.ConfigDict
    ) -> tuple[dict[str, int], list[str]]:
        """Reads all boxes of the split; see `pipeline.check_training_data`."""
        found = groups.reference_groups(split, config)
        objects = learnable.LearnableObjects(config, found)
        counts = pipeline.check_training_data(split, config, objects.observe)
        notices = [
            *groups.notices(split, found),
            *groups.unreached_count(split, found, config.references.count),
            *objects.notices(split),
        ]
        if config.augment.tile:
            notices += native_scale.notices(split.name, split.descriptions, config)
        return counts, notices

    def notices(self) -> list[str]:
        """Returns lines about objects that count, about groups and about the canvas."""
        name = self.split.name
        notices = []
        if self.config.references.kind == "group":
            notices += groups.notices(self.split, self.image_groups)
        if self.config.evaluation.tiles:
            images = self.truth["images"]
            notices += native_scale.notices(name, images, self.config)
        annotations = self.truth["annotations"]
        if not all(map(average_precision.is_ignored, annotations)):
            return notices
        why = "all are crowds, difficult or ignored" if annotations else "it has none"
        lacking = f"{name} has no object to find ({why}): its AP is undefined"
        return [*notices, lacking]

    @staticmethod
    def compare(
        evaluators: Sequence["DetectionEvaluator"],
        read_results: Callable[["DetectionEvaluator"], list[dict]],
    ) -> dict[str, float]:
        """Returns the metrics of counterfactual splits; see counterfactual.py."""
        return counterfactual.metrics(*answers(evaluators, read_results))

    @staticmethod
    def scene(split: sources.Split, index: int, side: int) -> np.ndarray:
        """Draws an image with its annotated boxes; see `Evaluator.scene`."""
        record = split[index]
        image = decode.decode_image(record, record["file_name"])
        return annotate.draw_boxes(
            image,
            record["boxes"],
            record["labels"],
            split.class_names,
            side=side,
            category_ids=split.category_ids,
        )

    @functools.cached_property
    def row(self) -> "EvalRow":
        """The function that makes rows of the split's batches.

        No box is left out: rows have room for dataset.max_boxes, or for a multiple of
        it if an image has more, so that splits share a compiled program. If that is 0,
        the largest number of boxes is rounded up (`rows.room_for`).
        """
        counts = collections.Counter(
            annotation["image_id"] for annotation in self.truth["annotations"]
        )
        most = max(counts.values(), default=0)
        unit = self.config.dataset.max_boxes or rows.room_for(most)
        row = rows.BoxesRow.of(self.split, self.config.dataset)
        row = dataclasses.replace(row, max_boxes=max(1, -(-most // unit)) * unit)
        return EvalRow(row, area_size(self.config), self._tiles, self._most_views())

    @functools.cached_property
    def image_groups(self) -> groups.Groups | None:
        """The groups of the split's images in which lenders are counted, if any."""
        return groups.scored_groups(self.split, self.config)

    def _most_views(self) -> int:
        """Returns the largest number of views of an image; 0 without tiles."""
        if self._tiles is None:
            return 0
        sizes = {(image["height"], image["width"]) for image in self.truth["images"]}
        return max(len(self._tiles.views(size)[0]) for size in sizes)

    @functools.cached_property
    def _rows(self) -> MakeRow | ReferencesRow:
        """The rows of the split's batches, with references of references.kind=group."""
        return with_references(self.split, self.config, self.row, self.row.boxes_row)

    def batches(
        self, process_index: int = 0, process_count: int = 1
    ) -> pipeline.Batches:
        """Yields the split's images with their boxes; see `Evaluator.batches`."""
        return pipeline.eval_batches(
            self.split, self.config, process_index, process_count, make_row=self._rows
        )

    def results(self, image_id: int, prediction: DetectionPrediction) -> list[dict]:
        """Returns one image's detections in COCO's results format.

        Those of several views are merged.
        """
        found = prediction.found
        image = self._images[image_id]
        size = image["height"], image["width"]
        parts = detected(found) if not self._tiles else self._tiles.merge(found, size)
        return coco_results(
            image["id"], np.array(size), *parts, category_ids=self.split.category_ids
        )

    def observe(
        self, prediction: DetectionPrediction
    ) -> dict[int, borrowing.AttentionSums]:
        """Returns the sums of the attention of the image's small objects."""
        return prediction.attention

    def score(self, results: list[dict]) -> dict[str, float]:
        """Returns the metrics of detections; see the function `score`.

        With groups of images, also those of lenders in the group of an image.
        """
        metrics = score(self.truth, results, self.config)
        if self.image_groups is None:
            return metrics
        truth, detections = sized(self.truth, results, self.config)
        return metrics | lenders.lender_metrics(
            truth,
            detections,
            metrics,
            self.config.evaluation.lender_scale,
            self.config.evaluation.max_detections,
            self.image_groups.group.tolist(),
        )

    def analyze(self, results: list[dict], points: Sequence[str] = ()) -> dict:
        """Returns curves, points, confusion and errors (evaluation/analysis.py)."""
        truth, detections = sized(self.truth, results, self.config)
        settings = self.config.evaluation
        return analysis.analyze(
            truth, detections, settings.lender_scale, points, settings.max_detections
        )

    def measure(self, observations: list) -> dict[str, float]:
        """Returns the metrics of the attention (evaluation/borrowing.py)."""
        borrow, num_levels = self.config.borrow, len(self.config.anchors.strides)
        levels = sorted(borrow.levels) if borrow.enabled else ()
        return borrowing.attention_metrics(
            observations, {n: source_levels(borrow, n, num_levels) for n in levels}
        )

    def choosing_metrics(self) -> tuple[str, ...]:
        """Returns the precisions and recalls that are defined."""
        found = self.score([])  # Zeros, and nan without an object to find.
        return tuple(
            name
            for name, value in found.items()
            if name.startswith(("AP", "AR")) and not np.isnan(value)
        )

    def default_metric(self) -> str | None:
        """Returns AP_small if a small object of the split counts, otherwise AP."""
        annotations = sized(self.truth, [], self.config)[0]["annotations"]
        areas = [
            average_precision.object_area(annotation)
            for annotation in annotations
            if not average_precision.is_ignored(annotation)
        ]
        if not areas:
            return None
        return "AP_small" if any(map(average_precision.is_small, areas)) else "AP"

    def pictures(
        self, results: list[dict], analysis: Mapping[str, Any], step: int
    ) -> dict[str, np.ndarray]:
        """Draws chosen images: annotations left, detections right."""
        count = self.config.report.num_pictures
        if not count:
            return {}
        truth, detections = sized(self.truth, results, self.config)
        score, words = detection_pictures.threshold(self.config, analysis)
        limit = self.config.evaluation.max_detections
        found = detection_pictures.Pictures(self.split, truth, detections, limit, score)
        about = f"{self.split.dataset} {self.split.name}, step {step}, {words}"
        return dict(found.draw(chosen, about) for chosen in found.choose(count))


def answers(
    evaluators: Sequence[DetectionEvaluator],
    read_results: Callable[[DetectionEvaluator], list[dict]],
) -> tuple[dict[str, counterfactual.Answers], list[tuple[str, str]]]:
    """Returns the arguments of `counterfactual.metrics`; see `Evaluator.compare`."""
    by_name = {evaluator.split.name: evaluator for evaluator in evaluators}
    pairs = [
        (evaluator.split.counterfactual_of, name)
        for name, evaluator in by_name.items()
        if evaluator.split.counterfactual_of in by_name
    ]
    found = {
        name: counterfactual.answers(
            *sized(evaluator.truth, read_results(evaluator), evaluator.config)
        )
        for name, evaluator in by_name.items()
        if any(name in pair for pair in pairs)
    }
    return found, pairs


@dataclasses.dataclass(frozen=True)
class EvalRow:
    """Makes a row of an evaluation batch from a record.

    Attributes:
      boxes_row: makes a row of training, with room for all boxes of the split.
      size: (height, width) in whose pixels areas are measured; None: the image's own.
      tiles: splits the image into views; None: the entire image only.
      most_views: V, the largest number of views of an image of the split.
    """

    boxes_row: rows.BoxesRow
    size: tuple[int, int] | None
    tiles: EvaluationTiles | None = None
    most_views: int = 0

    def __call__(self, record: dict) -> dict[str, np.ndarray]:
        """Returns a training row without its counts, and fields of the evaluation.

        `small`, bool [G], marks objects of COCO's small area range. With tiles,
        `views` and `view_mask` are those of `EvaluationTiles.row`.
        """
        row = self.boxes_row(record)
        del row["cut_boxes"], row["bad_boxes"]  # Counted in training only.
        area = record["area"].astype(np.float64)
        own = record["height"], record["width"]
        if self.size:
            area = average_precision.area_in(area, own, self.size)
        small = np.zeros_like(row["box_mask"])
        small[row["box_mask"]] = average_precision.is_small(area)
        if self.tiles is not None:
            row |= self.tiles.row(own, self.most_views)
        return {**row, "small": small}


def area_size(config: ml_collections.ConfigDict) -> tuple[int, int] | None:
    """Returns (height, width) in whose pixels areas are measured, or None."""
    of_input = config.evaluation.area_pixels == "input"
    return tuple(config.input_size) if of_input else None


def sized(
    truth: Mapping[str, Any],
    detections: list[dict],
    config: ml_collections.ConfigDict,
) -> tuple[Mapping[str, Any], list[dict]]:
    """Returns COCO records with areas in the pixels of evaluation.area_pixels."""
    size = area_size(config)
    if size is None:
        return truth, detections
    return average_precision.with_areas(truth, detections, size)


def coco_results(
    image_id: Id,
    size: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    category_ids: Sequence[Id],
) -> list[dict[str, Any]]:
    """Returns one image's detections in COCO's results format.

    Args:
      image_id: the image.
      size: its (height, width) in pixels.
      boxes: float [n, 4], normalized `[y_min, x_min, y_max, x_max]`.
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


def score(
    truth: Mapping[str, Any],
    detections: list[dict],
    config: ml_collections.ConfigDict,
) -> dict[str, float]:
    """Returns COCO's metrics, also of small objects with and without a lender.

    VOC's metrics are added if evaluation.voc is set.
    """
    limit = config.evaluation.max_detections
    truth, detections = sized(truth, detections, config)
    metrics = average_precision.coco_metrics(truth, detections, limit)
    metrics |= lenders.lender_metrics(
        truth, detections, metrics, config.evaluation.lender_scale, limit
    )
    if config.evaluation.voc:
        # Boxes are continuous: VOC's inclusive pixels were converted when they were
        # read (data/datasets/records.py).
        metrics |= voc.voc_metrics(truth, detections, inclusive_pixels=False)
    return metrics
