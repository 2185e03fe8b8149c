"""Files of a sweep: tables, records and a plot of its results and costs."""

import contextlib
import json
import pathlib
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from borrow_det.distributed.mesh import resolve_layout
from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.ablate import cells, model_cost, plot, summary, sweeps
from borrow_det.workdir import checkpoints, metadata


def write(
    sweep_cells: Sequence[cells.Cell],
    folder: pathlib.Path,
    argv: Sequence[str],
    latency_rounds: int,
    columns: Sequence[str],
) -> None:
    """Writes the results of the finished cells and prints the table.

    Args:
      sweep_cells: all cells of the sweep; the first one's row is the baseline.
      folder: where the files go.
      argv: the command, which the table quotes.
      latency_rounds: number of timings of each row; 0 omits the latency.
      columns: metrics of the Markdown table; the first one is drawn.

    Raises:
      InputError: no cell is finished, the finished cells have none of the columns, or
        the folder cannot be written.
    """
    finished, missing = cells.partition(sweep_cells)
    if not finished:
        raise InputError(f"--workdir={folder} holds no finished cell of this sweep")
    baseline = sweep_cells[0].row.name
    results = _results(sweep_cells, finished)
    costs = _costs(finished, baseline, latency_rounds)
    records = _records(sweep_cells, results, costs, columns)
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
    latency_rounds: int,
) -> None:
    """Writes and prints the costs of the rows' detectors, untrained.

    Args:
      rows: the first one is the baseline.
      folder: where the files go.
      argv: the command, which the table quotes.
      latency_rounds: number of timings of each row; 0 omits the latency.

    Raises:
      InputError: the dataset cannot be read, or the folder cannot be written.
    """
    tasks = {}
    for row in rows:
        split = model_cost.first_split(row.config)
        layout = resolve_layout(row.config)
        tasks[row.name] = DetectionTask(layout, len(split.class_names))
    baseline = rows[0].name
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


def _results(
    sweep_cells: Sequence[cells.Cell], finished: Sequence[cells.Cell]
) -> summary.Results:
    results: dict = {cell.row.name: {} for cell in sweep_cells}
    for cell in finished:
        results[cell.row.name][cell.seed] = cells.metrics(cell)
    return results


def _records(
    sweep_cells: Sequence[cells.Cell],
    results: summary.Results,
    costs: Mapping[str, Mapping[str, float]],
    columns: Sequence[str],
) -> list[dict[str, Any]]:
    """Returns the records of the tables; raises InputError if they have no column."""
    datasets = {c.row.name: summary.dataset_name(c.config) for c in sweep_cells}
    records = summary.summarize(results, costs, datasets)
    known = dict.fromkeys(name for record in records for name in record["metrics"])
    if not set(columns) & set(known):
        raise InputError(
            f"--metrics={','.join(columns)}: the runs have only {', '.join(known)}"
        )
    return records


def _missing(
    missing: Sequence[cells.Cell], baseline: str, without_baseline: bool
) -> str:
    """Returns notes on cells that the table leaves out."""
    names = "; ".join(map(str, missing))
    text = f"\nUnfinished cells, not included: {names}.\n" if missing else ""
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
