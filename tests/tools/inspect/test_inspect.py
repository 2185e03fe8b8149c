"""The report on a dataset, counted by hand on a made one and again on real ones."""

import json

import pytest

from borrow_det.configs import folder as folder_config
from borrow_det.data.datasets import folder as folder_set
from borrow_det.tools.common import cli
from borrow_det.tools.inspect import __main__ as inspect
from borrow_det.tools.inspect import expectation, inspection
from tests.tools.inspect.made_folder import write_split


def run(*arguments):
    return cli.call(inspect.main, ["inspect", *arguments])


@pytest.fixture
def folder(tmp_path):
    """Two splits; val has no object."""
    folder = tmp_path / "pets"
    folder.mkdir()
    write_split(
        folder,
        "train",
        [
            # A small cat with a lender of twice its side, and one of another class.
            [(1, 10, 10, 20, 20), (1, 100, 100, 40, 40), (2, 300, 100, 100, 200)],
            # A small dog whose only larger dog is too small, and a crowd of dogs.
            [
                (2, 16, 16, 16, 16),
                (2, 50, 50, 31, 31),
                (2, 0, 0, 400, 400, {"iscrowd": 1}),
            ],
            [],
        ],
    )
    write_split(folder, "val", [[]])
    return folder


@pytest.fixture
def report_on(tmp_path):
    """A function: the report on arguments of the tool, as its JSON file has it."""

    def report_on(*arguments):
        assert run(*arguments, f"--output={tmp_path / 'out'}") == 0
        return json.loads((tmp_path / "out" / "inspection.json").read_text())

    return report_on


def test_a_made_folder_has_exactly_these_figures(folder, tmp_path, report_on):
    config = f"--config=folder:path={folder}"
    data_dir = f"--config.dataset.data_dir={tmp_path / 'prepared'}"
    # One level whose anchors are squares of 16 pixels at 8, 24, 40, ...
    anchors = [
        "--config.anchors.strides=(16,)",
        "--config.anchors.sizes=(16.0,)",
        "--config.anchors.aspect_ratios=((1.0,),)",
        "--config.anchors.second_aspect_ratios=()",
    ]
    report = report_on(config, data_dir, *anchors)
    train = report["splits"]["train"]
    lenders = train.pop("lenders")
    histograms = train.pop("histograms")
    assert report["dataset"] == "folder"
    assert report["path"] == str(folder)
    assert report["notices"] == [f"{folder}: COCO (train.json), splits train, val"]
    assert report["input_size"] == [512, 512]
    assert report["lender_scale"] == 2.0
    assert report["positive_iou"] == 0.5
    assert list(report["splits"]) == ["train", "val"]
    assert train == {
        "images": 3,
        "images_without_objects": 1,
        "objects": 5,
        "ignored": 1,
        "without_area": 0,
        "objects_per_image": {"mean": 1.666667, "median": 2.0, "largest": 3},
        "sizes": pytest.approx([16.8, 31.0, 121.1371], abs=1e-3),
        "aspect_ratios": pytest.approx([0.6, 1.0, 1.0], abs=1e-3),
        "by_size": {
            "small": {
                "objects": 3,
                "share": 0.6,
                "with_lender": 1,
                "reached_by_anchors": 1,
            },
            "medium": {
                "objects": 1,
                "share": 0.2,
                "with_lender": 0,
                "reached_by_anchors": 0,
            },
            "large": {
                "objects": 1,
                "share": 0.2,
                "with_lender": 0,
                "reached_by_anchors": 0,
            },
        },
        "small_with_lender": {"objects": 1, "share": 0.333333},
        "reached_by_anchors": {"objects": 1, "share": 0.2},
        "classes": {
            "cat": {"objects": 2, "share": 0.4, "images": 1},
            "dog": {"objects": 3, "share": 0.6, "images": 2},
        },
    }
    # The centers of the cat and its lender are 100 pixels apart along both axes.
    assert lenders == {
        "small": 3,
        "in_image": {"objects": 1, "share": 0.333333},
        "group_field": None,
        "groups": 0,
        "in_group": None,
        "in_image_or_group": None,
        "distance": [100.0, 100.0, 100.0],
        "fields": [
            {"level": name, "field": field, "objects": count, "share": float(count)}
            for name, field, count in (
                *(("conv4_3", 108, 0), ("conv5_3", 228, 1)),
                *(("conv_fc7", 340, 1), ("conv6_2", 468, 1)),
            )
        ],
    }
    # Sides of 16, 20, 31, 40 and 141 pixels; ratios of 1 and 0.5; 3, 2 and 0 objects.
    assert histograms == {
        "sizes": [0, 0, 3, 1, 0, 1, 0, 0],
        "aspect_ratios": [0, 0, 1, 4, 0, 0, 0],
        "objects_per_image": [1, 0, 2, 0, 0, 0, 0, 0],
    }
    val = report["splits"]["val"]
    assert (val["images"], val["objects"]) == (1, 0)
    assert val["small_with_lender"] == {"objects": 0, "share": None}
    assert val["sizes"] == [None, None, None]


