"""Files that predict writes: detections, image records, pictures, tracks."""

import json
import pathlib
import sys
import textwrap
from typing import Any

import numpy as np
import tqdm

from borrow_det.errors import InputError
from borrow_det.inference.detections import Detections
from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.tools.predict import track_files
from borrow_det.tools.predict.annotated_video import AnnotatedVideo
from borrow_det.tools.predict.call_folder import CallFolder
from borrow_det.tools.predict.growing_list import GrowingList
from borrow_det.tools.predict.reading import Item
from borrow_det.tools.predict.sources import Source
from borrow_det.visualization import annotate

FOLDER = "pictures"


class PredictionWriter:
    """Writes the output folder of one call of the tool, image by image.

    Attributes:
      drawn: number of detections so far with at least the score of those drawn.
      silent: number of annotated videos whose sound was left out, if they have any.
      failures: messages about pictures and videos that could not be written, also on
        stderr.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        detector: Detector,
        score: float,
        pictures: bool,
        tracks: bool,
        ids: dict[Source, Any] | None = None,
    ):
        """Creates the folder.

        Args:
          folder: output folder.
          detector: trained run, whose class names and ids are written.
          score: minimum score of the detections to draw.
          pictures: false to draw nothing.
          tracks: whether to link the detections of videos.
          ids: image id of each input; None numbers the images from 1.

        Raises:
          InputError: the folder cannot be made or written to, or its pictures/ or
            tracks/ has files of others.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = CallFolder(folder, FOLDER, pictures)
            self._track_folder = CallFolder(folder, track_files.FOLDER, tracks)
            self._results = GrowingList(folder / "detections.json")
            self._images = _image_list(folder / "images.json", detector)
        except OSError as error:
            raise InputError(f"--output={folder}: {error.strerror}") from error
        self._score = score
        self._pictures, self._ids = pictures, ids
        self._tracks = (
            track_files.TrackFiles(self._track_folder, score) if tracks else None
        )
        self._video: AnnotatedVideo | None = None
        self.drawn = self.silent = 0
        self.failures: list[str] = []

    @property
    def images(self) -> int:
        """Number of images and frames so far."""
        return self._images.count

    @property
    def written(self) -> int:
        """Number of detections so far."""
        return self._results.count

    def add(self, item: Item, found: Detections) -> None:
        """Writes an image and its detections; frames of a video come in order.

        A picture that cannot be drawn or written is reported, and no more.

        Raises:
          InputError: the results cannot be written.
        """
        if not self.images:
            self._clear()
        if self._tracks:
            found = self._tracks.add(item, found)
        # Drawn first: the record names the picture. It is listed by then.
        picture = self._draw(item, found) if self._pictures else None
        image_id = self._ids[item.source] if self._ids else self.images + 1
        height, width = found.image_size
        place: dict[str, Any] = {"file_name": item.source.name}
        if item.frame is not None:
            place["frame"] = item.frame
        image = {"id": image_id, **place, "height": height, "width": width}
        if picture is not None:
            image["picture"] = paths.as_text(f"{FOLDER}/{picture.name}")
        if self._tracks and self._tracks.path:
            name = self._tracks.path.name
            image["tracks"] = paths.as_text(f"{track_files.FOLDER}/{name}")
        records = [json.dumps(record | place) for record in found.to_coco(image_id)]
        # An image that is listed has all of its detections, whenever the process ends.
        self._results.add(records)
        self._images.add([textwrap.indent(json.dumps(image, indent=2), 4 * " ")])
        self.drawn += len(found.filter(self._score))

    def close(self, complete: bool) -> None:
        """Ends the JSON files and the last video.

        Args:
          complete: false for a call that ends early; without any image, it leaves the
            results of an earlier call in place.
        """
        keep = complete or self.images > 0
        self._results.close(keep)
        self._images.close(keep)
        self._end_video()
        if self._tracks:
            self._tracks.end_video()
        if keep and not self.images:
            self._clear()
        self._folder.close()
        self._track_folder.close()

    def _clear(self) -> None:
        """Removes the files of an earlier call."""
        self._folder.clear()
        self._track_folder.clear()

    def _draw(self, item: Item, found: Detections) -> pathlib.Path | None:
        """Draws an image or frame; returns its picture or video, None if it cannot."""
        if item.frame == 0:
            self._end_video()
        elif item.frame is not None and self._video is None:
            return None  # The video has been reported.
        try:
            return self._write_picture(item, np.asarray(found.plot(self._score)))
        except InputError as error:
            self._report(item, str(error))
        except Exception as error:  # Libraries raise many kinds; the results matter.
            self._report(item, f"{item.name}: {type(error).__name__}: {error}")
        return None

    def _write_picture(self, item: Item, picture: np.ndarray) -> pathlib.Path:
        if item.frame is None:
            path = self._folder.new_path(item.source.stem, ".jpg")
            annotate.write_image(path, picture)
            self._folder.finish(path)
            return path
        if self._video is None:
            path = self._folder.new_path(item.source.stem, ".mp4")
            self._video = AnnotatedVideo(path, item, picture)
        self._video.add(item, picture)
        return self._video.path

    def _report(self, item: Item, message: str) -> None:
        tqdm.tqdm.write(f"not drawn: {message}", file=sys.stderr)
        self.failures.append(message)
        if item.frame is not None:
            self._end_video()

    def _end_video(self) -> None:
        if self._video is not None:
            self._video.close()
            self._folder.finish(self._video.path)
            self.silent += self._video.lacks_sound
            self._video = None


def _image_list(path: pathlib.Path, detector: Detector) -> GrowingList:
    """Opens a COCO file of image records and of the detector's categories."""
    categories = [
        {"id": i, "name": name}
        for i, name in zip(detector.category_ids, detector.class_names, strict=True)
    ]
    empty = json.dumps({"images": [], "categories": categories}, indent=2) + "\n"
    head, tail = empty.split("]", maxsplit=1)
    return GrowingList(path, head, f"]{tail}", ("\n", "\n", "\n  "))
