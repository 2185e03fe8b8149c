"""Detection as a task: initial variables, targets, loss, and detections."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data import pipeline
from borrow_det.data.augmentation import detection as augment
from borrow_det.errors import check_choice
from borrow_det.evaluation import borrowing, counterfactual
from borrow_det.models import detector
from borrow_det.models.borrowing import source_levels
from borrow_det.models.layers import Normalization
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import assignment, borrow_targets, collectives, losses, nms
from borrow_det.ops import boxes as box_ops
from borrow_det.ops.matching_loss import BorrowTargets, matching_loss
from borrow_det.tasks import detection_evaluator
from borrow_det.tasks.task import EvalSet, init_variables


class Examples(NamedTuple):
    """What the loss needs of each image; every leaf has the batch as leading axis."""

    image: Array  # float32 [B, H, W, 3] in 0..255.
    target: Array  # int32 [B, A], 1 + label, 0 for background.
    offsets: Array  # float32 [B, A, 4]
    positive: Array  # bool [B, A]
    ignored: Array  # bool [B, A]
    borrow: dict[int, BorrowTargets]


class Prediction(NamedTuple):
    """What an evaluation takes from the device, with the batch leading."""

    found: nms.Detections
    attention: dict[int, borrowing.AttentionSums]  # Of each level that borrows.


class DetectionTask:
    """Detection as tasks/task.py defines a task."""

    figures = detection_evaluator.FIGURES
    results = "detections"
    predict_fields = (
        *("image", "image_size"),
        *("boxes", "labels", "box_mask", "ignore", "small"),
    )
    open = staticmethod(detection_evaluator.open_data)

    def __init__(self, config, num_classes: int):
        self.config = config
        check_choice(
            "loss.best_anchor", config.loss.best_anchor, assignment.BEST_ANCHOR
        )
        check_choice("loss.ignored", config.loss.ignored, assignment.IGNORED)
        self.model = detector.build_detector(config, num_classes)
        self.input_size = tuple(config.input_size)
        self.anchors = anchor_ops.make_anchors(config.anchors, self.input_size)
        self.level_shapes = anchor_ops.level_shapes(
            self.input_size, config.anchors.strides
        )

    def init(self, key: Array) -> dict:
        """Initial variables {params, batch_stats}; jit-able."""
        return init_variables(self.model, key, self.input_size)

    def prepare(self, key: Array, batch: dict) -> tuple[Examples, dict[str, Array]]:
        """Augments a training batch and finds its targets.

        Returns the examples, and the totals over the whole batch by which the loss is
        normalised: `positives` and `descriptors`, float32, at least 1.
        """
        batch = augment.augment_batch(
            key,
            batch,
            self.config.augment,
            self.input_size,
            collectives.first_row(batch["image"].shape[0]),
            fill=Normalization.of(self.config.model).gray,
        )
        examples = self._targets(batch)
        descriptors = [jnp.sum(level.counts) for level in examples.borrow.values()]
        totals = {
            "positives": jnp.sum(examples.positive),
            "descriptors": jnp.sum(jnp.array(descriptors, jnp.int32)),
        }
        axes = collectives.device_axes()
        return examples, {
            name: jnp.maximum(jax.lax.psum(count, axes), 1).astype(jnp.float32)
            for name, count in totals.items()
        }

    def _targets(self, batch):
        anchors = jnp.asarray(self.anchors)
        config = self.config

        def one_image(boxes, labels, valid, ignore):
            assigned = assignment.assign_anchors(
                boxes,
                valid,
                ignore,
                anchors,
                config.loss.positive_iou,
                best_anchor=config.loss.best_anchor,
                ignored=config.loss.ignored,
            )
            target = jnp.where(assigned.positive, 1 + labels[assigned.index], 0)
            offsets = box_ops.encode(
                boxes[assigned.index], anchors, tuple(config.anchors.variances)
            )
            objects = assignment.objects(valid, ignore, config.loss.ignored)
            borrow = {
                n: self._borrow_targets(n, boxes, labels, objects, assigned)
                for n in self._matched_levels()
            }
            return target, offsets, assigned.positive, assigned.ignored, borrow

        parts = jax.vmap(one_image)(
            batch["boxes"], batch["labels"], batch["box_mask"], batch["ignore"]
        )
        return Examples(batch["image"], *parts)

    def _matched_levels(self):
        """The levels whose matching is trained by its own loss."""
        if not (self.config.borrow.enabled and self.config.loss.matching > 0):
            return ()
        return tuple(self.config.borrow.levels)

    def _borrow_targets(self, n, boxes, labels, valid, assigned):
        centers = self.centers(self.source_levels(n))
        sources = borrow_targets.borrow_sources(
            boxes, labels, valid, jnp.asarray(centers), self.config.loss.matching_scale
        )
        positions = [height * width for height, width in self.level_shapes]
        per_position = anchor_ops.anchors_per_position(self.config.anchors)
        start = sum(r * k for r, k in zip(positions[:n], per_position[:n], strict=True))
        index, has_object = borrow_targets.descriptor_objects(
            assigned, start, positions[n], per_position[n]
        )
        counts = has_object & jnp.any(sources, axis=1)[index]
        return BorrowTargets(sources, index, counts)

    def loss(
        self, params: dict, batch_stats: dict, examples: Examples, totals: dict
    ) -> tuple[Array, tuple[dict[str, Array], dict]]:
        """Training loss of some of a batch's examples: (loss, (terms, batch_stats)).

        Terms are sums over `examples` divided by `totals`, so the terms of all
        micro-batches of a batch add up to those of the batch; `loss` is their
        weighted sum.
        """
        predictions, updates = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            examples.image,
            train=True,
            mutable=["batch_stats"],
        )
        loss, terms = self.loss_of(predictions, examples, totals)
        return loss, ({"loss": loss, **terms}, updates.get("batch_stats", {}))

    def loss_of(
        self, predictions: detector.Predictions, examples: Examples, totals: dict
    ) -> tuple[Array, dict[str, Array]]:
        """The loss of what the network says of examples, and its terms; see `loss`."""
        config = self.config.loss
        terms = {
            name: total / totals["positives"]
            for name, total in self._box_losses(predictions, examples).items()
        }
        loss = terms["classification"] + config.localization * terms["localization"]
        if examples.borrow:
            total = sum(
                matching_loss(predictions.matchings[n], targets)
                for n, targets in examples.borrow.items()
            )
            terms["matching"] = total / totals["descriptors"]
            loss = loss + config.matching * terms["matching"]
        return loss, terms

    def _box_losses(self, predictions, examples):
        """SSD's two losses, summed over anchors and images."""
        classification = functools.partial(
            losses.classification_loss,
            negatives_per_positive=self.config.loss.negatives_per_positive,
            min_negatives=self.config.loss.min_negatives,
        )
        return {
            "classification": _sum_over_batch(
                classification,
                predictions.logits,
                examples.target,
                examples.positive,
                examples.ignored,
            ),
            "localization": _sum_over_batch(
                losses.localization_loss,
                predictions.offsets,
                examples.offsets,
                examples.positive,
            ),
        }

    def step_metrics(self, totals: dict[str, Array]) -> dict[str, Array]:
        """Anchors a training image that are assigned to objects."""
        return {"positives_per_image": totals["positives"] / self.config.batch_size}

    def predict(self, variables: dict, batch: dict[str, Array]) -> Prediction:
        """Detections, and what the small objects of the ground truth attend to."""
        predictions = self.forward(variables, batch["image"], batch["image_size"])
        objects = borrowing.Objects(
            batch["boxes"],
            batch["labels"],
            batch["box_mask"] & ~batch["ignore"],
            batch["small"],
        )
        # Summed here: the scores of a level are thousands of times what is found.
        attention = {
            n: self._attention(n, assignment.scores, objects)
            for n, matching in predictions.matchings.items()
        }
        return Prediction(self.decode(predictions), attention)

    def _attention(self, n, P, objects):
        levels = self.source_levels(n)
        every = np.arange(len(self.level_shapes))
        positions = borrowing.Positions(
            jnp.asarray(self.centers([n])),
            jnp.asarray(self.centers(levels)),
            jnp.asarray(self.position_levels(levels)[:, None] == every),
        )

        def one_image(P, objects):
            return borrowing.attention_sums(
                P, objects, positions, self.config.evaluation.lender_scale
            )

        return jax.vmap(one_image)(P, objects)

    def detect(self, variables: dict, image: Array, image_size: Array):
        """Detections [B, K] in uint8 canvases [B, Hc, Wc, 3]."""
        return self.decode(self.forward(variables, image, image_size))

    def forward(
        self, variables: dict, image: Array, image_size: Array
    ) -> detector.Predictions:
        """What the network says of uint8 canvases [B, Hc, Wc, 3]."""
        resized = augment.resize_batch(image, image_size, self.input_size)
        return self.model.apply(variables, resized, train=False)

    def decode(self, predictions: detector.Predictions) -> nms.Detections:
        """Detections [B, K] of what the network says.

        Boxes are normalised to each image and clipped to it, by `nms.clip` before or
        after the suppression.
        """
        boxes, scores = self.boxes_and_scores(predictions)
        config = self.config.nms
        if config.clip == "before":
            boxes = jnp.clip(boxes, 0.0, 1.0)
        found = nms.class_wise_nms(
            boxes,
            scores,
            score=config.score,
            iou=config.iou,
            max_per_class=config.max_per_class,
            max_total=config.max_total,
        )
        return found._replace(boxes=jnp.clip(found.boxes, 0.0, 1.0))

    def boxes_and_scores(
        self, predictions: detector.Predictions
    ) -> tuple[Array, Array]:
        """What each anchor says, float32: boxes [B, A, 4], scores [B, A, classes]."""
        scores = jax.nn.softmax(predictions.logits, axis=-1)[..., 1:]
        anchors = jnp.asarray(self.anchors)[None]
        variances = tuple(self.config.anchors.variances)
        return box_ops.decode(predictions.offsets, anchors, variances), scores

    def source_levels(self, n: int) -> tuple[int, ...]:
        """The levels on whose grids level n's T source positions lie, in order."""
        return source_levels(self.config.borrow, n, len(self.level_shapes))

    def position_levels(self, levels: Sequence[int]) -> np.ndarray:
        """The level of each of these levels' positions, int [T], as in `centers`."""
        return np.repeat(levels, [np.prod(self.level_shapes[m]) for m in levels])

    def centers(self, levels: Sequence[int]) -> np.ndarray:
        """Centres `[y, x]` of these levels' positions, float32 [T, 2] in [0, 1]."""
        return anchor_ops.position_centers(
            [self.level_shapes[m] for m in levels],
            [self.config.anchors.strides[m] for m in levels],
            self.input_size,
        )

    def train_batches(self, split, start_step: int, *process: int) -> pipeline.Batches:
        """See tasks/task.py."""
        return pipeline.train_batches(split, self.config, start_step, *process)

    def eval_batches(self, eval_set: EvalSet, *process: int) -> pipeline.Batches:
        """See tasks/task.py."""
        split = eval_set.split
        row = detection_evaluator.EvalRow.of(eval_set, self.config)
        return pipeline.eval_batches(split, self.config, *process, make_row=row)

    def to_results(self, eval_set: EvalSet) -> Callable[[int, Any], list[dict]]:
        """To COCO's results format: an entry a detection."""
        sizes = {
            image["id"]: np.array([image["height"], image["width"]])
            for image in eval_set.truth["images"]
        }

        def image_results(image_id, prediction):
            found = prediction.found
            return detection_evaluator.coco_results(
                image_id,
                sizes[image_id],
                found.boxes[found.mask],
                found.scores[found.mask],
                found.labels[found.mask],
                eval_set.split.category_ids,
            )

        return image_results

    def observe(self, predictions: Prediction) -> dict[int, borrowing.AttentionSums]:
        """What the small objects attend to."""
        return predictions.attention

    def score(self, eval_set: EvalSet, results: list[dict]) -> dict[str, float]:
        """COCO's metrics, with small objects split, and VOC's where asked for."""
        return detection_evaluator.score(eval_set.truth, results, self.config)

    def measure(self, observations: list) -> dict[str, float]:
        """The figures of the attention (evaluation/borrowing.py)."""
        borrow = self.config.borrow
        levels = borrow.levels if borrow.enabled else ()
        return borrowing.attention_metrics(
            observations, {n: self.source_levels(n) for n in sorted(levels)}
        )

    def compare(
        self, eval_sets: list[EvalSet], read_results: Callable[[EvalSet], list[dict]]
    ) -> dict[str, float]:
        """Answers on counterfactual splits (evaluation/counterfactual.py)."""
        splits = {eval_set.split.name: eval_set for eval_set in eval_sets}
        pairs = [
            (s.split.counterfactual_of, name)
            for name, s in splits.items()
            if s.split.counterfactual_of in splits
        ]

        def answers(eval_set):
            return counterfactual.answers(
                *detection_evaluator.sized(
                    eval_set.truth, read_results(eval_set), self.config
                )
            )

        found = {
            name: answers(eval_set)
            for name, eval_set in splits.items()
            if any(name in pair for pair in pairs)
        }
        return counterfactual.metrics(found, pairs)

    def scene(self, split, index: int) -> np.ndarray:
        """An image with its objects."""
        return detection_evaluator.draw_scene(split, index)

    def pictures(self, eval_set: EvalSet, results: list[dict]) -> dict[str, np.ndarray]:
        """The first images, the truth left, detections right."""
        return detection_evaluator.draw_pictures(eval_set.split, results, self.config)


def _sum_over_batch(loss, *arrays):
    return jnp.sum(jax.vmap(loss)(*arrays))
