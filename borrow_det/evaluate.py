"""A complete pass over a split: every image once, then metrics, files and pictures."""

import contextlib
import json
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from borrow_det.distributed import mesh as mesh_lib
from borrow_det.distributed import processes
from borrow_det.errors import InputError
from borrow_det.evaluation import metric_names
from borrow_det.evaluation.curves import BEST_F1
from borrow_det.io import json_files, paths
from borrow_det.tasks import EVALUATORS, TASKS
from borrow_det.tasks.evaluation_tiles import TileOptions
from borrow_det.tasks.task import Evaluator, Task
from borrow_det.visualization import annotate
from borrow_det.workdir import checkpoints, metadata, operating_points
from borrow_det.workdir.best import LAST, find_step

# The folder of the metrics that compare splits, beside the folders of the splits.
COMPARISON = "counterfactual"


def make_predict(task: Task, mesh: Mesh) -> Callable:
    """Compiles the predictions: (variables, fields of a batch) -> predictions."""
    split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    variables = jax.eval_shape(task.init, jax.random.key(0))

    on_each_device = mesh_lib.on_each_device(
        task.predict, mesh, split=(False, True), out_split=True
    )

    def predict(variables: dict, fields: dict[str, jax.Array]) -> Any:
        # Sharded parameters are gathered once, not layer by layer.
        variables = jax.lax.with_sharding_constraint(variables, whole)
        return on_each_device(variables, fields)

    shardings = mesh_lib.state_shardings(mesh, variables)
    return jax.jit(predict, in_shardings=(shardings, split), out_shardings=whole)


class Predictor:
    """The predictions of a task on a mesh, image by image."""

    def __init__(self, task: Task, mesh: Mesh):
        self._fields = task.predict_fields
        self._mesh = mesh
        self._predict = make_predict(task, mesh)

    def predict(
        self,
        variables: dict,
        batches: Iterable[Mapping[str, np.ndarray]],
        after_batch: Callable[[int], None] = lambda images: None,
    ) -> Iterator[tuple[int, Any]]:
        """Yields (image id, prediction) of every image that its mask includes.

        Every process gets the predictions of all images.

        Args:
          variables: {params, batch_stats}.
          batches: this process's rows of the batches.
          after_batch: called with the number of images so far; may raise.
        """
        images = 0
        for batch in batches:
            rows = {name: batch[name] for name in self._fields}
            fields = mesh_lib.put_batch(rows, self._mesh)
            predictions = jax.device_get(self._predict(variables, fields))
            ids = processes.all_rows(batch["image_id"])
            included = np.flatnonzero(processes.all_rows(batch["mask"]))
            for i in included:
                yield int(ids[i]), jax.tree.map(lambda x, i=i: x[i], predictions)
            images += len(included)
            after_batch(images)


