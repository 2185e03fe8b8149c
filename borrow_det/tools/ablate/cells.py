"""The cells of a sweep: one run for each row and seed, made by processes of their own.

A cell is a work directory, W/ROW/seed_S. It is finished when its run has written its
report, the last thing that it does; until then it is started again, and resumes.
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
from typing import NamedTuple

import ml_collections

from borrow_det.errors import InputError
from borrow_det.evaluate import metrics_path, read_metrics
from borrow_det.tools.ablate.sweeps import Row
from borrow_det.workdir import checkpoints, init_from, metadata

TIMES = "cells.jsonl"  # In the sweep's folder: how long each process took.
# Fields, or groups of them, that change no figure: machines may differ in them. What
# another split lacks is evaluated when the cell is started again.
_IMMATERIAL = (
    *("log_every", "checkpoint_every", "keep_checkpoints", "report", "eval_batch_size"),
    *("dataset.data_dir", "dataset.num_threads", "dataset.num_workers"),
    "dataset.eval_splits",
)
_MEMORY_SHARE = 0.9  # Of a GPU, for all the jobs on it.


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
            flags = {flag.split("=")[0]: flag for flag in base_flags}
            # In place of what was said for all: ml_collections appends to a tuple
            # that is given twice.
            for field, value in {**row.overrides, "seed": seed}.items():
                flags[f"--config.{field}"] = f"--config.{field}={value}"
            command = (
                *(sys.executable, "-m", "borrow_det.main"),
                *(*flags.values(), f"--workdir={workdir}"),
            )
            cells.append(Cell(row, seed, config, workdir, command))
    return cells


def partition(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """(finished, unfinished) cells; see `is_finished`."""
    finished, unfinished = [], []
    for cell in cells:
        (finished if is_finished(cell) else unfinished).append(cell)
    return finished, unfinished


def is_finished(cell: Cell) -> bool:
    """Whether the run came to its end: checkpoint, evaluations, report.

    Raises:
      InputError: the work directory holds another run.
    """
    if (cell.workdir / "config.json").exists():
        _check_same_run(cell)
    step = cell.config.num_steps
    return (
        (cell.workdir / "report.md").exists()
        and checkpoints.newest_step(cell.workdir) == step
        and all(path.exists() for path in _split_paths(cell))
    )


def _split_paths(cell):
    return [
        metrics_path(cell.workdir, split, cell.config.num_steps)
        for split in cell.config.dataset.eval_splits
    ]


def _check_same_run(cell):
    config = init_from.resolve_pixel_statistics(cell.config, cell.workdir)
    found = metadata.differences(metadata.load_config(cell.workdir), config)
    for field, (old, new) in found.items():
        if field in _IMMATERIAL or field.split(".")[0] in _IMMATERIAL:
            continue
        raise InputError(
            f"{cell.workdir} was made with {field}={old}, this sweep says {new}: "
            "choose another --workdir, or remove that folder"
        )


def metrics(cell: Cell) -> dict[str, dict[str, float]]:
    """The metrics of a finished cell, by folder of `evaluations`; undefined are nan.

    Those of the splits in their order, then what compares splits.
    """
    pattern = f"*/{cell.config.num_steps}.json"
    others = sorted((cell.workdir / "evaluations").glob(pattern))
    paths = [*_split_paths(cell), *others]
    return {path.parent.name: read_metrics(path) for path in paths}


class Share(NamedTuple):
    """The part of a machine that one of several jobs has.

    Attributes:
      cores: numbers of its processors.
      environment: variables that keep it to its GPUs, {} where there are none.
    """

    cores: set[int]
    environment: dict[str, str]


def shares(jobs: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Share]:
    """Divides processors and GPUs among jobs; where jobs are more, they share one."""
    several = -(-jobs // len(gpus)) if gpus else 1
    parts = []
    for job in range(jobs):
        environment = {}
        if gpus and jobs > 1:
            own = gpus[job::jobs] or [gpus[job % len(gpus)]]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        if several > 1:
            fraction = f"{_MEMORY_SHARE / several:.3f}"
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = fraction
        own = set(cores[job::jobs]) or {cores[job % len(cores)]}
        parts.append(Share(own, environment))
    return parts


def _gpus() -> list[str]:
    """This machine's NVIDIA GPUs as CUDA counts them, of those that the user allows."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip()]
    # Their files' own numbers start anywhere: a container may show the fourth alone.
    return [str(i) for i, _ in enumerate(pathlib.Path("/dev").glob("nvidia[0-9]*"))]


def run(cells: Sequence[Cell], jobs: int, folder: pathlib.Path) -> list[Cell]:
    """Runs cells, `jobs` at a time, a line for each; returns those that failed.

    Processors and GPUs are shared out among the jobs, so that these do not wait for
    each other.

    Args:
      cells: to run, in this order.
      jobs: processes at a time.
      folder: of the sweep. Compiled programs are kept there from one seed to the next,
        unless JAX_COMPILATION_CACHE_DIR names another place.
    """
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
    }
    failed = []
    with Jobs(min(jobs, len(cells)), environment) as pool:
        begun = {pool.submit(cell): cell for cell in cells}
        for count, future in enumerate(futures.as_completed(begun), start=1):
            cell = begun[future]
            outcome = future.result()
            if not outcome.finished:
                failed.append(cell)
            elif outcome.seconds:
                _note_time(folder, cell, outcome.seconds)
            print(f"[{count}/{len(cells)}] {cell}: {outcome.text}", flush=True)
    return failed


def _note_time(folder, cell, seconds):
    record = {"row": cell.row.name, "seed": cell.seed, "seconds": round(seconds, 1)}
    with (folder / TIMES).open("a") as file:
        file.write(json.dumps(record) + "\n")


def times(folder: pathlib.Path, cells: Sequence[Cell]) -> list[float]:
    """Seconds of those of these cells that one process made from start to end."""
    path = folder / TIMES
    if not path.exists():
        return []
    seconds = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # A killed tool's last one.
            record = json.loads(line)
            seconds[record["row"], record["seed"]] = record["seconds"]
    keys = [(cell.row.name, cell.seed) for cell in cells]
    return [seconds[key] for key in keys if key in seconds]


class Outcome(NamedTuple):
    """What became of a cell.

    Attributes:
      finished: whether it is.
      text: what to tell the user.
      seconds: how long its process took, 0 where it did not make all of it.
    """

    finished: bool
    text: str
    seconds: float = 0.0


class Jobs:
    """Runs cells on threads, each with its share; their processes end with it."""

    def __init__(self, jobs: int, environment: Mapping[str, str]):
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

    def _settle(self, share):
        # On Linux, of this thread and of the processes that it starts.
        os.sched_setaffinity(0, share.cores)
        self._local.environment = {**self._environment, **share.environment}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._ending.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self._processes):
            process.terminate()
        self._pool.shutdown()

    def submit(self, cell: Cell) -> futures.Future:
        """Its result is an Outcome."""
        return self._pool.submit(self._run, cell)

    def _run(self, cell):
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

    def _process(self, cell, log) -> int:
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
def _locked(path: pathlib.Path) -> Iterator:
    """A log to write to, which the processes that write to it hold locked.

    Raises:
      InputError: another one does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"another process is at it (it holds {path})") from error
        yield log


def _last_line(log):
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it printed none")
