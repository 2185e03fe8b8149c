"""Classification as a task and its evaluation, to pretrain the trunk of a detector."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.data import pipeline
from borrow_det.data.augmentation import classification as augment_classification
from borrow_det.data.datasets import object_crops
from borrow_det.errors import InputError
from borrow_det.evaluation.accuracy import TOP, accuracy
from borrow_det.models import classifier
from borrow_det.ops import collectives, losses
from borrow_det.tasks.task import Figures, frozen_modules, init_variables
from borrow_det.visualization import annotate, outcomes

_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])


class ClassificationExamples(NamedTuple):
    """The inputs of the loss; every leaf has the batch as its leading axis."""

    image: Array  # float32 [B, H, W, 3] in 0..255.
    label: Array  # int32 [B]
    key_data: Array  # uint32 [B, ...], the data of the dropout keys.


class ClassificationPrediction(NamedTuple):
    """The best k classes of each image, best first; k is 5 or the number of classes."""

    labels: Array  # int32 [B, k]
    probabilities: Array  # float32 [B, k]
    label: Array  # int32 [B], the true class.
    loss: Array  # float32 [B], cross-entropy of the true class.


class ClassificationTask:
    """Classification; see `Task` in tasks/task.py.

    Attributes:
      config: the run's configuration.
      num_classes: the number of classes.
      model: the network, a Flax module.
      stages, frozen: see `Task`.
      input_size: (height, width) of the network's input in pixels.
    """

    predict_fields: tuple[str, ...] = ("image", "image_size", "label")

    def __init__(self, config: ml_collections.ConfigDict, num_classes: int):
        self.config = config
        self.num_classes = num_classes
        self.model = classifier.build_classifier(config, num_classes)
        self.stages = self.model.stage_modules()
        self.frozen = frozen_modules(config, self.stages)
        self.input_size = tuple(config.input_size)

    def train_row(self, split: object_crops.ObjectCrops) -> object_crops.ObjectRow:
        """Returns the function that makes rows from the objects of a split."""
        return _row(split, self.config)

    def init(self, key: Array) -> dict:
        """Returns initial variables {params, batch_stats}; jit-able."""
        return init_variables(self.model, key, self.input_size)

    def prepare(
        self, key: Array, batch: dict
    ) -> tuple[ClassificationExamples, dict[str, Array]]:
        """Augments a training batch and draws a dropout key for each example."""
        augment = self.config.augment

        def one_image(
            index: Array, image: Array, image_size: Array
        ) -> tuple[Array, Array]:
            crop_key, drop_key = jax.random.split(jax.random.fold_in(key, index))
            if augment.enabled:
                image = augment_classification.augment_image(
                    crop_key, image, image_size, augment, self.input_size
                )
            else:
                image = self._center(image, image_size)
            return image, jax.random.key_data(drop_key)

        rows = batch["image"].shape[0]
        indices = collectives.first_row(rows) + jnp.arange(rows, dtype=jnp.int32)
        image, key_data = jax.vmap(one_image)(
            indices, batch["image"], batch["image_size"]
        )
        total = jax.lax.psum(jnp.array(rows, jnp.float32), collectives.device_axes())
        totals = {"examples": total}
        return ClassificationExamples(image, batch["label"], key_data), totals

    def _center(self, image: Array, image_size: Array) -> Array:
        return augment_classification.center_image(
            image, image_size, self.input_size, self.config.evaluation.crop_share
        )

    def loss(
        self,
        params: dict,
        batch_stats: dict,
        examples: ClassificationExamples,
        totals: dict,
    ) -> tuple[Array, tuple[dict[str, Array], dict]]:
        """Returns the smoothed cross-entropy of examples, divided by totals."""
        logits, updates = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            examples.image,
            train=True,
            dropout_keys=jax.random.wrap_key_data(examples.key_data),
            mutable=["batch_stats"],
        )
        each = losses.smoothed_cross_entropy(
            logits, examples.label, self.config.loss.label_smoothing
        )
        loss = jnp.sum(each) / totals["examples"]
        return loss, ({"loss": loss}, updates.get("batch_stats", {}))

    def step_metrics(self, totals: dict[str, Array]) -> dict[str, Array]:
        """Returns {}: the loss is the only metric."""
        del totals
        return {}

    def predict(
        self, variables: dict, batch: dict[str, Array]
    ) -> ClassificationPrediction:
        """Returns the best classes of the canvases' centers and the loss."""
        image = jax.vmap(self._center)(batch["image"], batch["image_size"])
        logits = jnp.asarray(self.model.apply(variables, image, train=False))
        loss = losses.softmax_cross_entropy(logits, batch["label"])
        probabilities, labels = jax.lax.top_k(
            jax.nn.softmax(logits, axis=-1), min(TOP, self.num_classes)
        )
        return ClassificationPrediction(labels, probabilities, batch["label"], loss)


