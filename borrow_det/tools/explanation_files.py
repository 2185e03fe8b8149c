"""What tools.explain leaves: numbers, pictures, and a page to look through them."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from borrow_det import visualize
from borrow_det.errors import InputError
from borrow_det.tasks.detector import Detector
from borrow_det.tools import explanation_picture
from borrow_det.tools.explanation import Borrowed, Found
from borrow_det.tools.explanation_page import Page, class_colors


class Explained(NamedTuple):
    """A detection that was to be explained."""

    index: int  # Among the image's detections.
    borrowed: Borrowed | None
    note: str  # Why there is nothing, where there is nothing.


class Output:
    """The files of a run of this tool, written image by image."""

    def __init__(
        self, folder: pathlib.Path, detector: Detector, pictures: bool, limit: int
    ):
        """Creates the folder.

        Args:
          folder: where everything goes.
          detector: whose classes and levels are named.
          pictures: whether to draw.
          limit: pictures an image; 0: all.

        Raises:
          InputError: the folder cannot be made or written to.
        """
        self._part = folder / "explanations.json.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Written as they come: those of a large folder would fill the memory.
            self._json = self._part.open("w", encoding="utf-8")
            self._page = Page(
                folder / "index.html",
                detector.levels,
                detector.input_size,
                class_colors(detector.category_ids),
            )
        except OSError as error:
            raise InputError(f"--output={folder}: {error.strerror}") from error
        self._folder, self._detector = folder, detector
        self._pictures, self._limit = pictures, limit
        self._images = self._detections = self._explained = self._without = 0
        self._drawn = self._left_out = 0
        levels = json.dumps([level._asdict() for level in detector.levels])
        self._json.write(f'{{"levels": {levels},\n "images": [')

    def add(
        self, name: str, image: np.ndarray, found: Found, explained: list[Explained]
    ) -> None:
        """Takes an image, its detections, and what some of them borrowed."""
        done = [one for one in explained if one.borrowed]
        drawn = self._draw(name, image, found, done) if self._pictures else {}
        self._explained += len(done)
        self._without += len(explained) - len(done)
        self._detections += len(found.boxes)
        record = image_record(
            name, image.shape[:2], found, explained, self._detector, drawn
        )
        self._json.write(",\n" if self._images else "\n")
        self._json.write(json.dumps(record))
        self._images += 1
        self._page.add(record, image, {one.index: one.borrowed for one in done})

    def close(self) -> None:
        """Ends the files."""
        self._json.write("\n]}\n")
        self._json.close()
        self._part.replace(self._folder / "explanations.json")
        self._page.close()

    def summary(self, score: float) -> str:
        """What was done and left out, for the console."""
        parts = [
            f"{self._images} images, {self._detections} detections with a score of "
            f"{score} or more; {self._explained} explained"
        ]
        if self._without:
            parts.append(f"{self._without} on levels that do not borrow")
        if self._pictures:
            parts.append(f"{self._drawn} pictures")
        if self._left_out:
            parts.append(f"{self._left_out} more left out by --limit={self._limit}")
        return f"{', '.join(parts)}: {self._folder / 'index.html'}"

    def _draw(self, name, image, found, done):
        """Draws some; file names in the folder by index of the detection."""
        shown = done[: self._limit] if self._limit else done
        self._left_out += len(done) - len(shown)
        drawn = {}
        for one in shown:
            picture = explanation_picture.draw(
                image,
                found,
                one.index,
                one.borrowed,
                self._detector.levels,
                self._detector.input_size,
                self._detector.class_names,
            )
            # The number tells images of one name in several folders apart.
            stem = f"{self._images:04d}_{pathlib.PurePath(name).stem}"
            drawn[one.index] = f"pictures/{stem}_{one.index}.jpg"
            visualize.write_image(self._folder / drawn[one.index], picture)
            self._drawn += 1
        return drawn


def image_record(
    name: str,
    size: tuple[int, int],
    found: Found,
    explained: list[Explained],
    detector: Detector,
    drawn: dict[int, str],
) -> dict[str, Any]:
    """An image's entry in explanations.json.

    Boxes are COCO's [x, y, width, height] and centres [x, y], in pixels of the upright
    image; levels count from 1, detections from 0.
    """
    height, width = size
    of_index = {one.index: one for one in explained}
    detections = []
    for k, label in enumerate(found.labels.tolist()):
        detection = {
            "index": k,
            "class": detector.class_names[label],
            "category_id": detector.category_ids[label],
            "score": float(found.scores[k]),
            "bbox": [round(v, 3) for v in found.pixels(k, size)],
            "level": int(found.levels[k]) + 1,
        }
        if k in of_index:
            one = of_index[k]
            detection["picture"] = drawn.get(k)
            detection["note"] = one.note
            detection["borrowed"] = (
                _borrowed_record(one.borrowed, size) if one.borrowed else None
            )
        detections.append(detection)
    return {
        "file_name": name,
        "height": height,
        "width": width,
        "detections": detections,
    }


def _borrowed_record(borrowed, size):
    height, width = size
    return {
        "level": borrowed.level + 1,
        "descriptors": len(borrowed.descriptors),
        "shares": {str(m + 1): share for m, share in borrowed.shares.items()},
        "precision": borrowed.precision,
        "larger": list(borrowed.lenders),
        "sources": [
            {
                "level": source.level + 1,
                "center": [
                    round(source.center[1] * width, 3),
                    round(source.center[0] * height, 3),
                ],
                "weight": source.weight,
                "detections": list(source.detections),
            }
            for source in borrowed.sources
        ],
    }
