"""One dataset in several formats gives the same batches, bit for bit."""

import itertools
import json
import os

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import pipeline, sources

SPLITS = ("train", "val")


@pytest.fixture
def aquarium(shared):
    """Returns a function of a step that returns every step-th image of each split.

    Images are numbered by their file names, and areas are those of the boxes.
    """
    folder = shared / "data" / "aquarium"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")

    def take(step):
        splits = {}
        for name in SPLITS:
            coco = json.loads((folder / "annotations" / f"{name}.json").read_text())
            images = sorted(coco["images"], key=lambda item: item["file_name"])[::step]
            number_of = {image["id"]: i for i, image in enumerate(images, 1)}
            annotations = [
                item | {"image_id": number_of[item["image_id"]], "area": None}
                for item in coco["annotations"]
                if item["image_id"] in number_of
            ]
            annotations.sort(key=lambda item: item["image_id"])
            images = [item | {"id": number_of[item["id"]]} for item in images]
            splits[name] = coco | {"images": images, "annotations": annotations}
        return folder / "images", splits

    return take


def link_images(images, coco, folder):
    folder.mkdir(parents=True)
    for image in coco["images"]:
        os.symlink(images / image["file_name"], folder / image["file_name"])


def objects_of(coco, image):
    names = {item["id"]: item["name"] for item in coco["categories"]}
    return [
        (names[item["category_id"]], *item["bbox"])
        for item in coco["annotations"]
        if item["image_id"] == image["id"]
    ]


def write_coco(images, splits, folder):
    (folder / "annotations").mkdir(parents=True)
    for name, coco in splits.items():
        link_images(images, coco, folder / "images" / name)
        (folder / "annotations" / f"{name}.json").write_text(json.dumps(coco))


def write_yolo(images, splits, folder):
    names = [item["name"] for item in splits["train"]["categories"]]
    for name, coco in splits.items():
        link_images(images, coco, folder / "images" / name)
        (folder / "labels" / name).mkdir(parents=True)
        for image in coco["images"]:
            lines = []
            for label, x, y, width, height in objects_of(coco, image):
                numbers = (
                    (x + width / 2) / image["width"],
                    (y + height / 2) / image["height"],
                    width / image["width"],
                    height / image["height"],
                )
                lines.append(f"{names.index(label)} {' '.join(map(repr, numbers))}")
            file = image["file_name"].removesuffix(".jpg") + ".txt"
            (folder / "labels" / name / file).write_text("\n".join(lines))
    listed = "".join(f"  - {name}\n" for name in names)
    text = f"train: images/train\nval: images/val\nnames:\n{listed}"
    (folder / "data.yaml").write_text(text)


def write_voc(images, splits, folder):
    for name, coco in splits.items():
        link_images(images, coco, folder / name)
        for image in coco["images"]:
            objects = "".join(
                f"<object><name>{label}</name><bndbox><xmin>{x!r}</xmin>"
                f"<ymin>{y!r}</ymin><xmax>{x + width!r}</xmax>"
                f"<ymax>{y + height!r}</ymax></bndbox></object>"
                for label, x, y, width, height in objects_of(coco, image)
            )
            size = f"<width>{image['width']}</width><height>{image['height']}</height>"
            file = image["file_name"].removesuffix(".jpg") + ".xml"
            (folder / name / file).write_text(
                f"<annotation><filename>{image['file_name']}</filename>"
                f"<size>{size}</size>{objects}</annotation>"
            )


def read(folder):
    """Returns classes, boxes of all images, training and evaluation batches."""
    config = base.get_config()
    config.batch_size = config.eval_batch_size = 8
    config.dataset.name = "folder"
    config.dataset.path = str(folder)
    config.dataset.data_dir = str(folder.parent / "prepared")
    config.dataset.canvas = (256, 256)
    config.dataset.max_boxes = 0
    config.dataset.bad_boxes = "clip"
    train, val = sources.load_splits(config.dataset, SPLITS)
    records = [split[i] for split in (train, val) for i in range(len(split))]
    assert train.class_names == val.class_names
    training = pipeline.train_batches(train, config)
    try:
        batches = list(itertools.islice(training, 4))
    finally:
        training.close()
    batches += itertools.islice(pipeline.eval_batches(val, config), 2)
    return train.class_names, [record["boxes"] for record in records], batches


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_aquarium_as_coco_yolo_and_voc_gives_equal_batches(aquarium, tmp_path, step):
    images, splits = aquarium(step)
    writers = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}
    results = {}
    for name, write in writers.items():
        write(images, splits, tmp_path / name)
        results[name] = read(tmp_path / name)
    names, boxes, batches = results["coco"]
    assert names == tuple(item["name"] for item in splits["train"]["categories"])
    assert sum(map(len, boxes)) == sum(len(c["annotations"]) for c in splits.values())
    assert sum(batch["box_mask"].sum() for batch in batches[:4]) > 100
    for name in ("yolo", "voc"):
        found_names, found_boxes, found_batches = results[name]
        assert found_names == names
        for expected, found in zip(boxes, found_boxes, strict=True):
            np.testing.assert_array_equal(found, expected)
        for expected, found in zip(batches, found_batches, strict=True):
            assert found.keys() == expected.keys()
            for field in expected:
                assert found[field].dtype == expected[field].dtype
                np.testing.assert_array_equal(found[field], expected[field], field)
