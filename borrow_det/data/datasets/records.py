"""Conversion of builders' records to the record that the pipeline reads.

A record describes one image:
  image: bytes, JPEG or PNG that decodes to 8 bits per channel, upright.
  file_name: str.
  image_id: int64, unique within a split.
  file_id: int or str, id in COCO-format files: usually image_id.
  fields: other fields of the image by name, such as that of its video.
  height, width: int, in pixels of the original.
  boxes: float32 [n, 4], [y_min, x_min, y_max, x_max] in [0, 1].
  bbox: float64 [n, 4], [x, y, width, height] in pixels of the original, for metrics.
    They are the numbers of the annotation file, if there is one, also where a box
    leaves its image by less than bad_boxes.TOLERANCE; `boxes` are clipped there.
  labels: int32 [n], 0-based.
  is_crowd, is_difficult: bool [n]; evaluation and loss ignore these boxes.
  area: float64 [n], square pixels of the original: the area of the annotation (that of
    a mask, for example), or that of the box if there is none.
  bad_boxes: int, number of boxes that dataset.bad_boxes clipped or dropped while
    reading.

Each function takes (record, index, policy): a builder's record, the position of the
image in its split, and dataset.bad_boxes. TFDS's own records have lists for sequences,
its mock data has stacked arrays; both are accepted.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from borrow_det.data.datasets.opened import Record
from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes, coco_truth
from borrow_det.evaluation.coco_values import Id


def convert_scale_pairs(record: Record, index: int, policy: str) -> Record:
    """Converts a record of scale_pairs or a set like it; boxes are always valid."""
    del index, policy
    objects = record["objects"]
    return make_record(
        image=record["image"],
        file_name=_text(record["file_name"]),
        image_id=int(record["image_id"]),
        size=(int(record["height"]), int(record["width"])),
        boxes=_array(objects["bbox"], np.float32, (-1, 4)),
        labels=_array(objects["label"], np.int32),
        fields={"clip": int(record["clip"])} if "clip" in record else None,
    )


def convert_folder(record: Record, index: int, policy: str) -> Record:
    """Converts a record of `FolderRecords`, which have applied the policy."""
    del policy
    size = record["height"], record["width"]
    boxes = record["boxes"]
    bbox = coco_truth.boxes_of_metrics(record["bbox"], boxes, record["faults"])
    return make_record(
        image=record["image"],
        file_name=record["file_name"],
        image_id=index if record["numbered"] else record["id"],
        size=size,
        boxes=(boxes / np.array([*size, *size], np.float64)).astype(np.float32),
        labels=record["labels"],
        is_crowd=record["is_crowd"],
        is_difficult=record["is_difficult"],
        area=coco_truth.areas_of_metrics(record["area"], bbox),
        bbox=bbox,
        file_id=record["id"],
        fields=record["fields"],
    )


def convert_voc(record: Record, index: int, policy: str) -> Record:
    """Converts a record of TFDS's voc, with pixel numbers as distances to the border.

    VOC's boxes have the numbers of their first and last pixel, counted from 1, and
    TFDS divides these numbers by the image size. The box that covers these pixels
    starts one pixel earlier and ends where TFDS's box ends; its area is that of VOC's
    scorer.
    """
    del index
    objects = record["objects"]
    file_name = _text(record["image/filename"])
    size = _image_size(record["image"], file_name)
    boxes = _array(objects["bbox"], np.float32, (-1, 4))
    # Some boxes of 2011 and later have coordinates below 1.
    boxes[:, 0] = np.maximum(boxes[:, 0] - 1 / size[0], 0)
    boxes[:, 1] = np.maximum(boxes[:, 1] - 1 / size[1], 0)
    converted = make_record(
        image=record["image"],
        file_name=file_name,
        image_id=_digits(file_name),
        size=size,
        boxes=boxes,
        labels=_array(objects["label"], np.int32),
        is_difficult=_array(objects["is_difficult"], np.bool_),
    )
    return _with_policy(converted, policy)


def convert_coco(record: Record, index: int, policy: str) -> Record:
    """Converts a record of TFDS's coco; areas are those of the masks, as integers."""
    del index
    objects = record["objects"]
    file_name = _text(record["image/filename"])
    converted = make_record(
        image=record["image"],
        file_name=file_name,
        image_id=int(record["image/id"]),
        size=_image_size(record["image"], file_name),
        boxes=_array(objects["bbox"], np.float32, (-1, 4)),
        labels=_array(objects["label"], np.int32),
        is_crowd=_array(objects["is_crowd"], np.bool_),
        area=_array(objects["area"], np.float32),
    )
    return _with_policy(converted, policy)


