"""Trains with precomputed maps of the frozen stages, so a full-width trunk fits a CPU.

  STORED_MAPS=DIR python -m benchmarks.stored_maps --config=CONFIG --workdir=W

The flags are those of borrow_det.main, and so is the work directory. With
model.frozen=5, all stages of VGG-16's convolutions, most of a step's time goes into
maps that never change. They are computed once for the augmented images of the first
VERSIONS epochs, written to a folder in DIR in float16, and shared by all runs with the
same images, augmentation, batches and frozen stages. A computation that was interrupted
resumes at the batch that it had reached.

A run sees fewer different images than one that augments anew in each epoch. All seeds
go through the same batches in different orders, so that their spread does not contain
that of augmentation. Evaluations compute the entire network.

In the checkout, `python -m borrow_det.tools.ablate --main=benchmarks.stored_maps`
compares rows in this way.
"""

import collections
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from borrow_det import main, train
from borrow_det.data import pipeline
from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.models.trunks import TRUNKS
from borrow_det.models.trunks.vgg import VGGStages
from borrow_det.ops import subtrees
from borrow_det.tasks.detection import DetectionTask
from borrow_det.train_step import (
    TrainState,
    gradient_of_rows,
    step_metrics,
    update,
)

VERSIONS = 4
_NEEDED = {
    "task": "detection",
    "model.frozen": 5,  # All convolutions of VGG-16.
    "micro_batch": 0,
    "references.kind": "none",
}
_IMAGE = "image"  # Field of a batch that its maps replace.


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, profile: str = ""
) -> dict[str, dict[str, float]]:
    """Trains as `borrow_det.train.train_and_evaluate`, on stored maps.

    Raises:
      InputError: the config does not fit, STORED_MAPS is not set, or the run has
        several processes; also what a run raises.
    """
    given = flax.traverse_util.flatten_dict(config.to_dict(), sep=".")
    for name, value in _NEEDED.items():
        if given[name] != value:
            raise InputError(f"stored maps need {name}={value}, not {given[name]}")
    if not issubclass(TRUNKS[config.model.trunk], VGGStages):
        raise InputError(
            f"stored maps are those of VGG-16's stages; model.trunk is "
            f"{config.model.trunk}"
        )
    if jax.process_count() > 1:
        raise InputError("stored maps need a single process")
    if not os.environ.get("STORED_MAPS"):
        raise InputError("the environment variable STORED_MAPS must name a folder")
    return train.train_and_evaluate(config, workdir, profile, make_steps)


def make_steps(run: train.Run, poll: Callable[[], None]) -> train.Steps:
    """Makes training steps on stored maps, which are computed first if need be.

    Args:
      run: a run of a config that `train_and_evaluate` accepts.
      poll: called after each batch of which maps are computed; it raises to stop.
    """
    task, config = run.task, run.config
    assert isinstance(task, DetectionTask)
    folder = pathlib.Path(os.environ["STORED_MAPS"]) / _name(run)
    with _locked(folder, poll):
        if not folder.exists():
            _store(run, task, folder, poll)
    batches = StoredBatches(folder, config.seed, int(run.state.step))
    step = functools.partial(_train_step, task, tuple(config.dataset.canvas))
    return train.Steps(jax.jit(step, donate_argnums=0), batches)


class StoredBatches:
    """Stored batches without end; each epoch has an order that the seed gives."""

    def __init__(self, folder: pathlib.Path, seed: int, start: int) -> None:
        """Takes the folder of the batches and the step to start from."""
        self.counts: collections.Counter[str] = collections.Counter()
        self._fields = {f.stem: np.load(f, mmap_mode="r") for f in folder.glob("*.npy")}
        count = len(self._fields["boxes"])
        self._numbers = self._order(count, seed, start)

    @staticmethod
    def _order(count: int, seed: int, start: int) -> Iterator[int]:
        epoch, done = divmod(start, count)
        while True:
            order = np.random.default_rng((seed, epoch)).permutation(count)
            yield from order[done:].tolist()
            epoch, done = epoch + 1, 0

    def __next__(self) -> dict[str, np.ndarray]:
        number = next(self._numbers)
        fields = {name: np.asarray(f[number]) for name, f in self._fields.items()}
        # A field of a batch has a value for each row.
        return fields | {"number": np.full(len(fields["boxes"]), number, np.int32)}

    def close(self) -> None:
        """Ends the iteration."""


def _name(run: train.Run) -> str:
    """Returns a name for the stored maps: a digest of all that they depend on."""
    config = run.config.to_dict()
    names = ("augment", "input_size", "batch_size", "dtype", "model")
    depends = {name: config[name] for name in names}
    of_rows = ("canvas", "max_boxes", "overflow")
    depends["dataset"] = {name: config["dataset"][name] for name in of_rows}
    depends["versions"] = VERSIONS
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
    _, frozen = subtrees.split(run.state.params, run.task.frozen)
    for leaf in jax.tree.leaves(frozen):
        digest.update(np.asarray(leaf).tobytes())
    for index in range(len(run.train_split)):
        record = run.train_split[index]
        for name, value in sorted(record.items()):
            if isinstance(value, np.ndarray):
                digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _locked(folder: pathlib.Path, poll: Callable[[], None]) -> Iterator[None]:
    """Lets only one process with this folder run the block, and the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                poll()
                time.sleep(0.5)
        yield


def _key(number: jax.Array | int) -> jax.Array:
    """Returns the key that augments a stored batch."""
    return jax.random.fold_in(jax.random.key(0), number)


def _store(
    run: train.Run,
    task: DetectionTask,
    folder: pathlib.Path,
    poll: Callable[[], None],
) -> None:
    """Computes the maps of the first epochs and writes them with their batches."""
    config = run.config.copy_and_resolve_references()
    count = VERSIONS * -(-len(run.train_split) // config.batch_size)
    config.seed = 0
    part = folder.with_suffix(".part")
    progress = part / "batches.txt"
    # A crash of the machine may leave an empty file.
    stored = int(progress.read_text() or 0) if progress.exists() else 0
    if not stored:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    row = task.train_row(run.train_split)
    batches = pipeline.train_batches(run.train_split, config, stored, make_row=row)
    maps = jax.jit(functools.partial(_maps, task))
    left = f"the remaining {count - stored} of " if stored else ""
    run.log.line(f"computing the maps of {left}{count} batches in {folder} ...")
    files = {f.stem: np.load(f, mmap_mode="r+") for f in part.glob("*.npy")}
    with contextlib.closing(batches):
        for number in range(stored, count):
            fields = dict(next(batches))
            fields |= jax.device_get(maps(run.state.variables, number, fields))
            del fields[_IMAGE]
            files = files or _files(part, fields, count)
            for name, value in fields.items():
                files[name][number] = value
                files[name].flush()
            paths.write_whole(progress, str(number + 1))
            poll()
    part.rename(folder)
    (folder / progress.name).unlink()


def _files(
    folder: pathlib.Path, batch: dict[str, np.ndarray], count: int
) -> dict[str, np.memmap]:
    """Makes a file for each field of `count` batches like this one."""
    files = {}
    for name, value in batch.items():
        path = folder / f"{name}.npy"
        files[name] = np.lib.format.open_memmap(
            path, "w+", value.dtype, (count, *value.shape)
        )
        # A sparse file would end the process by a signal once the disk is full.
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return files


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
    main.run(train_and_evaluate, __doc__)
