"""Notices about the scale of images with tiles."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np


def notices(
    split_name: str,
    images: Iterable[Mapping[str, Any]],
    config: ml_collections.ConfigDict,
) -> list[str]:
    """Returns a line if images of a split that is cut into tiles exceed the canvas.

    Args:
      split_name: name of the split.
      images: its images, with `height` and `width` in pixels.
      config: configuration of the run.
    """
    sizes = np.array([(image["height"], image["width"]) for image in images])
    canvas = tuple(config.dataset.canvas)
    larger = np.any(sizes > np.array(canvas), axis=1)
    number = int(larger.sum())
    if not number:
        return []
    height, width = sizes[larger][np.argmax(np.prod(sizes[larger], axis=1))]
    are = "is" if number == 1 else "are"
    room = tuple(int(side) for side in np.maximum(sizes.max(axis=0), canvas))
    return [
        f"{split_name}: {number:,} of {len(sizes):,} images {are} larger than "
        f"dataset.canvas={canvas} (height, width) and shrunk to fit before tiles are "
        f"cut, so that small objects are smaller; the largest has {height} x {width} "
        f"pixels, and dataset.canvas={room} holds all"
    ]


def notices_of_measurement(config: ml_collections.ConfigDict) -> list[str]:
    """Returns a line if objects are larger in tiles than in the images of the input."""
    (height, width), canvas = config.input_size, tuple(config.dataset.canvas)
    if not config.augment.tile or (canvas[0] <= height and canvas[1] <= width):
        return []
    return [
        f"objects are measured in entire images of {height} x {width} pixels, and "
        "augment.tile trains on tiles, where they are larger: to measure them there, "
        f"set augment.tile=False and input_size={canvas} (dataset.canvas)"
    ]
