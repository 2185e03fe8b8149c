"""References of the images of an evaluation: their maps and their annotated objects."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from borrow_det.data.augmentation import references
from borrow_det.evaluation.borrowing import ReferenceObjects
from borrow_det.models.references import ReferenceMaps, deeper_maps


class AnnotatedReferences(NamedTuple):
    """The N references of each image of a batch."""

    maps: ReferenceMaps
    objects: ReferenceObjects  # Every leaf has the batch as its leading axis.


def references_of(
    maps: Callable[[Array], tuple[Array, ...]],
    batch: dict[str, Array],
    kind: str,
    input_size: tuple[int, int],
) -> AnnotatedReferences | None:
    """Returns the references of an evaluation batch; None without references.

    Args:
      maps: returns the levels of inputs float32 [B, h, w, 3].
      batch: rows of an evaluation; with kind="group" they have
        `references.FIELDS` (data/augmentation/references.py).
      kind: references.kind. The overview of an image is the image itself.
      input_size: (height, width) of the network's input in pixels.
    """
    if kind == "none":
        return None
    if kind == "overview":
        batch = references.with_overview(batch)
    pixels = references.resize_references(
        batch["reference_image"], batch["reference_size"], input_size
    )
    images = pixels.reshape(-1, *pixels.shape[2:])
    mask = batch["reference_mask"]
    objects = ReferenceObjects(
        batch["reference_boxes"],
        batch["reference_labels"],
        batch["reference_box_mask"] & ~batch["reference_ignore"],
        mask,
    )
    return AnnotatedReferences(deeper_maps(maps(images), mask), objects)
