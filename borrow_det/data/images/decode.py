"""Decoding of stored images, and padding to a canvas."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from borrow_det.errors import InputError


def decode_image(record: Mapping[str, Any], name: str) -> np.ndarray:
    """Decodes the image of a record.

    Args:
      record: `image` (JPEG or PNG), `height` and `width` in pixels.
      name: name of the image, for messages.

    Returns:
      uint8 RGB [height, width, 3].

    Raises:
      InputError: the image does not decode, or has another size than the record.
    """
    image = decode_bytes(record["image"])
    if image is None:
        raise InputError(f"{name} does not decode: prepare the set again")
    if image.shape[:2] != (record["height"], record["width"]):
        raise InputError(
            f"{name} decodes to {image.shape[1]} x {image.shape[0]} pixels, but its "
            f"record has {record['width']} x {record['height']}: prepare the set again"
        )
    return image


def decode_bytes(encoded: bytes) -> np.ndarray | None:
    """Decodes a JPEG or PNG file as it is stored, without EXIF's rotation.

    Returns:
      uint8 RGB [H, W, 3]; None if it does not decode.
    """
    content = np.frombuffer(encoded, np.uint8)
    # Stored images are upright: an orientation tag would rotate them again.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(content, flags) if len(content) else None


def to_canvas(
    image: np.ndarray, canvas: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pads an image with zeros to a canvas, after shrinking it if it is larger.

    Args:
      image: uint8 [H, W, 3].
      canvas: (height, width) in pixels.

    Returns:
      The canvas, uint8 [*canvas, 3], with the image at the top left, and (height,
      width) of the image on it.
    """
    image = shrink_to_fit(image, canvas)
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded, image.shape[:2]


def shrink_to_fit(image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Shrinks an image that is larger than the canvas, by averaging over areas."""
    height, width = size_on_canvas(image.shape[:2], canvas)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def size_on_canvas(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Returns the (height, width) of an image after `to_canvas`, in pixels.

    Args:
      size: (height, width) of the image.
      canvas: (height, width) of the canvas.
    """
    height, width = size
    scale = min(canvas[0] / height, canvas[1] / width)
    if scale >= 1:
        return height, width
    return (
        min(max(round(height * scale), 1), canvas[0]),
        min(max(round(width * scale), 1), canvas[1]),
    )
