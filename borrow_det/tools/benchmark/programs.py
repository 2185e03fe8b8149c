"""What tools.benchmark times: of a config and a mode the calls, by name."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from borrow_det import train
from borrow_det.data import pipeline as pipeline_lib
from borrow_det.data.augmentation import detection as augment
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.models import borrowing, detector
from borrow_det.models import context as context_lib
from borrow_det.models.trunks import vgg
from borrow_det.reporting.step_timer import StepTimer
from borrow_det.tasks import TASKS, open_data
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.aot_compile import program_cost
from borrow_det.tools.common import synthetic
from borrow_det.train_step import init_state, make_train_step

# Batches, or steps, of one timing of the pipeline and of training, at least.
_IN_A_ROW = 8
_BLOCKS = (
    vgg.VGGStages,
    borrowing.FeatureMatchingBlock,
    borrowing.FeatureRepresentingBlock,
    borrowing.FeatureFusionBlock,
    context_lib.Deconvolution,
    detector.Head,
)


@dataclasses.dataclass
class Program:
    """Something to be timed.

    Attributes:
      call: does it once, for `images` images.
      images: of a call.
      repeats: batches or steps of a call, one after the other.
      devices: that it runs on; 0: the host's cores alone.
      times_itself: whether `call` returns the seconds that it took, of which it leaves
        out what is not meant; or arrays, to be waited for.
      compiled: what was compiled, if anything.
      compile_seconds: how long that took.
      flops: of the model's convolutions and products in a call.
      waited: of calls that train, the share of their time spent on batches.
    """

    call: Callable[[], Any]
    images: int
    repeats: int = 1
    devices: int = 1
    times_itself: bool = False
    compiled: jax.stages.Compiled | None = None
    compile_seconds: float | None = None
    flops: int | None = None
    waited: list[float] = dataclasses.field(default_factory=list)


def forward(config, num_classes: int) -> dict[str, Program]:
    """From uint8 canvases to what the network says of every anchor."""
    return {"forward": _inference(config, num_classes, _forward)}


def detect(config, num_classes: int) -> dict[str, Program]:
    """From uint8 canvases to detections."""
    return {"detect": _inference(config, num_classes, DetectionTask.detect)}


def train_step(config, num_classes: int) -> dict[str, Program]:
    """A training step, on all devices that config.mesh has."""
    mesh = mesh_lib.make_mesh(config.mesh)
    batch = synthetic.make_batch(config, num_classes, config.batch_size)
    batch = mesh_lib.put_batch(batch, mesh)
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


def pipeline(config) -> dict[str, Program]:
    """The host's part: batches of the config's data set, decoded."""
    data = open_data(config)
    task = TASKS[config.task](config, len(data.train.class_names))
    at_once, count = _at_once(config), _in_a_row(config)

    def batches() -> float:
        with contextlib.closing(_train_batches(task, data.train)) as made:
            # As many as are ready, or nearly so, when the first one is.
            for _ in range(2 * at_once):
                next(made)
            start = time.perf_counter()
            for _ in range(count):
                next(made)
            return time.perf_counter() - start

    images = count * config.batch_size
    return {"input": Program(batches, images, count, 0, times_itself=True)}


def end_to_end(config) -> dict[str, Program]:
    """Steps on the config's data set, as a run makes them between two log lines."""
    mesh = mesh_lib.make_mesh(config.mesh)
    data = open_data(config)
    num_classes = len(data.train.class_names)
    task = TASKS[config.task](config, num_classes)
    with contextlib.closing(_train_batches(task, data.train)) as made:
        batch = mesh_lib.put_batch(next(made), mesh)
    steps = _Steps(config, num_classes, mesh, batch)
    count = _in_a_row(config)

    def run() -> float:
        with contextlib.closing(_train_batches(task, data.train)) as made:
            jax.block_until_ready(steps(mesh_lib.put_batch(next(made), mesh)))
            timer, running = StepTimer(), []
            for _ in range(count):
                with timer.waiting():
                    batch = mesh_lib.put_batch(next(made), mesh)
                running.append(steps(batch))
                jax.block_until_ready(running[: -train.STEPS_AHEAD])
            jax.block_until_ready(running)
            measured = timer.metrics(count, config.batch_size)
        program.waited.append(measured["data_wait"])
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


def _train_batches(task, split) -> pipeline_lib.Batches:
    """Yields the training batches of a split, from the first step on."""
    return pipeline_lib.train_batches(split, task.config, make_row=task.train_row(split))


def _at_once(config) -> int:
    """How many batches are made side by side, and so arrive together."""
    made_by = config.dataset.num_threads, config.dataset.num_workers
    return math.prod(max(1, number) for number in made_by)


def _in_a_row(config) -> int:
    """Batches of a timing: whole lots of those that arrive together."""
    at_once = _at_once(config)
    return at_once * math.ceil(_IN_A_ROW / at_once)


def blocks(config, num_classes: int) -> dict[str, Program]:
    """What a step and detecting are made of, each apart, at batch_size.

    Modules run as in training, on noise of the shapes that they have there; decoding
    and suppression take noise for what the network says.
    """
    task = DetectionTask(config, num_classes)
    batch = synthetic.make_batch(config, num_classes, config.batch_size)
    canvases, key = (batch["image"], batch["image_size"]), jax.random.key(0)
    said, modules = _modules(task, config.batch_size)
    examples, totals = jax.jit(task.prepare)(key, batch)

    def resize(*canvases):
        return augment.resize_batch(*canvases, task.input_size)

    def loss(said, examples, totals):
        return task.loss_of(said, examples, totals)[0]

    calls = {
        "augmentation and targets": (task.prepare, (key, batch)),
        "resizing": (resize, canvases),
        **modules,
        "loss": (loss, (said, examples, totals)),
        "decoding and suppression": (task.decode, (said,)),
    }
    for name in (*modules, "loss"):
        function, arguments = calls[name]
        calls[f"{name}, gradient"] = (_gradient_of(function), arguments)
    return {
        name: _program(config.batch_size, function, arguments)
        for name, (function, arguments) in calls.items()
    }


