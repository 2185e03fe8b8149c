r"""Measures how time and memory grow with the sizes of inputs and datasets.

  python -m benchmarks.growth [--axis=size,batch,classes,objects,images] \
      [--rounds=5] [--width=1.0] [--output=FILE]

Axes:
  size     side of the input, 256 to 1024 pixels. Convolutions grow with its square, the
           products of matching with its fourth power.
  batch    images per step
  classes  classes of the heads, the loss and NMS
  objects  objects per image, each of which is compared with every anchor
  images   images of a dataset: preparing and opening it, checking its boxes, the first
           batch, and scoring ten detections per image

The first four axes use the detector of configs/base.py with drawn weights, at 256
pixels, batch 1, 80 classes and 8 objects except for the axis itself. `detect` goes from
uint8 images to detections, and `train` is a training step. All values of an axis are
timed in turns. ms are medians. MiB are the temporaries of the compiled program, or for
images the growth of a new process. GFLOP are those of convolutions and matrix products.
An exponent of 1 means that twice the size takes twice the time. It is fitted to all
values (least squares of logarithms) and to the last two, since constant costs flatten
the beginning.

Prints a JSON object to stdout and tables to stderr.
"""

import concurrent.futures
import functools
import json
import multiprocessing
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np
from absl import flags

from benchmarks import ours
from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.errors import check_choice
from borrow_det.evaluation import average_precision
from borrow_det.reporting import step_timer
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.aot_compile import program_cost
from borrow_det.tools.common import cli, synthetic, timing
from borrow_det.visualization.tables import markdown_table

AXES = {
    "size": (256, 384, 512, 640, 768, 1024),
    "batch": (1, 2, 4, 8),
    "classes": (1, 20, 80, 365),
    "objects": (8, 32, 128, 512),
    "images": (1000, 2000, 4000, 8000),
}
_START = {"size": 256, "batch": 1, "classes": 80, "objects": 8}
_BOXES = 10  # Objects and detections per image of a dataset.

Figures = dict[str, float]


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    for axis in options.axis:
        check_choice("--axis", axis, AXES)
    report: dict[str, dict[str, Mapping]] = {}
    for axis in options.axis:
        rows = (
            data_rows(AXES[axis], options.rounds)
            if axis == "images"
            else program_rows(axis, AXES[axis], options.width, options.rounds)
        )
        report[axis] = {"rows": rows, **exponents(rows)}
        print(table(axis, report[axis]), end="\n\n", file=sys.stderr, flush=True)
    content = {"width": options.width, "axes": report}
    text = json.dumps(content, separators=(",", ":"))
    print(text)
    if options.output:
        pathlib.Path(options.output).write_text(text + "\n")
    return 0


def exponents(rows: Mapping[int, Figures]) -> dict[str, Figures]:
    """Fits the exponent of each figure.

    Args:
      rows: figures by size, in ascending order.

    Returns:
      `exponent`, the slope of a figure's logarithm over that of the size, by least
      squares, and `at_the_end`, the same for the last two sizes. Figures that are zero
      have no exponent.
    """
    found: dict[str, Figures] = {"exponent": {}, "at_the_end": {}}
    sizes = np.log(list(rows))
    for name in next(iter(rows.values())):
        values = np.array([figures[name] for figures in rows.values()])
        if np.all(values > 0):
            for kind, last in (("exponent", len(values)), ("at_the_end", 2)):
                slope = np.polyfit(sizes[-last:], np.log(values[-last:]), 1)[0]
                found[kind][name] = round(float(slope), 2)
    return found


def table(axis: str, growth: Mapping[str, Mapping]) -> str:
    """Formats the rows and exponents of an axis as a Markdown table."""
    names = list(next(iter(growth["rows"].values())))
    lines = [
        (str(size), [f"{figures[name]:.4g}" for name in names])
        for size, figures in growth["rows"].items()
    ]
    for kind, text in (("exponent", "exponent"), ("at_the_end", "at the end")):
        lines.append((text, [str(growth[kind].get(name, "-")) for name in names]))
    return markdown_table(axis, names, lines)


# Programs.


def program_rows(
    axis: str, values: Sequence[int], width: float, rounds: int
) -> dict[int, Figures]:
    """Measures detection and a training step at each value of an axis."""
    rows: dict[int, Figures] = {value: {} for value in values}
    seconds = {}
    for kind, make in (("detect", _detect), ("train", _train)):
        calls = {}
        for value in values:
            call, compiled, flops = make(width, **{**_START, axis: value})
            calls[value] = call
            sizes = compiled.memory_analysis()
            assert sizes is not None
            memory = sizes.temp_size_in_bytes
            rows[value] |= {f"{kind} MiB": memory / 2**20, f"{kind} GFLOP": flops / 1e9}
        seconds[kind] = timing.in_turns(calls, rounds)
    for value, figures in rows.items():
        times = {
            f"{kind} ms": 1e3 * float(np.median(taken[value]))
            for kind, taken in seconds.items()
        }
        rows[value] = dict(sorted({**figures, **times}.items()))
    return rows


