r"""Runs a sweep of variants over seeds, and says what each is worth.

  python -m borrow_det.tools.ablate --sweep=configs/sweeps/components.py \
      --config=configs/quickstart.py --workdir=runs/components --seeds=5 --jobs=2

A sweep is a Python file whose `sweep(add)` adds rows, each a name and the fields in
which it differs from --config (tools/ablate/sweeps.py). Fields for all rows follow the config
as they do for a run: --config.num_steps=240. Every row is run with every seed, as a
process of its own in DIR/ROW/seed_S. Started again, it goes on where it was. --row=NAME
(several, if given several times) runs that row and the baseline alone.

  --mode=commands   prints instead the command of every cell that is not finished, one
                    a line, for a Slurm or TPU array: to be kept in a file, as the list
                    shrinks, and run from the folder where it was made
  --mode=report     runs nothing; reports what is finished by now
  --mode=costs      trains nothing; parameters, FLOPs and latency of each row

Writes DIR/ablation.md, .csv, .json and .png: of the finished cells alone, mean and
standard deviation over seeds, the paired difference to the first row with its 95 %
interval, parameters, FLOPs and latency. Exit status 1 if a cell failed.
"""

import contextlib
import pathlib
import shlex
import signal
import statistics
import sys
from collections.abc import Sequence
from typing import NoReturn

import jax
from absl import flags
from ml_collections import ConfigDict

from borrow_det.config import command_line, packaged, validate
from borrow_det.errors import InputError, check_choice
from borrow_det.io import paths
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.ablate import cells, model_cost, plot, summary, sweeps
from borrow_det.tools.common import cli
from borrow_det.workdir import checkpoints, metadata


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    if not options.metrics:
        raise InputError("--metrics names no metric")
    base = command_line.resolved(options["config"])
    rows = sweeps.load(options.sweep, base)
    chosen = sweeps.choose(rows, options.row)
    folder = paths.local_path(options.workdir, "--workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={folder}: {error.strerror}") from error
    if options.mode == "costs":
        _check(chosen)
        report_costs(chosen, folder, argv, options.latency_rounds)
        return 0
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    every = cells.make(rows, seeds, folder, _config_arguments(argv, base))
    unfinished = []
    if options.mode != "report":
        names = [row.name for row in chosen]
        unfinished = [c for c in cells.partition(every)[1] if c.row.name in names]
    _check([cell.row for cell in unfinished])
    if options.mode == "commands":
        for cell in unfinished:
            print(shlex.join(("python", *cell.command[1:])))
        return 0
    failed = []
    if unfinished:
        print(
            f"{len(chosen)} rows, {len(seeds)} seeds: {len(unfinished)} of "
            f"{len(chosen) * len(seeds)} cells to run, {options.jobs} at a time"
        )
        failed = _run(unfinished, options.jobs, folder)
    report(every, folder, argv, options.latency_rounds, options.metrics)
    return int(bool(failed))


def _check(rows):
    """Refuses what would fail hours later, cell by cell."""
    for row in {row.name: row for row in rows}.values():
        try:
            check_choice("task", row.config.task, ("detection",))
            validate.check_fields(row.config)
            task = DetectionTask(row.config, num_classes=1)
            jax.eval_shape(task.init, jax.random.key(0))
        except InputError as error:
            raise InputError(f"row {row.name!r}: {error}") from error


