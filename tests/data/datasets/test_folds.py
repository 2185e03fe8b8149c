"""Folds of a folder's images: each image is in one, and groups stay together."""

import json
import pathlib

import numpy as np
import pytest

from borrow_det.data import sources
from borrow_det.data.datasets import folds
from borrow_det.data.datasets.folder_splits import Part
from borrow_det.errors import InputError


def images(names, **fields):
    """Returns images of a copy; each field has a value for each image."""
    return [
        {"file_name": name, "fields": {key: of[i] for key, of in fields.items()}}
        for i, name in enumerate(names)
    ]


def sizes(fold):
    return np.bincount(fold).tolist()


@pytest.mark.parametrize("field", ["camera", r"^c(\d+)_"])
def test_whole_groups_are_in_one_fold_and_folds_are_nearly_equal(field):
    rng = np.random.default_rng(0)
    cameras = np.repeat(np.arange(40), rng.integers(1, 30, 40))
    names = [f"c{camera}_{i}.jpg" for i, camera in enumerate(cameras)]
    some = images(names, camera=cameras.tolist())
    fold = folds.assign(some, 5, field)
    for camera in range(40):
        assert len({*fold[cameras == camera]}) == 1
    assert max(sizes(fold)) - min(sizes(fold)) <= 3
    turn = rng.permutation(len(some))
    np.testing.assert_array_equal(
        folds.assign([some[i] for i in turn], 5, field), fold[turn]
    )


def test_the_largest_groups_come_first_and_go_to_the_smallest_fold():
    some = images([f"{i}.jpg" for i in range(10)], video=list("aaaabbbccd"))
    fold = folds.assign(some, 2, "video")
    assert sizes(fold) == [5, 5]
    assert fold.tolist() == [0] * 4 + [1] * 5 + [0]


def test_images_without_groups_are_divided_in_the_order_of_the_numbers_in_their_names():
    order = np.random.default_rng(1).permutation(103)
    fold = folds.assign(images([f"IMG_{i}.jpg" for i in order]), 5, "")
    by_number = fold[np.argsort(order)]
    assert (np.diff(by_number) >= 0).all()
    assert max(sizes(fold)) - min(sizes(fold)) <= 1


def test_neighbors_of_two_splits_are_neighbors_in_the_order():
    names = [f"{('train', 'valid')[i % 3 == 0]}/images/IMG_{i}.jpg" for i in range(12)]
    fold = folds.assign(images(names), 3, "")
    assert fold.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    names = [f"cam{i % 2}\\images\\{i}.jpg" for i in range(12)]
    np.testing.assert_array_equal(folds.assign(images(names), 2, ""), [0, 1] * 6)


def test_versions_of_one_picture_are_in_one_fold():
    names = [f"train/{i // 3}_jpg.rf.{i * 7919 % 31:032x}.jpg" for i in range(30)]
    fold = folds.assign(images(names), 4, "")
    assert (fold.reshape(10, 3) == fold[::3, None]).all()
    assert sorted(sizes(fold)) == [6, 6, 9, 9]


@pytest.mark.parametrize("large", range(4))
def test_every_fold_has_images_however_large_one_of_them_is(large):
    names = [f"{large}_jpg.rf.{i}.jpg" for i in range(40)]
    names += [f"{i}_jpg.rf.0.jpg" for i in range(4) if i != large]
    fold = folds.assign(images(names), 4, "")
    assert sizes(fold) == [40 if i == large else 1 for i in range(4)]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("video", "dataset.folds is 4, but there are only 3 groups by video: set a sm"),
        (r"(\d)", r"only 1 groups by \(\\d\)"),
        (
            "(x)",
            r"dataset\.group '\(x\)' matches no file name, such as 0\.jpg: correct",
        ),
        ("", "dataset.folds is 4, but there are only 3 images"),
    ],
)
def test_more_folds_than_groups_are_refused(field, message):
    names = ["0.jpg"] * 3 if field == r"(\d)" else [f"{i}.jpg" for i in range(3)]
    with pytest.raises(InputError, match=message):
        folds.assign(images(names, video=[1, 2, 3]), 4, field)


def choose(asked, known, train=("train",), evaluated=("val",)):
    return folds.choose(asked, known, train, evaluated, "DIR")


def parts(*names, held_out):
    return tuple(Part(name, held_out=held_out) for name in names)


def test_the_training_and_the_validation_split_are_pooled_and_the_others_are_not():
    known = ["test", "train", "valid"]
    assert choose(["train", "val", "test"], known) == {
        "train": parts("train", "valid", held_out=False),
        "val": parts("train", "valid", held_out=True),
        "test": (Part("test"),),
    }
    found = choose(["train", "dev"], ["train", "dev", "val"], evaluated=["dev"])
    assert found["dev"] == parts("train", "dev", held_out=True)
    found = choose(["val"], ["train", "dev", "val"], evaluated=["dev"])
    assert found == {"val": (Part("val"),)}


