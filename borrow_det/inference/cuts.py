"""Cuts of a video: consecutive frames of different shots."""

import cv2
import numpy as np

_THUMBNAIL = (48, 32)  # Width and height in pixels.
# Levels of 255. Frames of one shot differ by a few levels, those of two by 40 and more.
CUT_DIFFERENCE = 30.0


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """Shrinks a frame, uint8 [H, W, 3], to uint8 [32, 48, 3], averaging over areas."""
    return cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Returns whether a cut separates two consecutive frames, given their thumbnails.

    There is one if the pixels of the thumbnails differ by more than CUT_DIFFERENCE on
    average over pixels and channels.
    """
    difference = np.abs(before.astype(np.float32) - after.astype(np.float32))
    return float(difference.mean()) > CUT_DIFFERENCE
