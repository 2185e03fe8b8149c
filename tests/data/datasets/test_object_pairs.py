"""Splits of object_pairs: their scenes, and the photographs that these are made of."""

import json
import shutil

import cv2
import ml_collections
import numpy as np
import pytest

from borrow_det.config import validate
from borrow_det.configs import object_pairs as object_pairs_config
from borrow_det.data import sources
from borrow_det.data.datasets import object_pairs_scenes
from borrow_det.data.datasets.object_pairs import ObjectPairs
from borrow_det.data.images import decode
from borrow_det.errors import InputError

SPLITS = ("train", "validation", "swapped", "alone")
# Ids of the categories, and the number of objects of each in a split of `photographs`.
COUNTS = {1: 7, 7: 7, 8: 7, 9: 7, 11: 3}
SIDE = 96


def write_photographs(folder, noise_image, name, counts, seed):
    """Adds photographs of noise with up to two objects each as a split of a folder."""
    folder.coco["images"], folder.coco["annotations"] = [], []
    folder.coco["categories"] = [{"id": id_, "name": f"class {id_}"} for id_ in counts]
    objects = [id_ for id_, count in counts.items() for _ in range(count)]
    objects = np.random.default_rng(seed).permutation(objects).tolist()
    for i in range(0, len(objects), 2):
        # Boxes of 44 x 36 and 40 x 52 pixels; margins are inside.
        places = ([8, 10, 44, 36], [70, 8, 40, 52])
        boxes = list(zip(objects[i : i + 2], places, strict=False))
        image = noise_image(70, 120, seed=1000 * seed + i)
        folder.add(f"{name}_{i}.png", image, boxes)
    folder.write(f"{name}.json")


@pytest.fixture(scope="module")
def photographs(make_folder, noise_image, tmp_path_factory):
    """A folder with train and val of COUNTS objects, and a test split of no image."""
    folder = make_folder(tmp_path_factory.mktemp("photographs") / "my photographs")
    for seed, name in enumerate(("train", "val")):
        write_photographs(folder, noise_image, name, COUNTS, seed)
    folder.coco["images"].append(
        {**folder.coco["images"][0], "file_name": "absent.png"}
    )
    folder.write("test.json")
    return folder.folder


@pytest.fixture
def write_few(folder, noise_image):
    """A function that writes splits of these counts as a folder; returns its path."""

    def write_few(**splits):
        for seed, (name, counts) in enumerate(splits.items()):
            write_photographs(folder, noise_image, name, counts, seed)
        return folder.folder

    return write_few


def get_config(path, data_dir, instance="other"):
    """config.dataset of a run on these photographs."""
    config = object_pairs_config.get_config(f"path={path},instance={instance}")
    config.dataset.image_size = SIDE
    config.dataset.data_dir = str(data_dir)
    config.dataset.min_crop_side = 30.0
    return config.dataset


@pytest.fixture(scope="module")
def load(few_scenes):
    """A function that draws few scenes and returns splits by name."""

    def load(dataset, names=SPLITS, num_train=12, num_validation=8):
        counts = {"num_train": num_train, "num_validation": num_validation}
        with few_scenes(ObjectPairs, **counts):
            return dict(zip(names, sources.load_splits(dataset, names), strict=True))

    return load


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module")
def drawn(load, photographs, data_dir):
    """The splits, by name, of other instances."""
    return load(get_config(photographs, data_dir))


def objects_of(split, index):
    """The objects of a stored record: (photograph, number, label, is_large) each."""
    found = split.records[index]["objects"]
    names = [name.decode() for name in found["photograph"]]
    others = (found[name] for name in ("number", "label", "is_large"))
    return list(zip(names, *others, strict=True))


def test_splits_show_the_same_scenes(drawn):
    assert [len(split) for split in drawn.values()] == [12, 8, 8, 8]
    for i in range(8):
        shown, swapped, alone = (drawn[name][i] for name in SPLITS[1:])
        assert shown["image_id"] == swapped["image_id"] == alone["image_id"] == i
        assert (shown["height"], shown["width"]) == (SIDE, SIDE)
        large = np.array(
            [is_large for *_, is_large in objects_of(drawn["validation"], i)]
        )
        assert large.tolist() == [True, True] + [False] * (len(large) - 2)
        for name in ("boxes", "labels"):
            np.testing.assert_array_equal(swapped[name][2:], shown[name][2:])
            np.testing.assert_array_equal(alone[name], shown[name][2:])
        assert {*shown["labels"][2:]} <= {*shown["labels"][:2]}
        assert not {*swapped["labels"][:2]} & {*shown["labels"]}


def test_small_objects_are_the_same_to_the_pixel(drawn):
    for i in range(8):
        records = [drawn[name][i] for name in SPLITS[1:]]
        images = [decode.decode_image(r, "image").astype(int) for r in records]
        for y0, x0, y1, x1 in np.rint(records[2]["boxes"] * SIDE).astype(int):
            parts = [image[y0:y1, x0:x1] for image in images]
            # Blocks of 8 pixels are compressed for themselves; no large one is near.
            np.testing.assert_array_equal(parts[0], parts[1])
            np.testing.assert_array_equal(parts[0], parts[2])
        y0, x0, y1, x1 = (records[0]["boxes"][0] * SIDE).astype(int)
        assert np.abs(images[0] - images[2])[y0:y1, x0:x1].mean() > 20


