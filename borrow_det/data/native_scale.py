"""Images of a split with tiles that the canvas shrinks before tiles are cut."""

import ml_collections
import numpy as np


def notices(
    split_name: str, sizes: np.ndarray, config: ml_collections.ConfigDict
) -> list[str]:
    """Returns a line if images of a split that is cut into tiles exceed the canvas.

    Args:
      split_name: name of the split.
      sizes: int [n, 2], (height, width) of its images in pixels.
      config: configuration of the run.
    """
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
