import numpy as np
import pytest

from borrow_det.data import sources
from borrow_det.data.datasets import folder_splits
from borrow_det.data.datasets.folder_splits import Part
from borrow_det.errors import InputError


def choose(asked, known, in_config=(), held_out=0.2, train="train"):
    return folder_splits.choose(
        asked, known, in_config or asked, train, held_out, "DIR"
    )


@pytest.mark.parametrize("asked", folder_splits.VALIDATION)
@pytest.mark.parametrize("there", folder_splits.VALIDATION)
def test_every_name_of_the_validation_split_finds_the_one_that_is_there(asked, there):
    assert choose([asked], ["test", "train", there]) == {asked: Part(there)}


def test_an_exact_name_and_the_preferred_name_come_first():
    known = ["dev", "train", "valid"]
    assert choose(["dev", "val"], known) == {"dev": Part("dev"), "val": Part("valid")}


@pytest.mark.parametrize(
    ("known", "train", "val"),
    [
        (["Train", "Validation"], Part("Train"), Part("Validation")),
        (["TRAIN", "train", "VAL"], Part("train"), Part("VAL")),
        (["default", "valid"], Part("default"), Part("valid")),
        (["default"], Part("default", held_out=False), Part("default", held_out=True)),
    ],
)
def test_names_in_another_case_and_default_of_cvat_are_found(known, train, val):
    found = choose(["train", "val"], known, ["train", "val"])
    assert found == {"train": train, "val": val}


def test_names_that_differ_in_case_only_are_not_mixed_up():
    with pytest.raises(InputError, match="no split 'train'; known are Train, TRAIN"):
        choose(["train"], ["Train", "TRAIN"])


def test_without_a_validation_split_training_images_are_held_out():
    parts = choose(["train", "val", "test"], ["test", "train"])
    assert parts == {
        "train": Part("train", held_out=False),
        "val": Part("train", held_out=True),
        "test": Part("test"),
    }


def test_the_training_split_lacks_the_held_out_images_also_when_asked_alone():
    parts = choose(["train"], ["train"], in_config=["train", "val"])
    assert parts == {"train": Part("train", held_out=False)}
    parts = choose(["train"], ["train"], in_config=["train", "test"])
    assert parts == {"train": Part("train")}


def test_nothing_is_held_out_of_a_folder_without_the_training_split():
    with pytest.raises(InputError, match="DIR has no split 'val'; known are a, b"):
        choose(["val"], ["a", "b"])
    message = (
        "no validation split: add one, or set dataset.held_out to the share of train"
    )
    with pytest.raises(InputError, match=message):
        choose(["val"], ["train"], held_out=0.0)
    assert choose(["val"], ["a", "b"], train="b") == {"val": Part("b", held_out=True)}


def images(**fields):
    """Returns images of a copy; each field has a value for each image."""
    count = len(next(iter(fields.values())))
    return [
        {
            "file_name": f"{i}.jpg",
            "fields": {name: values[i] for name, values in fields.items()},
        }
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"camera": "aab", "video_id": [1, 2, 3]}, "video_id"),
        ({"camera": "aab", "video_id": [1, 2, None]}, "camera"),
        ({"camera": "aaa", "location": [7, 7, 8]}, "location"),
        ({"weather": "aab"}, ""),
    ],
)
def test_the_group_is_the_first_known_field_that_divides_all_images(fields, expected):
    assert folder_splits.group_field(images(**fields), "") == expected


def test_a_named_group_must_be_a_field_of_every_image():
    assert folder_splits.group_field(images(weather="aab"), "weather") == "weather"
    with pytest.raises(InputError, match=r"'2\.jpg' has no field 'weather': correct"):
        folder_splits.group_field(images(weather=["a", "b", None]), "weather")


