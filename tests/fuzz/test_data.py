"""Damaged annotation files and images are read, skipped with a count, or refused.

A refusal is one line that names a file; nothing else may be raised. Each case has 50
damaged files, and 500 with `-m slow`.
"""

import collections
import io
import json
import pathlib
import unicodedata
import warnings

import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.data.images import decode
from borrow_det.errors import InputError
from borrow_det.inference import images
from tests.fuzz import mutations

COUNTS = [50, pytest.param(500, marks=pytest.mark.slow)]
LONGEST = 3000  # Characters of a message, with the paths of pytest.
CONTROLS = {"Cc", "Zl", "Zp"}
SIZE = (20, 16)  # Width and height of the images.


def encode(kind, mode="RGB", **options):
    rng = np.random.default_rng(len(kind))
    pixels = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)
    image = PIL.Image.fromarray(pixels)
    if mode == "I;16":
        image = PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    with io.BytesIO() as stream:
        image.save(stream, kind, **options)
        return stream.getvalue()


ROTATED = PIL.Image.Exif()
ROTATED[0x0112] = 6
IMAGES = {
    "a.jpg": encode("JPEG"),
    "progressive.jpg": encode("JPEG", progressive=True, exif=ROTATED),
    "cmyk.jpg": encode("JPEG", "CMYK"),
    "gray.jpg": encode("JPEG", "L"),
    "a.png": encode("PNG"),
    "rgba.png": encode("PNG", "RGBA"),
    "palette.png": encode("PNG", "P", transparency=3),
    "deep.png": encode("PNG", "I;16"),
    "a.bmp": encode("BMP"),
    "a.gif": encode("GIF", "P"),
    "a.tif": encode("TIFF"),
    "packed.tif": encode("TIFF", compression="tiff_lzw"),
    "a.webp": encode("WEBP", lossless=True),
    "a.ppm": encode("PPM"),
}
NO_IMAGES = (
    b"",
    b"\0" * 100,
    b"<!DOCTYPE html><html></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
)


def coco_files():
    boxes = [[1, 2, 5.5, 6], [8, 3, 4, 4], [0, 0, 20, 16]]
    annotations = [
        {
            "id": number,
            "image_id": 1 + number % 2,
            "category_id": 1 + number % 2,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "segmentation": [[box[0], box[1], box[0] + 3, box[1], box[0], box[1] + 4]],
            "difficult": "0",
        }
        for number, box in enumerate(boxes, 1)
    ]
    names = ("animals", "cat", "狗")
    data = {
        "info": {"year": 2020},
        "images": [
            {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1], "seq": i}
            for i, name in ((1, "a.png"), (2, "b.jpg"))
        ],
        "annotations": annotations,
        "categories": [
            {"id": i, "name": name, "supercategory": "animals" if i else "none"}
            for i, name in enumerate(names)
        ],
    }
    return {"annotations/train.json": json.dumps(data).encode()}


def yolo_files():
    return {
        "data.yaml": (
            b"path: .\ntrain: train/images\nval: valid/images\nnc: 2\n"
            b"names: ['cat', 'dog']\nkpt_shape: [2, 3]\n"
        ),
        "train/labels/a.txt": b"0 0.5 0.5 0.2 0.3\n1 0.1 0.2 0.1 0.1\n",
        "train/labels/b.txt": b"1 0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6\n",
    }


def voc_files():
    text = """<?xml version="1.0"?>
<annotation>
 <folder>images</folder><filename>{name}</filename><path>C:\\x\\{name}</path>
 <size><width>20</width><height>16</height><depth>3</depth></size>
 <object><name>cat</name><difficult>1</difficult>
  <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9.5</xmax><ymax>8</ymax></bndbox></object>
 <object><name>dog</name>
  <polygon><x1>2</x1><y1>2</y1><x2>9</x2><y2>4</y2><x3>3</x3><y3>9</y3></polygon></object>
</annotation>
"""
    return {
        f"Annotations/{name[0]}.xml": text.format(name=name).encode()
        for name in ("a.png", "b.jpg")
    } | {"ImageSets/Main/train.txt": b"a\nb\n"}


def labelme_files():
    def shapes(name):
        points = {
            "rectangle": [[1, 2], [8, 9]],
            "polygon": [[2, 2], [9, 3], [4, 9]],
            "circle": [[9, 8], [11, 9]],
        }
        return {
            "version": "5.0",
            "flags": {},
            "shapes": [
                {
                    "label": "cat",
                    "points": found,
                    "group_id": number // 2 or None,
                    "shape_type": kind,
                    "flags": {"difficult": False},
                }
                for number, (kind, found) in enumerate(points.items(), 1)
            ],
            "imagePath": name,
            "imageData": None,
            "imageHeight": SIZE[1],
            "imageWidth": SIZE[0],
        }

    return {
        f"train/{name[0]}.json": json.dumps(shapes(name)).encode()
        for name in ("a.png", "b.jpg")
    }


