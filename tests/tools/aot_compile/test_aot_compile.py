"""Compilation for slices that are not attached, in separate processes."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from borrow_det.configs import quickstart
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.aot_compile import __main__ as aot_compile
from borrow_det.tools.aot_compile import tpu_programs
from borrow_det.tools.common import cli

# Fields of a small detector, as flags and as a config.
FIELDS = {
    "batch_size": 8,
    "eval_batch_size": 8,
    "input_size": (64, 64),
    "dataset.canvas": (64, 64),
    "model.stages": (1, 1, 1, 1, 1),
    "model.norm": "none",
    "nms.max_per_class": 20,
    "nms.max_total": 20,
}
BYTES = 4  # Size of a float32.

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="compiling for TPUs needs libtpu: pip install -r requirements-tpu.txt",
)


def arguments(*more):
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    return ["--config=configs/quickstart.py", *fields, *more]


def compile_for(topology, *more):
    """Returns (report of the tool, its output on stderr)."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.aot_compile"),
            *arguments(f"--topology={topology}", *more),
        ],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return json.loads(process.stdout), process.stderr


@pytest.fixture(scope="module")
def replicated():
    report, _ = compile_for("v5e:2x2", "--program=train,detect")
    return report


def parameter_shapes():
    config = quickstart.get_config()
    with config.unlocked():
        config.update_from_flattened_dict(FIELDS)
    task = DetectionTask(config, num_classes=4)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree.leaves(variables["params"])


@needs_libtpu
def test_a_replicated_step_reduces_only_gradients_and_loss_terms(replicated):
    assert replicated["devices"] == 4
    assert replicated["memory"] == 16 * 2**30
    assert replicated["num_classes"] == 4
    train = replicated["programs"]["train"]
    assert train["fits"]
    assert train["batch"] == 8
    assert train["flops"] > 0
    assert train["bytes_accessed"] > train["bytes"]["arguments"]
    assert train["cycles"]["total"] > train["cycles"]["in_loops"]
    assert set(train["collectives"]) == {"all-reduce"}
    # Gradients, the terms of the loss, and the counts that divide them.
    numbers = sum(leaf.size for leaf in parameter_shapes()) + 4 + 2
    assert train["collectives"]["all-reduce"]["bytes"] == BYTES * numbers
    # No loop waits for other devices.
    assert train["collectives"]["all-reduce"]["in_loops"] == 0


@needs_libtpu
def test_detection_needs_no_collectives(replicated):
    detect = replicated["programs"]["detect"]
    assert detect["fits"]
    assert detect["collectives"] == {}


@needs_libtpu
def test_fsdp_shards_large_parameters(replicated):
    split, _ = compile_for("v5e:2x2", "--program=train", "--config.mesh.fsdp=4")
    assert split["mesh"] == {"data": 1, "fsdp": 4}
    sizes = [leaf.size for leaf in parameter_shapes()]
    large = sum(size for size in sizes if size >= 2**14)
    assert large > 0
    before, after = (
        report["programs"]["train"]["bytes"]["arguments"]
        for report in (replicated, split)
    )
    # AdamW keeps two values per parameter. Layouts pad arrays.
    assert before - after == pytest.approx(BYTES * 3 * large * 3 / 4, rel=0.1)
    exchanged = split["programs"]["train"]["collectives"]
    # Parameters are gathered once, as bfloat16.
    assert exchanged["all-gather"]["bytes"] == 2 * large
    # Gradients are summed once, sharded or not, as are the squares of sharded ones for
    # the norm of the gradient.
    summed = exchanged["all-reduce"]["bytes"] + exchanged["reduce-scatter"]["bytes"]
    squares = sum(size >= 2**14 for size in sizes)
    assert summed == BYTES * (sum(sizes) + 4 + 2 + squares)


@needs_libtpu
def test_references_of_a_group_are_arguments_of_the_step(replicated):
    report, _ = compile_for(
        "v5e:2x2", "--program=train", "--config.references.kind=group"
    )
    before, after = (
        r["programs"]["train"]["bytes"]["arguments"] for r in (replicated, report)
    )
    # Two images per device and two references of each. Layouts pad arrays.
    assert after - before > 2 * 2 * 64 * 64 * 3


@needs_libtpu
def test_an_evaluation_by_tiles_with_an_overview_compiles():
    report, _ = compile_for(
        "v5e:2x2",
        "--program=evaluate",
        "--config.evaluation.tiles=2x2",
        "--config.references.kind=overview",
    )
    program = report["programs"]["evaluate"]
    assert program["fits"]
    # Boxes of 4 tiles and the entire image in 8 images, 20 each.
    assert program["bytes"]["outputs"] > 8 * 5 * 20 * 4 * BYTES
    assert program["cycles"]["in_loops"] > program["cycles"]["total"] / 2


@needs_libtpu
def test_a_program_that_does_not_fit_is_reported():
    report, said = compile_for(
        "v5e:2x2", "--program=detect", f"--config.eval_batch_size={2**20}"
    )
    detect = report["programs"]["detect"]
    assert not detect["fits"]
    assert detect["bytes"]["total"] > detect["bytes"]["available"] > 15 * 2**30
    assert "does not fit" in said


class Box:
    """Program whose memory is a linear function of the batch size."""

    unit = 4
    chip = tpu_programs.Chip(memory=1000)

    def __init__(self, fixed):
        self.fixed = fixed
        self.compiled = []

    def compile(self, batch):
        self.compiled.append(batch)
        total = self.fixed + 10 * batch
        return {"batch": batch, "fits": total <= 1000, "bytes": {"total": total}}


@pytest.mark.parametrize("begin", [4, 72, 76, 80, 400])
def test_the_largest_batch_fits_but_one_unit_more_does_not(begin):
    box = Box(fixed=210)  # 79 images fit, 4 at a time 76.
    begun, told = box.compile(begin), []
    assert tpu_programs.largest_batch(box, begun, told.append) == 76
    assert {76, 80} <= set(box.compiled)
    assert [found["batch"] for found in told] == box.compiled[1:]
    assert len(set(box.compiled)) == len(box.compiled) <= 9


def test_without_a_batch_that_fits_the_result_is_none():
    box = Box(fixed=990)
    assert tpu_programs.largest_batch(box, box.compile(8), lambda found: None) is None


@pytest.mark.parametrize("topology", ["v7x:2x2", "v5e", "v5e:2x", "tpu"])
def test_a_slice_that_does_not_exist_is_refused(topology, capsys):
    argv = ["aot_compile", *arguments(f"--topology={topology}")]
    assert cli.call(aot_compile.main, argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: --topology is {topology!r}; it must be one of v4, ")
