"""The annotated copy of a video, with the sound of the original."""

import pathlib
import sys

import numpy as np
import tqdm

from borrow_det.inference import soundtrack
from borrow_det.inference.video import VideoWriter
from borrow_det.tools.predict.reading import Item

_PART = ".video.part"  # In the output folder: a killed call leaves no other file.


class AnnotatedVideo:
    """A video that is drawn frame by frame.

    Attributes:
      path: the file.
      lacks_sound: true if the video is closed, and a sound track, if there is one, was
        left out because the package av is not installed.
    """

    def __init__(self, path: pathlib.Path, first: Item, picture: np.ndarray):
        """Opens the file.

        Args:
          path: file in pictures/ of the output folder.
          first: the first frame.
          picture: its annotated picture, uint8 RGB [H, W, 3].

        Raises:
          InputError: the file cannot be written.
        """
        self.path = path
        height, width, _ = picture.shape
        self._writer = VideoWriter(path, (height, width), first.rate)
        self._source = first.source
        self._times: list[float] = []
        self.lacks_sound = False

    def add(self, item: Item, picture: np.ndarray) -> None:
        """Appends a frame; raises InputError if it is of another size."""
        self._writer.add(picture)
        self._times.append(item.time)

    def close(self) -> None:
        """Ends the file, adds sound and times; reports on stderr if it cannot.

        A stream has no sound, which would have to be recorded at the same time.
        """
        self._writer.close()
        place = self._source.place
        original = None  # A stream or a pipe is read once.
        if isinstance(place, pathlib.Path) and place.is_file():
            original = place
        if not self._times:
            return
        if not soundtrack.is_available():
            self.lacks_sound = original is not None
            return
        part = self.path.parent.parent / _PART
        try:
            soundtrack.add(self.path, original, self._times, self._writer.rate, part)
        except Exception as error:  # FFmpeg's libraries raise many kinds.
            tqdm.tqdm.write(
                f"warning: {self.path} is without sound: {type(error).__name__}: "
                f"{error}",
                file=sys.stderr,
            )
