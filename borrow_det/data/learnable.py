"""Objects of a training split that a run can learn from."""

from typing import Any

import ml_collections
import numpy as np

from borrow_det.data.augmentation.paste import most_copies
from borrow_det.data.datasets.opened import Record
from borrow_det.data.groups import Groups
from borrow_det.evaluation import average_precision
from borrow_det.ops import borrow_targets


class LearnableObjects:
    """Counts the objects that count for the loss, and small ones with a lender.

    A lender has the same class and at least loss.matching_scale times the side, both in
    pixels of the network's input. It is in the same image, or in a reference, which is
    an entire image. In a run that trains on tiles, "the same image" means that one tile
    with zoom 1 can contain the centers of both. Small objects have COCO's small area in
    pixels of the input.

    Attributes:
      objects: number of objects so far.
      learnable: number of these that are neither crowds nor difficult.
      small: number of small learnable objects.
    """

    def __init__(self, config: ml_collections.ConfigDict, groups: Groups | None = None):
        """Starts with no image.

        Args:
          config: configuration of the run.
          groups: groups of the images, with references.kind=group.
        """
        self._size = tuple(config.input_size)
        self._canvas = tuple(config.dataset.canvas)
        self._scale = config.loss.matching_scale
        self._borrows = config.borrow.enabled
        self._pastes = most_copies(config.augment) > 0
        self._tiles = config.augment.enabled and config.augment.tile
        self._overview = config.references.kind == "overview"
        self._groups = None if groups is None else _GroupLenders(groups, self._scale)
        self._with_own_lender = 0
        self.objects = self.learnable = self.small = 0

    @property
    def with_lender(self) -> int:
        """Number of small learnable objects with a lender so far."""
        return self._with_own_lender + (self._groups.borrowers() if self._groups else 0)

    def observe(self, record: Record) -> None:
        """Counts the objects of an image; images come in the order of the split."""
        valid = ~(record["is_crowd"] | record["is_difficult"])
        self.objects += len(valid)
        self.learnable += int(valid.sum())
        own = record["height"], record["width"]
        view = self._tile_in(own) if self._tiles else own
        area = average_precision.area_in(record["area"][valid], view, self._size)
        small = np.asarray(average_precision.is_small(area))
        self.small += int(small.sum())
        if not (small.any() or self._groups):
            return
        labels, bbox = record["labels"][valid], record["bbox"][valid]
        area_of_box = bbox[:, 2] * bbox[:, 3]
        side, side_in_entire = (
            np.sqrt(average_precision.area_in(area_of_box, shown, self._size))
            for shown in (view, own)
        )
        same = (labels[None] == labels[:, None]) & (side[:, None] > 0)
        lends = borrow_targets.is_larger(side[None], side[:, None], self._scale)
        if self._tiles:
            lends &= _fit_one_tile(bbox, view)
        if self._overview:
            lends |= borrow_targets.is_larger(
                side_in_entire[None], side[:, None], self._scale
            )
        borrows = (lends & same).any(axis=1)
        self._with_own_lender += int((small & borrows).sum())
        if self._groups:
            waiting = small & ~borrows & (side > 0)
            self._groups.observe(labels, side_in_entire, labels[waiting], side[waiting])

    def _tile_in(self, own: tuple[int, int]) -> tuple[float, float]:
        """Returns (height, width) of a tile with zoom 1, in pixels of an image.

        A canvas that is smaller than the image shrinks it before tiles are cut.
        """
        (height, width), (canvas_height, canvas_width) = own, self._canvas
        scale = min(1.0, canvas_height / height, canvas_width / width)
        return min(height, self._size[0] / scale), min(width, self._size[1] / scale)

    def notices(self, split: Any) -> list[str]:
        """Returns lines about a split that has nothing to learn, or to borrow, from."""
        if not self.learnable:
            found = f"{self.objects:,} objects" if self.objects else "no object"
            why = ", all of them crowds, difficult or ignored" if self.objects else ""
            return [
                f"{split.name} has no object to learn from: it has {found}{why}; a run "
                "learns the background only"
            ]
        # Pasted copies are small objects with a lender.
        if self.with_lender or self._pastes or not self._borrows:
            return []
        height, width = self._size
        at_size = f"at the input size of {width} x {height} pixels"
        if self._tiles:
            at_size = f"in tiles of {width} x {height} pixels (augment.tile)"
        found = (
            f"0 of {self.small:,} small objects have a lender {self._place()} {at_size}"
            if self.small
            else f"no object is small {at_size}"
        )
        return [
            f"{split.name}: {found}, so there is nothing to borrow; borrow-det inspect "
            "shows the sizes"
        ]

    def _place(self) -> str:
        """Returns the place of lenders."""
        if self._overview and self._tiles:
            return "in their tile or the overview"
        own = "tile" if self._tiles else "image"
        return f"in their {own} or group" if self._groups else f"in their {own}"


class _GroupLenders:
    """Finds the objects with a lender in another image of their group."""

    def __init__(self, groups: Groups, scale: float):
        self._groups = groups
        self._scale = scale
        self._images = 0
        # The two images with the largest objects, by group and label: (side, image).
        self._largest: dict[tuple[int, int], list[tuple[float, int]]] = {}
        # Objects without a lender of their own: (group, label), image and side.
        self._waiting: list[tuple[tuple[int, int], int, float]] = []

    def observe(
        self,
        labels: np.ndarray,
        sides: np.ndarray,
        waiting_labels: np.ndarray,
        waiting_sides: np.ndarray,
    ) -> None:
        """Adds the next image of the split.

        Args:
          labels: int [n], of the objects that can lend.
          sides: float [n], of these as the network sees them in a reference.
          waiting_labels: int [k], of the objects that need a lender.
          waiting_sides: float [k], of these as the network sees them.
        """
        image, self._images = self._images, self._images + 1
        group = int(self._groups.group[image])
        for label in np.unique(labels):
            largest = float(sides[labels == label].max())
            known = self._largest.get((group, int(label)), [])
            best = sorted([*known, (largest, image)], reverse=True)
            self._largest[group, int(label)] = best[:2]
        for label, side in zip(waiting_labels, waiting_sides, strict=True):
            self._waiting.append(((group, int(label)), image, float(side)))

    def borrowers(self) -> int:
        """Returns the number of waiting objects with a lender in another image."""

        def borrows(key: tuple[int, int], image: int, side: float) -> bool:
            others = [s for s, other in self._largest[key] if other != image]
            sides = np.array(others), np.array(side)
            return bool(np.any(borrow_targets.is_larger(*sides, self._scale)))

        return sum(borrows(*waiting) for waiting in self._waiting)


def _fit_one_tile(bbox: np.ndarray, tile: tuple[float, float]) -> np.ndarray:
    """Marks pairs of objects whose centers a tile can contain, bool [n, n].

    Args:
      bbox: float [n, 4], [x, y, width, height] in pixels.
      tile: (height, width) in pixels.
    """
    center = bbox[:, 1::-1] + bbox[:, :1:-1] / 2
    distance = np.abs(center[None] - center[:, None])
    return np.all(distance < np.array(tile), axis=-1)