def cvat_files():
    return {
        "annotations.xml": b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
 <meta><task><labels><label><name>cat</name><type>any</type></label>
  <label><name>dog</name></label></labels></task></meta>
 <image id="0" name="a.png" width="20" height="16">
  <box label="cat" occluded="0" xtl="1" ytl="2" xbr="9" ybr="8.5" rotation="30">
   <attribute name="difficult">1</attribute></box>
  <polygon label="dog" points="2,2;9,3;4,9" />
 </image>
 <image id="1" name="b.jpg" width="20" height="16">
  <ellipse label="cat" cx="8" cy="8" rx="3" ry="2" />
  <mask label="dog" left="3" top="4" width="5" height="5" rle="1, 2" />
 </image>
</annotations>
"""
    }


# Name -> annotation files and the folder of the images.
FORMATS = {
    "coco": (coco_files(), "images"),
    "yolo": (yolo_files(), "train/images"),
    "voc": (voc_files(), "JPEGImages"),
    "labelme": (labelme_files(), "train"),
    "cvat": (cvat_files(), "images"),
}
FILES = [content for files, _ in FORMATS.values() for content in files.values()]
CHANGES = {".json": mutations.change_json, ".xml": mutations.change_xml}


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def config(folder, rng):
    """The config.dataset of a folder, under one of the policies."""
    dataset = base.get_config().dataset
    dataset.name = "folder"
    dataset.path = str(folder)
    dataset.data_dir = str(folder.parent / "prepared")
    dataset.bad_boxes = str(rng.choice(["error", "clip", "drop"]))
    dataset.bad_images = str(rng.choice(["error", "skip"]))
    return dataset


def open_folder(dataset):
    """Opens the training split and reads everything; returns the outcome."""
    split = sources.load(dataset, "train")
    for index in range(len(split)):
        record = split[index]
        image = decode.decode_image(record, record["file_name"])
        assert np.isfinite(record["boxes"]).all()
        assert record["boxes"].shape == (len(record["labels"]), 4)
        assert (record["boxes"] >= 0).all()
        assert (record["boxes"] <= 1).all()
        assert set(record["labels"].tolist()) <= set(range(len(split.class_names)))
        assert image.dtype == np.uint8
    assert len(split)
    counts = sum(split.counts.values())
    return "skipped and counted" if split.problems or counts else "fine"


def outcome(function, folder):
    """Returns what came of a call; raises ValueError for another kind of message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", RuntimeWarning
            )  # Of NumPy: overflow and nan.
            found = function()
    except InputError as error:
        message = str(error)
        # Damaged files may name other files.
        places = (str(folder), "/etc/passwd")
        faults = {
            "several lines": len(message.splitlines()) != 1,
            "control characters": bool(
                CONTROLS & set(map(unicodedata.category, message))
            ),
            f"{len(message)} characters": len(message) > LONGEST,
            "no file is named": not any(place in message for place in places),
        }
        if any(faults.values()):
            shown = ", ".join(fault for fault, found in faults.items() if found)
            raise ValueError(f"{shown} in the message {message!r}") from error
        return "refused"
    return found


class Outcomes:
    """Counts of outcomes, and the cases that failed."""

    def __init__(self):
        self.counts = collections.Counter()
        self.failed = []

    def add(self, case, function, folder):
        try:
            self.counts[outcome(function, folder)] += 1
        except Exception as error:  # Anything else is what the test looks for.
            self.failed.append(f"{case}: {type(error).__name__}: {error}"[:2000])
            self.counts["failed"] += 1

    def check(self, record_property, *expected):
        record_property("outcomes", dict(self.counts))
        print(dict(self.counts))
        shown = "\n".join(self.failed[:10])
        assert not self.failed, f"{len(self.failed)} failed:\n{shown}"
        assert set(expected) <= set(self.counts), self.counts


