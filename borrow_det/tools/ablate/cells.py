"""Cells of a sweep: one run per row, seed and fold, each in a separate process.

A cell is a work directory, W/ROW/seed_S, or W/ROW/seed_S/fold_F with folds. It is
finished once its run has written its report, the last file of a run. Until then each
start of the sweep resumes it.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import IO, NamedTuple, Self

import ml_collections

from borrow_det.errors import InputError
from borrow_det.evaluate import metrics_path, read_metrics
from borrow_det.io import paths
from borrow_det.tools.ablate.sweeps import SweepRow
from borrow_det.weights import named
from borrow_det.workdir import checkpoints, init_from, metadata

MAIN = "borrow_det.main"  # Module that trains a run.
TIMES = "cells.jsonl"  # File in the sweep's folder with the seconds of each process.
# Fields and groups of fields that do not affect the results; they may differ between
# machines. A split that is added later is evaluated when the cell is started again.
_IMMATERIAL = (
    *("log_every", "checkpoint_every", "keep_checkpoints", "report", "eval_batch_size"),
    *("dataset.data_dir", "dataset.num_threads", "dataset.num_workers"),
    "dataset.eval_splits",
)
_MEMORY_SHARE = 0.9  # Part of a GPU's memory that all jobs on it may use together.


class Cell(NamedTuple):
    """One run of a sweep.

    Attributes:
      row: variant of the sweep.
      seed: value of config.seed.
      config: resolved config of the run.
      workdir: work directory of the run.
      command: program and arguments that start or resume the run.
      fold: value of config.dataset.fold; None without folds.
    """

    row: SweepRow
    seed: int
    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    command: tuple[str, ...]
    fold: int | None = None

    @property
    def log(self) -> pathlib.Path:
        """File with the output of the cell's process."""
        return self.workdir.with_name(self.workdir.name + ".log")

    def __str__(self) -> str:
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.row.name}, seed {self.seed}{fold}"


def make(
    rows: Sequence[SweepRow],
    seeds: Sequence[int],
    folder: pathlib.Path,
    base_flags: Sequence[str],
    folds: int = 0,
    main: str = MAIN,
) -> list[Cell]:
    """Returns the cells of all rows, seeds and folds.

    They are ordered by seed and fold, so that the first results cover all rows.

    Args:
      rows: rows of the sweep.
      seeds: values of config.seed.
      folder: folder of the sweep.
      base_flags: `--config=FILE` and the fields given for all rows, as
        `--config.field=value`.
      folds: number of folds; 0 for none.
      main: module that trains a run.
    """
    return [
        _make_cell(row, seed, folder, base_flags, folds, fold, main)
        for seed in seeds
        for fold in (range(folds) if folds else (None,))
        for row in rows
    ]


def _make_cell(
    row: SweepRow,
    seed: int,
    folder: pathlib.Path,
    base_flags: Sequence[str],
    folds: int,
    fold: int | None,
    main: str,
) -> Cell:
    workdir = folder / row.folder / f"seed_{seed}"
    own: dict[str, int] = {"seed": seed}
    if fold is not None:
        workdir /= f"fold_{fold}"
        own |= {"dataset.folds": folds, "dataset.fold": fold}
    config = row.config.copy_and_resolve_references()
    config.update_from_flattened_dict(own)
    flags = {flag.split("=")[0]: flag for flag in base_flags}
    # Replace the flags for all rows: ml_collections appends to a tuple that is given
    # twice.
    for field, value in {**row.overrides, **own}.items():
        flags[f"--config.{field}"] = f"--config.{field}={value}"
    command = (
        *(sys.executable, "-m", main),
        *(*flags.values(), f"--workdir={workdir}"),
    )
    return Cell(row, seed, config, workdir, command, fold)


