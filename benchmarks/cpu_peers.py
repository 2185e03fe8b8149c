"""Compares SSD300 and the borrowing detector in JAX and in PyTorch on a CPU.

  python -m benchmarks.cpu_peers [--mode=forward] [--mode=train] [--batches=1,8]

Rows are named MODE/MODEL/bBATCH:
  forward  images to logits and offsets of every anchor
  train    a step on prepared targets: forward, loss, gradient, SGD with momentum
Both sides have the same weights, images, targets and number of threads. PyTorch runs
eager and with torch.compile, both with channels last. With --micro_batch, ours sums
gradients over passes of that many images, as config.micro_batch does in a run.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np
import torch
from absl import flags

from benchmarks import ours, rows, setting, torch_ssd
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import cli

MODELS = {"ssd300": False, "borrow": True}


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit status."""
    options = _flags()
    setting.parse(options, argv, __doc__)
    with setting.started(options) as table:
        for batch in options.batches:
            for mode in options.mode:
                for model, borrow in MODELS.items():
                    config = ours.make_config(
                        borrow,
                        batch=batch,
                        size=options.size,
                        width=options.width,
                        micro_batch=min(options.micro_batch, batch),
                    )
                    measure = functools.partial(_row, mode, config, options.rounds)
                    table.measure(f"{mode}/{model}/b{batch}", measure)
    return 0


def _flags() -> flags.FlagValues:
    values = setting.make_flags(("forward", "train"), (1, 8), rounds=5)
    text: Any = {"flag_values": values}
    flags.DEFINE_float("width", 1.0, "Factor of the trunk's channels.", **text)
    flags.DEFINE_integer("size", 300, "Side of the input in pixels.", 257, **text)
    flags.DEFINE_integer(
        "micro_batch", 0, "Number of images per pass of ours (0: all).", 0, **text
    )
    return values


def _row(mode: str, config: ml_collections.ConfigDict, rounds: int) -> dict:
    """Returns the figures of a row."""
    return rows.compare({"forward": _forward, "train": _train}[mode](config), rounds)


def _forward(config: ml_collections.ConfigDict) -> dict[str, Callable]:
    task = DetectionTask(config, ours.CLASSES)
    variables = ours.draw_variables(task)
    image = ours.make_batch(config)["image"].astype(np.float32)

    def theirs(compiled: bool) -> Callable[[], None]:
        model = torch_ssd.SSD(config, variables["params"]).eval()
        run = torch.compile(model, dynamic=False) if compiled else model
        inputs = torch_ssd.images(image)

        def call() -> None:
            with torch.inference_mode():
                run(inputs)

        return call

    return {
        rows.OURS: lambda: ours.forward(task, variables, image),
        "eager": lambda: theirs(False),
        "compile": lambda: theirs(True),
    }


def _train(config: ml_collections.ConfigDict) -> dict[str, Callable]:
    task = DetectionTask(config, ours.CLASSES)
    variables = ours.draw_variables(task)
    examples, totals = ours.make_examples(task, ours.make_batch(config))

    def theirs(compiled: bool) -> torch_ssd.TorchTrainer:
        model = torch_ssd.SSD(config, variables["params"])
        image = torch_ssd.images(np.asarray(examples.image))
        targets = torch_ssd.make_targets(examples, totals)
        return torch_ssd.TorchTrainer(model, config, image, targets, compiled)

    return {
        rows.OURS: lambda: ours.PreparedTrainer(task, variables, examples, totals),
        "eager": lambda: theirs(False),
        "compile": lambda: theirs(True),
    }


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
