"""Reading of a split in one pass: objects, lenders, small versions of images."""

import concurrent.futures
import os
from collections.abc import Iterator

import ml_collections
import numpy as np

from borrow_det.data import sources
from borrow_det.data.datasets.opened import Record
from borrow_det.ops import assignment
from borrow_det.tools.inspect import duplicates, lenders
from borrow_det.tools.inspect.objects import Image, Objects


def read(
    split: sources.Split, config: ml_collections.ConfigDict
) -> tuple[Objects, list[Image]]:
    """Reads the objects of a split, and a small version of each image."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in _EMPTY}
    images = []
    ignored = without_area = most_boxes = 0
    for record, annotated, fingerprint in _records(split):
        size = (int(record["height"]), int(record["width"]))
        images.append(Image(record["file_name"], size, record["fields"], fingerprint))
        ignore = record["is_crowd"] | record["is_difficult"]
        valid = np.ones_like(ignore)
        learned = np.asarray(assignment.objects(valid, ignore, config.loss.ignored))
        has_area = (record["boxes"][:, 2:] > record["boxes"][:, :2]).all(axis=1)
        kept = learned & has_area
        ignored += int((~learned).sum())
        most_boxes = max(most_boxes, len(record["boxes"]))
        without_area += int((learned & ~has_area).sum())
        boxes, labels = record["boxes"][kept], record["labels"][kept]
        has_lender, distance = lenders.in_image(
            boxes, labels, config.evaluation.lender_scale, config.input_size
        )
        found = {
            "boxes": boxes,
            "labels": labels,
            "images": np.full(len(labels), len(images) - 1, np.int32),
            "has_lender": has_lender,
            "lender_distance": distance,
            "annotated": annotated[kept],
            "numbers": np.flatnonzero(kept),
        }
        for name, values in found.items():
            parts[name].append(values)
    arrays = {name: np.concatenate([_EMPTY[name], *parts[name]]) for name in _EMPTY}
    objects = Objects(
        **arrays,
        num_images=len(split),
        ignored=ignored,
        without_area=without_area,
        most_boxes=most_boxes,
    )
    return objects, images


_EMPTY: dict[str, np.ndarray] = {
    "boxes": np.zeros((0, 4), np.float32),
    "labels": np.zeros(0, np.int32),
    "images": np.zeros(0, np.int32),
    "has_lender": np.zeros(0, bool),
    "lender_distance": np.zeros(0),
    "annotated": np.zeros((0, 4)),
    "numbers": np.zeros(0, np.int64),
}


def _records(
    split: sources.Split,
) -> Iterator[tuple[Record, np.ndarray, duplicates.Fingerprint]]:
    """Yields records, their boxes as annotated, and fingerprints of their images.

    Threads read and decode the images.
    """

    def one(index: int) -> tuple[Record, np.ndarray, duplicates.Fingerprint]:
        stored = split.records[index]
        record = split.convert(stored, index)
        # Stored records of folders have boxes before the policy clipped them.
        bbox = stored["bbox"] if "bbox" in stored else record["bbox"]
        fingerprint = duplicates.fingerprint(record["image"])
        # A large split's encoded images would fill the memory.
        return {**record, "image": b""}, _corners(bbox), fingerprint

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(one, range(len(split)))


def _corners(bbox: np.ndarray) -> np.ndarray:
    """Returns [y_min, x_min, y_max, x_max] of [x, y, width, height], float64 [n, 4]."""
    x, y, width, height = np.asarray(bbox, np.float64).reshape(-1, 4).T
    return np.stack([y, x, y + height, x + width], axis=-1)
