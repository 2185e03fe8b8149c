"""Targets of detection: the inputs of the loss, from an augmented batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.models.references import ReferenceImages
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import assignment, borrow_targets
from borrow_det.ops import boxes as box_ops
from borrow_det.ops.borrow_targets import BorrowTargets, Lenders, Objects


class DetectionExamples(NamedTuple):
    """The inputs of the loss; every leaf has the batch as its leading axis."""

    image: Array  # float32 [B, H, W, 3] in 0..255.
    target: Array  # int32 [B, A], 1 + label, 0 for background.
    offsets: Array  # float32 [B, A, 4]
    positive: Array  # bool [B, A]
    ignored: Array  # bool [B, A]
    borrow: dict[int, BorrowTargets]
    references: ReferenceImages | None = None


@dataclasses.dataclass(frozen=True)
class TargetMaker:
    """Makes the examples of batches.

    Attributes:
      config: the run's configuration.
      anchors: float32 [A, 4].
      level_shapes: (height, width) of each level in positions.
      source_centers: maps a level that borrows to the centers of its T source
        positions in one image, float32 [T, 2].
    """

    config: ml_collections.ConfigDict
    anchors: np.ndarray
    level_shapes: Sequence[tuple[int, int]]
    source_centers: Callable[[int], np.ndarray]

    def __call__(self, batch: dict[str, Array]) -> DetectionExamples:
        """Returns the examples of a batch that `augment_batch` has made.

        With fields of references, their images are part of the examples, and source
        positions in them part of the targets.
        """
        names = ("boxes", "labels", "box_mask", "ignore")
        objects: list[Any] = [batch[name] for name in names]
        references = None
        if "reference_mask" in batch:
            mask = batch["reference_mask"]
            references = ReferenceImages(batch["reference_image"], mask)
            objects.append((*(batch[f"reference_{name}"] for name in names), mask))
        parts = jax.vmap(self._one_image)(*objects)
        target, offsets, positive, ignored, borrow = parts
        return DetectionExamples(
            batch["image"], target, offsets, positive, ignored, borrow, references
        )

    def _one_image(
        self,
        boxes: Array,
        labels: Array,
        valid: Array,
        ignore: Array,
        references: tuple[Array, ...] | None = None,
    ) -> tuple:
        """Returns targets, offsets, and so on, of all anchors of one image.

        Args:
          boxes: float32 [G, 4].
          labels: int32 [G].
          valid: bool [G].
          ignore: bool [G].
          references: the same of its references, [N, G] and [N, G, 4], and which of
            them there are, bool [N].
        """
        config, anchors = self.config, jnp.asarray(self.anchors)
        assigned = assignment.assign_anchors(
            boxes,
            valid,
            ignore,
            anchors,
            config.loss.positive_iou,
            best_anchor=config.loss.best_anchor,
            ignored=config.loss.ignored,
        )
        target = jnp.where(assigned.positive, 1 + labels[assigned.box_index], 0)
        offsets = box_ops.encode(
            boxes[assigned.box_index], anchors, tuple(config.anchors.variances)
        )
        objects = self._objects(boxes, labels, valid, ignore)
        borrow = {}
        for n in self._matched_levels():
            lenders = self._lenders(n, objects, references)
            borrow[n] = self._borrow_targets(n, lenders, assigned)
        return target, offsets, assigned.positive, assigned.ignored, borrow

    def _objects(
        self, boxes: Array, labels: Array, valid: Array, ignore: Array
    ) -> Objects:
        valid = assignment.objects(valid, ignore, self.config.loss.ignored)
        return Objects(boxes, labels, valid)

    def _matched_levels(self) -> tuple[int, ...]:
        """Returns the levels that the matching loss trains."""
        if not (self.config.borrow.enabled and self.config.loss.matching > 0):
            return ()
        return tuple(self.config.borrow.levels)

    def _lenders(
        self, n: int, objects: Objects, references: tuple[Array, ...] | None
    ) -> list[Lenders]:
        """Returns the lenders of an image's objects in the image and each reference."""
        loss, centers = self.config.loss, jnp.asarray(self.source_centers(n))

        def among(others: Objects) -> Lenders:
            scale = loss.matching_scale
            return borrow_targets.lenders_among(objects, others, centers, scale)

        own = among(objects)
        near = borrow_targets.in_reach(objects.boxes, loss.matching_reach)
        own = own._replace(lend=own.lend & near)
        if references is None:
            return [own]

        def in_reference(*fields: Array) -> Lenders:
            *annotated, present = fields
            found = among(self._objects(*annotated))
            return found._replace(lend=found.lend & present)

        others = jax.vmap(in_reference)(*references)  # [N, G, G'], [N, G', T]
        return [own, *map(Lenders, others.lend, others.inside)]

    def _borrow_targets(
        self, n: int, lenders: Sequence[Lenders], assigned: assignment.Assignment
    ) -> BorrowTargets:
        """Returns the source positions of level n's descriptors in one image.

        Those in the image itself are followed by those in each reference, and so are
        the lenders.
        """
        sources = jnp.concatenate([image.sources for image in lenders], axis=1)
        positions = [height * width for height, width in self.level_shapes]
        per_position = anchor_ops.anchors_per_position(self.config.anchors)
        start = sum(r * k for r, k in zip(positions[:n], per_position[:n], strict=True))
        index, has_object = borrow_targets.descriptor_objects(
            assigned, start, positions[n], per_position[n]
        )
        counts = has_object & jnp.any(sources, axis=1)[index]
        if self.config.loss.matching_lenders == "all":
            return BorrowTargets(sources, index, counts)
        one_by_one = Lenders(
            jnp.concatenate([image.lend for image in lenders], axis=1),
            jax.scipy.linalg.block_diag(*[image.inside for image in lenders]),
        )
        return BorrowTargets(sources, index, counts, one_by_one)
