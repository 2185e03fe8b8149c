"""TFDS's datasets, prepared by TFDS's builders from small archives.

Downloads are replaced, and without TensorFlow the few functions of it that the builders
call, too (`without_tensorflow`).
"""

import importlib
import importlib.util
import io
import itertools
import json
import pathlib
import tarfile
import types
import zipfile

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.data.datasets import prepare
from borrow_det.data.images import decode
from borrow_det.errors import InputError

pytestmark = pytest.mark.tensorflow

HEIGHT, WIDTH = 40, 60


def painted(boxes, height=HEIGHT, width=WIDTH) -> PIL.Image.Image:
    """Makes a black image with white boxes [x0, y0, x1, y1] (pixel borders)."""
    image = np.zeros((height, width, 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 255
    return PIL.Image.fromarray(image)


def encode(image, form) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"quality": 100} if form == "JPEG" else {}))
    return buffer.getvalue()


def write_zip(path, files: dict[str, bytes | str]):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def write_tar(path, files: dict[str, bytes | str]):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def without_tensorflow(monkeypatch):
    """Replaces the functions of TensorFlow that the builders call, if it is missing."""
    if importlib.util.find_spec("tensorflow") is not None:
        return
    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: True)
    gfile = types.SimpleNamespace(GFile=open)
    fake = types.SimpleNamespace(
        io=types.SimpleNamespace(gfile=gfile),
        compat=types.SimpleNamespace(as_text=str),
        int64=np.int64,
    )
    for name in ("voc", "wider_face", "coco"):
        module = importlib.import_module(f"tensorflow_datasets.object_detection.{name}")
        monkeypatch.setattr(module, "tf", fake)
    monkeypatch.setattr(tfds.core.download.extractor, "tf", fake)

    def encode_png(self, image):
        return cv2.imencode(".png", image[..., ::-1])[1].tobytes()

    encoder = tfds.core.features.image_feature._ImageEncoder
    monkeypatch.setattr(encoder, "_encode_image", encode_png)


@pytest.fixture
def config(tmp_path, monkeypatch, without_tensorflow):
    """A configuration of a run; downloads return the files of tmp_path/archives."""
    archives = tmp_path / "archives"
    archives.mkdir()

    def download(self, urls):
        return {
            key: archives
            / (url[-33:] + ".zip" if "drive" in url else url.split("/")[-1])
            for key, url in urls.items()
        }

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    monkeypatch.setattr(
        tfds.download.DownloadManager,
        "download_and_extract",
        lambda self, urls: self.extract(self.download(urls)),
    )
    run = base.get_config()
    run.dataset.data_dir = str(tmp_path / "prepared")
    run.dataset.canvas = (HEIGHT, WIDTH)
    run.eval_batch_size = 2
    return run


def found_box(record, tolerance=128):
    """Returns the borders [y0, x0, y1, x1] of white pixels in a record's image."""
    pixels = decode.decode_image(record, record["file_name"])[..., 1]
    y, x = np.nonzero(pixels > tolerance)
    return [y.min(), x.min(), y.max() + 1, x.max() + 1]


def pixel_boxes(record):
    return record["boxes"] * np.tile([record["height"], record["width"]], 2)


def voc_xml(objects) -> str:
    """Makes annotations of (name, difficult, xmin, ymin, xmax, ymax), from 1."""
    rows = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, difficult, x0, y0, x1, y1 in objects
    )
    size = (
        f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    )
    return f"<annotation>{size}{rows}</annotation>"


