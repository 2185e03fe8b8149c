"""Augmentation and resizing on the device: SSD's, as one resampling an image.

Expansion, crop and flip only decide a *window*: the part of the image's plane,
`[y_start, x_start, y_end, x_end]` in units of the image (0 to 1 is the image itself,
what lies outside is expansion), that fills the network's input. A flip is a window
that runs from right to left. The window is then read from the padded canvas once, by
two matrix products, which costs the same whatever was drawn.

Source: Liu et al., SSD (2016), section 2.2 and 3.6, and its Caffe implementation
(batch_sampler.prototxt, im_transforms.cpp), from which the crop's rules come:
- every sampler, one for each minimal IoU and one without, gets `crop_tries`
  candidates and offers the first one that fits; one of the offers, or the whole
  image, is taken, all being equally probable;
- a candidate fits a minimal IoU when at least one object overlaps it so much. Beside
  that it must hold the centre of an object, if the image has any;
- a box stays if its centre is in the window, and is clipped to it.
Left out: the lighting noise (a permutation of channels), since colour tells classes
apart in some data sets and SSD's Caffe configuration leaves it out, too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data.augmentation.resampling import read_window
from borrow_det.ops import boxes as box_ops

# A crop's width over its height, in pixels.
ASPECT_RATIOS = (0.5, 2.0)
# A clipped box with a smaller side, in pixels of the input, is no object any more.
MIN_BOX_SIDE = 1.0


def augment_batch(
    key: Array,
    batch: dict[str, Array],
    augment: Any,
    input_size: tuple[int, int],
    first_index: int | Array = 0,
    *,
    fill: tuple[float, float, float],
) -> dict[str, Array]:
    """Draws a transformation for every example and applies it; jit-able.

    Args:
      key: random key of the step.
      batch: `image` uint8 [B, Hc, Wc, 3], `image_size` int32 [B, 2], `boxes`
        [B, G, 4], `box_mask` and `ignore` bool [B, G]; anything else goes through.
      augment: the config group `augment` (static); nothing but the resize happens
        where it is not enabled.
      input_size: (height, width) of the result in pixels.
      first_index: the first example's index in the global batch; example i uses
        `fold_in(key, first_index + i)` alone, so its result does not depend on how
        the batch is divided.
      fill: RGB, 0 to 255, of what lies outside of the image. SSD's is the mean that
        the network subtracts.

    Returns:
      The batch with `image` float32 [B, h, w, 3] in [0, 255], `image_size` that of
      the input, `boxes` normalised to the new image and inside of it, and `box_mask`
      and `ignore` false for boxes that are no longer seen.
    """
    if augment.enabled:
        names = ("image", "image_size", "boxes", "box_mask", "ignore")
        examples = {name: batch[name] for name in names}
        indices = jnp.arange(batch["image"].shape[0], dtype=jnp.int32)
        indices += jnp.asarray(first_index, jnp.int32)

        def augment_one(index, example):
            example_key = jax.random.fold_in(key, index)
            return _augment_example(example_key, example, augment, input_size, fill)

        changed = jax.vmap(augment_one)(indices, examples)
    else:
        image = resize_batch(batch["image"], batch["image_size"], input_size)
        changed = {"image": image}
    size = jnp.asarray(input_size, jnp.int32)
    size = jnp.broadcast_to(size, batch["image_size"].shape)
    return {**batch, **changed, "image_size": size}


def resize_batch(image: Array, image_size: Array, input_size: tuple[int, int]) -> Array:
    """Resizes whole images to the input, antialiased; the padding is not seen.

    Args:
      image: uint8 [B, Hc, Wc, 3], each image at the top left of its canvas.
      image_size: int32 [B, 2], its height and width in pixels.
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [B, h, w, 3] in [0, 255].
    """
    whole = jnp.array([0.0, 0.0, 1.0, 1.0], jnp.float32)

    def resize(image, size):
        return read_window(image, size, whole, input_size)[0]

    return jnp.moveaxis(jax.vmap(resize)(image, image_size), 1, -1)


def _augment_example(key, example, augment, input_size, fill):
    """One example of `augment_batch`: the values that change."""
    draws = draw(key, augment)
    image_size, mask = example["image_size"], example["box_mask"]
    objects = mask & ~example["ignore"]
    window = choose_window(draws, image_size, example["boxes"], objects, augment)
    pixels, coverage = read_window(example["image"], image_size, window, input_size)
    if augment.photometric > 0:
        # On what was sampled instead of on the image: there are fewer pixels, and
        # all this is done to each pixel by itself, so the order hardly matters. The
        # fill comes later and keeps its colour, which normalises to zero.
        pixels = distort(draws.colors, pixels, augment)
    background = jnp.asarray(fill, jnp.float32)[:, None, None]
    pixels = background + coverage[None] * (pixels - background)
    boxes, kept = move_boxes(example["boxes"], window, input_size)
    return {
        "image": jnp.moveaxis(pixels, 0, -1),
        "boxes": boxes,
        "box_mask": mask & kept,
        "ignore": example["ignore"] & kept,
    }


class Draws(NamedTuple):
    """The uniform numbers in [0, 1) that decide what happens to one example."""

    place: Array  # [5]: whether and how much to expand, y, x, whether to flip
    crops: Array  # [T, 4]: height, width, y, x of each candidate
    lots: Array  # [M], of the crop's samplers; the highest is taken
    colors: Array  # [9], see `distort`


def draw(key: Array, augment: Any) -> Draws:
    """Draws the numbers for one example."""
    tries, samplers = augment.crop_tries, len(augment.crop_ious) + 2
    sizes = (5, 4 * tries, samplers, 9)
    # In one call, because each takes a CPU half a second to compile.
    numbers = jax.random.uniform(key, (sum(sizes),))
    place, crops, lots, colors = jnp.split(numbers, np.cumsum(sizes)[:-1])
    return Draws(place, crops.reshape(tries, 4), lots, colors)


def choose_window(
    draws: Draws, image_size: Array, boxes: Array, objects: Array, augment: Any
) -> Array:
    """Expansion, crop and flip of one image.

    Args:
      draws: what chance says.
      image_size: int32 [2], height and width in pixels.
      boxes: [G, 4], normalised to the image.
      objects: bool [G], the boxes that a crop must regard.
      augment: the config group `augment`.

    Returns:
      The window [4]; its x_start is greater than its x_end where it flips.
    """
    expand, ratio, y, x, flip = draws.place
    extent = jnp.where(
        expand < augment.expand, between(ratio, 1, augment.max_expand), 1
    )
    start = -jnp.stack([y, x]) * (extent - 1)
    window = jnp.concatenate([start, start + extent])
    if augment.crop:
        offers, offered = crop_offers(
            draws.crops, window, image_size, boxes, objects, augment
        )
        window = offers[jnp.argmax(jnp.where(offered, draws.lots, -1))]
    flipped = window[jnp.array([0, 3, 2, 1])]
    return jnp.where(flip < augment.flip, flipped, window)


def crop_offers(
    draws: Array,
    window: Array,
    image_size: Array,
    boxes: Array,
    objects: Array,
    augment: Any,
) -> tuple[Array, Array]:
    """What each sampler of SSD's crop offers; see the module's docstring.

    Args:
      draws: [T, 4] in [0, 1): height, width, y and x of each candidate.
      window: [4], what is cropped: the image, or more where it is expanded.
      image_size: int32 [2], height and width in pixels.
      boxes: [G, 4], normalised to the image.
      objects: bool [G], the boxes that count.
      augment: the config group `augment`.

    Returns:
      Windows [M, 4] and bool [M], which of them are offered: one for each of
      `augment.crop_ious`, then one for any crop, then the whole `window`.
    """
    side = between(draws[:, :2], augment.min_crop, 1)  # [T, 2], of the window
    extent = window[2:] - window[:2]
    low = window[None, :2] + draws[:, 2:] * (1 - side) * extent[None]
    candidates = jnp.concatenate([low, low + side * extent[None]], axis=-1)

    height, width = jnp.moveaxis(side * image_size.astype(jnp.float32)[None], -1, 0)
    fits = (width >= ASPECT_RATIOS[0] * height) & (width <= ASPECT_RATIOS[1] * height)
    holds_one = jnp.any(_holds_center(candidates, boxes) & objects[None], axis=1)
    fits &= holds_one | ~jnp.any(objects)
    overlap = jnp.where(objects[None], box_ops.iou(candidates, boxes), 0)
    best = jnp.max(overlap, axis=1)

    thresholds = jnp.array([*augment.crop_ious, 0.0], jnp.float32)
    fits = fits[:, None] & (best[:, None] >= thresholds[None])  # [T, M - 1]
    offers = candidates[jnp.argmax(fits, axis=0)]  # the first that fits
    offers = jnp.concatenate([offers, window[None]])
    return offers, jnp.append(jnp.any(fits, axis=0), True)


def move_boxes(
    boxes: Array, window: Array, input_size: tuple[int, int]
) -> tuple[Array, Array]:
    """Follows boxes into a window.

    Args:
      boxes: [G, 4], normalised to the image.
      window: [4], see the module's docstring.
      input_size: (height, width) in pixels that the window will have.

    Returns:
      Boxes [G, 4], normalised to the window and clipped to it, and bool [G], which
      of them stay: their centre is in the window, and no side is under a pixel.
    """
    start, extent = window[:2], window[2:] - window[:2]
    a = (boxes[:, :2] - start[None]) / extent[None]
    b = (boxes[:, 2:] - start[None]) / extent[None]
    moved = jnp.concatenate([jnp.minimum(a, b), jnp.maximum(a, b)], axis=-1)
    unit = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
    clipped = jnp.clip(moved, 0, 1)
    side = (clipped[:, 2:] - clipped[:, :2]) * jnp.array([input_size], jnp.float32)
    # A hair less than the limit, so that rounding does not drop a box of just so much.
    kept = _holds_center(unit, moved)[0] & jnp.all(side > MIN_BOX_SIDE - 1e-3, axis=1)
    return clipped, kept


def distort(draws: Array, pixels: Array, augment: Any) -> Array:
    """SSD's photometric distortion of one image.

    Brightness, contrast, saturation and hue, each with probability
    `augment.photometric`; contrast comes before saturation and hue or after them.

    Args:
      draws: [9] in [0, 1): whether to do each of the four, how much of each, and
        whether contrast comes first.
      pixels: float32 [3, h, w], RGB, 0 to 255.
      augment: the config group `augment`.

    Returns:
      float32 [3, h, w] in [0, 255].
    """
    on = draws[:4] < augment.photometric
    brightness = between(draws[4], -augment.brightness, augment.brightness)
    contrast = jnp.where(on[1], between(draws[5], *augment.contrast), 1)
    saturation = jnp.where(on[2], between(draws[6], *augment.saturation), 1)
    hue = jnp.where(on[3], between(draws[7], -augment.hue, augment.hue), 0)
    contrast_first = draws[8] < 0.5

    pixels = jnp.clip(pixels + jnp.where(on[0], brightness, 0), 0, 255)
    pixels = jnp.clip(pixels * jnp.where(contrast_first, contrast, 1), 0, 255)
    pixels = shift_colors(pixels, saturation, hue)
    return jnp.clip(pixels * jnp.where(contrast_first, 1, contrast), 0, 255)


def shift_colors(pixels: Array, saturation: Array, hue: Array) -> Array:
    """Multiplies the saturation, and turns the hue, in HSV.

    Args:
      pixels: float32 [3, ...], RGB, any range from 0 up.
      saturation: factor; the product is cut at full saturation.
      hue: degrees.

    Returns:
      float32 [3, ...]; the value (largest channel) of every pixel is as before.
    """
    red, green, blue = pixels
    value = jnp.max(pixels, axis=0)
    chroma = value - jnp.min(pixels, axis=0)
    scale = 1 / jnp.where(chroma > 0, chroma, 1)  # Grey has no hue: 0, and no NaN.
    sector = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    sector = sector + hue / 60  # 0 red, 2 green, 4 blue
    chroma = jnp.minimum(chroma * saturation, value)

    def channel(offset):
        position = sector + offset
        position = position - 6 * jnp.floor(position / 6)
        distance = jnp.minimum(position, 4 - position)
        return value - chroma * jnp.clip(distance, 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)])


def _holds_center(windows, boxes):
    """Whether each window [N, 4] holds each box's [G, 4] centre: bool [N, G]."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (center[None] >= windows[:, None, :2]) & (
        center[None] <= windows[:, None, 2:]
    )
    return jnp.all(inside, axis=-1)


def between(draw, low, high):
    """A draw from [0, 1) moved to [low, high)."""
    return low + draw * (high - low)
