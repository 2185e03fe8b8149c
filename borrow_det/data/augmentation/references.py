"""Reference images on the device: entire images that change with their example.

A reference is resized to the input, with the mirroring and the colors of its example:
objects that look alike in the two images still do.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.photometric import distort
from borrow_det.data.augmentation.resampling import (
    ENTIRE,
    mirrored,
    move_boxes,
    read_window,
    resize_batch,
)

# Fields of a batch with N references of an image, from those of the image.
OF_IMAGE = {
    "reference_image": "image",
    "reference_size": "image_size",
    "reference_boxes": "boxes",
    "reference_labels": "labels",
    "reference_box_mask": "box_mask",
    "reference_ignore": "ignore",
}
# All fields with references: those above, and which references there are, bool [B, N].
FIELDS = (*OF_IMAGE, "reference_mask")


def with_overview(batch: dict[str, Array]) -> dict[str, Array]:
    """Adds each image of a batch as its own, only reference (N = 1)."""
    own = {name: batch[source][:, None] for name, source in OF_IMAGE.items()}
    mask = jnp.ones((batch["image"].shape[0], 1), jnp.bool_)
    return {**batch, **own, "reference_mask": mask}


def resize_references(image: Array, size: Array, input_size: tuple[int, int]) -> Array:
    """Resizes references to the input, without augmentation.

    Args:
      image: uint8 [B, N, Hc, Wc, 3], each reference at the top left of its canvas.
      size: int32 [B, N, 2], height and width of each reference in pixels.
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [B, N, h, w, 3] in [0, 255].
    """
    return jax.vmap(functools.partial(resize_batch, input_size=input_size))(image, size)


def augment_references(
    example: dict[str, Array],
    window: Array,
    colors: Array,
    augment: Any,
    input_size: tuple[int, int],
) -> dict[str, Array]:
    """Resizes the N references of one example, and changes them like the example.

    Args:
      example: `reference_image` uint8 [N, Hc, Wc, 3], `reference_size` int32 [N, 2],
        `reference_boxes` float32 [N, G, 4], normalized to each reference, and
        `reference_box_mask` and `reference_ignore` bool [N, G].
      window: [4], the window of the example: if it is mirrored, so are references.
      colors: samples [9] of the distortion of the example (`distort`).
      augment: config.augment.
      input_size: (height, width) of the result in pixels.

    Returns:
      These fields: `reference_image` float32 [N, h, w, 3] in [0, 255], boxes that moved
      with the pixels, and `reference_box_mask` and `reference_ignore` false for boxes
      with a side of less than a pixel.
    """
    entire = jnp.array(ENTIRE, jnp.float32)
    entire = jnp.where(window[1] > window[3], mirrored(entire), entire)

    def read(image: Array, size: Array, boxes: Array) -> tuple[Array, Array, Array]:
        pixels, _ = read_window(image, size, entire, input_size)
        if augment.photometric > 0:
            pixels = distort(colors, pixels, augment)
        return jnp.moveaxis(pixels, 0, -1), *move_boxes(boxes, entire, input_size)

    names = ("reference_image", "reference_size", "reference_boxes")
    image, boxes, kept = jax.vmap(read)(*(example[name] for name in names))
    return {
        "reference_image": image,
        "reference_boxes": boxes,
        "reference_box_mask": example["reference_box_mask"] & kept,
        "reference_ignore": example["reference_ignore"] & kept,
    }