def _run(unfinished, jobs, folder):
    """Runs cells; a request to end reaches their processes, too."""

    def end(number, frame) -> NoReturn:
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        return cells.run(unfinished, jobs, folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config_arguments(argv: Sequence[str], base) -> list[str]:
    """What was said of the config, as --NAME=VALUE, which every cell is told."""
    found = []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, given, _ = argument.lstrip("-").partition("=")
        switch = name.startswith("noconfig.")  # Of a boolean field.
        of_config = name.split(".")[0] == "config" or switch
        if not (argument.startswith("-") and of_config):
            continue
        field = name.removeprefix("no").removeprefix("config.")
        if switch:
            found.append(f"--config.{field}=False")
        elif given:
            found.append(f"--{argument.lstrip('-')}")
        elif _is_boolean(base, field):
            found.append(f"--{name}=True")
        else:
            found.append(f"--{name}={next(arguments)}")
    return found


def _is_boolean(config, field):
    for part in field.split("."):
        config = config.get(part) if isinstance(config, ConfigDict) else None
    return isinstance(config, bool)


def report(
    every: Sequence[cells.Cell],
    folder: pathlib.Path,
    argv: Sequence[str],
    latency_rounds: int,
    columns: Sequence[str],
) -> None:
    """Writes what the finished cells say, and prints the table.

    Args:
      every: all cells of the sweep.
      folder: where the tables go.
      argv: the command, for the record.
      latency_rounds: 0 leaves the latency out.
      columns: metrics of the Markdown table; the first is drawn, too.

    Raises:
      InputError: no cell is finished, no finished one has any of the columns, or the
        folder cannot be written.
    """
    finished, missing = cells.partition(every)
    if not finished:
        raise InputError(f"--workdir={folder} holds no finished cell of this sweep")
    baseline = every[0].row.name
    results = _results(every, finished)
    costs = _costs(finished, baseline, latency_rounds)
    records = _records(every, results, costs, columns)
    table = summary.as_markdown(records, columns)
    table += _missing(missing, baseline, not results[baseline])
    table += f"\n{_provenance(finished, folder, argv)}\n"
    with _writing(folder):
        (folder / "ablation.md").write_text(table, encoding="utf-8")
        (folder / "ablation.csv").write_text(summary.as_csv(records), encoding="utf-8")
        by_row = summary.by_row(records)
        metadata.write_json(folder / "ablation.json", by_row)
        plot.write(folder / "ablation.png", records, results, columns[0])
    print(table)


@contextlib.contextmanager
def _writing(folder):
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error


def _results(every, finished):
    """Of each row: seed -> split -> metric -> value; {} where no cell is finished."""
    results = {cell.row.name: {} for cell in every}
    for cell in finished:
        results[cell.row.name][cell.seed] = cells.metrics(cell)
    return results


def _records(every, results, costs, columns):
    """What the tables are made of, if any of the columns is in it."""
    datasets = {c.row.name: summary.dataset_name(c.config) for c in every}
    records = summary.summarize(results, costs, datasets)
    known = dict.fromkeys(name for record in records for name in record["metrics"])
    if not set(columns) & set(known):
        raise InputError(
            f"--metrics={','.join(columns)}: there are only {', '.join(known)}"
        )
    return records


def _missing(missing, baseline, without_baseline):
    """What the reader of the table must know is not in it."""
    names = "; ".join(map(str, missing))
    text = f"\nNot finished, and in no figure: {names}.\n" if missing else ""
    if without_baseline:
        text += f"\nThe baseline, {baseline}, is not finished: no differences.\n"
    return text


def _provenance(finished, folder, argv):
    """The command, and on what machines, of which code and how long the cells ran."""
    starts = [start for cell in finished for start in metadata.starts(cell.workdir)]
    seconds = cells.times(folder, finished)
    duration = (
        f", {statistics.median(seconds):.0f} s each (median of {len(seconds)})"
        if seconds
        else ""
    )
    return f"{_command(argv)}; {len(finished)} cells{duration}, {_machines(starts)}."


def _command(argv):
    return f"`python -m borrow_det.tools.ablate {shlex.join(argv[1:])}`"


def _machines(environments):
    """On what, and of which code, processes with these environments ran."""

    def values(describe):
        return ", ".join(dict.fromkeys(map(describe, environments)))

    def commit(environment):
        git = environment["git"] or {"commit": "unknown", "changed": False}
        return git["commit"][:12] + " (changed)" * git["changed"]

    return (
        f"on {values(lambda e: e['hardware'])}, "
        f"jax {values(lambda e: e['packages']['jax'])}, commit {values(commit)}"
    )


def _costs(finished, baseline, latency_rounds):
    """The costs of each row that has a finished cell, with what the first learnt."""
    first = {}
    for cell in finished:
        first.setdefault(cell.row.name, cell)
    tasks = {
        name: DetectionTask(
            cell.config, len(metadata.load_classes(cell.workdir).class_names)
        )
        for name, cell in first.items()
    }
    trained = {
        name: checkpoints.restore_variables(cell.workdir)
        for name, cell in first.items()
        if latency_rounds
    }
    return model_cost.measure(tasks, trained, baseline, latency_rounds)


def report_costs(
    rows: Sequence[sweeps.Row],
    folder: pathlib.Path,
    argv: Sequence[str],
    latency_rounds: int,
) -> None:
    """Writes and prints what the rows' detectors cost, untrained.

    Args:
      rows: the first is the baseline.
      folder: where the tables go.
      argv: the command, for the record.
      latency_rounds: 0 leaves the latency out.

    Raises:
      InputError: the data set cannot be read, or the folder cannot be written.
    """
    tasks = {}
    for row in rows:
        split = model_cost.first_split(row.config)
        tasks[row.name] = DetectionTask(row.config, len(split.class_names))
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
        metadata.write_json(folder / "cost.json", records)
        (folder / "cost.md").write_text(table, encoding="utf-8")
    print(table)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "sweep",
        None,
        "Python file with sweep(add).",
        required=True,
        flag_values=values,
    )
    packaged.define_config("config", packaged.HELP, values)
    flags.mark_flag_as_required("config", values)
    flags.DEFINE_multi_string(
        "row",
        [],
        "Runs rows of these names, and the baseline; all where none is named.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of all cells and of the tables.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds", 3, "Seeds of each row.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "first_seed", 0, "The first of them.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "jobs", 1, "Cells at a time.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "mode",
        "run",
        ("run", "commands", "report", "costs"),
        "Run cells; print their commands; only report; only measure costs.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "latency_rounds",
        50,
        "Timings of each row's detection in one image; 0: none.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_list(
        "metrics",
        ["AP_small", "AP50_small", "AP", "swapped/followed", "alone/small_accuracy"],
        "Columns of the Markdown table; the first is drawn.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
