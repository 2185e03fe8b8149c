"""Evaluations of a sweep's cells: metrics, folds scored together, and resamples.

With folds, the detections of a row and seed are scored together, as those of a single
evaluation of all images: every image is evaluated once, by the run that did not train
on it. The files of this evaluation are in W/ROW/seed_S/pooled/SPLIT. Metrics of the
attention are not computed from detections: they are means over the folds, weighted by
the number of small objects with a lender (attention/objects).
"""

import functools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from borrow_det import evaluate
from borrow_det.data import sources
from borrow_det.evaluation import bootstrap, confused_objects
from borrow_det.evaluation.bootstrap import Samples
from borrow_det.io import json_files
from borrow_det.tasks import detection_samples
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tools.ablate import cells, small_objects, summary
from borrow_det.workdir import metadata

POOLED = "pooled"  # Folder of the evaluations of all folds together.
# Parts of a configuration on which the evaluation of given detections depends.
_EVALUATION = ("dataset", "evaluation", "references", "input_size")

# Cells by row and seed: one cell, or one for each fold.
Groups = Mapping[tuple[str, int], Sequence[cells.Cell]]


def grouped(sweep_cells: Sequence[cells.Cell]) -> Groups:
    """Groups cells by row and seed."""
    groups: dict[tuple[str, int], list[cells.Cell]] = {}
    for cell in sweep_cells:
        groups.setdefault((cell.row.name, cell.seed), []).append(cell)
    return groups


def collect(groups: Groups, resamples: int) -> tuple[summary.Results, summary.Samples]:
    """Returns the metrics of finished cells, and their metrics on resamples.

    Args:
      groups: finished cells; with folds, all of those of a row and seed.
      resamples: number of resamples of the images; 0 omits these, and the metrics of
        small_objects.py.

    Returns:
      row -> seed -> split -> metric -> value, and row -> seed -> split -> `Samples`.

    Raises:
      InputError: the dataset of the cells cannot be opened. It is not opened without
        folds and resamples.
    """
    results: dict = {}
    samples: dict = {}
    answers: small_objects.Answers = {}
    opened = _Opened()
    bar = tqdm.tqdm(
        groups.items(), unit="run", leave=False, disable=not sys.stderr.isatty()
    )
    for (row, seed), members in bar:
        evaluations = []
        if members[0].fold is not None or resamples:
            splits = members[0].config.dataset.eval_splits
            evaluations = [opened.evaluation(members, split) for split in splits]
        results.setdefault(row, {})[seed] = (
            cells.metrics(members[0])
            if members[0].fold is None
            else {one.folder: _score(members, one) for one in evaluations}
        )
        if not resamples:
            continue
        samples.setdefault(row, {})[seed] = _resample(evaluations, resamples)
        for one in evaluations:
            metrics, found = small_objects.measure(*one)
            results[row][seed][one.folder] |= metrics
            answers.setdefault((row, seed), {})[one.folder] = found
    _add_confused(results, samples, answers, resamples)
    return results, samples


def _add_confused(
    results: dict, samples: dict, answers: small_objects.Answers, resamples: int
) -> None:
    """Adds the metrics of the small objects that other runs confuse, and the others."""
    for (row, seed, split), found in small_objects.outcomes(answers).items():
        results[row][seed][split] |= confused_objects.metrics(found)
        units, values = samples[row][seed][split]
        weights = _draw(len(units.keys), resamples)
        shares = {
            name: bootstrap.resampled_share(flags, units, weights)
            for name, flags in found.items()
        }
        samples[row][seed][split] = Samples(units, {**values, **shares})


class _Evaluation(NamedTuple):
    """Detections on a split.

    Attributes:
      evaluator: evaluator of the split; with folds, of all their images.
      results: the detections.
    """

    evaluator: DetectionEvaluator
    results: list[dict]

    @property
    def folder(self) -> str:
        """Name of the split's folder."""
        return metadata.folder_name(self.evaluator.split.name)


