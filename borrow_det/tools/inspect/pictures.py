"""Pictures of a dataset: sheets before and after augmentation, crops of labels."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import ml_collections
import numpy as np

from borrow_det.data import sources
from borrow_det.data.augmentation import detection as augmentation
from borrow_det.data.augmentation import paste
from borrow_det.data.images import decode
from borrow_det.data.rows import BoxesRow
from borrow_det.errors import InputError
from borrow_det.models.layers import PixelStatistics
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tools.inspect import suspicious
from borrow_det.tools.inspect.duplicates import Place
from borrow_det.tools.inspect.inspection import Inspection
from borrow_det.tools.inspect.suspicious import Label
from borrow_det.visualization import annotate, sheets

_CROP_SIDE = 200  # Pixels of a crop of a label.
_LEAST_CROP = 48  # Pixels of the original image that a crop shows at least.
_GRAY = 128  # Crops beyond the border of an image.
_LINE = (255, 0, 0)
# Groups of duplicates of each kind, and images of a group, that are shown.
_GROUPS, _MEMBERS = 6, 4


class Pictures(NamedTuple):
    """Pictures of the page.

    Attributes:
      labelled: JPEG of the sheet of labelled images; None without images.
      augmented: JPEG of the sheet after augmentation; None without images.
      labels: labels that look wrong, with their crops, by kind.
      duplicates: groups of duplicates to show: (caption, image) of each image.
    """

    labelled: bytes | None
    augmented: bytes | None
    labels: Mapping[str, Sequence[tuple[Label, np.ndarray]]]
    duplicates: Sequence[Sequence[tuple[str, np.ndarray]]]


def labelled(split: sources.Split, chosen: Sequence[int]) -> list[np.ndarray]:
    """Draws images of a split with their labels; those that do not decode are left out.

    Args:
      split: the split.
      chosen: indices of the images.
    """
    side = sheets.cell_side(len(chosen))
    scenes = []
    for index in chosen:
        try:
            scenes.append(DetectionEvaluator.scene(split, index, side))
        except InputError:
            continue
    return scenes


def augmented(
    split: sources.Split, chosen: Sequence[int], config: ml_collections.ConfigDict
) -> list[np.ndarray]:
    """Draws images as the network sees them in training, with their labels.

    Args:
      split: the training split.
      chosen: indices of the images.
      config: the configuration; `augment`, `input_size`, `seed`, and the fill and the
        canvas of training are used.
    """
    batch = _batch(split, chosen, config)
    if not batch:
        return []
    augment = jax.jit(_augment(config))
    seen = jax.device_get(augment(jax.random.key(config.seed), batch))
    side = sheets.cell_side(len(chosen))
    scenes = []
    for i, mask in enumerate(seen["box_mask"]):
        image = np.clip(np.round(seen["image"][i]), 0, 255).astype(np.uint8)
        boxes, labels = seen["boxes"][i][mask], seen["labels"][i][mask]
        scenes.append(
            annotate.draw_boxes(
                image,
                boxes,
                labels,
                split.class_names,
                category_ids=split.category_ids,
                side=side,
            )
        )
    return scenes


def _augment(
    config: ml_collections.ConfigDict,
) -> Callable[[jax.Array, dict[str, Any]], dict[str, jax.Array]]:
    """Returns the function of DetectionTask.prepare that augments a batch."""

    def augment(key: jax.Array, batch: dict[str, Any]) -> dict[str, jax.Array]:
        return augmentation.augment_batch(
            key,
            batch,
            config.augment,
            tuple(config.input_size),
            fill=PixelStatistics.of(config.model).gray,
        )

    return augment


def _batch(
    split: sources.Split, chosen: Sequence[int], config: ml_collections.ConfigDict
) -> dict[str, np.ndarray]:
    """Returns a training batch of images; those that do not decode are left out."""
    records = [split[index] for index in chosen]
    most = max((len(record["boxes"]) for record in records), default=0)
    row = BoxesRow.of(split, config.dataset)
    room = max(most + paste.most_copies(config.augment), 1)
    row = dataclasses.replace(row, max_boxes=room)
    rows = []
    for record in records:
        try:
            rows.append(row(record))
        except InputError:
            continue
    names = ("image", "image_size", "boxes", "labels", "box_mask", "ignore")
    return {name: np.stack([r[name] for r in rows]) for name in names} if rows else {}


def crop(split: sources.Split, label: Label) -> np.ndarray | None:
    """Draws a label with its surroundings, uint8 RGB, gray beyond the image's border.

    Returns:
      The crop with a longer side of 200 pixels; None if the image does not decode.
    """
    record = split[label.image]
    try:
        image = decode.decode_image(record, label.file_name)
    except InputError:
        return None
    x, y, width, height = label.bbox
    half_height = max(0.7 * height, _LEAST_CROP / 2, 0.35 * width)
    half_width = max(0.7 * width, _LEAST_CROP / 2, 0.35 * height)
    top, bottom = _interval(y + height / 2, half_height, image.shape[0])
    left, right = _interval(x + width / 2, half_width, image.shape[1])
    view: np.ndarray = np.full((bottom - top, right - left, 3), _GRAY, np.uint8)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    y0, x0 = max(-top, 0), max(-left, 0)
    view[y0 : y0 + inside.shape[0], x0 : x0 + inside.shape[1]] = inside
    scale = _CROP_SIDE / max(view.shape[:2])
    size = [max(1, round(length * scale)) for length in view.shape[1::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    view = cv2.resize(view, size, interpolation=how)
    start = [round(scale * v) for v in (x - left, y - top)]
    stop = [round(scale * v) for v in (x + width - left, y + height - top)]
    cv2.rectangle(view, start, stop, (255, 255, 255), 4)
    cv2.rectangle(view, start, stop, _LINE, 2)
    return view


def _interval(center: float, half: float, length: int) -> tuple[int, int]:
    """Returns the pixels around a center, at most half a length beyond the image."""
    start = max(round(center - half), -length // 2)
    return start, max(min(round(center + half), length + length // 2), start + 1)


def draw(found: Inspection) -> Pictures:
    """Draws all pictures of the page."""
    split, sample = found.splits[found.train], found.sample
    sheet = labelled(split, sample)
    augmented_sheet = augmented(split, sample, found.config)
    return Pictures(
        labelled=sheets.encode(sheet) if sheet else None,
        augmented=sheets.encode(augmented_sheet) if augmented_sheet else None,
        labels={
            kind: _crops(found.splits, labels)
            for kind, labels in suspicious.chosen(found.labels).items()
        },
        duplicates=[
            _members(found.splits, group)
            for kind in ("exact", "near")
            for group in _first_groups(found.groups[kind])
        ],
    )


def _crops(
    splits: Mapping[str, sources.Split], labels: Sequence[Label]
) -> list[tuple[Label, np.ndarray]]:
    crops = [(label, crop(splits[label.split], label)) for label in labels]
    return [(label, view) for label, view in crops if view is not None]


def _first_groups(groups: Sequence[Sequence[Place]]) -> list[Sequence[Place]]:
    """Returns the groups to show, those across splits first."""
    ordered = sorted(groups, key=lambda group: -len({p.split for p in group}))
    return list(ordered[:_GROUPS])


def _members(
    splits: Mapping[str, sources.Split], group: Sequence[Place]
) -> list[tuple[str, np.ndarray]]:
    """Returns captions and small images of a group, one of each split first."""
    firsts = list({place.split: place for place in reversed(group)}.values())
    others = [place for place in group if place not in firsts]
    members = []
    for place in [*firsts, *others][:_MEMBERS]:
        record = splits[place.split][place.image]
        try:
            image = decode.decode_image(record, record["file_name"])
        except InputError:
            continue
        caption = f"{place.split}: {record['file_name']}"
        members.append((caption, annotate.shrink(image, _CROP_SIDE)))
    return members