def test_scenes_are_made_of_the_photographs_of_their_own_split(drawn):
    for split, name in zip(drawn.values(), ("train", "val", "val", "val"), strict=True):
        used = {file for i in range(len(split)) for file, *_ in objects_of(split, i)}
        assert len(used) > 4
        assert all(file.startswith(f"{name}_") for file in used)


def test_labels_are_those_of_the_objects_in_the_photographs(drawn, photographs):
    for name in ("train", "val"):
        coco = json.loads((photographs / "annotations" / f"{name}.json").read_text())
        files = {image["id"]: image["file_name"] for image in coco["images"]}
        categories = {}
        for annotation in coco["annotations"]:
            of_image = categories.setdefault(files[annotation["image_id"]], [])
            of_image.append(annotation["category_id"])
        split = drawn["train" if name == "train" else "swapped"]
        for i in range(len(split)):
            for file, number, label, _ in objects_of(split, i):
                assert split.category_ids[label] == categories[file][number]


def test_pixels_in_the_middle_of_an_object_are_the_photographs(
    load, photographs, data_dir, monkeypatch
):
    """Before compression: a drawn window is the photograph's, shrunk by averaging."""
    drawn_images = []
    draw = object_pairs_scenes.draw

    def recorded(scene, objects, *args):
        drawn_images.append((objects, draw(scene, objects, *args)))
        return drawn_images[-1][1]

    monkeypatch.setattr(object_pairs_scenes, "draw", recorded)
    splits = load(get_config(photographs, data_dir), num_train=2, num_validation=1)
    objects, image = drawn_images[0]
    named = objects_of(splits["train"], 0)
    for placed, (file, *_) in zip(objects, named, strict=True):
        top, left, bottom, right = placed.cut_out.window
        photograph = cv2.imread(str(photographs / "images" / file))[..., ::-1]
        window = photograph[top:bottom, left:right]
        assert placed.size[0] < window.shape[0]
        expected = cv2.resize(window, placed.size[::-1], interpolation=cv2.INTER_AREA)
        rows = slice(placed.top, placed.top + placed.size[0])
        found = image[rows, placed.left : placed.left + placed.size[1]]
        opaque = object_pairs_scenes.opacity(placed) == 1
        assert opaque.sum() >= 5
        np.testing.assert_array_equal(found[opaque], expected[opaque])


@pytest.mark.parametrize("instance", ["other", "same"])
def test_small_objects_are_other_objects_or_the_same(
    load, photographs, data_dir, instance
):
    split = load(get_config(photographs, data_dir, instance))["validation"]
    for i in range(len(split)):
        objects = objects_of(split, i)
        lenders = {label: (file, number) for file, number, label, _ in objects[:2]}
        for file, number, label, _ in objects[2:]:
            assert (lenders[label] == (file, number)) == (instance == "same")


def test_drawing_again_gives_the_same_bytes(drawn, load, photographs, tmp_path):
    again = load(get_config(photographs, tmp_path))
    for name in SPLITS:
        for i in range(len(drawn[name])):
            assert again[name].records[i]["image"] == drawn[name].records[i]["image"]
            assert objects_of(again[name], i) == objects_of(drawn[name], i)
    images = [record["image"] for record in drawn["train"].records]
    assert len({*images}) == 12


def test_classes_with_few_objects_are_left_out_and_named(drawn):
    split = drawn["train"]
    assert split.category_ids == (1, 7, 8, 9, 11)
    shown = {label for i in range(12) for label in split[i]["labels"].tolist()}
    assert shown == {0, 1, 2, 3}
    assert split.notices[-2:] == (
        "object_pairs cuts out objects of class 1 (7 in training, 7 in validation), "
        "class 7 (7 in training, 7 in validation), "
        "class 8 (7 in training, 7 in validation), "
        "class 9 (7 in training, 7 in validation)",
        "object_pairs leaves out classes with fewer than 5 objects to cut out: class "
        "11 (3 in training, 3 in validation)",
    )
    assert sorted(split.reference_lines.values()) == [0.25, 0.5]


def test_a_frozen_config_opens_the_set_and_is_kept(load, photographs, data_dir):
    config = get_config(photographs, data_dir)
    frozen = ml_collections.FrozenConfigDict(config)
    splits = load(frozen, ("validation",))
    assert len(splits["validation"].records) == 8
    assert frozen.eval_splits == config.eval_splits == SPLITS[1:]


def test_splits_know_their_factual_split(drawn):
    factual = [drawn[name].counterfactual_of for name in SPLITS]
    assert factual == ["", "", "validation", "validation"]


