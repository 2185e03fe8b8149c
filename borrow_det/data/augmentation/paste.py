"""Small copies of an image's larger objects, pasted into it where no object is.

A copy is a small object with a lender in the same image: the object that it was copied
from, its original. Copies are made last, from the pixels of the network's input:
- their sizes are those that the network sees, and their corners are whole pixels, so
  that their boxes are exact;
- they have the colors of their original after the photometric distortion;
- they are in the image, not in the fill around it, and never of an object that the
  window cuts.

Source: Kisantal et al., Augmentation for small object detection (2019),
arXiv:1902.07296. There, small objects are copied at their size by their masks. Here,
larger objects are shrunk, and boxes with soft edges take the place of masks.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.draws import log_between, one_of
from borrow_det.data.augmentation.resampling import ENTIRE, move_boxes, read_window
from borrow_det.ops import borrow_targets
from borrow_det.ops import boxes as box_ops

# Distinguishes the key of copies from those of the other draws of an example.
_STREAM = 2
_PLACES = 20  # Number of candidates for the place of a copy.
# Part of the image by which rounding may move a border of the window.
_MARGIN = 1e-5


class PasteDraws(NamedTuple):
    """Uniform samples in [0, 1) that determine the n copies of one example."""

    chance: Array  # []: copies or none.
    number: Array  # []
    side: Array  # [n]
    original: Array  # [n]
    flip: Array  # [n]
    places: Array  # [n, T, 2]: y and x of each candidate.


class Copies(NamedTuple):
    """The n copies of one example."""

    boxes: Array  # float32 [n, 4], whole pixels of the input; 0 for absent copies.
    originals: Array  # int32 [n], index of the original of each copy.
    mirrored: Array  # bool [n]
    present: Array  # bool [n]


def most_copies(augment: Any) -> int:
    """Returns the largest number of copies in an image, for config.augment."""
    return augment.paste_count if augment.enabled and augment.paste > 0 else 0


def draw(key: Array, augment: Any) -> PasteDraws:
    """Samples the numbers of one example; `key` serves the other draws, too."""
    count = augment.paste_count
    key = jax.random.fold_in(key, _STREAM)
    numbers = jax.random.uniform(key, (2 + count * (3 + 2 * _PLACES),))
    side, original, flip = numbers[2 : 2 + 3 * count].reshape(3, count)
    places = numbers[2 + 3 * count :].reshape(count, _PLACES, 2)
    return PasteDraws(numbers[0], numbers[1], side, original, flip, places)


def paste_copies(
    draws: PasteDraws,
    example: Mapping[str, Array],
    unmoved: Mapping[str, Array],
    window: Array,
    augment: Any,
) -> dict[str, Array]:
    """Pastes copies into one example.

    An example has copies with probability `augment.paste`, and then 1 to
    `augment.paste_count` of them with equal probabilities. A copy is left out if no
    object is large enough to be its original, if all candidates for its place meet an
    object or another copy, or if no row is free for its box.

    Args:
      draws: samples of the example.
      example: the example after all other changes: `image` float32 [h, w, 3], `boxes`
        float32 [G, 4], normalized to the input and clipped to it, `labels` int32 [G],
        `box_mask` and `ignore` bool [G].
      unmoved: the example before all changes: `boxes` [G, 4], normalized to the image,
        and `box_mask` [G].
      window: [4], the part of the image that the example shows.
      augment: config.augment (static).

    Returns:
      The fields of `example` with copies. Their boxes take free rows in order.
    """
    height, width, _ = example["image"].shape
    size = jnp.array([height, width, height, width], jnp.float32)
    boxes = example["boxes"] * size[None]
    in_image, _ = move_boxes(jnp.array([ENTIRE]), window, (height, width))
    objects = example["box_mask"] & ~example["ignore"]
    copies = choose_copies(
        draws,
        boxes,
        objects & _entire(unmoved["boxes"], window),
        # Objects whose center is outside the window have no box, but are visible.
        jnp.where(unmoved["box_mask"][:, None], boxes, 0),
        in_image[0] * size,
        augment,
    )
    free = jnp.sum(~example["box_mask"])
    present = copies.present & (jnp.cumsum(copies.present) <= free)
    copies = copies._replace(present=present)
    return {
        "image": blend_copies(example["image"], boxes, copies, augment),
        **_with_boxes(example, copies, size),
    }


def choose_copies(
    draws: PasteDraws,
    boxes: Array,
    objects: Array,
    taken: Array,
    area: Array,
    augment: Any,
) -> Copies:
    """Determines size, original and place of each copy.

    The logarithm of the longer side is uniform in that of `augment.paste_sides`. The
    shape is that of the original, rounded to pixels. Originals are equally probable
    among the objects that are lenders of their copy by `augment.paste_scale`, as in
    `borrow_targets.lenders`. The place is the first candidate that meets no other box.

    Args:
      draws: samples of the example.
      boxes: float32 [G, 4], in pixels of the input.
      objects: bool [G], boxes that may be copied.
      taken: float32 [G', 4], in pixels, boxes that no copy may intersect.
      area: float32 [4], in pixels, the area of the input for copies.
      augment: config.augment.

    Returns:
      The copies.
    """
    sides = jnp.round(log_between(draws.side, augment.paste_sides))
    extents = boxes[:, 2:] - boxes[:, :2]
    ratios = extents / jnp.maximum(jnp.max(extents, axis=1, keepdims=True), 1e-6)
    shapes = jnp.maximum(jnp.round(sides[:, None, None] * ratios[None]), 1)
    lends = borrow_targets.is_larger(
        jnp.sqrt(box_ops.area(boxes))[None],
        jnp.sqrt(jnp.prod(shapes, axis=-1)),
        augment.paste_scale,
    )
    lends &= objects[None]  # [n, G]
    chosen = jax.vmap(one_of)(draws.original, lends)
    wanted = draws.chance < augment.paste
    order = jnp.arange(augment.paste_count, dtype=jnp.float32)
    wanted &= order <= jnp.floor(draws.number * augment.paste_count)
    wanted &= jnp.any(lends, axis=1)
    copies = []
    for i in range(augment.paste_count):
        copy = _place(draws.places[i], shapes[i, chosen[i]], wanted[i], taken, area)
        taken = jnp.concatenate([taken, copy[None]])
        copies.append(copy)
    placed = jnp.stack(copies)
    present = box_ops.area(placed) > 0
    return Copies(placed, chosen, draws.flip < augment.paste_flip, present)


def _place(
    draws: Array, shape: Array, wanted: Array, taken: Array, area: Array
) -> Array:
    """Returns the box [4] of a copy in whole pixels; zeros if it has no place.

    Candidates are uniform among the places in the area.

    Args:
      draws: [T, 2] in [0, 1), y and x of each candidate.
      shape: [2], height and width of the copy in pixels.
      wanted: bool [], false for a copy without a place.
      taken: [G, 4], in pixels, boxes that the copy may not intersect.
      area: [4], in pixels.
    """
    first = jnp.ceil(area[:2])
    room = jnp.floor(area[2:]) - first - shape
    corners = first[None] + jnp.floor(draws * (jnp.maximum(room, 0) + 1)[None])
    candidates = jnp.concatenate([corners, corners + shape[None]], axis=1)
    clear = ~jnp.any(box_ops.intersection(candidates, taken) > 0, axis=1)
    found = wanted & jnp.all(room >= 0) & jnp.any(clear)
    return jnp.where(found, candidates[jnp.argmax(clear)], 0)


def blend_copies(image: Array, boxes: Array, copies: Copies, augment: Any) -> Array:
    """Shrinks the originals and blends them into an image.

    A pixel of a copy is that of the image, shrunk with antialiasing to the scale of the
    copy. Its weight is the product over both axes of

        min(1, min(t, 1 - t) / augment.paste_edge),

    for the position t of its center in the box, between 0 and 1. Pixels outside the
    copies do not change.

    Args:
      image: float32 [h, w, 3].
      boxes: float32 [G, 4], in pixels of the image.
      copies: the copies; they intersect neither each other nor their originals.
      augment: config.augment.

    Returns:
      float32 [h, w, 3].
    """
    largest = math.ceil(augment.paste_sides[1])
    patch = min(largest, image.shape[0]), min(largest, image.shape[1])
    render = functools.partial(_render, image, patch=patch, edge=augment.paste_edge)
    pixels, weights, corners = jax.vmap(render)(boxes[copies.originals], copies)
    for i in range(augment.paste_count):
        start = (*corners[i], 0)
        old = jax.lax.dynamic_slice(image, start, pixels.shape[1:])
        new = old + weights[i][..., None] * (pixels[i] - old)
        image = jax.lax.dynamic_update_slice(image, new, start)
    return image


def _render(
    image: Array, original: Array, copy: Copies, *, patch: tuple[int, int], edge: float
) -> tuple[Array, Array, Array]:
    """Renders a copy in a patch of constant size, which lies inside the image.

    Args:
      image: float32 [h, w, 3].
      original: [4], box of the original in pixels.
      copy: the copy (leaves without their leading axis).
      patch: (height, width) of the patch in pixels.
      edge: width of the soft edge, relative to the sides of the copy.

    Returns:
      (pixels of the patch float32 [a, b, 3]; weights [a, b], zero outside the copy;
      first row and column of the patch in the image, int32 [2]).
    """
    size = jnp.array(image.shape[:2], jnp.int32)
    start = jnp.minimum(copy.boxes[:2].astype(jnp.int32), size - jnp.array(patch))
    offset = copy.boxes[:2] - start.astype(jnp.float32)
    extent = jnp.maximum(copy.boxes[2:] - copy.boxes[:2], 1)  # Absent copies have 0.
    mirrored = jnp.array([False, True]) & copy.mirrored
    # Pixels of the original for one of the copy, and the border of the original that
    # becomes the first of the copy.
    step = (original[2:] - original[:2]) / extent * jnp.where(mirrored, -1.0, 1.0)
    border = jnp.where(mirrored, original[2:], original[:2])
    low = border - offset * step
    high = low + jnp.array(patch, jnp.float32) * step
    shown = size.astype(jnp.float32)
    window = jnp.concatenate([low / shown, high / shown])
    pixels, _ = read_window(image, size, window, patch)
    rows, columns = (
        _edge_weights(patch[axis], offset[axis], extent[axis], edge) for axis in (0, 1)
    )
    weights = jnp.where(copy.present, rows[:, None] * columns[None, :], 0)
    return jnp.moveaxis(pixels, 0, -1), weights, start


def _edge_weights(length: int, offset: Array, extent: Array, edge: float) -> Array:
    """Returns the weights of a patch's pixels along one axis, float32 [length]."""
    place = (jnp.arange(length, dtype=jnp.float32) + 0.5 - offset) / extent
    inner = jnp.minimum(place, 1 - place)
    return jnp.clip(inner / max(edge, 1e-6), 0, 1)


def _entire(boxes: Array, window: Array) -> Array:
    """Returns whether the window contains all of each box [G, 4], bool [G]."""
    low, high = (pick(window[:2], window[2:]) for pick in (jnp.minimum, jnp.maximum))
    inside = boxes[:, :2] >= low[None] - _MARGIN, boxes[:, 2:] <= high[None] + _MARGIN
    return jnp.all(inside[0] & inside[1], axis=1)


def _with_boxes(
    example: Mapping[str, Array], copies: Copies, size: Array
) -> dict[str, Array]:
    """Returns the fields of boxes with those of the copies in free rows."""
    mask = example["box_mask"]
    # The k-th copy takes the k-th free row.
    row_order, copy_order = jnp.cumsum(~mask), jnp.cumsum(copies.present)
    takes = (row_order[:, None] == copy_order[None]) & ~mask[:, None]
    takes &= copies.present[None]  # [G, n]
    filled, copy = jnp.any(takes, axis=1), jnp.argmax(takes, axis=1)
    boxes = copies.boxes[copy] / size[None]
    labels = example["labels"][copies.originals[copy]]
    return {
        "boxes": jnp.where(filled[:, None], boxes, example["boxes"]),
        "labels": jnp.where(filled, labels, example["labels"]),
        "box_mask": mask | filled,
        "ignore": example["ignore"] & ~filled,
    }
