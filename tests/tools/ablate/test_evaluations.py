"""Folds that are scored together, and resamples of images, without training."""

import dataclasses
import json

import numpy as np
import pytest

from borrow_det import evaluate
from borrow_det.evaluation import (
    average_precision,
    bootstrap,
    counterfactual,
    lender_classes,
)
from borrow_det.tasks import detection_evaluator
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tools.ablate import cells, evaluations, summary, sweeps
from borrow_det.workdir import metadata

ATTENTION = {0: (3.0, 0.5), 1: (1.0, 0.1)}  # Objects and precision of each fold.


def guess(truth, seed):
    """Detections near the objects, many of the wrong class, and some elsewhere."""
    rng = np.random.default_rng(seed)
    classes = [category["id"] for category in truth["categories"]]
    found = []
    for annotation in truth["annotations"] * 2:
        x, y, width, height = annotation["bbox"]
        shift = rng.normal(0, 0.15, 2) * (width, height)
        right = rng.random() < 0.6
        found.append(
            {
                "image_id": annotation["image_id"],
                "category_id": (
                    annotation["category_id"] if right else int(rng.choice(classes))
                ),
                "bbox": [x + shift[0], y + shift[1], width, height],
                "score": float(rng.random()),
            }
        )
    return found


@pytest.fixture
def sweep(make_tiny_config, tmp_path):
    """A function: the cells of rows with seeds, evaluated by made-up detections."""

    def make(rows, seeds, folds, guesses=guess, splits=("val",)):
        config = make_tiny_config()
        config.dataset.folds = folds
        config.dataset.eval_splits = splits
        made = cells.make(
            [sweeps.SweepRow(name, {}, config) for name in rows],
            seeds,
            tmp_path / "W",
            [],
            folds,
        )
        for cell in made:
            opened = DetectionEvaluator.open_splits(cell.config, splits)
            classes = metadata.Classes(opened[0].class_names, opened[0].category_ids)
            metadata.prepare(cell.workdir, cell.config, classes, {}, opened[0].folds)
            for split in opened:
                evaluator = DetectionEvaluator(split, cell.config)
                number = [*rows].index(cell.row.name) + 10 * cell.seed
                results = guesses(evaluator.truth, number)
                path = evaluate.metrics_path(cell.workdir, split.name, 4)
                path.parent.mkdir(parents=True)
                evaluate.results_path(evaluator, path).write_text(json.dumps(results))
                objects, precision = ATTENTION[cell.fold or 0]
                metrics = {
                    "attention/objects": objects,
                    "attention/precision_same": precision,
                    "attention/level2/objects": 0.0,
                    "attention/level2/entropy": np.nan,
                }
                evaluate.write_metrics(path, evaluator.score(results) | metrics)
        return made

    return make


def collect(made, resamples):
    return evaluations.collect(evaluations.grouped(made), resamples)


def union(scenes, detections):
    """(truth, detections) of all images, read from the annotation files."""
    truth = {"images": [], "annotations": []}
    for split in ("train", "val"):
        content = json.loads((scenes / "annotations" / f"{split}.json").read_text())
        truth["categories"] = content["categories"]
        for image in content["images"]:
            truth["images"].append({**image, "id": f"{split}/{image['id']}"})
        for annotation in content["annotations"]:
            image_id = f"{split}/{annotation['image_id']}"
            truth["annotations"].append({**annotation, "image_id": image_id})
    return truth, detections


def test_folds_score_together_as_one_evaluation_of_all_images(sweep, scenes):
    made = sweep(["full"], [3], 2)
    results, samples = collect(made, 0)
    assert samples == {}
    found = results["full"][3]["val"]
    detections = []
    for cell in made:
        path = cell.workdir / "evaluations/val/4.detections.json"
        detections += json.loads(path.read_text())
    truth, detections = union(scenes, detections)
    assert len(truth["images"]) == 19
    expected = detection_evaluator.score(truth, detections, made[0].config)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
    # The mean of the folds' figures is another number.
    of_folds = [cells.metrics(cell)["val"] for cell in made]
    assert np.mean([of["AP"] for of in of_folds]) != pytest.approx(found["AP"])
    # Attention: (3 * 0.5 + 1 * 0.1) / 4.
    assert found["attention/objects"] == 4
    assert found["attention/precision_same"] == pytest.approx(0.4)
    assert np.isnan(found["attention/level2/entropy"])
    folder = made[0].workdir.parent / "pooled" / "val"
    stored = json.loads((folder / "4.json").read_text())
    assert stored["AP"] == found["AP"]
    analysis = json.loads((folder / "4.analysis.json").read_text())
    objects = analysis["errors"]["small_objects"]
    assert sum(of["objects"] for of in objects.values()) == (
        found["objects_small_with_lender"] + found["objects_small_without_lender"]
    )
    assert json.loads((folder / "4.detections.json").read_text()) == detections


