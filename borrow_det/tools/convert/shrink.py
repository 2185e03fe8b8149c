"""Smaller copies of images, with their annotations in COCO's format."""

import mimetypes
import pathlib
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from borrow_det.data.images import decode, upright
from borrow_det.evaluation import coco_truth

_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png"}


class Shrunk(NamedTuple):
    """A smaller image.

    Attributes:
      content: JPEG or PNG file, upright.
      image: its record, with its file name, height and width.
      annotations: its annotations, with boxes and areas in its pixels.
    """

    content: bytes
    image: dict[str, Any]
    annotations: list[dict[str, Any]]


def shrink(
    path: pathlib.Path,
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    largest: int,
    taken: Container[str] = (),
) -> Shrunk | None:
    """Shrinks an image whose longer side is above a limit, by averaging over areas.

    Args:
      path: file of the image.
      image: its COCO record; height and width may be those before EXIF's rotation.
      annotations: its COCO annotations.
      largest: largest height and width of the result, in pixels.
      taken: names of other files; a file that gets another suffix avoids them.

    Returns:
      The smaller image; None if it is small enough.

    Raises:
      InputError: the file does not decode.
    """
    if max(image["height"], image["width"]) <= largest:
        return None
    stored = upright.read(path, image["height"] * image["width"])
    pixels = decode.shrink_to_fit(stored.pixels, (largest, largest))
    height, width = pixels.shape[:2]
    scale = np.array([height / stored.height, width / stored.width])
    bbox = np.array([a["bbox"] for a in annotations], float).reshape(-1, 4)
    boxes = coco_truth.corners(bbox)
    if (image["height"], image["width"]) != (stored.height, stored.width):
        boxes = upright.rotate_boxes(boxes, stored)
    bbox = coco_truth.from_corners(boxes * np.tile(scale, 2))
    kind = "image/jpeg" if stored.encoded.startswith(b"\xff\xd8") else "image/png"
    return Shrunk(
        upright.encode(PIL.Image.fromarray(pixels), kind == "image/jpeg"),
        {
            **image,
            "file_name": _fitting(image["file_name"], kind, taken),
            "height": height,
            "width": width,
        },
        [
            {
                **annotation,
                "bbox": own,
                "area": annotation["area"] * float(scale.prod()),
            }
            for annotation, own in zip(annotations, bbox.tolist(), strict=True)
        ],
    )


def _fitting(name: str, kind: str, taken: Container[str]) -> str:
    """Returns a file's name, with a suffix for its media type where it has another."""
    if mimetypes.guess_type(name)[0] == kind:
        return name
    suffix, number = _SUFFIXES[kind], 1
    while (fitting := name + (f"-{number}" if number > 1 else "") + suffix) in taken:
        number += 1
    return fitting
