"""Scenes of object_pairs: their contents and their pixels."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import cv2
import numpy as np

from borrow_det.data.datasets.cut_outs import Colors, CutOut

# Lengths are relative to the side of the image.
LARGE_SIDE = (0.25, 0.31)  # Square root of the area of a box, as the next one.
SMALL_SIDE = (0.055, 0.075)
SMALL_COUNT = (2, 4)
_MARGIN = 0.015  # Distance between a box and the border of the image.
_GAP = 0.015  # Distance between the parts of an edge that two boxes may be in.
_LARGE_STRIP = 0.5  # Depth of the strip with the large instances.
_SMALL_STRIP = 0.23  # Depth of the strip with the small ones, at the opposite edge.
_EDGES = ("top", "bottom", "left", "right")

# Radius of the blur of the layers of a background, and their standard deviations.
_LAYERS = ((0.16, 1.0), (0.06, 0.6), (0.025, 0.35), (0.01, 0.2))

# A cut-out is opaque in a superellipse of this exponent, and fades from there to the
# end of its margin over this share of half a side.
_EXPONENT = 2.5
_FADE = 0.3


@dataclasses.dataclass(frozen=True)
class Placed:
    """One object of a scene.

    Attributes:
      cut_out: the object, in its photograph.
      is_large: true for a large instance.
      top: row of the scene at which its window begins; may be negative.
      left: column of the scene at which its window begins; may be negative.
      size: (height, width) of its window in the scene, in pixels.
    """

    cut_out: CutOut
    is_large: bool
    top: int
    left: int
    size: tuple[int, int]

    @property
    def box(self) -> np.ndarray:
        """[y_min, x_min, y_max, x_max] of its box, in pixels of the scene."""
        corner = np.array([self.top, self.left] * 2, np.float64)
        return corner + np.array(self.cut_out.box) * np.array(self.size * 2)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Contents of an image.

    Attributes:
      large: the large instances, of two classes.
      swapped: the large instances of the swapped split, of classes that `large` lacks;
        () if there are two classes only.
      small: the small objects, of the classes of `large`.
      photograph: index of the photograph whose colors the background has.
      field: float32 [side, side, 3], smooth noise with mean 0, standard deviation 1 and
        no correlation between channels.
    """

    large: tuple[Placed, ...]
    swapped: tuple[Placed, ...]
    small: tuple[Placed, ...]
    photograph: int
    field: np.ndarray

    def objects(self, split: str) -> tuple[Placed, ...]:
        """Returns the objects that the images of a split show, large ones first."""
        if split == "alone":
            return self.small
        return (*(self.swapped if split == "swapped" else self.large), *self.small)


def make_scene(
    key: tuple[int, int, int],
    side: int,
    cut_outs: Mapping[int, Sequence[CutOut]],
    num_photographs: int,
    same_instance: bool,
) -> Scene:
    """Samples the contents of one image; a function of the arguments only.

    Args:
      key: (seed of the set, number of the split, number of the scene in the split).
      side: side of the image in pixels.
      cut_outs: at least two cut-outs of each of at least two classes, by label.
      num_photographs: number of photographs whose colors a background may have.
      same_instance: whether a small object is its class's large instance again, and not
        another object of the class.
    """
    rng = np.random.default_rng(key)
    edge = _EDGES[rng.integers(len(_EDGES))]
    labels = sorted(cut_outs)
    order = [labels[i] for i in rng.permutation(len(labels))]
    pair, others = order[:2], order[2:4]
    lenders = [_choose(rng, cut_outs[label]) for label in pair]
    small = []
    for _ in range(rng.integers(SMALL_COUNT[0], SMALL_COUNT[1] + 1)):
        lender = lenders[rng.integers(2)]
        # Chosen in both cases, so that the rest of the scene is the same.
        other = _choose(rng, cut_outs[lender.label], without=[lender])
        small.append(lender if same_instance else other)
    swapped: list[CutOut] = []
    # With three classes, two instances of the third.
    for label in (others * 2)[:2]:
        swapped.append(_choose(rng, cut_outs[label], without=swapped))
    return Scene(
        large=_place(rng, lenders, edge, side, is_large=True),
        small=_place(rng, small, edge, side, is_large=False),
        swapped=_place(rng, swapped, edge, side, is_large=True),
        photograph=int(rng.integers(num_photographs)),
        field=_smooth_noise(rng, side),
    )


def _choose(
    rng: np.random.Generator, cut_outs: Sequence[CutOut], without: Sequence[CutOut] = ()
) -> CutOut:
    while True:
        cut_out = cut_outs[int(rng.integers(len(cut_outs)))]
        if cut_out not in without:
            return cut_out


