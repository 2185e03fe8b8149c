"""Checkpoints of a run, through orbax: `W/checkpoints/STEP/{model,training}`.

`model` holds the variables for inference (params, batch_stats, ema_params), `training`
the rest of the state; tools read only the first. A checkpoint is written under another
name and renamed when it is complete. `STEP.damaged` is one that nevertheless could not
be read.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.ops import subtrees
from borrow_det.workdir.retention import LatestAndBest
from borrow_det.workdir.unwritable import unwritable

MODEL_FIELDS = ("params", "batch_stats", "ema_params")

# Time limit of a save in seconds. If a process fails to write, the others wait for it
# that long; a single process waits for the disk only.
_SAVE_SECONDS, _SAVE_SECONDS_ALONE = 120, 1200


class _Manager(ocp.CheckpointManager):
    """Orbax's manager without its watch for preemption.

    It would ask JAX at each step, by the step's number; distributed/preemption.py
    counts its own calls instead.
    """

    def reached_preemption(self, step: int) -> bool:
        """Returns False."""
        del step
        return False


class Checkpoints:
    """Saves and restores the training state of one work directory.

    Every process of a run makes one and calls the same methods in the same order.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        every: int,
        keep: int,
    ):
        """Makes the folder.

        Args:
          workdir: the work directory.
          every: steps between two checkpoints.
          keep: number of latest checkpoints to keep, in addition to the best one.

        Raises:
          InputError: the work directory cannot be written.
        """
        logging.getLogger("absl").addFilter(_not_raised_as_well)
        self._folder = _folder(workdir)
        self._saving: int | None = None  # The step that is being written.
        policy = ocp.checkpoint_managers
        self._retention = LatestAndBest(keep)
        alone = jax.process_count() == 1
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policy.FixedIntervalPolicy(every),
            preservation_policy=self._retention,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(
                timeout_secs=_SAVE_SECONDS_ALONE if alone else _SAVE_SECONDS
            ),
            # The remains of a killed save take room.
            cleanup_tmp_directories=True,
            # Otherwise two processes could resume from different steps.
            single_host_load_and_broadcast=True,
        )
        try:
            _check_writable(self._folder)
            self._manager = _Manager(self._folder, options=options)
        except OSError as error:
            raise InputError(
                f"--workdir={workdir} cannot be written: {paths.reason(error)}; "
                "choose another"
            ) from error

    def due(self, step: int) -> bool:
        """Returns whether `save` would write at this step.

        Raises:
          InputError: an earlier save has failed; see `save`.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()
        return self._manager.should_save(step)

    def save(self, step: int, state: dict, force: bool = False) -> None:
        """Writes the state in the background if a checkpoint is due at this step.

        A step that is saved already is not written again.

        Args:
          step: the number of steps so far.
          state: the fields of the state.
          force: whether to write even if no checkpoint is due.

        Raises:
          InputError: the disk is full or refuses; in this save or the one before.
        """
        if not (force or self.due(step)) or step == self.latest_step:
            return
        self.wait()
        self._saving = step
        items = {n: ocp.args.StandardSave(v) for n, v in _items(state).items()}
        with self._failure_named():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    @property
    def latest_step(self) -> int | None:
        """The step of the latest checkpoint, complete or still being written."""
        return self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, complete or still being written, ascending."""
        return sorted(self._manager.all_steps())

    def keep_best(self, step: int | None) -> None:
        """Keeps the checkpoint of this step in addition to the latest ones.

        It replaces the one before, which is deleted unless it is among the latest.
        """
        self.wait()
        before, self._retention.best = self._retention.best, step
        if before in self.steps and not self._retention.keeps(before, self.steps):
            self._manager.delete(before)

    def restore(self, state: dict, report: Callable[[str], None] = print) -> dict:
        """Restores the latest complete checkpoint.

        A checkpoint is complete if every process can read it. Later ones that are not
        are renamed, so that their steps can be saved again; process 0 reports each in a
        line. Nothing is renamed if none is complete.

        Args:
          state: arrays, or abstract ones, with the shapes and shardings to restore.
          report: takes the lines.

        Raises:
          InputError: none is complete, or one is of another architecture or optimizer.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            fields, fault = self._read(step, state)
            if _every_process(fault is None):
                if damaged:
                    self._set_aside(damaged, step, report)
                return fields
            damaged[step] = fault or "another process could not read it"
        faults = "; ".join(f"step {step}: {fault}" for step, fault in damaged.items())
        raise InputError(
            f"{self._folder} holds no whole checkpoint ({faults or 'it is empty'}): "
            "move it away to train from the start, or choose another --workdir"
        )

    def _read(self, step: int, state: dict) -> tuple[dict, str | None]:
        """Returns (the state, None), or ({}, the fault of the checkpoint)."""
        folder = self._folder / str(step)
        fields: dict[str, Any] = {}
        # Not through the manager: there a process that can read a checkpoint waits for
        # one that cannot.
        handler = ocp.StandardCheckpointHandler()
        try:
            stored = {n: handler.metadata(folder / n).tree for n in _items(state)}
            _check_fits(stored, _items(state), folder)
            for name, item in _items(state).items():
                target = ocp.args.StandardRestore(item)
                fields |= handler.restore(folder / name, args=target)
        except (InputError, jax.errors.JaxRuntimeError, MemoryError):
            raise  # Not a fault of the checkpoint.
        except Exception as error:  # A damaged file makes a parser raise anything.
            return {}, _reason(error)
        return fields, None

    def _set_aside(
        self, damaged: dict[int, str], whole: int, report: Callable[[str], None]
    ) -> None:
        if jax.process_index() == 0:
            for step, fault in damaged.items():
                aside = _unused(self._folder / f"{step}.damaged")
                (self._folder / str(step)).rename(aside)
                report(
                    f"the checkpoint of step {step} is damaged and now in {aside} "
                    f"({fault}); resuming from step {whole}"
                )
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
          InputError: a checkpoint could not be written; see `save`.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def wait(self) -> None:
        """Waits until every checkpoint is complete.

        Raises:
          InputError: one could not be written; see `save`.
        """
        with self._failure_named():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            fault = unwritable(error)
            if fault is None:
                raise
            newest = self.latest_step
            left = "there is none before it"
            if newest is not None:
                left = f"the newest whole one is of step {newest}"
            raise InputError(
                f"the checkpoint of step {self._saving} could not be written to "
                f"{self._folder}: {fault}; {left}; make room there and start again"
            ) from error


def _items(state: dict) -> dict[str, dict]:
    """Returns {item: its part of the state}."""
    return {
        "model": {name: state[name] for name in MODEL_FIELDS},
        "training": {n: v for n, v in state.items() if n not in MODEL_FIELDS},
    }


def _check_fits(stored: dict, wanted: dict, folder: epath.Path) -> None:
    """Raises if a checkpoint holds other fields, shapes or types than the state."""
    there, here = _layout(stored), _layout(wanted)
    differing = [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} "
        "in this run"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise InputError(
            f"{folder} is the checkpoint of another model or optimizer: "
            f"{', '.join(differing[:3])}{more}; choose another --workdir, or the "
            "configuration that it was made with"
        )


def _layout(tree: dict) -> dict[str, str]:
    """Returns {leaf: type and shape}; leaves of tuples are named as those of lists."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _every_process(flag: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.int32(flag))))


