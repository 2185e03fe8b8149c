"""Checkpoints of a run, through orbax: `W/checkpoints/STEP/{model,training}`.

`model` is what inference needs (params, batch_stats, ema_params), `training` the rest
of the state; a tool reads the first alone. A checkpoint is written under another name
and renamed when it is whole. `STEP.damaged` is one that could not be read all the same.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from borrow_det.errors import InputError
from borrow_det.io import paths

MODEL_FIELDS = ("params", "batch_stats", "ema_params")

# How long a save may take, in seconds. Where a process fails to write, the others wait
# for it that long; one process alone waits for nobody but the disk.
_SAVE_SECONDS, _SAVE_SECONDS_ALONE = 120, 1200
# What a system says of a place that cannot be written. The library that writes arrays
# gives these words in errors of its own.
_UNWRITABLE = tuple(
    os.strerror(code)
    for code in (
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),
        *(errno.EACCES, errno.EPERM, errno.EIO),
    )
)


class _Manager(ocp.CheckpointManager):
    """Orbax's, which is told of preemption.

    By itself it would ask JAX at each step by the step's number, where the run, which
    asks within an evaluation, too, counts otherwise.
    """

    def __init__(self, *arguments, preempted: Callable[[], bool], **named):
        self._preempted = preempted
        super().__init__(*arguments, **named)

    def reached_preemption(self, step: int) -> bool:
        """Whether the run must stop."""
        return self._preempted()


class Checkpoints:
    """Saves and restores the training state of one work directory.

    Every process of a run makes one and calls the same methods in the same order.

    Raises:
      InputError: the work directory cannot be written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        every: int,
        keep: int,
        preempted: Callable[[], bool] = lambda: False,
    ):
        logging.getLogger("absl").addFilter(_not_raised_as_well)
        self._folder = _folder(workdir)
        self._saving = None  # The step that is being written.
        policy = ocp.checkpoint_managers
        alone = jax.process_count() == 1
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policy.AnySavePolicy(
                [
                    policy.PreemptionCheckpointingPolicy(),
                    policy.FixedIntervalPolicy(every),
                ]
            ),
            preservation_policy=policy.LatestN(keep),
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(
                timeout_secs=_SAVE_SECONDS_ALONE if alone else _SAVE_SECONDS
            ),
            # What a killed save leaves takes room.
            cleanup_tmp_directories=True,
            # Else two processes may see another newest step, and part.
            single_host_load_and_broadcast=True,
        )
        try:
            _check_writable(self._folder)
            self._manager = _Manager(self._folder, options=options, preempted=preempted)
        except OSError as error:
            raise InputError(
                f"--workdir={workdir} cannot be written: {paths.reason(error)}; "
                "choose another"
            ) from error

    def due(self, step: int) -> bool:
        """Whether `save` would write at this step.

        Raises:
          InputError: an earlier save has failed; see `save`.
        """
        if not self._manager.is_saving_in_progress():
            self._wait()
        return self._manager.should_save(step)

    def save(self, step: int, state: dict, force: bool = False) -> None:
        """Writes the state in the background; `force` writes where none is due.

        A step that is saved is not written again.

        Raises:
          InputError: the disk is full or refuses; of this save or of the one before.
        """
        if not (force or self.due(step)) or step == self.latest_step:
            return
        self._wait()
        self._saving = step
        items = {n: ocp.args.StandardSave(v) for n, v in _items(state).items()}
        with self._failure_named():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    @property
    def latest_step(self) -> int | None:
        """The newest checkpoint's step, be it that it is still being written."""
        return self._manager.latest_step()

    def restore(self, state: dict, report: Callable[[str], None] = print) -> dict:
        """The newest whole checkpoint, laid out as `state` (arrays or abstract ones).

        One is whole if every process can read it. Newer ones that are not are renamed,
        so that their steps can be saved anew; process 0 reports that, a line for each.
        Nothing is renamed where none is whole.

        Raises:
          InputError: none is whole, or one is of another architecture or optimizer.
        """
        damaged = {}
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

    def _read(self, step, state):
        """(the state, None), or (None, what is wrong with the checkpoint)."""
        folder, fields = self._folder / str(step), {}
        # Not through the manager, where a process that can read a checkpoint waits for
        # one that cannot.
        handler = ocp.StandardCheckpointHandler()
        try:
            stored = {n: handler.metadata(folder / n).tree for n in _items(state)}
            _check_fits(stored, _items(state), folder)
            for name, item in _items(state).items():
                target = ocp.args.StandardRestore(item)
                fields |= handler.restore(folder / name, args=target)
        except (InputError, jax.errors.JaxRuntimeError, MemoryError):
            raise  # It is not the checkpoint's fault.
        except Exception as error:  # A damaged file makes a parser raise anything.
            return None, _reason(error)
        return fields, None

    def _set_aside(self, damaged, whole, report):
        if jax.process_index() == 0:
            for step, fault in damaged.items():
                aside = _unused(self._folder / f"{step}.damaged")
                (self._folder / str(step)).rename(aside)
                report(
                    f"the checkpoint of step {step} is damaged and now in {aside} "
                    f"({fault}); going on from step {whole}"
                )
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
          InputError: it could not be written; see `save`.
        """
        try:
            self._wait()
        finally:
            self._manager.close()

    def _wait(self):
        with self._failure_named():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            fault = _unwritable(error)
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


def _items(state):
    """{item: its part of the state}."""
    return {
        "model": {name: state[name] for name in MODEL_FIELDS},
        "training": {n: v for n, v in state.items() if n not in MODEL_FIELDS},
    }


def _check_fits(stored, wanted, folder):
    """Raises where a checkpoint holds other fields, shapes or types than the state."""
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


def _layout(tree):
    """{name of a leaf: its type and shape}; a tuple's leaves are named as a list's."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}{list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _every_process(flag):
    return bool(np.all(multihost_utils.process_allgather(np.int32(flag))))


