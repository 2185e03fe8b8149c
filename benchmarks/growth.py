r"""How time and memory grow with what a user may make larger, and how they must.

  python -m benchmarks.growth [--axis=size,batch,classes,objects,images] \
      [--rounds=5] [--width=1.0] [--output=FILE]

  size     side of the input, 256 to 1024 pixels: convolutions grow with its square;
           the products of matching, of positions with positions, with its fourth power
  batch    images of a step
  classes  of the heads, the loss and NMS
  objects  of each image, which every anchor is compared with
  images   of a data set: preparing and opening it, checking its boxes, the first
           batch, and scoring ten detections of each image

Of the first four: the detector of configs/base.py at 256 pixels, batch 1, 80 classes
and 8 objects but for what grows, with drawn weights; `detect` from uint8 images to
detections, `train` a whole step. All values of an axis are timed in turns; ms are
medians, MiB the temporaries of the compiled program (or, of images, how much a new
process grew), GFLOP those of its convolutions and products. An exponent of 1 says that
twice as much takes twice as long: of all values (least squares of logarithms) and,
since what is always there flattens the beginning, of the last two.

Prints a JSON object to stdout, and tables to stderr.
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

import cv2
import jax
import numpy as np
from absl import flags

from benchmarks import ours
from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.errors import InputError, check_choice
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
_BOXES = 10  # Objects and detections of an image of a data set.

Figures = dict[str, float]


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit status."""
    options = _flags()
    surplus = cli.parse(options, argv, __doc__)
    if surplus:
        raise InputError(f"unexpected argument {surplus[0]!r}")
    for axis in options.axis:
        check_choice("--axis", axis, AXES)
    report = {}
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
    """Of each figure, by its values at rising sizes.

    Returns:
      `exponent`, the slope of its logarithm over that of the size, by least squares;
      `at_the_end`, the same of the last two sizes. A figure that is zero has none.
    """
    found = {"exponent": {}, "at_the_end": {}}
    sizes = np.log(list(rows))
    for name in next(iter(rows.values())):
        values = np.array([figures[name] for figures in rows.values()])
        if np.all(values > 0):
            for kind, last in (("exponent", len(values)), ("at_the_end", 2)):
                slope = np.polyfit(sizes[-last:], np.log(values[-last:]), 1)[0]
                found[kind][name] = round(float(slope), 2)
    return found


def table(axis: str, growth: Mapping[str, Mapping]) -> str:
    """Rows and exponents of an axis, in Markdown."""
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
    """Of each value the figures of detecting and of a training step."""
    rows, seconds = {value: {} for value in values}, {}
    for kind, make in (("detect", _detect), ("train", _train)):
        calls = {}
        for value in values:
            call, compiled, flops = make(width, **{**_START, axis: value})
            calls[value] = call
            memory = compiled.memory_analysis().temp_size_in_bytes
            rows[value] |= {f"{kind} MiB": memory / 2**20, f"{kind} GFLOP": flops / 1e9}
        seconds[kind] = timing.in_turns(calls, rounds)
    for value, figures in rows.items():
        times = {
            f"{kind} ms": 1e3 * float(np.median(taken[value]))
            for kind, taken in seconds.items()
        }
        rows[value] = dict(sorted({**figures, **times}.items()))
    return rows


def _task(width, size, batch, classes, objects):
    """A task, its weights and a batch."""
    config = base.get_config()
    config.input_size = config.dataset.canvas = (size, size)
    config.batch_size = config.eval_batch_size = batch
    config.dataset.max_boxes = objects
    config.model.width = width
    task = DetectionTask(config, classes)
    made = synthetic.make_batch(config, classes, batch, objects)
    return task, ours.draw_variables(task), made


def _detect(width, **values) -> tuple[Callable, jax.stages.Compiled, int]:
    """Detections of a batch: the call, its program, and its FLOPs."""
    task, variables, batch = _task(width, **values)
    arguments = jax.device_put((variables, batch["image"], batch["image_size"]))
    compiled = jax.jit(task.detect).lower(*arguments).compile()
    flops = program_cost.products(task.detect, *arguments).flops
    return functools.partial(compiled, *arguments), compiled, flops


def _train(width, **values) -> tuple[Callable, jax.stages.Compiled, int]:
    """A step of a batch: the call, its program, and its FLOPs."""
    trainer = ours.RunTrainer(*_task(width, **values))
    return trainer, trainer.compiled, trainer.flops()


# Data sets.


def data_rows(values: Sequence[int], rounds: int) -> dict[int, Figures]:
    """Of each number of images medians of what new processes measure."""
    measured = {value: [] for value in values}
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
    """Seconds of what is done with a data set of `count` images, and MiB of it all."""
    before, figures = _peak_memory(), {}
    with tempfile.TemporaryDirectory() as folder:
        _write_set(pathlib.Path(folder), count)
        config = base.get_config()
        config.dataset.name = "coco_folder"
        config.dataset.path = folder
        config.dataset.data_dir = f"{folder}/prepared"
        config.dataset.canvas = (64, 64)

        def timed(name, function):
            start = time.perf_counter()
            result = function()
            figures[f"{name} s"] = time.perf_counter() - start
            return result

        def first_batch():
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
    """MiB that this process has held at most."""
    return step_timer.memory_metrics()["memory/host_peak"] / 2**20


def _write_set(folder: pathlib.Path, count: int) -> None:
    """A folder of images of noise, of 64 pixels, with COCO annotations."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", pixels)[1].tobytes()
    (folder / "images").mkdir()
    images, annotations = [], []
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


def _detections(truth):
    """One for each object, a little beside it."""
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
    text = {"flag_values": values}
    flags.DEFINE_list("axis", list(AXES), "What grows.", **text)
    flags.DEFINE_integer("rounds", 5, "Timings of each.", lower_bound=1, **text)
    flags.DEFINE_float("width", 1.0, "Of the trunk.", **text)
    flags.DEFINE_string("output", None, "A file for the JSON, too.", **text)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
