"""The scoring tool: its JSON object, and its messages about wrong files."""

import json
import subprocess
import sys

import pytest

from borrow_det.tools import score
from borrow_det.tools.common import cli

TRUTH = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 5, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9]}],
}
DETECTIONS = [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 9, 9], "score": 0.5}]


def run(tmp_path, *arguments, truth=TRUTH, detections=DETECTIONS):
    paths = []
    for name, content in (("truth.json", truth), ("found.json", detections)):
        paths.append(tmp_path / name)
        text = content if isinstance(content, str) else json.dumps(content)
        paths[-1].write_text(text)
    argv = [f"--ground_truth={paths[0]}", f"--detections={paths[1]}", *arguments]
    return cli.call(score.main, ["score", *argv])


def changed(record, **fields):
    """Returns a copy with other fields; None removes a field."""
    return {k: v for k, v in (record | fields).items() if v is not None}


def test_the_command_prints_the_published_metrics(metric_vectors):
    folder = metric_vectors / "coco_val2014_fake100"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.score"),
            f"--ground_truth={folder / 'instances_val2014_100.json'}",
            f"--detections={folder / 'instances_val2014_fakebbox100_results.json'}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == ""
    metrics = json.loads(process.stdout)
    expected = json.loads((folder / "expected.json").read_text())["coco_summary"]
    result = {name: metrics[name] for name in expected}
    assert result == pytest.approx(expected, abs=1e-6)
    assert metrics["AP/fire hydrant"] is None