class _Opened:
    """Evaluators by what they depend on, since many cells have the same data."""

    def __init__(self) -> None:
        self._evaluators: dict[str, DetectionEvaluator] = {}

    def evaluation(self, members: Sequence[cells.Cell], split: str) -> _Evaluation:
        """Returns the evaluation of a cell, or of all folds together."""
        key = "".join(_key(cell, split) for cell in members)
        if key not in self._evaluators:
            parts = [_open(cell, split) for cell in members]
            self._evaluators[key] = DetectionEvaluator(
                parts[0] if len(parts) == 1 else sources.joined(parts),
                members[0].config,
            )
        evaluator = self._evaluators[key]
        results = []
        for cell in members:
            path = evaluate.metrics_path(cell.workdir, split, cell.config.num_steps)
            results += json_files.read(evaluate.results_path(evaluator, path))
        return _Evaluation(evaluator, results)


def _open(cell: cells.Cell, split: str) -> sources.Split:
    (opened,) = DetectionEvaluator.open_splits(cell.config, [split])
    return opened.with_classes(*metadata.load_classes(cell.workdir))


def _key(cell: cells.Cell, split: str) -> str:
    fields = cell.config.to_dict()
    parts = [fields[name] for name in _EVALUATION]
    return json.dumps([split, *parts, metadata.load_classes(cell.workdir)])


def _score(members: Sequence[cells.Cell], pooled: _Evaluation) -> dict[str, float]:
    """Scores the detections of all folds together, and writes the evaluation."""
    evaluator, results = pooled
    step = members[0].config.num_steps
    split = evaluator.split.name
    of_folds = [
        evaluate.read_metrics(evaluate.metrics_path(cell.workdir, split, step))
        for cell in members
    ]
    metrics = evaluator.score(results)
    for name in dict.fromkeys(name for of_fold in of_folds for name in of_fold):
        if name not in metrics:
            metrics[name] = _pooled(name, of_folds)
    path = members[0].workdir.parent / POOLED / pooled.folder / f"{step}.json"
    evaluate.write_results(evaluator, path, results)
    evaluate.write_metrics(path, metrics)
    return metrics


def _pooled(name: str, of_folds: Sequence[Mapping[str, float]]) -> float:
    """Returns the sum of numbers of objects, or the mean weighted by them."""
    group, _, figure = name.rpartition("/")
    values = np.array([of_fold.get(name, math.nan) for of_fold in of_folds])
    if figure == "objects":
        return float(np.nansum(values))
    counts = np.array([of_fold.get(f"{group}/objects", 0.0) for of_fold in of_folds])
    known = np.isfinite(values) & (counts > 0)
    if not known.any():
        return math.nan
    return float(np.average(values[known], weights=counts[known]))


def _resample(evaluations: Sequence[_Evaluation], count: int) -> dict[str, Samples]:
    """Returns the resampled metrics of each split, and of their comparison."""
    units = {
        e.evaluator.split.name: detection_samples.units(e.evaluator)
        for e in evaluations
    }
    found = {}
    for one in evaluations:
        own = units[one.evaluator.split.name]
        values = detection_samples.metrics(*one, own, _draw(len(own.keys), count))
        found[one.folder] = Samples(own, values)
    factual = {e.evaluator.split.counterfactual_of for e in evaluations} & {*units}
    if factual:
        results = {id(e.evaluator): e.results for e in evaluations}
        own = units[min(factual)]
        # A resample draws the images of one factual split: other splits must show them.
        values = detection_samples.compared(
            [
                e.evaluator
                for e in evaluations
                if units[e.evaluator.split.name].of_image.keys() <= own.of_image.keys()
            ],
            lambda evaluator: results[id(evaluator)],
            own,
            _draw(len(own.keys), count),
        )
        named = {evaluate.comparison_name(name): v for name, v in values.items()}
        found[evaluate.COMPARISON] = Samples(own, named)
    return found


@functools.lru_cache(maxsize=4)
def _draw(units: int, count: int) -> np.ndarray:
    return bootstrap.draw(units, count)
