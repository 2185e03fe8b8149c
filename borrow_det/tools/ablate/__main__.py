r"""Runs a sweep of variants over several seeds and compares them.

  python -m borrow_det.tools.ablate --sweep=configs/sweeps/components.py \
      --config=configs/quickstart.py --workdir=W --seeds=5 --jobs=2

A sweep is a Python file whose function `sweep(add)` adds rows. A row is a name and the
fields in which it differs from --config. Fields for all rows are set as for a run:
--config.num_steps=240. Each row is run with each seed, as a separate process, in
W/ROW/seed_S. A second start resumes the sweep. --row=NAME, which may be repeated, runs
only these rows and the baseline (the first row, or --against=ROW).

--folds=K is for folders of images: K runs, in W/ROW/seed_S/fold_F, each evaluate a part
of the training and validation images and train on the others, so that every image is
evaluated once. Their detections are scored together.

  --mode=run        runs all unfinished cells, --jobs at once, and reports
  --mode=commands   prints one command per unfinished cell, for a Slurm or TPU array;
                    save the list to a file first, since it shrinks, and run the
                    commands from the folder where it was made
  --mode=report     reports the finished cells and runs nothing
  --mode=costs      measures parameters, FLOPs and latency of each row, untrained

Writes W/ablation.md, .csv, .json and .png. For the finished cells they have the mean
and standard deviation over seeds, the paired difference to the baseline with its 95 %
confidence intervals over seeds and over images (--bootstrap), the smallest differences
that these could have found, the accuracy of the small objects that the other runs
confuse and of the others, AP_small with the classes predicted for lenders, parameters,
FLOPs and latency. --mode=costs writes W/cost.md and W/cost.json instead. The exit
status is 1 if a cell failed.
"""

import pathlib
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import jax
from absl import flags
from ml_collections import ConfigDict

from borrow_det.config import command_line, packaged, path_flags, validate
from borrow_det.data.datasets.folder_splits import VALIDATION
from borrow_det.errors import InputError, check_choice
from borrow_det.evaluation import metric_names
from borrow_det.io import paths
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.ablate import cells, report, sweeps
from borrow_det.tools.common import cli


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    if not options.metrics:
        raise InputError("--metrics is empty: name at least one metric")
    base = command_line.resolved(options["config"])
    if options.folds:
        base.dataset.folds, base.dataset.fold = options.folds, 0
    rows = sweeps.load(options.sweep, base)
    settings = _settings(options, rows)
    selected = sweeps.select(rows, options.row, settings.baseline)
    folder = paths.local_path(options.workdir, "--workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--workdir={folder}: {error.strerror}") from error
    if options.mode == "costs":
        _check(selected)
        report.write_costs(selected, folder, argv, settings)
        return 0
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    arguments = _config_arguments(argv, base)
    sweep_cells = cells.make(
        rows, seeds, folder, arguments, options.folds, options.main
    )
    cells.check_same_program(sweep_cells)
    unfinished = []
    if options.mode != "report":
        names = [row.name for row in selected]
        unfinished = cells.partition(sweep_cells)[1]
        unfinished = [cell for cell in unfinished if cell.row.name in names]
    _check([cell.row for cell in unfinished])
    if options.mode == "commands":
        for cell in unfinished:
            print(shlex.join(("python", *cell.command[1:])))
        return 0
    failed = []
    if unfinished:
        folds = f", {options.folds} folds" if options.folds else ""
        total = len(selected) * len(seeds) * (options.folds or 1)
        print(
            f"{len(selected)} rows, {len(seeds)} seeds{folds}: {len(unfinished)} of "
            f"{total} cells to run, {options.jobs} at once"
        )
        failed = _run(unfinished, options.jobs, folder)
        cells.check_same_program(sweep_cells)
    try:
        report.write(sweep_cells, folder, argv, settings)
    except report.NothingFinishedError:
        if not failed:
            raise
    return int(bool(failed))


def _settings(
    options: flags.FlagValues, rows: Sequence[sweeps.SweepRow]
) -> report.Settings:
    """Returns the settings of the report."""
    if options.against:
        check_choice("--against", options.against, [row.name for row in rows])
    return report.Settings(
        baseline=options.against or rows[0].name,
        columns=[metric_names.current_name(name) for name in options.metrics],
        latency_rounds=options.latency_rounds,
        resamples=options.bootstrap,
    )


