"""A data set of any folder of images with COCO annotation files: a user's own data."""

import dataclasses
import re

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from borrow_det.data.datasets import coco_json, prepare
from borrow_det.data.images import upright
from borrow_det.errors import InputError


@dataclasses.dataclass
class CocoFolderConfig(tfds.core.BuilderConfig):
    """One folder in one state, under one policy.

    Attributes:
      name: made of the folder's name and its fingerprint.
      folder: what its annotation files say.
      bad_boxes: dataset.bad_boxes, already applied to the folder.
    """

    name: str = ""
    folder: coco_json.Folder = dataclasses.field(default=None, repr=False)
    bad_boxes: str = ""

    def __post_init__(self):
        readable = re.sub(r"\W", "_", self.folder.path.name, flags=re.ASCII)
        self.name = f"{readable}_{self.folder.fingerprint}"


class CocoFolder(tfds.core.GeneratorBasedBuilder):
    """The images of a folder with the boxes of its COCO annotation files.

    Where the files and images are looked for: `coco_json.find_splits`. What is done
    to images that are not plain 8-bit: `stored_image.read`. What is done to boxes
    that cannot be right: `bad_boxes.clean`.

    Category ids may have gaps: classes are numbered in the order of the ids of all
    splits together, and the ids themselves go back into every file that is written.
    Images without boxes are kept. Boxes of a photograph that EXIF turns are taken to
    be those of the upright image, unless the annotation file gives the size of the
    image as stored: then the boxes are turned with it.

    The set's configuration is named by a hash of the folder's path, the annotation
    files, the policy, and each image's size and modification time, so that a change
    of any of them makes a new set. Older ones stay until they are deleted by hand.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        folder = self.builder_config.folder
        features = {
            "image": tfds.features.Image(),
            "file_name": tfds.features.Text(),
            "image_id": np.int64,
            "height": np.int32,
            "width": np.int32,
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=list(folder.class_names)),
                    "is_crowd": np.bool_,
                    "is_difficult": np.bool_,
                    "area": np.float32,
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"COCO annotations and images of {folder.path}",
            features=tfds.features.FeaturesDict(features),
            # The order of the annotation file is kept.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                path=str(folder.path),
                category_ids=list(folder.category_ids),
                bad_boxes=self.builder_config.bad_boxes,
                counts=folder.counts,
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            split: self._generate_examples(images)
            for split, images in self.builder_config.folder.splits.items()
        }

    def _generate_examples(self, images: list[coco_json.Image]):
        for index, image in enumerate(images):
            yield index, _example(image)


def _example(image: coco_json.Image) -> dict:
    stored = upright.read(image.path)
    boxes = _upright_boxes(image, stored)
    scale = np.array([stored.height, stored.width] * 2, np.float64)
    return {
        "image": stored.encoded,
        "file_name": image.file_name,
        "image_id": image.image_id,
        "height": stored.height,
        "width": stored.width,
        "objects": [
            {
                "bbox": tfds.features.BBox(*(box / scale).tolist()),
                "label": int(image.labels[i]),
                "is_crowd": bool(image.is_crowd[i]),
                "is_difficult": bool(image.is_difficult[i]),
                "area": float(image.area[i]),
            }
            for i, box in enumerate(boxes)
        ],
    }


def _upright_boxes(image: coco_json.Image, stored: upright.StoredImage):
    """The boxes in pixels of the upright image; the stated size says which it is."""
    stated = (image.height, image.width)
    if stated == (stored.height, stored.width):
        return image.boxes
    if stated == (stored.file_height, stored.file_width):
        return upright.turn_boxes(image.boxes, stored)
    raise InputError(
        f"{image.path} is {stored.width} x {stored.height} pixels, but its annotation "
        f"file says {image.width} x {image.height}: correct its width and height, or "
        "restore the image that was annotated"
    )


def open_folder(path: str, bad_boxes: str, data_dir: str):
    """Reads a folder's annotation files, and prepares its set where that is to be done.

    Args:
      path: dataset.path.
      bad_boxes: dataset.bad_boxes.
      data_dir: dataset.data_dir.

    Returns:
      (the `coco_json.Folder`, the TFDS builder to read from).

    Raises:
      InputError: for bad or missing annotations or images, naming the first.
    """
    folder = coco_json.read_folder(path, bad_boxes)
    for split, counts in folder.counts.items():
        if any(counts.values()):
            logging.warning(
                "%s %s: dataset.bad_boxes=%s clipped %d boxes and dropped %d",
                folder.path,
                split,
                bad_boxes,
                counts["clipped"],
                counts["dropped"],
            )
    config = CocoFolderConfig(folder=folder, bad_boxes=bad_boxes)
    return folder, prepare.prepared(CocoFolder, config, data_dir)