def test_whole_groups_are_held_out_whatever_the_order():
    videos = np.repeat(np.arange(20), 5).tolist()
    some = images(video_id=videos)
    mask = folder_splits.hold_out(some, 0.2, "video_id")
    assert mask.sum() == 20
    held = {image["fields"]["video_id"] for image in np.array(some)[mask]}
    assert len(held) == 4
    rest = {image["fields"]["video_id"] for image in np.array(some)[~mask]}
    assert not held & rest
    turned = folder_splits.hold_out(some[::-1], 0.2, "video_id")
    np.testing.assert_array_equal(turned[::-1], mask)


def test_groups_by_a_regular_expression_are_held_out_as_those_of_a_field():
    some = images(video_id=[f"{i // 5}" for i in range(100)])
    for image in some:
        image["file_name"] = f"{image['fields']['video_id']}_{image['file_name']}"
    assert folder_splits.group_field(some, r"^(\d+)_") == r"^(\d+)_"
    np.testing.assert_array_equal(
        folder_splits.hold_out(some, 0.2, r"^(\d+)_"),
        folder_splits.hold_out(some, 0.2, "video_id"),
    )
    with pytest.raises(
        InputError, match=r"dataset\.group '\(x\)' matches no file name"
    ):
        folder_splits.hold_out(some, 0.2, "(x)")


def test_the_smallest_group_is_held_out_if_all_are_larger_than_the_share():
    some = images(video_id=[1] * 4 + [2] * 3 + [3] * 5)
    mask = folder_splits.hold_out(some, 0.1, "video_id")
    np.testing.assert_array_equal(np.flatnonzero(mask), [4, 5, 6])


def test_single_images_are_held_out_without_groups():
    mask = folder_splits.hold_out(images(weather="a" * 50), 0.1, "")
    assert mask.sum() == 5
    with pytest.raises(InputError, match="1 image cannot be divided into training"):
        folder_splits.hold_out(images(weather="a"), 0.1, "")


def test_versions_of_one_picture_by_roboflow_are_held_out_together():
    some = images(weather="a" * 60)
    for i, image in enumerate(some):
        image["file_name"] = f"{i // 3}_jpg.rf.{i:032x}.jpg"
    mask = folder_splits.hold_out(some, 0.2, "")
    assert mask.sum() == 12
    np.testing.assert_array_equal(mask.reshape(20, 3).sum(axis=1) % 3, 0)


def test_a_run_trains_and_validates_on_parts_of_one_split(folder, noise_image):
    for i in range(10):
        record = folder.add(f"{i}.png", noise_image(seed=i), [(1, [4, 4, 5, 5])])
        record["camera"] = f"c{i // 2}"
    folder.write()
    config = folder.config()
    config.eval_splits = ("val",)
    train, val, both, half = sources.load_splits(
        config, ["train", "val", "train+val", "train[:50%]"]
    )
    assert [len(split) for split in (train, val, both, half)] == [8, 2, 10, 4]
    notice = (
        f"{folder.folder} has no validation split: 2 of the 10 images of train are "
        "held out for validation (dataset.held_out=0.2, whole groups by camera)"
    )
    assert notice in train.notices
    names = {
        split.name: {r["file_name"] for r in _records(split)} for split in (train, val)
    }
    assert not names["train"] & names["val"]
    assert len({r["fields"]["camera"] for r in _records(val)}) == 1
    (alone,) = sources.load_splits(config, ["train"])
    assert [r["file_name"] for r in _records(alone)] == [
        r["file_name"] for r in _records(train)
    ]
    assert len(list((folder.folder / "prepared").rglob("copy.json"))) == 1


def test_a_split_under_another_name_is_announced(folder, noise_image):
    folder.add("a.png", noise_image())
    folder.write("train.json")
    folder.write("valid.json")
    (val,) = sources.load_splits(folder.config(), ["val[:1]"])
    assert (val.name, len(val)) == ("val[:1]", 1)
    assert f"val is the split valid of {folder.folder}" in val.notices


def _records(split):
    return [split[i] for i in range(len(split))]
