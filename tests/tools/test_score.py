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
BAD_TRUTHS = {
    "truth.json: not JSON: ": "{",
    "truth.json: the ground truth must be a JSON object": [],
    "truth.json: the key 'images' is missing": changed(TRUTH, images=None),
    "truth.json: the key 'annotations' is missing": changed(TRUTH, annotations=None),
    "truth.json: the key 'categories' is missing": changed(TRUTH, categories=None),
    "truth.json: images[1]: id 1 is not unique": changed(
        TRUTH, images=[{"id": 1}, {"id": 1}]
    ),
    "truth.json: images[0]: the key 'id' is missing": changed(TRUTH, images=[{}]),
    "truth.json: images[0]: id [1] is not an integer": changed(
        TRUTH, images=[{"id": [1]}]
    ),
    "truth.json: images: some ids are integers": changed(
        TRUTH, images=[{"id": 1}, {"id": "1"}]
    ),
    "truth.json: categories[0]: the name None is missing": changed(
        TRUTH, categories=[{"id": 5}]
    ),
    "truth.json: categories[1]: the name 'cat' is missing or not unique": (
        changed(TRUTH, categories=[{"id": 5, "name": "cat"}, {"id": 7, "name": "cat"}])
    ),
}
BAD_ANNOTATIONS = {
    "truth.json: annotations[0]: must be a JSON object": 3,
    "truth.json: annotations[0]: the key 'bbox' is missing": changed(NOTE, bbox=None),
    "truth.json: annotations[0]: image_id 9 is not in": changed(NOTE, image_id=9),
    "truth.json: annotations[0]: category_id 6 is not in": changed(NOTE, category_id=6),
    "truth.json: annotations[0]: bbox [0, 0, -1, 9] has a negative width": changed(
        NOTE, bbox=[0, 0, -1, 9]
    ),
    "truth.json: annotations[0]: area is -4": changed(NOTE, area=-4),
    "truth.json: annotations[0]: iscrowd is 'no'": changed(NOTE, iscrowd="no"),
}
BAD_DETECTIONS = {
    "found.json: detections[0]: the key 'score' is missing": changed(FOUND, score=None),
    "found.json: detections[0]: score is nan": changed(FOUND, score=float("nan")),
    "found.json: detections[0]: score is True": changed(FOUND, score=True),
    "found.json: detections[0]: image_id 3 is not in": changed(FOUND, image_id=3),
    "found.json: detections[0]: image_id '1' is not in": changed(FOUND, image_id="1"),
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
    assert output.err.startswith(f"error: {tmp_path}/{message}")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
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
