"""Runs on splits that are counterfactuals of one another, uninterrupted and resumed."""

import json
import shutil
import types

import jax
import pytest

from borrow_det import evaluate, train
from borrow_det.data import sources
from borrow_det.evaluation import counterfactual
from borrow_det.tasks.detection_evaluator import DetectionEvaluator

SPLITS = ("validation[:5]", "alone[:5]", "swapped[:5]")


@pytest.fixture(scope="module")
def drawn_run(few_scenes, make_tiny_config, tmp_path_factory):
    """A finished run on 64-pixel scale_pairs; has `workdir` and `config`."""
    folder = tmp_path_factory.mktemp("drawn_run")
    config = make_tiny_config()
    config.dataset.name = "scale_pairs"
    config.dataset.image_size = 64
    config.dataset.data_dir = str(folder)
    config.dataset.eval_splits = SPLITS
    # So many boxes that small objects have answers to compare.
    config.nms.score, config.nms.iou = 0.001, 0.9
    config.nms.max_per_class = config.nms.max_total = 400
    with few_scenes(num_train=8, num_validation=6):
        with jax.numpy_dtype_promotion("standard"):  # Inside of optax.
            train.train_and_evaluate(config, folder / "W")
        yield types.SimpleNamespace(workdir=folder / "W", config=config)


EXPECTED = {
    *(
        f"{split}_5/{name}"
        for split in ("validation", "alone", "swapped")
        for name in ("small_accuracy", "small_recall")
    ),
    *("alone_5/unchanged", "swapped_5/unchanged", "swapped_5/consistency"),
}


def read(drawn_run, name):
    return json.loads((drawn_run.workdir / "evaluations" / name).read_text())


def evaluators(drawn_run, splits):
    loaded = sources.load_splits(drawn_run.config.dataset, splits)
    return [DetectionEvaluator(split, drawn_run.config) for split in loaded]


def test_predictions_on_counterfactual_splits_are_compared(drawn_run):
    answers = {
        evaluator.split.name: counterfactual.answers(
            evaluator.truth,
            read(drawn_run, f"{split}_5/4.detections.json"),
        )
        for split, evaluator in zip(
            ("validation", "alone", "swapped"),
            evaluators(drawn_run, SPLITS),
            strict=True,
        )
    }
    real, alone, swapped = (answers[split] for split in SPLITS)
    # The small discs are the same, with their labels or with others.
    assert real.keys() >= alone.keys()
    assert real.keys() == swapped.keys()
    assert all(real[key].truth == alone[key].truth for key in alone)
    assert all(real[key].truth != swapped[key].truth for key in real)
    expected = counterfactual.metrics(
        answers, [(SPLITS[0], SPLITS[1]), (SPLITS[0], SPLITS[2])]
    )
    written = read(drawn_run, "counterfactual/4.json")
    assert written.pop("step") == 4
    assert set(written) == EXPECTED
    assert written["swapped_5/small_recall"] > 0
    for name, value in expected.items():
        assert written[name.replace("[:5]", "_5")] == value


def test_the_comparison_is_logged_and_reported(drawn_run):
    lines = (drawn_run.workdir / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(lines[-1])
    written = read(drawn_run, "counterfactual/4.json")
    assert logged.pop("step") == written.pop("step") == 4
    assert logged == {f"counterfactual/{n}": v for n, v in written.items()}
    text = (drawn_run.workdir / "report.md").read_text()
    assert "small_accuracy | small_recall |" in text
    row = f"| swapped_5    |          {written['swapped_5/small_accuracy']:.3f} |"
    assert row in text


@pytest.mark.parametrize("lost", ["counterfactual/4.json", "swapped_5/4.json"])
def test_a_resumed_run_compares_existing_evaluations(drawn_run, tmp_path, lost):
    folder = shutil.copytree(drawn_run.workdir, tmp_path / "W")
    # Of a comparison that was made without a split, nothing is kept.
    old = folder / "evaluations" / "counterfactual" / "4.json"
    old.write_text(json.dumps({"step": 4, "alone_5/unchanged": 0.5}))
    (folder / "evaluations" / lost).unlink()
    with jax.numpy_dtype_promotion("standard"):
        train.train_and_evaluate(drawn_run.config, folder)
    written = (folder / "evaluations" / "counterfactual" / "4.json").read_text()
    assert json.loads(written) == read(drawn_run, "counterfactual/4.json")
    assert (folder / "report.md").read_text() == (
        drawn_run.workdir / "report.md"
    ).read_text()


@pytest.mark.parametrize(
    "splits", [("swapped[:5]", "alone[:5]"), ("validation[:5]", "swapped[:4]")]
)
def test_without_the_factual_split_there_is_nothing_to_compare(
    drawn_run, tmp_path, splits
):
    assert evaluate.compare(evaluators(drawn_run, splits), tmp_path, 4) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("validation", ""),
        ("swapped", "validation"),
        ("alone[2:50%]", "validation[2:50%]"),
        ("train[:2]+swapped[:3]", "train[:2]+validation[:3]"),
    ],
)
def test_counterfactual_splits_name_their_factual_split(drawn_run, split, expected):
    loaded = sources.load(drawn_run.config.dataset, split)
    assert loaded.counterfactual_of == expected
