"""Reference images of a call: the option `references`, and the rules behind it.

A rule names the references of each view of a stream of images by keys. It needs no
pixels of them and no device: `BorrowingViews` (borrowing_views.py) computes the deeper
maps of the views that have a key, and holds those of the latest ones.
"""

import collections
import os
import pathlib
import warnings
from collections.abc import Iterable
from typing import Literal, Protocol, TypeAlias, cast

import ml_collections
import numpy as np

from borrow_det.data.images import inputs
from borrow_det.data.images.strips import StripImage
from borrow_det.errors import InputError
from borrow_det.inference import cuts
from borrow_det.inference.batching import View
from borrow_det.inference.images import ImageLike, is_image, pixels, read
from borrow_det.io import paths

# The option as callers give it, and as `parse` returns it.
References: TypeAlias = ImageLike | int | Iterable[ImageLike] | None
Parsed: TypeAlias = Literal["none", "overview"] | int | list[np.ndarray] | None

_CHOICES = "a number of images from 1 on, overview, none, a folder or a list of images"


class Rule(Protocol):
    """A rule that gives each view its references.

    Attributes:
      count: N, the largest number of references of a view. A view refers to the latest
        N keys only.
    """

    count: int

    def views(self, image: np.ndarray | StripImage, windows: np.ndarray) -> list[View]:
        """Returns the views of the next image of the stream; see `ViewDetector`."""
        ...


class Overview:
    """The entire image is the reference of all of its views, and the first of them."""

    count = 1

    def __init__(self) -> None:
        self._images = 0

    def views(self, image: np.ndarray | StripImage, windows: np.ndarray) -> list[View]:
        """Returns the entire image and then its tiles; see `Rule`."""
        key = self._images
        self._images += 1
        whole, tiles = _whole_and_tiles(image, windows)
        return [
            view._replace(references=(key,))
            for view in (whole._replace(key=key), *tiles)
        ]


class LastImages:
    """A ring of the last images: every image borrows from those before it.

    An image enters it entire, also if its views are tiles.
    """

    def __init__(self, count: int, stride: int = 1, cuts: bool = False):
        """Begins with no image.

        Args:
          count: N, the number of images in the ring.
          stride: every `stride`-th image enters the ring, beginning with the first.
          cuts: true to begin anew at each cut (`cuts.is_cut`).
        """
        self.count = count
        self._stride, self._cuts = stride, cuts
        self._keys: collections.deque[int] = collections.deque(maxlen=count)
        self._next_key = self._images = 0
        self._thumbnail: np.ndarray | None = None

    def views(self, image: np.ndarray | StripImage, windows: np.ndarray) -> list[View]:
        """Returns the tiles of an image and then the entire image; see `Rule`."""
        if self._cuts and self._follows_cut(image):
            self._keys.clear()
            self._images = 0
        references = tuple(self._keys)
        enters = self._images % self._stride == 0
        self._images += 1
        whole, tiles = _whole_and_tiles(image, windows)
        views = tiles
        if enters:
            whole = whole._replace(key=self._next_key)
            self._keys.append(self._next_key)
            self._next_key += 1
        if enters or whole.number is not None:
            # Last: the views before it need the oldest image, which it replaces.
            views = [*tiles, whole]
        return [view._replace(references=references) for view in views]

    def _follows_cut(self, image: np.ndarray | StripImage) -> bool:
        before, self._thumbnail = self._thumbnail, cuts.thumbnail(pixels(image))
        return before is not None and cuts.is_cut(before, self._thumbnail)


class Exemplars:
    """The same images are the references of every view; their keys are 0 to N - 1."""

    def __init__(self, images: list[np.ndarray]):
        """Takes N images, uint8 RGB [H, W, 3] each."""
        self.images, self.count = images, len(images)

    def views(self, image: np.ndarray | StripImage, windows: np.ndarray) -> list[View]:
        """Returns the views as they are, with all references; see `Rule`."""
        del image
        keys = tuple(range(self.count))
        return [View(window, i, None, keys) for i, window in enumerate(windows)]


def _whole_and_tiles(
    image: np.ndarray | StripImage, windows: np.ndarray
) -> tuple[View, list[View]]:
    """Returns the entire image, with a number only if it is a view, and its tiles."""
    entire = (0, 0, *image.shape[:2])
    whole, tiles = View(np.array(entire, int), None), []
    for number, window in enumerate(windows):
        if tuple(window) == entire:
            whole = View(window, number)
        else:
            tiles.append(View(window, number))
    return whole, tiles


