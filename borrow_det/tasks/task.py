"""The protocols that the loop and the evaluation ask of a task.

`Task` is the pure part of a kind of run: functions of arrays that the callers compile.
`Evaluator` is the part on the host: it reads the batches of one split and turns
predictions into results, metrics and pictures. A new task is a class of each, and a
line in `TASKS` and `EVALUATORS` of tasks/__init__.py.
"""

import itertools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.data.pipeline import Batches
from borrow_det.data.reference_rows import ReferencesRow
from borrow_det.data.rows import MakeRow
from borrow_det.errors import InputError


class Figures(NamedTuple):
    """Names of the metrics that people see first; metrics that are absent are skipped.

    Attributes:
      console: shown in the line that an evaluation prints.
      report: columns of the report's table of splits.
      details: columns of a second table; () for none.
      per_class: columns of the tables of classes, stored as `NAME/class`.
    """

    console: tuple[str, ...]
    report: tuple[str, ...]
    details: tuple[str, ...]
    per_class: tuple[str, ...]


class Task(Protocol):
    """The pure part of a kind of run, made as `TaskClass(config, num_classes)`.

    Attributes:
      config: the run's configuration.
      predict_fields: names of the fields of an evaluation batch that `predict` takes.
      stages: paths of the modules of each stage of the trunk, from the input on, such
        as `trunk/conv1_1`.
      frozen: paths of the modules whose parameters and statistics are constants, those
        of the first `model.frozen` stages.
    """

    config: ml_collections.ConfigDict
    predict_fields: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    frozen: tuple[str, ...]

    def __init__(self, config: ml_collections.ConfigDict, num_classes: int): ...

    def train_row(self, split: Any) -> MakeRow | ReferencesRow:
        """Returns the function that makes rows of training batches of this split."""

    def init(self, key: Array) -> dict:
        """Returns initial variables {params, batch_stats}."""

    def prepare(self, key: Array, batch: dict) -> tuple[Any, dict[str, Array]]:
        """Augments a batch and returns (examples, totals).

        Every leaf of the examples has the batch as its leading axis and depends only on
        the key and on the example's index in the global batch. The totals are sums over
        the global batch (ops/collectives.py); the loss is divided by them.
        """

    def loss(
        self, params: dict, batch_stats: dict, examples: Any, totals: dict
    ) -> tuple[Array, tuple[dict[str, Array], dict]]:
        """Returns (loss, (terms, batch_stats)) of part of a batch's examples.

        The loss and the terms are sums over the examples, divided by the totals;
        `terms` includes `loss`.
        """

    def step_metrics(self, totals: dict[str, Array]) -> dict[str, Array]:
        """Returns metrics of a training step to log in addition to the loss terms."""

    def predict(self, variables: dict, batch: dict[str, Array]) -> Any:
        """Returns predictions for a batch of `predict_fields`, batch axis leading."""


class Evaluator(Protocol):
    """The evaluation of one split, made as `EvaluatorClass(split, config)`.

    Attributes:
      split: the split (a sources.Split or an object_crops.ObjectCrops).
      figures: names of the metrics that people see first.
      results_name: plural noun for the results; the file is `STEP.{results_name}.json`.
    """

    split: Any
    figures: Figures
    results_name: str

    def __init__(self, split: Any, config: ml_collections.ConfigDict): ...

    @staticmethod
    def open_splits(
        config: ml_collections.ConfigDict, names: Sequence[str]
    ) -> list[Any]:
        """Opens and checks splits of `config.dataset`.

        Raises:
          InputError: a split or a field that describes it is wrong.
        """

    @staticmethod
    def check_training_split(
        split: Any, config: ml_collections.ConfigDict
    ) -> tuple[dict[str, int], list[str]]:
        """Checks that a run can train on a split.

        Returns:
          Counts of changed boxes, and lines about the split for the run's start.

        Raises:
          InputError: it cannot.
        """

    def notices(self) -> list[str]:
        """Returns lines about the split for the start of a run."""

    @staticmethod
    def compare(
        evaluators: Sequence[Any], read_results: Callable[[Any], list[dict]]
    ) -> dict[str, float]:
        """Returns metrics, named `SPLIT/NAME`, that compare splits with one another.

        Args:
          evaluators: those of all splits.
          read_results: returns the results on a split.
        """

    @staticmethod
    def scene(split: Any, index: int, side: int) -> np.ndarray:
        """Draws an image of a split with its annotations.

        Returns:
          uint8 RGB [H, W, 3] with a longer side of `side` pixels.
        """

    def batches(self, process_index: int = 0, process_count: int = 1) -> Batches:
        """Yields every image of the split once, in order.

        `mask` is False on the rows that pad the last batch. Of several processes each
        yields its own rows of every batch.
        """

    def results(self, image_id: int, prediction: Any) -> list[dict]:
        """Returns one image's prediction as JSON objects."""

    def observe(self, prediction: Any) -> Any:
        """Returns the part of one image's prediction that `measure` needs."""

    def score(self, results: list[dict]) -> dict[str, float]:
        """Returns the metrics of the results on the split."""

    def analyze(self, results: list[dict], points: Sequence[str] = ()) -> dict:
        """Explains the results for people, as JSON; {} if there is nothing to explain.

        Args:
          results: the results on the split.
          points: names of operating points in addition to `best_f1` (curves.py).
        """

    def measure(self, observations: list) -> dict[str, float]:
        """Returns further metrics, of the observations of all images."""

    def choosing_metrics(self) -> tuple[str, ...]:
        """Returns the metrics of `score` that may choose the best checkpoint.

        They are defined on the split, and larger is better.
        """

    def default_metric(self) -> str | None:
        """Returns the metric that chooses it by default; None if none is defined."""

    def pictures(
        self, results: list[dict], analysis: Mapping[str, Any], step: int
    ) -> Mapping[str, np.ndarray]:
        """Draws report.num_pictures images: annotations left, predictions right.

        Args:
          results: the results on the split.
          analysis: what `analyze` returns for them.
          step: the step of the checkpoint, for the caption.

        Returns:
          uint8 RGB [H, W, 3] by name.
        """


class Data(NamedTuple):
    """The data of a run, opened and checked.

    Attributes:
      train: the training split.
      evaluators: one for each of dataset.eval_splits.
      boxes: counts of changed boxes by split, for dataset.json.
      notices: lines for the start of the run.
      folds: with dataset.folds, the folds and their images; {} without.
    """

    train: Any
    evaluators: list[Evaluator]
    boxes: dict[str, dict[str, int]]
    notices: tuple[str, ...] = ()
    folds: Mapping[str, Any] = types.MappingProxyType({})


def frozen_modules(
    config: ml_collections.ConfigDict, stages: Sequence[Sequence[str]]
) -> tuple[str, ...]:
    """Returns the modules of the first `model.frozen` stages of a trunk.

    Raises:
      InputError: the trunk has fewer stages.
    """
    count = config.model.frozen
    if count > len(stages):
        last = " and ".join(name.removeprefix("trunk/") for name in stages[-1])
        raise InputError(
            f"model.frozen is {count}; this trunk has {len(stages)} stages, the last "
            f"with {last}: choose 0 to {len(stages)}"
        )
    return tuple(itertools.chain.from_iterable(stages[:count]))


def init_variables(
    model: nn.Module, key: Array, input_size: tuple[int, int]
) -> dict[str, dict]:
    """Returns initial {params, batch_stats} of a network of images; jit-able."""
    image = jnp.zeros((1, *input_size, 3), jnp.float32)
    variables = model.init(key, image, train=False)
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }
