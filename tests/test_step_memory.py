"""Memory of a training step at the size of a real run."""

import re

import jax
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.tasks.detection import DetectionTask
from borrow_det.train_step import abstract_state, make_train_step

SIDE, BATCH, OBJECTS = 640, 8, 100
# Of the shallowest level: its own positions, and those of the deeper ones.
QUERIES, SOURCES = 80**2, 40**2 + 20**2 + 10**2


def arrays_of_a_step(dtype, attention):
    """(shape, type) of every array in the program that is compiled."""
    config = base.get_config()
    config.input_size = (SIDE, SIDE)
    config.batch_size = BATCH
    config.dtype = dtype
    config.borrow.attention = attention
    task = DetectionTask(config, num_classes=80)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    rows = {
        "image": ((SIDE, SIDE, 3), np.uint8),
        "image_size": ((2,), np.int32),
        "boxes": ((OBJECTS, 4), np.float32),
        "labels": ((OBJECTS,), np.int32),
        "box_mask": ((OBJECTS,), np.bool_),
        "ignore": ((OBJECTS,), np.bool_),
        "image_id": ((), np.int32),
        "mask": ((), np.bool_),
    }
    batch = {
        name: jax.ShapeDtypeStruct((BATCH, *shape), dtype)
        for name, (shape, dtype) in rows.items()
    }
    with jax.numpy_dtype_promotion("standard"):  # Of integers, in optax.
        state = abstract_state(task, mesh)
        step = make_train_step(task, mesh, state)
        text = step.lower(state, batch).as_text()
    return {
        (tuple(map(int, shape.split("x"))), dtype)
        for shape, dtype in re.findall(r"tensor<((?:\d+x)*\d+)x([a-z]+\d+)>", text)
    }


def held(arrays):
    """The types of those that have a number for each pair of an image's descriptors."""
    return {
        dtype
        for shape, dtype in arrays
        if BATCH in shape and np.prod(shape) % (BATCH * QUERIES * SOURCES) == 0
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_at_640_pixels_never_holds_all_similarities(dtype):
    assert held(arrays_of_a_step(dtype, "blocks")) == set()


def test_plain_attention_does_hold_all_similarities():
    assert "f32" in held(arrays_of_a_step("float32", "plain"))
