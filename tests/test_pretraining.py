"""Pretraining from end to end: a run, and a detector that starts from it."""

import json
import types

import jax
import numpy as np
import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.tools.predict import __main__ as predict
from borrow_det.workdir import checkpoints, init_from, metadata

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture(scope="module")
def pretrained(make_tiny_crops_config, tmp_path_factory):
    """A finished run: `workdir`, `config`, and `metrics`."""
    config = make_tiny_crops_config()
    config.model.pixel_mean = (100.0, 110.0, 120.0)
    workdir = tmp_path_factory.mktemp("pretrained") / "W"
    with jax.numpy_dtype_promotion("standard"):
        metrics = train.train_and_evaluate(config, workdir)
    return types.SimpleNamespace(workdir=workdir, config=config, metrics=metrics)


def results(folder):
    return json.loads((folder / "evaluations/val/2.predictions.json").read_text())


def test_a_run_leaves_its_files(pretrained):
    folder = pretrained.workdir
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert found >= {
        *("config.json", "dataset.json", "environment.json", "metrics.jsonl"),
        *("parameters.txt", "report.md", "learning_curves.png", "contact_sheet.jpg"),
        *("evaluations/val/2.json", "evaluations/val/2.predictions.json"),
        *("evaluations/val/2/0_val_0.png", "evaluations/val/2/1_val_0.png"),
    }
    assert not any(name.endswith(".html") for name in found)
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["class_names"][1] == "stripes_45"
    assert dataset["boxes"]["train"]["left_out"] > 0
    # Four classes: top-5 would always be right.
    report = (folder / "report.md").read_text().splitlines()
    assert report[0] == "| split |  top1 |  loss |"
    assert len(report) == 5  # With the line of the best step; there are no errors.
    assert report[4].startswith("Best step: 2, top1 ")


def test_metrics_equal_those_of_the_written_predictions(pretrained):
    # Two large discs in each of seven scenes.
    rows = results(pretrained.workdir)
    assert [row["image_id"] for row in rows] == list(range(14))
    metrics = pretrained.metrics["val"]
    right = [row["label"] == row["top_labels"][0] for row in rows]
    assert metrics["top1"] == pytest.approx(np.mean(right))
    for row in rows:
        assert sorted(row["top_labels"]) == [0, 1, 2, 3]
        assert sum(row["top_probabilities"]) == pytest.approx(1, abs=1e-5)
        own = row["top_probabilities"][row["top_labels"].index(row["label"])]
        assert row["loss"] == pytest.approx(-np.log(own), rel=1e-4)
    assert metrics["loss"] == pytest.approx(np.mean([row["loss"] for row in rows]))
    written = json.loads((pretrained.workdir / "evaluations/val/2.json").read_text())
    assert written == {"step": 2, **metrics}