def write_voc(archives: pathlib.Path):
    # Pixels of columns 6..20 and rows 4..9, counted from 1.
    box = ("dog", 0, 6, 4, 20, 9)
    jpeg = encode(painted([(5, 3, 20, 9)]), "JPEG")
    whole = ("person", 1, 1, 1, WIDTH, HEIGHT)

    def files(year, sets):
        root = f"VOCdevkit/VOC{year}"
        content = {}
        for name, ids in sets.items():
            content[f"{root}/ImageSets/Main/{name}.txt"] = "".join(
                f"{i}\n" for i in ids
            )
            for i in ids:
                content[f"{root}/JPEGImages/{i}.jpg"] = jpeg
                content[f"{root}/Annotations/{i}.xml"] = voc_xml([box, whole])
        return content

    write_tar(
        archives / "VOCtrainval_06-Nov-2007.tar",
        files(2007, {"train": ["000012", "000017"], "val": ["000005"]}),
    )
    write_tar(archives / "VOCtest_06-Nov-2007.tar", files(2007, {"test": ["000001"]}))
    write_tar(
        archives / "VOCtrainval_11-May-2012.tar",
        files(2012, {"train": ["2008_000008"], "val": ["2008_000002", "2011_003276"]}),
    )
    write_tar(
        archives / "VOC2012test.tar",
        {"VOCdevkit/VOC2012/ImageSets/Main/test.txt": ""}
        | files(2012, {"test": ["2008_000001"]}),
    )


def test_records_and_ground_truth_of_voc(config, tmp_path):
    write_voc(tmp_path / "archives")
    config.dataset.name = "voc"
    train = sources.load(config.dataset, "train")
    test = sources.load(config.dataset, "test")
    ids = [train[i]["image_id"] for i in range(len(train))]
    # 2007 trainval and 2012 trainval: no image of either test set.
    assert sorted(ids) == [5, 12, 17, 2008000002, 2008000008, 2011003276]
    assert sorted(ids[:3]) == [5, 12, 17]
    assert [test[i]["file_name"] for i in range(len(test))] == ["000001.jpg"]
    assert len(train.class_names) == 20
    assert (train.class_names[0], train.class_names[19]) == ("aeroplane", "tvmonitor")
    assert train.category_ids == tuple(range(1, 21))
    record = test[0]
    assert (record["height"], record["width"]) == (HEIGHT, WIDTH)
    names = [train.class_names[label] for label in record["labels"]]
    boxes = dict(zip(names, pixel_boxes(record).tolist(), strict=True))
    np.testing.assert_allclose(boxes["dog"], found_box(record), atol=1e-5)
    np.testing.assert_allclose(boxes["person"], [0, 0, HEIGHT, WIDTH], atol=1e-5)
    difficult = dict(zip(names, record["is_difficult"].tolist(), strict=True))
    assert difficult == {"dog": False, "person": True}
    assert not record["is_crowd"].any()
    truth = sources.ground_truth(train)
    assert sorted(a["difficult"] for a in truth["annotations"]) == [0] * 6 + [1] * 6
    # Area as VOC's scorer counts it, last pixel included: 15 x 6.
    assert min(a["area"] for a in truth["annotations"]) == pytest.approx(90, rel=1e-5)
    # Slices count through the whole of the four parts.
    some = sources.load(config.dataset, "train[2:4]")
    assert [some[i]["image_id"] for i in range(2)] == ids[2:4]


def write_coco(archives: pathlib.Path):
    # The real 80 ids; the names are made of them.
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    categories = [{"id": i, "name": f"class {i}"} for i in ids]
    jpeg = encode(painted([(8, 16, 24, 32)]), "JPEG")

    def annotations(name, start):
        images = [
            {
                "id": start + i,
                "file_name": f"{start + i:012d}.jpg",
                "height": HEIGHT,
                "width": WIDTH,
            }
            for i in range(2)
        ]
        rows = [
            ([8, 16, 16, 16], 90, 0, 200),
            ([0, 0, 60, 20], 1, 1, 999),
            ([4, 4, 0, 6], 13, 0, 1),  # train2017 has some of no width.
        ]
        objects = [
            {
                "id": 100 + i,
                "image_id": start,
                "category_id": category,
                "iscrowd": crowd,
                "bbox": box,
                "area": area,
            }
            for i, (box, category, crowd, area) in enumerate(rows)
        ]
        content = {"images": images, "annotations": objects, "categories": categories}
        return {f"annotations/instances_{name}.json": json.dumps(content)}

    write_zip(
        archives / "annotations_trainval2017.zip",
        annotations("train2017", 500) | annotations("val2017", 139),
    )
    test_image = {"id": 1, "file_name": "000000000001.jpg", "height": 1, "width": 1}
    test = {"images": [test_image], "categories": categories}
    write_zip(
        archives / "image_info_test2017.zip",
        {"annotations/image_info_test2017.json": json.dumps(test)},
    )
    for name, start in (("train2017", 500), ("val2017", 139), ("test2017", 1)):
        write_zip(
            archives / f"{name}.zip",
            {f"{name}/{start + i:012d}.jpg": jpeg for i in range(2)},
        )


