"""Labels that may be mistakes."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from borrow_det.evaluation import bad_boxes
from borrow_det.tools.inspect.objects import Image, Objects

SHOWN = 8  # Labels of each kind.
# Boxes of one image with at least this IoU are on one object.
SAME_IOU = 0.9
# Headings of the kinds.
KINDS = {
    "off_image": "Boxes off the image",
    "duplicate": "Two boxes of one class on one object",
    "conflict": "Boxes of two classes on one object",
    "largest": "Largest boxes",
    "smallest": "Smallest boxes",
    "elongated": "Most elongated boxes",
}


class Label(NamedTuple):
    """A label that may be a mistake.

    Attributes:
      kind: key of KINDS.
      split: name of the split.
      image: index of the image.
      file_name: name of the image.
      number: position of the object among those of its image, from 0.
      class_name: name of the class; of two boxes, both names.
      bbox: [x, y, width, height] in pixels of the original image.
      note: the reason, short.
      extreme: how extreme the label is among those of its kind.
    """

    kind: str
    split: str
    image: int
    file_name: str
    number: int
    class_name: str
    bbox: list[float]
    note: str
    extreme: float


def find(
    split: str, objects: Objects, images: Sequence[Image], class_names: Sequence[str]
) -> dict[str, list[Label]]:
    """Finds the labels of a split that may be mistakes, by kind.

    Each list of `largest`, `smallest` and `elongated` has the most extreme label of
    each of up to SHOWN images; the other lists are complete.
    """
    corners = objects.annotated
    sides = corners[:, 2:] - corners[:, :2]
    sizes = np.array([image.size for image in images], float).reshape(-1, 2)

    def label(
        kind: str, k: int, note: str, extreme: float, name: str | None = None
    ) -> Label:
        image = int(objects.images[k])
        y, x, *_ = corners[k].tolist()
        height, width = sides[k].tolist()
        return Label(
            kind,
            split,
            image,
            images[image].file_name,
            int(objects.numbers[k]),
            name or class_names[objects.labels[k]],
            [round(v, 2) for v in (x, y, width, height)],
            note,
            round(float(extreme), 6),
        )

    own = sizes[objects.images]
    area = sides.prod(axis=1)
    share, ratio = area / own.prod(axis=1), sides[:, 1] / sides[:, 0]
    elongation = np.abs(np.log(ratio))
    found: dict[str, list[Label]] = {kind: [] for kind in KINDS}
    outside = _outside(corners, own)
    for k in np.argsort(-outside, kind="stable"):
        if outside[k] <= bad_boxes.TOLERANCE:
            break
        note = f"{outside[k]:.0f} pixels outside"
        found["off_image"].append(label("off_image", k, note, outside[k]))
    for overlap, i, k in _overlapping(objects):
        names = [class_names[objects.labels[n]] for n in (i, k)]
        kind = "duplicate" if names[0] == names[1] else "conflict"
        name = " and ".join(dict.fromkeys(names))
        found[kind].append(label(kind, k, f"IoU {overlap:.2f}", overlap, name))
    for k in _one_per_image(share, objects.images):
        note = f"{share[k]:.1%} of the image"
        found["largest"].append(label("largest", k, note, share[k]))
    for k in _one_per_image(-area, objects.images):
        note = f"{sides[k, 1]:.1f} x {sides[k, 0]:.1f} pixels"
        found["smallest"].append(label("smallest", k, note, -area[k]))
    for k in _one_per_image(elongation, objects.images):
        note = f"width / height {ratio[k]:.3g}"
        found["elongated"].append(label("elongated", k, note, elongation[k]))
    return found


def counts(found: Mapping[str, Mapping[str, Sequence[Label]]]) -> dict[str, int]:
    """Returns the number of labels of all splits, by the kinds that are mistakes."""
    return {
        kind: sum(len(of_split[kind]) for of_split in found.values())
        for kind in ("off_image", "duplicate", "conflict")
    }


def chosen(
    found: Mapping[str, Mapping[str, Sequence[Label]]],
) -> dict[str, list[Label]]:
    """Returns the SHOWN most extreme labels of each kind, of all splits."""
    shown = {}
    for kind in KINDS:
        labels = [label for of_split in found.values() for label in of_split[kind]]
        labels.sort(key=lambda label: -label.extreme)
        shown[kind] = labels[:SHOWN]
    return shown


def _outside(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Returns the pixels by which boxes [N, 4] leave their images, [N]."""
    beyond = corners - np.clip(corners, 0, np.tile(sizes, 2))
    return np.abs(beyond).max(axis=1, initial=0)


def _one_per_image(values: np.ndarray, images: np.ndarray) -> list[int]:
    """Returns the indices of the largest values, one of each image, SHOWN of them."""
    seen: dict[int, int] = {}
    for k in np.argsort(-values, kind="stable"):
        seen.setdefault(int(images[k]), int(k))
        if len(seen) == SHOWN:
            break
    return list(seen.values())


def _overlapping(objects: Objects) -> list[tuple[float, int, int]]:
    """Returns (IoU, i, k) of boxes of one image with at least SAME_IOU, best first."""
    found = []
    starts = np.searchsorted(objects.images, np.arange(objects.num_images + 1))
    for start, stop in itertools.pairwise(starts):
        overlap = _iou(objects.annotated[start:stop])
        for i, k in np.argwhere(np.triu(overlap, 1) >= SAME_IOU):
            found.append((float(overlap[i, k]), int(start + i), int(start + k)))
    return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))


def _iou(boxes: np.ndarray) -> np.ndarray:
    """Returns the IoU [n, n] of boxes [n, 4] with an area."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    return common / (areas[:, None] + areas[None] - common)
