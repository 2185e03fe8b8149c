"""Runs on one device, on eight, and on two real processes are the same run."""

import json
import signal

import jax
import numpy as np
import pytest

from borrow_det.distributed import mesh as mesh_lib
from tests import program
from tests.tiny_config import REFERENCES

pytestmark = pytest.mark.processes

FIELDS = ("num_steps=6", "batch_size=8", "eval_batch_size=8", "eval_every=6")
# Means over one step: every line can be compared.
FIELDS += ("log_every=1", "ema_decay=0.5")


@pytest.fixture(scope="module", autouse=True)
def optax_promotes():
    """Allows the promotion of integers inside optax."""
    with jax.numpy_dtype_promotion("standard"):
        yield


LAYOUTS = [(1, 8), (2, 4)]  # Processes, and devices of each.
KINDS = (
    "none",
    *(pytest.param(k, marks=pytest.mark.slow) for k in ("overview", "group")),
)


def fields_of(kind):
    """The fields of a run with references of a kind."""
    return (*FIELDS, *(f"{name}={value}" for name, value in REFERENCES[kind].items()))


def runner(fields, scenes, folders):
    """A function: finishes a run on some processes and devices, and records batches.

    It returns (work directory, printed text, {process: its batches}).
    """
    done = {}

    def run(processes, devices):
        if (processes, devices) not in done:
            folder = folders.mktemp("runs") / f"{processes}x{devices}"
            record = folder.with_name("record")
            process = program.start(
                scenes,
                folder,
                *fields,
                processes=processes,
                devices=devices,
                record=record,
            )
            text = program.finish(process, folder)
            batches = {
                int(path.stem): [json.loads(x) for x in path.read_text().splitlines()]
                for path in record.iterdir()
            }
            done[processes, devices] = folder, text, batches
        return done[processes, devices]

    return run


@pytest.fixture(scope="module", params=KINDS)
def fields(request):
    return fields_of(request.param)


@pytest.fixture(scope="module")
def run(fields, scenes, tmp_path_factory):
    return runner(fields, scenes, tmp_path_factory)


def assert_same_batches(run, layout):
    (expected,) = run(1, 1)[2].values()
    found = run(*layout)[2]
    assert sorted(found) == list(range(layout[0]))
    assert len(expected) == 6
    for batches in found.values():
        assert [b["hash"] for b in batches] == [b["hash"] for b in expected]
    # Each process read its rows and no others.
    for step, batch in enumerate(expected):
        own = [found[process][step]["own"] for process in sorted(found)]
        assert {len(ids) for ids in own} == {8 // layout[0]}
        assert [i for ids in own for i in ids] == batch["own"]


def assert_losses_within_rounding(run, layout):
    # The order of a sum over a batch differs; a float32 has 24 bits.
    expected, found = (program.metrics(run(*n)[0]) for n in ((1, 1), layout))
    for a, b in zip(found, expected, strict=True):
        assert a["step"] == b["step"]
        if "loss" in b:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-6), a["step"]
    assert found[-1]["val/AP"] == pytest.approx(expected[-1]["val/AP"], abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_batch_is_the_batch_of_one_device(run, layout):
    assert_same_batches(run, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_equal_those_of_one_device_within_rounding(run, layout):
    assert_losses_within_rounding(run, layout)


def test_tiles_and_a_group_of_references_do_not_depend_on_processes_and_devices(
    scenes, tmp_path_factory
):
    run = runner(fields_of("group"), scenes, tmp_path_factory)
    assert_same_batches(run, (2, 4))
    assert_losses_within_rounding(run, (2, 4))


def test_only_the_main_process_prints_and_writes(run):
    folder, text, _ = run(2, 4)
    assert text.count("step 6/6") == 1
    others = [line for line in text.splitlines() if line.startswith("[1]")]
    assert not any("step " in line or "parameters" in line for line in others)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    found, expected = (
        sorted(str(p.relative_to(f)) for p in f.rglob("*.*") if "events" not in p.name)
        for f in (folder / "evaluations", run(1, 8)[0] / "evaluations")
    )
    assert found == expected


def test_every_image_is_evaluated_once(run):
    detections = json.loads(
        (run(2, 4)[0] / "evaluations" / "val" / "6.detections.json").read_text()
    )
    order = [d["image_id"] for d in detections]
    assert sorted(set(order)) == list(range(10, 17))
    # In the order of the split, without repetition.
    assert order == sorted(order)
    boxes = [(d["image_id"], d["category_id"], *d["bbox"]) for d in detections]
    assert len(boxes) == len(set(boxes))


def test_two_preempted_processes_resume_as_one_with_the_same_bits(
    scenes, fields, run, tmp_path
):
    folder = tmp_path / "W"
    process = program.start(scenes, folder, *fields, processes=2, pause=0.3)
    program.wait_for(lambda: program.last_step(folder) >= 2, process)
    process.send_signal(signal.SIGTERM)
    text = program.finish(process, folder, status=75)
    assert "preempted; start again to resume in" in text
    saved = int(program.state(folder)["step"])
    assert 2 <= saved < 6
    process = program.start(scenes, folder, *fields, devices=2)
    assert f"resuming at step {saved}" in program.finish(process, folder)
    # The order of two summands does not matter.
    program.assert_same_run(folder, run(1, 2)[0])


def test_a_dead_process_ends_the_others(scenes, tmp_path):
    folder = tmp_path / "W"
    many = (*FIELDS[1:], "num_steps=9999", "eval_every=9999")
    process = program.start(scenes, folder, *many, processes=2, pause=0.1)
    program.wait_for(lambda: program.last_step(folder) >= 1, process)
    (children,) = [
        [int(pid) for pid in path.read_text().split()]
        for path in program.pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")
    ]
    assert children
    program.os.kill(children[-1], signal.SIGKILL)
    assert process.wait(timeout=program.LIMIT) not in (0, 75)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_checkpoint_is_restored_exactly_on_other_meshes(run, parts):
    mesh = mesh_lib.make_mesh({"data": -1, "fsdp": parts})
    first, second = program.state(run(2, 4)[0], mesh), program.state(run(2, 4)[0])
    jax.tree.map(np.testing.assert_array_equal, first, second)
