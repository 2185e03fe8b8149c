"""Evaluation of a trained run on any split: figures, files, and no other change."""

import json
import shutil

import jax
import numpy as np
import pytest

from borrow_det import evaluate
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector


@pytest.fixture
def workdir(tiny_run, tmp_path):
    """A copy of the work directory of `tiny_run`."""
    return shutil.copytree(tiny_run.workdir, tmp_path / "W")


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_split_is_evaluated_and_nothing_else_changes(workdir, tiny_run):
    before = contents(workdir)
    found = evaluate.evaluate_run(workdir, "val[:7]")
    after = contents(workdir)
    assert {name: after[name] for name in before} == before
    folder = "evaluations/val_7"
    added = set(after) - set(before)
    pictures = {name for name in added if name.endswith(".png")}
    assert added - pictures == {
        *(f"{folder}/4.json", f"{folder}/4.detections.json"),
        f"{folder}/4.analysis.json",
    }
    assert len(pictures) == tiny_run.config.report.num_pictures
    assert pictures < {f"{folder}/4/{10 + i}_val_{i}.png" for i in range(7)}
    assert (found.step, found.path) == (4, workdir / folder / "4.json")
    # All seven images of val: the figures of the training run.
    for name, value in tiny_run.metrics["val"].items():
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-4, err_msg=name)
    assert evaluate.read_metrics(found.path)["AP50"] == found.metrics["AP50"]


def test_output_takes_the_files_of_another_step(workdir, tmp_path):
    before = contents(workdir)
    images = []
    found = evaluate.evaluate_run(
        workdir,
        "val",
        step=2,
        output=tmp_path / "out",
        evaluating=lambda split: shown(split, images),
    )
    assert contents(workdir) == before
    assert found.path == tmp_path / "out" / "2.json"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"2.json", "2.detections.json", "2.analysis.json", "2"}
    assert images == ["val", 4, 7]


class shown:  # noqa: N801
    """A context that notes the split and the numbers of images."""

    def __init__(self, split, images):
        self.images = images
        images.append(split.name)

    def __enter__(self):
        return self.images.append

    def __exit__(self, *_):
        return None


def renamed_categories(scenes, folder, change):
    """Copies val of `scenes` with other categories; returns its annotations."""
    (folder / "annotations").mkdir(parents=True)
    coco = json.loads((scenes / "annotations" / "val.json").read_text())
    change(coco)
    (folder / "annotations" / "val.json").write_text(json.dumps(coco))
    for image in coco["images"]:
        shutil.copy(scenes / image["file_name"], folder)
    return coco


def test_ids_of_a_folder_are_mapped_by_the_names_of_classes(
    workdir, tiny_run, scenes, tmp_path
):
    new_ids = {3: 40, 5: 30, 9: 20, 11: 10}  # Reverses the order of the labels.

    def reverse(coco):
        for category in coco["categories"]:
            category["id"] = new_ids[category["id"]]
        for annotation in coco["annotations"]:
            annotation["category_id"] = new_ids[annotation["category_id"]]

    folder = tmp_path / "reversed"
    renamed_categories(scenes, folder, reverse)
    found = evaluate.evaluate_run(workdir, "val", path=folder)
    assert found.path == workdir / "evaluations" / "reversed_val" / "4.json"
    for name in ("AP", "AP50", "AR_100", "AP50/stripes_45"):
        value = tiny_run.metrics["val"][name]
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-4, err_msg=name)
    written, expected = (
        json.loads((workdir / "evaluations" / f"{name}/4.detections.json").read_text())
        for name in ("reversed_val", "val")
    )
    assert [d["category_id"] for d in written] == [
        new_ids[d["category_id"]] for d in expected
    ]


@pytest.mark.parametrize("one_site", [True, False])
def test_lenders_are_counted_in_the_groups_of_the_folder(
    workdir, scenes, tmp_path, one_site
):
    def add_sites(coco):
        for number, image in enumerate(coco["images"]):
            image["site"] = "here" if one_site else number
        # Objects of the first image have lenders in others only.
        first = coco["images"][0]["id"]
        coco["annotations"] = [
            a
            for a in coco["annotations"]
            if a["image_id"] != first or a["bbox"][2] < 12
        ]

    folder = tmp_path / "sites"
    coco = renamed_categories(scenes, folder, add_sites)
    found = evaluate.evaluate_run(workdir, "val", path=folder, group="site").metrics
    counts = {
        place: found[f"objects_small_with_lender{place}"] for place in ("", "_in_group")
    }
    sides = [
        (a["category_id"], (a["bbox"][2] * a["bbox"][3]) ** 0.5)
        for a in coco["annotations"]
    ]
    anywhere = sum(
        side < 32 and any(c == kind and large >= 2 * side for c, large in sides)
        for kind, side in sides
    )
    assert counts["_in_group"] == (anywhere if one_site else counts[""])
    with pytest.raises(InputError, match="exists: choose another folder"):
        evaluate.evaluate_run(workdir, "val", path=folder, group="id", points=("p",))
    assert counts[""] < anywhere


