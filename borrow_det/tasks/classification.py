"""Classification as a task: what pretrains a detector's trunk, in the same loop."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data import pipeline
from borrow_det.data.augmentation import classification as augment_classification
from borrow_det.data.datasets import object_crops
from borrow_det.errors import InputError
from borrow_det.evaluation.accuracy import TOP, accuracy
from borrow_det.models import classifier
from borrow_det.ops import collectives
from borrow_det.ops.label_smoothing import smoothed_cross_entropy
from borrow_det.tasks.task import Data, EvalSet, Figures, init_variables
from borrow_det.visualization import annotate

_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])


class Examples(NamedTuple):
    """What the loss needs of each image; every leaf has the batch as leading axis."""

    image: Array  # float32 [B, H, W, 3] in 0..255.
    label: Array  # int32 [B]
    key_data: Array  # uint32 [B, ...], of the key that decides what is dropped.


class Prediction(NamedTuple):
    """The best classes of each image, best first; k is 5, or all there are."""

    labels: Array  # int32 [B, k]
    probabilities: Array  # float32 [B, k]
    label: Array  # int32 [B], the true one ...
    loss: Array  # float32 [B], ... and the negative logarithm of its probability.


class ClassificationTask:
    """Classification as tasks/task.py defines a task."""

    figures = Figures(
        console=("top1", "top5", "loss"),
        report=("top1", "top5", "loss"),
        details=(),
        per_class=(),
    )
    results = "predictions"
    predict_fields = ("image", "image_size", "label")

    def __init__(self, config, num_classes: int):
        self.config = config
        self.num_classes = num_classes
        self.model = classifier.build_classifier(config, num_classes)
        self.input_size = tuple(config.input_size)

    @staticmethod
    def open(config) -> Data:
        """Opens the objects, or the whole images, of a set; see data/datasets/object_crops.py.

        Raises:
          InputError: on unknown or empty splits, a single class, and wrong fields of
            config.dataset.
        """
        train, *evals = object_crops.load_splits(config.dataset)
        if len(train.class_names) < 2:
            raise InputError(
                f"{train.name} has the class {train.class_names[0]} alone, of which "
                "nothing can be learnt by classification: name another set"
            )
        for split in (train, *evals):
            pipeline.check_split(split, config)
        boxes = {split.name: split.counts for split in (train, *evals)}
        return Data(train, [EvalSet(split, None) for split in evals], boxes)

    def train_batches(self, split, start_step: int, *process: int) -> pipeline.Batches:
        """See tasks/task.py."""
        row = self._row(split)
        return pipeline.train_batches(
            split, self.config, start_step, *process, make_row=row
        )

    def eval_batches(self, eval_set: EvalSet, *process: int) -> pipeline.Batches:
        """See tasks/task.py."""
        split, row = eval_set.split, self._row(eval_set.split)
        return pipeline.eval_batches(split, self.config, *process, make_row=row)

    def _row(self, split):
        return object_crops.ObjectRow(tuple(self.config.dataset.canvas), split.dataset)

    def init(self, key: Array) -> dict:
        """Initial variables {params, batch_stats}; jit-able."""
        return init_variables(self.model, key, self.input_size)

    def prepare(self, key: Array, batch: dict) -> tuple[Examples, dict[str, Array]]:
        """Augments a training batch, and draws a key for each example's dropout."""
        augment = self.config.augment

        def one_image(index, image, image_size):
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
        return Examples(image, batch["label"], key_data), totals

    def _center(self, image, image_size):
        return augment_classification.center_image(
            image, image_size, self.input_size, self.config.evaluation.crop_share
        )

    def loss(
        self, params: dict, batch_stats: dict, examples: Examples, totals: dict
    ) -> tuple[Array, tuple[dict[str, Array], dict]]:
        """Smoothed cross entropy, summed over examples and divided by their total."""
        logits, updates = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            examples.image,
            train=True,
            dropout_keys=jax.random.wrap_key_data(examples.key_data),
            mutable=["batch_stats"],
        )
        each = smoothed_cross_entropy(
            logits, examples.label, self.config.loss.label_smoothing
        )
        loss = jnp.sum(each) / totals["examples"]
        return loss, ({"loss": loss}, updates.get("batch_stats", {}))

    def step_metrics(self, totals: dict[str, Array]) -> dict[str, Array]:
        """Nothing beside the loss."""
        del totals
        return {}

    def predict(self, variables: dict, batch: dict[str, Array]) -> Prediction:
        """The best classes of canvases' centres, and the loss without smoothing."""
        image = jax.vmap(self._center)(batch["image"], batch["image_size"])
        logits = self.model.apply(variables, image, train=False)
        loss = smoothed_cross_entropy(logits, batch["label"], 0.0)
        probabilities, labels = jax.lax.top_k(
            jax.nn.softmax(logits, axis=-1), min(TOP, self.num_classes)
        )
        return Prediction(labels, probabilities, batch["label"], loss)

    def to_results(self, eval_set: EvalSet) -> Callable[[int, Any], list[dict]]:
        """To one entry an image; `image_id` is its place in the split, from 0."""
        del eval_set

        def image_results(image_id, found):
            return [
                {
                    "image_id": image_id,
                    "label": int(found.label),
                    "top_labels": found.labels.tolist(),
                    "top_probabilities": found.probabilities.tolist(),
                    "loss": float(found.loss),
                }
            ]

        return image_results

    def observe(self, predictions: Prediction) -> None:
        """Nothing: all is in the results."""
        del predictions

    def score(self, eval_set: EvalSet, results: list[dict]) -> dict[str, float]:
        """top1, top5 where there are more classes than five, and the mean loss."""
        del eval_set
        return accuracy(results, self.num_classes)

    def measure(self, observations: list) -> dict[str, float]:
        """Nothing beside `score`."""
        del observations
        return {}

    def compare(
        self, eval_sets: list[EvalSet], read_results: Callable[[EvalSet], list[dict]]
    ) -> dict[str, float]:
        """Nothing: no split of classes is held against another."""
        del eval_sets, read_results
        return {}

    def scene(self, split, index: int) -> np.ndarray:
        """An object with its class."""
        record = split[index]
        return _captioned(record, record["label"], split.class_names)

    def pictures(self, eval_set: EvalSet, results: list[dict]) -> dict[str, np.ndarray]:
        """The first images, their class left, the one that was found right."""
        split, pictures = eval_set.split, {}
        for result in results[: self.config.report.num_pictures]:
            record = split[result["image_id"]]
            found = result["top_labels"][0], result["top_probabilities"][0]
            sides = (
                _captioned(record, record["label"], split.class_names),
                _captioned(record, found[0], split.class_names, found[1]),
            )
            name = f"{result['image_id']}_{pathlib.Path(record['file_name']).stem}"
            pictures[name] = annotate.contact_sheet(sides, columns=2)
        return pictures


def _captioned(record, label, class_names, probability=None):
    image = object_crops.decode_crop(record, record["file_name"])
    scores = None if probability is None else np.array([probability])
    return annotate.draw_boxes(image, _WHOLE, np.array([label]), class_names, scores)
