"""Rows of batches with references: other images of the group of each image."""

import dataclasses
from collections.abc import Sequence

import ml_collections
import numpy as np

from borrow_det.data import sources
from borrow_det.data.augmentation.references import OF_IMAGE
from borrow_det.data.groups import Groups, reference_groups
from borrow_det.data.rows import BoxesRow, MakeRow, Row


@dataclasses.dataclass(frozen=True)
class ReferencesRow:
    """Function from the index of an image to its row with N references.

    Rows have, in addition to the fields of the image,
      reference_image: uint8 [N, H, W, 3], canvases like `image`.
      reference_size: int32 [N, 2], (height, width) of the images on them.
      reference_boxes: float32 [N, G, 4], normalized to each reference.
      reference_labels: int32 [N, G].
      reference_box_mask, reference_ignore: bool [N, G].
      reference_mask: bool [N], false for absent references, which come last. They have
        the pixels and the size of the image itself, and no boxes.

    Attributes:
      split: the split.
      make_row: makes the row of an image from its record.
      boxes_row: makes the row of a reference from its record.
      groups: the groups of the split's images.
      count: N.
    """

    split: sources.Split
    make_row: MakeRow
    boxes_row: BoxesRow
    groups: Groups
    count: int

    def __call__(self, index: int) -> Row:
        """Returns a row of evaluation: its references are spread over the group."""
        others = self.groups.others(index)
        return self._row(index, spread(others, self.count))

    def draw(self, index: int, generator: np.random.Generator) -> Row:
        """Returns a row of training: its references are drawn without repetition."""
        others = self.groups.others(index)
        number = min(self.count, len(others))
        return self._row(index, generator.choice(others, number, replace=False))

    def _row(self, index: int, chosen: Sequence[int] | np.ndarray) -> Row:
        """Returns the row of an image with references, given by index."""
        row = self.make_row(self.split[int(index)])
        references = [self.boxes_row(self.split[int(other)]) for other in chosen]
        references += [_absent(row)] * (self.count - len(references))
        fields = {
            name: np.stack([reference[source] for reference in references])
            for name, source in OF_IMAGE.items()
        }
        return {**row, **fields, "reference_mask": np.arange(self.count) < len(chosen)}


def with_references(
    split: sources.Split,
    config: ml_collections.ConfigDict,
    make_row: MakeRow,
    boxes_row: BoxesRow,
) -> MakeRow | ReferencesRow:
    """Returns a function that makes rows, with references of references.kind=group.

    Args:
      split: the split.
      config: configuration of the run.
      make_row: makes the row of an image from its record.
      boxes_row: makes the row of a reference from its record.

    Raises:
      InputError: references.field does not group the images.
    """
    groups = reference_groups(split, config)
    if groups is None:
        return make_row
    return ReferencesRow(split, make_row, boxes_row, groups, config.references.count)


def spread(others: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` of the others, at equal distances in their order."""
    if len(others) <= count:
        return others
    return others[(2 * np.arange(count) + 1) * len(others) // (2 * count)]


def with_absent_references(row: Row, count: int) -> Row:
    """Adds `count` absent references to a row; for the shapes of rows."""
    absent = _absent(row)
    fields = {
        name: np.stack([absent[source]] * count) for name, source in OF_IMAGE.items()
    }
    return {**row, **fields, "reference_mask": np.zeros(count, np.bool_)}


def _absent(row: Row) -> Row:
    """Returns the fields of an absent reference of a row."""
    own = ("image", "image_size")
    return {
        name: row[name] if name in own else np.zeros_like(row[name])
        for name in OF_IMAGE.values()
    }
