import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.data.datasets import folder as folders
from borrow_det.data.datasets import folder_copy, folder_layout, formats
from borrow_det.data.images import decode
from borrow_det.errors import InputError
from borrow_det.io.problems import Problems


def test_records_equal_the_annotation_file(folder, noise_image):
    image = noise_image(24, 32)
    folder.add("a.png", image, [(7, [4, 6, 8, 3]), (1, [0, 0, 32, 24])])
    folder.add("empty.png", noise_image(10, 12, seed=1))
    folder.add("b.jpg", noise_image(40, 20), [(7, [1.5, 2.25, 3, 4])])
    folder.coco["annotations"][0].update(area=11.5, iscrowd=1)
    folder.coco["annotations"][1].update(difficult=1)
    folder.write()
    split = sources.load(folder.config(), "train")

    assert len(split) == 3
    assert split.class_names == ("cat", "dog")
    assert split.category_ids == (1, 7)
    assert split.reference_lines == {}
    a, empty, b = (split[i] for i in range(3))
    assert a["image"] == (folder.folder / "images" / "a.png").read_bytes()
    assert (a["file_name"], a["image_id"]) == ("a.png", 10)
    assert (a["height"], a["width"]) == (24, 32)
    np.testing.assert_allclose(
        a["boxes"], [[6 / 24, 4 / 32, 9 / 24, 12 / 32], [0, 0, 1, 1]], atol=1e-7
    )
    np.testing.assert_array_equal(a["labels"], [1, 0])
    np.testing.assert_array_equal(a["is_crowd"], [True, False])
    np.testing.assert_array_equal(a["is_difficult"], [False, True])
    np.testing.assert_array_equal(a["area"], [11.5, 32 * 24])
    np.testing.assert_array_equal(a["bbox"], [[4, 6, 8, 3], [0, 0, 32, 24]])
    assert (a["file_id"], a["fields"], empty["file_id"]) == (10, {}, 20)
    assert empty["boxes"].shape == (0, 4)
    assert empty["labels"].shape == (0,)
    np.testing.assert_allclose(
        b["boxes"], [[2.25 / 40, 1.5 / 20, 6.25 / 40, 4.5 / 20]], atol=1e-7
    )
    assert a["boxes"].dtype == np.float32
    assert {a["bbox"].dtype, a["area"].dtype} == {np.dtype(np.float64)}
    assert a["labels"].dtype == np.int32


def test_ground_truth_equals_the_annotation_file(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(7, [4, 6, 8, 3]), (1, [0, 0, 32, 24])])
    folder.add("empty.png", noise_image(10, 12, seed=1))
    folder.write()
    truth = sources.ground_truth(sources.load(folder.config(), "train"))
    assert truth["images"] == folder.coco["images"]
    assert truth["categories"] == folder.coco["categories"]
    for found, given in zip(
        truth["annotations"], folder.coco["annotations"], strict=True
    ):
        assert found["image_id"] == given["image_id"]
        assert found["category_id"] == given["category_id"]
        assert found["bbox"] == given["bbox"]
        assert found["area"] == given["bbox"][2] * given["bbox"][3]
        assert (found["iscrowd"], found["difficult"]) == (0, 0)


@pytest.mark.parametrize(
    ("annotation", "image", "split"),
    [
        ("annotations/val.json", "a.png", "val"),
        ("annotations/instances_val2017.json", "val2017/a.png", "val2017"),
        ("annotations/val.json", "images/a.png", "val"),
        ("annotations/val.json", "images/val/a.png", "val"),
        ("annotations/val.json", "val/a.png", "val"),
        ("annotations/val.json", "val/images/a.png", "val"),
        ("annotations/my-val set.json", "images/a.png", "my_val_set"),
        ("valid/_annotations.coco.json", "valid/a.png", "valid"),
        ("val.json", "a.png", "val"),
        ("val.json", "images/a.png", "val"),
    ],
)
def test_layouts_of_folders(annotation, image, split, tmp_path, noise_image):
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 24}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}],
    }
    for name in (annotation, image):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / annotation).write_text(json.dumps(coco))
    noise_image().save(tmp_path / image)
    dataset = base.get_config().dataset
    dataset.name, dataset.path = "folder", str(tmp_path)
    dataset.data_dir = str(tmp_path / "prepared")
    assert folders.split_names(str(tmp_path)) == [split]
    assert sources.load(dataset, split)[0]["image"] == (tmp_path / image).read_bytes()


