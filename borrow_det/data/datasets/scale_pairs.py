"""The built-in diagnostic set: small objects whose class only borrowing can tell."""

import colorsys
import dataclasses
from typing import ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds

from borrow_det.errors import InputError

SPECIES = ("stripes_0", "stripes_45", "stripes_90", "stripes_135")
SPLITS = ("train", "validation", "swapped", "alone")
# What a guesser and a half-way solution score on the small objects' class.
REFERENCE_LINES = {"chance": 0.25, "knows species, not hue": 0.5}

# Lengths are shares of the image's side; pixels are given at a side of 256.
_MARGIN = 0.01  # Between an object and the image's border.
_GAP = 0.015  # Between two objects of a strip.
_LARGE_DIAMETER = (0.28 * 0.88, 0.28 * 1.12)
_SMALL_DIAMETER = (0.08, 0.10)
_LARGE_STRIP = 0.35  # Depth of the strip that holds the large instances.
_SMALL_STRIP = 0.26  # Of the small ones', along the opposite edge.
_BLOCK = 12 / 256  # Side of the background's blocks.
_STRIPE_PERIOD = 14 / 256  # Five dark stripes on a large instance.
_BRIGHTNESS = (70.0, 180.0)  # Of the blocks, of 255.
_GREY_NOISE = 12.0  # Standard deviations, of 255.
_COLOUR_NOISE = 8.0
_SATURATION = 0.85
_VALUE = 0.9
_DARK_STRIPE = 0.35  # Brightness of a dark stripe, of the bright one's.
_HUE_DISTANCE = 0.2  # Smallest, on a circle of length 1.


@dataclasses.dataclass(frozen=True)
class Disc:
    """One object of a scene; lengths in shares of the image's side.

    Attributes:
      group: 0 or 1; the discs of a group share species and hue.
      is_large: whether it is the group's large, striped instance.
      y: centre, from the top.
      x: centre, from the left.
      radius: of the disc.
    """

    group: int
    is_large: bool
    y: float
    x: float
    radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """What an image shows, before it is drawn.

    Attributes:
      discs: the large instance of group 0, that of group 1, then the small ones.
      species: index into SPECIES of each group.
      swapped_species: those of the swapped split: the two that are not in species.
      hues: of each group, in [0, 1).
      phases: of each group's stripes, in radians.
      background: float32 [side, side, 3], of 255.
    """

    discs: tuple[Disc, ...]
    species: tuple[int, int]
    swapped_species: tuple[int, int]
    hues: tuple[float, float]
    phases: tuple[float, float]
    background: np.ndarray


def make_scene(seed: int, split_number: int, index: int, side: int) -> Scene:
    """Draws the contents of one image from `default_rng((seed, split, index))`."""
    rng = np.random.default_rng((seed, split_number, index))
    order = rng.permutation(len(SPECIES))
    hue = rng.uniform()
    other_hue = (hue + rng.uniform(_HUE_DISTANCE, 1 - _HUE_DISTANCE)) % 1.0
    discs = _turn(
        _place_large(rng) + _place_small(rng), quarter_turns=int(rng.integers(4))
    )
    return Scene(
        discs=tuple(discs),
        species=(int(order[0]), int(order[1])),
        swapped_species=(int(order[2]), int(order[3])),
        hues=(float(hue), float(other_hue)),
        phases=tuple(rng.uniform(0, 2 * np.pi, 2).tolist()),
        background=_draw_background(rng, side),
    )


def _place_large(rng: np.random.Generator) -> list[Disc]:
    """One large instance a group, side by side along the top edge."""
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


def _place_small(rng: np.random.Generator) -> list[Disc]:
    """Two to four small discs a group, in the strip along the bottom edge."""
    counts = rng.integers(2, 5, 2)
    groups = np.repeat((0, 1), counts)
    radii = rng.uniform(*_SMALL_DIAMETER, len(groups)) / 2
    while True:
        # Eight discs fill a third of the strip, so that a try nearly always works.
        discs = _try_small(rng, groups, radii)
        if discs is not None:
            return discs


def _try_small(rng, groups, radii, tries=100) -> list[Disc] | None:
    """Places one disc after the other where its box is free; None when stuck."""
    discs = []
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


