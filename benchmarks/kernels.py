"""Parts of the detector on a device: trunk, matching block, suppression.

Each function here makes a call; arrays are on the device already.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import ours, torchvision_ssd
from borrow_det.ops import attention, nms
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.aot_compile import program_cost

# Trunk.


class Counted(NamedTuple):
    """A call and what it computes."""

    call: Callable[[], Any]
    flops: int


def matmul(side: int, dtype: str) -> Counted:
    """The product of two square matrices, the rate that others are held against."""
    random = np.random.default_rng(0)
    left, right = (
        jnp.asarray(random.normal(size=(side, side)), dtype) for _ in range(2)
    )
    return _counted(jnp.matmul, left, right)


def trunk(config: Any, gradient: bool) -> Counted:
    """The trunk of normalised images to its levels, or the gradient of its parameters.

    The gradient's call computes the levels as well, as a training step does.
    """
    task = DetectionTask(config, ours.CLASSES)
    params = ours.draw_variables(task)["params"]["trunk"]
    image = ours.noise(config.batch_size, task.input_size[0]).astype(np.float32) - 128

    def levels(params, image):
        return task.model.trunk.apply({"params": params}, image, gradient)

    def total(params, image):
        return sum(
            jnp.sum(jnp.square(level.astype(jnp.float32)))
            for level in levels(params, image)
        )

    return _counted(jax.grad(total) if gradient else levels, params, image)


def _counted(function, *args):
    flops = program_cost.products(function, *args).flops
    args = jax.device_put(args)
    program = jax.jit(function).lower(*args).compile()
    return Counted(functools.partial(program, *args), flops)


# Matching.


class MatchingShape(NamedTuple):
    """Q [B, R, C] against K and V [B, T, C]."""

    batch: int
    queries: int
    keys: int
    channels: int


def matching_arrays(shape: MatchingShape) -> tuple[np.ndarray, ...]:
    """Q, K, V and the gradient of Z, normal, float32."""
    random = np.random.default_rng(0)
    batch, R, T, C = shape
    return tuple(
        random.standard_normal((batch, n, C), np.float32) for n in (R, T, T, R)
    )


def our_matching(
    shape: MatchingShape, dtype: str, gradient: bool, form: str
) -> Callable[[], Any]:
    """Z of the form `attention.weighted_sum` has, or Z and the gradients of Q, K, V."""

    def attend(Q, K, V):
        return attention.weighted_sum(
            Q, K, V, shape.channels**-0.5, softmax=True, form=form, block=512
        )

    def both(Q, K, V, dZ):
        value, gradients = jax.vjp(attend, Q, K, V)
        return value, gradients(dZ)

    *inputs, dZ = (jnp.asarray(x, dtype) for x in matching_arrays(shape))
    args = (*inputs, dZ) if gradient else inputs
    program = jax.jit(both if gradient else attend).lower(*args).compile()
    return functools.partial(program, *args)


def their_matching(
    shape: MatchingShape, dtype: str, gradient: bool, device: str
) -> Callable[[], Any]:
    """The same by torch.nn.functional.scaled_dot_product_attention, of one head."""
    *inputs, dZ = (
        torch.from_numpy(x).to(device, getattr(torch, dtype))[:, None]
        for x in matching_arrays(shape)
    )
    for x in inputs:
        x.requires_grad_(gradient)
    attend = torch.nn.functional.scaled_dot_product_attention

    def call():
        Z = attend(*inputs, scale=shape.channels**-0.5)
        said = (Z, torch.autograd.grad(Z, inputs, dZ)) if gradient else Z
        torchvision_ssd.synchronize(device)
        return said

    return call


def matching_difference(said: Mapping[str, Any]) -> dict[str, Any]:
    """The largest difference of Z from the first one's."""
    values = []
    for one in said.values():
        Z = one[0] if isinstance(one, tuple) else one
        if not isinstance(Z, jax.Array):
            Z = Z.detach().float().cpu().numpy()[:, 0]
        values.append(np.asarray(Z, np.float32))
    return {"difference": max(float(np.abs(Z - values[0]).max()) for Z in values)}


# Suppression.


class Scored(NamedTuple):
    """Boxes [B, A, 4] and scores [B, A, C], float32."""

    boxes: np.ndarray
    scores: np.ndarray


def scored(batch: int, anchors: int, classes: int, trained: bool) -> Scored:
    """What a detector might say of images with 20 objects each.

    Args:
      batch: images.
      anchors: A, each of them about one of the objects.
      classes: C.
      trained: about 50 anchors of an object score above 0.01, for its class alone; or
        else all scores are uniform in [0, 1).
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
    """Our suppression of a batch of B x A x C scores, compiled: of boxes and scores."""
    names = ("score", "iou", "max_per_class", "max_total")
    run = functools.partial(
        nms.class_wise_nms, **{name: options[name] for name in names}
    )
    boxes = jax.ShapeDtypeStruct((*shape[:2], 4), jnp.float32)
    scores = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.jit(run).lower(boxes, scores).compile()


def our_suppression(program: Callable[..., Any], data: Scored) -> Callable[[], Any]:
    """A call of what `suppression` made."""
    return functools.partial(program, *jax.device_put(tuple(data)))


def their_suppression(data: Scored, options: Any, device: str) -> Callable[[], Any]:
    """The same by torchvision.ops.batched_nms."""
    boxes, scores = (torch.from_numpy(x).to(device) for x in data)
    return functools.partial(torchvision_ssd.suppress, boxes, scores, options, device)


def kept(said: Mapping[str, Any]) -> dict[str, Any]:
    """How many boxes each keeps of all images, and the sum of their scores."""

    def figures(found):
        if isinstance(found, list):
            scores = np.concatenate([image[1].cpu().numpy() for image in found])
        else:
            scores = np.asarray(found.scores)[np.asarray(found.mask)]
        return [len(scores), float(scores.sum(dtype=np.float64))]

    return {"kept": {name: figures(found) for name, found in said.items()}}
