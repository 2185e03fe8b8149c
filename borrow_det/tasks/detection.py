"""Detection as a task: initial variables, targets, loss and detections."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.data import rows, sources
from borrow_det.data.augmentation import detection as augment
from borrow_det.data.augmentation import paste
from borrow_det.data.augmentation import references as reference_fields
from borrow_det.data.augmentation.resampling import resize_batch
from borrow_det.data.reference_rows import ReferencesRow, with_references
from borrow_det.errors import check_choice
from borrow_det.evaluation import borrowing
from borrow_det.models import detector
from borrow_det.models.layers import PixelStatistics
from borrow_det.models.references import ReferenceImages, ReferenceMaps
from borrow_det.models.source_levels import source_levels
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import assignment, collectives, losses, nms
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks import detection_losses, detection_views
from borrow_det.tasks.detection_references import AnnotatedReferences, references_of
from borrow_det.tasks.detection_targets import DetectionExamples, TargetMaker
from borrow_det.tasks.task import frozen_modules, init_variables


class DetectionPrediction(NamedTuple):
    """The output of `predict`; every leaf has the batch as its leading axis."""

    found: nms.NmsOutput  # By view, [B, V, K], with evaluation.tiles.
    attention: dict[int, borrowing.AttentionSums]  # By level that borrows.


class DetectionTask:
    """Detection; see `Task` in tasks/task.py.

    Attributes:
      config: the run's configuration.
      model: the network, a Flax module.
      stages, frozen: see `Task`.
      input_size: (height, width) of the network's input in pixels.
      anchors: float32 [A, 4].
      level_shapes: (height, width) of each level in positions.
    """

    predict_fields: tuple[str, ...] = (
        *("image", "image_size"),
        *("boxes", "labels", "box_mask", "ignore", "small"),
    )

    def __init__(self, config: ml_collections.ConfigDict, num_classes: int):
        self.config = config
        check_choice(
            "loss.best_anchor", config.loss.best_anchor, assignment.BEST_ANCHOR
        )
        check_choice("loss.ignored", config.loss.ignored, assignment.IGNORED)
        check_choice(
            "loss.classification",
            config.loss.classification,
            detection_losses.CLASSIFICATION,
        )
        check_choice("loss.box", config.loss.box, detection_losses.BOX)
        if config.references.kind == "group":
            self.predict_fields = (*self.predict_fields, *reference_fields.FIELDS)
        if config.evaluation.tiles:
            self.predict_fields = (*self.predict_fields, "views", "view_mask")
        self.model = detector.build_borrow_net(config, num_classes)
        self.stages = self.model.stage_modules()
        self.frozen = frozen_modules(config, self.stages)
        self.input_size = tuple(config.input_size)
        self.anchors = anchor_ops.make_anchors(config.anchors, self.input_size)
        self.level_shapes = anchor_ops.level_shapes(
            self.input_size, config.anchors.strides
        )
        self._targets = TargetMaker(
            config,
            self.anchors,
            self.level_shapes,
            lambda n: self.centers(self.source_levels(n)),
        )

    def train_row(self, split: sources.Split) -> rows.MakeRow | ReferencesRow:
        """Returns the function that makes rows of training batches of this split."""
        copies = paste.most_copies(self.config.augment)
        row = rows.BoxesRow.of(split, self.config.dataset, copies)
        return with_references(split, self.config, row, row)

    def init(self, key: Array) -> dict:
        """Returns initial variables {params, batch_stats}; jit-able."""
        return init_variables(self.model, key, self.input_size)

    def prepare(
        self, key: Array, batch: dict
    ) -> tuple[DetectionExamples, dict[str, Array]]:
        """Augments a training batch and computes its targets.

        Returns:
          The examples, and the totals over the global batch that the loss is divided
          by: `positives` and `descriptors`, float32 [], at least 1.
        """
        batch = augment.augment_batch(
            key,
            batch,
            self.config.augment,
            self.input_size,
            collectives.first_row(batch["image"].shape[0]),
            fill=PixelStatistics.of(self.config.model).gray,
            overview=self.config.references.kind == "overview",
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

    def loss(
        self, params: dict, batch_stats: dict, examples: DetectionExamples, totals: dict
    ) -> tuple[Array, tuple[dict[str, Array], dict]]:
        """Returns (loss, (terms, batch_stats)) of part of a batch's examples.

        Terms are sums over `examples` divided by `totals`, so the terms of the
        micro-batches of a batch add up to those of the batch; `loss` is their weighted
        sum.
        """
        predictions, updates = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            examples.image,
            train=True,
            references=examples.references,
            mutable=["batch_stats"],
        )
        loss, terms = self.loss_of(predictions, examples, totals)
        return loss, ({"loss": loss, **terms}, updates.get("batch_stats", {}))

    def loss_of(
        self,
        predictions: detector.Predictions,
        examples: DetectionExamples,
        totals: dict,
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the loss of the network's predictions, and its terms; see `loss`."""
        config = self.config.loss
        sums = detection_losses.anchor_losses(
            self.config, self.anchors, predictions, examples
        )
        terms = {name: total / totals["positives"] for name, total in sums.items()}
        loss = terms["classification"] + config.localization * terms["localization"]
        if examples.borrow:
            total = sum(
                losses.matching_loss(predictions.matchings[n], targets)
                for n, targets in examples.borrow.items()
            )
            terms["matching"] = total / totals["descriptors"]
            loss = loss + config.matching * terms["matching"]
        return loss, terms

    def step_metrics(self, totals: dict[str, Array]) -> dict[str, Array]:
        """Returns the mean number of positive anchors per training image."""
        return {"positives_per_image": totals["positives"] / self.config.batch_size}

    def predict(self, variables: dict, batch: dict[str, Array]) -> DetectionPrediction:
        """Returns detections, and the attention of the annotated small objects.

        With evaluation.tiles the detections are those of each view.
        """
        objects = borrowing.ImageObjects(
            batch["boxes"],
            batch["labels"],
            batch["box_mask"] & ~batch["ignore"],
            batch["small"],
        )

        # Once an image: all of its views share the maps of its references.
        references = references_of(
            functools.partial(self.maps, variables),
            batch,
            self.config.references.kind,
            self.input_size,
        )

        def predict(pixels: Array, objects: borrowing.ImageObjects) -> tuple:
            return self._predict_inputs(variables, pixels, objects, references)

        tiled = bool(self.config.evaluation.tiles)
        # A single view is the entire image.
        if tiled and batch["views"].shape[1] > 1:
            return DetectionPrediction(
                *detection_views.predict_views(predict, batch, objects, self.input_size)
            )
        image, image_size = batch["image"], batch["image_size"]
        pixels = resize_batch(image, image_size, self.input_size)
        found, attention = predict(pixels, objects)
        if tiled:
            found = jax.tree.map(lambda x: x[:, None], found)
        return DetectionPrediction(found, attention)

    def _predict_inputs(
        self,
        variables: dict,
        pixels: Array,
        objects: borrowing.ImageObjects,
        references: AnnotatedReferences | None,
    ) -> detection_views.Prediction:
        """Returns detections and attention of inputs float32 [B, h, w, 3]."""
        maps, lending = references or (None, None)
        predictions = self.model.apply(variables, pixels, train=False, references=maps)
        assert isinstance(predictions, detector.Predictions)
        # Summed on the device: a level's scores are thousands of times larger.
        attention = {
            n: self._attention(n, matching.scores, objects, lending)
            for n, matching in predictions.matchings.items()
        }
        return self.decode(predictions), attention

    def _attention(
        self,
        n: int,
        P: Array,
        objects: borrowing.ImageObjects,
        references: borrowing.ReferenceObjects | None,
    ) -> borrowing.AttentionSums:
        levels = self.source_levels(n)
        every = np.arange(len(self.level_shapes))
        positions = borrowing.Positions(
            jnp.asarray(self.centers([n])),
            jnp.asarray(self.centers(levels)),
            jnp.asarray(self.position_levels(levels)[:, None] == every),
        )

        scale = self.config.evaluation.lender_scale

        def one_image(
            P: Array,
            objects: borrowing.ImageObjects,
            references: borrowing.ReferenceObjects | None,
        ) -> borrowing.AttentionSums:
            return borrowing.attention_sums(P, objects, positions, scale, references)

        return jax.vmap(one_image)(P, objects, references)

    def detect(
        self,
        variables: dict,
        image: Array,
        image_size: Array,
        references: ReferenceImages | ReferenceMaps | None = None,
    ) -> nms.NmsOutput:
        """Returns detections [B, K] in uint8 canvases [B, Hc, Wc, 3]."""
        return self.decode(self.forward(variables, image, image_size, references))

    def forward(
        self,
        variables: dict,
        image: Array,
        image_size: Array,
        references: ReferenceImages | ReferenceMaps | None = None,
    ) -> detector.Predictions:
        """Returns the network's predictions for uint8 canvases [B, Hc, Wc, 3]."""
        resized = resize_batch(image, image_size, self.input_size)
        predictions = self.model.apply(
            variables, resized, train=False, references=references
        )
        assert isinstance(predictions, detector.Predictions)
        return predictions

    def maps(self, variables: dict, inputs: Array) -> tuple[Array, ...]:
        """Returns the levels of inputs float32 [B, h, w, 3], shallow to deep."""
        maps = self.model.apply(variables, inputs, method="maps")
        assert isinstance(maps, tuple)
        return maps

    def predictions(
        self,
        variables: dict,
        maps: Sequence[Array],
        references: ReferenceMaps | None = None,
    ) -> detector.Predictions:
        """Returns the network's predictions from the levels of inputs."""
        predictions = self.model.apply(
            variables, maps, references, method="predict_maps"
        )
        assert isinstance(predictions, detector.Predictions)
        return predictions

    def decode(self, predictions: detector.Predictions) -> nms.NmsOutput:
        """Decodes predictions into detections [B, K].

        Boxes are normalized to each image and clipped to it, before or after the
        suppression (`nms.clip`).
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
        """Returns float32 boxes [B, A, 4] and scores [B, A, classes] of all anchors."""
        if self.config.loss.classification == "focal":
            scores = jax.nn.sigmoid(predictions.logits)
        else:
            scores = jax.nn.softmax(predictions.logits, axis=-1)[..., 1:]
        anchors = jnp.asarray(self.anchors)[None]
        variances = tuple(self.config.anchors.variances)
        return box_ops.decode(predictions.offsets, anchors, variances), scores

    def source_levels(self, n: int) -> tuple[int, ...]:
        """Returns the levels of level n's T source positions, in order."""
        return source_levels(self.config.borrow, n, len(self.level_shapes))

    def position_levels(self, levels: Sequence[int]) -> np.ndarray:
        """Returns the level of each position in `centers`, int [T]."""
        return np.repeat(levels, [np.prod(self.level_shapes[m]) for m in levels])

    def centers(self, levels: Sequence[int]) -> np.ndarray:
        """Returns the centers [y, x] of levels' positions, float32 [T, 2] in [0, 1]."""
        return anchor_ops.position_centers(
            [self.level_shapes[m] for m in levels],
            [self.config.anchors.strides[m] for m in levels],
            self.input_size,
        )
