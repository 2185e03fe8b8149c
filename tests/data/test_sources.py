import numpy as np
import pytest

from borrow_det.data import sources
from borrow_det.errors import InputError


def names(config, name):
    split = sources.load(config.dataset, name)
    return [split[i]["file_name"] for i in range(len(split))]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("validation", range(12)),
        ("validation[:3]", range(3)),
        ("validation[9:]", range(9, 12)),
        ("validation[-2:]", range(10, 12)),
        ("validation[2:5]", range(2, 5)),
        ("validation[50%:]", range(6, 12)),
        ("validation[:-75%]", range(3)),
        ("validation[ :20%]", range(2)),  # 2.4 rounds to 2.
        ("validation[:99]", range(12)),
        ("validation[5:5]", []),
        ("validation[10:]+validation[:1]", [10, 11, 0]),
    ],
)
def test_slices_equal_those_of_tfds(split, expected, drawn_config):
    expected = [f"validation_{i:05d}.jpg" for i in expected]
    assert names(drawn_config, split) == expected


def test_sum_of_splits(drawn_config):
    found = names(drawn_config, "train[-1:] + alone[:1]+validation[3:4]")
    assert found == ["train_00039.jpg", "alone_00000.jpg", "validation_00003.jpg"]


def test_unknown_names_list_the_known_ones(drawn_config):
    with pytest.raises(
        InputError, match="no split 'test'; known are train, validation, swapped, alone"
    ):
        sources.load(drawn_config.dataset, "train+test[:5]")
    for split in ("train[3]", "train[:3", "train[a:b]", "", "train+"):
        with pytest.raises(
            InputError, match="is not a split: write a name, or a slice"
        ):
            sources.load(drawn_config.dataset, split)
    drawn_config.dataset.name = "coco"
    with pytest.raises(
        InputError,
        match="'coco' is unknown; known are scale_pairs, scale_pairs_wide, "
        "scale_pairs_clips, object_pairs, folder, coco_folder, voc, "
        "coco/2017, wider_face, kitti",
    ):
        sources.load(drawn_config.dataset, "train")


def test_an_unknown_policy_is_an_error(drawn_config):
    drawn_config.dataset.bad_boxes = "ignore"
    with pytest.raises(InputError, match=r"dataset\.bad_boxes is 'ignore'"):
        sources.load(drawn_config.dataset, "train")


def test_index_beyond_the_end(drawn_config):
    split = sources.load(drawn_config.dataset, "validation")
    for index in (12, -1):
        with pytest.raises(IndexError):
            split[index]


def test_ground_truth_of_drawn_scenes(drawn_config):
    split = sources.load(drawn_config.dataset, "validation[:4]")
    truth = sources.ground_truth(split)
    assert truth["categories"] == [
        {"id": 1, "name": "stripes_0"},
        {"id": 2, "name": "stripes_45"},
        {"id": 3, "name": "stripes_90"},
        {"id": 4, "name": "stripes_135"},
    ]
    assert truth["images"][2] == {
        "id": 2,
        "file_name": "validation_00002.jpg",
        "width": 64,
        "height": 64,
    }
    assert [a["id"] for a in truth["annotations"]] == list(
        range(1, len(truth["annotations"]) + 1)
    )
    for image_id in range(4):
        record = split[image_id]
        rows = [a for a in truth["annotations"] if a["image_id"] == image_id]
        x, y, w, h = np.array([a["bbox"] for a in rows]).T
        np.testing.assert_allclose(
            np.stack([y, x, y + h, x + w], -1) / 64, record["boxes"], atol=1e-6
        )
        np.testing.assert_allclose([a["area"] for a in rows], w * h, rtol=1e-5)
        np.testing.assert_array_equal(
            [a["category_id"] for a in rows], record["labels"] + 1
        )
