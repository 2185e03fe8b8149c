"""Blocks of the network, of a training step and of detection, each as a program."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from borrow_det.data.augmentation.resampling import resize_batch
from borrow_det.models import borrowing, context, heads
from borrow_det.models.references import ReferenceImages
from borrow_det.models.trunks import Trunk
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.benchmark.programs import (
    Program,
    compile_program,
    draw_variables,
)
from borrow_det.tools.common import synthetic

_BLOCKS = (
    Trunk,
    borrowing.FeatureMatchingBlock,
    borrowing.FeatureRepresentingBlock,
    borrowing.FeatureFusionBlock,
    context.Deconvolution,
    heads.Subnets,
)
# A function and its arguments.
_Call = tuple[Callable, tuple]


def blocks(config: ml_collections.ConfigDict, num_classes: int) -> dict[str, Program]:
    """Returns the blocks of a training step and of detection, at batch_size.

    Modules run as in training, on noise with the shapes that their inputs have there.
    Decoding and suppression run on noise in place of the network's predictions.
    """
    task = DetectionTask(config, num_classes)
    batch = synthetic.make_batch(config, num_classes, config.batch_size)
    canvases, key = (batch["image"], batch["image_size"]), jax.random.key(0)
    predictions, modules = _modules(task, config.batch_size)
    examples, totals = jax.jit(task.prepare)(key, batch)

    def resize(image: jax.Array, image_size: jax.Array) -> jax.Array:
        return resize_batch(image, image_size, task.input_size)

    def loss(predictions: Any, examples: Any, totals: Any) -> jax.Array:
        return task.loss_of(predictions, examples, totals)[0]

    calls: dict[str, _Call] = {
        "augmentation and targets": (task.prepare, (key, batch)),
        "resizing": (resize, canvases),
        **modules,
        "loss": (loss, (predictions, examples, totals)),
        "decoding and suppression": (task.decode, (predictions,)),
    }
    for name in (*modules, "loss"):
        function, arguments = calls[name]
        calls[f"{name}, gradient"] = (_gradient_of(function), arguments)
    return {
        name: compile_program(config.batch_size, function, arguments)
        for name, (function, arguments) in calls.items()
    }


def _modules(task: DetectionTask, images: int) -> tuple[Any, dict[str, _Call]]:
    """Returns predictions of the network, and its blocks by path, all on noise."""
    variables = draw_variables(task)
    found: dict[tuple[str, ...], tuple[nn.Module, tuple]] = {}

    def record(call: Callable, arguments: tuple, keywords: dict, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__" and isinstance(module, _BLOCKS):
            found[module.path] = (
                module.clone(parent=None),
                jax.tree.map(_shape, arguments),
            )
        return call(*arguments, **keywords)

    image = jax.ShapeDtypeStruct((images, *task.input_size, 3), jnp.float32)
    apply = functools.partial(task.model.apply, train=True, mutable=["batch_stats"])
    with nn.intercept_methods(record):
        predictions, _ = jax.eval_shape(
            apply, variables, image, references=_reference_shapes(task, images)
        )
    return _noise(predictions), {
        "/".join(path): _module_call(module, arguments, _subtree(variables, path))
        for path, (module, arguments) in found.items()
    }


def _reference_shapes(task: DetectionTask, images: int) -> ReferenceImages | None:
    """Returns the shapes of the references of a batch; None without references."""
    count = synthetic.reference_count(task.config)
    if not count:
        return None

    def make() -> ReferenceImages:
        shape = (images, count, *task.input_size, 3)
        return ReferenceImages(jnp.zeros(shape), jnp.ones(shape[:2], jnp.bool_))

    return jax.eval_shape(make)


def _module_call(module: nn.Module, arguments: tuple, variables: dict) -> _Call:
    """Returns a module as a function of its variables and of its input arrays."""
    leaves, tree = jax.tree.flatten(arguments)

    def apply(variables: dict, arrays: Sequence[jax.Array]) -> Any:
        remaining = iter(arrays)
        merged = [next(remaining) if _is_shape(leaf) else leaf for leaf in leaves]
        inputs = jax.tree.unflatten(tree, merged)
        return module.apply(variables, *inputs, mutable=["batch_stats"])[0]

    return apply, (variables, _noise([leaf for leaf in leaves if _is_shape(leaf)]))


def _subtree(variables: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Returns a module's variables; collections without any are omitted."""
    for name in path:
        variables = {k: v[name] for k, v in variables.items() if name in v}
    return dict(variables)


def _gradient_of(function: Callable) -> Callable:
    """Returns the gradient of the sum of squared outputs by all float arguments."""

    def gradient(*arguments: Any) -> list[jax.Array]:
        leaves, tree = jax.tree.flatten(arguments)
        places = [i for i, x in enumerate(leaves) if _is_floating(x)]

        def total(values: Sequence[jax.Array]) -> jax.Array:
            merged = dict(enumerate(leaves)) | dict(zip(places, values, strict=True))
            inputs = jax.tree.unflatten(tree, merged.values())
            out = jax.tree.leaves(function(*inputs))
            squares = (jnp.square(x.astype(jnp.float32)) for x in out)
            return sum((jnp.sum(x) for x in squares), start=jnp.zeros(()))

        return jax.grad(total)([leaves[i] for i in places])

    return gradient


def _is_floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _shape(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype)
    return x


def _is_shape(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def _noise(shapes: Any) -> Any:
    """Returns arrays: normally distributed, zero for integers, true for masks."""
    random = np.random.default_rng(0)

    def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
        if not _is_floating(x):
            return np.full(x.shape, x.dtype == bool, x.dtype)
        return random.standard_normal(x.shape, np.float32).astype(x.dtype)

    return jax.tree.map(draw, shapes)
