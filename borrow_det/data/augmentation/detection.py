"""SSD's augmentation and resizing on the device, with one resampling of each image.

Expansion, crop and flip determine a *window*: the part of the image plane that fills
the input of the network, `[y_start, x_start, y_end, x_end]` relative to the image. The
image spans 0 to 1; the rest of the window is expansion. A window from right to left
flips the image. Two matrix products resample the window from the padded canvas; their
cost does not depend on the window.

Source: Liu et al., SSD (2016), section 2.2 and 3.6, and its Caffe implementation
(batch_sampler.prototxt, im_transforms.cpp), which has the rules of the crop:
- There is a sampler for each minimum IoU and one without. A sampler offers the first of
  `crop_tries` candidates that fits. The crop is one of the offers or the full image,
  with equal probabilities.
- A candidate fits a minimum IoU if at least one object has this IoU with it. It must
  also contain the center of an object, if the image has objects.
- A box is kept if its center is in the window, and is clipped to the window.
Tiles (data/augmentation/tiles.py) take the place of expansion and crop if
`augment.tile` is set, and `augment.paste` adds small copies of objects
(data/augmentation/paste.py).
SSD's lighting noise (a permutation of channels) is left out: in some datasets colors
distinguish the classes, and SSD's Caffe configuration does not use it either.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data.augmentation import paste, references, tiles
from borrow_det.data.augmentation.draws import between
from borrow_det.data.augmentation.photometric import distort
from borrow_det.data.augmentation.resampling import (
    contains_center,
    mirrored,
    move_boxes,
    read_window,
    resize_batch,
)
from borrow_det.ops import boxes as box_ops

# Smallest and largest width over height of a crop, in pixels.
ASPECT_RATIOS = (0.5, 2.0)


def augment_batch(
    key: Array,
    batch: dict[str, Array],
    augment: Any,
    input_size: tuple[int, int],
    first_index: int | Array = 0,
    *,
    fill: Sequence[float],
    overview: bool = False,
) -> dict[str, Array]:
    """Applies a random transformation to every example; works under jit.

    Args:
      key: random key of the step.
      batch: `image` uint8 [B, Hc, Wc, 3], `image_size` int32 [B, 2], `boxes` float32
        [B, G, 4], `box_mask` and `ignore` bool [B, G]; with `augment.paste`, `labels`
        int32 [B, G]; and, with references, `references.FIELDS`. Other fields are passed
        through.
      augment: config.augment (static); images are only resized unless it is enabled.
      input_size: (height, width) of the result in pixels.
      first_index: index of the first example in the global batch. Example i uses the
        key `fold_in(key, first_index + i)`, so that results do not depend on how the
        batch is divided.
      fill: RGB in 0..255 for pixels outside the image. SSD uses the mean that the
        network subtracts.
      overview: whether the entire image becomes the reference of each example.

    Returns:
      The batch with `image` float32 [B, h, w, 3] in [0, 255], `image_size` of the
      input, `boxes` normalized to the new image and clipped to it, and `box_mask` and
      `ignore` false for boxes outside it. References change likewise, but are entire
      images (data/augmentation/references.py). Copies of objects take free rows of the
      boxes (data/augmentation/paste.py); references have none.
    """
    if overview:
        batch = references.with_overview(batch)
    if augment.enabled:
        names = ("image", "image_size", "boxes", "labels", "box_mask", "ignore")
        fields = (*names, *references.FIELDS)
        examples = {name: batch[name] for name in fields if name in batch}
        indices = jnp.arange(batch["image"].shape[0], dtype=jnp.int32)
        indices += jnp.asarray(first_index, jnp.int32)

        def augment_one(index: Array, example: dict[str, Array]) -> dict[str, Array]:
            example_key = jax.random.fold_in(key, index)
            return _augment_example(example_key, example, augment, input_size, fill)

        changed = jax.vmap(augment_one)(indices, examples)
    else:
        changed = _resized(batch, input_size)
    size = jnp.asarray(input_size, jnp.int32)
    for name in ("image_size", "reference_size"):
        if name in batch:
            changed[name] = jnp.broadcast_to(size, batch[name].shape)
    return {**batch, **changed}


def _resized(batch: dict[str, Array], input_size: tuple[int, int]) -> dict[str, Array]:
    """Returns the images of a batch and its references, not augmented."""
    image = resize_batch(batch["image"], batch["image_size"], input_size)
    if "reference_image" not in batch:
        return {"image": image}
    parts = batch["reference_image"], batch["reference_size"]
    others = references.resize_references(*parts, input_size)
    return {"image": image, "reference_image": others}


def _augment_example(
    key: Array,
    example: dict[str, Array],
    augment: Any,
    input_size: tuple[int, int],
    fill: Sequence[float],
) -> dict[str, Array]:
    """Returns the fields of one example that `augment_batch` changes."""
    draws = draw(key, augment)
    image_size, mask = example["image_size"], example["box_mask"]
    objects = mask & ~example["ignore"]
    place = image_size, example["boxes"], objects, augment
    if augment.tile:
        window = tiles.choose_tile(tiles.draw(key), *place, input_size)
        window = _perhaps_mirrored(draws, window, augment)
    else:
        window = choose_window(draws, *place)
    pixels, coverage = read_window(example["image"], image_size, window, input_size)
    if augment.photometric > 0:
        # The window has fewer pixels than the image, and the order hardly matters,
        # because the distortion is pixelwise. The fill is added later and keeps its
        # color, which the network maps to zero.
        pixels = distort(draws.colors, pixels, augment)
    background = jnp.asarray(fill, jnp.float32)[:, None, None]
    pixels = background + coverage[None] * (pixels - background)
    boxes, kept = move_boxes(example["boxes"], window, input_size)
    changed = {
        "image": jnp.moveaxis(pixels, 0, -1),
        "boxes": boxes,
        "box_mask": mask & kept,
        "ignore": example["ignore"] & kept,
    }
    if augment.paste > 0:
        # The last change, so that copies have the sizes and colors that the network
        # sees. References are other views, and have no copies.
        changed |= paste.paste_copies(
            paste.draw(key, augment),
            {**changed, "labels": example["labels"]},
            example,
            window,
            augment,
        )
    if "reference_image" in example:
        changed |= references.augment_references(
            example, window, draws.colors, augment, input_size
        )
    return changed


class Draws(NamedTuple):
    """Uniform samples in [0, 1) that determine the transformation of one example."""

    place: Array  # [5]: expand or not, extent, y, x, flip or not.
    crops: Array  # [T, 4]: height, width, y, x of each candidate.
    samplers: Array  # [M]; the sampler of the crop with the highest value is used.
    colors: Array  # [9], see `distort`.


def draw(key: Array, augment: Any) -> Draws:
    """Samples the numbers of one example."""
    tries, samplers = augment.crop_tries, len(augment.crop_ious) + 2
    sizes = (5, 4 * tries, samplers, 9)
    # Sampled in one call, because a CPU takes half a second to compile each call.
    numbers = jax.random.uniform(key, (sum(sizes),))
    place, crops, choices, colors = jnp.split(numbers, np.cumsum(sizes)[:-1])
    return Draws(place, crops.reshape(tries, 4), choices, colors)


def choose_window(
    draws: Draws, image_size: Array, boxes: Array, objects: Array, augment: Any
) -> Array:
    """Determines the window of one image by expansion, crop and flip.

    Args:
      draws: samples of the example.
      image_size: int32 [2], height and width in pixels.
      boxes: float32 [G, 4], normalized to the image.
      objects: bool [G], boxes that the rules of the crop apply to.
      augment: config.augment.

    Returns:
      The window [4]; x_start is greater than x_end if it flips the image.
    """
    expand, ratio, y, x, _ = draws.place
    extent = jnp.where(
        expand < augment.expand, between(ratio, 1, augment.max_expand), 1
    )
    start = -jnp.stack([y, x]) * (extent - 1)
    window = jnp.concatenate([start, start + extent])
    if augment.crop:
        offers, offered = crop_offers(
            draws.crops, window, image_size, boxes, objects, augment
        )
        window = offers[jnp.argmax(jnp.where(offered, draws.samplers, -1))]
    return _perhaps_mirrored(draws, window, augment)


def _perhaps_mirrored(draws: Draws, window: Array, augment: Any) -> Array:
    """Mirrors a window with probability `augment.flip`."""
    flip = draws.place[4]
    return jnp.where(flip < augment.flip, mirrored(window), window)


def crop_offers(
    draws: Array,
    window: Array,
    image_size: Array,
    boxes: Array,
    objects: Array,
    augment: Any,
) -> tuple[Array, Array]:
    """Returns the offers of the samplers of SSD's crop (see the module docstring).

    Args:
      draws: [T, 4] in [0, 1): height, width, y and x of each candidate.
      window: [4], region to crop: the image, or a larger region after expansion.
      image_size: int32 [2], height and width in pixels.
      boxes: float32 [G, 4], normalized to the image.
      objects: bool [G], boxes that the rules apply to.
      augment: config.augment.

    Returns:
      (windows [M, 4], valid bool [M]): an offer for each of `augment.crop_ious`, one
      without a minimum IoU, and `window` itself. An offer is not valid if no candidate
      fits.
    """
    side = between(draws[:, :2], augment.min_crop, 1)  # [T, 2], relative to the window.
    extent = window[2:] - window[:2]
    low = window[None, :2] + draws[:, 2:] * (1 - side) * extent[None]
    candidates = jnp.concatenate([low, low + side * extent[None]], axis=-1)

    height, width = jnp.moveaxis(side * image_size.astype(jnp.float32)[None], -1, 0)
    fits = (width >= ASPECT_RATIOS[0] * height) & (width <= ASPECT_RATIOS[1] * height)
    contains_one = jnp.any(contains_center(candidates, boxes) & objects[None], axis=1)
    fits &= contains_one | ~jnp.any(objects)
    overlap = jnp.where(objects[None], box_ops.iou(candidates, boxes), 0)
    best = jnp.max(overlap, axis=1)

    thresholds = jnp.array([*augment.crop_ious, 0.0], jnp.float32)
    fits = fits[:, None] & (best[:, None] >= thresholds[None])  # [T, M - 1]
    offers = candidates[jnp.argmax(fits, axis=0)]  # The first that fits.
    offers = jnp.concatenate([offers, window[None]])
    return offers, jnp.append(jnp.any(fits, axis=0), True)
