"""Predictions in views of images: windows of the canvas, one after another."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.data.augmentation.resampling import move_boxes, read_part
from borrow_det.evaluation.borrowing import AttentionSums, ImageObjects
from borrow_det.ops import collectives
from borrow_det.ops.nms import NmsOutput

# Detections of inputs float32 [B, h, w, 3], and the attention of their small objects by
# level that borrows.
Prediction: TypeAlias = tuple[NmsOutput, dict[int, AttentionSums]]
Predict: TypeAlias = Callable[[Array, ImageObjects], Prediction]


class _View(NamedTuple):
    """One view of each image of a batch."""

    window: Array  # float32 [B, 4], normalized to the image.
    present: Array  # bool [B], false for images that have fewer views.


def predict_views(
    predict: Predict,
    batch: Mapping[str, Array],
    objects: ImageObjects,
    input_size: tuple[int, int],
) -> Prediction:
    """Predicts in every view of the images of a batch.

    The views of an image are predicted one after another, in batches of one view of
    each image, so that the memory is that of a batch of images. The small objects of a
    view are those whose center is in it.

    Args:
      predict: predicts in a batch of inputs.
      batch: `image` uint8 [B, Hc, Wc, 3], `image_size` int32 [B, 2], `views` float32
        [B, V, 4], windows of complete pixels, normalized to each image, and `view_mask`
        bool [B, V], false for views that an image does not have.
      objects: ground truth of the images; every leaf is [B, G] or [B, G, 4].
      input_size: (height, width) of the network's input in pixels.

    Returns:
      Detections of each view, [B, V, K], in boxes normalized to the view; absent views
      have none. The sums of the attention over all views of each image.
    """
    image, image_size = batch["image"], batch["image_size"]

    def one_view(view: _View) -> Prediction:
        pixels = _read(image, image_size, view.window, input_size)
        return predict(pixels, _objects_in(view, objects, input_size))

    def nothing(view: _View) -> Prediction:
        return jax.tree.map(collectives.zeros, jax.eval_shape(one_view, view))

    def present_view(view: _View) -> Prediction:
        return jax.lax.cond(jnp.any(view.present), one_view, nothing, view)

    mask = batch["view_mask"]
    views = _View(jnp.swapaxes(batch["views"], 0, 1), jnp.swapaxes(mask, 0, 1))
    by_view = jax.lax.map(present_view, views)
    found, attention = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), by_view)
    found = found._replace(mask=found.mask & mask[:, :, None])
    return found, jax.tree.map(lambda x: _sum_of_present(x, mask), attention)


def _read(
    image: Array, image_size: Array, window: Array, input_size: tuple[int, int]
) -> Array:
    """Returns the pixels in windows [B, 4] of images, float32 [B, h, w, 3]."""
    sides = jnp.concatenate([image_size, image_size], axis=1).astype(jnp.float32)
    corners = jnp.round(window * sides).astype(jnp.int32)
    low, high = corners[:, :2], corners[:, 2:]

    def read(image: Array, corner: Array, size: Array) -> Array:
        return read_part(image, corner, size, input_size)

    return jnp.moveaxis(jax.vmap(read)(image, low, high - low), 1, -1)


def _objects_in(
    view: _View, objects: ImageObjects, input_size: tuple[int, int]
) -> ImageObjects:
    """Returns the objects of images in one view of each."""

    def move(boxes: Array, window: Array) -> tuple[Array, Array]:
        return move_boxes(boxes, window, input_size)

    boxes, kept = jax.vmap(move)(objects.boxes, view.window)
    return objects._replace(boxes=boxes, valid=objects.valid & kept)


def _sum_of_present(values: Array, mask: Array) -> Array:
    """Sums values [B, V, ...] over the views that `mask` [B, V] includes."""
    present = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    return jnp.sum(values, axis=1, where=present)
