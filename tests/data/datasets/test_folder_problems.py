"""Everything that is wrong with a folder is found in one pass."""

import errno
import json
import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest

from borrow_det import tasks
from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.data.datasets import folder_copy
from borrow_det.errors import InputError


@pytest.fixture
def broken(folder, noise_image):
    """A folder with a problem of each kind in train, and one in val."""
    folder.add("good.png", noise_image(24, 32), [(1, [4, 4, 8, 8]), (7, [1, 1, 2, 2])])
    folder.add("cut.png", noise_image(24, 32, seed=1), [(1, [4, 4, 0, 8])])
    folder.add("gone.png", noise_image(24, 32, seed=2))
    folder.add(
        "turned.png", noise_image(24, 32, seed=3), [(1, [0, 0, 9, 32])], (24, 32)
    )
    folder.coco["annotations"][1]["iscrowd"] = "maybe"
    folder.coco["annotations"].append(
        {"id": 9, "image_id": 10, "category_id": 8, "bbox": [1, 1, 2, 2]}
    )
    path = folder.folder / "images" / "cut.png"
    path.write_bytes(path.read_bytes()[:-200])
    (folder.folder / "images" / "gone.png").unlink()
    folder.write("train.json")
    folder.coco["images"] = folder.coco["images"][:1]
    folder.coco["annotations"] = [folder.coco["annotations"][0]]
    folder.coco["annotations"][0]["bbox"] = [20, 4, 20, 8]
    folder.write("val.json")
    return folder


KINDS = {
    "wrong flag": 1,
    "unknown category": 1,
    "missing image": 1,
    "damaged image": 1,
    "image of another size": 1,
    "box without area": 1,
    "box outside its image": 1,
}


def report(folder):
    place = folder_copy.place(folder.folder, folder.config().data_dir)
    return place / "problems.json"


def test_one_error_has_the_problems_of_all_asked_splits(broken):
    with pytest.raises(InputError) as error:
        sources.load_splits(broken.config(), ["train", "val"])
    message = str(error.value)
    assert message.startswith("7 problems. ")
    assert "\n" not in message
    for kind in KINDS:
        assert f"{kind} (1): " in message
    assert f"All of them: {report(broken)}." in message
    assert message.endswith(
        "Correct the files, or set dataset.bad_images=skip to leave bad images out, or "
        "set dataset.bad_boxes to clip or drop for bad boxes"
    )
    content = json.loads(report(broken).read_text())
    assert content["counts"] == KINDS
    assert {p["kind"] for p in content["problems"]} == set(KINDS)


def test_problems_of_other_splits_do_not_stop_a_run(broken):
    config = broken.config("clip")
    val = sources.load(config, "val")
    np.testing.assert_array_equal(val[0]["bbox"], [[20, 4, 12, 8]])
    (broken.folder / "annotations" / "train.json").write_text("{")
    (broken.folder / "annotations" / "test.json").mkdir()
    (broken.folder / "annotations" / "classes.json").write_text('["cat", "dog"]')
    assert len(sources.load(config, "val")) == 1


def test_bad_images_are_left_out_counted_and_named(broken):
    coco = json.loads((broken.folder / "annotations" / "train.json").read_text())
    coco["annotations"] = coco["annotations"][:1]
    (broken.folder / "annotations" / "train.json").write_text(json.dumps(coco))
    config = broken.config()
    config.bad_images = "skip"
    split = sources.load(config, "train")
    assert [split[i]["file_name"] for i in range(len(split))] == ["good.png"]
    assert split.counts == {"clipped": 0, "dropped": 0, "skipped_images": 3}
    (notice,) = [line for line in split.notices if "dataset.bad_images" in line]
    assert notice.startswith(
        "train: dataset.bad_images=skip left out 3 images (missing image: 1, damaged "
        "image: 1, image of another size: 1), the first: "
    )
    assert "images[2]: the image 'gone.png' is not in" in notice
    assert len(split.problems) == 3


def test_skipped_images_are_in_the_counts_of_a_run(broken, tiny_config):
    (broken.folder / "annotations" / "train.json").write_text(
        (broken.folder / "annotations" / "val.json").read_text()
    )
    broken.coco["annotations"][0]["bbox"] = [1, 1, 2, 2]
    broken.coco["images"].append({"id": 5, "file_name": "gone.png"})
    broken.write("val.json")
    tiny_config.dataset = broken.config("drop")
    tiny_config.dataset.bad_images = "skip"
    tiny_config.dataset.eval_splits = ("val",)
    data = tasks.open_data(tiny_config)
    assert data.boxes == {
        "train": {"clipped": 0, "dropped": 1, "cut_boxes": 0, "bad_boxes": 0},
        "val": {"clipped": 0, "dropped": 0, "skipped_images": 1},
    }
    assert data.notices[0] == (
        f"{broken.folder}: COCO (annotations/train.json), splits train, val"
    )
    assert "train: dataset.bad_boxes=drop clipped 0 boxes and dropped 1" in data.notices