def test_another_choice_of_photographs_is_another_set(
    drawn, load, photographs, tmp_path
):
    changed = tmp_path / photographs.name
    shutil.copytree(photographs, changed)
    path = changed / "annotations" / "train.json"
    coco = json.loads(path.read_text())
    coco["annotations"][0]["bbox"][2] -= 1
    data_dir = tmp_path / "drawn"
    load(get_config(changed, data_dir), ["train"])
    path.write_text(json.dumps(coco))
    load(get_config(changed, data_dir), ["train"])
    dataset = get_config(changed, data_dir)
    dataset.crop_context = 0.05
    load(dataset, ["train"])
    names = sorted(p.name for p in (data_dir / "object_pairs").iterdir())
    assert len(names) == 3
    assert all(name.startswith("my_photographs_other_96px_") for name in names)


def test_without_a_validation_split_photographs_are_held_out(write_few, load, tmp_path):
    dataset = get_config(write_few(train=dict.fromkeys((1, 7, 8), 30)), tmp_path)
    dataset.held_out = 0.3
    splits = load(dataset)
    used = {
        name: {file for i in range(len(split)) for file, *_ in objects_of(split, i)}
        for name, split in splits.items()
    }
    held_out = used["validation"] | used["swapped"]
    assert used["train"].isdisjoint(held_out)
    assert 4 < len(held_out) <= 14  # Of 45 photographs, 14 are held out.
    assert any("14 of the 45 images" in line for line in splits["train"].notices)
    dataset.held_out = 0.0
    with pytest.raises(InputError, match="no validation split: add one, or set"):
        load(dataset)


def test_two_classes_have_no_swapped_split(write_few, load, tmp_path):
    dataset = get_config(write_few(train={1: 7, 7: 7}, val={1: 7, 7: 7}), tmp_path)
    splits = load(dataset, ("train", "validation", "alone"))
    assert {*splits["validation"][0]["labels"]} == {0, 1}
    with pytest.raises(InputError, match=r"cannot make the split swapped.*eval_splits"):
        load(dataset, ("validation", "swapped"))


def test_fewer_than_two_classes_are_an_error(write_few, load, tmp_path):
    dataset = get_config(write_few(train={1: 9, 7: 5}, val={1: 9, 7: 4}), tmp_path)
    with pytest.raises(
        InputError,
        match=r"needs two classes with at least 5 objects.*my data has class 1 \(9 in "
        r"training, 9 in validation\), class 7 \(5 in training, 4 in validation\): "
        r"lower dataset\.min_crop_side",
    ):
        load(dataset, ("train",))


def test_a_missing_path_and_an_unknown_split_are_errors(load, photographs, tmp_path):
    with pytest.raises(InputError, match=r"dataset\.path is not set"):
        load(get_config("", tmp_path), ("train",))
    with pytest.raises(InputError, match="absent is not a folder"):
        load(get_config(tmp_path / "absent", tmp_path), ("train",))
    with pytest.raises(
        InputError, match="no split 'test'; known are train, validation"
    ):
        load(get_config(photographs, tmp_path), ("test",))


def test_an_instance_or_a_size_that_does_not_exist_is_an_error(
    load, photographs, tmp_path
):
    config = object_pairs_config.get_config("path=DIR,instance=another")
    with pytest.raises(
        InputError, match=r"dataset\.instance is 'another'; it must be other or same"
    ):
        validate.check_fields(config)
    dataset = get_config(photographs, tmp_path)
    dataset.image_size = 95
    with pytest.raises(InputError, match="objects of object_pairs need at least 96 "):
        load(dataset, ("train",))


def test_complete_set_has_as_many_scenes_as_its_documentation_says():
    config = ObjectPairs.CONFIG()
    assert (config.image_size, config.num_train, config.num_validation) == (
        192,
        2400,
        512,
    )


def test_scenes_of_real_photographs(shared, load, tmp_path):
    data = shared / "data" / "aquarium"
    if not data.is_dir():
        pytest.skip(f"{data} is absent")
    few = tmp_path / "aquarium"
    (few / "annotations").mkdir(parents=True)
    (few / "images").symlink_to(data / "images")
    for name, step in (("train", 5), ("val", 2)):
        coco = json.loads((data / "annotations" / f"{name}.json").read_text())
        coco["images"] = coco["images"][::step]
        ids = {image["id"] for image in coco["images"]}
        coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
        (few / "annotations" / f"{name}.json").write_text(json.dumps(coco))
    dataset = get_config(few, tmp_path / "drawn")
    dataset.min_crop_side, dataset.image_size = 48.0, 192
    splits = load(dataset, num_train=10, num_validation=5)
    for name, split in splits.items():
        for i in range(len(split)):
            record = split[i]
            image = decode.decode_image(record, record["file_name"])
            assert image.std() > 20
            sides = np.sqrt((record["boxes"][:, 2:] - record["boxes"][:, :2]).prod(1))
            large = np.array([is_large for *_, is_large in objects_of(split, i)])
            assert large.sum() == (0 if name == "alone" else 2)
            assert np.all((sides[large] > 0.24) & (sides[large] < 0.32))
            assert np.all((sides[~large] > 0.05) & (sides[~large] < 0.08))
