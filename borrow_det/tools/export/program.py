"""The function that is exported, and its inputs."""

from collections.abc import Callable, Mapping

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data.augmentation.references import resize_references
from borrow_det.models.references import ReferenceImages
from borrow_det.tasks.detection import DetectionTask

Inputs = Mapping[str, jax.ShapeDtypeStruct]  # In the order of the arguments.

OUTPUTS = ("boxes", "scores", "labels", "mask")


def make_function(
    task: DetectionTask, variables: dict
) -> Callable[..., dict[str, Array]]:
    """Returns the function of the inputs, which includes the parameters."""

    def detect(
        image: Array, image_size: Array, *of_references: Array
    ) -> dict[str, Array]:
        references = _resized(task, *of_references) if of_references else None
        predictions = task.forward(variables, image, image_size, references)
        # A dictionary, since the file cannot refer to a class of this package.
        found = task.decode(predictions)._asdict()
        return {name: found[name] for name in OUTPUTS}

    return detect


def _resized(
    task: DetectionTask, image: Array, size: Array, mask: Array
) -> ReferenceImages:
    """Returns references of the network's input size; absent ones have any size."""
    resized = resize_references(image, jnp.maximum(size, 1), task.input_size)
    return ReferenceImages(resized, mask)


def make_inputs(canvas: tuple[int, int], batch: int | None, references: int) -> Inputs:
    """Returns the shapes and types of the inputs.

    Args:
      canvas: (height, width) of the canvases in pixels.
      batch: number of images per call; None for any number.
      references: number of references of an image; 0 for no such inputs.
    """
    (rows,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
    inputs = {
        "image": jax.ShapeDtypeStruct((rows, *canvas, 3), np.uint8),
        "image_size": jax.ShapeDtypeStruct((rows, 2), np.int32),
    }
    if references:
        several = (rows, references)
        inputs |= {
            "reference_image": jax.ShapeDtypeStruct((*several, *canvas, 3), np.uint8),
            "reference_size": jax.ShapeDtypeStruct((*several, 2), np.int32),
            "reference_mask": jax.ShapeDtypeStruct(several, np.bool_),
        }
    return inputs


def draw_inputs(
    canvas: tuple[int, int], batch: int, references: int
) -> dict[str, np.ndarray]:
    """Returns inputs of noise that fills the canvases; all references are present."""
    random = np.random.default_rng(0)
    drawn: dict[str, np.ndarray] = {}
    for name, form in make_inputs(canvas, batch, references).items():
        if form.dtype == np.uint8:
            drawn[name] = random.integers(0, 256, form.shape, np.uint8)
        elif form.dtype == np.bool_:
            drawn[name] = np.ones(form.shape, bool)
        else:
            drawn[name] = np.broadcast_to(np.array(canvas, np.int32), form.shape).copy()
    return drawn
