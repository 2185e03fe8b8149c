"""A complete pass over a split: every image once, then metrics, files and pictures."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from borrow_det.distributed import mesh as mesh_lib
from borrow_det.distributed import processes
from borrow_det.errors import InputError
from borrow_det.evaluation import metric_names
from borrow_det.io import json_files, paths
from borrow_det.tasks.task import EvalSet, Task
from borrow_det.visualization import annotate
from borrow_det.workdir import metadata

# The folder of what splits give together, among those of the splits.
COMPARISON = "counterfactual"


def make_predict(task: Task, mesh) -> Callable:
    """The compiled predictions of (variables, fields of a batch)."""
    split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    layout = mesh_lib.state_shardings(mesh, variables)

    on_each_device = mesh_lib.on_each_device(
        task.predict, mesh, split=(False, True), out_split=True
    )

    def predict(variables, fields):
        # Parameters that are split are gathered once, not layer by layer.
        variables = jax.lax.with_sharding_constraint(variables, whole)
        return on_each_device(variables, fields)

    return jax.jit(predict, in_shardings=(layout, split), out_shardings=whole)


def evaluate(
    task: Task,
    predict: Callable,
    variables: dict,
    eval_set: EvalSet,
    mesh,
    workdir: paths.Path,
    step: int,
    after_batch: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Evaluates one split; every process of a run takes part, the main one scores.

    It writes to `evaluations/SPLIT` what was found, as `STEP.detections.json` (or what
    `task.results` says), pictures, the truth on their left, the predictions on their
    right, to `STEP/`, and last, so that it stands for a whole evaluation, `STEP.json`.

    Args:
      task: the run's.
      predict: what `make_predict` made.
      variables: {params, batch_stats}.
      eval_set: the split.
      mesh: the run's.
      workdir: the run's.
      step: after which it is evaluated.
      after_batch: called when a batch's predictions are there; may raise.

    Returns:
      (metrics, pictures), both empty in the other processes.
    """
    to_results, results, observations = task.to_results(eval_set), [], []
    share = jax.process_index(), jax.process_count()
    with contextlib.closing(task.eval_batches(eval_set, *share)) as batches:
        for image_id, one in run_predict(
            task, predict, variables, batches, mesh, after_batch
        ):
            results += to_results(image_id, one)
            observations.append(task.observe(one))
    if not processes.is_main_process():
        return {}, []
    metrics = task.score(eval_set, results) | task.measure(observations)
    path = metrics_path(workdir, eval_set.split.name, step)
    paths.make_folder(path.parent)
    paths.write_whole(_results_path(task, path), json.dumps(results))
    pictures = task.pictures(eval_set, results)
    for name, picture in pictures.items():
        annotate.write_image(path.with_suffix("") / f"{name}.png", picture)
    _write_metrics(path, step, metrics)
    return metrics, list(pictures.values())


def compare(
    task: Task, eval_sets: Sequence[EvalSet], workdir: paths.Path, step: int
) -> dict[str, float]:
    """Holds splits that were evaluated at this step against each other.

    Reads what was found on them from their files, so that it does not matter when they
    were evaluated. Writes `evaluations/counterfactual/STEP.json` where the splits are
    such that there is something to compare.

    Returns:
      The metrics by `SPLIT/NAME`, SPLIT being the name of its folder.
    """

    def read_results(eval_set):
        path = metrics_path(workdir, eval_set.split.name, step)
        return json_files.read(_results_path(task, path))

    metrics = {}
    for name, value in task.compare(list(eval_sets), read_results).items():
        split, _, figure = name.rpartition("/")
        metrics[f"{metadata.folder_name(split)}/{figure}"] = value
    if metrics:
        path = metrics_path(workdir, COMPARISON, step)
        paths.make_folder(path.parent)
        _write_metrics(path, step, metrics)
    return metrics


def check_splits(splits: Sequence[str]) -> None:
    """Refuses splits of which two would have one folder, or that of comparisons.

    Raises:
      InputError: names them.
    """
    folders = {COMPARISON: "what compares splits"}
    for split in splits:
        other = folders.setdefault(metadata.folder_name(split), split)
        if other != split or splits.count(split) > 1:
            raise InputError(
                f"dataset.eval_splits: the evaluations of {split} and of {other} would "
                f"have one folder, {metadata.folder_name(split)}"
            )


def metrics_path(workdir: paths.Path, split: str, step: int) -> paths.Path:
    """Where an evaluation's metrics stand; the file exists when it is complete."""
    return (
        paths.as_path(workdir)
        / "evaluations"
        / metadata.folder_name(split)
        / f"{step}.json"
    )


def read_metrics(path: paths.Path) -> dict[str, float]:
    """The metrics of an earlier evaluation; undefined ones are nan."""
    record = json_files.read(path)
    del record["step"]
    metrics = {name: np.nan if v is None else v for name, v in record.items()}
    return metric_names.with_current_names(metrics)


def run_predict(
    task: Task,
    predict: Callable,
    variables: dict,
    batches: Iterable[Mapping[str, np.ndarray]],
    mesh,
    after_batch: Callable[[], None] = lambda: None,
) -> Iterator[tuple[int, Any]]:
    """Yields (image_id, predictions) of every image that a mask does not exclude.

    Of the global batch, whichever process has read an image: all of them get all.
    """
    for batch in batches:
        fields = {name: batch[name] for name in task.predict_fields}
        found = jax.device_get(predict(variables, mesh_lib.put_batch(fields, mesh)))
        ids = processes.all_rows(batch["image_id"])
        for i in np.flatnonzero(processes.all_rows(batch["mask"])):
            yield int(ids[i]), jax.tree.map(lambda x, i=i: x[i], found)
        after_batch()


def _results_path(task, path):
    return path.with_suffix(f".{task.results}.json")


def _write_metrics(path, step, metrics):
    finite = {k: v if np.isfinite(v) else None for k, v in metrics.items()}
    metadata.write_json(path, {"step": step, **finite})
