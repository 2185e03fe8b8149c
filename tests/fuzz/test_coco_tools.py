"""Damaged COCO files are scored or give image ids, or are refused in one line."""

import contextlib
import io
import json
import pathlib

import numpy as np
import pytest

from borrow_det.tools import score
from borrow_det.tools.predict.image_ids import image_ids
from borrow_det.tools.predict.sources import Source
from tests.fuzz import mutations
from tests.fuzz.test_data import COUNTS, FILES, Outcomes, coco_files

TRUTH = coco_files()["annotations/train.json"]
RESULTS = json.dumps(
    [
        {"image_id": i, "category_id": c, "bbox": [1, 2, 5 + c, 6.5], "score": 0.1 * i}
        for i in (1, 2)
        for c in (1, 2)
    ]
).encode()
INPUTS = [Source(pathlib.Path(f"images/{name}")) for name in ("a.png", "b.jpg")]


def damaged(content, rng):
    changes = [mutations.change_json] * 4 + [mutations.change_encoding]
    return mutations.change_some(content, rng, changes, FILES)


def scored(folder, policy):
    """Scores the files of a folder; the metrics are JSON with values in [0, 1]."""
    flags = [
        *(f"--ground_truth={folder}/truth.json", f"--bad_boxes={policy}"),
        *(f"--detections={folder}/found.json", "--voc"),
    ]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert score.main(["score", *flags]) == 0
    values = json.loads(output.getvalue()).values()
    assert all(value is None or 0 <= value <= 1 for value in values)
    return "fine"


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_ground_truth_and_results(count, tmp_path, record_property):
    outcomes = Outcomes()
    for i in range(count):
        rng = np.random.default_rng([7, i])
        name = str(rng.choice(["truth", "found", "both"]))
        changes, contents = [], []
        for content, own in ((TRUTH, "truth"), (RESULTS, "found")):
            change = "none"
            if name in (own, "both"):
                change, content = damaged(content, rng)
            changes.append(change)
            contents.append(content)
        (tmp_path / "truth.json").write_bytes(contents[0])
        (tmp_path / "found.json").write_bytes(contents[1])
        policy = str(rng.choice(["error", "clip", "drop"]))
        case = f"{i}, {changes}, {policy}"
        outcomes.add(case, lambda p=policy: scored(tmp_path, p), tmp_path)
    outcomes.check(record_property, "fine", "refused")


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_files_with_image_ids(count, tmp_path, record_property):
    outcomes = Outcomes()
    path = tmp_path / "truth.json"
    for i in range(count):
        change, content = damaged(TRUTH, np.random.default_rng([8, i]))
        path.write_bytes(content)

        def found() -> str:
            ids, left_out = image_ids(str(path), INPUTS)
            assert {*ids, *left_out} == {*INPUTS}
            assert len(set(ids.values())) == len(ids) == 2 - len(left_out)
            return "skipped" if left_out else "fine"

        outcomes.add(f"{i}, {change}", found, tmp_path)
    outcomes.check(record_property, "fine", "skipped", "refused")


def test_undamaged_files_are_scored(tmp_path):
    (tmp_path / "truth.json").write_bytes(TRUTH)
    (tmp_path / "found.json").write_bytes(RESULTS)
    assert scored(tmp_path, "error") == "fine"
    found = image_ids(str(tmp_path / "truth.json"), INPUTS)
    assert found.ids == dict(zip(INPUTS, (1, 2), strict=True))
    assert not found.left_out