def convert_wider_face(record: Record, index: int, policy: str) -> Record:
    """Converts a record of TFDS's wider_face; invalid faces become difficult."""
    faces = record["faces"]
    file_name = _text(record["image/filename"])
    boxes = _array(faces["bbox"], np.float32, (-1, 4))
    converted = make_record(
        image=record["image"],
        file_name=file_name,
        image_id=index,  # The set has no ids, and its file names have no numbers.
        size=_image_size(record["image"], file_name),
        boxes=boxes,
        labels=np.zeros(len(boxes), np.int32),
        is_difficult=_array(faces["invalid"], np.bool_),
    )
    return _with_policy(converted, policy)


def convert_kitti(record: Record, index: int, policy: str) -> Record:
    """Converts a record of TFDS's kitti, whose y counts from the bottom of the image.

    TFDS leaves out the regions that KITTI marks as DontCare. Detections in them are
    therefore false positives.
    """
    del index
    objects = record["objects"]
    file_name = _text(record["image/file_name"])
    boxes = _array(objects["bbox"], np.float32, (-1, 4))
    boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], -1)
    converted = make_record(
        image=record["image"],
        file_name=file_name,
        image_id=_digits(file_name),
        size=_image_size(record["image"], file_name),
        boxes=boxes,
        labels=_array(objects["type"], np.int32),
    )
    return _with_policy(converted, policy)


def convert_imagenet2012(record: Record, index: int, policy: str) -> Record:
    """Converts a record of TFDS's imagenet2012 to one box, the entire image."""
    del policy
    file_name = _text(record["file_name"])
    return make_record(
        image=record["image"],
        file_name=file_name,
        image_id=index,  # The set has no ids.
        size=_image_size(record["image"], file_name),
        boxes=np.array([[0, 0, 1, 1]], np.float32),
        labels=np.array([record["label"]], np.int32),
    )


def make_record(
    *,
    image: bytes,
    file_name: str,
    image_id: int,
    size: tuple[int, int],
    boxes: np.ndarray,
    labels: np.ndarray,
    is_crowd: np.ndarray | None = None,
    is_difficult: np.ndarray | None = None,
    area: np.ndarray | None = None,
    bbox: np.ndarray | None = None,
    file_id: Id | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Record:
    """Makes a record; what is not given follows from the boxes and the image's id."""
    height, width = size
    if area is None:
        sides = (boxes[:, 2:] - boxes[:, :2]) * np.array([height, width], np.float32)
        area = sides[:, 0] * sides[:, 1]
    none = np.zeros(len(boxes), np.bool_)
    return {
        "image": image,
        "file_name": file_name,
        "image_id": image_id,
        "file_id": image_id if file_id is None else file_id,
        "fields": {} if fields is None else fields,
        "height": height,
        "width": width,
        "boxes": boxes,
        "bbox": _bbox_of(boxes, size) if bbox is None else bbox,
        "labels": labels,
        "is_crowd": none if is_crowd is None else is_crowd,
        "is_difficult": none if is_difficult is None else is_difficult,
        "area": area.astype(np.float64),
        "bad_boxes": 0,
    }


def _bbox_of(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Converts normalized boxes to `bbox` of a record."""
    return coco_truth.from_corners(boxes.astype(np.float64) * np.tile(size, 2))


def _with_policy(record: Record, policy: str) -> Record:
    """Applies dataset.bad_boxes to the record of a downloaded set."""
    boxes = record["boxes"]
    scale = np.tile([record["height"], record["width"]], 2).astype(np.float64)

    def describe(i: int) -> str:
        return f"box {i} of {record['file_name']}, {boxes[i].tolist()} of the image,"

    pixels, keep, counts = bad_boxes.clean(
        boxes * scale, record["height"], record["width"], policy, describe
    )
    record["boxes"] = (pixels / scale).astype(np.float32)
    record["bbox"] = _bbox_of(record["boxes"], (record["height"], record["width"]))
    record["bad_boxes"] = sum(counts.values())
    for name in ("boxes", "bbox", "labels", "is_crowd", "is_difficult", "area"):
        record[name] = record[name][keep]
    return record


def _array(
    values: Any, dtype: npt.DTypeLike, shape: tuple[int, ...] = (-1,)
) -> np.ndarray:
    """Returns a copy of a sequence feature, list or array, also if it is empty."""
    return np.array(values, dtype).reshape(shape)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _digits(file_name: str) -> int:
    """Returns the digits of a file name: 2008_000001.jpg -> 2008000001."""
    return int(re.sub(r"\D", "", file_name.rsplit(".", 1)[0]))


def _image_size(image: bytes, file_name: str) -> tuple[int, int]:
    """Reads (height, width) from the header; decoding ignores orientation tags, too."""
    try:
        with PIL.Image.open(io.BytesIO(image)) as header:
            width, height = header.size
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{file_name}: the stored bytes are not an image; prepare the set again"
        ) from error
    return height, width
