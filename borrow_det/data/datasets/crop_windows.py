"""Parts of images that show one object each."""

import numpy as np

from borrow_det.data.datasets.opened import Record


def usable(record: Record, min_side: float) -> np.ndarray:
    """Finds the objects that are neither crowds nor difficult nor too small.

    Args:
      record: record of an image (records.py); the image itself is not read.
      min_side: smallest side of a box, in pixels of the original image.

    Returns:
      bool [n], true for usable objects.
    """
    boxes = record["boxes"]
    sides = (boxes[:, 2:] - boxes[:, :2]) * [record["height"], record["width"]]
    ignored = record["is_crowd"] | record["is_difficult"]
    # The margin is for the rounding of normalized boxes.
    return (sides.min(axis=1, initial=np.inf) > min_side - 1e-3) & ~ignored


def window(record: Record, box: np.ndarray, context: float) -> np.ndarray:
    """Returns the part of an image that shows a box and a margin around it.

    Args:
      record: record of the image.
      box: [y_min, x_min, y_max, x_max] in [0, 1].
      context: margin relative to the sides of the box.

    Returns:
      int [top, left, bottom, right] in pixels, inside the image and with an area.
    """
    size = np.array([record["height"], record["width"]])
    margin = context * (box[2:] - box[:2])
    low = np.floor((box[:2] - margin) * size + 1e-3)
    high = np.ceil((box[2:] + margin) * size - 1e-3)
    low = np.clip(low, 0, size - 1)
    high = np.clip(high, low + 1, size)  # At least one pixel.
    return np.concatenate([low, high]).astype(int)