def test_resumed_run_equals_an_uninterrupted_one(
    pretrained, tmp_path, stop_after, capsys
):
    folder = tmp_path / "W"
    stop_after(1)
    with pytest.raises(stop_after.error):
        train.train_and_evaluate(pretrained.config, folder)
    metrics = train.train_and_evaluate(pretrained.config, folder)
    shown = capsys.readouterr().out
    assert "resuming at step 1" in shown
    figures = "  ".join(f"{n} {metrics['val'][n]:.4f}" for n in ("top1", "loss"))
    assert f"step 2  folder val: {figures}\n" in shown
    assert metrics == pretrained.metrics
    found, expected = (
        checkpoints.restore_variables(w) for w in (folder, pretrained.workdir)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert results(folder) == results(pretrained.workdir)


def test_a_detector_starts_from_its_trunk(pretrained, tiny_config, tmp_path, capsys):
    config = tiny_config
    config.init_from = str(pretrained.workdir)
    config.init_scope = "trunk"
    config.seed = 1  # With the same one, the two would be drawn alike.
    config.num_steps = config.eval_every = 2
    states = []
    fill = init_from.Start.fill

    def recorded(start, drawn):
        variables = fill(start, drawn)
        states.extend((drawn["params"], variables["params"]))
        return variables

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(init_from.Start, "fill", recorded)
        metrics = train.train_and_evaluate(config, tmp_path / "W")
    fresh, begun = states
    given = checkpoints.restore_variables(pretrained.workdir)["params"]

    # The stages are the checkpoint's; fc6 and fc7 what decimation leaves of them.
    expected = {n: layer["conv"]["kernel"] for n, layer in given["trunk"].items()}
    expected["conv_fc6"] = given["fc6"]["kernel"][::3, ::3, :, ::4]
    expected["conv_fc7"] = given["fc7"]["kernel"][:, :, ::4, ::4]
    assert set(expected) == {
        *(f"conv{stage}_1" for stage in range(1, 6)),
        *("conv_fc6", "conv_fc7"),
    }
    for name, kernel in expected.items():
        np.testing.assert_array_equal(begun["trunk"][name]["conv"]["kernel"], kernel)
        assert np.all(fresh["trunk"][name]["conv"]["kernel"] != kernel)
    # Everything else is drawn as without a start.
    for name in ("head1", "head4", "neck"):
        jax.tree.map(np.testing.assert_array_equal, begun[name], fresh[name])
    np.testing.assert_array_equal(
        begun["trunk"]["conv6_1"]["conv"]["kernel"],
        fresh["trunk"]["conv6_1"]["conv"]["kernel"],
    )

    line = next(
        line for line in capsys.readouterr().out.splitlines() if "taken" in line
    )
    taken, _, left = line.partition("fresh")
    for name in expected:
        assert f"trunk/{name}/conv/kernel" in taken
    assert "head1/class/kernel" in left
    assert "(100.0, 110.0, 120.0)" in left
    stored = metadata.load_config(tmp_path / "W")
    assert stored.model.pixel_mean == (100.0, 110.0, 120.0)

    # And it trains from there.
    assert np.isfinite(metrics["val"]["AP50"])
    trained = checkpoints.restore_variables(tmp_path / "W")["params"]["trunk"]
    moved = np.abs(trained["conv1_1"]["conv"]["kernel"] - expected["conv1_1"])
    assert 0 < moved.max() < 0.1


def test_with_all_stages_frozen_a_linear_classifier_is_trained(
    pretrained, make_tiny_crops_config, tmp_path
):
    config = make_tiny_crops_config()
    config.init_from, config.init_scope = str(pretrained.workdir), "no_heads"
    config.model.frozen, config.optimizer.weight_decay = 6, 0.1
    train.train_and_evaluate(config, tmp_path / "W")
    given, found = (
        checkpoints.restore_variables(w)["params"]
        for w in (pretrained.workdir, tmp_path / "W")
    )
    head, start = found.pop("fc8"), given.pop("fc8")
    jax.tree.map(np.testing.assert_array_equal, found, given)
    assert np.all(head["kernel"] != start["kernel"])
    # This scope has the five stages, but neither fc6 nor fc7.
    config.init_scope = "trunk"
    with pytest.raises(InputError, match=r"gives no fc6/bias, .* for it is 5$"):
        train.train_and_evaluate(config, tmp_path / "V")


def test_predict_refuses_a_classification_run(pretrained, tmp_path, scenes):
    arguments = [
        "predict",
        f"--workdir={pretrained.workdir}",
        f"--output={tmp_path / 'out'}",
        str(scenes / "val_0.jpg"),
    ]
    with pytest.raises(InputError, match="run of task=classification") as error:
        predict.main(arguments)
    assert "\n" not in str(error.value)


def test_an_input_that_is_too_small_is_refused(tiny_crops_config, tmp_path):
    tiny_crops_config.input_size = (64, 193)
    with pytest.raises(InputError, match="input_size"):
        train.train_and_evaluate(tiny_crops_config, tmp_path / "W")
    assert not (tmp_path / "W").exists()
