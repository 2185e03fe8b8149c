"""Videos: reading frames, and writing annotated ones."""

import pathlib
import sys
from collections.abc import Iterator

import cv2
import numpy as np

from borrow_det.errors import InputError
from borrow_det.io import paths, web

# Other containers state a duration at best, from which OpenCV guesses the count.
_COUNTED_SUFFIXES = frozenset((".avi", ".m4v", ".mov", ".mp4"))
_SECONDS_OF_SILENCE = 20.0  # A stream that sends nothing for longer has ended.


def read_frames(path: pathlib.Path) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (frames per second, frame) of a video, frames as uint8 RGB [H, W, 3].

    Raises:
      InputError: the file does not open or holds no frame. Also after the last frame,
        if the container counts many more (AVI and MP4 do).
    """
    try:
        if not path.is_fifo():  # A pipe can be opened only once.
            path.open("rb").close()  # OpenCV gives no reason.
    except OSError as error:
        raise InputError(f"{path}: {paths.reason(error)}") from error
    with paths.plain_name(path) as name:
        capture = cv2.VideoCapture(name)
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    done = 0
    for frame in _frames(capture, f"{path} cannot be read as a video"):
        yield frame
        done += 1
    # Sound files may lack a few frames at the end, where an editor has cut them.
    if path.suffix.lower() in _COUNTED_SUFFIXES and done < 0.98 * count - 1:
        raise InputError(
            f"{path}: only {done} of its {count:.0f} frames can be read: it is "
            "truncated or damaged"
        )


def read_stream(url: str) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (frames per second, frame) of a video at a URL, as `read_frames`.

    It ends with the video, or when the server is silent for 20 seconds.

    Raises:
      InputError: the URL does not open or holds no frame.
    """
    silence = round(1000 * _SECONDS_OF_SILENCE)
    options = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    parameters = [value for option in options for value in (option, silence)]
    capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, parameters)
    yield from _frames(
        capture,
        f"{web.shown(url)} cannot be opened as a video; check the address, and that "
        "the camera or the server is running",
    )


def read_camera(index: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (frames per second, frame) of a camera of this machine, without end.

    Raises:
      InputError: the camera is missing, or gives no frame.
    """
    if sys.platform == "linux":
        place = pathlib.Path(f"/dev/video{index}")
        if not place.exists():  # OpenCV prints several lines and gives no reason.
            there = sorted(path.name[5:] for path in place.parent.glob("video[0-9]*"))
            known = f"the cameras are {', '.join(there)}" if there else "there is none"
            raise InputError(
                f"camera {index}: there is no {place}; {known} (for a file of that "
                f"name, write ./{index})"
            )
        capture = cv2.VideoCapture(index, cv2.CAP_V4L2)
    else:
        capture = cv2.VideoCapture(index)
    yield from _frames(
        capture, f"camera {index} gives no picture; another program may be using it"
    )


def _frames(
    capture: cv2.VideoCapture, message: str
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields (frames per second, frame); without any, raises InputError."""
    try:
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        read, frame = capture.read()
        if not read:
            raise InputError(message)
        while read:
            yield rate, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            read, frame = capture.read()
    finally:
        capture.release()


class VideoWriter:
    """An MP4 file that is written frame by frame.

    Attributes:
      path: the file.
    """

    def __init__(self, path: pathlib.Path, size: tuple[int, int], rate: float):
        """Opens the file; makes its folder if it is missing.

        Args:
          path: file to write.
          size: (height, width) of every frame in pixels.
          rate: frames per second.

        Raises:
          InputError: the file cannot be written, or OpenCV writes no video of this
            size and rate.
        """
        self.path, self._size = path, size
        height, width = size
        code = cv2.VideoWriter.fourcc(*"mp4v")
        try:
            path.parent.mkdir(exist_ok=True)
            path.open("wb").close()  # OpenCV gives no reason.
        except OSError as error:
            raise InputError(f"{path}: {paths.reason(error)}") from error
        with paths.plain_name(path) as name:
            self._writer = cv2.VideoWriter(name, code, rate, (width, height))
        if not self._writer.isOpened():
            path.unlink(missing_ok=True)
            raise InputError(
                f"{path}: OpenCV cannot write an MP4 of {width} x {height} pixels and "
                f"{rate:g} frames per second"
            )

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame, uint8 RGB [H, W, 3].

        Raises:
          InputError: the frame is of another size; OpenCV would drop it.
        """
        if frame.shape[:2] != self._size:
            sizes = [f"{w} x {h}" for h, w in (frame.shape[:2], self._size)]
            raise InputError(
                f"{self.path}: a frame has {sizes[0]} pixels, the first one {sizes[1]}"
            )
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Ends the file."""
        self._writer.release()