def evaluate(
    predictor: Predictor,
    variables: dict,
    evaluator: Evaluator,
    path: paths.Path,
    after_batch: Callable[[int], None] = lambda images: None,
    points: Sequence[str] = (),
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Evaluates one split; every process of a run takes part, the main one scores.

    Writes the metrics to `path`, `FOLDER/STEP.json`, and next to it the results to
    `STEP.{results_name}.json`, their analysis (`Evaluator.analyze`) to
    `STEP.analysis.json`, and pictures to `STEP/`. The file of the metrics is written
    last, and marks a complete evaluation.

    Args:
      predictor: the task's predictions.
      variables: {params, batch_stats}.
      evaluator: evaluates the split.
      path: the file of the metrics; see `metrics_path`.
      after_batch: called with the number of images so far; may raise.
      points: names of operating points to find in addition to `best_f1`.

    Returns:
      (metrics, pictures), both empty in the other processes.
    """
    results, observations = [], []
    share = jax.process_index(), jax.process_count()
    with contextlib.closing(evaluator.batches(*share)) as batches:
        for image_id, prediction in predictor.predict(variables, batches, after_batch):
            results += evaluator.results(image_id, prediction)
            observations.append(evaluator.observe(prediction))
    if not processes.is_main_process():
        return {}, []
    metrics = evaluator.score(results) | evaluator.measure(observations)
    analysis = write_results(evaluator, path, results, points)
    pictures = evaluator.pictures(results, analysis, int(path.stem))
    for name, picture in pictures.items():
        file = path.with_suffix("") / paths.fitting_name(name, ".png")
        annotate.write_image(file, picture)
    write_metrics(path, metrics)
    return metrics, list(pictures.values())


def write_results(
    evaluator: Evaluator,
    path: paths.Path,
    results: list[dict],
    points: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the results of an evaluation, and their analysis, which it returns.

    Args:
      evaluator: evaluator of the split.
      path: the file of the metrics; see `metrics_path`.
      results: the results on the split.
      points: names of operating points to find in addition to `best_f1`.
    """
    paths.make_folder(path.parent)
    paths.write_whole(results_path(evaluator, path), json.dumps(results))
    analysis = evaluator.analyze(results, points)
    if analysis:
        paths.write_whole(analysis_path(path), json.dumps(analysis))
    return analysis


def compare(
    evaluators: Sequence[Evaluator], workdir: paths.Path, step: int
) -> dict[str, float]:
    """Compares the splits that were evaluated at this step with one another.

    The results are read from their files, so that the splits may have been evaluated at
    different times. Writes `evaluations/counterfactual/STEP.json` if there are metrics.

    Returns:
      The metrics by `SPLIT/NAME`; SPLIT is the name of the split's folder.
    """
    if not evaluators:
        return {}

    def read_results(evaluator: Evaluator) -> list[dict]:
        path = metrics_path(workdir, evaluator.split.name, step)
        return json_files.read(results_path(evaluator, path))

    compared = type(evaluators[0]).compare(evaluators, read_results)
    metrics = {comparison_name(name): value for name, value in compared.items()}
    if metrics:
        path = metrics_path(workdir, COMPARISON, step)
        paths.make_folder(path.parent)
        write_metrics(path, metrics)
    return metrics


def comparison_name(name: str) -> str:
    """Returns the name of a metric, `SPLIT/NAME`, with that of the split's folder."""
    split, _, figure = name.rpartition("/")
    return f"{metadata.folder_name(split)}/{figure}"


class Evaluated(NamedTuple):
    """The result of `evaluate_run`.

    Attributes:
      evaluator: the evaluator of the split.
      step: the step of the checkpoint.
      path: the file of the metrics.
      metrics: the metrics.
      points: the operating points that were found, None for a point that no score
        reaches; {} for a classifier.
      stored: names of the points that the work directory did not have.
    """

    evaluator: Evaluator
    step: int
    path: paths.Path
    metrics: dict[str, float]
    points: Mapping[str, Mapping[str, float] | None] = types.MappingProxyType({})
    stored: Sequence[str] = ()


def evaluate_run(
    workdir: str | os.PathLike,
    split: str,
    *,
    step: int | str | None = LAST,
    path: str | os.PathLike | None = None,
    group: str | None = None,
    output: str | os.PathLike | None = None,
    points: Sequence[str] = (),
    tiles: str | None = None,
    overlap: float | None = None,
    evaluating: Callable[
        [Any], AbstractContextManager[Callable[[int], None]]
    ] = lambda split: contextlib.nullcontext(lambda images: None),
) -> Evaluated:
    """Evaluates a trained run on any split of its dataset, or of a folder.

    Apart from the files of this evaluation and new operating points, nothing in the
    work directory changes. An evaluation that exists is only completed: by its
    analysis, by operating points, and by its plots and page, which the caller writes.

    Args:
      workdir: the work directory of the run.
      split: the split's name, slices included.
      step: the checkpoint's step, "best" or "last"; None is the last.
      path: a folder (dataset.path of dataset.name=folder) to evaluate on
        instead of the run's dataset; its classes must be among the run's.
      group: with `path`, references.field for the folder; None: as the run.
      output: the folder for `STEP.json`, results and pictures; default:
        `WORKDIR/evaluations/SPLIT`, with the folder's name before SPLIT if `path` is
        given, and `tiles` and `overlap` after it. If a folder is given, no operating
        points are stored in the work directory.
      points: names of operating points to find and store (evaluation/curves.py);
        `best_f1` of the run's first evaluation split is stored in any case.
      tiles: "auto" or "ROWSxCOLUMNS" to evaluate images of any size by tiles, "none" to
        evaluate entire images; None: as the run.
      overlap: overlap of neighboring tiles as a fraction of a side, in [0, 0.9]; None:
        as the run.
      evaluating: returns a context for an evaluation of a split; it yields a function
        that is called with the number of images so far (RunLog.evaluating).

    Raises:
      InputError: the run, checkpoint or split does not exist, the classes differ, or
        the evaluation exists already and nothing is left to add to it.
    """
    config = metadata.load_config(workdir)
    config.unlock()
    options = TileOptions(tiles, overlap)
    wanted = {"operating points": points, "tiles": options, "groups": group is not None}
    if config.task != "detection" and any(wanted.values()):
        absent = next(name for name, value in wanted.items() if value)
        raise InputError(
            f"{workdir} is a run of task={config.task}: it has no {absent}"
        )
    if group is not None and path is None:
        raise InputError("group is for another folder: give path, too")
    classes = metadata.load_classes(workdir)
    step = find_step(workdir, step)
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": 1})
    place = split
    # A score is chosen by default on the first evaluation split, as the run sees it.
    chooses = path is None and not options and split == config.dataset.eval_splits[0]
    if path is not None:
        config.dataset.name, config.dataset.path = "folder", os.fspath(path)
        config.dataset.folds = config.dataset.fold = 0
        if group is not None:
            config.references.field = group
        # Its training images are held out only if they are asked for as validation.
        config.dataset.train_split, config.dataset.eval_splits = "train", (split,)
        place = f"{paths.as_path(path).name}_{split}"
    kind = EVALUATORS[config.task]
    place += options.suffix()
    file = metrics_path(paths.as_path(workdir), place, step)
    if output is not None:
        file = paths.as_path(output) / file.name
    (opened,) = kind.open_splits(config, [split])
    opened = opened.with_classes(*classes)
    if options:
        sizes = ((image["height"], image["width"]) for image in opened.descriptions)
        options.apply(config, sizes)
    # Figures do not depend on the batch: it may grow to a multiple of the devices.
    config.eval_batch_size = -(-config.eval_batch_size // mesh.size) * mesh.size
    evaluator = kind(opened, config)
    existed, analyzed = paths.exists(file), paths.exists(analysis_path(file))
    if existed and group is not None:
        raise InputError(_exists(file))  # It may have other groups.
    if existed:
        metrics = read_metrics(file)
    else:
        variables = jax.device_get(checkpoints.restore_variables(workdir, step))
        layout = mesh_lib.resolve_layout(config)
        task = TASKS[config.task](layout, len(classes.class_names))
        predictor = Predictor(task, mesh)
        with evaluating(opened) as show:
            metrics, _ = evaluate(predictor, variables, evaluator, file, show, points)
    analysis = complete(evaluator, file, points)
    found = analysis.get("operating_points", {})
    stored = []
    if analysis and output is None:
        names = (BEST_F1, *points) if chooses else points
        chosen = {name: found[name] for name in names}
        stored = operating_points.add(workdir, step, chosen, place, analysis["iou"])
    page = config.report.page_images > 0
    lacks = analysis and (not analyzed or _lacks_pictures(file, page))
    if existed and not (points or stored or lacks):
        raise InputError(_exists(file))
    return Evaluated(evaluator, step, file, metrics, found, stored)


def _exists(file: paths.Path) -> str:
    return f"{file} exists: choose another folder with --output"


def _lacks_pictures(path: paths.Path, page: bool) -> bool:
    """Returns whether an evaluation lacks its plots, or its page if it has one."""
    absent = not paths.exists(plots_folder(path))
    return absent or (page and not paths.exists(page_path(path)))


def complete(
    evaluator: Evaluator, path: paths.Path, points: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the analysis of an evaluation, and writes its file if it is absent.

    Evaluations of earlier versions have none.

    Args:
      evaluator: the evaluator of the split.
      path: the file of the metrics, which exists.
      points: names of operating points that the returned analysis must have.
    """
    stored = read_analysis(path)
    if stored and set(points) <= stored["operating_points"].keys():
        return stored
    results = json_files.read(results_path(evaluator, path))
    analysis = evaluator.analyze(results, points)
    if analysis and not stored:
        paths.write_whole(analysis_path(path), json.dumps(analysis))
    return analysis


def keep_operating_points(
    workdir: paths.Path, split: str, step: int
) -> Mapping[str, Mapping[str, Any]]:
    """Stores the points of a run's evaluation; returns those that the step has."""
    analysis = read_analysis(metrics_path(workdir, split, step))
    if not analysis:  # A classifier, or an evaluation by an earlier version.
        return {}
    points = analysis["operating_points"]
    operating_points.add(workdir, step, points, split, analysis["iou"])
    return operating_points.load(workdir, step, split).points


def check_splits(splits: Sequence[str]) -> None:
    """Refuses splits that would share a folder, or take that of comparisons.

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
    """Returns the file of an evaluation's metrics; it exists if that is complete."""
    return (
        paths.as_path(workdir)
        / "evaluations"
        / metadata.folder_name(split)
        / f"{step}.json"
    )


def analysis_path(path: paths.Path) -> paths.Path:
    """Returns the file of an evaluation's analysis, next to that of its metrics."""
    return path.with_suffix(".analysis.json")


def page_path(path: paths.Path) -> paths.Path:
    """Returns the file of an evaluation's results page, next to its metrics."""
    return path.with_suffix(".html")


def plots_folder(path: paths.Path) -> paths.Path:
    """Returns the folder of an evaluation's plots (reporting/evaluation_plots.py)."""
    return path.with_suffix(".plots")


def read_analysis(path: paths.Path) -> dict[str, Any]:
    """Reads the analysis of an evaluation.

    Args:
      path: the file of its metrics.

    Returns:
      See `Evaluator.analyze`; {} if there is none.
    """
    file = analysis_path(path)
    return json_files.read(file) if paths.exists(file) else {}


def read_metrics(path: paths.Path) -> dict[str, float]:
    """Reads the metrics of an earlier evaluation; undefined ones are nan."""
    record = json_files.read(path)
    del record["step"]
    metrics = {name: np.nan if v is None else v for name, v in record.items()}
    return metric_names.with_current_names(metrics)


def results_path(evaluator: Evaluator, path: paths.Path) -> paths.Path:
    """Returns the file of the results, next to that of the metrics."""
    return path.with_suffix(f".{evaluator.results_name}.json")


def write_metrics(path: paths.Path, metrics: Mapping[str, float]) -> None:
    """Writes the file of an evaluation's metrics; undefined ones are null."""
    finite = {k: v if np.isfinite(v) else None for k, v in metrics.items()}
    metadata.write_json(path, {"step": int(path.stem), **finite})
