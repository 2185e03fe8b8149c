"""Sheets of randomly chosen images, in small files."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from borrow_det.io import paths
from borrow_det.visualization import annotate

MAX_BYTES = 1_000_000  # Size of a file of a sheet.
_WIDTH = 1440  # Pixels of a sheet, about.
_LARGEST_CELL = 720
_QUALITIES = (90, 80, 70, 60, 50)


def choose(total: int, count: int, seed: int) -> list[int]:
    """Returns indices of randomly chosen images, in ascending order.

    Args:
      total: number of images.
      count: at most that many indices.
      seed: seed of the choice.
    """
    chosen = np.random.default_rng(seed).choice(total, min(count, total), replace=False)
    return sorted(chosen.tolist())


def columns(count: int) -> int:
    """Returns the number of columns of a sheet of `count` images."""
    return max(1, math.ceil(math.sqrt(count)))


def cell_side(count: int) -> int:
    """Returns the longer side of each of `count` images on a sheet, in pixels."""
    return min(_LARGEST_CELL, _WIDTH // columns(count))


def jpeg(image: np.ndarray, max_bytes: int = MAX_BYTES) -> bytes:
    """Encodes an image as a JPEG of limited size.

    The quality is lowered first, then the image is shrunk.

    Args:
      image: uint8 RGB [H, W, 3].
      max_bytes: largest size of the result.
    """
    while True:
        for quality in _QUALITIES:
            with io.BytesIO() as stream:
                picture = Image.fromarray(np.ascontiguousarray(image))
                # Without chroma subsampling, which would blur thin outlines.
                picture.save(stream, "jpeg", quality=quality, subsampling=0)
                content = stream.getvalue()
            if len(content) <= max_bytes:
                return content
        image = annotate.shrink(image, round(0.8 * max(image.shape[:2])))


def encode(scenes: Sequence[np.ndarray]) -> bytes:
    """Encodes a sheet of images as a JPEG of at most MAX_BYTES.

    Args:
      scenes: uint8 RGB [H_i, W_i, 3], at least one.
    """
    return jpeg(annotate.contact_sheet(scenes, columns(len(scenes))))


def write(path: paths.Path, scenes: Sequence[np.ndarray]) -> None:
    """Writes a sheet of images; see `encode`.

    Args:
      path: path of the file, which ends in .jpg.
      scenes: uint8 RGB [H_i, W_i, 3], at least one.
    """
    paths.make_folder(path.parent)
    path.write_bytes(encode(scenes))
