"""The host's work while the devices compute: it sends the next batches."""

import numpy as np
import pytest

from borrow_det import train
from borrow_det.distributed import mesh as mesh_lib

pytestmark = pytest.mark.usefixtures("optax_promotes")


class Watched:
    """A metric that records when the host waits for it or takes it."""

    def __init__(self, value, step, events):
        self.value, self.step, self.events = value, step, events

    def _record(self, event):
        if self.events[-1] != (event, self.step):
            self.events.append((event, self.step))

    def block_until_ready(self):
        self._record("waited for")
        return self

    def __array__(self, dtype=None, copy=None):
        self._record("taken")
        return np.asarray(self.value)


def test_host_sends_batches_ahead_and_reads_no_metrics_between_lines(
    tiny_config, tmp_path, monkeypatch
):
    events = []
    make_step, put_batch = train.make_train_step, mesh_lib.put_batch

    def make_watched_step(*args):
        train_step = make_step(*args)

        def step(state, batch):
            number = sum(event == "begun" for event, _ in events) + 1
            events.append(("begun", number))
            state, metrics = train_step(state, batch)
            return state, {n: Watched(v, number, events) for n, v in metrics.items()}

        return step

    def watched_put(batch, mesh):
        events.append(("put", sum(event == "put" for event, _ in events) + 1))
        return put_batch(batch, mesh)

    monkeypatch.setattr(train, "make_train_step", make_watched_step)
    monkeypatch.setattr(mesh_lib, "put_batch", watched_put)
    tiny_config.num_steps = tiny_config.log_every = tiny_config.checkpoint_every = 5
    tiny_config.eval_every = 5
    train.train_and_evaluate(tiny_config, tmp_path / "W")
    # Two steps are queued behind the one that is waited for.
    expected = [("put", 1), ("begun", 1), ("put", 2), ("begun", 2)]
    for step in (1, 2, 3):
        expected += [("put", step + 2), ("begun", step + 2), ("waited for", step)]
    expected += [("taken", step) for step in (1, 2, 3, 4, 5)]
    # After them it evaluates.
    assert events[: len(expected)] == expected
