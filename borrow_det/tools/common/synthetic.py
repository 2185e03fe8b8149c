"""Noise with the shapes of a run's arrays, for programs that need no dataset."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from borrow_det.data.augmentation.references import OF_IMAGE
from borrow_det.models.references import ReferenceMaps, deeper_maps
from borrow_det.tasks.detection import DetectionTask

# Room for boxes with dataset.max_boxes=0, where no data tells how many there are.
BOXES_WITHOUT_DATA = 128


def make_batch(
    config: ml_collections.ConfigDict, classes: int, images: int, objects: int = 8
) -> dict[str, np.ndarray]:
    """Returns a training batch in NumPy arrays, as `data/pipeline.py` makes them.

    Pixels are noise and fill the canvas. In each group of four objects of one class two
    are small and two large, so that each small object has a lender. References of
    references.kind=group are noise, too, with the objects of their image.

    Args:
      config: config with `dataset.canvas`, `dataset.max_boxes` and `references`.
      classes: number of classes; labels are in [0, classes).
      images: number of images, B.
      objects: number of objects per image, at most `dataset.max_boxes`.
    """
    random = np.random.default_rng(0)
    canvas = tuple(config.dataset.canvas)
    room = config.dataset.max_boxes or BOXES_WITHOUT_DATA
    shape, place = (images, room), np.arange(room)
    valid = np.broadcast_to(place < objects, shape)
    sides = np.where(place % 2, 0.1, 0.4) * random.uniform(0.8, 1.2, shape)
    corner = random.uniform(0, 1 - sides[..., None], (*shape, 2))
    boxes = np.concatenate([corner, corner + sides[..., None]], axis=-1)
    labels = random.integers(classes, size=(images, -(-room // 4)))[:, place // 4]
    batch: dict[str, np.ndarray] = {
        "image": random.integers(256, size=(images, *canvas, 3), dtype=np.uint8),
        "image_size": np.full((images, 2), canvas, np.int32),
        "image_id": np.arange(images),
        "boxes": np.where(valid[..., None], boxes, 0).astype(np.float32),
        "labels": np.where(valid, labels, 0).astype(np.int32),
        "box_mask": valid.copy(),
        "ignore": np.zeros(shape, bool),
        "mask": np.ones(images, bool),
    }
    if config.references.kind == "group":
        batch |= _references(batch, config.references.count, random)
    return batch


def reference_count(config: ml_collections.ConfigDict) -> int:
    """Returns N, the number of references of an image that a run uses."""
    references = config.references
    return {"none": 0, "overview": 1, "group": references.count}[references.kind]


def make_reference_maps(task: DetectionTask, images: int) -> ReferenceMaps | None:
    """Returns the maps of a run's references of each image; None without references."""
    count = reference_count(task.config)
    if not count:
        return None
    inputs = jax.ShapeDtypeStruct((images * count, *task.input_size, 3), np.float32)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    random = np.random.default_rng(0)
    X = [
        jnp.asarray(random.standard_normal(level.shape, np.float32), level.dtype)
        for level in jax.eval_shape(task.maps, variables, inputs)
    ]
    return deeper_maps(X, jnp.ones((images, count), jnp.bool_))


def _references(
    batch: dict[str, np.ndarray], count: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns the fields of `count` references of each image."""
    fields = {
        name: np.repeat(batch[source][:, None], count, axis=1)
        for name, source in OF_IMAGE.items()
    }
    shape = fields["reference_image"].shape
    fields["reference_image"] = random.integers(256, size=shape, dtype=np.uint8)
    return {**fields, "reference_mask": np.ones(shape[:2], bool)}