class ClassificationEvaluator:
    """Evaluates classification on one split; see `Evaluator` in tasks/task.py.

    Attributes:
      split: the objects (or the images) of a split.
      config: the run's configuration.
    """

    figures = Figures(
        console=("top1", "top5", "loss"),
        report=("top1", "top5", "loss"),
        details=(),
        per_class=(),
    )
    results_name = "predictions"

    def __init__(
        self, split: object_crops.ObjectCrops, config: ml_collections.ConfigDict
    ):
        self.split = split
        self.config = config

    @staticmethod
    def open_splits(
        config: ml_collections.ConfigDict, names: Sequence[str]
    ) -> list[object_crops.ObjectCrops]:
        """Opens the objects (or the images) of splits.

        Raises:
          InputError: a split is unknown or empty, or a field of config.dataset is
            wrong.
        """
        splits = object_crops.load_splits(config.dataset, names)
        for split in splits:
            pipeline.check_split(split, config)
        return splits

    @staticmethod
    def check_training_split(
        split: object_crops.ObjectCrops, config: ml_collections.ConfigDict
    ) -> tuple[dict[str, int], list[str]]:
        """Returns nothing: `open_splits` has counted the objects.

        Raises:
          InputError: the split has a single class.
        """
        del config
        if len(split.class_names) < 2:
            raise InputError(
                f"{split.dataset} has the class {split.class_names[0]} alone: "
                "classification needs two classes; choose another dataset"
            )
        return {}, []

    def notices(self) -> list[str]:
        """Returns nothing: every crop has a class."""
        return []

    @staticmethod
    def compare(
        evaluators: Sequence["ClassificationEvaluator"],
        read_results: Callable[["ClassificationEvaluator"], list[dict]],
    ) -> dict[str, float]:
        """Returns {}: splits of classification are not compared."""
        del evaluators, read_results
        return {}

    @staticmethod
    def scene(split: object_crops.ObjectCrops, index: int, side: int) -> np.ndarray:
        """Draws an object with its class; see `Evaluator.scene`."""
        record = split[index]
        return _captioned(record, record["label"], split, side=side)

    def batches(
        self, process_index: int = 0, process_count: int = 1
    ) -> pipeline.Batches:
        """Yields the split's objects; see `Evaluator.batches`."""
        return pipeline.eval_batches(
            self.split,
            self.config,
            process_index,
            process_count,
            make_row=_row(self.split, self.config),
        )

    def results(
        self, image_id: int, prediction: ClassificationPrediction
    ) -> list[dict]:
        """Returns one entry; `image_id` is the object's index in the split."""
        return [
            {
                "image_id": image_id,
                "label": int(prediction.label),
                "top_labels": prediction.labels.tolist(),
                "top_probabilities": prediction.probabilities.tolist(),
                "loss": float(prediction.loss),
            }
        ]

    def observe(self, prediction: ClassificationPrediction) -> None:
        """Returns None: the results hold everything."""
        del prediction

    def score(self, results: list[dict]) -> dict[str, float]:
        """Returns top1, top5 if there are more than five classes, and the mean loss."""
        return accuracy(results, len(self.split.class_names))

    def analyze(self, results: list[dict], points: Sequence[str] = ()) -> dict:
        """Returns {}: top-1 and top-5 accuracy need no minimum score."""
        return {}

    def measure(self, observations: list) -> dict[str, float]:
        """Returns {}: `score` has all metrics."""
        del observations
        return {}

    def choosing_metrics(self) -> tuple[str, ...]:
        """Returns top1, and top5 if there are more than five classes."""
        return ("top1", "top5")[: 1 + (len(self.split.class_names) > TOP)]

    def default_metric(self) -> str:
        """Returns top1."""
        return "top1"

    def pictures(
        self, results: list[dict], analysis: Mapping[str, Any], step: int
    ) -> dict[str, np.ndarray]:
        """Draws the first images: their class left, the predicted one right."""
        del analysis
        split, pictures = self.split, {}
        for result in results[: self.config.report.num_pictures]:
            record = split[result["image_id"]]
            best = result["top_labels"][0], result["top_probabilities"][0]
            sides = (
                _captioned(record, record["label"], split),
                _captioned(record, best[0], split, best[1]),
            )
            file = pathlib.Path(record["file_name"])
            pictures[f"{result['image_id']}_{file.stem}"] = outcomes.captioned(
                annotate.contact_sheet(sides, columns=2),
                [
                    f"{file.name} \u00b7 {split.dataset} {split.name}, step {step}",
                    "left: annotated class; right: predicted class",
                ],
            )
        return pictures


def _row(
    split: object_crops.ObjectCrops, config: ml_collections.ConfigDict
) -> object_crops.ObjectRow:
    return object_crops.ObjectRow(tuple(config.dataset.canvas), split.dataset)


def _captioned(
    record: dict,
    label: int,
    split: object_crops.ObjectCrops,
    probability: float | None = None,
    side: int | None = None,
) -> np.ndarray:
    """Draws an object with the name of a class; see `annotate.draw_boxes`."""
    image = object_crops.decode_crop(record, record["file_name"])
    scores = None if probability is None else np.array([probability])
    return annotate.draw_boxes(
        image,
        _WHOLE,
        np.array([label]),
        split.class_names,
        scores,
        side,
        category_ids=split.category_ids,
    )
