"""The start of a run: each part is made once, and in an order that refuses first."""

import json
import shutil

import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.workdir import checkpoints, metadata

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture
def calls(monkeypatch):
    """Counts of the calls that make the parts of a start."""
    counts = {}

    def count(owner, name):
        function = getattr(owner, name)
        counts[name] = 0

        def counted(*arguments, **options):
            counts[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    for name in ("open_data", "abstract_state", "draw_state"):
        count(train, name)
    count(checkpoints, "restore_variables")
    count(metadata, "prepare")
    return counts


def test_a_fresh_run_makes_each_part_once(tiny_run, tiny_config, tmp_path, calls):
    tiny_config.init_from = str(tiny_run.workdir)
    run = train.prepare_run(tiny_config, tmp_path / "W")
    run.close()
    assert set(calls.values()) == {1}
    assert run.checkpoints.latest_step is None
    record = json.loads((tmp_path / "W" / "initialization.json").read_text())
    assert record["fresh"] == []
    assert list(record) == [
        *("origin", "scope", "taken", "fresh", "other_heads", "normalization")
    ]


def test_a_resumed_run_draws_and_looks_up_no_parameters(tiny_run, tmp_path, calls):
    folder = shutil.copytree(tiny_run.workdir, tmp_path / "W")
    config = tiny_run.config.copy_and_resolve_references()
    config.init_from = str(tmp_path / "vanished")
    config.init_normalization = False
    run = train.prepare_run(config, folder)
    run.close()
    assert int(run.state.step) == 4
    assert (calls["draw_state"], calls["restore_variables"]) == (0, 0)
    assert calls["open_data"] == calls["abstract_state"] == calls["prepare"] == 1


def test_weights_that_do_not_fit_are_refused_before_anything_is_drawn(
    tiny_run, tiny_config, tmp_path, calls
):
    tiny_config.init_from = str(tiny_run.workdir)
    tiny_config.model.width = 1 / 16
    with pytest.raises(InputError, match="its trunk does not fit"):
        train.prepare_run(tiny_config, tmp_path / "W")
    assert calls["draw_state"] == calls["prepare"] == 0
    assert not (tmp_path / "W").exists()
