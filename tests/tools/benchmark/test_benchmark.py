"""The benchmark tool on a tiny config: its counts, and its comparisons of rows."""

import json
import pathlib

import jax
import numpy as np
import pytest

from borrow_det.data.augmentation import resampling
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.aot_compile import program_cost
from borrow_det.tools.benchmark import __main__ as benchmark
from borrow_det.tools.benchmark import programs
from borrow_det.tools.common import cli, synthetic

CONFIGS = pathlib.Path(__file__).resolve().parents[3] / "configs"
CLASSES = 4


@pytest.fixture
def run(scenes, capsys):
    """Function that returns the tool's report on the tiny config, and its table."""

    def run(mode, *arguments):
        tiny = pathlib.Path(__file__).parents[2] / "tiny_config.py"
        argv = [
            *("benchmark", f"--config={tiny}:{scenes}", f"--mode={mode}"),
            *("--rounds=2", f"--num_classes={CLASSES}", *arguments),
        ]
        with jax.numpy_dtype_promotion("standard"):  # optax promotes integers.
            status = cli.call(benchmark.main, argv)
        out, err = capsys.readouterr()
        assert status == 0, err
        return json.loads(out), err

    return run


def flops_of_detecting(config):
    task = DetectionTask(config, CLASSES)
    batch = synthetic.make_batch(config, CLASSES, config.eval_batch_size)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    references = synthetic.make_reference_maps(task, config.eval_batch_size)
    arguments = (variables, batch["image"], batch["image_size"], references)
    return program_cost.products(task.detect, *arguments).flops


@pytest.mark.parametrize("mode", ["forward", "detect"])
def test_a_row_has_time_rate_flops_and_memory_of_a_call(run, tiny_config, mode):
    # Blocks and column pairs add loops and zeros, which do not count.
    report, table = run(
        mode, "--config.borrow.query_block=8", "--config.first_stage=pairs"
    )
    row = report["rows"][mode]
    assert row["batch"] == 4
    assert row["images_per_second"] == pytest.approx(4 / (row["ms"] / 1e3))
    assert row["ms_low"] <= row["ms"] <= row["ms_high"]
    assert row["flops"] == flops_of_detecting(tiny_config)
    rate = report["matmul"]["float32"]
    assert row["of_matmul_rate"] == pytest.approx(row["flops"] / row["ms"] * 1e3 / rate)
    assert row["compile_seconds"] > 0
    assert row["bytes"]["temporaries"] > 0
    assert report["memory"]["memory/host_peak"] > 2**20
    assert mode in table


def test_detection_has_ready_made_maps_of_references(run, tiny_config):
    row = run("detect", "--config.references.kind=group")[0]["rows"]["detect"]
    without = flops_of_detecting(tiny_config)
    # Level 1 has 8 x 8 positions; those deeper have 16, 4 and 1 of 16, 32 and 16
    # channels. phi and g embed them in 8 channels; S = Q K and Z = P V.
    embedding = 2 * (16 * 16 + 4 * 32 + 1 * 16) * 8 * 2
    attention = 2 * 64 * 21 * 8 * 2
    expected = without + 4 * 2 * (embedding + attention)  # Two of each of four images.
    assert row["flops"] == expected
    tiny_config.references.kind = "overview"
    assert flops_of_detecting(tiny_config) == (without + expected) / 2


@pytest.mark.slow
def test_blocks_of_a_training_step_have_references(run):
    fields = ("--config.references.kind=group", "--config.references.count=3")
    with_references = run("blocks", *fields)[0]["rows"]
    without = run("blocks")[0]["rows"]
    assert with_references.keys() == without.keys()
    # Each image has three more to compute the maps of.
    trunk = [rows["trunk"]["flops"] for rows in (with_references, without)]
    assert trunk[0] == 4 * trunk[1]
    head = [rows["head1"]["flops"] for rows in (with_references, without)]
    assert head[0] == head[1]


def test_two_configs_are_compared_within_rounds(run, tiny_config):
    plain = [f"--compare={CONFIGS / 'quickstart.py'}:borrow=False"]
    plain += ["--compare.batch_size=2", "--compare.input_size=(64, 64)"]
    report, table = run("train", *plain)
    ours, compared = report["rows"]["train"], report["compared"]["train"]
    assert (ours["batch"], compared["batch"]) == (4, 2)
    assert report["ratio_low"] <= report["ratio"] <= report["ratio_high"]
    assert "ratio" in table
    # The gradient has two more products for each of the network, one for the first.
    batch = synthetic.make_batch(tiny_config, CLASSES, 4)
    canvases, size = (batch["image"], batch["image_size"]), tiny_config.input_size
    resizing = program_cost.products(
        lambda *canvases: resampling.resize_batch(*canvases, size), *canvases
    ).flops
    network = flops_of_detecting(tiny_config) - resizing
    assert 2.5 < (ours["flops"] - resizing) / network < 3


