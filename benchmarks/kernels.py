"""Parts of the detector on a device: trunk, matching block, suppression.

The functions return calls whose arrays are already on the device.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import torch

from benchmarks import ours, torchvision_ssd
from borrow_det.ops import attention, nms
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.aot_compile import program_cost

# Trunk.


class Counted(NamedTuple):
    """Call and the number of its FLOPs."""

    call: Callable[[], Any]
    flops: int


def matmul(side: int, dtype: str) -> Counted:
    """Returns the product of two square matrices, whose rate is the reference."""
    random = np.random.default_rng(0)
    left, right = (
        jnp.asarray(random.normal(size=(side, side)), dtype) for _ in range(2)
    )
    return _counted(jnp.matmul, left, right)


def trunk(config: ml_collections.ConfigDict, gradient: bool) -> Counted:
    """Returns the trunk of an image after pixel statistics, or its gradient.

    The gradient is that of the parameters. Its call computes the levels as well, as a
    training step does.
    """
    task = DetectionTask(config, ours.CLASSES)
    params = ours.draw_variables(task)["params"]["trunk"]
    image = ours.noise(config.batch_size, task.input_size[0]).astype(np.float32) - 128

    def levels(params: dict, image: jax.Array) -> Any:
        return task.model.trunk.apply({"params": params}, image, gradient)

    def total(params: dict, image: jax.Array) -> Any:
        return sum(
            jnp.sum(jnp.square(level.astype(jnp.float32)))
            for level in levels(params, image)
        )

    return _counted(jax.grad(total) if gradient else levels, params, image)


def _counted(function: Callable, *args: Any) -> Counted:
    flops = program_cost.products(function, *args).flops
    args = jax.device_put(args)
    program = jax.jit(function).lower(*args).compile()
    return Counted(functools.partial(program, *args), flops)


# Matching.


class MatchingShape(NamedTuple):
    """Sizes of Q [B, R, C], K and V [B, T, C]."""

    batch: int
    queries: int
    keys: int
    channels: int


def matching_arrays(shape: MatchingShape) -> tuple[np.ndarray, ...]:
    """Draws Q, K, V and the gradient of Z from a normal distribution, float32."""
    random = np.random.default_rng(0)
    batch, R, T, C = shape
    return tuple(
        random.standard_normal((batch, n, C), np.float32) for n in (R, T, T, R)
    )


def our_matching(
    shape: MatchingShape, dtype: str, gradient: bool, form: str
) -> Callable[[], Any]:
    """Returns `attention.weighted_sum` in a form, optionally with its gradients."""

    def attend(Q: jax.Array, K: jax.Array, V: jax.Array) -> jax.Array:
        return attention.weighted_sum(
            Q, K, V, shape.channels**-0.5, softmax=True, form=form, block=512
        )

    def both(Q: jax.Array, K: jax.Array, V: jax.Array, dZ: jax.Array) -> Any:
        value, gradients = jax.vjp(attend, Q, K, V)
        return value, gradients(dZ)

    *inputs, dZ = (jnp.asarray(x, dtype) for x in matching_arrays(shape))
    args = (*inputs, dZ) if gradient else inputs
    program = jax.jit(both if gradient else attend).lower(*args).compile()
    return functools.partial(program, *args)


def their_matching(
    shape: MatchingShape, dtype: str, gradient: bool, device: str
) -> Callable[[], Any]:
    """Returns the same by PyTorch's scaled_dot_product_attention with one head."""
    *inputs, dZ = (
        torch.from_numpy(x).to(device, getattr(torch, dtype))[:, None]
        for x in matching_arrays(shape)
    )
    for x in inputs:
        x.requires_grad_(gradient)
    attend = torch.nn.functional.scaled_dot_product_attention

    def call() -> Any:
        Z = attend(*inputs, scale=shape.channels**-0.5)
        result = (Z, torch.autograd.grad(Z, inputs, dZ)) if gradient else Z
        torchvision_ssd.synchronize(device)
        return result

    return call


def matching_difference(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the largest difference between Z and the Z of the first call."""
    values = []
    for one in results.values():
        Z = one[0] if isinstance(one, tuple) else one
        if not isinstance(Z, jax.Array):
            Z = Z.detach().float().cpu().numpy()[:, 0]
        values.append(np.asarray(Z, np.float32))
    return {"difference": max(float(np.abs(Z - values[0]).max()) for Z in values)}


# Suppression.


class Scored(NamedTuple):
    """Boxes [B, A, 4] and scores [B, A, C] of anchors, float32."""

    boxes: np.ndarray
    scores: np.ndarray


def scored(batch: int, anchors: int, classes: int, trained: bool) -> Scored:
    """Draws boxes and scores like those of a detector, for 20 objects per image.

    Args:
      batch: number of images, B.
      anchors: number of anchors, A; each is near one of the objects.
      classes: number of classes, C.
      trained: if True, about 50 anchors per object have a score above 0.01, for its
        class alone; if False, all scores are uniform in [0, 1).
    """
    random = np.random.default_rng(0)
    objects, near = 20, 50
    sides = random.uniform(0.05, 0.5, (batch, objects, 2))
    centers = random.uniform(0.2, 0.8, (batch, objects, 2))
    of = random.integers(0, objects, (batch, anchors))[..., None]
    side = np.take_along_axis(sides, of, 1)
    center = np.take_along_axis(centers, of, 1)
    center = center + side * random.normal(0, 0.15, side.shape)
    side = side * np.exp(random.normal(0, 0.2, side.shape))
    boxes = np.concatenate([center - side / 2, center + side / 2], -1)
    boxes = boxes.clip(0, 1).astype(np.float32)
    if not trained:
        return Scored(boxes, random.random((batch, anchors, classes), np.float32))
    scores = np.full((batch, anchors, classes), 1e-4, np.float32)
    labels = np.take_along_axis(
        random.integers(0, classes, (batch, objects)), of[..., 0], 1
    )
    high = random.random((batch, anchors)) < objects * near / anchors
    image, anchor = np.nonzero(high)
    scores[image, anchor, labels[high]] = random.uniform(0.01, 1, len(image))
    return Scored(boxes, scores)


def suppression(shape: tuple[int, int, int], options: Any) -> Callable[..., Any]:
    """Compiles our suppression, a function of boxes and of B x A x C scores."""
    names = ("score", "iou", "max_per_class", "max_total")
    run = functools.partial(
        nms.class_wise_nms, **{name: options[name] for name in names}
    )
    boxes = jax.ShapeDtypeStruct((*shape[:2], 4), jnp.float32)
    scores = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.jit(run).lower(boxes, scores).compile()


def our_suppression(program: Callable[..., Any], data: Scored) -> Callable[[], Any]:
    """Returns a call of a compiled `suppression`."""
    return functools.partial(program, *jax.device_put(tuple(data)))


def their_suppression(data: Scored, options: Any, device: str) -> Callable[[], Any]:
    """Returns the suppression by torchvision.ops.batched_nms."""
    boxes, scores = (torch.from_numpy(x).to(device) for x in data)
    return functools.partial(torchvision_ssd.suppress, boxes, scores, options, device)


def kept(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns each side's number of kept boxes and the sum of their scores."""

    def figures(found: Any) -> list[float]:
        if isinstance(found, list):
            scores = np.concatenate([image[1].cpu().numpy() for image in found])
        else:
            scores = np.asarray(found.scores)[np.asarray(found.mask)]
        return [len(scores), float(scores.sum(dtype=np.float64))]

    return {"kept": {name: figures(found) for name, found in results.items()}}
