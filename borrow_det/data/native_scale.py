"""Images of a split with tiles that the canvas shrinks before tiles are cut."""

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
