"""Images to explain: files, or images of a split."""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import tqdm

from borrow_det.data import sources
from borrow_det.data.images import decode, inputs
from borrow_det.errors import InputError
from borrow_det.tools.explain.references import Reference
from borrow_det.tools.explain.text import readable


class Picture(NamedTuple):
    """An image, or a view of one, and its references."""

    name: str
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.
    references: tuple[Reference, ...] = ()
    # `[y_min, x_min, y_max, x_max]` in pixels of the image that it is a view of.
    window: tuple[int, int, int, int] | None = None


Reader: TypeAlias = Callable[[], Picture]


def read(readers: Iterable[Reader], failures: list[str]) -> Iterator[Picture]:
    """Yields the images; one that cannot be read goes to stderr and `failures`."""
    for reader in readers:
        try:
            picture = reader()
        except InputError as error:
            tqdm.tqdm.write(f"skipped: {readable(str(error))}", file=sys.stderr)
            failures.append(str(error))
        else:
            yield picture._replace(name=readable(picture.name))


def of_files(files: Sequence[pathlib.Path], max_pixels: int) -> list[Reader]:
    """Returns a reader for each file."""
    return [functools.partial(_read_file, path, max_pixels) for path in files]


def _read_file(path: pathlib.Path, max_pixels: int) -> Picture:
    if inputs.is_video(path):
        raise InputError(f"{path} is a video: explain reads images only")
    image = inputs.read_upright(path, max_pixels, "--max_pixels", _warn)
    return Picture(str(path), image)


def _warn(message: str) -> None:
    tqdm.tqdm.write(f"warning: {readable(message)}", file=sys.stderr)


def of_split(
    split: sources.Split,
    references: Callable[[str], tuple[Reference, ...]] | None = None,
) -> list[Reader]:
    """Returns a reader for each image of a split.

    Args:
      split: the split.
      references: maps the name of an image to its references.
    """

    def read(index: int) -> Picture:
        record = split[index]
        name = record["file_name"]
        image = decode.decode_image(record, name)
        return Picture(name, image, references(name) if references else ())

    return [functools.partial(read, index) for index in range(len(split))]
