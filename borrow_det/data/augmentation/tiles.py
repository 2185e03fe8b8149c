"""Random tiles of large images: windows at about the scale of the original image.

A tile has the size of the input divided by the zoom, in pixels of the image. If a side
of the image is shorter than that, the tile spans it and is enlarged to the input, as in
the views of an evaluation (tiling/views.py). Like those views, tiles start and end at
borders of pixels, so that a tile with zoom 1 has the pixels of the image.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.draws import log_between, one_of
from borrow_det.data.augmentation.resampling import ENTIRE

# Distinguishes the key of tiles from those of the other draws of an example.
_STREAM = 1
# Distance in pixels of an object's center from the border of its tile, for rounding.
_MARGIN = 1e-2


class TileDraws(NamedTuple):
    """Uniform samples in [0, 1) that determine the tile of one example."""

    zoom: Array
    whole: Array  # The entire image or not.
    around: Array  # Around an object or anywhere.
    choice: Array  # The object.
    place: Array  # [2], y and x.


def draw(key: Array) -> TileDraws:
    """Samples the numbers of one example; `key` serves the other draws, too."""
    numbers = jax.random.uniform(jax.random.fold_in(key, _STREAM), (6,))
    zoom, whole, around, choice = numbers[:4]
    return TileDraws(zoom, whole, around, choice, numbers[4:])


def choose_tile(
    draws: TileDraws,
    image_size: Array,
    boxes: Array,
    objects: Array,
    augment: Any,
    input_size: tuple[int, int],
) -> Array:
    """Determines the tile of one image.

    Args:
      draws: samples of the example.
      image_size: int32 [2], height and width in pixels.
      boxes: float32 [G, 4], normalized to the image.
      objects: bool [G], boxes that a tile may be chosen around.
      augment: config.augment. The logarithm of the zoom is uniform in that of
        `tile_zoom`. The window is the entire image with probability `tile_whole`. With
        probability `tile_objects` a tile contains the center of an object, all of which
        are equally probable, and is uniform among the tiles that do. Other tiles, and
        those of images without objects, are uniform among all.
      input_size: (height, width) of the network's input in pixels.

    Returns:
      A window [4], relative to the image, inside it.
    """
    size = image_size.astype(jnp.float32)
    side = _tile_side(draws.zoom, size, augment.tile_zoom, input_size)
    room = size - side
    center = _chosen_center(draws.choice, boxes, objects) * size
    around = (draws.around < augment.tile_objects) & jnp.any(objects)
    # Starts of the tiles that contain the center, or of all tiles.
    first = jnp.where(around, jnp.ceil(center - side + _MARGIN), 0)
    last = jnp.where(around, jnp.floor(center - _MARGIN), room)
    first, last = jnp.clip(first, 0, room), jnp.clip(last, 0, room)
    start = first + jnp.floor(draws.place * (last - first + 1))
    tile = jnp.concatenate([start / size, (start + side) / size])
    entire = jnp.array(ENTIRE, jnp.float32)
    return jnp.where(draws.whole < augment.tile_whole, entire, tile)


def _tile_side(
    draw: Array, size: Array, zoom: tuple[float, float], input_size: tuple[int, int]
) -> Array:
    """Returns the height and width of a tile, rounded to pixels, float32 [2]."""
    scale = log_between(draw, zoom)
    side = jnp.round(jnp.array(input_size, jnp.float32) / scale)
    return jnp.clip(side, 1, size)


def _chosen_center(draw: Array, boxes: Array, objects: Array) -> Array:
    """Returns the center [y, x] of one of the objects, each equally probable."""
    chosen = one_of(draw, objects)
    return (boxes[chosen, :2] + boxes[chosen, 2:]) / 2
