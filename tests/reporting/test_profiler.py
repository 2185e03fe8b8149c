"""Traces of some steps: the steps, and formats that other programs open."""

import gzip
import json

import jax
import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.reporting import profiler


@pytest.mark.parametrize(
    ("text", "start", "steps"),
    [("5", 0, (3, 7)), ("1", 100, (103, 103)), ("8:9", 7, (8, 9))],
)
def test_steps_are_a_number_or_a_range(text, start, steps):
    assert profiler.parse_steps(text, start) == steps


@pytest.mark.parametrize("text", ["0", "-3", "3:", "a", "9:8", "7:9", "1:2:3"])
def test_other_steps_are_refused(text):
    with pytest.raises(InputError, match=f"--profile={text}"):
        profiler.parse_steps(text, 7)


def test_a_run_leaves_a_trace_of_its_steps(tiny_config, tmp_path):
    tiny_config.num_steps = 6
    tiny_config.eval_every = 6
    with jax.numpy_dtype_promotion("standard"):  # Inside of optax.
        train.train_and_evaluate(tiny_config, tmp_path / "W", profile="2")
    (folder,) = (tmp_path / "W" / "profile" / "plugins" / "profile").iterdir()
    # For TensorBoard.
    (protobuf,) = folder.glob("*.xplane.pb")
    assert protobuf.stat().st_size > 0
    # For Perfetto.
    (trace,) = folder.glob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    steps = [e["args"]["step_num"] for e in events if e.get("name") == "train"]
    assert sorted(map(int, steps)) == [3, 4]