def test_resampled_metrics_vary_around_those_of_the_evaluation(sweep):
    made = sweep(["full"], [0], 2)
    results, samples = collect(made, 200)
    found, resampled = results["full"][0]["val"], samples["full"][0]["val"]
    assert (resampled.units.kind, len(resampled.units.keys)) == ("image", 19)
    for name, values in resampled.values.items():
        assert values.shape == (200,)
        spread = np.nanstd(values)
        assert abs(np.nanmean(values) - found[name]) < spread + 1e-9, name
    names = {"AP", "AP50", "AP75", "AR_100"}
    for suffix in ("small", "small_with_lender", "small_without_lender"):
        names |= {f"{kind}_{suffix}" for kind in ("AP", "AP50", "AR")}
        names.add(suffix.replace("small", "small_accuracy"))
    assert {*resampled.values} == names


def answers_of(cell):
    (opened,) = DetectionEvaluator.open_splits(cell.config, ["val"])
    evaluator = DetectionEvaluator(opened, cell.config)
    path = cell.workdir / "evaluations/val/4.detections.json"
    found = detection_evaluator.sized(
        evaluator.truth, json.loads(path.read_text()), cell.config
    )
    return counterfactual.answers(*found)


def test_other_seeds_of_all_rows_tell_which_small_objects_are_confused(sweep):
    made = sweep(["ssd", "full"], [0, 1, 2], 0)
    # Seed 2 of full is unfinished, so that no seed 2 votes.
    made = [cell for cell in made if (cell.row.name, cell.seed) != ("full", 2)]
    results, samples = collect(made, 50)
    answers = {(cell.row.name, cell.seed): answers_of(cell) for cell in made}
    for (row, seed), own in answers.items():
        others = [a for (_, s), a in answers.items() if s in {0, 1} - {seed}]
        assert len(others) == (4 if seed == 2 else 2)
        groups = {"confused": [], "clear": [], "undetected": []}
        for key, answer in own.items():
            votes = [o[key].found for o in others if o[key].found is not None]
            wrong = sum(vote != answer.truth for vote in votes)
            group = "confused" if 2 * wrong >= len(votes) else "clear"
            group = group if votes else "undetected"
            groups[group].append(answer.found == answer.truth)
        figures = results[row][seed]["val"]
        resampled = samples[row][seed]["val"].values
        for group, right in groups.items():
            assert figures[f"objects_small_{group}"] == len(right)
            if right:
                name = f"small_accuracy_{group}"
                assert figures[name] == np.mean(right)
                assert np.nanmean(resampled[name]) == pytest.approx(
                    np.mean(right), abs=0.15
                )
        assert len(groups["confused"]) > 1
        assert len(groups["clear"]) > 1


def test_a_single_seed_has_no_groups_of_small_objects(sweep):
    results, _ = collect(sweep(["ssd", "full"], [0], 0), 10)
    for row in ("ssd", "full"):
        figures = results[row][0]["val"]
        assert 0 <= figures["small_accuracy"] <= 1
        assert not any("confused" in name for name in figures)


def test_reports_have_the_score_with_the_classes_of_lenders(sweep):
    made = sweep(["full"], [0], 0)
    results, _ = collect(made, 10)
    (opened,) = DetectionEvaluator.open_splits(made[0].config, ["val"])
    evaluator = DetectionEvaluator(opened, made[0].config)
    path = made[0].workdir / "evaluations/val/4.detections.json"
    truth, detections = detection_evaluator.sized(
        evaluator.truth, json.loads(path.read_text()), made[0].config
    )
    lent = lender_classes.with_classes_of_lenders(truth, detections, 2.0)
    assert lent != detections
    expected = average_precision.coco_metrics(truth, lent)
    for name in ("AP_small", "AP50_small"):
        assert results["full"][0]["val"][f"{name}_lender_classes"] == expected[name]


