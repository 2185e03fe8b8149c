"""What tools.predict leaves: detections, image records, annotated pictures."""

import json
import pathlib
import sys
from typing import Any, NamedTuple

import cv2
import numpy as np

from borrow_det.errors import InputError
from borrow_det.inference import tiling
from borrow_det.inference.detector import Detector
from borrow_det.tasks import detection_evaluator
from borrow_det.visualization import annotate
from borrow_det.workdir import metadata


class Item(NamedTuple):
    """One picture to look at."""

    path: pathlib.Path
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.
    frame: int | None = None  # Of a video, counted from 0.
    rate: float = 0.0  # Of a video: frames a second.


class Output:
    """The files of a run of this tool.

    Attributes:
      images: COCO image records so far; `frame` beside the usual fields in a video.
      written: detections so far.
      shown: those of them that are drawn.
      failures: what could not be drawn, as told on stderr.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        detector: Detector,
        score: float,
        pictures: bool,
        ids: dict[pathlib.Path, Any] | None = None,
    ):
        """Creates the folder.

        Args:
          folder: where everything goes.
          detector: whose class names and ids are written.
          score: the least score of what is drawn.
          pictures: whether to draw.
          ids: the image id of each path; None numbers the images from 1.

        Raises:
          InputError: the folder cannot be made or written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Written as they come: those of a long video would fill the memory.
            self._results = (folder / "detections.json.part").open(
                "w", encoding="utf-8"
            )
        except OSError as error:
            raise InputError(f"--output={folder}: {error.strerror}") from error
        self._folder, self._detector, self._score = folder, detector, score
        self._pictures, self._ids = pictures, ids
        self._names: set[str] = set()
        self._video: cv2.VideoWriter | None = None
        self.images: list[dict] = []
        self.written = self.shown = 0
        self.failures: list[str] = []

    def add(self, item: Item, found: tiling.Found) -> None:
        """Takes a picture and its detections, in pixels; frames come in order."""
        image_id = self._ids[item.path] if self._ids else len(self.images) + 1
        height, width = item.image.shape[:2]
        place = {"file_name": str(item.path)}
        if item.frame is not None:
            place["frame"] = item.frame
        boxes = found.boxes / np.array([height, width, height, width])
        results = detection_evaluator.coco_results(
            image_id,
            np.array([height, width]),
            boxes,
            found.scores,
            found.labels,
            self._detector.category_ids,
        )
        self.images.append({"id": image_id, **place, "height": height, "width": width})
        for result in results:
            self._results.write("[" if not self.written else ",\n")
            self._results.write(json.dumps(result | place))
            self.written += 1
        shown = found.scores >= self._score
        self.shown += int(shown.sum())
        if self._pictures:
            picture = annotate.draw_boxes(
                item.image,
                boxes[shown],
                found.labels[shown],
                self._detector.class_names,
                found.scores[shown],
            )
            self._write_picture(item, picture)

    def close(self) -> None:
        """Writes the JSON files and ends the last video."""
        self._end_video()
        categories = [
            {"id": i, "name": name}
            for i, name in zip(
                self._detector.category_ids, self._detector.class_names, strict=True
            )
        ]
        self._results.write("]\n" if self.written else "[]\n")
        self._results.close()
        pathlib.Path(self._results.name).replace(self._folder / "detections.json")
        metadata.write_json(
            self._folder / "images.json",
            {"images": self.images, "categories": categories},
        )

    def _write_picture(self, item, picture):
        if item.frame is None:
            annotate.write_image(self._new_path(item.path, ".jpg"), picture)
            return
        if item.frame == 0:
            self._end_video()
            self._video = self._new_video(item, picture)
        if self._video is not None:
            self._video.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _new_video(self, item, picture):
        """A writer of pictures of this size; None, told on stderr, if none opens."""
        path = self._new_path(item.path, ".mp4")
        path.parent.mkdir(exist_ok=True)
        size = (picture.shape[1], picture.shape[0])
        video = cv2.VideoWriter(
            str(path), cv2.VideoWriter_fourcc(*"mp4v"), item.rate, size
        )
        if video.isOpened():
            return video
        path.unlink(missing_ok=True)
        failure = (
            f"{path}: OpenCV writes no MP4 of {size[0]} x {size[1]} pixels and "
            f"{item.rate:g} frames a second"
        )
        print(f"not drawn: {failure}", file=sys.stderr)
        self.failures.append(failure)
        return None

    def _new_path(self, source, suffix):
        """A name in pictures/ that no other input has taken."""
        stem, number = source.stem, 1
        while stem + suffix in self._names:
            number += 1
            stem = f"{source.stem}_{number}"
        self._names.add(stem + suffix)
        return self._folder / "pictures" / (stem + suffix)

    def _end_video(self):
        if self._video is not None:
            self._video.release()
            self._video = None