def test_a_smaller_input_makes_more_objects_small(folder, tmp_path, report_on):
    report = report_on(
        f"--config=folder:path={folder},size=256",
        f"--config.dataset.data_dir={tmp_path / 'prepared'}",
        "--split=train[:1]",
    )
    (only,) = report["splits"].values()
    sizes = {name: part["objects"] for name, part in only["by_size"].items()}
    assert sizes == {"small": 2, "medium": 1, "large": 0}
    assert only["images"] == 1
    assert only["small_with_lender"] == {"objects": 1, "share": 0.5}


def test_sides_exactly_at_a_limit_are_of_the_larger_kind(tmp_path, report_on):
    # Many places, since normalization in float32 rounds each in its own way.
    places = [(x, 5 * x % 350) for x in range(0, 400, 7)]
    boxes = [
        (1, x, y, side, side) for side in (31.99, 32, 95.99, 96) for x, y in places
    ]
    folder = tmp_path / "limits"
    folder.mkdir()
    write_split(folder, "train", [boxes], side=500)
    report = report_on(
        f"--config=folder:path={folder},size=500",
        f"--config.dataset.data_dir={tmp_path / 'prepared'}",
        "--split=train",
    )
    train = report["splits"]["train"]
    sizes = [part["objects"] for part in train["by_size"].values()]
    assert sizes == [len(places), 2 * len(places), len(places)]
    assert train["lenders"]["small"] == len(places)
    # From 16, 32, 64 and 96 pixels on.
    assert train["histograms"]["sizes"][2:6] == [len(places)] * 4


def test_the_console_shows_the_same_figures(folder, tmp_path, report_on, capsys):
    report_on(
        f"--config=folder:path={folder}",
        f"--config.dataset.data_dir={tmp_path / 'prepared'}",
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["train", "3", "1", "5", "1.67, 3", "1", "0"] in rows
    assert ["cat", "2", "40.0%", "0", "-"] in rows
    assert ["train", "3", "1", "1", "16.8, 31, 121", "0.6, 1, 1"] in rows
    assert ["train", "3", "1", "33.3%"] in rows
    assert ["val", "0", "0", "-"] in rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --config or --path"),
        (["--path=a", "--config=quickstart"], "give either --config or --path"),
        (["--path=absent"], "absent"),
        (["--config=imagenet_vgg16"], "task is 'classification'"),
        (["--config=quickstart", "--config.anchors.sizes=()"], "anchors.sizes is ()"),
        (["--config=quickstart", "more"], "unexpected argument 'more'"),
    ],
)
def test_wrong_input_gets_one_line(capsys, arguments, message):
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_an_output_that_cannot_be_written_is_told_before_the_data_are_read(
    folder, tmp_path, capsys
):
    (tmp_path / "file").write_text("")
    assert run(f"--path={folder}", f"--output={tmp_path / 'file'}") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: --output={tmp_path / 'file'} cannot be written: File exists\n"
    )


@pytest.mark.parametrize(
    ("name", "splits", "train_objects", "answer", "first_words"),
    [
        (
            *("aquarium", ["train", "val"], 3323, "yes"),
            "790 of 1116 small objects have a larger object of their class in their "
            "image: most can borrow.",
        ),
        (
            *("bccd", ["test", "train", "val"], 2800, "no"),
            "1 of 43 small objects has a larger object of its class in its image: "
            "there is too little to borrow from.",
        ),
        (
            *("traffic_vehicles", ["test", "train", "val"], 3420, "yes"),
            "1298 of 1418 small objects have a larger object of their class in their "
            "image: most can borrow.",
        ),
        (
            *("atl_roads", ["test", "train", "val"], 3816, "yes"),
            "2239 of 2349 small objects have a larger object of their class in their "
            "image: most can borrow.",
        ),
    ],
)
def test_lenders_of_real_folders_are_those_of_their_files(
    shared, monkeypatch, tmp_path, name, splits, train_objects, answer, first_words
):
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it comes with the developers' workplace")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    config = folder_config.get_config(f"path={folder}")
    report = inspection.inspect(config, folder_set.split_names(str(folder))).report
    assert list(report["splits"]) == splits
    assert report["answer"]["split"] == "train"
    assert report["answer"]["answer"] == answer
    assert report["answer"]["sentences"][0] == first_words
    assert report["problems"]["problems"] == []
    shares = {one.name: one.share for one in expectation.MEASURED}
    share = report["splits"]["train"]["small_with_lender"]["share"]
    assert share == pytest.approx(shares.get(name, share), abs=2e-4)
    expected = expectation.expect_at(share, expectation.MEASURED)
    assert report["answer"]["expected"] == (expected and expected._asdict())
    assert (expected is None) == (name == "bccd")
    sentence = expectation.describe(expected, expectation.MEASURED)
    assert sentence in report["answer"]["sentences"]
    train = report["splits"]["train"]
    assert train["objects"] == train_objects
    coco = json.loads((folder / "annotations" / "train.json").read_text())
    size_of = {i["id"]: i["width"] * i["height"] for i in coco["images"]}
    by_image = {}
    for a in coco["annotations"]:
        share = a["bbox"][2] * a["bbox"][3] / size_of[a["image_id"]]
        by_image.setdefault((a["image_id"], a["category_id"]), []).append(share)
    small = with_lender = 0
    for shares in by_image.values():
        for share in shares:
            if share * 512**2 < 32**2:
                small += 1
                with_lender += max(shares) >= 4 * share * (1 - 1e-5)
    assert train["by_size"]["small"]["objects"] == small
    assert train["small_with_lender"]["objects"] == with_lender