def test_annotation_files_of_other_tasks_are_ignored(folder, noise_image):
    folder.add("a.png", noise_image())
    folder.write("instances_train2017.json")
    for name in ("captions_train2017", "person_keypoints_train2017", "results"):
        (folder.folder / "annotations" / f"{name}.json").write_text("{}")
    (folder.folder / "package.json").write_text("{}")
    assert list(folder_layout.find_splits(folder.folder)) == ["train2017"]


def test_classes_are_those_of_the_asked_splits(folder, noise_image):
    folder.add("a.png", noise_image(), [(7, [1, 1, 5, 5])])
    folder.coco["categories"] = [{"id": 7, "name": "dog"}]
    folder.write("train.json")
    folder.coco["categories"] = [{"id": 90, "name": "dog"}, {"id": 2, "name": "cat"}]
    folder.coco["annotations"][0]["category_id"] = 90
    folder.write("val.json")
    train, val = sources.load_splits(folder.config(), ["train", "val"])
    # Two classes called dog: the later one is told apart by its id.
    assert train.class_names == val.class_names == ("cat", "dog", "dog (90)")
    assert train.category_ids == (2, 7, 90)
    assert (train[0]["labels"], val[0]["labels"]) == (1, 2)
    with pytest.raises(InputError, match="have the same image id 10"):
        sources.ground_truth(sources.load(folder.config(), "train+val"))
    alone = sources.load(folder.config(), "train")
    assert (alone.class_names, alone.category_ids) == (("dog",), (7,))


@pytest.mark.parametrize("stated", ["upright", "stored"])
def test_boxes_of_a_rotated_photograph(folder, stated):
    # A white bar, painted at rows 3..9 and columns 5..21 of the file's pixels.
    painted = np.zeros((24, 32, 3), np.uint8)
    painted[3:9, 5:21] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be turned by a quarter clockwise: 32 high, 24 wide.
    box = [24 - 9, 5, 6, 16] if stated == "upright" else [5, 3, 16, 6]
    folder.add(
        "a.png",
        PIL.Image.fromarray(painted),
        [(1, box)],
        size=(24, 32) if stated == "upright" else (32, 24),
        exif=exif,
    )
    folder.write()
    record = sources.load(folder.config(), "train")[0]
    assert (record["height"], record["width"]) == (32, 24)
    y, x = np.nonzero(decode.decode_image(record, "a.png")[..., 0])
    np.testing.assert_allclose(
        record["boxes"][0] * [32, 24, 32, 24],
        [y.min(), x.min(), y.max() + 1, x.max() + 1],
        atol=1e-5,
    )
    assert record["area"][0] == 96