def test_problems_can_be_kept_instead_of_refused(broken):
    train, val = sources.load_splits(broken.config(), ["train", "val"], refuse=False)
    assert [split.name for split in (train, val)] == ["train", "val"]
    assert {p.kind for p in train.problems} | {p.kind for p in val.problems} == set(
        KINDS
    )
    np.testing.assert_array_equal(train[0]["bbox"], [[4, 4, 8, 8]])
    np.testing.assert_array_equal(val[0]["bbox"], [[20, 4, 12, 8]])


def test_unreadable_splits_are_named_together(broken):
    for name in ("train", "val"):
        (broken.folder / "annotations" / f"{name}.json").write_text("[1,")
    with pytest.raises(InputError, match=r"train\.json: not JSON.*val\.json: not JSON"):
        sources.load_splits(broken.config(), ["train", "val"])


def test_an_unknown_policy_for_images_is_an_error(broken):
    config = broken.config()
    config.bad_images = "drop"
    with pytest.raises(InputError, match=r"dataset\.bad_images is 'drop'"):
        sources.load(config, "train")


def test_images_without_their_end_marker_are_read_and_counted(folder, noise_image):
    folder.add("a.jpg", noise_image(), [(1, [4, 4, 5, 5])])
    path = folder.folder / "images" / "a.jpg"
    path.write_bytes(path.read_bytes().removesuffix(b"\xff\xd9"))
    folder.write()
    split = sources.load(folder.config(), "train")
    assert len(split) == 1
    assert "train: 1 image was repaired: the file has no end marker" in split.notices
    assert not split.problems


def test_large_images_are_bad_images_up_to_the_limit_of_pixels(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 5, 5])])
    folder.write()
    config = folder.config()
    config.max_pixels = 24 * 32 - 1
    with pytest.raises(
        InputError, match=r"the limit of pixels \(1\).*a\.png: .*dataset\.max_pixels"
    ):
        sources.load(config, "train")
    config.max_pixels = 24 * 32
    assert len(sources.load(config, "train")) == 1


def test_text_ids_come_back_and_batches_have_numbers(folder, noise_image):
    for i in range(2):
        record = folder.add(f"{i}.png", noise_image(seed=i), [(1, [4, 4, 5, 5])])
        record["id"] = f"img_{i}"
        folder.coco["annotations"][i]["image_id"] = f"img_{i}"
    folder.write()
    split = sources.load(folder.config(), "train")
    found = [(split[i]["image_id"], split[i]["file_id"]) for i in range(2)]
    assert found == [(0, "img_0"), (1, "img_1")]


def test_the_size_of_the_image_replaces_a_missing_size(folder, noise_image):
    record = folder.add("a.png", noise_image(24, 32), [(1, [30, 4, 5, 5])])
    del record["width"], record["height"]
    folder.write()
    with pytest.raises(InputError, match="outside the image of 32 x 24 pixels"):
        sources.load(folder.config(), "train")
    split = sources.load(folder.config("clip"), "train")
    assert (split[0]["height"], split[0]["width"]) == (24, 32)
    np.testing.assert_array_equal(split[0]["bbox"], [[30, 4, 2, 5]])


def test_flags_and_areas_of_the_file_reach_the_record(folder, noise_image):
    boxes = [(1, [1, 1, 4, 4])] * 4
    folder.add("a.png", noise_image(24, 32), boxes)
    flags = [
        {"difficult": "0", "area": None},
        {"ignore": 1, "area": 0},
        {"iscrowd": True, "area": 5.5},
        {"difficult": "true"},
    ]
    for annotation, fields in zip(folder.coco["annotations"], flags, strict=True):
        annotation.update(fields)
    folder.write()
    record = sources.load(folder.config(), "train")[0]
    np.testing.assert_array_equal(record["is_difficult"], [False, True, False, True])
    np.testing.assert_array_equal(record["is_crowd"], [False, False, True, False])
    np.testing.assert_array_equal(record["area"], [16, 16, 5.5, 16])


