"""The best checkpoint's file, and the checkpoint that is asked for."""

import json

import pytest

from borrow_det.errors import InputError
from borrow_det.workdir import best

BEST = best.Best(2, "val", "AP_small", 0.5)


@pytest.fixture
def workdir(tmp_path):
    """A work directory with complete checkpoints of steps 2 and 10."""
    for name in ("2", "10", "12.orbax-checkpoint-tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "_CHECKPOINT_METADATA").write_text("{}")
    best.write(tmp_path, BEST)
    return tmp_path


def test_the_file_is_read_as_written_and_none_removes_it(workdir):
    assert json.loads((workdir / "best.json").read_text()) == {
        "step": 2,
        "split": "val",
        "metric": "AP_small",
        "value": 0.5,
    }
    assert best.read(workdir) == BEST
    for _ in range(2):
        best.write(workdir, None)
        assert best.read(workdir) is None


@pytest.mark.parametrize(
    ("step", "expected"), [("best", 2), ("last", 10), (None, 10), (2, 2), (7, 7)]
)
def test_a_step_is_named_or_a_number(workdir, step, expected):
    assert best.find_step(workdir, step) == expected


def test_what_exists_is_named_where_there_is_no_best(workdir):
    with pytest.raises(InputError, match="step is 'first'; it must be best, last or"):
        best.find_step(workdir, "first")
    best.write(workdir, BEST._replace(step=4))
    with pytest.raises(InputError, match=r"of step 4, is gone; .* steps \[2, 10\]$"):
        best.find_step(workdir, "best")
    best.write(workdir, None)
    with pytest.raises(InputError, match=r"no best checkpoint: .* steps \[2, 10\]$"):
        best.find_step(workdir, "best")
    with pytest.raises(InputError, match="holds no checkpoints that are complete"):
        best.find_step(workdir / "checkpoints", "best")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"step": "2"}, "no valid step:"), ({"split": None, "value": None}, "split, val")],
)
def test_a_damaged_file_is_named(workdir, fields, message):
    (workdir / "best.json").write_text(json.dumps(BEST._asdict() | fields))
    with pytest.raises(InputError, match=rf"best\.json has {message}|{message}"):
        best.read(workdir)