def parse(references: References, max_pixels: int = 0, prefix: str = "") -> Parsed:
    """Reads the option `references`; returns its own results as they are.

    Args:
      references: None, "none", "overview", a number of images, a text with one, a
        folder of images, an image, or images.
      max_pixels: number of pixels above which a file is refused; 0 for Pillow's limit.
      prefix: text before the name of the option in error messages, such as "--".

    Returns:
      Exemplars as uint8 RGB [H, W, 3] each.

    Raises:
      InputError: the value is another one, the folder is missing or holds no image, or
        an exemplar cannot be read.
    """
    name = f"{prefix}references"
    if references is None or isinstance(references, (int, np.integer)):
        return None if references is None else _count(references, name)
    if isinstance(references, str) and references in ("none", "overview"):
        return cast(Literal["none", "overview"], references)
    if isinstance(references, str) and references.isascii() and references.isdecimal():
        return _count(int(references), name)
    files: Iterable[ImageLike]
    if isinstance(references, (str, os.PathLike)):
        files = exemplar_files(references, name)
    elif is_image(references):
        files = [references]
    elif isinstance(references, Iterable):
        files = references
    else:
        raise InputError(
            f"{name} is of type {type(references).__name__}: give {_CHOICES}"
        )
    images = [
        pixels(read(file, f"{name}[{i}]", max_pixels)) for i, file in enumerate(files)
    ]
    if not images:
        raise InputError(f"{name} is an empty list: give {_CHOICES}")
    return images


def _count(value: int | np.integer, name: str) -> int:
    if isinstance(value, bool) or value < 1:
        raise InputError(f"{name}={value} is not a number of images: give {_CHOICES}")
    return int(value)


def exemplar_files(folder: str | os.PathLike, name: str) -> list[pathlib.Path]:
    """Returns the images of a folder and of the folders in it; a file is itself one.

    Args:
      folder: value of the option `references`.
      name: name of the option, for error messages.

    Raises:
      InputError: the folder is missing or holds no image.
    """
    path = pathlib.Path(paths.expand_home(os.fsdecode(folder)))
    if not os.fsdecode(folder) or not path.exists():
        raise InputError(
            f"{name}={os.fsdecode(folder)}: there is no such folder; give {_CHOICES}"
        )
    try:
        files = inputs.find([str(path)]).paths
    except InputError:  # Neither images nor videos.
        files = []
    found = [file for file in files if not inputs.is_video(file)]
    if not found:
        raise InputError(
            f"{name}={path}: there is no image in it; exemplars are images, not videos"
        )
    return found


def choose_rule(
    references: References,
    config: ml_collections.ConfigDict,
    *,
    tiled: bool,
    stride: int = 1,
    cuts: bool = False,
    max_pixels: int = 0,
) -> Rule | None:
    """Returns the rule of a call; None without references.

    Warns if the run was trained without references.

    Args:
      references: see `parse`. None is "overview" if the views are tiles and the run was
        trained with it, and "none" otherwise.
      config: configuration of the run.
      tiled: whether the views of an image are tiles.
      stride: see `LastImages`.
      cuts: see `LastImages`.
      max_pixels: see `parse`.

    Raises:
      InputError: an option has a wrong value, or the run cannot borrow from references.
    """
    parsed = parse(references, max_pixels)
    check_stride(parsed, stride, cuts)
    if parsed is None:
        trained = tiled and config.references.kind == "overview"
        parsed = "overview" if trained else "none"
    check_run(parsed, config)
    told = notice(parsed, config)
    if told is not None:
        warnings.warn(told, stacklevel=3)  # The caller of Detector.stream.
    if parsed == "none":
        return None
    if parsed == "overview":
        return Overview()
    if isinstance(parsed, int):
        return LastImages(parsed, stride, cuts)
    return Exemplars(parsed)


def check_stride(references: Parsed, stride: int, cuts: bool, prefix: str = "") -> None:
    """Checks the options of a ring.

    Raises:
      InputError: the stride is not a positive integer, or an option of the ring is
        given without one.
    """
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise InputError(
            f"{prefix}reference_stride={stride} is not a number of images from 1 on"
        )
    if isinstance(references, int):
        return
    for name, given in (("reference_stride", stride != 1), ("reference_cuts", cuts)):
        if given:
            raise InputError(
                f"{prefix}{name} needs {prefix}references=N, a number of last images"
            )


def check_run(references: Parsed, config: ml_collections.ConfigDict) -> None:
    """Checks that a run can borrow from the references of a call.

    Raises:
      InputError: there are references, and the run does not borrow, has no levels that
        do, or does not borrow from deeper levels.
    """
    if references is None or references == "none":
        return
    borrow = config.borrow
    if not borrow.enabled:
        raise InputError(
            "references need a run that borrows, and this one has "
            "borrow.enabled=False: leave out references, or name another run"
        )
    if not borrow.levels:
        raise InputError(
            "references need levels that borrow, and this run has none (borrow.levels "
            "is empty): leave out references, or name another run"
        )
    if borrow.source != "deeper":
        raise InputError(
            f"references need borrow.source=deeper, and this run has {borrow.source}: "
            "leave out references, or name another run"
        )


def notice(references: Parsed, config: ml_collections.ConfigDict) -> str | None:
    """Returns a line about references that the run was not trained with, or None."""
    if references in (None, "none") or config.references.kind != "none":
        return None
    return (
        "this run was trained without references (references.kind=none) and borrows "
        "from them all the same: compare its detections with those of references=none"
    )