def test_records_and_ground_truth_of_coco(config, tmp_path):
    write_coco(tmp_path / "archives")
    config.dataset.name = "coco/2017"
    config.dataset.bad_boxes = "drop"
    split = sources.load(config.dataset, "validation")
    by_id = {split[i]["image_id"]: split[i] for i in range(len(split))}
    assert sorted(by_id) == [139, 140]
    assert len(split.class_names) == len(split.category_ids) == 80
    assert split.class_names == tuple(f"class {i}" for i in split.category_ids)
    record = by_id[139]
    assert record["file_name"] == "000000000139.jpg"
    truth = sources.ground_truth(split)
    found = {a["category_id"]: a for a in truth["annotations"]}
    assert sorted(found) == [1, 90]  # 13 was dropped ...
    assert record["bad_boxes"] == 1  # ... and counted.
    np.testing.assert_allclose(found[90]["bbox"], [8, 16, 16, 16], atol=1e-5)
    np.testing.assert_allclose(found_box(record), [16, 8, 32, 24])
    assert (found[90]["area"], found[1]["area"]) == (200, 999)
    assert (found[90]["iscrowd"], found[1]["iscrowd"]) == (0, 1)
    assert by_id[140]["boxes"].shape == (0, 4)
    config.batch_size = 2
    batch = next(pipeline.train_batches(split, config))
    row = list(batch["image_id"]).index(139)
    crowd = batch["labels"][row] == 0
    np.testing.assert_array_equal(
        batch["ignore"][row][:2], crowd[:2] & batch["box_mask"][row][:2]
    )
    counts = pipeline.check_training_data(split, config)
    assert counts == {"cut_boxes": 0, "bad_boxes": 1}
    assert split.counts == {}  # Nothing was done when it was prepared.
    config.dataset.bad_boxes = "error"
    with pytest.raises(InputError, match=r"box 2 of 000000000139\.jpg.* has no area"):
        sources.ground_truth(sources.load(config.dataset, "validation"))


def write_wider_face(archives: pathlib.Path):
    def archive(url_id, files):
        write_zip(archives / f"{url_id}.zip", files)

    jpeg = encode(painted([(8, 16, 24, 32)]), "JPEG")
    lines = {
        # x y w h blur expression illumination invalid occlusion pose
        "0--Parade/0_Parade_1.jpg": ["8 16 16 16 0 0 0 0 0 0", "40 2 9 9 2 0 0 1 0 0"],
        "1--Handshaking/1_a.jpg": ["50 30 20 20 0 0 0 0 0 0", "5 5 0 0 0 0 0 0 0 0"],
        "2--Empty/2_b.jpg": [],
    }
    text = ""
    for name, rows in lines.items():
        text += f"{name}\n{len(rows)}\n"
        text += "".join(f"{row} \n" for row in rows or ["0 0 0 0 0 0 0 0 0 0"])
    images = {f"images/{name}": jpeg for name in lines}
    ids = {
        "train": "15hGDLhsx8bLgLcIRD5DhYt5iBxnjNF1M",
        "val": "1GUCogbp16PMGa39thoMMeWxp7Rp5oM8Q",
        "test": "1HIfDbVEWKmsYKJZm4lchTBDLW5N7dY5T",
    }
    for split, url_id in ids.items():
        archive(url_id, {f"WIDER_{split}/{n}": c for n, c in images.items()})
    archive(
        "1sAl2oml7hK6aZRdgRjqQJsjV5CEr7nl4",
        {
            "wider_face_split/wider_face_train_bbx_gt.txt": text,
            "wider_face_split/wider_face_val_bbx_gt.txt": text,
            "wider_face_split/wider_face_test_filelist.txt": "2--Empty/2_b.jpg\n",
        },
    )