def _turn(discs: list[Disc], quarter_turns: int) -> list[Disc]:
    """Turns the layout, so that any edge may be the large instances'."""
    for _ in range(quarter_turns):
        discs = [dataclasses.replace(d, y=1 - d.x, x=d.y) for d in discs]
    return discs


def _draw_background(rng: np.random.Generator, side: int) -> np.ndarray:
    block = (np.arange(side) / (_BLOCK * side)).astype(np.int64)
    brightness = rng.uniform(*_BRIGHTNESS, (block[-1] + 1,) * 2).astype(np.float32)
    noise = rng.standard_normal((side, side, 4), dtype=np.float32)
    grey = brightness[block[:, None], block[None, :]] + _GREY_NOISE * noise[..., 3]
    return grey[..., None] + _COLOUR_NOISE * noise[..., :3]


def draw(scene: Scene, species: tuple[int, int], with_large: bool = True) -> np.ndarray:
    """Draws a scene.

    Args:
      scene: from `make_scene`.
      species: index into SPECIES of each group: the scene's, or the swapped ones.
      with_large: whether the large instances are drawn.

    Returns:
      uint8 [side, side, 3] RGB.
    """
    image = scene.background.copy()
    for disc in scene.discs:
        if with_large or not disc.is_large:
            _draw_disc(image, disc, scene, species[disc.group])
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _draw_disc(image: np.ndarray, disc: Disc, scene: Scene, species: int) -> None:
    """Blends one disc into float32 image [side, side, 3], edges anti-aliased."""
    side = image.shape[0]
    y, x, r = disc.y * side, disc.x * side, disc.radius * side
    rows = slice(max(int(y - r) - 1, 0), min(int(y + r) + 2, side))
    columns = slice(max(int(x - r) - 1, 0), min(int(x + r) + 2, side))
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - y)[:, None]
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - x)[None, :]
    inside = np.clip(r + 0.5 - np.hypot(dy, dx), 0, 1)[..., None]
    rgb = colorsys.hsv_to_rgb(scene.hues[disc.group], _SATURATION, _VALUE)
    colour = 255 * np.asarray(rgb, np.float32)
    if disc.is_large:
        phase = scene.phases[disc.group]
        colour = colour * _stripes(dy, dx, species, phase, side)[..., None]
    image[rows, columns] += inside * (colour - image[rows, columns])


def _stripes(dy, dx, species: int, phase: float, side: int) -> np.ndarray:
    """Brightness in [_DARK_STRIPE, 1] of stripes that run at 45 degrees x species.

    Angles count from the horizontal, anticlockwise as seen on the image.
    """
    angle = np.float32(np.pi / 4 * species)
    period = _STRIPE_PERIOD * side
    across = np.sin(angle) * dx + np.cos(angle) * dy
    # A sine clipped to a slope of one pixel an edge: bars with anti-aliased edges.
    steepness = np.float32(period / (2 * np.pi))
    wave = np.sin(2 * np.pi / period * across + np.float32(phase))
    bright = np.clip(0.5 + steepness * wave, 0, 1)
    return _DARK_STRIPE + (1 - _DARK_STRIPE) * bright


@dataclasses.dataclass
class ScalePairsConfig(tfds.core.BuilderConfig):
    """One variant of the set.

    Attributes:
      name: made of the other fields.
      image_size: side of the images, in pixels.
      seed: of everything random.
      num_train: images of the train split.
      num_validation: images of validation, swapped and alone.
    """

    name: str = ""
    image_size: int = 256
    seed: int = 0
    num_train: int = 3000
    num_validation: int = 512

    def __post_init__(self):
        self.name = f"{self.image_size}px"
        if (self.seed, self.num_train, self.num_validation) != (0, 3000, 512):
            self.name += f"_{self.seed}_{self.num_train}_{self.num_validation}"


