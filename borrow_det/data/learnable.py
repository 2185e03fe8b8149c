"""Objects of a training split that a run can learn from."""

from typing import Any

import ml_collections
import numpy as np

from borrow_det.data.datasets.opened import Record
from borrow_det.evaluation import average_precision
from borrow_det.ops import borrow_targets


class LearnableObjects:
    """Counts the objects that count for the loss, and small ones with a lender.

    A lender has the same class and at least loss.matching_scale times the side, in the
    same image. Small objects have COCO's small area at the network's input size.

    Attributes:
      objects: number of objects so far.
      learnable: number of these that are neither crowds nor difficult.
      small: number of small learnable objects.
      with_lender: number of small learnable objects with a lender.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        self._size = tuple(config.input_size)
        self._scale = config.loss.matching_scale
        self._borrows = config.borrow.enabled
        self.objects = self.learnable = self.small = self.with_lender = 0

    def observe(self, record: Record) -> None:
        """Counts the objects of an image."""
        valid = ~(record["is_crowd"] | record["is_difficult"])
        self.objects += len(valid)
        self.learnable += int(valid.sum())
        own = record["height"], record["width"]
        area = average_precision.area_in(record["area"][valid], own, self._size)
        small = np.asarray(average_precision.is_small(area))
        if not small.any():
            return
        self.small += int(small.sum())
        labels = record["labels"][valid]
        side = np.sqrt(record["bbox"][valid, 2] * record["bbox"][valid, 3])
        lends = borrow_targets.is_larger(side[None], side[:, None], self._scale)
        same = (labels[None] == labels[:, None]) & (side[:, None] > 0)
        self.with_lender += int((small & (lends & same).any(axis=1)).sum())

    def notices(self, split: Any) -> list[str]:
        """Returns lines about a split that has nothing to learn, or to borrow, from."""
        if not self.learnable:
            found = f"{self.objects:,} objects" if self.objects else "no object"
            why = ", all of them crowds, difficult or ignored" if self.objects else ""
            return [
                f"{split.name} has no object to learn from: it has {found}{why}; a run "
                "learns the background only"
            ]
        if self.with_lender or not self._borrows:
            return []
        height, width = self._size
        at_size = f"at the input size of {width} x {height} pixels"
        found = (
            f"0 of {self.small:,} small objects have a lender in their image {at_size}"
            if self.small
            else f"no object is small {at_size}"
        )
        return [
            f"{split.name}: {found}, so there is nothing to borrow; borrow-det inspect "
            "shows the sizes"
        ]
