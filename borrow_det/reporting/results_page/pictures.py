"""The pictures of a results page: images and the outcomes in them."""

import collections
import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.data.images import decode
from borrow_det.data.sources import Split
from borrow_det.evaluation import outcomes
from borrow_det.evaluation.image_choice import Chosen, Places
from borrow_det.evaluation.outcomes import Outcomes
from borrow_det.reporting import html_page
from borrow_det.visualization import annotate

LEAST_SCORE = 0.05  # Smallest score of a detection in the page.
_LARGEST_SIDE = 640  # Pixels of an embedded image.
_LEAST_SIDE = 240
_BYTES = 6_000_000  # Room for all images, as text.


class Pictures:
    """The outcomes of a split, image by image.

    Attributes:
      places: images of the detections and objects.
    """

    def __init__(
        self,
        truth: Mapping[str, Any],
        detections: Sequence[Mapping[str, Any]],
        found: Outcomes,
    ):
        """Groups the records of a split.

        Args:
          truth: COCO dictionary; its images are in the order of the split.
          detections: COCO results list.
          found: outcomes of both.
        """
        self._images = truth["images"]
        self._detections, self._found = detections, found
        self._objects = truth["annotations"]
        self.places = Places.of(truth, detections)

    def record(self, index: int) -> dict[str, Any]:
        """Returns an image's objects and detections for the script.

        Returns:
          `name`, `width` and `height` of the image; `objects`, each [label, size,
          found, covered, x, y, width, height], where found is null for a crowd or a
          difficult object; `detections`, each [label, size, kind, highest, score, x, y,
          width, height] by falling score (see Outcomes; boxes in pixels of the image).
        """
        found, image = self._found, self._images[index]
        objects = [
            [
                int(found.object_label[i]),
                int(found.object_size[i]),
                int(found.found[i]) if found.object_counts[i] else None,
                int(found.covered[i]),
                *_rounded(self._objects[i]["bbox"]),
            ]
            for i in np.flatnonzero(self.places.objects == index).tolist()
        ]
        counted = (self.places.detections == index) & (found.kind >= 0)
        detections = [
            [
                int(found.label[i]),
                int(found.size[i]),
                int(found.kind[i]),
                int(found.highest[i]),
                round(self._detections[i]["score"], 3),
                *_rounded(self._detections[i]["bbox"]),
            ]
            for i in np.flatnonzero(counted).tolist()
            if self._detections[i]["score"] >= LEAST_SCORE
        ]
        return {
            "name": image["file_name"],
            "width": image["width"],
            "height": image["height"],
            "objects": objects,
            "detections": sorted(detections, key=lambda row: -row[4]),
        }

    def summary(self, index: int, threshold: int) -> str:
        """Returns the counts of an image at a threshold in words."""
        found = self._found
        here = self.places.detections == index
        kinds = collections.Counter(
            outcomes.DETECTION_KINDS[kind]
            for kind in found.kind[found.detected(threshold) & here]
        )
        lost = found.lost(threshold) & (self.places.objects == index)
        hits = kinds.pop(outcomes.HIT, 0)
        wrong = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
        return (
            f"Hits: {hits}; false positives: {kinds.total()}"
            f"{f' ({wrong})' if wrong else ''}; objects not found: "
            f"{np.count_nonzero(lost)}"
        )


def sections(
    split: Split, pictures: Pictures, chosen: Sequence[Chosen], threshold: int
) -> Iterator[str]:
    """Yields the HTML of each chosen image."""
    images = []
    for i, _ in chosen:
        record = split[i]
        image = decode.decode_image(record, record["file_name"])
        images.append(annotate.shrink(image, _LARGEST_SIDE))
    for (i, reason), source in zip(chosen, _embedded(images), strict=True):
        record = pictures.record(i)
        name = html.escape(record["name"])
        data = html_page.script_json(record | {"reason": reason})
        words = f"{pictures.summary(i, threshold)}. Reason: {reason}."
        yield (
            f'<section class="picture">\n<h3>{name}</h3>\n<p>{html.escape(words)}</p>\n'
            f'<img loading="lazy" decoding="async" alt="{name}" '
            f'width="{record["width"]}" height="{record["height"]}" src="{source}">\n'
            f'<script type="application/json">{data}</script>\n</section>\n'
        )


def _embedded(images: Sequence[np.ndarray]) -> list[str]:
    """Returns data URIs of images, smaller ones if they need too much room."""
    side = _LARGEST_SIDE
    while True:
        sources = [html_page.embedded(image, side) for image in images]
        if side <= _LEAST_SIDE or sum(map(len, sources)) <= _BYTES:
            return sources
        side = max(_LEAST_SIDE, side * 3 // 4)


def _rounded(bbox: Sequence[float]) -> list[float]:
    return [round(float(value), 1) for value in bbox]
