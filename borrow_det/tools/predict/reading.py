"""Reads the inputs of a call, one image or frame after the other."""

import contextlib
import pathlib
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tqdm

from borrow_det.data.images import inputs
from borrow_det.data.images.strips import StripImage
from borrow_det.errors import InputError
from borrow_det.inference import video
from borrow_det.io import web
from borrow_det.tools.predict.sources import Source


class Item(NamedTuple):
    """One image, or one frame of a video."""

    source: Source
    image: np.ndarray | StripImage  # uint8 RGB [H, W, 3], upright.
    frame: int | None = None  # Index of a video's frame, from 0.
    rate: float = 0.0  # Frames per second of a video.
    time: float = 0.0  # Of a frame, in seconds; see `video.Frame`.

    @property
    def name(self) -> str:
        """Name in messages."""
        frame = "" if self.frame is None else f"[{self.frame}]"
        return self.source.name + frame


def read_items(
    sources: Iterable[Source],
    failures: list[str],
    repaired: list[str],
    max_pixels: int = 0,
) -> Iterator[Item]:
    """Yields the images and the frames of videos.

    An input that cannot be read is reported on stderr and in `failures`, and so is a
    video that breaks off, after its readable frames. Ctrl-C ends a camera or a video of
    a URL, after which the next input follows; a second one ends the call.

    Args:
      sources: inputs.
      failures: gets a message for each input that is not read completely.
      repaired: gets a message for each image that was repaired, as stderr does.
      max_pixels: number of pixels above which an image is refused; 0 for Pillow's
        limit.
    """

    def warn(message: str) -> None:
        tqdm.tqdm.write(f"warning: {message}", file=sys.stderr)
        repaired.append(message)

    for source in sources:
        kind = "skipped"
        try:
            for item in _items(source, max_pixels, warn):
                yield item
                kind = "incomplete"
        except Exception as error:  # Decoders raise any kind for a damaged file.
            expected = isinstance(error, InputError)
            told = (
                str(error)
                if expected
                else f"{source.name}: {type(error).__name__}: {error}"
            )
            tqdm.tqdm.write(f"{kind}: {told}", file=sys.stderr)
            failures.append(told)


def _items(
    source: Source, max_pixels: int, warn: Callable[[str], object]
) -> Iterator[Item]:
    """Yields the image or the frames of an input."""
    place = source.place
    if isinstance(place, int):
        yield from _live(source, video.read_camera(place))
    elif isinstance(place, str):
        image = None
        if not web.is_stream(place):
            image = _downloaded(place, max_pixels, warn)
        if image is None:
            yield from _live(source, video.read_stream(place))
        else:
            yield Item(source, image)
    elif inputs.is_video(place):
        yield from _frames(source, video.read_frames(place))
    else:
        yield Item(source, inputs.open_image(place, max_pixels, "--max_pixels", warn))


def _frames(source: Source, frames: Iterator[video.Frame]) -> Iterator[Item]:
    for number, frame in enumerate(frames):
        yield Item(source, frame.image, number, frame.rate, frame.time)


def _live(source: Source, frames: Iterator[video.Frame]) -> Iterator[Item]:
    """Yields frames until they end, or until Ctrl-C."""
    with _ctrl_c() as pressed:
        for item in _frames(source, frames):
            yield item
            if pressed.is_set():
                tqdm.tqdm.write(
                    f"{source.name}: ended by Ctrl-C; once more ends the call",
                    file=sys.stderr,
                )
                return


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Yields an event that the first Ctrl-C sets; the next one acts as usual.

    Without it, the exception could interrupt a file that is being written.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread()
    # A command in the background ignores the signal.
    if not ours or before is not signal.default_int_handler:
        yield pressed
        return

    def press(number: int, frame: types.FrameType | None) -> None:
        del number, frame
        signal.signal(signal.SIGINT, before)
        pressed.set()

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _downloaded(
    url: str, max_pixels: int, warn: Callable[[str], object]
) -> np.ndarray | None:
    """Returns the image of a URL, uint8 RGB [H, W, 3]; None if it is none.

    Raises:
      InputError: the server does not send the file, or the image cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="borrow_det_") as folder:
        path = pathlib.Path(folder, "image")

        def named(message: str) -> str:
            return message.replace(str(path), web.shown(url))

        with web.opened(url) as answer:
            if not answer.start:
                raise InputError(f"{web.shown(url)}: the server sends an empty file")
            if inputs.kind_of_content(answer.start) != "image":
                if answer.content_type == "text/html":
                    raise InputError(
                        f"{web.shown(url)} is a page, not an image or a video; open "
                        "it, and copy the address of the image"
                    )
                return None
            answer.save(path)
        try:
            return inputs.read_upright(
                path, max_pixels, "--max_pixels", lambda text: warn(named(text))
            )
        except InputError as error:
            raise InputError(named(str(error))) from error