def test_the_groups_of_the_runs_own_images_cannot_be_changed(workdir):
    with pytest.raises(InputError, match="group is for another folder: give path, too"):
        evaluate.evaluate_run(workdir, "val", group="site")


def stored_points(workdir):
    return json.loads((workdir / "operating_points.json").read_text())["steps"]


def test_a_run_stores_the_operating_point_of_its_last_step(tiny_run):
    path = tiny_run.workdir / "evaluations" / "val" / "4.analysis.json"
    best = json.loads(path.read_text())["operating_points"]["best_f1"]
    assert stored_points(tiny_run.workdir) == {
        "4": {"best_f1": {**best, "split": "val"}}
    }
    detector = Detector.load(tiny_run.workdir)
    assert detector.minimum_score("best_f1") == best["score"]
    results = json.loads(path.with_name("4.detections.json").read_text())
    assert sum(d["score"] >= best["score"] for d in results) > 0


def test_another_step_gets_its_point_by_an_evaluation_of_the_first_split(workdir):
    before = stored_points(workdir)
    evaluate.evaluate_run(workdir, "val[:2]", step=2)
    assert stored_points(workdir) == before  # Not of any split by itself.
    found = evaluate.evaluate_run(workdir, "val", step=2)
    assert found.stored == ["best_f1"]
    after = stored_points(workdir)
    assert (
        after
        == {"2": {"best_f1": {**found.points["best_f1"], "split": "val"}}} | before
    )


def test_an_evaluation_of_an_earlier_version_is_completed(
    workdir, tiny_run, monkeypatch
):
    """The command in the message about an absent point makes the point."""
    expected = contents(workdir)
    (workdir / "operating_points.json").unlink()
    (workdir / "evaluations" / "val" / "4.analysis.json").unlink()
    with pytest.raises(
        InputError, match=r"evaluate --workdir=.* --split=val --step=4`"
    ):
        Detector.load(workdir).minimum_score("best_f1")
    monkeypatch.setattr(evaluate, "Predictor", None)  # The results suffice.
    found = evaluate.evaluate_run(workdir, "val", step=4)
    assert found.stored == ["best_f1"]
    assert found.metrics["AP"] == tiny_run.metrics["val"]["AP"]
    assert contents(workdir) == expected
    with pytest.raises(InputError, match=r"4\.json exists"):
        evaluate.evaluate_run(workdir, "val", step=4)


def test_a_wanted_point_is_added_to_an_evaluation_that_exists(workdir, monkeypatch):
    monkeypatch.setattr(evaluate, "Predictor", None)
    before = contents(workdir)
    found = evaluate.evaluate_run(workdir, "val", points=["recall_0.001", "recall_1"])
    assert found.stored == ["recall_0.001"]
    assert found.points["recall_1"] is None  # An untrained network misses some.
    point = stored_points(workdir)["4"]["recall_0.001"]
    assert point == {**found.points["recall_0.001"], "split": "val"}
    assert Detector.load(workdir).minimum_score("recall_0.001") == point["score"]
    after = contents(workdir)
    del before["operating_points.json"], after["operating_points.json"]
    assert after == before


def test_other_classes_are_refused(workdir, scenes, tmp_path):
    def rename(coco):
        coco["categories"][0]["name"] = "zebra"

    renamed_categories(scenes, tmp_path / "other", rename)
    with pytest.raises(
        InputError, match=r"was trained on the classes .* zebra"
    ) as error:
        evaluate.evaluate_run(workdir, "val", path=tmp_path / "other")
    assert "\n" not in str(error.value)


def test_an_evaluation_is_not_overwritten(workdir):
    before = contents(workdir)
    with pytest.raises(InputError, match=r"4\.json exists: .* --output"):
        evaluate.evaluate_run(workdir, "val")
    assert contents(workdir) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"split": "test"}, "test"), ({"split": "val[:2]", "step": 3}, "not 3")],
)
def test_a_split_or_step_that_is_absent_is_named(workdir, arguments, message):
    before = contents(workdir)
    with pytest.raises(InputError, match=message):
        evaluate.evaluate_run(workdir, **arguments)
    assert contents(workdir) == before


def test_the_batch_grows_to_a_multiple_of_the_devices(workdir):
    assert jax.device_count() == 2
    stored = json.loads((workdir / "config.json").read_text())
    stored["eval_batch_size"] = 3
    (workdir / "config.json").write_text(json.dumps(stored))
    found = evaluate.evaluate_run(workdir, "val[:5]")
    assert found.metrics["objects_small_with_lender"] > 0
