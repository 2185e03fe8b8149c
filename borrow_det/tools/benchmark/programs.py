"""Programs that the benchmark tool times, by mode: functions of a config."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from borrow_det import train
from borrow_det.data import sources
from borrow_det.data.pipeline import Batches, train_batches
from borrow_det.distributed.mesh import make_mesh, put_batch
from borrow_det.reporting.step_timer import StepTimer
from borrow_det.tasks import TASKS, open_data
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tasks.task import Task
from borrow_det.tools.aot_compile import program_cost
from borrow_det.tools.common import synthetic
from borrow_det.train_step import init_state, make_train_step

# Least number of batches or steps in one timing of the pipeline and of training.
_MIN_CONSECUTIVE = 8


@dataclasses.dataclass
class Program:
    """Work to be timed.

    Attributes:
      call: does the work once, for `images` images.
      images: number of images per call.
      repeats: number of consecutive batches or steps per call.
      devices: number of devices that it runs on; 0 for the host's cores alone.
      times_itself: if True, `call` returns its own time in seconds, which excludes
        preparation; if False, it returns arrays, and a timing ends when they are ready.
      compiled: the compiled program, if there is one.
      compile_seconds: time of the compilation.
      flops: FLOPs of the model's convolutions and matrix products per call.
      data_wait: for training on a dataset, the share of each call's time spent waiting
        for batches.
    """

    call: Callable[[], Any]
    images: int
    repeats: int = 1
    devices: int = 1
    times_itself: bool = False
    compiled: jax.stages.Compiled | None = None
    compile_seconds: float | None = None
    flops: int | None = None
    data_wait: list[float] = dataclasses.field(default_factory=list)


def forward(config: ml_collections.ConfigDict, num_classes: int) -> dict[str, Program]:
    """Returns the network: uint8 canvases to logits and offsets of every anchor."""
    return {"forward": _inference(config, num_classes, _forward)}


def detect(config: ml_collections.ConfigDict, num_classes: int) -> dict[str, Program]:
    """Returns the detector: uint8 canvases to detections."""
    return {"detect": _inference(config, num_classes, DetectionTask.detect)}


def train_step(
    config: ml_collections.ConfigDict, num_classes: int
) -> dict[str, Program]:
    """Returns a training step on all devices of config.mesh."""
    mesh = make_mesh(config.mesh)
    noise = synthetic.make_batch(config, num_classes, config.batch_size)
    batch = put_batch(noise, mesh)
    steps = _Steps(config, num_classes, mesh, batch)
    return {
        "train": Program(
            functools.partial(steps, batch),
            config.batch_size,
            devices=mesh.size,
            compiled=steps.compiled,
            compile_seconds=steps.compile_seconds,
            flops=steps.flops,
        )
    }


def input_batches(config: ml_collections.ConfigDict) -> dict[str, Program]:
    """Returns the host's part of training: decoded batches of the config's dataset."""
    data = open_data(config)
    task = TASKS[config.task](config, len(data.train.class_names))
    parallel, count = _parallel_batches(config), _consecutive_batches(config)

    def batches() -> float:
        with contextlib.closing(_train_batches(task, data.train)) as made:
            # About this many batches are ready when the first one is.
            for _ in range(2 * parallel):
                next(made)
            start = time.perf_counter()
            for _ in range(count):
                next(made)
            return time.perf_counter() - start

    images = count * config.batch_size
    return {"input": Program(batches, images, count, 0, times_itself=True)}


def end_to_end(config: ml_collections.ConfigDict) -> dict[str, Program]:
    """Returns steps on the config's dataset, as a run makes them between log lines."""
    mesh = make_mesh(config.mesh)
    data = open_data(config)
    num_classes = len(data.train.class_names)
    task = TASKS[config.task](config, num_classes)
    with contextlib.closing(_train_batches(task, data.train)) as made:
        batch = put_batch(next(made), mesh)
    steps = _Steps(config, num_classes, mesh, batch)
    count = _consecutive_batches(config)

    def run() -> float:
        with contextlib.closing(_train_batches(task, data.train)) as made:
            jax.block_until_ready(steps(put_batch(next(made), mesh)))
            timer, running = StepTimer(), []
            for _ in range(count):
                with timer.waiting():
                    batch = put_batch(next(made), mesh)
                running.append(steps(batch))
                jax.block_until_ready(running[: -train.STEPS_AHEAD])
            jax.block_until_ready(running)
            measured = timer.metrics(count, config.batch_size)
        program.data_wait.append(measured["data_wait"])
        return count * measured["step_time"]

    program = Program(
        run,
        count * config.batch_size,
        count,
        mesh.size,
        times_itself=True,
        compiled=steps.compiled,
        compile_seconds=steps.compile_seconds,
        flops=count * steps.flops,
    )
    return {"end_to_end": program}


