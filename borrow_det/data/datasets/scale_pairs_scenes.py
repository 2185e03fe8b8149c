"""Scenes of scale_pairs and of the sets like it: their contents and their pixels."""

import colorsys
import dataclasses
from typing import NamedTuple

import cv2
import numpy as np

SPECIES = ("stripes_0", "stripes_45", "stripes_90", "stripes_135")

# Lengths are relative to the side of the image; 256 is the default side in pixels.
_MARGIN = 0.01  # Distance between an object and the border of the image.
_GAP = 0.015  # Distance between two objects in a strip.
_LARGE_DIAMETER = (0.28 * 0.88, 0.28 * 1.12)
_SMALL_DIAMETER = (0.08, 0.10)
_LARGE_STRIP = 0.35  # Depth of the strip with the large instances.
_SMALL_STRIP = 0.26  # Depth of the strip with the small discs, at the opposite edge.
_BLOCK = 12 / 256  # Side of a block of the background.
_STRIPE_PERIOD = 14 / 256  # Five dark stripes on a large instance.
_BRIGHTNESS = (70.0, 180.0)  # Range of the blocks; white is 255.
_GRAY_NOISE = 12.0  # Standard deviation.
_COLOR_NOISE = 8.0  # Standard deviation.
_SATURATION = 0.85
_VALUE = 0.9
_DARK_STRIPE = 0.35  # Brightness of a dark stripe relative to a bright one.
_HUE_DISTANCE = 0.2  # Smallest distance of two hues, on a circle of length 1.

FRAMES = 6  # Number of frames of a clip.
PASSES = 3  # Number of frames of a clip that show the large instances.


