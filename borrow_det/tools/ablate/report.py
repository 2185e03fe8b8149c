"""Files of a sweep: tables, records and a plot of its results and costs."""

import contextlib
import json
import pathlib
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from borrow_det.distributed.mesh import resolve_layout
from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.ablate import (
    cells,
    evaluations,
    model_cost,
    plot,
    summary,
    sweeps,
)
from borrow_det.workdir import checkpoints, metadata


class NothingFinishedError(InputError):
    """No cell of a sweep is finished."""


class Settings(NamedTuple):
    """Settings of a report.

    Attributes:
      baseline: name of the row with which the others are compared.
      columns: metrics of the Markdown table; the first one is drawn.
      latency_rounds: number of timings of each row; 0 omits the latency.
      resamples: number of resamples of the images; 0 omits the intervals over images,
        and the metrics of small_objects.py.
    """

    baseline: str
    columns: Sequence[str]
    latency_rounds: int
    resamples: int


def write(
    sweep_cells: Sequence[cells.Cell],
    folder: pathlib.Path,
    argv: Sequence[str],
    settings: Settings,
) -> None:
    """Writes the results of the finished cells and prints the table.

    Args:
      sweep_cells: all cells of the sweep.
      folder: where the files go.
      argv: the command, which the table quotes.
      settings: settings of the report.

    Raises:
      InputError: no cell is finished, or with folds not all of a row and seed; the
        finished cells have none of the columns; or the folder cannot be written.
    """
    missing = cells.partition(sweep_cells)[1]
    unfinished = {cell.workdir for cell in missing}
    complete = {
        key: members
        for key, members in evaluations.grouped(sweep_cells).items()
        if not unfinished & {cell.workdir for cell in members}
    }
    if not complete:
        folds = "" if sweep_cells[0].fold is None else ", with all of its folds"
        raise NothingFinishedError(
            f"--workdir={folder} holds no finished cell of this sweep{folds}"
        )
    finished = [cell for members in complete.values() for cell in members]
    baseline, columns = settings.baseline, settings.columns
    found, samples = _collect(complete, settings.resamples)
    names = dict.fromkeys(cell.row.name for cell in sweep_cells)
    results = {name: found.get(name, {}) for name in names}
    costs = _costs(finished, baseline, settings.latency_rounds)
    datasets = {c.row.name: summary.dataset_name(c.config) for c in sweep_cells}
    records = summary.summarize(results, costs, datasets, baseline, samples)
    _check_columns(records, columns)
    table = summary.as_markdown(records, columns)
    table += _missing(missing, baseline, not results[baseline])
    table += f"\n{_provenance(finished, folder, argv)}\n"
    with _writing(folder):
        (folder / "ablation.md").write_text(table, encoding="utf-8")
        (folder / "ablation.csv").write_text(summary.as_csv(records), encoding="utf-8")
        write_records(folder / "ablation.json", summary.by_row(records))
        plot.write(folder / "ablation.png", records, results, columns[0])
    print(table)


def write_costs(
    rows: Sequence[sweeps.SweepRow],
    folder: pathlib.Path,
    argv: Sequence[str],
    settings: Settings,
) -> None:
    """Writes and prints the costs of the rows' detectors, untrained.

    Args:
      rows: the rows, among them the baseline.
      folder: where the files go.
      argv: the command, which the table quotes.
      settings: settings of the report.

    Raises:
      InputError: the dataset cannot be read, or the folder cannot be written.
    """
    tasks = {}
    for row in rows:
        split = model_cost.first_split(row.config)
        layout = resolve_layout(row.config)
        tasks[row.name] = DetectionTask(layout, len(split.class_names))
    baseline, latency_rounds = settings.baseline, settings.latency_rounds
    costs = model_cost.measure(tasks, {}, baseline, latency_rounds)
    records = [
        {
            "name": row.name,
            "baseline": baseline,
            "dataset": summary.dataset_name(row.config),
            "input_size": row.config.input_size,
            "latency_rounds": latency_rounds,
            "cost": costs[row.name],
        }
        for row in rows
    ]
    here = _machines([metadata.environment(rows[0].config.seed)])
    table = f"{summary.cost_table(costs)}\n\n{_command(argv)}; {here}.\n"
    with _writing(folder):
        write_records(folder / "cost.json", records)
        (folder / "cost.md").write_text(table, encoding="utf-8")
    print(table)


