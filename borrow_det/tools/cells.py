"""The cells of a sweep: one run for each row and seed, made by processes of their own.

A cell is a work directory, W/ROW/seed_S. It is finished when the evaluation of each of
its splits at its last step is there; until then it is started again, and resumes.
"""

import contextlib
import os
import pathlib
import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

import ml_collections

from borrow_det import initialization, workdir
from borrow_det.errors import InputError
from borrow_det.evaluate import metrics_path, read_metrics
from borrow_det.tools.sweeps import Row


class Cell(NamedTuple):
    """One run of a sweep.

    Attributes:
      row: its variant.
      seed: config.seed.
      config: the run's, resolved.
      workdir: the run's.
      command: program and arguments that make it, or go on with it.
    """

    row: Row
    seed: int
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    command: tuple[str, ...]

    @property
    def log(self) -> pathlib.Path:
        """What its process prints."""
        return self.workdir.with_name(self.workdir.name + ".log")

    def __str__(self):
        return f"{self.row.name}, seed {self.seed}"


def make(
    rows: Sequence[Row],
    seeds: Sequence[int],
    folder: pathlib.Path,
    base_flags: Sequence[str],
) -> list[Cell]:
    """Every row with every seed, seed by seed, so that early figures are of all rows.

    Args:
      rows: of the sweep.
      seeds: values of config.seed.
      folder: the sweep's.
      base_flags: `--config=FILE` and the fields that were given for all rows, as
        `--config.field=value`.
    """
    cells = []
    for seed in seeds:
        for row in rows:
            config = row.config.copy_and_resolve_references()
            config.seed = seed
            workdir = folder / row.folder / f"seed_{seed}"
            overrides = {**row.overrides, "seed": seed}
            flags = {flag.split("=")[0]: flag for flag in base_flags}
            # In place of what was said for all: ml_collections appends to a tuple
            # that is given twice.
            for field, value in overrides.items():
                flags[f"--config.{field}"] = f"--config.{field}={value}"
            command = (
                *(sys.executable, "-m", "borrow_det.main"),
                *(*flags.values(), f"--workdir={workdir}"),
            )
            cells.append(Cell(row, seed, config, workdir, command))
    return cells


def is_finished(cell: Cell) -> bool:
    """Whether every evaluation at the last step is there.

    Raises:
      InputError: the work directory holds another run.
    """
    if (cell.workdir / "config.json").exists():
        _check_same_run(cell)
    return all(
        metrics_path(cell.workdir, split, cell.config.num_steps).exists()
        for split in cell.config.dataset.eval_splits
    )


def _check_same_run(cell):
    config = initialization.resolve_normalization(cell.config, cell.workdir)
    found = workdir.differences(workdir.load_config(cell.workdir), config)
    for field, (old, new) in found.items():
        raise InputError(
            f"{cell.workdir} was made with {field}={old}, this sweep says {new}: "
            "choose another --workdir, or remove that folder"
        )


def metrics(cell: Cell) -> dict[str, dict[str, float]]:
    """The metrics of a finished cell, by folder of `evaluations`; undefined are nan.

    Those of the splits in their order, then what compares splits.
    """
    step = cell.config.num_steps
    paths = [
        metrics_path(cell.workdir, split, step)
        for split in cell.config.dataset.eval_splits
    ]
    others = sorted((cell.workdir / "evaluations").glob(f"*/{step}.json"))
    return {path.parent.name: read_metrics(path) for path in [*paths, *others]}


def run(cells: Sequence[Cell], jobs: int, cache: pathlib.Path) -> list[Cell]:
    """Runs cells, `jobs` at a time, a line for each; returns those that failed.

    The processors of this machine are shared out among the jobs, so that these do not
    wait for each other.

    Args:
      cells: to run, in this order.
      jobs: processes at a time.
      cache: where compiled programs are kept from one seed to the next, unless
        JAX_COMPILATION_CACHE_DIR names another place.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
    }
    failed = []
    with _pool(jobs) as (pool, processes):
        begun = {
            pool.submit(_run_one, cell, environment, processes): cell for cell in cells
        }
        for count, future in enumerate(futures.as_completed(begun), start=1):
            cell, (status, seconds) = begun[future], future.result()
            if status or not is_finished(cell):
                failed.append(cell)
                outcome = f"failed with status {status}: {_last_line(cell.log)}"
            else:
                outcome = f"{seconds:.0f} s"
            print(f"[{count}/{len(cells)}] {cell}: {outcome}", flush=True)
    return failed


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[tuple[futures.Executor, set[subprocess.Popen]]]:
    """Threads with a share of the processors each; their processes end with them."""
    shares: queue.Queue[set[int]] = queue.Queue()
    cores = sorted(os.sched_getaffinity(0))
    for job in range(jobs):
        shares.put(set(cores[job::jobs]) or {cores[job % len(cores)]})
    processes: set[subprocess.Popen] = set()
    pool = futures.ThreadPoolExecutor(
        jobs, initializer=lambda: os.sched_setaffinity(0, shares.get())
    )
    try:
        yield pool, processes
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(processes):
            process.terminate()
        pool.shutdown()


def _run_one(cell, environment, processes) -> tuple[int, float]:
    """(exit status, seconds) of a cell's process."""
    start = time.monotonic()
    cell.workdir.parent.mkdir(parents=True, exist_ok=True)
    with cell.log.open("ab") as log:
        process = subprocess.Popen(
            cell.command, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        processes.add(process)
        try:
            return process.wait(), time.monotonic() - start
        finally:
            processes.discard(process)


def _last_line(log):
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed none")
