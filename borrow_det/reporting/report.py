"""Files for people at the start and the end of a run: scenes, curves, a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from borrow_det.io import paths
from borrow_det.tasks.task import Evaluator
from borrow_det.visualization import curves, sheets
from borrow_det.visualization.tables import (
    compared_by_split,
    error_tables,
    markdown_report,
    per_class_table,
)
from borrow_det.workdir.best import Best

# Longer tables of classes are left out of the console; report.md has all of them.
_CONSOLE_CLASSES = 30


def write_contact_sheet(
    evaluator: Evaluator, split: Any, images: int, workdir: paths.Path, seed: int
) -> None:
    """Writes `contact_sheet.jpg`, random images of a split with their annotations.

    Args:
      evaluator: draws the images.
      split: the training split.
      images: at most that many images; 0 writes no file.
      workdir: the run's work directory.
      seed: seed of the random choice.
    """
    chosen = sheets.choose(len(split), images, seed)
    if not chosen:
        return
    side = sheets.cell_side(len(chosen))
    scenes = [evaluator.scene(split, index, side) for index in chosen]
    sheets.write(workdir / "contact_sheet.jpg", scenes)


def write_report(
    evaluators: Sequence[Evaluator],
    workdir: paths.Path,
    metrics: Mapping[str, Mapping[str, float]],
    compared: Mapping[str, float],
    analyses: Mapping[str, Mapping[str, Any]],
    best: Best | None = None,
    with_curves: bool = True,
) -> str:
    """Writes `report.md` and the learning curves; returns the text for the console.

    The report has a table of the splits' main metrics, the best step, tables of details
    and of comparisons, and, for each split, tables of classes and of errors. The
    console's text leaves out errors and tables of many classes and ends with the paths
    of the files.

    Args:
      evaluators: the evaluators of the splits.
      workdir: the run's work directory.
      metrics: the metrics of each split.
      compared: the metrics that compare splits, by `SPLIT/NAME`.
      analyses: the analysis of each split; {} for a split without one.
      best: the best evaluation; None if none was chosen.
      with_curves: whether to draw `learning_curves.png`.
    """
    splits = [evaluator.split for evaluator in evaluators]
    figures = evaluators[0].figures
    reference_lines: dict[str, float] = {}
    for split in splits:
        reference_lines |= split.reference_lines
    texts = [markdown_report(metrics, reference_lines, figures.report)]
    if best is not None:
        last = metrics[best.split][best.metric]
        texts.append(
            f"Best step: {best.step}, {best.metric} {best.value:.3f} on {best.split} "
            f"(last step: {last:.3f}). Tools load it with `--step=best`."
        )
    texts += _details(figures.details, metrics, compared)
    if with_curves:
        curves.learning_curves(
            workdir / "metrics.jsonl", workdir / "learning_curves.png"
        )
    complete, shown = list(texts), list(texts)
    for split in splits if figures.per_class else ():
        table = per_class_table(
            metrics[split.name], split.class_names, figures.per_class
        )
        table = f"{split.name}, class by class:\n\n{table}"
        complete.append(table)
        if len(split.class_names) <= _CONSOLE_CLASSES:
            shown.append(table)
    for split in splits:
        if analysis := analyses[split.name]:
            complete.append(f"{split.name}:\n\n{error_tables(analysis['errors'])}")
    paths.write_whole(workdir / "report.md", "\n\n".join(complete) + "\n")
    return "\n\n".join([*shown, _files(workdir, evaluators[0].results_name)])


def _files(workdir: paths.Path, results: str) -> str:
    """Returns the paths of the files that exist, one per line."""
    names = {
        "learning curves": "learning_curves.png",
        "training scenes": "contact_sheet.jpg",
        f"pictures, figures and {results}": "evaluations",
        "checkpoints": "checkpoints",
        "results page": "results.html",
    }
    return "\n".join(
        f"{text}: {workdir / name}"
        for text, name in names.items()
        if (workdir / name).exists()
    )


def _details(
    fields: Sequence[str],
    metrics: Mapping[str, Mapping[str, float]],
    compared: Mapping[str, float],
) -> list[str]:
    """Returns the tables that follow the table of main metrics, if not empty."""
    tables = []
    if any(field in figures for figures in metrics.values() for field in fields):
        tables.append(markdown_report(metrics, {}, fields))
    splits, fields = compared_by_split(compared)
    if splits:
        tables.append(markdown_report(splits, {}, fields))
    return tables