def test_ratios_are_taken_between_times_of_the_same_round():
    one = {"a": None}
    seconds = {(0, "a"): np.array([2.0, 9.0, 4.0]), (1, "a"): np.array([1.0, 3.0, 4.0])}
    assert benchmark._ratios(one, one, seconds) == {
        "ratio_low": 1.5,
        "ratio": 2.0,
        "ratio_high": 2.5,
    }
    seconds |= {(0, "b"): np.ones(3), (1, "c"): np.ones(3)}
    found = benchmark._ratios({"a": 0, "b": 0}, {"a": 0, "c": 0}, seconds)
    assert found["ratio"] == {"a": 2.0}


def test_the_time_of_several_steps_is_divided_by_their_number():
    program = programs.Program(
        lambda: 0.0,
        images=80,
        repeats=8,
        devices=2,
        flops=6400,
        data_wait=[1.0, 0.1, 0.2],
    )
    row = benchmark._row(program, np.array([4.0, 2.0, 8.0]), rate=400.0)
    assert (row["batch"], row["ms"], row["ms_high"]) == (10, 500.0, 750.0)
    assert row["images_per_second"] == 20
    assert row["of_matmul_rate"] == 6400 / 4 / (400 * 2)
    assert row["data_wait"] == pytest.approx(0.15)


def test_input_and_end_to_end_run_on_the_dataset(run):
    report, _ = run("end_to_end")
    row = report["rows"]["end_to_end"]
    assert row["batch"] == 4
    assert 0 < row["data_wait"] < 1
    assert row["flops"] == 8 * run("train")[0]["rows"]["train"]["flops"]
    report, _ = run("input", "--config.batch_size=2")
    assert report["rows"]["input"]["batch"] == 2


@pytest.mark.parametrize(("threads", "count"), [(0, 8), (3, 9), (8, 8), (16, 16)])
def test_timings_cover_a_multiple_of_the_parallel_batches(tiny_config, threads, count):
    tiny_config.dataset.num_threads = threads
    assert programs._consecutive_batches(tiny_config) == count


def test_flops_of_blocks_add_up_to_those_of_detection(run, tiny_config):
    report, _ = run("blocks")
    rows = report["rows"]
    neck = [f"neck/{b}1" for b in ("fmb", "frb", "ffb")]
    neck += [f"neck/context{n}" for n in (1, 2, 3)]
    parts = ["resizing", "trunk", *neck, *(f"head{n}" for n in (1, 2, 3, 4))]
    assert sum(rows[part]["flops"] for part in parts) == flops_of_detecting(tiny_config)
    for part in parts[1:]:
        twice = rows[f"{part}, gradient"]["flops"] / rows[part]["flops"]
        assert 2 <= twice <= 3
    others = {"augmentation and targets", "loss", "loss, gradient"}
    assert others | {"decoding and suppression", "neck/ffb2"} <= set(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode=walk"], "--mode"),
        (["--mode=forward", "--rounds=0"], "rounds"),
        (["--mode=forward", "--config.batch_size=0"], "batch_size"),
        (["--mode=detect", "--config.eval_batch_size=0"], "eval_batch_size"),
        (["--mode=forward", "--config.borrow.query_block=0"], "query_block"),
        (["--mode=forward", "--config.borrow.attention=cudnn"], "NVIDIA"),
        (["--mode=forward", "surplus"], "surplus"),
        (["--mode=detect", "--config.task=classification"], "task=detection"),
        (["--mode=input", "--config.dataset.path=/nowhere"], "/nowhere"),
        (["--mode=forward", "--compare=/nowhere.py"], "/nowhere.py"),
    ],
)
def test_wrong_input_gets_one_line(scenes, capsys, arguments, message):
    tiny = pathlib.Path(__file__).parents[2] / "tiny_config.py"
    argv = ["benchmark", f"--config={tiny}:{scenes}", *arguments]
    assert cli.call(benchmark.main, argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
