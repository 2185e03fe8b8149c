"""Tasks by name: the kinds of run, and their data."""

import contextlib

import ml_collections

from borrow_det.errors import InputError
from borrow_det.tasks.classification import (
    ClassificationEvaluator,
    ClassificationTask,
)
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tasks.task import Data, Evaluator, Task
from borrow_det.workdir import metadata

TASKS: dict[str, type[Task]] = {
    "detection": DetectionTask,
    "classification": ClassificationTask,
}
EVALUATORS: dict[str, type[Evaluator]] = {
    "detection": DetectionEvaluator,
    "classification": ClassificationEvaluator,
}


def open_data(
    config: ml_collections.ConfigDict, classes: metadata.Classes | None = None
) -> Data:
    """Opens and checks the splits that `config.dataset` names.

    Args:
      config: the run's configuration.
      classes: classes of the run that resumes, by label; None for a new run.

    Raises:
      InputError: a split is unknown, empty or unsuitable, or a field is wrong.
    """
    kind, dataset = EVALUATORS[config.task], config.dataset
    train, *others = kind.open_splits(
        config, (dataset.train_split, *dataset.eval_splits)
    )
    if classes is not None:
        # The check of the work directory refuses other classes.
        with contextlib.suppress(InputError):
            train, *others = [
                split.with_classes(*classes) for split in (train, *others)
            ]
    boxes = {split.name: dict(split.counts) for split in others}
    counts, notices = kind.check_training_split(train, config)
    boxes[train.name] = {**train.counts, **counts}
    evaluators = [kind(split, config) for split in others]
    for evaluator in evaluators:
        notices += evaluator.notices()
    notices = [*train.notices, *notices]
    return Data(train, evaluators, boxes, tuple(notices), train.folds)