def test_a_folder_of_training_images_alone_is_divided():
    found = choose(["train", "validation"], ["train"], evaluated=["validation"])
    assert found == {
        "train": parts("train", held_out=False),
        "validation": parts("train", held_out=True),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": ["train", "val"]}, "dataset.train_split has the splits train, val"),
        ({"train": ["val"]}, "name the training split alone"),
        ({"evaluated": ["test"]}, "dataset.eval_splits has only test: add val"),
        ({"train": ["all"]}, "DIR has no split 'all'; known are test, train, valid"),
        ({"asked": ["other"]}, "DIR has no split 'other'; known are test, train, va"),
    ],
)
def test_splits_that_cannot_be_divided_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        choose(**{"asked": ["train"], "known": ["test", "train", "valid"]} | arguments)


@pytest.fixture
def pooled(folder, noise_image):
    """config.dataset of train, val and test with 12, 5 and 2 images, ids from 10."""
    number = 0
    for split, count in (("train", 12), ("val", 5), ("test", 2)):
        folder.coco["images"], folder.coco["annotations"] = [], []
        for _ in range(count):
            name = f"{split}_{number}.png"
            image = noise_image(seed=number)
            record = folder.add(name, image, [(1, [number, 4, 5, 5])])
            record["camera"] = f"c{number % 6}"  # Some are in train and in val.
            number += 1
        folder.write(f"{split}.json")
    config = folder.config()
    config.eval_splits, config.folds = ("val",), 3
    return config


def names_of(split):
    return [image["file_name"] for image in split.descriptions]


def test_every_image_is_evaluated_once_and_test_images_never(pooled):
    evaluated, cameras = [], []
    for fold in range(3):
        pooled.fold = fold
        train, val, test = sources.load_splits(pooled, ["train", "val", "test"])
        assert len(train) + len(val) == 17
        assert not {*names_of(train)} & {*names_of(val)}
        assert names_of(test) == ["test_17.png", "test_18.png"]
        evaluated += names_of(val)
        cameras.append({image["fields"]["camera"] for image in val.descriptions})
        assert (val.folds["folds"], val.folds["fold"]) == (3, fold)
        assert val.folds["group"] == "camera"
        assert [name for of in val.folds["images"][fold].values() for name in of] == (
            names_of(val)
        )
        assert (
            f"fold {fold} of the folds 0 to 2 is evaluated, {len(val)} of the 17 "
            "images of train and val (whole groups by camera); the others are for "
            "training"
        ) in val.notices[1]
    assert len(evaluated) == len({*evaluated}) == 17
    assert sum(map(len, cameras)) == len(set.union(*cameras)) == 6
    copies = list(pathlib.Path(pooled.data_dir).rglob("copy.json"))
    assert len(copies) == 3  # One for each split, whatever the number of folds.


def test_images_with_one_id_in_two_splits_are_told_apart(pooled):
    ids = []
    for pooled.fold in range(3):
        train, val = sources.load_splits(pooled, ["train", "val"])
        truth = sources.ground_truth(val)
        ids += [image["id"] for image in truth["images"]]
        boxes = {a["image_id"]: a["bbox"][0] for a in truth["annotations"]}
        for image in truth["images"]:  # The first coordinate is the image's number.
            number = int(image["file_name"].split("_")[1].split(".")[0])
            assert boxes[image["id"]] == number
        batch_ids = [train[i]["image_id"] for i in range(len(train))]
        assert batch_ids == list(range(len(train)))
    assert len({*ids}) == 17
    assert {"train/10", "train/120", "val/10"} <= {*ids}
    pooled.folds = pooled.fold = 0
    assert sources.load(pooled, "val")[0]["file_id"] == 10


def test_ids_that_differ_stay_as_they_are(pooled, folder):
    path = folder.folder / "annotations" / "val.json"
    content = json.loads(path.read_text())
    for record in content["images"]:
        record["id"] += 1000
    for record in content["annotations"]:
        record["image_id"] += 1000
    path.write_text(json.dumps(content))
    ids = {
        image["id"]
        for pooled.fold in range(3)
        for image in sources.ground_truth(sources.load(pooled, "val"))["images"]
    }
    assert ids == {*range(10, 130, 10), *range(1010, 1060, 10)}


def test_a_slice_is_one_of_the_fold(pooled):
    whole, part = sources.load_splits(pooled, ["val", "val[:2]"])
    assert names_of(part) == names_of(whole)[:2]


def test_errors_name_the_folder(pooled, folder):
    pooled.folds = 10
    with pytest.raises(
        InputError, match=r"my data: dataset\.folds is 10, but there ar"
    ):
        sources.load(pooled, "train")
    pooled.group = "place"
    with pytest.raises(InputError, match=r"my data: image 'train_0\.png' has no field"):
        sources.load(pooled, "train")