def test_a_row_is_compared_on_the_same_images_seed_by_seed(sweep):
    made = sweep(["ssd", "full"], [0, 1], 0)
    results, samples = collect(made, 300)
    records = summary.summarize(results, {}, {"ssd": "d", "full": "d"}, "ssd", samples)
    figures = records[1]["metrics"]["AP"]
    full, ssd = (
        np.array([samples[name][seed]["val"].values["AP"] for seed in (0, 1)])
        for name in ("full", "ssd")
    )
    pairs = full - ssd
    expected = bootstrap.interval(np.mean(pairs, axis=0))
    found = dict(figures["bootstrap"])
    ratio = np.log(full.sum(axis=0) / ssd.sum(axis=0))
    assert found.pop("log_ratio_std") == pytest.approx(np.std(ratio, ddof=1))
    assert found == {**expected, "unit": "image", "units": 7}
    # Averaging over seeds narrows the interval.
    assert expected["std"] < np.std(pairs[0])
    low, high = expected["low"], expected["high"]
    assert low < figures["difference"]["mean"] < high
    effect = bootstrap.detectable_effect(expected["std"])
    assert figures["mde"]["images"] == effect
    baseline = records[0]["metrics"]["AP"]["bootstrap"]
    assert (baseline["low"], baseline["high"], baseline["std"]) == (0, 0, 0)
    assert records[1]["metrics"]["AP_medium"]["bootstrap"] is None
    text = summary.as_markdown(records, ["AP", "AP_medium"])
    lines = [[cell.strip() for cell in t.split("|")] for t in text.splitlines()]
    (line,) = [cells_ for cells_ in lines if cells_[1:3] == ["full", "AP"]]
    difference = figures["difference"]
    assert line[3:-1] == [
        f"{difference['mean']:+.3f}",
        f"{difference['low']:+.3f} to {difference['high']:+.3f}",
        f"{low:+.3f} to {high:+.3f}",
        f"{figures['mde']['seeds']:.3f}",
        f"{effect:.3f}",
    ]
    assert "paired bootstrap, 300 resamples of 7 images." in text


def test_identical_rows_differ_by_exactly_nothing(sweep):
    made = sweep(["ssd", "full"], [0], 2, lambda truth, seed: guess(truth, 0))
    results, samples = collect(made, 50)
    records = summary.summarize(results, {}, {"ssd": "d", "full": "d"}, "ssd", samples)
    for name, figures in records[1]["metrics"].items():
        if (found := figures["bootstrap"]) and found["samples"] > 1:
            assert (found["low"], found["high"], found["std"]) == (0, 0, 0), name
            assert figures["mde"]["images"] == 0


def test_rows_on_other_images_have_no_interval_over_images(sweep):
    made = sweep(["ssd", "full"], [0], 0, splits=("val", "train"))
    _, samples = collect(made, 50)
    own, other = samples["full"][0]["val"], samples["ssd"][0]["train"]
    assert bootstrap.difference([own], [other], "AP") is None
    assert bootstrap.difference([], [], "AP") is None


@pytest.mark.parametrize(
    ("group", "kind", "count"),
    [("_(.)", "image", 7), ("_([0-2]|)", "group", 4), ("(val)", "group", 1)],
)
def test_groups_of_images_are_drawn_as_a_whole(sweep, group, kind, count):
    made = sweep(["full"], [0], 0)
    for cell in made:
        cell.config.dataset.group = group
    _, samples = collect(made, 50)
    found = samples["full"][0]["val"]
    assert (found.units.kind, len(found.units.keys)) == (kind, count)
    interval = bootstrap.difference([found], [found], "AP")
    assert (interval is None) == (count < 2)  # A single group does not vary.


def test_comparisons_are_resampled_for_the_images_of_one_factual_split(
    sweep, monkeypatch
):
    opened = evaluations._open

    def with_itself(cell, name):
        return dataclasses.replace(opened(cell, name), counterfactual_of=name)

    monkeypatch.setattr(evaluations, "_open", with_itself)
    made = sweep(["full"], [0], 0, splits=("val[:3]", "val[3:7]"))
    _, samples = collect(made, 50)
    found = samples["full"][0][evaluate.COMPARISON]
    assert len(found.units.keys) == 4
    assert {name.rpartition("/")[0] for name in found.values} == {"val_3_7"}
