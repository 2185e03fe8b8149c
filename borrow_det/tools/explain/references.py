"""References of the explained images: what is in them, and their deeper maps."""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.data import groups, reference_rows, sources
from borrow_det.data.images import decode
from borrow_det.errors import InputError
from borrow_det.inference import references as rules
from borrow_det.inference.detector import Attended, Detector
from borrow_det.models.references import ReferenceMaps
from borrow_det.tools.common import view_flags
from borrow_det.tools.explain import explanation
from borrow_det.tools.explain.explanation import LevelDetections
from borrow_det.tools.explain.text import readable

_KEPT = 16  # References of groups that are kept for the next images.


class Reference(NamedTuple):
    """A reference image and its detections."""

    key: int  # Distinguishes the references of a call.
    name: str
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.
    found: LevelDetections  # The possible lenders in it.
    maps: tuple[Array, ...] = ()  # [1, H_m, W_m, C_m] of each level m from 2 on.
    # `[y_min, x_min, y_max, x_max]` of the view that borrows, normalized to the
    # reference; None if it is no view of it.
    view: tuple[float, float, float, float] | None = None


class ReferenceMaker:
    """Makes references of images, by a trained run."""

    def __init__(self, detector: Detector, score: float):
        """Makes none yet.

        Args:
          detector: trained run.
          score: minimum score of the detections in references.
        """
        self._detector, self._score = detector, score
        self._count = 0

    def __call__(self, name: str, image: np.ndarray) -> Reference:
        """Makes a reference of an image, uint8 RGB [H, W, 3].

        Objects in it are detected without references.
        """
        found = explanation.detections(attend(self._detector, image), 0, self._score)
        maps = self._detector.deeper_maps([image])
        self._count += 1
        return Reference(self._count, readable(name), image, found, maps)


def attend(
    detector: Detector, image: np.ndarray, references: Sequence[Reference] = ()
) -> Attended:
    """Returns the detections in an image, and the attention behind them.

    Args:
      detector: trained run.
      image: uint8 RGB [H, W, 3].
      references: references of the image.
    """
    canvas, size = decode.to_canvas(image, detector.canvas)
    maps = None
    if references:
        levels = zip(*(reference.maps for reference in references), strict=True)
        mask = jnp.ones((1, len(references)), jnp.bool_)
        maps = ReferenceMaps(tuple(jnp.concatenate(m)[None] for m in levels), mask)
    return detector.attend(canvas[None], np.array([size], np.int32), maps)


class Choice(NamedTuple):
    """The references of a call.

    Attributes:
      kind: "none"; "overview", the entire image for its views; "exemplars", the same
        images for all; or "group", other images of the group of each.
      exemplars: names and images of the exemplars, uint8 RGB [H, W, 3] each.
      words: the references in words, "" for none.
    """

    kind: Literal["none", "overview", "exemplars", "group"]
    exemplars: tuple[tuple[str, np.ndarray], ...] = ()
    words: str = ""


def parse(value: str | None, max_pixels: int) -> Choice | None:
    """Reads --references; None for the default, which depends on the run.

    Args:
      value: overview, none, a folder, or None.
      max_pixels: number of pixels above which a file is refused; 0 for Pillow's limit.

    Raises:
      InputError: the value is another one, or an exemplar cannot be read.
    """
    if value is None:
        return None
    if value == "none":
        return Choice("none")
    if value == "overview":
        return Choice("overview", words="the entire image, for each of its tiles")
    if value.isdecimal():
        raise InputError(
            f"--references={value}: explain reads single images, and none comes before "
            "another; give overview, none or a folder of exemplars"
        )
    files = rules.exemplar_files(value, "--references")
    images = rules.parse(files, max_pixels, "--")
    assert isinstance(images, list)
    exemplars = tuple(zip(map(str, files), images, strict=True))
    count = "1 image" if len(files) == 1 else f"{len(files)} images"
    return Choice("exemplars", exemplars, f"{count} of {readable(value)}")


def choose(
    choice: Choice | None, config: ml_collections.ConfigDict, tiled: bool, split: bool
) -> Choice:
    """Returns the references of a call; warns if the run was trained without any.

    Args:
      choice: those of --references, or None.
      config: configuration of the run.
      tiled: whether the views of an image are tiles.
      split: whether the images are those of a split of the run's dataset.

    Raises:
      InputError: there are references, and the run cannot borrow from them.
    """
    kind = config.references.kind
    if choice is None and kind == "group" and split:
        count = config.references.count
        return Choice("group", words=f"up to {count} other images of its group")
    if choice is None:
        default = "overview" if tiled and kind == "overview" else "none"
        choice = parse(default, 0)
        assert choice is not None
    shown: rules.Parsed = "none" if choice.kind == "none" else "overview"
    view_flags.check_references(shown, config)
    return choice


def of_group(
    detector: Detector, split: sources.Split, make: ReferenceMaker
) -> Callable[[str], tuple[Reference, ...]]:
    """Returns a function from the name of an image to its references in evaluation.

    Args:
      detector: trained run with references.kind=group.
      split: complete split that has the images.
      make: makes the references.

    Raises:
      InputError: references.field does not group the images.
    """
    known = groups.reference_groups(split, detector.config)
    assert known is not None, "references.kind is group"
    count = detector.config.references.count
    names = [image["file_name"] for image in split.descriptions]
    index_of = {name: i for i, name in enumerate(names)}

    @functools.lru_cache(maxsize=max(_KEPT, count))
    def reference(index: int) -> Reference:
        return make(names[index], decode.decode_image(split[index], names[index]))

    def references(name: str) -> tuple[Reference, ...]:
        chosen = reference_rows.spread(known.others(index_of[name]), count)
        return tuple(reference(int(other)) for other in chosen)

    return references
