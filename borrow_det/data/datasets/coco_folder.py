"""Datasets of a user: folders of images with COCO annotation files."""

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from borrow_det.data.datasets import coco_json, prepare, records
from borrow_det.data.datasets.opened import OpenedSet, check_split_names
from borrow_det.data.images import upright
from borrow_det.errors import InputError

_Examples = Iterator[tuple[int, dict[str, Any]]]


@dataclasses.dataclass
class CocoFolderConfig(tfds.core.BuilderConfig):
    """Configuration of one folder in one state, with one policy.

    Attributes:
      name: derived from the name and the fingerprint of the folder.
      folder: content of the annotation files, with the policy applied.
      bad_boxes: the policy, dataset.bad_boxes.
    """

    name: str = ""
    # Keyword-only, because the fields of TFDS's class before it have defaults.
    folder: coco_json.Folder = dataclasses.field(kw_only=True, repr=False)
    bad_boxes: str = ""

    def __post_init__(self) -> None:
        readable = re.sub(r"\W", "_", self.folder.path.name, flags=re.ASCII)
        self.name = f"{readable}_{self.folder.fingerprint}"


class CocoFolder(tfds.core.GeneratorBasedBuilder):
    """The images of a folder with the boxes of its COCO annotation files.

    `coco_layout.find_splits` finds the files, `upright.read` converts images that are
    not plain 8-bit, and `bad_boxes.clean` handles invalid boxes.

    Category ids may have gaps: classes are numbered by the sorted ids of all splits,
    and all written files contain the ids. Images without boxes are kept. If EXIF
    rotates a photograph, its boxes are those of the upright image, unless the
    annotation file gives the size of the image as stored: then the boxes are rotated,
    too.

    The name of the configuration has a hash of the folder's path, the annotation files,
    the policy, and the size and modification time of each image. A change of any of
    them makes a new set; older ones stay until the user deletes them.
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
            # Records keep the order of the annotation file.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(
                path=str(folder.path),
                category_ids=list(folder.category_ids),
                bad_boxes=self.builder_config.bad_boxes,
                counts=folder.counts,
            ),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, _Examples]:
        del dl_manager
        return {
            split: self._generate_examples(images)
            for split, images in self.builder_config.folder.splits.items()
        }

    def _generate_examples(self, images: list[coco_json.Image]) -> _Examples:
        for index, image in enumerate(images):
            yield index, _example(image)


def _example(image: coco_json.Image) -> dict[str, Any]:
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


def _upright_boxes(image: coco_json.Image, stored: upright.StoredImage) -> np.ndarray:
    """Returns the boxes in pixels of the upright image.

    The size in the annotation file is that of the upright image or of the image as
    stored.
    """
    stated = (image.height, image.width)
    if stated == (stored.height, stored.width):
        return image.boxes
    if stated == (stored.file_height, stored.file_width):
        return upright.rotate_boxes(image.boxes, stored)
    raise InputError(
        f"{image.path} is {stored.width} x {stored.height} pixels, but its annotation "
        f"file has {image.width} x {image.height}: correct width and height there, or "
        "restore the image that was annotated"
    )


def open_set(
    dataset_config: ml_collections.ConfigDict, split_names: Collection[str]
) -> OpenedSet:
    """Opens splits of the folder dataset.path, after preparing them if necessary.

    Args:
      dataset_config: config.dataset; path, bad_boxes and data_dir are used.
      split_names: names of splits.

    Raises:
      InputError: a split is unknown, or an annotation or image is missing or invalid;
        the message names the first.
    """
    folder, builder = open_folder(
        dataset_config.path, dataset_config.bad_boxes, dataset_config.data_dir
    )
    check_split_names(str(folder.path), split_names, folder.splits)
    return OpenedSet(
        splits={split: [prepare.data_source(builder, split)] for split in split_names},
        class_names=folder.class_names,
        category_ids=folder.category_ids,
        convert=records.convert_coco_folder,
        counts=folder.counts,
    )


def open_folder(
    path: str, bad_boxes: str, data_dir: str
) -> tuple[coco_json.Folder, prepare.Builder]:
    """Reads a folder's annotation files, and prepares its set if that was not done.

    Args:
      path: dataset.path.
      bad_boxes: dataset.bad_boxes.
      data_dir: dataset.data_dir.

    Returns:
      (content of the annotation files, builder of the prepared set).

    Raises:
      InputError: an annotation or image is missing or invalid; the message names the
        first.
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
