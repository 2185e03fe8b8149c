"""How well anchors, where they really stand, overlap the objects of a data set."""

import jax
import jax.numpy as jnp
import numpy as np

from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import boxes as box_ops

# Objects compared with all anchors in one go: one shape is compiled.
_CHUNK = 256


def best_iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU [N] of each box [N, 4] with the anchor [A, 4] that overlaps it most."""
    found = []
    for start in range(0, len(boxes), _CHUNK):
        chunk = np.asarray(boxes[start : start + _CHUNK], np.float32)
        padding = ((0, _CHUNK - len(chunk)), (0, 0))
        found.append(_best_of_chunk(np.pad(chunk, padding), anchors)[: len(chunk)])
    return np.concatenate([np.zeros(0, np.float32), *found])


@jax.jit
def _best_of_chunk(boxes, anchors):
    return jnp.max(box_ops.iou(boxes, anchors), axis=1)


def nearest_iou(boxes: np.ndarray, anchors, input_size: tuple[int, int]) -> np.ndarray:
    """`best_iou` with the anchors of a config, in thousands of times fewer steps.

    Among anchors of one shape the one whose centre is nearest along both axes has the
    largest overlap along both, and, all being of one area, the largest IoU. This holds
    of anchors that are not clipped; clipping at the image's border is left out here.

    Args:
      boxes: [N, 4], normalised corners.
      anchors: `config.anchors`.
      input_size: (height, width) in pixels.

    Returns:
      float64 [N].
    """
    boxes = np.asarray(boxes, np.float64)
    scale = np.array(input_size)
    low, high = boxes[:, :2] * scale, boxes[:, 2:] * scale
    areas = (high - low).prod(axis=1)
    best = np.zeros(len(boxes))
    maps = anchor_ops.level_shapes(input_size, anchors.strides)
    shapes = anchor_ops.position_shapes(anchors, input_size)
    for map_shape, stride, level_shapes in zip(
        maps, anchors.strides, shapes, strict=True
    ):
        centers = anchor_ops.position_centers([map_shape], [stride], input_size)
        grid = centers.reshape(*map_shape, 2) * scale
        middle = (low + high) / 2
        nearest = np.stack(
            [
                _nearest(grid[:, 0, 0], middle[:, 0]),
                _nearest(grid[0, :, 1], middle[:, 1]),
            ],
            axis=1,
        )[:, None]
        half = level_shapes / 2
        overlap = np.minimum(high[:, None], nearest + half)
        overlap -= np.maximum(low[:, None], nearest - half)
        common = np.maximum(overlap, 0).prod(axis=-1)
        union = areas[:, None] + level_shapes.prod(axis=1) - common
        best = np.maximum(best, (common / union).max(axis=1))
    return best


def _nearest(places, values):
    """The one of the rising `places` that is nearest each of `values`."""
    borders = (places[1:] + places[:-1]) / 2
    return places[np.searchsorted(borders, values)]
