import json
import os

import PIL.Image
import pytest

from borrow_det.data.datasets import formats
from borrow_det.io.problems import Problems
from borrow_det.tools.common import cli
from borrow_det.tools.convert import __main__ as convert

SIZE = (100, 50)


@pytest.fixture
def yolo(tmp_path):
    """A folder in YOLO's format with two splits."""
    folder = tmp_path / "yolo"
    names = {"train": ["b", "a"], "valid": ["c"]}
    for split, stems in names.items():
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for stem in stems:
            image = PIL.Image.new("RGB", SIZE, "red" if stem == "a" else "blue")
            image.save(folder / split / "images" / f"{stem}.png")
    (folder / "train/labels/b.txt").write_text("1 .5 .5 .2 .4\n0 .25 .5 .5 1\n")
    (folder / "valid/labels/c.txt").write_text("0 .5 .5 .2 .4\n")
    text = "train: ../train/images\nval: ../valid/images\nnames: [dog, cat]\n"
    (folder / "data.yaml").write_text(text)
    return folder


def run(*arguments):
    return cli.call(convert.main, ["convert", *map(str, arguments)])


def read(folder):
    """Returns the splits of a folder, without what names its files."""
    kind, problems, splits = formats.recognize(folder), Problems(), {}
    for name, files in kind.splits(folder).items():
        found = kind.read(files, problems)
        splits[name] = [
            [tuple(category) for category in found.categories],
            [
                (
                    image.id,
                    image.file_name.rsplit("/", 1)[-1],
                    *(image.height, image.width),
                    [
                        (o.category, o.bbox, o.is_crowd, o.is_difficult)
                        for o in image.objects
                    ],
                )
                for image in found.images
            ],
        ]
    assert not len(problems)
    return splits


def test_yolo_becomes_coco(yolo, tmp_path, capsys):
    output = tmp_path / "coco"
    assert run(f"--input={yolo}", f"--output={output}") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{yolo}: YOLO (data.yaml), splits train, val",
        "train: 2 images, 2 boxes",
        "val: 1 image, 1 box",
        f"wrote {output}; train on it with --config=folder:path={output}",
    ]
    coco = json.loads((output / "annotations" / "train.json").read_text())
    assert coco == {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 50},
            {"id": 2, "file_name": "b.png", "width": 100, "height": 50},
        ],
        "annotations": [
            {
                **{"id": 1, "image_id": 2, "category_id": 2, "area": 400},
                **{"bbox": [40, 15, 20, 20], "iscrowd": 0, "difficult": 0},
            },
            {
                **{"id": 2, "image_id": 2, "category_id": 1, "area": 2500},
                **{"bbox": [0, 0, 50, 50], "iscrowd": 0, "difficult": 0},
            },
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
    }
    copied = output / "images" / "train" / "a.png"
    assert copied.read_bytes() == (yolo / "train/images/a.png").read_bytes()
    assert not copied.is_symlink()


