"""Trains a run on stored maps of its frozen stages: a full-width trunk on a CPU.

  STORED_MAPS=DIR python -m benchmarks.stored_maps --config=CONFIG --workdir=W

The flags are those of borrow_det.main, and so is the work directory. With
model.frozen=5, all stages of VGG-16's convolutions, most of a step's time goes into
maps that never change. They are computed once for the augmented images of the first
VERSIONS epochs, written to a folder in DIR in float16, and used by all runs of the same
images, augmentation, batches and frozen stages. A run goes through these batches in an
order that depends on its seed. It sees fewer different images than one that augments
anew in each epoch. Evaluations compute the entire network.

`borrow-det ablate --main=benchmarks.stored_maps` compares rows in this way.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from borrow_det import main, train
from borrow_det.data import pipeline
from borrow_det.errors import InputError
from borrow_det.tasks.detection import DetectionTask
from borrow_det.train_step import (
    TrainState,
    gradient_of_rows,
    step_metrics,
    update,
)

VERSIONS = 4
_STAGES = 5  # Of VGG-16's convolutions.
_IMAGE = "image"  # Field of a batch that its maps replace.


def make_steps(run: train.Run) -> train.Steps:
    """Makes training steps on stored maps, which are computed first if need be.

    Raises:
      InputError: the config has not five frozen stages, borrows from references, or
        STORED_MAPS is not set.
    """
    task, config = run.task, run.config
    if config.model.frozen != _STAGES or config.references.kind != "none":
        raise InputError("stored maps need model.frozen=5 and references.kind=none")
    if not os.environ.get("STORED_MAPS"):
        raise InputError("the environment variable STORED_MAPS must name a folder")
    assert isinstance(task, DetectionTask)
    folder = pathlib.Path(os.environ["STORED_MAPS"]) / _name(run)
    if not folder.exists():
        _store(run, folder)
    batches = _StoredBatches(folder, config.seed, int(run.state.step))
    step = functools.partial(_train_step, task, tuple(config.dataset.canvas))
    return train.Steps(jax.jit(step, donate_argnums=0), batches)


class _StoredBatches:
    """Stored batches in the order of a seed, without end; see `pipeline.Batches`."""

    def __init__(self, folder: pathlib.Path, seed: int, start: int) -> None:
        self.counts: dict[str, int] = {}
        self._fields = {f.stem: np.load(f, mmap_mode="r") for f in folder.glob("*.npy")}
        count = len(next(iter(self._fields.values())))
        self._numbers = self._order(count, seed, start)

    @staticmethod
    def _order(count: int, seed: int, start: int) -> Iterator[int]:
        step = start
        while True:
            order = np.random.default_rng((seed, step // count)).permutation(count)
            yield int(order[step % count])
            step += 1

    def __iter__(self) -> "_StoredBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        number = next(self._numbers)
        fields = {name: np.asarray(f[number]) for name, f in self._fields.items()}
        # A field of a batch has a value for each row.
        return fields | {"number": np.full(len(fields["boxes"]), number, np.int32)}

    def close(self) -> None:
        """Ends the iteration."""


def _name(run: train.Run) -> str:
    """Returns a name for the stored maps: a digest of all that they depend on."""
    config = run.config.to_dict()
    names = ("dataset", "augment", "input_size", "batch_size", "init_from")
    depends = {name: config[name] for name in names}
    depends["model"] = config["model"]
    depends["versions"] = VERSIONS
    for name in ("data_dir", "eval_splits", "num_threads", "num_workers"):
        del depends["dataset"][name]
    text = json.dumps(depends, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _key(number: jax.Array | int) -> jax.Array:
    """Returns the key that augments a stored batch."""
    return jax.random.fold_in(jax.random.key(0), number)


def _store(run: train.Run, folder: pathlib.Path) -> None:
    """Computes the maps of the first epochs and writes them with their batches."""
    task, config = run.task, run.config
    assert isinstance(task, DetectionTask)
    count = VERSIONS * -(-len(run.train_split) // config.batch_size)
    run.log.line(f"computing the maps of {count} batches in {folder} ...")
    config = config.copy_and_resolve_references()
    config.seed = 0
    batches = pipeline.train_batches(
        run.train_split, config, make_row=task.train_row(run.train_split)
    )
    maps = jax.jit(functools.partial(_maps, task))
    part = folder.with_name(f"{folder.name}.part{os.getpid()}")
    part.mkdir(parents=True)
    files: dict[str, np.ndarray] = {}
    for number in range(count):
        batch = next(batches)
        fields = batch | jax.device_get(maps(run.state.variables, number, batch))
        for name, value in fields.items():
            if name == _IMAGE:
                continue
            if name not in files:
                files[name] = np.lib.format.open_memmap(
                    part / f"{name}.npy", "w+", value.dtype, (count, *value.shape)
                )
            files[name][number] = value
    batches.close()
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]
    try:
        part.rename(folder)
    except OSError:  # Another run was faster.
        shutil.rmtree(part)


def _maps(
    task: DetectionTask, variables: dict, number: int, batch: dict
) -> dict[str, jax.Array]:
    """Computes the maps of a batch's augmented images that later layers use."""
    examples, _ = task.prepare(_key(number), batch)
    wanted = _stored_modules(task)
    _, found = task.model.apply(
        variables,
        examples.image,
        train=True,
        capture_intermediates=lambda module, method: (
            method == "__call__" and module.path in wanted
        ),
        mutable=["intermediates"],
    )
    trunk = found["intermediates"]["trunk"]
    return {
        path[-1]: trunk[path[-1]]["__call__"][0].astype(jnp.float16) for path in wanted
    }


def _stored_modules(task: DetectionTask) -> list[tuple[str, ...]]:
    """Returns the paths of conv4_3 and conv5_3, or what their stages end with."""
    return [tuple(task.stages[stage][-1].split("/")) for stage in (3, 4)]


def _train_step(
    task: DetectionTask,
    canvas: tuple[int, int],
    state: TrainState,
    batch: dict[str, jax.Array],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the state by one stored batch; see `borrow_det.train_step.train_step`.

    The images are not there: what is computed from them is not used, and XLA leaves it
    out.
    """
    stored = {path: batch.pop(path[-1]) for path in _stored_modules(task)}
    number = batch.pop("number")
    batch[_IMAGE] = jnp.zeros((len(number), *canvas, 3), jnp.uint8)

    def replace(
        call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext
    ) -> Any:
        maps = stored.get(context.module.path)
        if maps is None or context.method_name != "__call__":
            return call(*args, **kwargs)
        return maps.astype(task.model.trunk.dtype)

    with nn.intercept_methods(replace):
        grads, terms, batch_stats, totals = gradient_of_rows(
            task, _key(number[0]), state.params, state.batch_stats, batch
        )
    return (
        update(task, state, grads, batch_stats),
        step_metrics(task, grads, terms, totals),
    )


if __name__ == "__main__":
    main.run(make_steps)
