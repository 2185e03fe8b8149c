"""Lenders of small objects: in their image, in other images of their group, how far.

A lender of an object has its class and at least config.evaluation.lender_scale times
its side (the square root of the area), both in pixels of the network's input.
"""

import collections
import functools
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from borrow_det.models.trunks import TRUNKS
from borrow_det.ops import borrow_targets
from borrow_det.tools.inspect import figures as figure_ops
from borrow_det.tools.inspect.objects import Objects

# Images are padded to powers of two, at least this: few shapes are compiled.
_LEAST_PADDED = 64


def in_image(
    boxes: np.ndarray, labels: np.ndarray, scale: float, input_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the lenders of an image's objects in the same image.

    Args:
      boxes: float32 [n, 4], normalized corners.
      labels: int32 [n].
      scale: config.evaluation.lender_scale.
      input_size: (height, width) of the network's input in pixels.

    Returns:
      Whether an object has a lender, bool [n], and the distance to its nearest lender
      in pixels of the input, float64 [n], nan without one. The distance is the larger
      one of the vertical and the horizontal distance of the centers, so that the
      square field of a descriptor at the object's center has the lender's center in it
      if the distance is at most half of its side.
    """
    count = len(labels)
    padded = max(_LEAST_PADDED, 1 << max(count - 1, 0).bit_length())
    pad = padded - count
    lends = np.asarray(
        _lenders(
            np.pad(boxes.astype(np.float32), ((0, pad), (0, 0))),
            np.pad(labels.astype(np.int32), (0, pad)),
            np.arange(padded) < count,
            scale,
        )
    )[:count, :count]
    corners = boxes.astype(np.float64)
    centers = (corners[:, :2] + corners[:, 2:]) / 2 * input_size
    # Rounded, since 54 pixels are 54.000002 after normalization in float32.
    apart = np.abs(centers[:, None] - centers[None]).max(axis=2).round(3)
    nearest = np.where(lends, apart, np.inf).min(axis=1, initial=np.inf)
    has_lender = np.asarray(lends.any(axis=1))
    return has_lender, np.where(has_lender, nearest, np.nan)


@functools.partial(jax.jit, static_argnames="scale")
def _lenders(
    boxes: jax.Array, labels: jax.Array, valid: jax.Array, scale: float
) -> jax.Array:
    return borrow_targets.lenders(boxes, labels, valid, scale)


def in_group(
    objects: Objects, groups: Sequence[Hashable | None], scale: float
) -> np.ndarray:
    """Finds which objects have a lender in another image of their group, bool [N].

    Args:
      objects: the objects of a split.
      groups: group of each image; None for an image without a group.
      scale: config.evaluation.lender_scale.
    """
    extent = (objects.boxes[:, 2:] - objects.boxes[:, :2]).astype(np.float64)
    sides = np.sqrt(extent.prod(axis=1))
    members: dict[tuple[Hashable, int], list[int]] = {}
    for k, (image, label) in enumerate(
        zip(objects.images.tolist(), objects.labels.tolist(), strict=True)
    ):
        group = groups[image]
        if group is not None:
            members.setdefault((group, label), []).append(k)
    found = np.zeros(len(sides), bool)
    for indices in members.values():
        images, of_image = np.unique(objects.images[indices], return_inverse=True)
        largest = np.zeros(len(images))
        np.maximum.at(largest, of_image, sides[indices])
        top = largest.argmax()
        in_others = np.full(len(images), largest[top])
        in_others[top] = np.delete(largest, top).max(initial=0)
        found[indices] = borrow_targets.is_larger(
            in_others[of_image], sides[indices], scale
        )
    return found


def measure(
    objects: Objects,
    small: np.ndarray,
    groups: Sequence[Hashable | None],
    field: str | None,
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Computes the figures of the small objects' lenders.

    Args:
      objects: the objects of a split.
      small: bool [N], the small ones of them.
      groups: group of each image.
      field: references.field, or the field of the annotation file that names the
        group; None without one.
      config: the configuration.

    Returns:
      `small`, number of small objects; `in_image`, those with a lender in their image;
      `group_field` and `groups`, the number of groups with several images; `in_group`,
      those with a lender in another image of their group, and `in_image_or_group`,
      both None without a field; `distance`, pixels of the input to the nearest lender
      of the image at 5, 50 and 95 % of those that have one; `fields`, for each level
      its receptive field in pixels and the small objects whose nearest lender's center
      is in it, [] if every field is the entire image.
    """
    total = int(small.sum())
    own = small & objects.has_lender
    distances = objects.lender_distance[own]
    fields = []
    for name, field_size in receptive_fields(config):
        inside = int((distances <= field_size / 2).sum())
        fields.append(
            {
                "level": name,
                "field": field_size,
                **figure_ops.part(inside, len(distances)),
            }
        )
    images_of = collections.Counter(group for group in groups if group is not None)
    found: dict[str, Any] = {
        "small": total,
        "in_image": figure_ops.part(own.sum(), total),
        "group_field": field,
        "groups": sum(count > 1 for count in images_of.values()),
        "in_group": None,
        "in_image_or_group": None,
        "distance": figure_ops.quantiles(distances),
        "fields": fields,
    }
    if field is not None:
        others = small & in_group(objects, groups, config.evaluation.lender_scale)
        found["in_group"] = figure_ops.part(others.sum(), total)
        found["in_image_or_group"] = figure_ops.part((own | others).sum(), total)
    return found


def receptive_fields(config: ml_collections.ConfigDict) -> list[tuple[str, int]]:
    """Returns the name of each level and the side of its field in pixels.

    The layers of the prediction head are included. Empty for a trunk whose positions
    all depend on the entire image.
    """
    trunk = TRUNKS[config.model.trunk]
    fields = trunk.receptive_fields(config.model.stages, config.head.depth + 1)
    return list(zip(trunk.level_names, fields, strict=True)) if fields else []
