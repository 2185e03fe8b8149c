"""Training on stored maps of frozen stages is training on the images they are of."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from benchmarks import stored_maps
from borrow_det import train
from borrow_det.data import pipeline
from borrow_det.errors import InputError, PreemptedError
from borrow_det.train_step import gradient_of_rows, update
from borrow_det.workdir import checkpoints, metadata
from tests import program
from tests.conftest import StopError, StoppingBatches

pytestmark = [pytest.mark.benchmarks, pytest.mark.usefixtures("optax_promotes")]


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Folder for stored maps that the tests share."""
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(autouse=True)
def environment(maps, monkeypatch):
    monkeypatch.setenv("STORED_MAPS", str(maps))
    monkeypatch.setattr(stored_maps, "VERSIONS", 1)  # Three batches.


@pytest.fixture
def config(make_tiny_config, tiny_run):
    config = make_tiny_config()
    fields = {"model.frozen": 5, "init_from": str(tiny_run.workdir), "seed": 3}
    config.update_from_flattened_dict(fields)
    return config


def never(*arguments):
    pytest.fail(f"called with {arguments}")


def name_of(config, folder, change=lambda params: params):
    """The name of the maps of a run, which is not trained, with changed parameters."""
    run = train.prepare_run(config, folder)
    run.close()
    state = dataclasses.replace(run.state, params=change(run.state.params))
    return stored_maps._name(run._replace(state=state))


def changed(module):
    """A change of the parameters of one module of the trunk."""

    def change(params):
        layer = jax.tree.map(lambda x: x + 1, params["trunk"][module])
        return {**params, "trunk": {**params["trunk"], module: layer}}

    return change


@pytest.mark.parametrize("paste", [0.0, 0.5])
def test_a_step_equals_that_on_the_images(config, tmp_path, paste):
    config.augment.paste = paste
    run = train.prepare_run(config, tmp_path / "W")
    task, state = run.task, jax.device_get(run.state)
    steps = stored_maps.make_steps(run, lambda: None)
    batch = next(steps.batches)
    (number,) = set(batch["number"].tolist())
    config.seed = 0  # Of the stored batches.
    row = task.train_row(run.train_split)
    images = next(pipeline.train_batches(run.train_split, config, number, make_row=row))
    key = jax.random.fold_in(jax.random.key(0), number)
    grads, terms, stats, _ = jax.jit(gradient_of_rows, static_argnums=0)(
        task, key, state.params, state.batch_stats, images
    )
    expected = update(task, state, grads, stats)
    found, metrics = steps.step(state, batch)
    run.close()
    assert float(metrics["loss"]) == pytest.approx(float(terms["loss"]), rel=1e-3)
    norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grads)))
    assert float(metrics["gradient_norm"]) == pytest.approx(norm, rel=1e-2)
    assert int(found.step) == 1
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), found.params, state.params)
    for name, layer in moved["trunk"].items():
        frozen = f"trunk/{name}" in task.frozen
        assert (max(jax.tree.leaves(layer)) == 0) == frozen
    # The first step of SGD moves along the gradient.
    difference = jax.tree.map(np.subtract, found.params, expected.params)
    step = jax.tree.map(np.subtract, expected.params, state.params)
    off, length = (
        np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(tree)))
        for tree in (difference, step)
    )
    assert off < 0.01 * length


def test_runs_share_the_maps_and_resume_beyond_an_epoch_of_them(
    config, tmp_path, monkeypatch
):
    stored_maps.train_and_evaluate(config, tmp_path / "whole")
    monkeypatch.setattr(stored_maps, "_store", never)
    stored = stored_maps.StoredBatches
    order = stored._order(3, seed=3, start=0)
    assert [sorted(next(order) for _ in range(3)) for _ in range(4)] == 4 * [[0, 1, 2]]

    def stopping(*arguments):
        return StoppingBatches(stored(*arguments), 3)

    with monkeypatch.context() as patch:
        patch.setattr(stored_maps, "StoredBatches", stopping)
        with pytest.raises(StopError):
            stored_maps.train_and_evaluate(config, tmp_path / "W")
    stored_maps.train_and_evaluate(config, tmp_path / "W")
    program.assert_same_run(tmp_path / "W", tmp_path / "whole")
    steps = [start["steps"] for start in metadata.starts(tmp_path / "W")]
    assert steps == 2 * ["benchmarks.stored_maps"]
    # A finished run needs no maps.
    monkeypatch.setattr(stored_maps, "make_steps", never)
    stored_maps.train_and_evaluate(config, tmp_path / "W")


def test_runs_share_maps_only_if_images_boxes_and_frozen_stages_are_the_same(
    config, tmp_path
):
    name = name_of(config, tmp_path / "W")
    config.seed, config.borrow.enabled, config.loss.matching = 4, False, 0.0
    assert name_of(config, tmp_path / "plain") == name
    assert name_of(config, tmp_path / "fc6", changed("conv_fc6")) == name
    others = set()
    folder = pathlib.Path(shutil.copytree(config.dataset.path, tmp_path / "copy"))
    config.dataset.path = str(folder)
    assert name_of(config, tmp_path / "copied") == name
    annotations = folder / "annotations" / "train.json"
    coco = json.loads(annotations.read_text())
    coco["annotations"][0]["bbox"][2] /= 2
    annotations.write_text(json.dumps(coco))
    others.add(name_of(config, tmp_path / "other boxes"))
    config.augment.paste = 0.5
    others.add(name_of(config, tmp_path / "pasted copies"))
    config.batch_size = 2
    others.add(name_of(config, tmp_path / "other batches"))
    others.add(name_of(config, tmp_path / "weights", changed("conv1_1")))
    assert len(others | {name}) == 5


def test_a_run_that_is_stopped_while_maps_are_computed_resumes(
    config, maps, tmp_path, monkeypatch
):
    stored_maps.train_and_evaluate(config, tmp_path / "whole")
    monkeypatch.setenv("STORED_MAPS", str(tmp_path / "maps"))
    batches, calls = pipeline.train_batches, []

    def recorded(split, config, start_step=0, **arguments):
        calls.append(start_step)
        return batches(split, config, start_step, **arguments)

    def told_to_stop(preemption):
        raise PreemptedError

    monkeypatch.setattr(stored_maps.pipeline, "train_batches", recorded)
    for _ in range(3):  # After each of the three batches.
        with monkeypatch.context() as patch:
            patch.setattr(train.Preemption, "poll", told_to_stop)
            with pytest.raises(PreemptedError):
                stored_maps.train_and_evaluate(config, tmp_path / "W")
        assert not [path for path in (tmp_path / "maps").iterdir() if not path.suffix]
        assert checkpoints.newest_step(tmp_path / "W") == 0
    stored_maps.train_and_evaluate(config, tmp_path / "W")
    assert calls == [0, 1, 2, 3]
    program.assert_same_run(tmp_path / "W", tmp_path / "whole")
    (resumed,) = (path for path in (tmp_path / "maps").iterdir() if path.is_dir())
    whole = maps / resumed.name
    names = sorted(file.name for file in whole.iterdir())
    assert sorted(file.name for file in resumed.iterdir()) == names
    for name in names:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_waits_for_maps_that_another_computes_until_it_is_told_to_stop(tmp_path):
    folder = tmp_path / "maps" / "name"

    def told_to_stop():
        raise PreemptedError

    with (
        stored_maps._locked(folder, never),
        pytest.raises(PreemptedError),
        stored_maps._locked(folder, told_to_stop),
    ):
        never()
    with stored_maps._locked(folder, never):
        pass


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.frozen": 4}, "stored maps need model.frozen=5, not 4"),
        ({"micro_batch": 2}, "stored maps need micro_batch=0, not 2"),
        ({"references.kind": "group"}, "need references.kind=none, not group"),
        ({}, "STORED_MAPS must name a folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work_directory_is_made(
    config, tmp_path, monkeypatch, fields, message
):
    if not fields:
        monkeypatch.delenv("STORED_MAPS")
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message):
        stored_maps.train_and_evaluate(config, tmp_path / "W")
    assert not (tmp_path / "W").exists()
