"""Small datasets for the tests of this folder."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import base


@pytest.fixture(scope="session")
def drawn_dir(few_scenes, tmp_path_factory) -> pathlib.Path:
    """A data_dir with scale_pairs of 40 training and 12 validation scenes."""
    with few_scenes(num_train=40, num_validation=12):
        yield tmp_path_factory.mktemp("drawn")


@pytest.fixture
def drawn_config(drawn_dir):
    """A configuration of a run on that set, at 64 pixels."""
    config = base.get_config()
    config.batch_size = 8
    config.eval_batch_size = 8
    config.dataset.data_dir = str(drawn_dir)
    config.dataset.image_size = 64
    config.dataset.canvas = (64, 64)
    config.dataset.max_boxes = 10
    return config


class FolderWriter:
    """A folder of images and a COCO annotation file, written step by step."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.coco = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
        }
        (folder / "annotations").mkdir(parents=True)
        (folder / "images").mkdir()

    def add(self, name, image, boxes=(), size=None, **save) -> dict:
        """Saves an image and adds it; boxes are (category id, [x, y, w, h])."""
        image.save(self.folder / "images" / name, **save)
        width, height = size or image.size
        record = {
            "id": 10 * (len(self.coco["images"]) + 1),
            "file_name": name,
            "width": width,
            "height": height,
        }
        self.coco["images"].append(record)
        for category_id, box in boxes:
            self.coco["annotations"].append(
                {
                    "id": len(self.coco["annotations"]) + 1,
                    "image_id": record["id"],
                    "category_id": category_id,
                    "bbox": box,
                }
            )
        return record

    def write(self, name="train.json"):
        """Writes the annotation file."""
        (self.folder / "annotations" / name).write_text(json.dumps(self.coco))

    def config(self, policy="error"):
        """Returns the config.dataset that opens this folder."""
        dataset = base.get_config().dataset
        dataset.name = "folder"
        dataset.path = str(self.folder)
        dataset.data_dir = str(self.folder / "prepared")
        dataset.bad_boxes = policy
        dataset.eval_splits = ("train",)
        return dataset


@pytest.fixture(scope="session")
def make_folder():
    """A function that makes an empty folder at a path."""
    return FolderWriter


@pytest.fixture
def folder(tmp_path) -> FolderWriter:
    """An empty folder."""
    return FolderWriter(tmp_path / "my data")


def noise_image(height=24, width=32, seed=0) -> PIL.Image.Image:
    """Makes an RGB image without two equal rows or columns."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    return PIL.Image.fromarray(pixels)


@pytest.fixture(scope="session", name="noise_image")
def noise_image_fixture():
    """The function noise_image(height, width, seed)."""
    return noise_image