def _unused(path: epath.Path) -> epath.Path:
    """Returns the path, with a number appended if it exists."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _check_writable(folder: epath.Path) -> None:
    """Raises OSError now, and not when the first checkpoint is due."""
    paths.make_folder(folder)
    probe = folder / f".writable-{jax.process_index()}"
    paths.write_whole(probe, "A run tries whether it can write here.\n")
    probe.unlink()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _not_raised_as_well(record: logging.LogRecord) -> bool:
    """Returns False for orbax's log of an exception that it raises as well."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def save_variables(workdir: str | os.PathLike, variables: dict) -> None:
    """Writes {params, batch_stats} as a checkpoint of step 0.

    `restore_variables` reads it; a run cannot resume from it.
    """
    manager = Checkpoints(workdir, every=1, keep=1)
    try:
        # An item must not be empty.
        manager.save(0, {**variables, "ema_params": {}, "step": np.int32(0)})
    finally:
        manager.close()


def newest_step(workdir: str | os.PathLike) -> int | None:
    """Returns the step of the latest complete checkpoint; None if there is none."""
    return max(complete_steps(workdir), default=None)


def complete_steps(workdir: str | os.PathLike) -> list[int]:
    """Returns the steps of the complete checkpoints, in ascending order."""
    folder = _folder(workdir)
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def restore_variables(workdir: str | os.PathLike, step: int | None = None) -> dict:
    """Reads {params, batch_stats} of a checkpoint for inference; default: the latest.

    The parameters are the averaged ones if the run keeps an average.

    Raises:
      InputError: the checkpoint does not exist, or it is damaged.
    """
    with _stored_model(workdir, step) as (restore, abstract):
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            abstract,
        )
        model = restore(target)
        params = subtrees.merge(model["params"], model["ema_params"])
        return {"params": params, "batch_stats": model["batch_stats"]}


@contextlib.contextmanager
def _stored_model(
    workdir: str | os.PathLike, step: int | None
) -> Iterator[tuple[Callable[[dict], dict], dict]]:
    """Yields (function that restores the item `model`, its abstract arrays)."""
    folder = _folder(workdir)
    if not folder.is_dir():
        raise InputError(f"{workdir} holds no checkpoints: train there first")
    steps = complete_steps(workdir)
    if not steps:
        raise InputError(f"{workdir} holds no finished checkpoint")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise InputError(f"{workdir} has checkpoints of steps {steps}, not {step}")
    item, handler = folder / str(step) / "model", ocp.StandardCheckpointHandler()

    def restore(target: dict) -> dict:
        return handler.restore(item, args=ocp.args.StandardRestore(target))

    try:
        yield restore, handler.metadata(item).tree
    except Exception as error:  # A damaged file makes a parser raise anything.
        raise InputError(
            f"the checkpoint of step {step} in {workdir} cannot be read: "
            f"{_reason(error)}"
        ) from error


def _folder(workdir: str | os.PathLike) -> epath.Path:
    paths.check_utf8(workdir)
    path = epath.Path(paths.as_path(workdir))
    # A path in a bucket is absolute, though epath takes it for a relative one.
    return (path if paths.is_remote(path) else path.absolute()) / "checkpoints"
