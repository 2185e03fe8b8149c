"""Checkpoints of a run, through orbax: `W/checkpoints/STEP/{model,training}`.

`model` is what inference needs (params, batch_stats, ema_params), `training` the rest
of the state; a tool reads the first alone.
"""

import contextlib
import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from borrow_det.errors import InputError

MODEL_FIELDS = ("params", "batch_stats", "ema_params")


class Checkpoints:
    """Saves and restores the training state of one work directory."""

    def __init__(self, workdir: str | os.PathLike, *, every: int, keep: int):
        policy = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            _folder(workdir),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policy.AnySavePolicy(
                    [
                        policy.PreemptionCheckpointingPolicy(),
                        policy.FixedIntervalPolicy(every),
                    ]
                ),
                preservation_policy=policy.LatestN(keep),
                enable_async_checkpointing=True,
            ),
        )

    def due(self, step: int) -> bool:
        """Whether `save` would write at this step."""
        return self._manager.should_save(step)

    def save(self, step: int, state: dict, force: bool = False) -> None:
        """Writes the state in the background; `force` writes where none is due."""
        model = {name: state[name] for name in MODEL_FIELDS}
        training = {n: v for n, v in state.items() if n not in MODEL_FIELDS}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                training=ocp.args.StandardSave(training),
            ),
            force=force,
        )

    @property
    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._manager.latest_step()

    def restore(self, state: dict) -> dict:
        """The newest checkpoint, laid out as `state` (arrays or abstract ones)."""
        model = {name: state[name] for name in MODEL_FIELDS}
        training = {n: v for n, v in state.items() if n not in MODEL_FIELDS}
        restored = self._manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                training=ocp.args.StandardRestore(training),
            ),
        )
        return {**restored.model, **restored.training}

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()


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
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
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
    # Both items need one, or orbax warns of what it could not read.
    items = ("model", "training")
    handlers = {item: ocp.StandardCheckpointHandler() for item in items}
    with ocp.CheckpointManager(folder, item_handlers=handlers) as manager:
        steps = manager.all_steps()
        if not steps:
            raise InputError(f"{workdir} holds no finished checkpoint")
        step = max(steps) if step is None else step
        if step not in steps:
            raise InputError(f"{workdir} has checkpoints of steps {steps}, not {step}")

        def restore(target):
            args = ocp.args.Composite(model=ocp.args.StandardRestore(target))
            return manager.restore(step, args=args).model

        try:
            yield restore, manager.item_metadata(step)["model"].tree
        except Exception as error:  # A damaged file makes a parser raise anything.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"the checkpoint of step {step} in {workdir} cannot be read: {reason}"
            ) from error


def _folder(workdir):
    return pathlib.Path(workdir).absolute() / "checkpoints"
