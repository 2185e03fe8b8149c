"""Objects of a dataset as separate images: their selection and their pixels."""

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.data.datasets import object_crops
from borrow_det.errors import InputError


@pytest.fixture
def dataset_config(folder, noise_image):
    """Two images of noise, 24 x 32, with objects of several sizes."""
    folder.add(
        "a.png",
        noise_image(seed=1),
        [(7, [4, 6, 10, 8]), (1, [0, 0, 3, 24]), (1, [20, 10, 12, 14])],
    )
    folder.add("b.png", noise_image(seed=2), [(7, [2.5, 3.25, 9, 9])])
    folder.add("c.png", noise_image(seed=3))
    crowd = folder.coco["annotations"]
    crowd.append({**crowd[0], "id": 99, "iscrowd": 1})
    folder.write()
    folder.write("val.json")
    config = folder.config()
    config.eval_splits = ("val",)
    config.min_crop_side = 4.0
    return config


def load(config):
    train, _ = object_crops.load_splits(
        config, (config.train_split, *config.eval_splits)
    )
    return train


def found_objects(crops):
    """Returns (file_name, class, crop) of each record."""
    records = [crops[i] for i in range(len(crops))]
    return [
        (r["file_name"], crops.class_names[r["label"]], r["crop"].tolist())
        for r in records
    ]


def test_each_object_is_a_record(dataset_config):
    crops = load(dataset_config)
    # The one of 3 pixels' width and the crowd are left out.
    assert sorted(found_objects(crops)) == [
        ("a.png", "cat", [10, 20, 24, 32]),
        ("a.png", "dog", [6, 4, 14, 14]),
        # Borders between pixels are moved outwards.
        ("b.png", "dog", [3, 2, 13, 12]),
    ]
    assert [crops[i]["image_id"] for i in range(3)] == [0, 1, 2]
    assert crops.counts == {
        "clipped": 0,
        "dropped": 0,
        "left_out": 2,
        "bad_boxes": 0,
    }


@pytest.mark.parametrize(("side", "count"), [(3.0, 4), (3.01, 3), (8.0, 3), (12.0, 1)])
def test_objects_with_a_small_side_are_left_out(dataset_config, side, count):
    dataset_config.min_crop_side = side
    assert len(load(dataset_config)) == count


def test_context_is_relative_to_the_sides_and_is_clipped_to_the_image(dataset_config):
    dataset_config.crop_context = 0.5
    found = dict((name, crop) for name, *_, crop in found_objects(load(dataset_config)))
    assert found["b.png"] == [0, 0, 17, 16]
    crops = [crop for name, _, crop in found_objects(load(dataset_config))]
    assert [2, 0, 18, 19] in crops  # a.png's dog: 4 rows, 5 columns around it.
    assert [3, 14, 24, 32] in crops


def test_a_row_holds_the_objects_pixels(dataset_config, noise_image):
    crops = load(dataset_config)
    index = next(
        i for i in range(len(crops)) if found_objects(crops)[i][:2] == ("a.png", "dog")
    )
    row = object_crops.ObjectRow((16, 16), crops.name)(crops[index])
    expected = np.asarray(noise_image(seed=1))[6:14, 4:14]
    np.testing.assert_array_equal(row["image"][:8, :10], expected)
    assert not row["image"][8:].any()
    assert not row["image"][:, 10:].any()
    assert row["image_size"].tolist() == [8, 10]
    assert (row["label"], row["image_id"], row["mask"]) == (1, index, True)
    # Larger than the canvas: shrunk.
    row = object_crops.ObjectRow((4, 4), crops.name)(crops[index])
    assert row["image_size"].tolist() == [3, 4]


def test_no_large_object_is_an_error(dataset_config):
    dataset_config.min_crop_side = 25.0
    with pytest.raises(InputError, match=r"train has no object.*min_crop_side"):
        load(dataset_config)


def test_an_evaluation_sees_every_object_once(dataset_config):
    crops = load(dataset_config)
    config = base.get_config()
    config.eval_batch_size = 2
    config.dataset.canvas = (24, 32)
    row = object_crops.ObjectRow((24, 32), crops.name)
    batches = list(pipeline.eval_batches(crops, config, make_row=row))
    rows = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
    assert rows["mask"].tolist() == [True, True, True, False]
    assert rows["image_id"].tolist() == [0, 1, 2, 0]
    assert rows["label"][:3].tolist() == [crops[i]["label"] for i in range(3)]
    # Padding is resized like the others.
    assert rows["image_size"][3].tolist() == [24, 32]
    assert not rows["image"][3].any()


def test_only_the_large_discs_of_scale_pairs_are_objects(drawn_config):
    drawn_config.dataset.min_crop_side = 10.0
    train, validation = object_crops.load_splits(
        drawn_config.dataset,
        (drawn_config.dataset.train_split, *drawn_config.dataset.eval_splits),
    )
    assert (len(train), len(validation)) == (80, 24)
    # The classes are those of the records.
    split = sources.load(drawn_config.dataset, "validation")
    large = []
    for i in range(len(split)):
        boxes, labels = split[i]["boxes"], split[i]["labels"]
        large += labels[(boxes[:, 2] - boxes[:, 0]) * 64 > 10].tolist()
    assert [validation[i]["label"] for i in range(24)] == large