def _place(
    rng: np.random.Generator,
    cut_outs: Sequence[CutOut],
    edge: str,
    side: int,
    is_large: bool,
) -> tuple[Placed, ...]:
    """Places objects beside each other, each in its own part of the edge.

    Args:
      rng: random numbers.
      cut_outs: the objects.
      edge: edge of the image that the large instances are at.
      side: side of the image in pixels.
      is_large: whether these are the large instances.
    """
    placed = []
    length = (1 - 2 * _MARGIN + _GAP) / max(len(cut_outs), 1)
    low, high = (_MARGIN, _LARGE_STRIP) if is_large else (1 - _SMALL_STRIP, 1 - _MARGIN)
    for part, cut_out in enumerate(cut_outs):
        scale = rng.uniform(*(LARGE_SIDE if is_large else SMALL_SIDE)) / cut_out.side
        height, width = (scale * extent for extent in cut_out.size)
        y_min, x_min, y_max, x_max = cut_out.box
        extents = (y_max - y_min) * height, (x_max - x_min) * width
        depth, along = extents if edge in ("top", "bottom") else extents[::-1]
        start = _MARGIN + part * length
        u = rng.uniform(start, start + length - _GAP - along)
        v = rng.uniform(low, high - depth)
        if edge in ("bottom", "right"):
            v = 1 - v - depth
        y, x = (v, u) if edge in ("top", "bottom") else (u, v)
        size = max(round(height * side), 1), max(round(width * side), 1)
        placed.append(
            Placed(
                cut_out,
                is_large,
                top=round(y * side - y_min * size[0]),
                left=round(x * side - x_min * size[1]),
                size=size,
            )
        )
    return tuple(placed)


def _smooth_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draws the field of a scene, float32 [side, side, 3]."""
    field = np.zeros((side, side, 3), np.float32)
    for radius, deviation in _LAYERS:
        # Layers without details are drawn at a low resolution, to save time.
        cells = min(round(4 / radius), side)
        noise = rng.standard_normal((cells, cells, 3), dtype=np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), radius * cells)
        smooth = cv2.resize(smooth, (side, side), interpolation=cv2.INTER_CUBIC)
        field += deviation / smooth.std() * smooth
    field -= field.mean(axis=(0, 1))
    root = np.linalg.cholesky(np.cov(field.reshape(-1, 3), rowvar=False, ddof=0))
    return field @ np.linalg.inv(root).T.astype(np.float32)


def draw(
    scene: Scene,
    objects: Iterable[Placed],
    colors: Colors,
    pixels: Callable[[CutOut, tuple[int, int]], np.ndarray],
) -> np.ndarray:
    """Draws a scene.

    Args:
      scene: from `make_scene`.
      objects: `scene.objects` of the split to show.
      colors: colors of `scene.photograph`. They are those of the background, except for
        values beyond black and white.
      pixels: function of a cut-out and (height, width) that returns its window at that
        size, uint8 RGB [height, width, 3].

    Returns:
      uint8 [side, side, 3] RGB.
    """
    # The small term is for photographs of one color.
    root = np.linalg.cholesky(colors.covariance + 1e-6 * np.eye(3))
    image = (colors.mean + scene.field @ root.T).clip(0, 255).astype(np.float32)
    for placed in objects:
        _paste(image, placed, pixels(placed.cut_out, placed.size))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _paste(image: np.ndarray, placed: Placed, window: np.ndarray) -> None:
    """Blends the part of a window that is in the image, float32 [side, side, 3]."""
    side = image.shape[0]
    first = max(-placed.top, 0), max(-placed.left, 0)
    last = [
        min(n, side - start)
        for n, start in zip(placed.size, (placed.top, placed.left), strict=True)
    ]
    inside = tuple(slice(*bounds) for bounds in zip(first, last, strict=True))
    weight = opacity(placed)[inside][..., None]
    rows, columns = (
        slice(start + part.start, start + part.stop)
        for start, part in zip((placed.top, placed.left), inside, strict=True)
    )
    image[rows, columns] += weight * (window[inside] - image[rows, columns])


def opacity(placed: Placed) -> np.ndarray:
    """Returns the weight of a window's pixels, from 0 to 1, float32 [height, width].

    It is 1 in a superellipse in the middle of the box and falls to 0 towards the end of
    the margin, so that corners and edges of the window do not show.
    """
    y_min, x_min, y_max, x_max = placed.cut_out.box
    height, width = placed.size
    dy = ((np.arange(height) + 0.5) / height * 2 - y_min - y_max) / (y_max - y_min)
    dx = ((np.arange(width) + 0.5) / width * 2 - x_min - x_max) / (x_max - x_min)
    powers = np.abs(dy)[:, None] ** _EXPONENT + np.abs(dx)[None, :] ** _EXPONENT
    distance = powers ** (1 / _EXPONENT)  # 1 in the middle of the box's edges.
    # Window over box: the distance at the end of the margin.
    end = min(1 / (y_max - y_min), 1 / (x_max - x_min))
    return np.clip((end - distance) / _FADE, 0, 1).astype(np.float32)