def test_records_of_wider_face(config, tmp_path):
    write_wider_face(tmp_path / "archives")
    config.dataset.name = "wider_face"
    config.dataset.bad_boxes = "drop"
    split = sources.load(config.dataset, "train")
    assert split.class_names == ("face",)
    assert split.category_ids == (1,)
    by_name = {split[i]["file_name"]: split[i] for i in range(len(split))}
    assert sorted(r["image_id"] for r in by_name.values()) == [0, 1, 2]
    parade = by_name["0--Parade/0_Parade_1.jpg"]
    np.testing.assert_array_equal(parade["is_difficult"], [False, True])
    np.testing.assert_array_equal(parade["labels"], [0, 0])
    np.testing.assert_allclose(pixel_boxes(parade)[0], found_box(parade), atol=1e-5)
    # TFDS clips what sticks out; a face of no size is dropped here.
    cut = by_name["1--Handshaking/1_a.jpg"]
    np.testing.assert_allclose(pixel_boxes(cut), [[30, 50, HEIGHT, WIDTH]], atol=1e-5)
    assert cut["bad_boxes"] == 1
    assert by_name["2--Empty/2_b.jpg"]["boxes"].shape == (0, 4)


def write_kitti(archives: pathlib.Path):
    png = encode(painted([(10, 20, 28, 35)]), "PNG")
    tail = "1.5 1.6 3.7 1.0 1.5 20.0 -1.5"
    label = (
        f"Cyclist 0.00 0 -1.5 10.0 20.0 28.0 35.0 {tail}\n"
        f"Car 0.50 2 1.2 0.0 30.5 12.25 39.0 {tail}\n"
        "DontCare -1 -1 -10 40.0 1.0 50.0 9.0 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )
    count = 6
    write_zip(
        archives / "data_object_image_2.zip",
        {f"training/image_2/{i:06d}.png": png for i in range(count)},
    )
    write_zip(
        archives / "data_object_label_2.zip",
        {f"training/label_2/{i:06d}.txt": label for i in range(count)},
    )
    write_zip(
        archives / "devkit_object.zip",
        {
            "mapping/train_rand.txt": ",".join(str(i + 1) for i in range(count)),
            "mapping/train_mapping.txt": "".join(
                f"2011_09_26 drive_{i} {i:010d}\n" for i in range(count)
            ),
        },
    )


def test_records_of_kitti(config, tmp_path):
    write_kitti(tmp_path / "archives")
    config.dataset.name = "kitti"
    parts = [
        sources.load(config.dataset, split) for split in ("train", "validation", "test")
    ]
    ids = [[part[i]["image_id"] for i in range(len(part))] for part in parts]
    assert sorted(itertools.chain(*ids)) == list(range(6))
    assert [len(i) for i in ids] == [4, 1, 1]
    split = parts[0]
    assert split.class_names == (
        *("Car", "Van", "Truck", "Pedestrian"),
        *("Person_sitting", "Cyclist", "Tram", "Misc"),
    )
    record = split[0]
    assert record["file_name"] == f"{record['image_id']:06d}.png"
    np.testing.assert_array_equal(record["labels"], [5, 0])
    boxes = pixel_boxes(record)
    # y counts from the top again, as the pixels do.
    np.testing.assert_allclose(boxes[0], found_box(record), atol=1e-5)
    np.testing.assert_allclose(boxes[1], [30.5, 0, 39, 12.25], atol=1e-5)