@pytest.fixture(autouse=True)
def quiet_warnings():
    """Pillow warns about damaged metadata and large images, and reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", FORMATS)
def test_undamaged_files_are_read_without_a_problem(name, tmp_path):
    files, image_folder = FORMATS[name]
    write(tmp_path / name, files)
    pictures = {"a.png": IMAGES["a.png"], "b.jpg": IMAGES["a.jpg"]}
    write(tmp_path / name / image_folder, pictures)
    dataset = config(tmp_path / name, np.random.default_rng(0))
    dataset.bad_boxes = dataset.bad_images = "error"
    assert open_folder(dataset) == "fine"


@pytest.mark.parametrize("name", IMAGES)
def test_undamaged_images_are_read(name, tmp_path):
    (tmp_path / name).write_bytes(IMAGES[name])
    assert read_image(tmp_path / name) == "fine"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_annotation_files(name, count, tmp_path, record_property):
    files, image_folder = FORMATS[name]
    outcomes = Outcomes()
    for i in range(count):
        rng = np.random.default_rng([list(FORMATS).index(name), i])
        folder = tmp_path / str(i) / name
        write(folder, files)
        pictures = {"a.png": IMAGES["a.png"], "b.jpg": IMAGES["a.jpg"]}
        write(folder / image_folder, pictures)
        damaged = str(rng.choice(list(files)))
        own = CHANGES.get(pathlib.Path(damaged).suffix, mutations.change_words)
        change, content = mutations.change_some(
            files[damaged],
            rng,
            [own, own, own, mutations.change_encoding],
            [*FILES, *NO_IMAGES, IMAGES["a.png"]],
        )
        (folder / damaged).write_bytes(content)
        dataset = config(folder, rng)
        case = f"{i}, {change} of {damaged}"
        outcomes.add(case, lambda d=dataset: open_folder(d), folder)
    outcomes.check(record_property, "fine", "refused")


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("yolo", "data.yaml", b"path: .", b"path: " + b"9" * 5000),
        ("yolo", "data.yaml", b"train/images", b"x" * 5000),
        ("voc", "ImageSets/Main/train.txt", b"a\n", b"/etc/passwd\n\0\n"),
        ("voc", "Annotations/a.xml", b"<ymax>8", b"<ymax>" + b"9" * 5000),
        ("cvat", "annotations.xml", b'rotation="30"', b'rotation="inf"'),
        ("cvat", "annotations.xml", b'name="a.png"', b'name="/etc/passwd"'),
        (
            "labelme",
            "train/a.json",
            b'"difficult": false',
            b'"difficult": "\\n\\u2028"',
        ),
        ("coco", "annotations/train.json", b'"id": 1,', b'"id": "\\n\\u001b[31m",'),
    ],
)
def test_rare_damage_is_refused_or_read(name, file, old, new, tmp_path):
    files, image_folder = FORMATS[name]
    folder = tmp_path / name
    assert old in files[file]
    write(folder, files | {file: files[file].replace(old, new)})
    pictures = {"a.png": IMAGES["a.png"], "b.jpg": IMAGES["a.jpg"]}
    write(folder / image_folder, pictures)
    dataset = config(folder, np.random.default_rng(0))
    dataset.bad_boxes = dataset.bad_images = "error"
    assert outcome(lambda: open_folder(dataset), folder) in ("refused", "fine")


def test_an_image_with_a_side_that_png_does_not_allow_is_refused(tmp_path):
    PIL.Image.new("L", (1, 10**6 + 1)).save(tmp_path / "long.tif")
    with pytest.raises(InputError, match=r"long.tif has more than 1000000 pixels on a"):
        images.read(tmp_path / "long.tif", "image")


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_images(count, tmp_path, record_property):
    annotations = json.loads(coco_files()["annotations/train.json"])
    annotations["images"][1]["file_name"] = "good.png"
    annotations["images"].append({"id": 3, "file_name": "good.jpg"})
    single, in_folder = Outcomes(), Outcomes()
    for i in range(count):
        rng = np.random.default_rng([99, i])
        name = list(IMAGES)[i % len(IMAGES)]
        change, content = mutations.change_some(
            IMAGES[name], rng, [mutations.change_header], [*IMAGES.values(), *NO_IMAGES]
        )
        folder = tmp_path / str(i) / "coco"
        annotations["images"][0]["file_name"] = name
        write(folder, {"annotations/train.json": json.dumps(annotations).encode()})
        good = {"good.png": IMAGES["a.png"], "good.jpg": IMAGES["a.jpg"]}
        write(folder / "images", {name: content, **good})
        case = f"{i}, {change} of {name}"
        path = folder / "images" / name
        single.add(case, lambda p=path: read_image(p), folder)
        dataset = config(folder, rng)
        in_folder.add(case, lambda d=dataset: open_folder(d), folder)
    single.check(record_property, "fine", "refused")
    in_folder.check(record_property, "fine", "refused", "skipped and counted")


def read_image(path: pathlib.Path) -> str:
    image = images.read(path, "image")
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    return "fine"
