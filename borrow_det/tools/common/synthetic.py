"""Batches of noise, of a run's shapes, for what needs no data set."""

import numpy as np


def make_batch(config, classes: int, images: int, objects: int = 8) -> dict:
    """A training batch as data/pipeline.py makes them, NumPy.

    Pixels are noise and fill the canvas. Of four objects two are small and two large,
    of one class: every small one has something to borrow from.

    Args:
      config: has the canvas, and how many boxes there is room for.
      classes: labels are below.
      images: of the batch.
      objects: of an image, as far as there is room.
    """
    random = np.random.default_rng(0)
    canvas, room = tuple(config.dataset.canvas), config.dataset.max_boxes
    shape, place = (images, room), np.arange(room)
    valid = np.broadcast_to(place < objects, shape)
    sides = np.where(place % 2, 0.1, 0.4) * random.uniform(0.8, 1.2, shape)
    corner = random.uniform(0, 1 - sides[..., None], (*shape, 2))
    boxes = np.concatenate([corner, corner + sides[..., None]], axis=-1)
    labels = random.integers(classes, size=(images, -(-room // 4)))[:, place // 4]
    return {
        "image": random.integers(256, size=(images, *canvas, 3), dtype=np.uint8),
        "image_size": np.full((images, 2), canvas, np.int32),
        "image_id": np.arange(images),
        "boxes": np.where(valid[..., None], boxes, 0).astype(np.float32),
        "labels": np.where(valid, labels, 0).astype(np.int32),
        "box_mask": valid.copy(),
        "ignore": np.zeros(shape, bool),
        "mask": np.ones(images, bool),
    }
