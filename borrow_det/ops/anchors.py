"""The anchors of every level, as one array in the order of the heads' outputs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from borrow_det.errors import check_choice

SECOND_AFTER = ("all", "first")
CLIPS = ("none", "boxes", "sizes")


def level_shapes(
    input_size: tuple[int, int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """(height, width) of each level's map: the input over its stride, rounded up.

    Rounded up because the trunk's poolings keep the last, partial window, so that the
    whole picture is covered at any input size.
    """
    height, width = input_size
    return tuple((-(-height // stride), -(-width // stride)) for stride in strides)


def position_centers(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    input_size: tuple[int, int],
) -> np.ndarray:
    """Centres `[y, x]` [sum of H*W, 2] of the positions of maps, level by level.

    Normalised by the input size: position i of a stride-s map stands at (i + 1/2) s
    pixels.
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
    """Sizes in pixels of the second anchor set: sqrt(S_n S_{n+1}).

    `last` says what the last level's is: `side`, the input's side (the paper's text),
    or `geometric`, sqrt(S_N S_{N+1}) (SSD), where S_{N+1} is `next_size`, or the side
    if that is 0. The side of an input that is not square is that of the square of
    equal area.
    """
    side = math.sqrt(input_size[0] * input_size[1])
    ends = {"side": side, "geometric": math.sqrt(sizes[-1] * (next_size or side))}
    check_choice("anchors.second_last", last, ends)
    inner = [math.sqrt(a * b) for a, b in itertools.pairwise(sizes)]
    return (*inner, ends[last])


def position_shapes(anchors, input_size: tuple[int, int]) -> list[np.ndarray]:
    """(height, width) in pixels [k, 2] of the k anchors at each level's positions.

    `anchors` is `config.anchors`. The first set stands in the order of its aspect
    ratios (width / height), each of area S_n squared; the second set comes after it,
    or after its first anchor.
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


def anchors_per_position(anchors) -> tuple[int, ...]:
    """How many anchors stand at a position of each level (the paper: 6, 6, 6, 4)."""
    second = len(anchors.second_aspect_ratios)
    return tuple(len(ratios) + second for ratios in anchors.aspect_ratios)


def make_anchors(anchors, input_size: tuple[int, int]) -> np.ndarray:
    """All anchors [A, 4] as normalised corners, float32.

    Ordered by level, then row, column and anchor shape: the order in which the heads'
    maps are flattened. `anchors` is `config.anchors`; any input size is allowed,
    square or not.

    Raises:
      InputError: a field of `anchors` names no choice that there is.
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
