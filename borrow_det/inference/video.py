"""Videos: reading frames, and writing annotated ones."""

import collections
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from borrow_det.errors import InputError
from borrow_det.io import paths, web

# Other containers state a duration at best, from which OpenCV guesses the count.
_COUNTED_SUFFIXES = frozenset((".avi", ".m4v", ".mov", ".mp4"))
# Containers without a rate, or with a variable one, state others, such as 0 or 1000.
_USUAL_RATES = (1.0, 240.0)
_MEASURED = 8  # Number of further frames whose times then give the rate.
_DEFAULT_RATE = 25.0  # For frames without times.
_SLOWEST, _FASTEST = 0.01, 1000.0
_SECONDS_OF_SILENCE = 20.0  # A stream that sends nothing for longer has ended.


class Frame(NamedTuple):
    """One frame of a video."""

    image: np.ndarray  # uint8 RGB [H, W, 3]
    rate: float  # Frames per second of the video.
    time: float  # In seconds, from the first frame on; 0 if the video has no times.


def read_frames(path: pathlib.Path) -> Iterator[Frame]:
    """Yields the frames of a video, upright.

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


def read_stream(url: str) -> Iterator[Frame]:
    """Yields the frames of a video at a URL, as `read_frames`.

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


def read_camera(index: int) -> Iterator[Frame]:
    """Yields the frames of a camera of this machine, without end.

    The times are those at which the frames are read.

    Raises:
      InputError: the camera is missing, or gives no frame.
    """
    if sys.platform == "linux":
        place = pathlib.Path(f"/dev/video{index}")
        if not place.exists():  # OpenCV prints several lines and gives no reason.
            there = sorted(path.name[5:] for path in place.parent.glob("video[0-9]*"))
            known = f"only {', '.join(there)}" if there else "nor any other"
            raise InputError(
                f"camera {index}: there is no {place}, {known}; connect it, or write "
                f"./{index} for a file of that name"
            )
        capture = cv2.VideoCapture(index, cv2.CAP_V4L2)
    else:
        capture = cv2.VideoCapture(index)
    start = None
    message = f"camera {index} gives no picture; another program may be using it"
    for frame in _frames(capture, message):
        now = time.monotonic()
        start = now if start is None else start
        yield frame._replace(time=now - start)


def _frames(capture: cv2.VideoCapture, message: str) -> Iterator[Frame]:
    """Yields the frames; without any, raises InputError."""
    try:
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames = _read(capture)
        waiting = collections.deque(itertools.islice(frames, 1))
        if not waiting:
            raise InputError(message)
        start = waiting[0][1]
        if not _USUAL_RATES[0] <= rate <= _USUAL_RATES[1]:  # Also true for nan.
            waiting += itertools.islice(frames, _MEASURED)
            rate = _measured_rate([seconds for _, seconds in waiting])
        while waiting:
            image, seconds = waiting.popleft()
            yield Frame(image, rate, seconds - start)
            waiting.extend(itertools.islice(frames, 0 if waiting else 1))
    finally:
        capture.release()


def _read(capture: cv2.VideoCapture) -> Iterator[tuple[np.ndarray, float]]:
    """Yields (image, time in seconds)."""
    read, frame = capture.read()
    while read:
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), seconds
        read, frame = capture.read()


def _measured_rate(times: Sequence[float]) -> float:
    """Returns frames per second, from the times of the first frames."""
    seconds = times[-1] - times[0]
    return (len(times) - 1) / seconds if seconds > 0 else _DEFAULT_RATE


class VideoWriter:
    """An MP4 file that is written frame by frame.

    Attributes:
      path: the file.
      rate: frames per second that are written.
    """

    def __init__(self, path: pathlib.Path, size: tuple[int, int], rate: float):
        """Opens the file; makes its folder if it is missing.

        A side of an odd length gets one row or column more, a copy of the last one, as
        MPEG-4 has even sides only.

        Args:
          path: file to write.
          size: (height, width) of every frame in pixels.
          rate: frames per second; the nearest one that MPEG-4 has is written.

        Raises:
          InputError: the file cannot be written, or OpenCV writes no video of this
            size.
        """
        self.path, self._size, self.rate = path, size, writable_rate(rate)
        height, width = (side + side % 2 for side in size)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        try:
            path.parent.mkdir(exist_ok=True)
            path.open("wb").close()  # OpenCV gives no reason.
        except OSError as error:
            raise InputError(f"{path}: {paths.reason(error)}") from error
        with paths.plain_name(path) as name:
            self._writer = cv2.VideoWriter(name, code, self.rate, (width, height))
        if not self._writer.isOpened():
            path.unlink(missing_ok=True)
            raise InputError(
                f"{path}: OpenCV cannot write an MP4 of {width} x {height} pixels"
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
        odd = [(0, side % 2) for side in self._size]
        if any(more for _, more in odd):
            frame = np.pad(frame, (*odd, (0, 0)), mode="edge")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Ends the file."""
        self._writer.release()


def writable_rate(rate: float) -> float:
    """Returns the nearest frame rate that OpenCV and MPEG-4 can write.

    MPEG-4 counts time in units of at least 1/65535 seconds, and OpenCV's unit is 1/rate
    without its decimal point.

    Args:
      rate: frames per second; 25 are taken for zero and for what is not a number.
    """
    if not (math.isfinite(rate) and rate > 0):
        return _DEFAULT_RATE
    rate = min(max(rate, _SLOWEST), _FASTEST)
    digits = next(n for n in (3, 2, 1) if rate * 10**n <= 65_000)
    return round(rate, digits)