def test_images_of_all_modes_are_decoded(folder, noise_image):
    modes = {"grey.png": "L", "rgb.jpg": "RGB", "rgba.png": "RGBA", "cmyk.jpg": "CMYK"}
    for name, mode in modes.items():
        folder.add(name, noise_image().convert(mode))
    folder.add(
        "deep.png", PIL.Image.fromarray(np.full((24, 32), 65535 // 2, np.uint16))
    )
    folder.write()
    config = base.get_config()
    config.dataset = folder.config()
    config.dataset.canvas = (24, 32)
    config.eval_batch_size = 5
    (batch,) = pipeline.eval_batches(sources.load(config.dataset, "train"), config)
    pixels = np.asarray(noise_image()).astype(int)
    np.testing.assert_array_equal(batch["image"][2], pixels)
    grey = np.asarray(noise_image().convert("L"))[..., None].repeat(3, -1)
    np.testing.assert_array_equal(batch["image"][0], grey)
    np.testing.assert_array_equal(batch["image"][4], 127)
    assert batch["mask"].all()
    np.testing.assert_array_equal(batch["image_size"], [[24, 32]] * 5)


def test_policies_and_their_counts(folder, noise_image):
    boxes = [
        (1, [4, 4, 8, 8]),
        (7, [20, 4, 20, 8]),  # Sticks out by 8.
        (1, [4, 4, 0, 8]),
        (1, [float("nan"), 4, 3, 8]),
        (1, [-0.7, 4, 8, 8]),  # Rounding.
    ]
    folder.add("a.png", noise_image(24, 32), boxes)
    folder.write()
    with pytest.raises(
        InputError, match=r"\(id 2\): the box \[20, 4, 20, 8\] in a\.png is outside"
    ):
        sources.load(folder.config("error"), "train")
    split = sources.load(folder.config("drop"), "train")
    assert split.counts == {"clipped": 0, "dropped": 3}
    dropped = split[0]
    np.testing.assert_array_equal(dropped["labels"], [0, 0])
    notice = "train: dataset.bad_boxes=drop clipped 0 boxes and dropped 3"
    assert notice in split.notices
    split = sources.load(folder.config("clip"), "train[:1]")
    assert split.counts == {"clipped": 1, "dropped": 2}
    clipped = split[0]
    np.testing.assert_array_equal(clipped["labels"], [0, 1, 0])
    np.testing.assert_allclose(
        clipped["boxes"][1:], [[4 / 24, 20 / 32, 0.5, 1], [4 / 24, 0, 0.5, 7.3 / 32]]
    )
    # Metrics use the box of the file where training clips what is rounding only.
    np.testing.assert_array_equal(
        clipped["bbox"], [[4, 4, 8, 8], [20, 4, 12, 8], [-0.7, 4, 8, 8]]
    )
    np.testing.assert_array_equal(clipped["area"], [64, 96, 64])
    assert clipped["bad_boxes"] == 0
    notice = "train: dataset.bad_boxes=clip clipped 1 boxes and dropped 2"
    assert notice in split.notices
    # One copy serves every policy.
    assert len(list((folder.folder / "prepared").rglob("copy.json"))) == 1
    assert [problem.kind for problem in split.problems] == [
        "box outside its image",
        "box without area",
        "box that is not finite",
    ]


def test_each_split_is_read_once(folder, noise_image, monkeypatch):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 0, 8])])
    folder.write("train.json")
    folder.add("b.png", noise_image(24, 32), [(7, [20, 4, 20, 8])])
    folder.write("val.json")
    read, calls = folders.read_source, []

    def count(*args):
        calls.append(args)
        return read(*args)

    monkeypatch.setattr(folders, "read_source", count)
    names = ["val", "train", "val[1:]", "train+val"]
    found = sources.load_splits(folder.config("clip"), names)
    assert [split.name for split in found] == names
    assert [[s[i]["file_name"][0] for i in range(len(s))] for s in found] == [
        *(["a", "b"], ["a"], ["b"], ["a", "a", "b"])
    ]
    assert [split.counts for split in found] == [
        {"clipped": 1, "dropped": 1},
        {"clipped": 0, "dropped": 1},
        {"clipped": 1, "dropped": 1},
        {"clipped": 1, "dropped": 2},
    ]
    assert len(calls) == 2
    notices = " ".join(found[0].notices)
    assert notices.count("train: dataset.bad_boxes=clip") == 1
    assert notices.count("val: dataset.bad_boxes=clip") == 1


def test_ids_of_64_bits_and_numbers_beyond_floats(folder, noise_image):
    folder.add("a.png", noise_image(), [(1, [4, 4, 5, 6]), (1, [4, 4, 10**400, 6])])
    folder.coco["images"][0]["id"] = folder.coco["annotations"][0]["image_id"] = (
        2**63 - 1
    )
    folder.coco["annotations"][1]["image_id"] = 2**63 - 1
    folder.coco["annotations"][0]["area"] = 10**400
    folder.write()
    record = sources.load(folder.config("clip"), "train")[0]
    assert record["image_id"] == 2**63 - 1
    np.testing.assert_array_equal(record["area"], [30])


def copies(folder) -> list[pathlib.Path]:
    """Returns the complete copies of the folder's splits."""
    return [p.parent for p in (folder.folder / "prepared").rglob("copy.json")]


