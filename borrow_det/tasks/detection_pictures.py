"""Pictures of an evaluation: chosen images with their hits and errors."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from borrow_det.data import sources
from borrow_det.data.images import decode
from borrow_det.evaluation import errors, image_choice, outcomes, pairing
from borrow_det.evaluation.curves import BEST_F1
from borrow_det.visualization import annotate, fonts
from borrow_det.visualization.outcomes import HIT, IGNORED, LOST, WRONG, draw


class Pictures:
    """The images of an evaluation and their outcomes at one threshold."""

    def __init__(
        self,
        split: sources.Split,
        truth: Mapping[str, Any],
        detections: Sequence[Mapping[str, Any]],
        max_detections: int,
        threshold: float,
    ):
        """Pairs the detections that reach the threshold.

        Args:
          split: the split.
          truth: COCO dictionary with areas in the pixels of evaluation.area_pixels; its
            images are in the order of the split.
          detections: COCO results list, likewise.
          max_detections: number of detections of an image and class that count.
          threshold: smallest score of a detection.
        """
        self._split, self._truth, self._detections = split, truth, detections
        pairs = pairing.pair(truth, detections, max_detections=max_detections)
        kinds = errors.kinds(truth, detections, pairs)
        self._kinds = kinds.detection
        thresholds = np.array([threshold])  # The index of the only one is 0.
        found = outcomes.outcomes(truth, detections, pairs, kinds, thresholds)
        self._found, self._lost, self._detected = (
            found,
            found.lost(0),
            found.detected(0),
        )
        self._hit = self._detected & (found.kind == 0)
        self._order = pairs.order[found.highest[pairs.order] >= 0]
        self._places = image_choice.Places.of(truth, detections)

    def choose(self, limit: int) -> list[image_choice.Chosen]:
        """Chooses at most `limit` images; see `image_choice.choose`."""
        names = self._split.class_names
        return image_choice.choose(self._found, self._places, names, 0, limit)

    def draw(self, chosen: image_choice.Chosen, about: str) -> tuple[str, np.ndarray]:
        """Draws an image: annotations left, detections right, a caption above.

        Args:
          chosen: the image and the reason to show it.
          about: split, step and threshold in words.

        Returns:
          (name, uint8 RGB [H, W, 3]).
        """
        record = self._split[chosen.image]
        image = decode.decode_image(record, record["file_name"])
        file = pathlib.Path(record["file_name"])
        lines = [
            f"{file.name} \u00b7 {about}",
            f"{self._summary(chosen.image)} \u00b7 reason: {chosen.reason}",
        ]
        marks = self._object_marks(chosen.image), self._detection_marks(chosen.image)
        return f"{record['image_id']}_{file.stem}", draw(image, *marks, lines)

    def _summary(self, image: int) -> str:
        here = self._places.detections == image
        hits = np.count_nonzero(here & self._hit)
        wrong = np.count_nonzero(here & self._detected) - hits
        lost = np.count_nonzero(self._lost & (self._places.objects == image))
        return f"hits: {hits}, false positives: {wrong}, objects not found: {lost}"

    def _object_marks(self, image: int) -> list[annotate.Mark]:
        """Returns the marks of an image's objects, those not found on top."""
        here = self._places.objects == image
        counts, lost = self._found.object_counts, self._lost
        marks = []
        for style, mask in ((IGNORED, ~counts), (HIT, counts & ~lost), (LOST, lost)):
            for i in np.flatnonzero(here & mask):
                box = self._box(self._truth["annotations"][i], image)
                text = self._class_text(self._found.object_label[i])
                marks.append(style.mark(box, text))
        return marks

    def _detection_marks(self, image: int) -> list[annotate.Mark]:
        """Returns the marks of an image's detections, the best on top."""
        here = (self._places.detections == image)[self._order]
        marks = []
        for i in self._order[here][::-1]:
            style, text = IGNORED, ""
            if self._detected[i]:
                style = HIT if self._hit[i] else WRONG
                text = f" {self._kinds[i]}".rstrip()
            score = self._detections[i]["score"]
            text = f"{self._class_text(self._found.label[i])} {score:.2f}{text}"
            marks.append(style.mark(self._box(self._detections[i], image), text))
        return marks

    def _class_text(self, label: int) -> str:
        split = self._split
        return fonts.class_text(int(label), split.class_names, split.category_ids)

    def _box(self, record: Mapping[str, Any], image: int) -> np.ndarray:
        """Returns the normalized corners of a COCO record."""
        x, y, width, height = record["bbox"]
        size = self._truth["images"][image]
        corners = np.array([y, x, y + height, x + width], np.float64)
        return corners / np.tile([size["height"], size["width"]], 2)


def threshold(
    config: ml_collections.ConfigDict, analysis: Mapping[str, Any]
) -> tuple[float, str]:
    """Returns the smallest score of a detection in pictures, and its words.

    It is report.min_score or, if that is 0, the score of the best F1. Without a best
    F1, as in a split without objects, all detections reach it.

    Args:
      config: the run's configuration.
      analysis: see `Evaluator.analyze`.
    """
    if fixed := config.report.min_score:
        return fixed, f"scores from {fixed:g}"
    if point := analysis["operating_points"][BEST_F1]:
        return point["score"], f"scores from {point['score']:.3f}, the best F1"
    return 0.0, "all scores"
