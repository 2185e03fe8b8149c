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
SSD's lighting noise (a permutation of channels) is left out: in some datasets colors
distinguish the classes, and SSD's Caffe configuration does not use it either.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data.augmentation.resampling import read_window
from borrow_det.ops import boxes as box_ops

# Smallest and largest width over height of a crop, in pixels.
ASPECT_RATIOS = (0.5, 2.0)
# Clipped boxes with a smaller side, in pixels of the input, are dropped.
MIN_BOX_SIDE = 1.0


def augment_batch(
    key: Array,
    batch: dict[str, Array],
    augment: Any,
    input_size: tuple[int, int],
    first_index: int | Array = 0,
    *,
    fill: Sequence[float],
) -> dict[str, Array]:
    """Applies a random transformation to every example; works under jit.

    Args:
      key: random key of the step.
      batch: `image` uint8 [B, Hc, Wc, 3], `image_size` int32 [B, 2], `boxes` float32
        [B, G, 4], `box_mask` and `ignore` bool [B, G]. Other fields are passed through.
      augment: config.augment (static); images are only resized unless it is enabled.
      input_size: (height, width) of the result in pixels.
      first_index: index of the first example in the global batch. Example i uses the
        key `fold_in(key, first_index + i)`, so that results do not depend on how the
        batch is divided.
      fill: RGB in 0..255 for pixels outside the image. SSD uses the mean that the
        network subtracts.

    Returns:
      The batch with `image` float32 [B, h, w, 3] in [0, 255], `image_size` of the
      input, `boxes` normalized to the new image and clipped to it, and `box_mask` and
      `ignore` false for boxes outside it.
    """
    if augment.enabled:
        names = ("image", "image_size", "boxes", "box_mask", "ignore")
        examples = {name: batch[name] for name in names}
        indices = jnp.arange(batch["image"].shape[0], dtype=jnp.int32)
        indices += jnp.asarray(first_index, jnp.int32)

        def augment_one(index: Array, example: dict[str, Array]) -> dict[str, Array]:
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
    """Resizes images, without their padding, to the input, with antialiasing.

    Args:
      image: uint8 [B, Hc, Wc, 3], each image at the top left of its canvas.
      image_size: int32 [B, 2], height and width of each image in pixels.
      input_size: (height, width) of the result in pixels.

    Returns:
      float32 [B, h, w, 3] in [0, 255].
    """
    window = jnp.array([0.0, 0.0, 1.0, 1.0], jnp.float32)

    def resize(image: Array, size: Array) -> Array:
        return read_window(image, size, window, input_size)[0]

    return jnp.moveaxis(jax.vmap(resize)(image, image_size), 1, -1)


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
    window = choose_window(draws, image_size, example["boxes"], objects, augment)
    pixels, coverage = read_window(example["image"], image_size, window, input_size)
    if augment.photometric > 0:
        # The window has fewer pixels than the image, and the order hardly matters,
        # because the distortion is pixelwise. The fill is added later and keeps its
        # color, which the network maps to zero.
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
        window = offers[jnp.argmax(jnp.where(offered, draws.samplers, -1))]
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
    contains_one = jnp.any(_contains_center(candidates, boxes) & objects[None], axis=1)
    fits &= contains_one | ~jnp.any(objects)
    overlap = jnp.where(objects[None], box_ops.iou(candidates, boxes), 0)
    best = jnp.max(overlap, axis=1)

    thresholds = jnp.array([*augment.crop_ious, 0.0], jnp.float32)
    fits = fits[:, None] & (best[:, None] >= thresholds[None])  # [T, M - 1]
    offers = candidates[jnp.argmax(fits, axis=0)]  # The first that fits.
    offers = jnp.concatenate([offers, window[None]])
    return offers, jnp.append(jnp.any(fits, axis=0), True)


def move_boxes(
    boxes: Array, window: Array, input_size: tuple[int, int]
) -> tuple[Array, Array]:
    """Transforms boxes from the image to a window.

    Args:
      boxes: float32 [G, 4], normalized to the image.
      window: [4] (see the module docstring).
      input_size: (height, width) of the resampled window in pixels.

    Returns:
      (boxes float32 [G, 4], normalized and clipped to the window; kept bool [G], true
      if the center is in the window and no side is shorter than a pixel).
    """
    start, extent = window[:2], window[2:] - window[:2]
    a = (boxes[:, :2] - start[None]) / extent[None]
    b = (boxes[:, 2:] - start[None]) / extent[None]
    moved = jnp.concatenate([jnp.minimum(a, b), jnp.maximum(a, b)], axis=-1)
    unit = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
    clipped = jnp.clip(moved, 0, 1)
    side = (clipped[:, 2:] - clipped[:, :2]) * jnp.array([input_size], jnp.float32)
    # The margin keeps boxes whose sides are at the limit up to rounding.
    kept = _contains_center(unit, moved)[0] & jnp.all(
        side > MIN_BOX_SIDE - 1e-3, axis=1
    )
    return clipped, kept


def distort(draws: Array, pixels: Array, augment: Any) -> Array:
    """Applies SSD's photometric distortion to one image.

    Brightness, contrast, saturation and hue change with probability
    `augment.photometric` each. Contrast changes before saturation and hue or after
    them.

    Args:
      draws: [9] in [0, 1): the choice and then the amount of each of the four changes,
        and the order of contrast.
      pixels: float32 [3, h, w], RGB in [0, 255].
      augment: config.augment.

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
    """Scales the saturation and rotates the hue, in HSV.

    Args:
      pixels: float32 [3, ...], RGB, not negative.
      saturation: factor; the product is clipped to full saturation.
      hue: rotation in degrees.

    Returns:
      float32 [3, ...]; the value (largest channel) of a pixel does not change.
    """
    red, green, blue = pixels
    value = jnp.max(pixels, axis=0)
    chroma = value - jnp.min(pixels, axis=0)
    scale = 1 / jnp.where(chroma > 0, chroma, 1)  # The hue of gray is 0, not NaN.
    sector = jnp.where(
        value == red,
        (green - blue) * scale,
        jnp.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale),
    )
    sector = sector + hue / 60  # 0 is red, 2 green, 4 blue.
    chroma = jnp.minimum(chroma * saturation, value)

    def channel(offset: int) -> Array:
        position = sector + offset
        position = position - 6 * jnp.floor(position / 6)
        distance = jnp.minimum(position, 4 - position)
        return value - chroma * jnp.clip(distance, 0, 1)

    return jnp.stack([channel(5), channel(3), channel(1)])


def _contains_center(windows: Array, boxes: Array) -> Array:
    """Returns true if window n contains the center of box g: bool [N, G]."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (center[None] >= windows[:, None, :2]) & (
        center[None] <= windows[:, None, 2:]
    )
    return jnp.all(inside, axis=-1)


def between(draw: Array, low: float | Array, high: float | Array) -> Array:
    """Scales samples from [0, 1) to [low, high)."""
    return low + draw * (high - low)