def _task(
    width: float, size: int, batch: int, classes: int, objects: int
) -> tuple[DetectionTask, dict, dict[str, np.ndarray]]:
    """Returns a task, its variables and a batch."""
    config = base.get_config()
    config.input_size = config.dataset.canvas = (size, size)
    config.batch_size = config.eval_batch_size = batch
    config.dataset.max_boxes = objects
    config.model.width = width
    task = DetectionTask(config, classes)
    made = synthetic.make_batch(config, classes, batch, objects)
    return task, ours.draw_variables(task), made


def _detect(width: float, **values: int) -> tuple[Callable, jax.stages.Compiled, int]:
    """Returns the call of detection in a batch, its program and its FLOPs."""
    task, variables, batch = _task(width, **values)
    arguments = jax.device_put((variables, batch["image"], batch["image_size"]))
    compiled = jax.jit(task.detect).lower(*arguments).compile()
    flops = program_cost.products(task.detect, *arguments).flops
    return functools.partial(compiled, *arguments), compiled, flops


def _train(width: float, **values: int) -> tuple[Callable, jax.stages.Compiled, int]:
    """Returns the call of a training step, its program and its FLOPs."""
    trainer = ours.RunTrainer(*_task(width, **values))
    return trainer, trainer.compiled, trainer.flops()


# Datasets.


def data_rows(values: Sequence[int], rounds: int) -> dict[int, Figures]:
    """Measures datasets of each size in new processes; returns medians."""
    measured: dict[int, list[Figures]] = {value: [] for value in values}
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(1, context, max_tasks_per_child=1)
    with pool:
        for _ in range(rounds):
            for value, figures in measured.items():
                figures.append(pool.submit(_measure_data, value).result())
    return {
        value: {
            name: float(np.median([figures[name] for figures in each]))
            for name in each[0]
        }
        for value, each in measured.items()
    }


def _measure_data(count: int) -> Figures:
    """Measures seconds of each operation on a dataset of `count` images, and MiB."""
    before = _peak_memory()
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_set(pathlib.Path(folder), count)
        config = base.get_config()
        config.dataset.name = "folder"
        config.dataset.path = folder
        config.dataset.data_dir = f"{folder}/prepared"
        config.dataset.canvas = (64, 64)

        def timed(name: str, function: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            result = function()
            figures[f"{name} s"] = time.perf_counter() - start
            return result

        def first_batch() -> None:
            batches = pipeline.train_batches(split, config)
            next(batches)
            batches.close()

        timed("prepare", lambda: sources.load(config.dataset, "train"))
        split = timed("open", lambda: sources.load(config.dataset, "train"))
        timed("check", lambda: pipeline.check_training_data(split, config))
        timed("first batch", first_batch)
        truth = timed("ground truth", lambda: sources.ground_truth(split))
        detections = _detections(truth)
        timed("score", lambda: average_precision.coco_metrics(truth, detections))
    return {**figures, "MiB": _peak_memory() - before}


def _peak_memory() -> float:
    """Returns the peak memory of this process in MiB."""
    return step_timer.memory_metrics()["memory/host_peak"] / 2**20


def _write_set(folder: pathlib.Path, count: int) -> None:
    """Writes a folder of noise images of 64 pixels with COCO annotations."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    (folder / "images").mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id in range(count):
        name = f"{image_id}.jpg"
        (folder / "images" / name).write_bytes(encoded)
        images.append(dict(id=image_id, file_name=name, width=64, height=64))
        for x, y, side in random.integers(4, 32, (_BOXES, 3)).tolist():
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=1 + side % 8,
                    bbox=[x, y, side, side],
                    area=side**2,
                    iscrowd=0,
                )
            )
    categories = [dict(id=1 + n, name=f"class {n}") for n in range(8)]
    text = json.dumps(
        dict(images=images, annotations=annotations, categories=categories)
    )
    (folder / "train.json").write_text(text)


def _detections(truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a detection near each object."""
    random = np.random.default_rng(1)
    objects = truth["annotations"]
    moved = random.normal(0, 2, (len(objects), 2))
    scores = random.uniform(size=len(objects)).tolist()
    return [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "bbox": [one["bbox"][0] + dx, one["bbox"][1] + dy, *one["bbox"][2:]],
            "score": score,
        }
        for one, (dx, dy), score in zip(objects, moved.tolist(), scores, strict=True)
    ]


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    flags.DEFINE_list("axis", list(AXES), "Axes to measure.", **text)
    flags.DEFINE_integer(
        "rounds", 5, "Number of timings of each value.", lower_bound=1, **text
    )
    flags.DEFINE_float("width", 1.0, "Factor of the trunk's channels.", **text)
    flags.DEFINE_string("output", None, "File for a copy of the JSON.", **text)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
