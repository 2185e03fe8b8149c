"""What the loop asks of a task: everything that differs between them stands here.

train.py and evaluate.py call a task by these names alone. A new task is a class that
satisfies `Task`, and a line in train.TASKS.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array


class EvalSet(NamedTuple):
    """A split to evaluate on.

    Attributes:
      split: its records, by index; has dataset, name, class_names, category_ids and
        reference_lines (sources.Split).
      truth: what scoring holds predictions against, unless they bring it along.
    """

    split: Any
    truth: Any


class Data(NamedTuple):
    """The splits of a run, opened and checked.

    Attributes:
      train: a split, as EvalSet's.
      eval_sets: one for each of dataset.eval_splits.
      boxes: of each split, how many boxes were mended or left out, for dataset.json.
    """

    train: Any
    eval_sets: list[EvalSet]
    boxes: dict[str, dict[str, int]]


class Figures(NamedTuple):
    """The metrics that people are shown first; those that there are not are left out.

    Attributes:
      console: in the line that an evaluation prints.
      report: the columns of the report's table of splits.
      details: those of a second one, where there are any.
      per_class: of its tables of classes, as `NAME/class` among the metrics.
    """

    console: tuple[str, ...]
    report: tuple[str, ...]
    details: tuple[str, ...]
    per_class: tuple[str, ...]


class Task(Protocol):
    """One kind of run; holds no state but its configuration.

    Made as `TaskClass(config, num_classes)` once `TaskClass.open(config)` has told the
    classes. `init`, `prepare`, `loss`, `step_metrics` and `predict` are pure, and are
    compiled by their callers; the others run on the host.

    Attributes:
      figures: see Figures.
      results: what an evaluation writes for each image, in the plural: the file is
        `STEP.{results}.json`.
      predict_fields: of an evaluation's batch, those that `predict` takes.
    """

    figures: Figures
    results: str
    predict_fields: tuple[str, ...]

    @staticmethod
    def open(config) -> Data:
        """Opens and checks the data of a run.

        Raises:
          InputError: they, or the fields that describe them, are wrong.
        """

    def train_batches(self, split, start_step: int, *process: int) -> Iterator[dict]:
        """Training batches of steps start_step, start_step + 1, ...; has `counts`.

        `process`, its index and the count of them, says whose rows; without it all.
        """

    def eval_batches(self, eval_set: EvalSet, *process: int) -> Iterator[dict]:
        """Every image of a split once, in order; `mask` is false on padded rows.

        `process` as of `train_batches`.
        """

    def init(self, key: Array) -> dict:
        """Initial variables {params, batch_stats}."""

    def prepare(self, key: Array, batch: dict) -> tuple[Any, dict[str, Array]]:
        """Augments a batch: (examples, totals).

        Every leaf of the examples has the batch as leading axis, and depends on the
        key and the example's place in the global batch alone. The totals are over the
        whole batch, all devices' (sharding.device_axes); the loss is normalised by
        them.
        """

    def loss(
        self, params: dict, batch_stats: dict, examples: Any, totals: dict
    ) -> tuple[Array, tuple[dict[str, Array], dict]]:
        """(loss, (terms, batch_stats)) of some of a batch's examples.

        All are sums over the examples, divided by totals; `terms` holds `loss`, too.
        """

    def step_metrics(self, totals: dict[str, Array]) -> dict[str, Array]:
        """What else is to be logged of a training step."""

    def predict(self, variables: dict, batch: dict[str, Array]) -> Any:
        """Predictions for a batch of `predict_fields`, with the batch leading."""

    def to_results(self, eval_set: EvalSet) -> Callable[[int, Any], list[dict]]:
        """From (image_id, one image's predictions) to what is written of them."""

    def observe(self, predictions: Any) -> Any:
        """Of one image's predictions what `measure` needs; small, as all are kept."""

    def score(self, eval_set: EvalSet, results: list[dict]) -> dict[str, float]:
        """The metrics of a whole split."""

    def measure(self, observations: list) -> dict[str, float]:
        """Its other metrics: of what was observed in each image, not of results."""

    def compare(
        self, eval_sets: list[EvalSet], read_results: Callable[[EvalSet], list[dict]]
    ) -> dict[str, float]:
        """Metrics, `SPLIT/NAME`, of splits that are to be held against each other.

        {} where there are none; `read_results` gives what was found on a split.
        """

    def scene(self, split, index: int) -> np.ndarray:
        """A training image with what is known of it, uint8 RGB [H, W, 3]."""

    def pictures(
        self, eval_set: EvalSet, results: list[dict]
    ) -> Mapping[str, np.ndarray]:
        """Some images by name: what is known of each left, what was found right."""


def init_variables(
    model: nn.Module, key: Array, input_size: tuple[int, int]
) -> dict[str, dict]:
    """Initial {params, batch_stats} of a network of images; jit-able."""
    image = jnp.zeros((1, *input_size, 3), jnp.float32)
    variables = model.init(key, image, train=False)
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }
