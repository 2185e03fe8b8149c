"""The loop: what a run leaves, that it repeats and resumes to the bit, and stops."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det import train, train_step
from borrow_det.data import pipeline, sources
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError, PreemptedError
from borrow_det.inference.detector import Detector
from borrow_det.tasks import detection, detection_evaluator
from borrow_det.workdir import checkpoints, metadata
from tests import program
from tests.tiny_config import REFERENCES

pytestmark = pytest.mark.usefixtures("optax_promotes")


def make_task(config):
    return detection.DetectionTask(config, num_classes=4)


def saved_model(folder, step):
    """{params, batch_stats, ema_params} of a checkpoint, leaf by leaf."""
    manager = checkpoints.Checkpoints(folder, every=1, keep=9)
    config = metadata.load_config(folder)
    abstract = train_step.abstract_state(make_task(config), train_mesh(2))
    assert manager.latest_step == step
    fields = manager.restore(vars(abstract))
    manager.close()
    return jax.device_get(fields)


def train_mesh(devices):
    axes = {"data": -1, "fsdp": 1}
    return mesh_lib.make_mesh(axes, jax.devices()[:devices])


def metric_lines(folder):
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def assert_equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# What a run leaves.


def test_a_run_leaves_its_files(tiny_run):
    folder = tiny_run.workdir
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert found >= {
        *("config.json", "dataset.json", "environment.json", "metrics.jsonl"),
        *("parameters.txt", "report.md", "learning_curves.png", "checkpoints"),
        *("evaluations/val/4.json", "evaluations/val/4.detections.json"),
        *("evaluations/val/4.html", "results.html"),
    }
    pictures = [name for name in found if name.startswith("evaluations/val/4/")]
    assert len(pictures) == tiny_run.config.report.num_pictures
    assert any(name.startswith("events.out.tfevents") for name in found)
    assert not any("tmp" in name for name in found)
    assert metadata.load_config(folder) == tiny_run.config
    assert metadata.load_classes(folder) == (
        ("stripes_0", "stripes_45", "stripes_90", "stripes_135"),
        (3, 5, 9, 11),
    )


def test_metrics_are_finite_means_of_the_steps_between(tiny_run):
    lines = metric_lines(tiny_run.workdir)
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [2, 4]
    for line in training:
        terms = {n: v for n, v in line.items() if n.startswith("loss/")}
        assert len(terms) == 3
        matching = tiny_run.config.loss.matching * terms.pop("loss/matching")
        assert line["loss"] == pytest.approx(sum(terms.values()) + matching, rel=1e-5)
        assert line["gradient_norm"] > 0
        assert line["images_per_second"] > 0
    # Of the second and the fourth step of a cosine over four.
    rates = [line["learning_rate"] for line in training]
    expected = 1e-3 * (1 + np.cos(np.pi * np.array([0.25, 0.75])))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_the_last_evaluation_is_returned_written_and_logged(tiny_run):
    metrics = tiny_run.metrics["val"]
    written = json.loads((tiny_run.workdir / "evaluations/val/4.json").read_text())
    assert written.pop("step") == 4
    logged = metric_lines(tiny_run.workdir)[-1]
    assert logged.pop("step") == 4
    for name, value in metrics.items():
        expected = None if np.isnan(value) else value
        assert written[name] == expected
        assert logged[f"val/{name}"] == expected
    detections = json.loads(
        (tiny_run.workdir / "evaluations/val/4.detections.json").read_text()
    )
    split = sources.load(tiny_run.config.dataset, "val")
    truth = sources.ground_truth(split)
    again = detection_evaluator.score(truth, detections, tiny_run.config)
    others = {n: v for n, v in metrics.items() if not n.startswith("attention/")}
    np.testing.assert_equal(again, others)
    assert {d["category_id"] for d in detections} <= {3, 5, 9, 11}


def test_averaged_parameters_are_saved_and_evaluated(tiny_run):
    fields = saved_model(tiny_run.workdir, 4)
    variables = checkpoints.restore_variables(tiny_run.workdir)
    assert_equal_trees(variables["params"], fields["ema_params"])
    kernels = [fields[n]["head1"]["class"]["kernel"] for n in ("params", "ema_params")]
    assert not np.array_equal(*kernels)

    detector = Detector.load(tiny_run.workdir)
    split = sources.load(tiny_run.config.dataset, "val")
    (batch, _) = pipeline.eval_batches(split, tiny_run.config)
    found = detector.detect_canvases(batch["image"], batch["image_size"])
    detections = json.loads(
        (tiny_run.workdir / "evaluations/val/4.detections.json").read_text()
    )
    written = [d for d in detections if d["image_id"] == int(batch["image_id"][0])]
    assert len(written) == found["mask"][0].sum() > 0
    np.testing.assert_allclose(
        [d["score"] for d in written], found["scores"][0][found["mask"][0]], rtol=1e-5
    )


# It repeats, and resumes.


@pytest.fixture
def traces(monkeypatch):
    """Counts of the traces of the step and the prediction."""
    counts = {"prepare": 0, "predict": 0}

    def count(name, traced):
        def counted(*arguments):
            counts[name] += 1
            return traced(*arguments)

        monkeypatch.setattr(detection.DetectionTask, name, counted)

    for name in counts:
        count(name, getattr(detection.DetectionTask, name))
    return counts


@pytest.fixture(params=REFERENCES)
def whole_run(request, make_tiny_run):
    """A run with references of each kind that nothing interrupts."""
    return make_tiny_run(request.param)


def test_resumed_run_equals_an_uninterrupted_one(
    whole_run, tmp_path, stop_after, traces, capsys
):
    folder = tmp_path / "W"
    stop_after(3)
    with pytest.raises(stop_after.error):
        train.train_and_evaluate(whole_run.config, folder)
    assert traces == {"prepare": 1, "predict": 0}
    assert [line["step"] for line in metric_lines(folder)] == [2]

    stop_after(2)
    metrics = train.train_and_evaluate(whole_run.config, folder)
    assert "resuming at step 2" in capsys.readouterr().out
    assert traces == {"prepare": 2, "predict": 1}
    np.testing.assert_equal(metrics, whole_run.metrics)
    assert_equal_trees(saved_model(folder, 4), saved_model(whole_run.workdir, 4))
    for found, expected in zip(
        metric_lines(folder), metric_lines(whole_run.workdir), strict=True
    ):
        for line in (found, expected):
            for name in program.MEASURED:
                line.pop(name, None)
        assert found == expected


def test_sigterm_in_an_evaluation_saves_and_the_resumed_run_evaluates(
    tiny_run, tmp_path, monkeypatch
):
    config = tiny_run.config.copy_and_resolve_references()
    config.checkpoint_every = 3
    config.eval_every = 2
    config.num_steps = 4
    folder = tmp_path / "W"
    observe = detection_evaluator.DetectionEvaluator.observe

    def observe_and_tell(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return observe(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(
            detection_evaluator.DetectionEvaluator, "observe", observe_and_tell
        )
        with pytest.raises(PreemptedError):
            train.train_and_evaluate(config, folder)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not (folder / "evaluations" / "val" / "2.json").exists()
    assert int(saved_model(folder, 2)["step"]) == 2

    metrics = train.train_and_evaluate(config, folder)
    assert (folder / "evaluations" / "val" / "2.json").exists()
    np.testing.assert_equal(metrics, tiny_run.metrics)
    assert_equal_trees(saved_model(folder, 4), saved_model(tiny_run.workdir, 4))


@pytest.mark.parametrize("evaluated", [True, False])
def test_finished_run_started_again_makes_missing_evaluations(
    tiny_run, tmp_path, stop_after, evaluated
):
    folder = shutil.copytree(tiny_run.workdir, tmp_path / "W")
    figures = folder / "evaluations" / "val" / "4.json"
    if not evaluated:  # Killed between its last checkpoint and the evaluation.
        figures.unlink()
    before = len(metric_lines(folder))
    stop_after(0)
    metrics = train.train_and_evaluate(tiny_run.config, folder)
    np.testing.assert_equal(metrics, tiny_run.metrics)
    assert figures.exists()
    assert len(metric_lines(folder)) == before + (not evaluated)
    assert_equal_trees(saved_model(folder, 4), saved_model(tiny_run.workdir, 4))


def test_resuming_with_another_architecture_is_refused(tiny_run, tiny_config):
    files = ("config.json", "environment.json", "metrics.jsonl")
    before = [(tiny_run.workdir / name).read_text() for name in files]
    tiny_config.ema_decay = tiny_run.config.ema_decay
    tiny_config.borrow.channels = 4
    with pytest.raises(InputError, match=r"borrow\.channels=8.* 4"):
        train.train_and_evaluate(tiny_config, tiny_run.workdir)
    assert [(tiny_run.workdir / name).read_text() for name in files] == before


def test_initial_parameters_depend_on_the_seed(tiny_config):
    mesh, task = train_mesh(2), make_task(tiny_config)
    kernels = []
    for seed in (0, 1, 0):
        tiny_config.seed = seed
        state = train_step.init_state(task, mesh)
        kernels.append(state.params["trunk"]["conv1_1"]["conv"]["kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[2])
    assert np.all(kernels[0] != kernels[1])


# Starting from another run.


def test_init_from_takes_every_parameter_that_fits(tiny_run, tiny_config, tmp_path):
    tiny_config.init_from = str(tiny_run.workdir)
    tiny_config.ema_decay = 0.25
    run = train.prepare_run(tiny_config, tmp_path / "W")
    given = checkpoints.restore_variables(tiny_run.workdir)["params"]
    assert_equal_trees(run.state.params, given)
    assert_equal_trees(run.state.ema_params, given)
    assert int(run.state.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(run.state.opt_state))
    run.close()


def test_run_of_zero_steps_evaluates_its_initial_parameters(
    tiny_run, tiny_config, tmp_path
):
    tiny_config.init_from = str(tiny_run.workdir)
    tiny_config.num_steps = 0
    for _ in range(2):  # The second finds the first one's checkpoint.
        metrics = train.train_and_evaluate(tiny_config, tmp_path / "W")
        assert metrics["val"] == pytest.approx(tiny_run.metrics["val"], nan_ok=True)
    given, kept = (
        checkpoints.restore_variables(metadata)["params"]
        for metadata in (tiny_run.workdir, tmp_path / "W")
    )
    assert_equal_trees(given, kept)


def test_trained_run_of_zero_steps_keeps_its_checkpoints(tiny_run, tmp_path):
    folder = tmp_path / "W"
    shutil.copytree(tiny_run.workdir, folder)
    config = tiny_run.config.copy_and_resolve_references()
    config.num_steps = 0
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    metrics = train.train_and_evaluate(config, folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == saved
    assert metrics["val"] == pytest.approx(tiny_run.metrics["val"], nan_ok=True)


# Divergence.


@pytest.fixture
def spoil_step(monkeypatch):
    """A function: step `number` of a run gets parameters or metrics that are NaN."""
    make_train_step = train.make_train_step

    def spoil_step(number, name):
        def make(*arguments):
            step = make_train_step(*arguments)

            def spoilt(state, batch):
                now = int(state.step) + 1 == number
                if now and name == "params":
                    nan = jax.tree.map(lambda x: x * jnp.nan, state.params)
                    state = state.replace(params=nan)
                state, metrics = step(state, batch)
                return state, metrics | ({name: jnp.nan} if now else {})

            return spoilt

        monkeypatch.setattr(train, "make_train_step", make)

    return spoil_step


@pytest.mark.parametrize(
    ("name", "message"), [("params", "loss is nan"), ("gradient_norm", "gradient_norm")]
)
def test_divergence_names_the_steps_and_is_not_saved(
    tiny_run, tmp_path, spoil_step, name, message
):
    config = tiny_run.config.copy_and_resolve_references()
    folder = tmp_path / "W"
    config.log_every = 4
    spoil_step(4, name)
    with pytest.raises(
        FloatingPointError,
        match=rf"{message}.* step 4 \(checked steps 3 to 4\).* of step 2\.",
    ):
        train.train_and_evaluate(config, folder)
    saved = saved_model(folder, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved["params"]))
    assert metric_lines(folder) == []


def test_logged_means_include_steps_before_a_checkpoint(
    tiny_run, tmp_path, monkeypatch
):
    config = tiny_run.config.copy_and_resolve_references()
    config.log_every, config.checkpoint_every = 3, 2
    config.num_steps = config.eval_every = 6

    def make(*_):
        def step(state, batch):
            number = state.step + 1
            return state.replace(step=number), {
                "loss": number.astype(jnp.float32),
                "gradient_norm": jnp.ones(()),
            }

        return step

    monkeypatch.setattr(train, "make_train_step", make)
    train.train_and_evaluate(config, tmp_path / "W")
    lines = [line for line in metric_lines(tmp_path / "W") if "loss" in line]
    assert [(line["step"], line["loss"]) for line in lines] == [(3, 2.0), (6, 5.0)]


# Wrong values are refused before anything is written.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 3),
        ("mesh.data", 3),
        ("borrow.similarity", "cosinus"),
        ("borrow.levels", (0, 3)),
        ("model.norm", "layer"),
        ("anchors.second_last", "none"),
        ("optimizer.name", "lion"),
        ("schedule.name", "linear"),
        ("dataset.train_split", "training"),
        ("dataset.name", "imagenet"),
    ],
)
def test_wrong_value_is_named_and_no_work_directory_is_made(
    tiny_config, tmp_path, field, value
):
    tiny_config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError) as error:
        train.train_and_evaluate(tiny_config, tmp_path / "W")
    name = {"mesh.data": "mesh", "dataset.train_split": "training"}.get(field, field)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "W").exists()


def test_an_unknown_field_cannot_be_set(tiny_config):
    with pytest.raises(AttributeError, match="learning_rat"):
        tiny_config.optimizer.learning_rat = 1.0
