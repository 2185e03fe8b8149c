"""The tracks of videos, in the text format of the MOT Challenge."""

import contextlib
import pathlib
from typing import NamedTuple, TextIO

from borrow_det.errors import InputError
from borrow_det.inference.detections import Detections
from borrow_det.inference.tracking import Tracker
from borrow_det.io import paths
from borrow_det.tools.predict.call_folder import CallFolder
from borrow_det.tools.predict.reading import Item

FOLDER = "tracks"


class _Video(NamedTuple):
    """The video that is read."""

    tracker: Tracker
    path: pathlib.Path
    file: TextIO


class TrackFiles:
    """Tracks the objects of each video, and writes its file in `tracks/`.

    A line is `frame,id,left,top,width,height,score,-1,-1,-1`: frame and id from 1, the
    box in pixels.
    """

    def __init__(self, folder: CallFolder, score: float):
        """Writes nothing yet.

        Args:
          folder: the folder `tracks/`.
          score: minimum score of the detections that begin a track.
        """
        self._folder, self._score = folder, score
        self._video: _Video | None = None

    @property
    def path(self) -> pathlib.Path | None:
        """The file of the video that is read, if there is one."""
        return self._video.path if self._video else None

    def add(self, item: Item, found: Detections) -> Detections:
        """Returns the detections of a frame with track ids, and writes the tracks.

        Detections of an image are returned as they are.

        Raises:
          InputError: the file cannot be written.
        """
        if item.frame is None:
            self.end_video()
            return found
        try:
            if item.frame == 0 or self._video is None:
                self.end_video()
                self._video = self._begin(item)
            tracked = self._video.tracker.update(found)
            for record in tracked.to_coco():
                if "track_id" in record:
                    values = (record["track_id"], *record["bbox"], record["score"])
                    line = ",".join(map(str, (item.frame + 1, *values, -1, -1, -1)))
                    self._video.file.write(line + "\n")
            self._video.file.flush()
        except OSError as error:
            raise InputError(
                f"{self.path or self._folder.path}: {paths.reason(error)}"
            ) from error
        return tracked

    def end_video(self) -> None:
        """Closes the file of the video that is read."""
        if self._video:
            with contextlib.suppress(OSError):  # A full disk has been reported.
                self._video.file.close()
            self._folder.finish(self._video.path)
            self._video = None

    def _begin(self, item: Item) -> _Video:
        path = self._folder.new_path(item.source.stem, ".txt")
        paths.make_folder(path.parent)
        file = path.open("w", encoding="ascii")
        return _Video(Tracker(item.rate, self._score), path, file)
