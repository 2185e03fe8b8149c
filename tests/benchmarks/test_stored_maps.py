"""Training on stored maps of frozen stages is training on the images they are of."""

import jax
import numpy as np
import pytest

from benchmarks import stored_maps
from borrow_det import train
from borrow_det.data import pipeline
from borrow_det.errors import InputError
from borrow_det.train_step import gradient_of_rows, update
from tests import program
from tests.conftest import StopError, StoppingBatches

pytestmark = [pytest.mark.benchmarks, pytest.mark.usefixtures("optax_promotes")]


@pytest.fixture
def config(make_tiny_config, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("STORED_MAPS", str(tmp_path / "maps"))
    config = make_tiny_config()
    fields = {"model.frozen": 5, "init_from": str(tiny_run.workdir), "seed": 3}
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture
def prepared(config, tmp_path):
    run = train.prepare_run(config, tmp_path / "W")
    yield run
    run.close()


def test_a_step_equals_that_on_the_images(prepared, config):
    task, state = prepared.task, jax.device_get(prepared.state)
    steps = stored_maps.make_steps(prepared)
    batch = next(steps.batches)
    (number,) = set(batch["number"].tolist())
    config.seed = 0  # Of the stored batches.
    images = next(pipeline.train_batches(prepared.train_split, config, number))
    key = jax.random.fold_in(jax.random.key(0), number)
    grads, terms, stats, _ = jax.jit(gradient_of_rows, static_argnums=0)(
        task, key, state.params, state.batch_stats, images
    )
    expected = update(task, state, grads, stats)
    found, metrics = steps.step(state, batch)
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


def test_runs_share_the_maps_and_resume(config, tmp_path, monkeypatch):
    def finish(name):
        train.train_and_evaluate(config, tmp_path / name, "", stored_maps.make_steps)

    finish("whole")
    monkeypatch.setattr(stored_maps, "_store", pytest.fail)
    stored = stored_maps._StoredBatches
    order = stored._order(3, seed=3, start=0)
    assert [sorted(next(order) for _ in range(3)) for _ in range(4)] == 4 * [[0, 1, 2]]

    def stopping(*arguments):
        return StoppingBatches(stored(*arguments), 3)

    with monkeypatch.context() as patch:
        patch.setattr(stored_maps, "_StoredBatches", stopping)
        with pytest.raises(StopError):
            finish("W")
    finish("W")
    program.assert_same_run(tmp_path / "W", tmp_path / "whole")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.frozen": 4}, "model.frozen=5"),
        ({"model.frozen": 5}, "STORED_MAPS"),
    ],
)
def test_what_is_missing_is_named(config, tmp_path, monkeypatch, fields, message):
    if message == "STORED_MAPS":
        monkeypatch.delenv("STORED_MAPS")
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message):
        train.train_and_evaluate(config, tmp_path / "W", "", stored_maps.make_steps)
