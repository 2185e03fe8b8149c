"""The answer to whether borrowing is for a dataset, and the changes it suggests."""

import json
import shlex

import numpy as np
import pytest
from absl import flags

from borrow_det.config import command_line, packaged, validate
from borrow_det.configs import folder as folder_config
from borrow_det.tools.design_anchors import proposal
from borrow_det.tools.inspect import inspection, suggestion, text
from borrow_det.tools.inspect.duplicates import Fingerprint
from borrow_det.tools.inspect.objects import Image, Objects
from tests.tools.inspect.made_folder import write_split


@pytest.fixture
def inspect_boxes(tmp_path, monkeypatch):
    """A function: the report on images with these boxes of 512 x 512 pixels."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))

    def inspect_boxes(images, references_field="", **more):
        folder = tmp_path / "data"
        folder.mkdir()
        write_split(folder, "train", images, **more)
        config = folder_config.get_config(f"path={folder}")
        config.dataset.eval_splits = ("train",)  # Otherwise images are held out.
        config.references.field = references_field
        return inspection.inspect(config, ["train"]).report

    return inspect_boxes


def accepted(lines):
    """The config that a run would have with these lines on its command line."""
    argv = shlex.split(" ".join(["train --config=folder:path=DIR", *lines]))
    values = flags.FlagValues()
    packaged.define_config("config", packaged.HELP, values, argv)
    assert command_line.parse(values, argv) == ["train"]
    config = command_line.resolved(values["config"])
    validate.check_fields(config)
    return config


LARGE, SMALL = (1, 200, 200, 80, 80), (1, 10, 10, 20, 20)


@pytest.mark.parametrize(
    ("images", "answer", "first"),
    [
        (
            [[SMALL, LARGE]] * 3 + [[SMALL]],
            "yes",
            "3 of 4 small objects have a larger object of their class in their image: "
            "most can borrow.",
        ),
        (
            [[SMALL, LARGE]] + [[SMALL]] * 3,
            "partly",
            "1 of 4 small objects has a larger object of its class in its image: "
            "these can borrow, the others cannot.",
        ),
        (
            [[SMALL, (2, 200, 200, 80, 80)]] * 2,
            "no",
            "0 of 2 small objects have a larger object of their class in their image: "
            "there is too little to borrow from.",
        ),
        (
            [[LARGE]],
            "no small objects",
            "0 of 1 objects of train are small (below 32 x 32 pixels at the "
            "input of 512 x 512 pixels): borrowing serves small objects only.",
        ),
        ([[]], "no objects", "train has no objects to learn from."),
    ],
)
def test_the_answer_says_how_many_small_objects_have_a_lender(
    inspect_boxes, images, answer, first
):
    found = inspect_boxes(images)["answer"]
    assert found["answer"] == answer
    assert found["sentences"][0].startswith(first)
    without = "--config.borrow.enabled=False" in found["fragment"]
    assert without == (answer == "no" or images == [[LARGE]])
    if without:
        config = accepted(found["fragment"])
        assert not config.borrow.enabled
        assert config.loss.matching == 0


def figures(in_image, in_either, small=20):
    """Figures of a split with this many lenders; in_either is None without groups."""
    either = None if in_either is None else {"objects": in_either}
    return {
        "objects": 40,
        "by_size": {"small": {"reached_by_anchors": 5}},
        "lenders": {
            "small": small,
            "in_image": {"objects": in_image},
            "group_field": either and "video",
            "groups": 2 if either else 0,
            "in_group": either,
            "in_image_or_group": either,
            "distance": [60.0, 80.0, 90.0],
            "fields": [{"level": "conv4_3", "field": 108, "objects": 0}],
        },
    }


FEW = "there is too little to borrow from."
SOME = "these can borrow, the others cannot."
MOST = "most can borrow."
OFF = {"borrow.enabled": False, "loss.matching": 0.0}
ON = {"borrow.enabled": True}


@pytest.mark.parametrize(
    ("in_image", "in_either", "answer", "conclusion", "borrowing", "plain"),
    [
        # Of 20 small objects: lenders in the image, and in the image or its group; the
        # answer; the end of its first sentence; what is suggested for a config that
        # borrows, and for one that does not.
        (0, None, "no", FEW, OFF, None),
        (0, 0, "no", FEW, OFF, None),
        (0, 5, "no", FEW, OFF, None),
        (0, 20, "no", FEW, OFF, None),
        (1, None, "no", FEW, OFF, None),
        (1, 1, "no", FEW, OFF, None),
        (1, 20, "no", FEW, OFF, None),
        (2, None, "partly", SOME, None, None),
        (2, 2, "partly", SOME, None, None),
        (2, 20, "partly", SOME, None, None),
        (9, 20, "partly", SOME, None, None),
        (10, None, "yes", MOST, None, ON),
        (10, 10, "yes", MOST, None, ON),
        (10, 20, "yes", MOST, None, ON),
        (20, 20, "yes", MOST, None, ON),
    ],
)
def test_answer_sentences_and_suggestion_agree(
    in_image, in_either, answer, conclusion, borrowing, plain
):
    report = {"input_size": [512, 512], "lender_scale": 2.0, "positive_iou": 0.5}
    split = figures(in_image, in_either)
    found, sentences = suggestion.verdict("train", split, report)
    assert found == answer
    first, _, group, *_ = sentences
    assert first.startswith(f"{in_image} of 20 small objects ha")
    assert first.endswith(conclusion)
    if in_either is None:
        assert group.startswith("No field of the images names their video")
    elif in_either > in_image:
        only = in_either - in_image
        assert f"including {only} without one in the same image. These" in group
        assert group.endswith(
            f"These {only} can borrow with references.kind=group only."
        )
    else:
        assert group.endswith("including 0 without one in the same image.")
    for borrows, expected in (("True", borrowing), ("False", plain)):
        config = folder_config.get_config(f"path=DIR,borrow={borrows}")
        suggested = suggestion.borrowing(answer, config)
        assert (suggested and suggested.fields) == expected
        if suggested:
            assert accepted(suggested.lines()).borrow.enabled == (borrows == "False")


def test_lenders_of_the_same_video_are_counted_and_do_not_change_the_answer(
    inspect_boxes,
):
    videos = [{"video": "a"}, {"video": "a"}, {"video": "b"}]
    report = inspect_boxes([[SMALL], [LARGE], [SMALL]], fields=videos)
    found = report["answer"]
    assert found["answer"] == "no"
    assert found["sentences"][2] == (
        "Other images of the group (field video, groups with several images: 1) have "
        "lenders for 1 of the small objects, including 1 without one in the same "
        "image. This one can borrow with references.kind=group only."
    )
    # A run keeps groups together without a flag.
    assert not any("dataset.group" in line for line in found["fragment"])


def test_the_field_of_references_groups_the_images(inspect_boxes):
    images, videos = [[SMALL], [LARGE], [SMALL]], [{"video": "a"}] * 3
    report = inspect_boxes(images, references_field="([0-9]+)", fields=videos)
    lenders = report["splits"]["train"]["lenders"]
    assert (lenders["group_field"], lenders["groups"]) == ("([0-9]+)", 0)
    assert lenders["in_group"]["objects"] == 0


def test_images_of_a_single_video_are_a_group(inspect_boxes):
    report = inspect_boxes([[SMALL], [LARGE]], fields=[{"video": "a"}] * 2)
    lenders = report["splits"]["train"]["lenders"]
    assert (lenders["group_field"], lenders["groups"]) == ("video", 1)
    assert lenders["in_group"] == {"objects": 1, "share": 1.0}


def test_a_split_whose_images_are_all_broken_is_a_problem(inspect_boxes, tmp_path):
    inspect_boxes([[SMALL, LARGE]])
    folder = tmp_path / "data"
    write_split(folder, "val", [[SMALL]])
    (folder / "val0.png").write_bytes(b"")
    config = folder_config.get_config(f"path={folder}")
    names = ["train", "val", "train[:0]"]
    report = inspection.inspect(config, names).report
    assert report["problems"]["counts"] == {
        "damaged image": 1,
        "split without images": 1,
    }
    assert report["problems"]["problems"][1]["file"] == "val"


def test_anchors_for_objects_that_those_of_the_config_miss(inspect_boxes):
    # Strips of 64 x 8 pixels at places of all kinds: no anchor has this ratio.
    rng = np.random.default_rng(0)
    images = [[(1, *rng.uniform(0, 440, 2), 64, 8)] for _ in range(40)]
    report = inspect_boxes(images)
    assert report["splits"]["train"]["reached_by_anchors"]["objects"] < 20
    anchors = report["answer"]["suggestions"][0]
    config = accepted(anchors["flags"])
    ratios = np.concatenate([*map(np.array, config.anchors.aspect_ratios)])
    assert np.abs(np.log(ratios / 8)).min() < np.log(2)


def test_suggested_anchors_reach_no_size_less_than_those_of_the_config(monkeypatch):
    """4 small objects, which the config reaches, and 500 large ones, of which none."""
    rng = np.random.default_rng(0)
    sides = np.repeat([17.0, 150.0], [4, 500])[:, None] / 512
    corners = rng.uniform(0, 0.7, (504, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    none = np.zeros(504, np.int32)
    objects = Objects(boxes, none, none, none > 0, none, boxes, none, 1, 0, 0, 504)
    config = folder_config.get_config("path=DIR")
    config.anchors.sizes = (14.0, 17.0, 20.0, 23.0)
    propose, goals = proposal.propose, []

    def recorded(objects, anchors, size, goal, **options):
        assert len(objects.boxes) == 504  # Measured on all, not on a sample.
        goals.append(goal)
        return propose(objects, anchors, size, goal, **options)

    monkeypatch.setattr(proposal, "propose", recorded)
    found = suggestion._anchors(objects, (512, 512), config)
    assert (
        "The anchors of the config reach 100.0% of the small and 0.0% of the large "
        "objects at 512 x 512 pixels. Those below reach 100.0% of the small and 100.0%"
    ) in found.reason
    assert [(goal.allow_worse, goal.weights) for goal in goals] == [(False, (2, 1, 1))]


def images_of(side, count=3):
    return [Image("a", (side // 2, side), {}, Fingerprint(b"", None))] * count


def test_a_larger_input_for_small_objects_of_large_images():
    config = folder_config.get_config("path=DIR")
    # Of 4 pixels, half a position: twice the side.
    found = suggestion.larger_input(4.0, images_of(2000), config)
    assert found.fields == {"input_size": (1024, 1024)}
    assert found.hint == ""
    assert "At 1024 x 1024 pixels, objects are larger" in found.reason
    assert accepted(found.lines()).input_size == (1024, 1024)
    # Of 1 pixel: no input is large enough, tiles are.
    found = suggestion.larger_input(1.0, images_of(4000), config)
    assert found.fields["input_size"] == (1024, 1024)
    assert "--tiles=auto" in found.hint
    # The canvas grows where it would be smaller than the input.
    config.dataset.canvas = (512, 512)
    found = suggestion.larger_input(6.0, images_of(1500), config)
    assert found.fields == {
        "input_size": (704, 704),
        "dataset.canvas": (1408, 1408),
    }
    assert accepted(found.lines()).dataset.canvas == (1408, 1408)


@pytest.mark.parametrize(("smallest", "side"), [(8.0, 4000), (4.0, 512), (4.0, 300)])
def test_the_input_stays_if_objects_are_large_enough_or_pixels_lack(smallest, side):
    config = folder_config.get_config("path=DIR")
    assert suggestion.larger_input(smallest, images_of(side), config) is None


def test_max_boxes_of_a_config_that_is_too_small(inspect_boxes, tmp_path):
    # Crowds need room, too.
    inspect_boxes([[SMALL, LARGE, SMALL, (*LARGE, {"iscrowd": 1})]])
    config = folder_config.get_config(f"path={tmp_path / 'data'}")
    config.dataset.eval_splits = ("train",)
    config.dataset.max_boxes = 3
    found = inspection.inspect(config, ["train"]).report["answer"]
    one = next(s for s in found["suggestions"] if "max_boxes" in s["reason"])
    assert one["reason"].startswith("An image has 4 boxes, more than dataset.max")
    assert accepted(one["flags"]).dataset.max_boxes == 0


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("missing image", {"dataset.bad_images": "skip"}),
        ("ambiguous file name", {"dataset.bad_images": "skip"}),
        ("damaged image", {"dataset.bad_images": "skip"}),
        ("image above the limit of pixels", {"dataset.bad_images": "skip"}),
        ("image of another size", {"dataset.bad_images": "skip"}),
        ("box without area", {"dataset.bad_boxes": "clip"}),
        ("box outside its image", {"dataset.bad_boxes": "clip"}),
        ("box that is not four numbers", {"dataset.bad_boxes": "clip"}),
        # No policy accepts these.
        ("duplicate image id", None),
        ("wrong image size", None),
        ("repeated image", None),
        ("unknown class", None),
    ],
)
def test_policies_are_suggested_for_the_problems_that_they_cover(kind, fields):
    config = folder_config.get_config("path=DIR")
    found = suggestion.policies({kind: 2}, config)
    assert [one.fields for one in found] == ([fields] if fields else [])


def test_mistakes_do_not_stop_the_report_and_get_policies(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    folder = tmp_path / "data"
    folder.mkdir()
    write_split(folder, "train", [[SMALL, LARGE, (1, 500, 500, 40, 40)], [SMALL]])
    write_split(folder, "val", [[SMALL, (1, 5, 5, 0, 9)]])
    (folder / "train1.png").write_bytes(b"not an image")
    (folder / "test.json").write_text("{")
    config = folder_config.get_config(f"path={folder}")
    report = inspection.inspect(config, ["train", "val", "test"]).report
    assert list(report["splits"]) == ["train", "val"]
    assert report["splits"]["train"]["images"] == 1
    # The box beyond the border is clipped.
    assert report["splits"]["train"]["objects"] == 3
    assert report["splits"]["val"]["objects"] == 1
    assert sum(report["problems"]["counts"].values()) == 4
    assert len(report["problems"]["problems"]) == 4
    assert "split that cannot be read" in report["problems"]["counts"]
    assert report["labels"]["counts"]["off_image"] == 1
    json.dumps(report)
    shown = text.text(report).splitlines()
    assert "4 problems that a run would find:" in shown
    assert "split that cannot be read (1)" in shown
    assert "Boxes off the image: 1" in shown
    assert any(line.startswith("    --config.dataset.bad_boxes=clip") for line in shown)
    changed = accepted(report["answer"]["fragment"])
    assert changed.dataset.bad_boxes == "clip"
    assert changed.dataset.bad_images == "skip"