def _unused(path):
    """The path, with a number where there is one of that name."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _check_writable(folder):
    """Raises OSError here, and not when the first checkpoint is due."""
    paths.make_folder(folder)
    probe = folder / f".writable-{jax.process_index()}"
    paths.write_whole(probe, "A run tries whether it can write here.\n")
    probe.unlink()


def _unwritable(error):
    """What the system has against writing; None where the error is of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        for words in _UNWRITABLE:
            if words in str(error):
                return words
        error = error.__cause__ or error.__context__
    return None


def _reason(error):
    return " ".join(str(error).split())[:200] or type(error).__name__


def _not_raised_as_well(record: logging.LogRecord) -> bool:
    """Whether a log record is other than orbax's traceback of what it raises, too."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def save_variables(workdir: str | os.PathLike, variables: dict) -> None:
    """Writes {params, batch_stats} alone, as a checkpoint of step 0.

    `restore_variables` reads it; a run cannot go on from it.
    """
    manager = Checkpoints(workdir, every=1, keep=1)
    try:
        # An item must not be empty.
        manager.save(0, {**variables, "ema_params": {}, "step": np.int32(0)})
    finally:
        manager.close()


def newest_step(workdir: str | os.PathLike) -> int | None:
    """The step of the newest finished checkpoint; None where there is none."""
    folder = _folder(workdir)
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    return max(steps, default=None)


def restore_variables(workdir: str | os.PathLike, step: int | None = None) -> dict:
    """{params, batch_stats} of a checkpoint, the newest by default, for inference.

    The parameters are the averaged ones where the run keeps an average.

    Raises:
      InputError: there is no such checkpoint, or it is damaged.
    """
    with _stored_model(workdir, step) as (restore, abstract):
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            abstract,
        )
        return _variables(restore(target))


def variable_shapes(workdir: str | os.PathLike) -> dict:
    """Zeros of the shapes that `restore_variables` gives: no value is read.

    The arrays repeat one zero and take no room.

    Raises:
      InputError: there is no checkpoint, or it is damaged.
    """
    with _stored_model(workdir, None) as (_, abstract):
        return jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
            _variables(abstract),
        )


def _variables(model):
    params = model["ema_params"] or model["params"]
    return {"params": params, "batch_stats": model["batch_stats"]}


@contextlib.contextmanager
def _stored_model(workdir, step):
    """A checkpoint's (reader of the item `model` as laid out, its abstract arrays)."""
    folder = _folder(workdir)
    if not folder.is_dir():
        raise InputError(f"{workdir} holds no checkpoints: train there first")
    steps = sorted(ocp.utils.checkpoint_steps(folder))
    if not steps:
        raise InputError(f"{workdir} holds no finished checkpoint")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise InputError(f"{workdir} has checkpoints of steps {steps}, not {step}")
    item, handler = folder / str(step) / "model", ocp.StandardCheckpointHandler()

    def restore(target):
        return handler.restore(item, args=ocp.args.StandardRestore(target))

    try:
        yield restore, handler.metadata(item).tree
    except Exception as error:  # A damaged file makes a parser raise anything.
        raise InputError(
            f"the checkpoint of step {step} in {workdir} cannot be read: "
            f"{_reason(error)}"
        ) from error


def _folder(workdir):
    path = epath.Path(paths.as_path(workdir))
    # One in a bucket is absolute, and would be taken for a relative one.
    return (path if paths.is_remote(path) else path.absolute()) / "checkpoints"
