"""Files that predict writes: detections, image records, annotated pictures."""

import json
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

from borrow_det.errors import InputError
from borrow_det.inference.detections import Detections
from borrow_det.inference.detector import Detector
from borrow_det.inference.video import VideoWriter
from borrow_det.visualization import annotate
from borrow_det.workdir import metadata


class Item(NamedTuple):
    """One image, or one frame of a video."""

    path: pathlib.Path
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.
    frame: int | None = None  # Index of a video's frame, from 0.
    rate: float = 0.0  # Frames per second of a video.


class PredictionWriter:
    """Writes the output folder of one call of the tool.

    Attributes:
      images: COCO image records so far; those of videos have `frame` as well.
      written: number of detections so far.
      drawn: number of detections so far with at least the score of those drawn.
      failures: messages about videos that could not be written, also on stderr.
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
          folder: output folder.
          detector: trained run, whose class names and ids are written.
          score: minimum score of the detections to draw.
          pictures: false to draw nothing.
          ids: image id of each path; None numbers the images from 1.

        Raises:
          InputError: the folder cannot be made or written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Written record by record: the detections of a long video would fill the
            # memory.
            self._results = (folder / "detections.json.part").open(
                "w", encoding="utf-8"
            )
        except OSError as error:
            raise InputError(f"--output={folder}: {error.strerror}") from error
        self._folder, self._detector, self._score = folder, detector, score
        self._pictures, self._ids = pictures, ids
        self._names: set[str] = set()
        self._video: VideoWriter | None = None
        self.images: list[dict[str, Any]] = []
        self.written = self.drawn = 0
        self.failures: list[str] = []

    def add(self, item: Item, found: Detections) -> None:
        """Writes an image and its detections; frames of a video come in order."""
        image_id = self._ids[item.path] if self._ids else len(self.images) + 1
        height, width = found.image_size
        place: dict[str, Any] = {"file_name": str(item.path)}
        if item.frame is not None:
            place["frame"] = item.frame
        self.images.append({"id": image_id, **place, "height": height, "width": width})
        for record in found.to_coco(image_id):
            self._results.write("[" if not self.written else ",\n")
            self._results.write(json.dumps(record | place))
            self.written += 1
        self.drawn += len(found.filter(self._score))
        if self._pictures:
            self._draw(item, np.asarray(found.plot(self._score)))

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

    def _draw(self, item: Item, picture: np.ndarray) -> None:
        """Writes an annotated picture or frame."""
        if item.frame is None:
            annotate.write_image(self._new_path(item.path, ".jpg"), picture)
            return
        if item.frame == 0:
            self._end_video()
            self._video = self._open_video(item, picture)
        if self._video is not None:
            self._video.add(picture)

    def _open_video(self, item: Item, picture: np.ndarray) -> VideoWriter | None:
        """Opens a video of pictures of this size; reports on stderr if it cannot."""
        path = self._new_path(item.path, ".mp4")
        height, width, _ = picture.shape
        try:
            return VideoWriter(path, (height, width), item.rate)
        except InputError as error:
            print(f"not drawn: {error}", file=sys.stderr)
            self.failures.append(str(error))
            return None

    def _new_path(self, source: pathlib.Path, suffix: str) -> pathlib.Path:
        """Returns a name in pictures/ that no other input has taken."""
        stem, number = source.stem, 1
        while stem + suffix in self._names:
            number += 1
            stem = f"{source.stem}_{number}"
        self._names.add(stem + suffix)
        return self._folder / "pictures" / (stem + suffix)

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._video = None