def test_converted_folder_has_the_same_content_and_converts_to_itself(yolo, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run(f"--input={yolo}", f"--output={once}") == 0
    assert run(f"--input={once}", f"--output={twice}") == 0
    assert read(once) == read(yolo)
    for split in ("train", "val"):
        first, second = (
            json.loads((folder / "annotations" / f"{split}.json").read_text())
            for folder in (once, twice)
        )
        for content in (first, second):
            assert len(content["images"]) == {"train": 2, "val": 1}[split]
        assert first == second


def test_text_ids_and_classes_of_each_split_become_common_integers(tmp_path):
    folder, output = tmp_path / "voc", tmp_path / "coco"
    for split, name in (("train", "dog"), ("val", "cat")):
        (folder / split).mkdir(parents=True)
        PIL.Image.new("RGB", SIZE).save(folder / split / "a.png")
        (folder / split / "a.xml").write_text(
            f"<annotation><filename>a.png</filename><object><name>{name}</name>"
            "<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>"
            "<xmax>11</xmax><ymax>8</ymax></bndbox></object></annotation>"
        )
    assert run(f"--input={folder}", f"--output={output}") == 0
    for split, category in (("train", 2), ("val", 1)):
        coco = json.loads((output / "annotations" / f"{split}.json").read_text())
        assert coco["categories"] == [
            {"id": 1, "name": "cat"},
            {"id": 2, "name": "dog"},
        ]
        (annotation,) = coco["annotations"]
        assert annotation["category_id"] == category
        assert annotation["bbox"] == [1, 2, 10, 6]
        assert annotation["difficult"] == 1
        assert coco["images"] == [
            {"id": 1, "file_name": "a.png", "width": 100, "height": 50}
        ]


def test_coco_keeps_ids_areas_and_fields_of_images(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    PIL.Image.new("RGB", SIZE).save(folder / "a.png")
    image = {"id": 40, "file_name": "./a.png", "video_id": "x", "license": 3}
    annotation = {"image_id": 40, "category_id": "7", "bbox": [1, 2, 3, 4]}
    content = {
        "images": [image],
        "annotations": [annotation | {"area": 7.5, "iscrowd": "1"}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    assert run(f"--input={folder}", f"--output={output}", "--images=link") == 0
    coco = json.loads((output / "annotations" / "train.json").read_text())
    assert coco["images"] == [
        image | {"file_name": "a.png", "width": 100, "height": 50}
    ]
    (found,) = coco["annotations"]
    assert found == annotation | {
        **{"id": 1, "category_id": 7, "area": 7.5, "iscrowd": 1, "difficult": 0}
    }
    link = output / "images" / "train" / "a.png"
    assert link.is_symlink()
    assert link.read_bytes() == (folder / "a.png").read_bytes()


def test_without_images_names_are_relative_to_the_input(yolo, tmp_path, capsys):
    output = tmp_path / "coco"
    arguments = ("--images=none", "--splits=val")
    assert run(f"--input={yolo}", f"--output={output}", *arguments) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"wrote {output}; file names are relative to {yolo}"
    written = [p.relative_to(output).as_posix() for p in output.rglob("*.*")]
    assert written == ["annotations/val.json"]
    coco = json.loads((output / "annotations" / "val.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["valid/images/c.png"]


def test_names_that_are_not_utf8_are_written_so_that_they_can_be_read(
    yolo, tmp_path, capsys
):
    place = os.fsencode(yolo)
    os.rename(yolo / "train/images/b.png", place + b"/train/images/caf\xe9.png")
    os.rename(yolo / "train/labels/b.txt", place + b"/train/labels/caf\xe9.txt")
    assert run(f"--input={yolo}", f"--output={tmp_path / 'coco'}") == 0
    names = [image[1] for image in read(tmp_path / "coco")["train"][1]]
    assert names == ["a.png", "caf%E9.png"]
    assert (tmp_path / "coco/images/train/caf%E9.png").is_file()
    assert run(f"--input={yolo}", f"--output={tmp_path / 'x'}", "--images=none") == 2
    assert "wrong file name (1)" in capsys.readouterr().err


def test_images_of_several_folders_keep_their_folders(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "labels").mkdir(parents=True)
    for camera in ("left", "right"):
        (folder / "images" / camera).mkdir(parents=True)
        PIL.Image.new("RGB", SIZE).save(folder / "images" / camera / "a.png")
    (folder / "data.yaml").write_text("train: images\nnames: [cat]")
    assert run(f"--input={folder}", f"--output={output}") == 0
    coco = json.loads((output / "annotations" / "train.json").read_text())
    names = ["left/a.png", "right/a.png"]
    assert [image["file_name"] for image in coco["images"]] == names
    assert all((output / "images" / "train" / name).is_file() for name in names)


def test_all_problems_are_counted_and_nothing_is_written(yolo, tmp_path, capsys):
    (yolo / "train/labels/a.txt").write_text("0 .5 .5 0 .4\n5 .5 .5 .1 .1\n0 .5\n")
    (yolo / "valid/images/c.png").write_text("no image")
    PIL.Image.new("RGB", SIZE).save(yolo / "valid/images/d.png")
    output = tmp_path / "coco"
    assert run(f"--input={yolo}", f"--output={output}") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 4 problems. ")
    for text in (
        "unknown class (1)",
        "damaged line (1)",
        "damaged image (1)",
        "box without area (1)",
    ):
        assert text in error
    assert not output.exists()
    report = json.loads((tmp_path / "coco.problems.json").read_text())
    assert len(report["problems"]) == 4


@pytest.mark.parametrize(
    ("orientation", "size", "status"),
    [(1, (100, 50), 0), (1, (50, 100), 2), (6, (100, 50), 0), (6, (50, 100), 0)],
)
def test_width_and_height_may_be_exchanged_by_the_rotation_only(
    tmp_path, capsys, orientation, size, status
):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / "voc"
    folder.mkdir()
    PIL.Image.new("RGB", SIZE).save(folder / "a.jpg", exif=exif)
    (folder / "a.xml").write_text(
        f"<annotation><filename>a.jpg</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size><object><name>cat</name><bndbox><xmin>1"
        "</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
        "</annotation>"
    )
    assert run(f"--input={folder}", f"--output={tmp_path / 'coco'}") == status
    assert ("image of another size (1)" in capsys.readouterr().err) == (status == 2)


def test_a_split_without_good_images_is_not_written(tmp_path, capsys):
    folder, output = tmp_path / "data", tmp_path / "coco"
    folder.mkdir()
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "val.json").write_text(json.dumps(coco))
    (folder / "a.png").write_bytes(b"no image")
    given = f"--input={folder}", f"--output={output}", "--bad_images=skip"
    assert run(*given) == 2
    assert capsys.readouterr().err == (
        f"error: {folder}: no image of the split val can be read: add images\n"
    )
    assert not output.exists()


def test_bad_boxes_and_images_are_left_out_if_asked(yolo, tmp_path, capsys):
    (yolo / "train/labels/a.txt").write_text("0 .5 .5 0 .4\n0 1 .5 .2 .4\n")
    (yolo / "train/images/b.png").write_text("no image")
    output = tmp_path / "coco"
    arguments = ("--bad_boxes=clip", "--bad_images=skip", "--splits=train")
    assert run(f"--input={yolo}", f"--output={output}", *arguments) == 0
    line = (
        "train: 1 image, 1 box; 1 wrong box left out; images left out: 1 damaged image"
    )
    assert line in capsys.readouterr().out.splitlines()
    coco = json.loads((output / "annotations" / "train.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png"]
    assert [item["bbox"] for item in coco["annotations"]] == [[90, 15, 10, 20]]


@pytest.mark.parametrize(
    ("file", "content", "advice"),
    [
        ("labels/a.txt", "9 .5 .5 .2 .4", "Correct the files"),
        (
            "labels/a.txt",
            "0 .5 .5 0 .4",
            "Correct the files; --bad_boxes=clip or drop accepts wrong boxes",
        ),
        (
            "images/b.png",
            "no image",
            "Correct the files; --bad_images=skip leaves bad images out",
        ),
    ],
)
def test_advice_fits_the_problem(yolo, tmp_path, capsys, file, content, advice):
    (yolo / "train" / file).write_text(content)
    assert run(f"--input={yolo}", f"--output={tmp_path / 'coco'}") == 2
    assert capsys.readouterr().err.endswith(f". {advice}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output={tmp}/yolo",), "yolo exists and is not empty: choose another"),
        (("--output={tmp}/yolo/data.yaml",), "data.yaml exists and is not empty"),
        (("--output={tmp}/x", "--splits=test"), "no split 'test'; it has train, val"),
        (("--output={tmp}/x", "--input={tmp}/y"), "y is not a folder"),
        (("--output={tmp}/x", "--images=move"), "--images=move"),
        ((), "--output"),
    ],
)
def test_wrong_flags_are_errors(yolo, tmp_path, capsys, arguments, message):
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run(f"--input={yolo}", *given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
