import json

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.data.datasets import formats
from borrow_det.errors import InputError
from borrow_det.io.problems import Problems

SIZE = (100, 50)
COCO = json.dumps(
    {
        "images": [{"id": 4, "file_name": "a.png", "width": 100, "height": 50}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 7, "bbox": [40, 15, 20, 20]}
        ],
        "categories": [{"id": 7, "name": "cat"}],
    }
)
YAML = "names: [cat]\ntrain: ../train/images"
VOC = (
    "<annotation><filename>a.png</filename><object><name>cat</name><bndbox>"
    "<xmin>40</xmin><ymin>15</ymin><xmax>60</xmax><ymax>35</ymax></bndbox></object>"
    "</annotation>"
)
CVAT = (
    '<annotations><image name="a.png"><box label="cat" xtl="40" ytl="15" xbr="60" '
    'ybr="35"/></image></annotations>'
)
LABELME = json.dumps(
    {
        "shapes": [
            {
                "label": "cat",
                "points": [[40, 15], [60, 35]],
                "shape_type": "rectangle",
            }
        ],
        "imagePath": "a.png",
    }
)
FOLDERS = {
    "COCO": {"annotations/train.json": COCO, "images/a.png": SIZE},
    "YOLO": {
        "data.yaml": YAML,
        "train/images/a.png": SIZE,
        "train/labels/a.txt": "0 0.5 0.5 0.2 0.4",
    },
    "Pascal VOC XML": {"train/a.xml": VOC, "train/a.png": SIZE},
    "CVAT XML": {"annotations.xml": CVAT, "images/a.png": SIZE},
    "LabelMe": {"train/a.json": LABELME, "train/a.png": SIZE},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_format_gives_the_same_object(name, write):
    folder = write(FOLDERS[name] | {"package.json": "{}", "notes.txt": "cat"})
    kind = formats.recognize(folder)
    assert kind.name == name
    problems = Problems()
    annotations = kind.read(kind.splits(folder)["train"], problems)
    assert not len(problems)
    (image,) = annotations.images
    (item,) = image.objects
    assert item.bbox == (40, 15, 20, 20)
    assert annotations.categories[item.category].name == "cat"


@pytest.mark.parametrize("name", ["YOLO", "Pascal VOC XML", "CVAT XML"])
def test_coco_comes_before_other_formats(name, write):
    folder = write(FOLDERS[name] | {"train/_annotations.coco.json": COCO})
    kind = formats.recognize(folder)
    assert kind is formats.COCO
    assert kind.describe(folder) == (
        f"{folder}: COCO (train/_annotations.coco.json), not {name}, split train"
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("YOLO", "Pascal VOC XML", r"YOLO \(data.yaml\) and Pascal VOC XML \(train/\*"),
        ("YOLO", "LabelMe", r"YOLO \(data.yaml\) and LabelMe \(train/\*.json\)"),
        ("CVAT XML", "LabelMe", r"CVAT XML \(annotations.xml\) and LabelMe"),
    ],
)
def test_several_formats_are_an_error_that_names_them(first, second, message, write):
    folder = write(FOLDERS[first] | FOLDERS[second])
    with pytest.raises(InputError, match=f"several formats, {message}.*: move all but"):
        formats.recognize(folder)


def test_data_yaml_without_labels_does_not_count_beside_another_format(write):
    folder = write(FOLDERS["Pascal VOC XML"] | {"data.yaml": YAML})
    assert formats.recognize(folder) is formats.VOC


def test_json_files_of_labelme_in_a_folder_annotations_are_not_coco(write):
    folder = write({"annotations/a.json": LABELME, "images/a.png": SIZE})
    assert formats.recognize(folder) is formats.LABELME


def test_damaged_json_file_counts_as_coco_so_that_its_reader_explains_it(write):
    folder = write({"train.json": "{"})
    assert formats.recognize(folder) is formats.COCO


def test_an_unknown_format_is_an_error_that_lists_the_known_ones(write):
    folder = write({"a.png": SIZE, "notes/b.txt": "cat"})
    with pytest.raises(InputError) as error:
        formats.recognize(folder)
    for word in ("COCO (annotations/NAME.json", "data.yaml", "CVAT (annotations.xml)"):
        assert word in str(error.value)
    assert "did you mean" not in str(error.value)


def test_folder_in_the_folder_is_suggested(write):
    files = {f"export/{name}": text for name, text in FOLDERS["YOLO"].items()}
    folder = write(files)
    with pytest.raises(InputError, match=f"did you mean {folder / 'export'}?"):
        formats.recognize(folder)


def test_label_files_without_names_of_classes_are_explained(write):
    folder = write({"images/a.png": (100, 50), "labels/a.txt": "0 .5 .5 .2 .4"})
    with pytest.raises(InputError, match=r"label files.* no names of their cl"):
        formats.recognize(folder)


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(
        InputError, match=r"none is not a folder: correct dataset\.path"
    ):
        formats.recognize(tmp_path / "none")


def open_splits(folder, names, **fields):
    dataset = base.get_config().dataset
    dataset.name, dataset.path = "folder", str(folder)
    dataset.data_dir = str(folder / "prepared")
    dataset.update(fields)
    return sources.load_splits(dataset, names)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_format_opens_as_a_dataset(name, write):
    folder = write(FOLDERS[name])
    (split,) = open_splits(folder, ["train"])
    assert split.class_names == ("cat",)
    ids = {"COCO": (7,), "YOLO": (1,)}
    assert split.category_ids == ids.get(name, ("cat",))
    record = split[0]
    assert record["boxes"].tolist() == np.float32([[0.3, 0.4, 0.7, 0.6]]).tolist()
    (annotation,) = sources.ground_truth(split)["annotations"]
    assert annotation["category_id"] == split.category_ids[0]
    assert annotation["bbox"] == [40, 15, 20, 20]
    assert annotation["area"] == 400


def test_bad_images_of_yolo_are_skipped_if_asked(write):
    folder = write(FOLDERS["YOLO"] | {"train/images/b.png": "no image"})
    with pytest.raises(InputError, match=r"damaged image \(1\).*bad_images=skip"):
        open_splits(folder, ["train"])
    (split,) = open_splits(folder, ["train"], bad_images="skip")
    assert [split[i]["file_name"] for i in range(len(split))] == ["train/images/a.png"]
    assert split.counts["skipped_images"] == 1


def test_classes_of_splits_without_ids_are_merged_by_name(write):
    other = VOC.replace("cat", "ant")
    folder = write(FOLDERS["Pascal VOC XML"] | {"val/a.xml": other, "val/a.png": SIZE})
    train, val = open_splits(folder, ["train", "val"])
    assert train.class_names == val.class_names == ("ant", "cat")
    assert (train[0]["labels"].tolist(), val[0]["labels"].tolist()) == ([1], [0])


def test_former_name_of_the_dataset_opens_the_same_folder(write):
    folder = write(FOLDERS["YOLO"])
    (split,) = open_splits(folder, ["train"], name="coco_folder")
    assert split.class_names == ("cat",)