def test_a_copy_of_changed_data_replaces_the_old_one(folder, noise_image):
    folder.add("a.png", noise_image(), [(1, [4, 4, 5, 5])])
    folder.write()
    split = sources.load(folder.config(), "train")
    (first,) = copies(folder)
    assert (
        sources.load(folder.config(), "train").records.ranges[0][0].copy.path == first
    )
    record = split[0]
    del split
    folder.coco["annotations"][0]["category_id"] = 7
    folder.write()
    assert sources.load(folder.config(), "train")[0]["labels"][0] == 1
    (second,) = copies(folder)
    image = folder.folder / "images" / "a.png"
    noise_image(seed=5).save(image)
    repainted = sources.load(folder.config(), "train")[0]
    (third,) = copies(folder)
    assert len({first, second, third}) == 3
    assert repainted["image"] == image.read_bytes() != record["image"]


def test_a_copy_that_a_run_reads_is_kept_until_it_ends(folder, noise_image):
    folder.add("a.png", noise_image(), [(1, [4, 4, 5, 5])])
    folder.write()
    reader = sources.load(folder.config(), "train")
    before = reader[0]["image"]
    noise_image(seed=5).save(folder.folder / "images" / "a.png")
    other = sources.load(folder.config(), "train")
    assert len(copies(folder)) == 2
    assert reader[0]["image"] == before != other[0]["image"]
    del reader
    sources.load(folder.config(), "train")
    assert len(copies(folder)) == 1


def test_remains_of_a_deletion_in_the_place_of_a_copy_are_replaced(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 5, 5])])
    folder.write()
    assert len(sources.load(folder.config(), "train")) == 1
    (copy,) = copies(folder)
    (copy / "copy.json").unlink()
    assert len(sources.load(folder.config(), "train")) == 1
    assert copies(folder) == [copy]
    assert (copy / "copy.json").is_file()


@pytest.mark.parametrize(
    "name", ["copy.json", "annotations.npz", "images.array_record"]
)
def test_a_copy_that_a_power_failure_left_empty_is_made_again(
    name, folder, noise_image
):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 5, 5])])
    folder.write()
    before = sources.load(folder.config(), "train")[0]
    (copy,) = copies(folder)
    (copy / name).write_bytes(b"")
    after = sources.load(folder.config(), "train")[0]
    assert copies(folder) == [copy]
    assert after["image"] == before["image"]
    np.testing.assert_array_equal(after["boxes"], before["boxes"])


def test_preparing_prints_a_line_before_and_after(folder, noise_image, capfd):
    for i in range(3):
        folder.add(f"{i}.png", noise_image(seed=i), [(1, [4, 4, 5, 5])])
    folder.write()
    sources.load(folder.config(), "train")
    first, last = capfd.readouterr().err.splitlines()
    place = folder_copy.place(folder.folder, folder.config().data_dir) / "train"
    assert first.startswith(
        f"preparing train of {folder.folder}: 3 images, kept in {place}/"
    )
    assert last == "prepared train: 0.1 MB in 0 s"
    sources.load(folder.config(), "train")
    assert capfd.readouterr() == ("", "")


