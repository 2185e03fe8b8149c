"""How well anchors, where they really stand, overlap the objects of a data set."""

import itertools

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


def nearest_iou(
    boxes: np.ndarray,
    stride: int,
    shapes: np.ndarray,
    input_size: tuple[int, int],
    clip: str,
) -> np.ndarray:
    """`best_iou` with the anchors of one level, in thousands of times fewer steps.

    Among anchors of one shape the one whose centre is nearest along both axes has the
    largest overlap along both, and, all being of one area, the largest IoU. Anchors
    that are clipped at the image's border are not of one area: along either axis those
    whose edge is nearest to an edge of the object are looked at, too. What is found is
    then the best for most objects, and never better than it.

    Args:
      boxes: [N, 4], normalised corners.
      stride: of the level, in pixels.
      shapes: [k, 2], (height, width) in pixels, of the anchors at each position.
      input_size: (height, width) in pixels.
      clip: `config.anchors.clip`.

    Returns:
      float64 [N].
    """
    boxes = np.asarray(boxes, np.float64)
    maps = anchor_ops.level_shapes(input_size, [stride])[0]
    area, axes = 1.0, []
    for axis, length in enumerate(input_size):
        low, high = boxes[:, axis] * length, boxes[:, axis + 2] * length
        area = area * (high - low)
        sides = shapes[:, axis, None]
        if clip == "sizes":
            sides = np.minimum(sides, length)
        border = length if clip == "boxes" else None
        axes.append(list(_along(low, high, sides, stride, maps[axis], border)))
    best = np.zeros(len(boxes))
    for (down, height), (across, width) in itertools.product(*axes):
        common = down * across
        iou = common / (area + height * width - common)
        best = np.maximum(best, iou.max(axis=0))
    return best


def _along(low, high, sides, stride, count, border):
    """What intervals [N] and anchors near them share along an axis, and their sides."""
    wanted = [(low + high) / 2]
    if border is not None:
        wanted += [low + sides / 2, high - sides / 2]
    for middle in wanted:
        center = (np.clip(middle // stride, 0, count - 1) + 0.5) * stride
        start, end = center - sides / 2, center + sides / 2
        if border is not None:
            start, end = np.clip(start, 0, border), np.clip(end, 0, border)
        overlap = np.minimum(high, end) - np.maximum(low, start)
        yield np.maximum(overlap, 0), end - start