def write_records(path: paths.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes records as a JSON list with one compact record per line.

    A file that is committed then shows in its diff which records have changed.
    """
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    paths.write_whole(path, f"[\n{lines}\n]\n")


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error


def _collect(
    groups: evaluations.Groups, resamples: int
) -> tuple[summary.Results, summary.Samples]:
    """Returns `evaluations.collect`; errors name the flag that needs no dataset."""
    try:
        return evaluations.collect(groups, resamples)
    except InputError as error:
        if not resamples:
            raise
        raise InputError(
            f"{error} (--bootstrap=0 omits what needs the images)"
        ) from error


def _check_columns(records: Sequence[Mapping], columns: Sequence[str]) -> None:
    """Raises InputError if no record has any of the columns."""
    known = dict.fromkeys(name for record in records for name in record["metrics"])
    if not set(columns) & set(known):
        raise InputError(
            f"--metrics={','.join(columns)}: the runs have only {', '.join(known)}"
        )


def _missing(
    missing: Sequence[cells.Cell], baseline: str, without_baseline: bool
) -> str:
    """Returns notes on cells that the table leaves out."""
    names = "; ".join(map(str, missing))
    text = f"\nUnfinished cells, not included: {names}.\n" if missing else ""
    if missing and missing[0].fold is not None:
        text += "\nThe other folds of their seeds are not included, either.\n"
    if without_baseline:
        text += (
            f"\nNo run of the baseline, {baseline}, is finished: no differences are "
            "shown.\n"
        )
    return text


def _provenance(
    finished: Sequence[cells.Cell], folder: pathlib.Path, argv: Sequence[str]
) -> str:
    """Returns the command, and the machines, code and time of the cells."""
    starts = [start for cell in finished for start in metadata.starts(cell.workdir)]
    seconds = cells.times(folder, finished)
    duration = (
        f", {statistics.median(seconds):.0f} s each (median of {len(seconds)})"
        if seconds
        else ""
    )
    return f"{_command(argv)}; {len(finished)} cells{duration}, {_machines(starts)}."


def _command(argv: Sequence[str]) -> str:
    return f"`python -m borrow_det.tools.ablate {shlex.join(argv[1:])}`"


def _machines(environments: Sequence[Mapping[str, Any]]) -> str:
    """Returns the hardware, JAX versions and commits of processes."""

    def values(describe: Callable[[Mapping[str, Any]], str]) -> str:
        return ", ".join(dict.fromkeys(map(describe, environments)))

    def commit(environment: Mapping[str, Any]) -> str:
        git = environment["git"] or {"commit": "unknown", "changed": False}
        return git["commit"][:12] + " (changed)" * git["changed"]

    return (
        f"on {values(lambda e: e['hardware'])}, "
        f"jax {values(lambda e: e['packages']['jax'])}, commit {values(commit)}"
    )


def _costs(
    finished: Sequence[cells.Cell], baseline: str, latency_rounds: int
) -> dict[str, dict[str, float]]:
    """Returns each row's cost, with the parameters of its first finished cell."""
    first: dict[str, cells.Cell] = {}
    for cell in finished:
        first.setdefault(cell.row.name, cell)
    tasks = {
        name: DetectionTask(
            resolve_layout(cell.config),
            len(metadata.load_classes(cell.workdir).class_names),
        )
        for name, cell in first.items()
    }
    trained = {
        name: checkpoints.restore_variables(cell.workdir)
        for name, cell in first.items()
        if latency_rounds
    }
    return model_cost.measure(tasks, trained, baseline, latency_rounds)