class ScalePairs(tfds.core.GeneratorBasedBuilder):
    """Drawn scenes in which a small object's class can be told only by borrowing.

    A square image (256 px by default; the pixels below scale with it) shows grey
    blocks of 12 px and random brightness under grey and colour noise, and on them
    two groups of discs. A group has a species, one of four, and a hue. The species
    are told apart by the stripes of a large disc: at 0, 45, 90 or 135 degrees from
    the horizontal. The two groups of an image have different species, and hues at
    least 0.2 apart on the circle of length 1; a hue is drawn for each image and has
    nothing to do with the species.

    A group has one large instance, whose diameter is 28 % of the side (give or take
    12 % of that) and which bears the stripes, and two to four small ones of 8 to
    10 %, which are plain discs of the group's hue. All are labelled with the
    species. A small disc alone therefore says nothing about its class: it must be
    matched, by hue, with the large instance of its group. The large instances lie
    in a strip along one edge of the image, the small ones in the strip along the
    opposite edge (which edge is random; no two boxes overlap): shallow levels, which
    find the small ones, do not see the large ones. Centre of a small disc and rim of
    a large one are at least 40 % of the side apart, 102 px of 256; conv4_3 with its
    prediction head sees 54 px around its centre.

    Splits:
      train: 3000 scenes.
      validation: 512 scenes.
      swapped: the scenes of validation, in the same order, background and small
        discs the same to the pixel (before compression), but each large instance
        redrawn as one of the two species that were not in the image; the small
        labels follow. A detector that borrows follows, too.
      alone: the scenes of validation without the large instances; the labels of
        the small ones stay, and nobody can know them.

    Reference lines for the class of small objects: 1/4 is chance, 1/2 is reached
    by knowing which two species are there without matching the hue.

    Do not flip or turn these images in training: a mirrored 45 degree stripe is a
    135 degree stripe, which is another species. Hue may be rotated, for the whole
    image.

    An image is a function of (seed, split, index) alone; records keep the order of
    the index. Images are stored as JPEG of quality 95 with full colour resolution:
    as PNG the noise would make the set four times as large.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [ScalePairsConfig(image_size=s) for s in (256, 192)]

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.image_size
        if side < 64:
            raise InputError(
                f"dataset.image_size is {side}: scale_pairs needs at least 64 pixels "
                "for its stripes to be seen"
            )
        features = {
            "image": tfds.features.Image(shape=(side, side, 3), encoding_format="jpeg"),
            "file_name": tfds.features.Text(),
            "image_id": np.int64,
            "height": np.int32,
            "width": np.int32,
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=SPECIES),
                    "group": np.int32,
                    "is_large": np.bool_,
                    "hue": np.float32,
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(features),
            # Records keep their index: validation, swapped and alone run parallel.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str):
        config = self.builder_config
        is_train = split == "train"
        for index in range(config.num_train if is_train else config.num_validation):
            split_number = 0 if is_train else 1
            scene = make_scene(config.seed, split_number, index, config.image_size)
            yield index, _example(scene, split, index)


def counterfactual_of(split: str) -> str:
    """The split whose scenes another shows with other large instances, or with none.

    `swapped[:16]` shows those of `validation[:16]`; "" where it is no such split.
    """
    shown = split.replace("swapped", "validation").replace("alone", "validation")
    return "" if shown == split else shown


def builder_config(image_size: int) -> ScalePairsConfig:
    """The configuration of that image size, one object for each that TFDS lists."""
    config = ScalePairsConfig(image_size=image_size)
    return ScalePairs.builder_configs.get(config.name, config)


def _example(scene: Scene, split: str, index: int) -> dict:
    """The record of one scene as one split shows it."""
    species = scene.swapped_species if split == "swapped" else scene.species
    with_large = split != "alone"
    image = draw(scene, species, with_large)
    return {
        "image": _encode(image),
        "file_name": f"{split}_{index:05d}.jpg",
        "image_id": index,
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": [
            {
                "bbox": tfds.features.BBox(
                    ymin=disc.y - disc.radius,
                    xmin=disc.x - disc.radius,
                    ymax=disc.y + disc.radius,
                    xmax=disc.x + disc.radius,
                ),
                "label": species[disc.group],
                "group": disc.group,
                "is_large": disc.is_large,
                "hue": scene.hues[disc.group],
            }
            for disc in scene.discs
            if with_large or not disc.is_large
        ],
    }


def _encode(image: np.ndarray) -> bytes:
    options = (
        cv2.IMWRITE_JPEG_QUALITY,
        95,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    )
    _, encoded = cv2.imencode(".jpg", image[..., ::-1], options)
    return encoded.tobytes()