@dataclasses.dataclass(frozen=True)
class Disc:
    """One object of a scene; lengths are relative to the side of the image.

    Attributes:
      group: 0 or 1; the discs of a group have the same species and hue.
      is_large: true for the large, striped instance of the group.
      y: distance of the center from the top.
      x: distance of the center from the left.
      radius: radius of the disc.
    """

    group: int
    is_large: bool
    y: float
    x: float
    radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Contents of an image.

    Attributes:
      discs: the large instances of groups 0 and 1, then the small discs; a frame of a
        clip has the large ones only, or the small ones only.
      species: index into SPECIES of each group.
      swapped_species: species of the groups in the swapped split: the two others.
      hues: hue of each group, in [0, 1).
      phases: phase of the stripes of each group, in radians.
      background: float32 [side, side, 3]; white is 255.
    """

    discs: tuple[Disc, ...]
    species: tuple[int, int]
    swapped_species: tuple[int, int]
    hues: tuple[float, float]
    phases: tuple[float, float]
    background: np.ndarray


class _Groups(NamedTuple):
    """Appearance of the two groups of a scene; the fields are those of `Scene`."""

    species: tuple[int, int]
    swapped_species: tuple[int, int]
    hues: tuple[float, float]


def make_scene(
    seed: int, split_number: int, index: int, side: int, extent: float = 1.0
) -> Scene:
    """Samples the contents of one image; a function of the arguments only.

    Args:
      seed: seed of the set.
      split_number: 0 for training, 1 for validation.
      index: number of the scene in its split.
      side: side of the image in pixels.
      extent: side of the scene in sides of the network's input. Small discs and blocks
        of the background are smaller by this factor; large discs are not.
    """
    rng = np.random.default_rng((seed, split_number, index))
    groups = _draw_groups(rng)
    discs = _rotated(
        _place_large(rng) + _place_small(rng, extent),
        quarter_turns=int(rng.integers(4)),
    )
    return Scene(
        discs=tuple(discs),
        phases=_draw_phases(rng),
        background=_with_noise(rng, _draw_blocks(rng, side, _BLOCK / extent)),
        **groups._asdict(),
    )


def make_clip(seed: int, split_number: int, index: int, side: int) -> list[Scene]:
    """Samples the `FRAMES` frames of one clip; a function of the arguments only.

    The groups, the phases of their stripes and the blocks of the background are those
    of the clip. Positions, sizes, the number of small discs and the noise differ by
    frame. `PASSES` frames, at random positions, show the large discs only; the others
    show small discs only.

    Args:
      seed: seed of the set.
      split_number: 0 for training, 1 for validation.
      index: number of the clip in its split.
      side: side of a frame in pixels.
    """
    rng = np.random.default_rng((seed, split_number, index))
    groups = _draw_groups(rng)
    phases = _draw_phases(rng)
    blocks = _draw_blocks(rng, side, _BLOCK)
    frames = []
    for is_pass in rng.permutation(FRAMES) < PASSES:
        discs = _place_large(rng) if is_pass else _place_small(rng)
        frames.append(
            Scene(
                discs=tuple(_rotated(discs, quarter_turns=int(rng.integers(4)))),
                phases=phases,
                background=_with_noise(rng, blocks),
                **groups._asdict(),
            )
        )
    return frames


def _draw_groups(rng: np.random.Generator) -> _Groups:
    order = rng.permutation(len(SPECIES))
    hue = rng.uniform()
    other_hue = (hue + rng.uniform(_HUE_DISTANCE, 1 - _HUE_DISTANCE)) % 1.0
    return _Groups(
        species=(int(order[0]), int(order[1])),
        swapped_species=(int(order[2]), int(order[3])),
        hues=(float(hue), float(other_hue)),
    )


def _draw_phases(rng: np.random.Generator) -> tuple[float, float]:
    first, second = rng.uniform(0, 2 * np.pi, 2).tolist()
    return first, second


def _place_large(rng: np.random.Generator) -> list[Disc]:
    """Places one large instance of each group side by side along the top edge."""
    groups = rng.permutation(2)
    radii = rng.uniform(*_LARGE_DIAMETER, 2) / 2
    slack = 1 - 2 * _MARGIN - _GAP - 2 * radii.sum()
    left, right = np.sort(rng.uniform(0, slack, 2))
    x = (_MARGIN + left + radii[0], 1 - _MARGIN - (slack - right) - radii[1])
    y = rng.uniform(_MARGIN + radii, _LARGE_STRIP - radii)
    discs = [
        Disc(int(g), True, float(y[i]), float(x[i]), float(radii[i]))
        for i, g in enumerate(groups)
    ]
    return sorted(discs, key=lambda disc: disc.group)


def _place_small(rng: np.random.Generator, extent: float = 1.0) -> list[Disc]:
    """Places two to four small discs of each group along the bottom edge."""
    counts = rng.integers(2, 5, 2)
    groups = np.repeat((0, 1), counts)
    radii = rng.uniform(*_SMALL_DIAMETER, len(groups)) / 2 / extent
    while True:
        # Eight discs fill a third of the strip: nearly every attempt succeeds.
        discs = _try_small(rng, groups, radii)
        if discs is not None:
            return discs


def _try_small(
    rng: np.random.Generator, groups: np.ndarray, radii: np.ndarray, tries: int = 100
) -> list[Disc] | None:
    """Places the discs without overlaps; returns None if one does not fit."""
    discs: list[Disc] = []
    for group, r in zip(groups.tolist(), radii.tolist(), strict=True):
        for _ in range(tries):
            x = rng.uniform(_MARGIN + r, 1 - _MARGIN - r)
            y = 1 - rng.uniform(_MARGIN + r, _SMALL_STRIP - r)
            if all(
                max(abs(x - d.x), abs(y - d.y)) > r + d.radius + _GAP for d in discs
            ):
                discs.append(Disc(group, False, y, x, r))
                break
        else:
            return None
    return discs


def _rotated(discs: list[Disc], quarter_turns: int) -> list[Disc]:
    """Rotates the layout, so that the large instances may be at any edge."""
    for _ in range(quarter_turns):
        discs = [dataclasses.replace(d, y=1 - d.x, x=d.y) for d in discs]
    return discs


def _draw_blocks(rng: np.random.Generator, side: int, block_side: float) -> np.ndarray:
    """Draws the gray blocks of a background, float32 [side, side]."""
    block = (np.arange(side) / (block_side * side)).astype(np.int64)
    brightness = rng.uniform(*_BRIGHTNESS, (block[-1] + 1,) * 2).astype(np.float32)
    return brightness[block[:, None], block[None, :]]


def _with_noise(rng: np.random.Generator, blocks: np.ndarray) -> np.ndarray:
    """Adds gray and color noise to blocks; returns float32 [side, side, 3]."""
    noise = rng.standard_normal((*blocks.shape, 4), dtype=np.float32)
    gray = blocks + _GRAY_NOISE * noise[..., 3]
    return gray[..., None] + _COLOR_NOISE * noise[..., :3]


def draw(scene: Scene, species: tuple[int, int], with_large: bool = True) -> np.ndarray:
    """Draws a scene.

    Args:
      scene: from `make_scene`.
      species: index into SPECIES of each group: `scene.species` or
        `scene.swapped_species`.
      with_large: draw the large instances, too.

    Returns:
      uint8 [side, side, 3] RGB.
    """
    image = scene.background.copy()
    for disc in scene.discs:
        if with_large or not disc.is_large:
            _draw_disc(image, disc, scene, species[disc.group])
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _draw_disc(image: np.ndarray, disc: Disc, scene: Scene, species: int) -> None:
    """Draws one disc with antialiased edges into an image, float32 [side, side, 3]."""
    side = image.shape[0]
    y, x, r = disc.y * side, disc.x * side, disc.radius * side
    rows = slice(max(int(y - r) - 1, 0), min(int(y + r) + 2, side))
    columns = slice(max(int(x - r) - 1, 0), min(int(x + r) + 2, side))
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - y)[:, None]
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - x)[None, :]
    inside = np.clip(r + 0.5 - np.hypot(dy, dx), 0, 1)[..., None]
    rgb = colorsys.hsv_to_rgb(scene.hues[disc.group], _SATURATION, _VALUE)
    color = 255 * np.asarray(rgb, np.float32)
    if disc.is_large:
        phase = scene.phases[disc.group]
        color = color * _stripes(dy, dx, species, phase, side)[..., None]
    image[rows, columns] += inside * (color - image[rows, columns])


def _stripes(
    dy: np.ndarray, dx: np.ndarray, species: int, phase: float, side: int
) -> np.ndarray:
    """Returns the brightness, in [_DARK_STRIPE, 1], of stripes at 45 degrees x species.

    Angles are measured from the horizontal, counterclockwise in the image.
    """
    angle = np.float32(np.pi / 4 * species)
    period = _STRIPE_PERIOD * side
    across = np.sin(angle) * dx + np.cos(angle) * dy
    # A clipped sine with edges one pixel wide gives antialiased stripes.
    steepness = np.float32(period / (2 * np.pi))
    wave = np.sin(2 * np.pi / period * across + np.float32(phase))
    bright = np.clip(0.5 + steepness * wave, 0, 1)
    return _DARK_STRIPE + (1 - _DARK_STRIPE) * bright


def encode(image: np.ndarray, quality: int = 95) -> bytes:
    """Encodes an RGB image as JPEG with full color resolution."""
    options = (
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    )
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], options)
    return encoded.tobytes()