def _modules(task, images):
    """What the network says, and its blocks by path as (function, arguments); noise."""
    variables = _draw_variables(task)
    found = {}

    def note(call, arguments, keywords, context):
        module = context.module
        if context.method_name == "__call__" and isinstance(module, _BLOCKS):
            found[module.path] = (
                module.clone(parent=None),
                jax.tree.map(_shape, arguments),
            )
        return call(*arguments, **keywords)

    image = jax.ShapeDtypeStruct((images, *task.input_size, 3), jnp.float32)
    apply = functools.partial(task.model.apply, train=True, mutable=["batch_stats"])
    with nn.intercept_methods(note):
        said, _ = jax.eval_shape(apply, variables, image)
    return _noise(said), {
        "/".join(path): _call(module, arguments, _under(variables, path))
        for path, (module, arguments) in found.items()
    }


def _call(module, arguments, variables):
    """A module's function of its variables and of the arrays that it is called with."""
    leaves, tree = jax.tree.flatten(arguments)

    def apply(variables, arrays):
        arrays = iter(arrays)
        merged = [next(arrays) if _is_shape(leaf) else leaf for leaf in leaves]
        arguments = tree.unflatten(merged)
        return module.apply(variables, *arguments, mutable=["batch_stats"])[0]

    return apply, (variables, _noise([leaf for leaf in leaves if _is_shape(leaf)]))


def _under(variables, path):
    """The part of a module's variables; a collection may have none of it."""
    for name in path:
        variables = {k: v[name] for k, v in variables.items() if name in v}
    return variables


def _gradient_of(function):
    """The gradient of its squares' sum, of all its arguments that are not integers."""

    def gradient(*arguments):
        leaves, tree = jax.tree.flatten(arguments)
        moving = [i for i, x in enumerate(leaves) if _is_floating(x)]

        def total(values):
            merged = dict(enumerate(leaves)) | dict(zip(moving, values, strict=True))
            out = jax.tree.leaves(function(*tree.unflatten(merged.values())))
            squares = (jnp.square(x.astype(jnp.float32)) for x in out)
            return sum(jnp.sum(x) for x in squares)

        return jax.grad(total)([leaves[i] for i in moving])

    return gradient


def _is_floating(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def _shape(x):
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    return x


def _is_shape(x):
    return isinstance(x, jax.ShapeDtypeStruct)


def _noise(shapes):
    """Arrays of these shapes: of a normal distribution, or zeros where integers."""
    random = np.random.default_rng(0)

    def draw(x):
        if not _is_floating(x):
            return np.zeros(x.shape, x.dtype)
        return random.standard_normal(x.shape, np.float32).astype(x.dtype)

    return jax.tree.map(draw, shapes)


# Programs.


class _Steps:
    """A compiled training step, whose state goes from call to call.

    Attributes:
      compiled: the program of one step.
      compile_seconds: how long that took.
      flops: of the model's convolutions and products in a step.
    """

    def __init__(self, config, num_classes, mesh, batch):
        def step_of(config):
            task = TASKS[config.task](config, num_classes)
            return make_train_step(task, mesh, self._state)

        task = TASKS[config.task](config, num_classes)
        self._state = init_state(task, mesh)
        arguments = (self._state, batch)
        self.flops = program_cost.products(
            step_of(_as_defined(config)), *arguments
        ).flops
        self.compiled, self.compile_seconds = _compile(step_of(config), *arguments)

    def __call__(self, batch) -> Any:
        """Its metrics."""
        self._state, metrics = self.compiled(self._state, batch)
        return metrics


def _inference(config, num_classes, function):
    """A program of a task's variables and of canvases, at eval_batch_size."""
    images = config.eval_batch_size
    batch = synthetic.make_batch(config, num_classes, images)
    task, as_defined = (
        DetectionTask(c, num_classes) for c in (config, _as_defined(config))
    )
    arguments = (_draw_variables(task), batch["image"], batch["image_size"])
    program = _program(images, functools.partial(function, task), arguments)
    counted = program_cost.products(functools.partial(function, as_defined), *arguments)
    return dataclasses.replace(program, flops=counted.flops)


def _forward(task, *arguments):
    said = task.forward(*arguments)
    return said.logits, said.offsets


def _program(images, function, arguments):
    """A function of arrays, compiled for one device."""
    arguments = jax.device_put(arguments)
    compiled, seconds = _compile(jax.jit(function), *arguments)
    return Program(
        functools.partial(compiled, *arguments),
        images,
        compiled=compiled,
        compile_seconds=seconds,
        flops=program_cost.products(function, *arguments).flops,
    )


def _compile(function, *arguments):
    """(the compiled function, the seconds from tracing to its end)."""
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _draw_variables(task):
    # The rbg generator compiles several times faster than threefry.
    return jax.jit(task.init)(jax.random.key(0, impl="rbg"))


def _as_defined(config):
    """The config without what computes the same with more, or hidden, arithmetic."""
    config = config.copy_and_resolve_references()
    config.borrow.attention = config.first_stage = "plain"
    config.remat = "none"
    return config