def compile_program(images: int, function: Callable, arguments: Any) -> Program:
    """Compiles a function for one device.

    Args:
      images: number of images per call.
      function: function of arrays.
      arguments: its arguments.
    """
    arguments = jax.device_put(arguments)
    compiled, seconds = _compile(jax.jit(function), *arguments)
    return Program(
        functools.partial(compiled, *arguments),
        images,
        compiled=compiled,
        compile_seconds=seconds,
        flops=program_cost.products(function, *arguments).flops,
    )


def draw_variables(task: Task) -> dict[str, Any]:
    """Returns initial variables {params, batch_stats}."""
    # The rbg generator compiles several times faster than threefry.
    return jax.jit(task.init)(jax.random.key(0, impl="rbg"))


def _train_batches(task: Task, split: sources.Split) -> Batches:
    """Returns the training batches of a split, from the first step on."""
    return train_batches(split, task.config, make_row=task.train_row(split))


def _parallel_batches(config: ml_collections.ConfigDict) -> int:
    """Returns the number of batches that are made in parallel and arrive together."""
    made_by = config.dataset.num_threads, config.dataset.num_workers
    return math.prod(max(1, number) for number in made_by)


def _consecutive_batches(config: ml_collections.ConfigDict) -> int:
    """Returns the number of batches per timing: a multiple of the parallel ones."""
    parallel = _parallel_batches(config)
    return parallel * math.ceil(_MIN_CONSECUTIVE / parallel)


class _Steps:
    """Compiled training step that keeps its state from call to call.

    Attributes:
      compiled: program of one step.
      compile_seconds: time of the compilation.
      flops: FLOPs of the model's convolutions and matrix products per step.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        num_classes: int,
        mesh: Mesh,
        batch: Mapping[str, jax.Array],
    ) -> None:
        def step_of(config: ml_collections.ConfigDict) -> Callable:
            task = TASKS[config.task](config, num_classes)
            return make_train_step(task, mesh, self._state)

        task = TASKS[config.task](config, num_classes)
        self._state = init_state(task, mesh)
        arguments = (self._state, batch)
        self.flops = program_cost.products(
            step_of(_as_defined(config)), *arguments
        ).flops
        self.compiled, self.compile_seconds = _compile(step_of(config), *arguments)

    def __call__(self, batch: Mapping[str, jax.Array]) -> Any:
        """Runs one step and returns its metrics."""
        self._state, metrics = self.compiled(self._state, batch)
        return metrics


def _inference(
    config: ml_collections.ConfigDict, num_classes: int, function: Callable
) -> Program:
    """Compiles a function of a task, its variables and canvases, at eval_batch_size.

    Maps of references are among the arguments: they are computed once for all frames or
    tiles that use them.
    """
    images = config.eval_batch_size
    batch = synthetic.make_batch(config, num_classes, images)
    task, as_defined = (
        DetectionTask(c, num_classes) for c in (config, _as_defined(config))
    )
    arguments = (
        *(draw_variables(task), batch["image"], batch["image_size"]),
        synthetic.make_reference_maps(task, images),
    )
    program = compile_program(images, functools.partial(function, task), arguments)
    counted = program_cost.products(functools.partial(function, as_defined), *arguments)
    return dataclasses.replace(program, flops=counted.flops)


def _forward(task: DetectionTask, *arguments: Any) -> tuple[jax.Array, jax.Array]:
    predictions = task.forward(*arguments)
    return predictions.logits, predictions.offsets


def _compile(function: Any, *arguments: Any) -> tuple[jax.stages.Compiled, float]:
    """Returns the compiled function and the seconds of tracing and compiling it."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _as_defined(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config that computes the same without additional arithmetic.

    Blocks, column pairs and rematerialization hide or repeat FLOPs of the model.
    """
    config = config.copy_and_resolve_references()
    config.borrow.attention = config.first_stage = "plain"
    config.remat = "none"
    return config