def partition(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Splits cells into (finished, unfinished); see `is_finished`."""
    finished: list[Cell] = []
    unfinished: list[Cell] = []
    for cell in cells:
        (finished if is_finished(cell) else unfinished).append(cell)
    return finished, unfinished


def is_finished(cell: Cell) -> bool:
    """Returns True if the run has its last checkpoint, its evaluations and its report.

    Raises:
      InputError: the work directory holds a run with another config.
    """
    _check_layout(cell)
    if (cell.workdir / "config.json").exists():
        _check_same_run(cell)
    step = cell.config.num_steps
    return (
        (cell.workdir / "report.md").exists()
        and checkpoints.newest_step(cell.workdir) == step
        and all(path.exists() for path in _split_paths(cell))
    )


def _split_paths(cell: Cell) -> list[paths.Path]:
    return [
        metrics_path(cell.workdir, split, cell.config.num_steps)
        for split in cell.config.dataset.eval_splits
    ]


def _check_layout(cell: Cell) -> None:
    """Checks that a folder has not both a run and the runs of folds."""
    if cell.fold is None:
        other, what = cell.workdir / "fold_0", "runs of folds (--folds)"
    else:
        other, what = cell.workdir.parent / "config.json", "a run without folds"
    if other.exists():
        raise InputError(
            f"{other.parent} has {what}: choose another --workdir, or remove that "
            "folder"
        )


def _check_same_run(cell: Cell) -> None:
    weights = named.load_for_start(cell.config, cell.workdir)
    config = init_from.resolve_pixel_statistics(cell.config, cell.workdir, weights)
    found = metadata.differences(metadata.load_config(cell.workdir), config)
    for field, (old, new) in found.items():
        if field in _IMMATERIAL or field.split(".")[0] in _IMMATERIAL:
            continue
        raise InputError(
            f"{cell.workdir} was made with {field}={old}, but this sweep has {new}: "
            "choose another --workdir, or remove that folder"
        )


def check_same_program(sweep_cells: Sequence[Cell]) -> None:
    """Checks that the steps of all runs, at all of their starts, are of one program.

    Raises:
      InputError: names two programs and a work directory of each.
    """
    found: dict[str, pathlib.Path] = {}
    for cell in sweep_cells:
        for start in metadata.starts(cell.workdir):
            found.setdefault(start.get("steps", metadata.STEPS), cell.workdir)
    if len(found) > 1:
        (one, its), (other, others), *_ = found.items()
        raise InputError(
            f"{its} was trained by {one}, and {others} by {other}: choose another "
            "--workdir or --main, or remove one of them"
        )


def metrics(cell: Cell) -> dict[str, dict[str, float]]:
    """Returns the metrics of a finished cell by folder of `evaluations`.

    The splits come first, in their order, then the comparisons of splits. Undefined
    metrics are nan. Former names of metrics are replaced by the present ones.
    """
    pattern = f"*/{cell.config.num_steps}.json"
    others = sorted((cell.workdir / "evaluations").glob(pattern))
    files = [*_split_paths(cell), *others]
    return {path.parent.name: read_metrics(path) for path in files}


class Share(NamedTuple):
    """Part of a machine that one of several jobs may use.

    Attributes:
      cores: numbers of the processors.
      environment: variables that restrict the job to its GPUs; {} without GPUs.
    """

    cores: set[int]
    environment: dict[str, str]


def shares(jobs: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Share]:
    """Divides processors and GPUs among jobs; if there are more jobs, they share."""
    several = -(-jobs // len(gpus)) if gpus else 1
    parts = []
    for job in range(jobs):
        environment = {}
        if gpus and jobs > 1:
            own_gpus = gpus[job::jobs] or [gpus[job % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own_gpus)
        if several > 1:
            fraction = f"{_MEMORY_SHARE / several:.3f}"
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = fraction
        own_cores = set(cores[job::jobs]) or {cores[job % len(cores)]}
        parts.append(Share(own_cores, environment))
    return parts


def _gpus() -> list[str]:
    """Returns the numbers, in CUDA's order, of the GPUs that the user allows."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip()]
    # Device files may start at any number: a container may show only nvidia3.
    return [str(i) for i, _ in enumerate(pathlib.Path("/dev").glob("nvidia[0-9]*"))]


def run(cells: Sequence[Cell], jobs: int, folder: pathlib.Path) -> list[Cell]:
    """Runs cells, prints a line for each, and returns those that failed.

    Processors and GPUs are divided among the jobs, so that these do not wait for each
    other.

    Args:
      cells: cells to run, in this order.
      jobs: number of processes that run at once.
      folder: folder of the sweep. It keeps compiled programs from one seed to the next,
        unless JAX_COMPILATION_CACHE_DIR names another folder.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
    }
    failed = []
    with Jobs(min(jobs, len(cells)), environment) as pool:
        submitted = {pool.submit(cell): cell for cell in cells}
        for count, future in enumerate(futures.as_completed(submitted), start=1):
            cell = submitted[future]
            outcome = future.result()
            if not outcome.finished:
                failed.append(cell)
            elif outcome.seconds:
                _append_time(folder, cell, outcome.seconds)
            print(f"[{count}/{len(cells)}] {cell}: {outcome.text}", flush=True)
    return failed


def _append_time(folder: pathlib.Path, cell: Cell, seconds: float) -> None:
    fold = {} if cell.fold is None else {"fold": cell.fold}
    record = {"row": cell.row.name, "seed": cell.seed, **fold}
    record["seconds"] = round(seconds, 1)
    with (folder / TIMES).open("a") as file:
        file.write(json.dumps(record) + "\n")


def times(folder: pathlib.Path, cells: Sequence[Cell]) -> list[float]:
    """Returns the seconds of each cell that one process ran from start to end."""
    path = folder / TIMES
    if not path.exists():
        return []
    seconds = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(
            json.JSONDecodeError
        ):  # A killed tool may have written half a line.
            record = json.loads(line)
            key = record["row"], record["seed"], record.get("fold")
            seconds[key] = record["seconds"]
    keys = [(cell.row.name, cell.seed, cell.fold) for cell in cells]
    return [seconds[key] for key in keys if key in seconds]


class Outcome(NamedTuple):
    """Result of running a cell.

    Attributes:
      finished: True if the cell is finished.
      text: message for the user.
      seconds: time of its process; 0 if that resumed an earlier one.
    """

    finished: bool
    text: str
    seconds: float = 0.0


class Jobs:
    """Context in which cells run, each on a thread with its share of the machine.

    Leaving the context ends their processes.
    """

    def __init__(self, jobs: int, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._local = threading.local()
        self._ending = threading.Event()
        self._processes: set[subprocess.Popen] = set()
        parts: queue.Queue[Share] = queue.Queue()
        for part in shares(jobs, sorted(os.sched_getaffinity(0)), _gpus()):
            parts.put(part)
        self._pool = futures.ThreadPoolExecutor(
            jobs, initializer=lambda: self._settle(parts.get())
        )

    def _settle(self, share: Share) -> None:
        # Linux applies this to the thread and to the processes that it starts.
        os.sched_setaffinity(0, share.cores)
        self._local.environment = {**self._environment, **share.environment}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._processes):
            process.terminate()
        self._pool.shutdown()

    def submit(self, cell: Cell) -> futures.Future[Outcome]:
        """Starts a cell as soon as a thread is free."""
        return self._pool.submit(self._run, cell)

    def _run(self, cell: Cell) -> Outcome:
        try:
            with _locked(cell.log) as log:
                if is_finished(cell):
                    return Outcome(True, "finished by another process")
                fresh = checkpoints.newest_step(cell.workdir) is None
                start = time.monotonic()
                status = self._process(cell, log)
                seconds = time.monotonic() - start
            if status == 0 and is_finished(cell):
                return Outcome(True, f"{seconds:.0f} s", seconds if fresh else 0.0)
        except (InputError, OSError) as error:
            return Outcome(False, f"failed: {error}")
        return Outcome(False, f"failed with status {status}: {_last_line(cell.log)}")

    def _process(self, cell: Cell, log: IO[bytes]) -> int:
        process = subprocess.Popen(
            cell.command,
            env=self._local.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._processes.add(process)
        if self._ending.is_set():
            process.terminate()
        try:
            return process.wait()
        finally:
            self._processes.discard(process)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Opens a log for appending and holds its lock.

    Raises:
      InputError: another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process runs this cell (it locks {path})"
            ) from error
        yield log


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next(
        (line for line in reversed(lines) if line.strip()), "it printed nothing"
    )
