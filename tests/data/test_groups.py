"""Groups of images, by a field of the annotations or by their file names."""

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import groups, sources
from borrow_det.errors import InputError


@pytest.fixture
def split_of(folder, noise_image):
    """Returns a split of images with these names and other fields."""

    def make(**images):
        for i, (name, fields) in enumerate(images.items()):
            record = folder.add(f"{name}.png", noise_image(seed=i))
            record.update(fields)
        folder.write()
        return sources.load(folder.config(), "train")

    return make


def members(keys):
    return [list(indices) for indices in groups.make_groups(keys).members]


def test_images_with_equal_values_of_a_field_are_a_group(split_of):
    values = {"a": 7, "b": "7", "c": 7, "d": [1], "e": [1]}
    split = split_of(**{name: {"camera": value} for name, value in values.items()})
    keys = groups.group_keys(split, "camera")
    assert len({*keys}) == 3  # Numbers and texts differ; any JSON value has a key.
    assert members(keys) == [[0, 2], [1], [3, 4]]


def test_groups_give_the_other_images_of_a_group():
    found = groups.make_groups(["x", "y", "x", "z", "x", "y"])
    np.testing.assert_array_equal(found.group, [0, 1, 0, 2, 0, 1])
    others = [list(found.others(i)) for i in range(6)]
    assert others == [[2, 4], [5], [0, 4], [], [0, 2], [1]]


def test_without_a_name_the_field_is_the_first_known_one_with_several_groups(split_of):
    split = split_of(
        a={"video_id": 1, "camera": 1, "location": 1},
        b={"video_id": 1, "location": 1},
        c={"video_id": 1, "location": 2},
    )
    # All images are of one video, and not all have a camera.
    assert members(groups.group_keys(split, "")) == [[0, 1], [2]]
    assert members(groups.group_keys(split, "video_id")) == [[0, 1, 2]]


def test_a_single_group_is_one_without_a_name(split_of):
    split = split_of(a={"video": "x"}, b={"video": "x"})
    assert members(groups.group_keys(split, "")) == [[0, 1]]


def test_a_regular_expression_groups_file_names(split_of):
    split = split_of(MVI_1_001={}, MVI_2_001={}, MVI_1_002={})
    assert groups.group_keys(split, "(.*)_") == ["MVI_1", "MVI_2", "MVI_1"]
    assert groups.group_keys(split, r"_(\d+)\.") == ["001", "001", "002"]


def test_groups_of_scale_pairs_need_no_decoding(drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    keys = groups.group_keys(split, r"train_0*(\d+?)\d?\.")
    assert len(keys) == 40
    assert keys[12] == keys[19] != keys[20]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (
            "video",
            r"folder train: no image has the field 'video'; they have camera, shot: "
            r"set references\.field to a field of the images, or to a regular "
            r"expression for file names",
        ),
        (
            "shot",
            r"folder train: there is 1 of 2 images without the field 'shot', such as "
            r"b\.png: complete the annotations, or set references\.field",
        ),
        ("(a", r"references\.field '\(a' is not a regular expression \(missing \)"),
        ("(?:a)", r"references\.field '\(\?:a\)' has no group: enclose in parentheses"),
        (
            "(x+)",
            r"folder train: references\.field '\(x\+\)' matches no file name, such as "
            r"a\.png: correct it",
        ),
        (
            "(a)|b",
            r"folder train: there is 1 of 2 images with a file name that "
            r"references\.field '\(a\)\|b' does not match, such as b\.png: correct it",
        ),
        ("", r"folder train: no field that is known to group images .*video_id, video"),
    ],
)
def test_wrong_fields_are_errors(field, message, split_of):
    split = split_of(a={"camera": 1, "shot": 1}, b={"camera": 1, "shot": None})
    if field == "":
        split.descriptions[1]["fields"] = {"shot": 1}
    with pytest.raises(InputError, match=message):
        groups.group_keys(split, field)


def test_messages_name_the_field_of_the_config_that_has_the_expression(split_of):
    split = split_of(a={}, b={})
    config = base.get_config()
    config.references.kind = "group"
    config.dataset.group = "(x+)"
    with pytest.raises(InputError, match=r"dataset\.group '\(x\+\)' matches no file"):
        groups.reference_groups(split, config)
    config.references.field = "(y+)"
    with pytest.raises(InputError, match=r"references\.field '\(y\+\)' matches no"):
        groups.reference_groups(split, config)


def test_images_without_fields_are_told_apart_from_wrong_names(drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    with pytest.raises(InputError, match="'video'; they have no fields: set ref"):
        groups.group_keys(split, "video")


def test_the_field_is_that_of_the_dataset_unless_there_is_one_for_references():
    config = base.get_config()
    assert groups.group_field(config) == ""
    config.dataset.group = "camera"
    assert groups.group_field(config) == "camera"
    config.references.field = "(.*)_"
    assert groups.group_field(config) == "(.*)_"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("aabb", []),
        ("aabc", ["train: 2 of 4 images are alone in their group: they have no "]),
        ("aab", ["train: 1 of 3 images is alone in its group: it has no "]),
        ("abc", ["train: all 3 images are alone in their group: they have no "]),
        ("a", ["train: 1 of 1 images is alone in its group: it has no "]),
    ],
)
def test_images_without_references_are_announced(keys, expected, drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    expected = [f"{line}reference (references.field)" for line in expected]
    assert groups.notices(split, groups.make_groups(keys)) == expected
    assert groups.notices(split, None) == []


@pytest.mark.parametrize(
    ("keys", "count", "announced"),
    [("aaabb", 2, False), ("aaabb", 3, True), ("aaabb", 9, True), ("ab", 3, False)],
)
def test_a_count_that_no_group_reaches_is_announced(
    keys, count, announced, drawn_config
):
    split = sources.load(drawn_config.dataset, "train")
    line = (
        "train: no group has more than 3 images, so training with references.count=2 "
        f"equals that with {count}, in less time and memory"
    )
    found = groups.unreached_count(split, groups.make_groups(keys), count)
    assert found == ([line] if announced else [])
    assert groups.unreached_count(split, None, count) == []
