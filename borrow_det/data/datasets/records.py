"""From the record of each TFDS builder to the one record that the pipeline reads.

A record describes one image:
  image: bytes, JPEG or PNG that decodes to 8 bits a channel, upright.
  file_name: str.
  image_id: int, unique within a split.
  height, width: int, in pixels of the original.
  boxes: float32 [n, 4], [y_min, x_min, y_max, x_max] in [0, 1].
  labels: int32 [n], 0-based.
  is_crowd, is_difficult: bool [n]; evaluation and loss leave such boxes out.
  area: float32 [n], pixels² of the original: the annotation's own where it has one
    (a mask's), else the box's.
  bad_boxes: int, boxes that dataset.bad_boxes clipped or dropped while reading.

Each function here takes (record, index, policy), where index is the image's position
in its split and policy is dataset.bad_boxes. TFDS's real records hold lists for
sequences and its mock data stacked arrays; both are taken.
"""

import io
import re

import numpy as np
import PIL.Image

from borrow_det.data.datasets import bad_boxes
from borrow_det.errors import InputError


def scale_pairs(record: dict, index: int, policy: str) -> dict:
    """From `data.scale_pairs`, whose boxes are right by construction."""
    del index, policy
    return _own_record(record)


def coco_folder(record: dict, index: int, policy: str) -> dict:
    """From `data.coco_folder`, which applied the policy when it was prepared."""
    del index, policy
    objects = record["objects"]
    return _own_record(
        record,
        is_crowd=_array(objects["is_crowd"], np.bool_),
        is_difficult=_array(objects["is_difficult"], np.bool_),
        area=_array(objects["area"], np.float32),
    )


def voc(record: dict, index: int, policy: str) -> dict:
    """From TFDS's voc: pixel coordinates from 1 become distances from the border.

    VOC's boxes name their first and last pixel, counted from 1, and TFDS divides
    these numbers by the size. The box that covers those pixels therefore starts one
    pixel before and ends where TFDS says; its area is that of VOC's own scorer.
    """
    del index
    objects = record["objects"]
    file_name = _text(record["image/filename"])
    size = _image_size(record["image"], file_name)
    boxes = _array(objects["bbox"], np.float32, (-1, 4))
    # A few boxes of 2011 and later have fractions below 1.
    boxes[:, 0] = np.maximum(boxes[:, 0] - 1 / size[0], 0)
    boxes[:, 1] = np.maximum(boxes[:, 1] - 1 / size[1], 0)
    return _clean_record(
        policy,
        record["image"],
        file_name,
        _digits(file_name),
        size,
        boxes,
        _array(objects["label"], np.int32),
        is_difficult=_array(objects["is_difficult"], np.bool_),
    )


def coco(record: dict, index: int, policy: str) -> dict:
    """From TFDS's coco; areas are the masks', which TFDS stores as whole numbers."""
    del index
    objects = record["objects"]
    file_name = _text(record["image/filename"])
    return _clean_record(
        policy,
        record["image"],
        file_name,
        int(record["image/id"]),
        _image_size(record["image"], file_name),
        _array(objects["bbox"], np.float32, (-1, 4)),
        _array(objects["label"], np.int32),
        is_crowd=_array(objects["is_crowd"], np.bool_),
        area=_array(objects["area"], np.float32),
    )


def wider_face(record: dict, index: int, policy: str) -> dict:
    """From TFDS's wider_face: one class; faces marked invalid count as difficult."""
    faces = record["faces"]
    file_name = _text(record["image/filename"])
    boxes = _array(faces["bbox"], np.float32, (-1, 4))
    return _clean_record(
        policy,
        record["image"],
        file_name,
        index,  # The set has no ids, and its names are no numbers.
        _image_size(record["image"], file_name),
        boxes,
        np.zeros(len(boxes), np.int32),
        is_difficult=_array(faces["invalid"], np.bool_),
    )


def kitti(record: dict, index: int, policy: str) -> dict:
    """From TFDS's kitti, whose boxes count y from the bottom of the image.

    TFDS leaves out the regions that KITTI marks as DontCare, so that detections in
    them count as false here.
    """
    del index
    objects = record["objects"]
    file_name = _text(record["image/file_name"])
    boxes = _array(objects["bbox"], np.float32, (-1, 4))
    boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], -1)
    return _clean_record(
        policy,
        record["image"],
        file_name,
        _digits(file_name),
        _image_size(record["image"], file_name),
        boxes,
        _array(objects["type"], np.int32),
    )


def imagenet2012(record: dict, index: int, policy: str) -> dict:
    """From TFDS's imagenet2012: one box, the whole image, of the image's class."""
    del policy
    file_name = _text(record["file_name"])
    return _record(
        record["image"],
        file_name,
        index,  # The set has no ids.
        _image_size(record["image"], file_name),
        np.array([[0, 0, 1, 1]], np.float32),
        np.array([record["label"]], np.int32),
    )


def _own_record(record: dict, **fields) -> dict:
    """From the features that our own builders share, and `fields` of `_record`."""
    objects = record["objects"]
    return _record(
        record["image"],
        _text(record["file_name"]),
        int(record["image_id"]),
        (int(record["height"]), int(record["width"])),
        _array(objects["bbox"], np.float32, (-1, 4)),
        _array(objects["label"], np.int32),
        **fields,
    )


def _record(
    image,
    file_name,
    image_id,
    size,
    boxes,
    labels,
    is_crowd=None,
    is_difficult=None,
    area=None,
) -> dict:
    height, width = size
    if area is None:
        sides = (boxes[:, 2:] - boxes[:, :2]) * np.float32([height, width])
        area = sides[:, 0] * sides[:, 1]
    none = np.zeros(len(boxes), np.bool_)
    return {
        "image": image,
        "file_name": file_name,
        "image_id": image_id,
        "height": height,
        "width": width,
        "boxes": boxes,
        "labels": labels,
        "is_crowd": none if is_crowd is None else is_crowd,
        "is_difficult": none if is_difficult is None else is_difficult,
        "area": area,
        "bad_boxes": 0,
    }


def _clean_record(policy: str, *args, **kwargs) -> dict:
    """A record of a downloaded set, with dataset.bad_boxes applied to it."""
    record = _record(*args, **kwargs)
    boxes = record["boxes"]
    scale = np.tile([record["height"], record["width"]], 2).astype(np.float64)

    def describe(i):
        return f"box {i} of {record['file_name']}, {boxes[i].tolist()} of the image,"

    pixels, keep, counts = bad_boxes.clean(
        boxes * scale, record["height"], record["width"], policy, describe
    )
    record["boxes"] = (pixels / scale).astype(np.float32)
    record["bad_boxes"] = sum(counts.values())
    for name in ("boxes", "labels", "is_crowd", "is_difficult", "area"):
        record[name] = record[name][keep]
    return record


def _array(values, dtype, shape=(-1,)) -> np.ndarray:
    """A sequence feature, list or array, as an array of its own; empty ones too."""
    return np.array(values, dtype).reshape(shape)


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _digits(file_name: str) -> int:
    """000005.jpg -> 5; 2008_000001.jpg -> 2008000001."""
    return int(re.sub(r"\D", "", file_name.rsplit(".", 1)[0]))


def _image_size(image: bytes, file_name: str) -> tuple[int, int]:
    """(height, width) from the header; orientation tags are ignored, as in decoding."""
    try:
        with PIL.Image.open(io.BytesIO(image)) as header:
            width, height = header.size
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{file_name}: the stored bytes are no image; prepare the set again"
        ) from error
    return height, width