def test_workers_read_a_copy(folder, noise_image):
    for i in range(4):
        folder.add(f"{i}.png", noise_image(seed=i), [(1, [4, 4, 5, 5])] * (i + 1))
    folder.write()
    config = base.get_config()
    config.dataset = folder.config()
    config.dataset.canvas = (24, 32)
    config.dataset.max_boxes = 0
    config.batch_size = 4
    split = sources.load(config.dataset, "train")
    expected = next(pipeline.train_batches(split, config))
    assert expected["boxes"].shape == (4, 8, 4)
    config.dataset.num_workers = 1
    with contextlib.closing(pipeline.train_batches(split, config)) as batches:
        found = next(batches)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_killed_preparation_is_repeated_and_its_remains_are_deleted(
    folder, noise_image
):
    for i in range(6):
        folder.add(f"{i}.png", noise_image(seed=i), [(1, [4, 4, 5, 5])])
    folder.write()
    script = textwrap.dedent(
        f"""
        import sys, time
        from borrow_det.configs import base
        from borrow_det.data import sources
        from borrow_det.data.images import upright
        read, left = upright.read, [4]
        def slow(*args):
            left[0] -= 1
            if not left[0]:
                print("halfway", flush=True)
                time.sleep(600)
            return read(*args)
        upright.read = slow
        dataset = base.get_config().dataset
        dataset.name, dataset.path = "folder", {str(folder.folder)!r}
        dataset.data_dir = dataset.path + "/prepared"
        sources.load(dataset, "train")
        """
    )
    root = str(pathlib.Path(sources.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
        text=True,
    )
    while "halfway" not in process.stdout.readline():
        assert process.poll() is None
    # While it lives, its files stay.
    split = sources.load(folder.config(), "train")
    assert len(list((folder.folder / "prepared").rglob("unfinished_*"))) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(copies(folder)) == 1
    del split
    shutil.rmtree(copies(folder)[0])
    split = sources.load(folder.config(), "train")
    assert [split[i]["image_id"] for i in range(len(split))] == list(range(10, 70, 10))
    assert not list((folder.folder / "prepared").rglob("unfinished_*"))


def test_another_process_may_prepare_the_set_first(folder, noise_image, monkeypatch):
    folder.add("a.png", noise_image(), [(1, [4, 4, 5, 5])])
    folder.write()
    write = folder_copy._write

    def overtaken(*args):
        monkeypatch.setattr(folder_copy, "_write", write)
        sources.load(folder.config(), "train")
        write(*args)

    monkeypatch.setattr(folder_copy, "_write", overtaken)
    assert len(sources.load(folder.config(), "train")) == 1
    assert len(copies(folder)) == 1
    assert not list((folder.folder / "prepared").rglob("unfinished_*"))


def copy_some(data: pathlib.Path, split: str, count: int, to: pathlib.Path) -> dict:
    """Copies the first images of a split to a folder; returns their annotations."""
    coco = json.loads((data / "annotations" / f"{split}.json").read_text())
    coco["images"] = coco["images"][:count]
    ids = {image["id"] for image in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    (to / "annotations").mkdir(parents=True)
    (to / "annotations" / f"{split}.json").write_text(json.dumps(coco))
    (to / "images").mkdir()
    for image in coco["images"]:
        shutil.copy(data / "images" / image["file_name"], to / "images")
    return coco


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
def test_images_and_annotations_of_real_data_sets(name, shared, tmp_path):
    coco = copy_some(shared / "data" / name, "val", 6, tmp_path / name)
    dataset = base.get_config().dataset
    dataset.name = "folder"
    dataset.path = str(tmp_path / name)
    dataset.data_dir = str(tmp_path / "prepared")
    split = sources.load(dataset, "val")
    truth = sources.ground_truth(split)
    assert [i["id"] for i in truth["images"]] == [i["id"] for i in coco["images"]]
    order = {image["id"]: i for i, image in enumerate(coco["images"])}
    given = sorted(coco["annotations"], key=lambda a: order[a["image_id"]])
    for a, b in zip(truth["annotations"], given, strict=True):
        assert a["category_id"] == b["category_id"]
        assert a["bbox"] == b["bbox"]
        assert a["area"] == b["area"]
    for i in range(len(split)):
        record = split[i]
        pixels = decode.decode_image(record, record["file_name"])
        pillow = PIL.Image.open(io.BytesIO(record["image"])).convert("RGB")
        assert np.abs(pixels.astype(int) - np.asarray(pillow)).max() <= 2


# Boxes and classes of each split as the data's own SOURCE.md counts them.
@pytest.mark.parametrize(
    ("name", "counts", "classes"),
    [
        ("aquarium", {"train": (448, 3323), "val": (127, 909)}, 7),
        (
            "bccd",
            {"train": (205, 2800), "val": (87, 1135), "test": (72, 944)},
            3,
        ),
        (
            "traffic_vehicles",
            {"train": (312, 3420), "val": (64, 487), "test": (76, 813)},
            1,
        ),
    ],
)
def test_numbers_of_images_and_boxes_of_real_data_sets(name, counts, classes, shared):
    path = shared / "data" / name
    kind = formats.recognize(path)
    problems = Problems()
    read = {
        split: kind.read(files, problems) for split, files in kind.splits(path).items()
    }
    found = {
        split: (
            len(content.images),
            sum(len(image.objects) for image in content.images),
        )
        for split, content in read.items()
    }
    assert found == counts
    assert not problems
    assert {len(content.categories) for content in read.values()} == {classes}
    if name == "aquarium":
        assert min(len(i.objects) for i in read["train"].images) == 0