def _check(rows: Sequence[sweeps.SweepRow]) -> None:
    """Raises InputError for a row whose runs would fail, before hours are spent."""
    for row in {row.name: row for row in rows}.values():
        try:
            check_choice("task", row.config.task, ("detection",))
            validate.check_fields(row.config)
            _check_evaluated_splits(row.config)
            for field in ("stop_after", "num_epochs"):
                if row.config[field]:
                    raise InputError(
                        f"{field} is {row.config[field]:g}, but the runs of a sweep "
                        "are compared at the same step: set it to 0 and num_steps to "
                        "the number of steps"
                    )
            task = DetectionTask(row.config, num_classes=1)
            jax.eval_shape(task.init, jax.random.key(0))
        except InputError as error:
            raise InputError(f"row {row.name!r}: {error}") from error


def _check_evaluated_splits(config: ConfigDict) -> None:
    """Raises InputError for splits that folds do not evaluate."""
    splits = config.dataset.eval_splits
    if config.dataset.folds and not {*splits} <= {*VALIDATION}:
        raise InputError(
            f"dataset.eval_splits is {', '.join(splits)}: folds are evaluated as the "
            "entire validation split and no other; set it to ('val',)"
        )


def _run(
    unfinished: Sequence[cells.Cell], jobs: int, folder: pathlib.Path
) -> list[cells.Cell]:
    """Runs cells and returns those that failed. SIGTERM and SIGHUP end them too."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        return cells.run(unfinished, jobs, folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _config_arguments(argv: Sequence[str], base: ConfigDict) -> list[str]:
    """Returns the arguments about the config as --NAME=VALUE, for every cell."""
    found = []
    arguments = iter(argv[1:])
    for argument in arguments:
        name, given, _ = argument.lstrip("-").partition("=")
        negated = name.startswith("noconfig.")
        of_config = name.split(".")[0] == "config" or negated
        if not (argument.startswith("-") and of_config):
            continue
        field = name.removeprefix("no").removeprefix("config.")
        if negated:
            found.append(f"--config.{field}=False")
        elif given:
            found.append(f"--{argument.lstrip('-')}")
        elif _is_boolean(base, field):
            found.append(f"--{name}=True")
        else:
            found.append(f"--{name}={next(arguments)}")
    return found


def _is_boolean(config: ConfigDict, field: str) -> bool:
    value = config
    for part in field.split("."):
        value = value.get(part) if isinstance(value, ConfigDict) else None
    return isinstance(value, bool)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    path_flags.define_path(
        "sweep",
        None,
        "Python file with a function sweep(add), or the name of a packaged sweep.",
        required=True,
        flag_values=values,
    )
    packaged.define_config("config", packaged.HELP, values)
    flags.mark_flag_as_required("config", values)
    flags.DEFINE_multi_string(
        "row",
        [],
        "Row to run, with the baseline; repeat it for several (default: all rows).",
        flag_values=values,
    )
    path_flags.define_path(
        "workdir",
        None,
        "Local folder for the work directories of all cells and for the tables.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds", 3, "Number of seeds per row.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "first_seed", 0, "The first seed.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "folds",
        0,
        "Number of folds of a folder's training and validation images; 0: no folds.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "jobs",
        1,
        "Number of cells that run at once.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "mode",
        "run",
        ("run", "commands", "report", "costs"),
        "run: run unfinished cells and report; commands: print their commands; "
        "report: only report; costs: only measure costs.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "main",
        cells.MAIN,
        "Module that trains a run, with the flags of borrow_det.main.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "latency_rounds",
        50,
        "Number of timings of each row's detection in one image (0: none).",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "against",
        "",
        "Row with which the others are compared (default: the first row).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "bootstrap",
        1000,
        "Number of resamples for the intervals over images (0: neither these nor the "
        "metrics of the small objects that runs confuse).",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_list(
        "metrics",
        ["AP_small", "AP50_small", "AP", "swapped/consistency", "alone/small_accuracy"],
        "Metrics in the Markdown table; the first one is drawn.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