def test_a_root_category_of_roboflow_is_not_a_class(folder, noise_image):
    folder.add("a.png", noise_image(), [(1, [4, 4, 5, 5])])
    folder.coco["categories"] = [
        {"id": 0, "name": "cell", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cell"},
    ]
    folder.write()
    split = sources.load(folder.config(), "train")
    assert (split.class_names, split.category_ids) == (("cell",), (1,))


@pytest.mark.parametrize(
    "name", ["./a.png", "..\\up\\a.png", "C:\\data\\a.png", "/home/ann/a.png", "a.jpg"]
)
def test_names_of_other_machines_find_the_image(name, folder):
    record = folder.add("a.png", PIL.Image.new("RGB", (8, 8)))
    record["file_name"] = name
    folder.write()
    split = sources.load(folder.config(), "train")
    assert split[0]["image"] == (folder.folder / "images" / "a.png").read_bytes()
    assert split[0]["file_name"] == name


def test_an_ambiguous_name_lists_the_candidates(folder):
    record = folder.add("a.png", PIL.Image.new("RGB", (8, 8)))
    record["file_name"] = "elsewhere/b.png"
    for place in ("one", "two"):
        (folder.folder / "images" / place).mkdir()
        PIL.Image.new("RGB", (8, 8)).save(folder.folder / "images" / place / "b.png")
    folder.write()
    with pytest.raises(
        InputError,
        match=r"ambiguous file name.*images/one/b\.png, images/two/b\.png",
    ):
        sources.load(folder.config(), "train")


def test_the_default_policies_of_a_run_refuse_bad_data():
    dataset = base.get_config().dataset
    assert (dataset.bad_boxes, dataset.bad_images) == ("error", "error")


def test_another_users_copies_and_reports_are_left_alone(broken, monkeypatch):
    with pytest.raises(InputError, match="7 problems"):
        sources.load_splits(broken.config(), ["train", "val"])
    (copy,) = report(broken).parent.glob("val/*")
    earlier = shutil.copytree(copy, copy.with_name("earlier"))

    def refused(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "unlink", refused)
    with pytest.raises(InputError, match="7 problems"):
        sources.load_splits(broken.config(), ["train", "val"])
    assert report(broken).is_file()
    assert sorted(path.name for path in earlier.iterdir()) == sorted(
        path.name for path in copy.iterdir()
    )


@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_empty_list_is_named_instead_of_every_object(key, folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 8, 8])] * 9)
    folder.coco[key] = []
    folder.write("train.json")
    with pytest.raises(InputError) as error:
        sources.load(folder.config(), "train")
    file = folder.folder / "annotations" / "train.json"
    assert str(error.value).startswith(f"{file} lists no {key}: ")


def test_a_split_may_have_any_name(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 8, 8])])
    folder.write("train.json")
    folder.write("all.json")
    assert len(sources.load(folder.config(), "train")) == 1
    assert len(sources.load(folder.config(), "all")) == 1


def test_two_files_of_a_split_that_is_not_asked_for_stop_nobody(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 8, 8])])
    for name in ("train.json", "test.json", "classes.json"):
        folder.write(name)
    (folder.folder / "annotations" / "classes.json").write_text('["cat", "dog"]')
    other = folder.folder / "test" / "_annotations.coco.json"
    other.parent.mkdir()
    other.write_text("{}")
    split = sources.load(folder.config(), "train")
    assert len(split) == 1
    assert "COCO (annotations/test.json), splits" in split.notices[0]
    with pytest.raises(InputError, match="are both of the split test: rename one"):
        sources.load(folder.config(), "test")


def test_messages_about_a_box_quote_the_file_as_it_is_now(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, []), (1, [4, 4, 8, 8])])
    (wrong, good) = folder.coco["annotations"]
    for box, place, shown in (
        ([], 0, r"\[\]"),
        ([1, 2], 0, r"\[1, 2\]"),
        ([1, 2], 1, r"\[1, 2\]"),
    ):
        wrong["bbox"] = box
        folder.coco["annotations"] = [wrong, good] if place == 0 else [good, wrong]
        folder.write()
        with pytest.raises(
            InputError, match=rf"annotations\[{place}\] \(id 1\): the box {shown} in a"
        ):
            sources.load(folder.config(), "train")


def test_a_box_around_polygons_is_quoted_as_such(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [])])
    folder.coco["annotations"][0]["segmentation"] = [[40, 2, 50, 2, 50, 9]]
    folder.write()
    with pytest.raises(
        InputError,
        match=r"the box \[40, 2, 10, 7\] around its segmentation in a\.png is outside",
    ):
        sources.load(folder.config(), "train")


def test_links_in_a_circle_and_closed_folders_are_skipped(folder, noise_image):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 8, 8])])
    folder.write()
    (folder.folder / "images" / "self").symlink_to("self")
    (folder.folder / "all").symlink_to(".")
    # The root of a disk has such a folder. Only root may read it.
    (folder.folder / "lost+found").mkdir(mode=0o000)
    assert len(sources.load(folder.config(), "train")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_without_permission_are_named(folder, noise_image, tmp_path):
    folder.add("a.png", noise_image(24, 32), [(1, [4, 4, 8, 8])])
    folder.write()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    config = folder.config()
    config.data_dir = str(closed)
    with pytest.raises(
        InputError, match=r"closed/.*cannot be prepared .*dataset\.data"
    ):
        sources.load(config, "train")
    (folder.folder / "images").chmod(0o444)  # Names can be listed, files not opened.
    with pytest.raises(
        InputError, match=r"a\.png: the file cannot be read: Permission"
    ):
        sources.load(folder.config(), "train")
    config.path = str(closed)
    with pytest.raises(InputError, match=r"closed cannot be read: permission denied"):
        sources.load(config, "train")
