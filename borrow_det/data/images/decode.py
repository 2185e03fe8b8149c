"""Decoding stored images and padding them to a canvas."""

import cv2
import numpy as np

from borrow_det.errors import InputError


def decode_image(record: dict, name: str) -> np.ndarray:
    """uint8 [height, width, 3] RGB at the original size."""
    encoded = np.frombuffer(record["image"], np.uint8)
    # Stored images are upright already: an orientation tag would turn them again.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(encoded, flags) if len(encoded) else None
    if image is None:
        raise InputError(f"{name} does not decode: prepare the set again")
    if image.shape[:2] != (record["height"], record["width"]):
        raise InputError(
            f"{name} decodes to {image.shape[1]} x {image.shape[0]} pixels, but its "
            f"record says {record['width']} x {record['height']}: prepare the set again"
        )
    return image


def to_canvas(
    image: np.ndarray, canvas: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int]]:
    """Lays an image on a canvas, at the top left of zeros; larger ones are shrunk.

    Args:
      image: uint8 [H, W, 3].
      canvas: (height, width) in pixels.

    Returns:
      uint8 [*canvas, 3], and the (height, width) that the image has there.
    """
    image = _fit(image, canvas)
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded, image.shape[:2]


def _fit(image: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Area-averages an image down to the canvas where it is larger; never up."""
    height, width = image.shape[:2]
    scale = min(canvas[0] / height, canvas[1] / width)
    if scale >= 1:
        return image
    new_height = min(max(round(height * scale), 1), canvas[0])
    new_width = min(max(round(width * scale), 1), canvas[1])
    return cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