def test_an_absent_file_gives_one_line_and_exit_status_2(tmp_path):
    missing = tmp_path / "nowhere.json"
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.score"),
            *(f"--ground_truth={missing}", f"--detections={missing}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == f"error: {missing}: No such file or directory\n"


def test_small_objects_score_with_the_class_of_their_lender(tmp_path, capsys):
    large = [20, 20, 40, 40]
    other = {"id": 2, "image_id": 1, "category_id": 5, "bbox": large}
    truth = TRUTH | {"annotations": [*TRUTH["annotations"], other]}
    found = [
        changed(DETECTIONS[0], category_id=7),
        changed(DETECTIONS[0], bbox=large, score=0.9),
    ]
    expected = {(): 0.0, ("--lender_classes",): 1.0}
    expected["--lender_classes", "--lender_scale=5"] = 0.0
    for arguments, ap in expected.items():
        assert run(tmp_path, *arguments, truth=truth, detections=found) == 0
        metrics = json.loads(capsys.readouterr().out)
        assert (metrics["AP_small"], metrics["AP_medium"]) == (ap, 1.0)


def test_the_scale_of_lenders_needs_their_classes(tmp_path, capsys):
    assert run(tmp_path, "--lender_scale=3") == 2
    message = "--lender_scale can only be used with --lender_classes"
    assert message in capsys.readouterr().err


def test_voc_metrics_are_added_to_those_of_coco(tmp_path, capsys):
    assert run(tmp_path) == 0
    coco = json.loads(capsys.readouterr().out)
    assert coco["AP"] == coco["AR_100"] == 1.0
    assert coco["AP/dog"] is None
    assert "AP_11point" not in coco
    # 5 of 9 rows: IoU 0.56 without the last pixel, 0.6 with it.
    found = [changed(DETECTIONS[0], bbox=[0, 0, 9, 5])]
    for arguments, expected in (
        (["--voc"], 1.0),
        (["--voc", "--iou=0.59"], 1.0),
        (["--voc", "--iou=0.61"], 0.0),
        (["--voc", "--iou=0.59", "--noinclusive_pixels"], 0.0),
    ):
        assert run(tmp_path, *arguments, detections=found) == 0
        metrics = json.loads(capsys.readouterr().out)
        assert metrics["AP_11point"] == metrics["AP_allpoint/cat"] == expected
        assert metrics["AP50"] == 1.0


def test_max_detections_limits_the_detections_of_an_image(tmp_path, capsys):
    found = [changed(DETECTIONS[0], bbox=[50, 50, 9, 9], score=0.9), *DETECTIONS]
    for limit, recall in ((1, 0.0), (200, 1.0)):
        assert run(tmp_path, f"--max_detections={limit}", detections=found) == 0
        assert json.loads(capsys.readouterr().out)[f"AR_{limit}"] == recall


def test_without_detections_the_score_is_0(tmp_path, capsys):
    assert run(tmp_path, "--voc", detections=[]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["AP"] == metrics["AP_11point"] == 0


NOTE, FOUND = TRUTH["annotations"][0], DETECTIONS[0]
NOT_COCO = "truth.json is not in COCO's format: "
BAD_TRUTHS = {
    "truth.json: not JSON: ": "{",
    f"{NOT_COCO}it must be a JSON object": [],
    f"{NOT_COCO}the key 'images' is missing": changed(TRUTH, images=None),
    f"{NOT_COCO}the key 'annotations' is missing": changed(TRUTH, annotations=None),
    f"{NOT_COCO}the key 'categories' is missing": changed(TRUTH, categories=None),
    "truth.json: images[1]: id 1 is not unique": changed(
        TRUTH, images=[{"id": 1}, {"id": 1}]
    ),
    "truth.json: images[0]: the key 'id' is missing": changed(TRUTH, images=[{}]),
    "truth.json: images[0]: id [1] is not an integer": changed(
        TRUTH, images=[{"id": [1]}]
    ),
    "truth.json: images[1]: id '1' is not unique": changed(
        TRUTH, images=[{"id": 1}, {"id": "1"}]
    ),
    "truth.json: categories[0]: the name None is missing": changed(
        TRUTH, categories=[{"id": 5}]
    ),
}
BAD_ANNOTATIONS = {
    "truth.json: annotations[0]: must be a JSON object": 3,
    "truth.json: annotations[0] (id 1): the box None in image 1 is not four numbers": (
        changed(NOTE, bbox=None)
    ),
    "truth.json: annotations[0] (id 1): image_id 9 is not in": changed(
        NOTE, image_id=9
    ),
    "truth.json: annotations[0] (id 1): category_id 6 is not in": changed(
        NOTE, category_id=6
    ),
    "truth.json: annotations[0] (id 1): the box [0, 0, -1, 9] in image 1 has no area": (
        changed(NOTE, bbox=[0, 0, -1, 9])
    ),
    "truth.json: annotations[0] (id 1): iscrowd is 'no'": changed(NOTE, iscrowd="no"),
}
BAD_DETECTIONS = {
    "found.json: detections[0]: the key 'score' is missing": changed(FOUND, score=None),
    "found.json: detections[0]: score is nan": changed(FOUND, score=float("nan")),
    "found.json: detections[0]: score is True": changed(FOUND, score=True),
    "found.json: detections[0]: image_id 3 is not in": changed(FOUND, image_id=3),
    "found.json: detections[0]: image_id '3' is not in": changed(FOUND, image_id="3"),
    "found.json: detections[0]: image_id [1] is not in": changed(FOUND, image_id=[1]),
    "found.json: detections[0]: category_id 1 is not in": changed(FOUND, category_id=1),
    "found.json: detections[0]: bbox [0, 0, 9] is not": changed(FOUND, bbox=[0, 0, 9]),
    "found.json: detections[0]: bbox [0, 0, inf, 9] is not": changed(
        FOUND, bbox=[0, 0, float("inf"), 9]
    ),
    "found.json: detections[0]: bbox [0, 0, 9, -2] has a negative width": changed(
        FOUND, bbox=[0, 0, 9, -2]
    ),
    "found.json: detections[0]: bbox [0, 0, 9, '2'] is not": changed(
        FOUND, bbox=[0, 0, 9, "2"]
    ),
}


@pytest.mark.parametrize(
    ("message", "files"),
    [(message, {"truth": truth}) for message, truth in BAD_TRUTHS.items()]
    + [
        (message, {"truth": changed(TRUTH, annotations=[annotation])})
        for message, annotation in BAD_ANNOTATIONS.items()
    ]
    + [
        (message, {"detections": [detection]})
        for message, detection in BAD_DETECTIONS.items()
    ]
    + [
        ("found.json: the detections must be a list", {"detections": TRUTH}),
        ("found.json: not JSON: ", {"detections": ""}),
        (
            "found.json: detections[1]: must be a JSON object",
            {"detections": [FOUND, None]},
        ),
    ],
)
def test_wrong_files_are_named_in_one_line(tmp_path, capsys, message, files):
    assert run(tmp_path, **files) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert f"{tmp_path}/{message}" in output.err
    assert output.err.count("\n") == 1


def test_all_wrong_records_are_counted_and_some_of_each_kind_are_shown(
    tmp_path, capsys
):
    notes = [changed(NOTE, id=i, iscrowd="no") for i in range(5)]
    notes += [changed(NOTE, id=5, bbox=[0, 0, 0, 9])]
    assert run(tmp_path, truth=changed(TRUTH, annotations=notes)) == 2
    place = f"{tmp_path}/truth.json: annotations"
    assert capsys.readouterr().err == (
        "error: 6 problems. wrong flag (5): "
        f"{place}[0] (id 0): iscrowd is 'no', not 0, 1, true or false; "
        "annotations[1] (id 1): iscrowd is 'no', not 0, 1, true or false; "
        "annotations[2] (id 2): iscrowd is 'no', not 0, 1, true or false; and 2 more. "
        f"box without area (1): {place}[5] (id 5): the box [0, 0, 0, 9] in image 1 has "
        "no area. Correct the ground truth; --bad_boxes=clip or drop accepts wrong "
        "boxes\n"
    )
    assert run(tmp_path, truth=changed(TRUTH, annotations=notes[:1])) == 2
    assert capsys.readouterr().err.endswith("true or false. Correct the ground truth\n")
    found = [changed(FOUND, score="0.5"), *[changed(FOUND, image_id=7)] * 9]
    assert run(tmp_path, detections=found) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 10 problems. unknown image (9): ")
    assert "and 6 more. wrong score (1): " in error


def test_bad_boxes_are_refused_clipped_or_dropped(tmp_path, capsys):
    truth = changed(
        TRUTH,
        images=[{"id": 1, "width": 20, "height": 9}, {"id": 2}],
        annotations=[
            changed(NOTE, id=1, bbox=[10, 0, 30, 9]),
            changed(NOTE, id=2, bbox=[0, 0, 0, 9]),
        ],
    )
    found = [changed(FOUND, bbox=[10, 0, 10, 9])]
    assert run(tmp_path, truth=truth, detections=found) == 2
    error = capsys.readouterr().err
    assert "the box [10, 0, 30, 9] in image 1 is outside the image of 20 x 9" in error
    assert "--bad_boxes=clip" in error
    for policy, expected in (("clip", 1.0), ("drop", None)):
        arguments = [f"--bad_boxes={policy}"]
        assert run(tmp_path, *arguments, truth=truth, detections=found) == 0
        assert json.loads(capsys.readouterr().out)["AP/cat"] == expected


def test_a_box_that_leaves_its_image_by_a_pixel_stays_as_annotated(tmp_path, capsys):
    truth = changed(
        TRUTH,
        images=[{"id": 1, "width": 8, "height": 9}],
        annotations=[changed(NOTE, bbox=[0, 0, 9, 9])],
    )
    for policy in ("error", "clip", "drop"):
        assert run(tmp_path, f"--bad_boxes={policy}", truth=truth) == 0
        metrics = json.loads(capsys.readouterr().out)
        # The detection [0, 0, 9, 9] has an IoU of 8 / 9 with the clipped box.
        assert metrics["AP/cat"] == 1.0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--detections=", "flag --detections=: the path is empty: name a file"),
        ("--max_detections=0", "0 is not a positive integer"),
        ("--iou=0.3", "--iou can only be used with --voc"),
        ("--iou=2", "2.0 is not a number in the range [0.0, 1.0]"),
        ("--what", "Unknown command line flag 'what'"),
        ("extra.json", "unexpected argument 'extra.json'"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(tmp_path, capsys, argument, message):
    assert run(tmp_path, argument) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)


def test_required_flags_are_named_and_help_is_printed(capsys):
    assert cli.call(score.main, ["score"]) == 2
    error = capsys.readouterr().err
    assert "--ground_truth" in error
    assert "--detections" in error
    with pytest.raises(SystemExit) as stop:
        cli.call(score.main, ["score", "--help"])
    assert stop.value.code == 0
    assert "--max_detections" in capsys.readouterr().out
