"""Anchors of all levels, as one array in the order of the heads' outputs."""

import itertools
import math
from collections.abc import Sequence

import ml_collections
import numpy as np

from borrow_det.errors import check_choice

SECOND_AFTER = ("all", "first")
CLIPS = ("none", "boxes", "sizes")


def level_shapes(
    input_size: tuple[int, int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of each level's map: the input over the stride.

    Sizes are rounded up: the trunk's poolings keep a partial last window, so that any
    input is covered completely.
    """
    height, width = input_size
    return tuple((-(-height // stride), -(-width // stride)) for stride in strides)


def position_centers(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    input_size: tuple[int, int],
) -> np.ndarray:
    """Returns the centers `[y, x]` of the positions of maps, level by level.

    Position i of a map of stride s is centered at (i + 1/2) s pixels.

    Args:
      shapes: (height, width) of each map.
      strides: stride of each map in pixels.
      input_size: (height, width) of the input in pixels.

    Returns:
      float32 [sum of H * W, 2], normalized by the input size.
    """
    centers = []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        y = (np.arange(rows) + 0.5) * stride / input_size[0]
        x = (np.arange(columns) + 0.5) * stride / input_size[1]
        grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        centers.append(grid.reshape(-1, 2))
    return np.concatenate(centers).astype(np.float32)


def second_sizes(
    sizes: Sequence[float],
    input_size: tuple[int, int],
    last: str,
    next_size: float = 0.0,
) -> tuple[float, ...]:
    """Returns the sizes of the second anchor set in pixels: sqrt(S_n S_{n+1}).

    Args:
      sizes: S_n of each level in pixels.
      input_size: (height, width) of the input in pixels. The side of an input that is
        not square is that of the square of equal area.
      last: size of the last level: `side`, the side of the input (the paper's text), or
        `geometric`, sqrt(S_N S_{N+1}) (SSD).
      next_size: S_{N+1} in pixels; 0 for the side of the input.

    Raises:
      InputError: `last` is unknown.
    """
    side = math.sqrt(input_size[0] * input_size[1])
    ends = {"side": side, "geometric": math.sqrt(sizes[-1] * (next_size or side))}
    check_choice("anchors.second_last", last, ends)
    inner = [math.sqrt(a * b) for a, b in itertools.pairwise(sizes)]
    return (*inner, ends[last])


def position_shapes(
    anchors: ml_collections.ConfigDict, input_size: tuple[int, int]
) -> list[np.ndarray]:
    """Returns the shapes of the k anchors at the positions of each level.

    The first set is in the order of its aspect ratios (width / height), each anchor of
    area S_n squared. The second set follows it, or follows its first anchor.

    Args:
      anchors: `config.anchors`.
      input_size: (height, width) of the input in pixels.

    Returns:
      (height, width) in pixels, [k, 2] for each level.

    Raises:
      InputError: a field of `anchors` has an unknown value.
    """
    check_choice("anchors.second_after", anchors.second_after, SECOND_AFTER)
    seconds = second_sizes(
        anchors.sizes, input_size, anchors.second_last, anchors.next_size
    )
    shapes = []
    for size, second, ratios in zip(
        anchors.sizes, seconds, anchors.aspect_ratios, strict=True
    ):
        pairs = [(size, ratio) for ratio in ratios]
        place = len(pairs) if anchors.second_after == "all" else 1
        pairs[place:place] = [(second, ratio) for ratio in anchors.second_aspect_ratios]
        shapes.append(np.array([(s / r**0.5, s * r**0.5) for s, r in pairs]))
    return shapes


def anchors_per_position(anchors: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Returns the number of anchors per position of each level (paper: 6, 6, 6, 4).

    Args:
      anchors: `config.anchors`.
    """
    second = len(anchors.second_aspect_ratios)
    return tuple(len(ratios) + second for ratios in anchors.aspect_ratios)


def make_anchors(
    anchors: ml_collections.ConfigDict, input_size: tuple[int, int]
) -> np.ndarray:
    """Returns all anchors as normalized corners.

    They are ordered by level, then row, column and anchor shape, as the heads flatten
    their maps.

    Args:
      anchors: `config.anchors`.
      input_size: (height, width) of the input in pixels, square or not.

    Returns:
      float32 [A, 4].

    Raises:
      InputError: a field of `anchors` has an unknown value.
    """
    check_choice("anchors.clip", anchors.clip, CLIPS)
    levels = []
    shapes = level_shapes(input_size, anchors.strides)
    for shape, stride, sizes in zip(
        shapes, anchors.strides, position_shapes(anchors, input_size), strict=True
    ):
        centers = position_centers([shape], [stride], input_size)[:, None]
        sides = sizes / np.array(input_size)
        half = (np.minimum(sides, 1) if anchors.clip == "sizes" else sides)[None] / 2
        corners = np.concatenate([centers - half, centers + half], axis=-1)
        levels.append(corners.reshape(-1, 4))
    corners = np.concatenate(levels).astype(np.float32)
    return np.clip(corners, 0, 1) if anchors.clip == "boxes" else corners
