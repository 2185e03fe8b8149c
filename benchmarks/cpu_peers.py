"""On a CPU: this project's SSD300 and borrowing detector against them in PyTorch.

  python -m benchmarks.cpu_peers [--mode=forward] [--mode=train] [--batches=1,8]

Rows are MODE/MODEL/bBATCH. The weights are the same ones, and so are images, targets
and the number of threads. forward: images to the logits and offsets of every anchor.
train: the same from prepared targets, loss, gradient and SGD with momentum. Theirs:
eager and torch.compile, both channels_last; ours: with --micro_batch the gradients are
summed over passes of so many images, as config.micro_batch does in a run.
"""

import sys
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np
import torch
from absl import flags

from benchmarks import ours, rows, setting, torch_ssd
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import cli

MODELS = {"ssd300": False, "borrow": True}


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit status."""
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
                    table.measure(
                        f"{mode}/{model}/b{batch}",
                        lambda m=mode, c=config: _row(m, c, options.rounds),
                    )
    return 0


def _flags():
    values = setting.make_flags(("forward", "train"), (1, 8), rounds=5)
    text = {"flag_values": values}
    flags.DEFINE_float("width", 1.0, "Multiplies the trunk's channels.", **text)
    flags.DEFINE_integer("size", 300, "The input's side in pixels.", 257, **text)
    flags.DEFINE_integer("micro_batch", 0, "Images a pass of ours; 0: all.", 0, **text)
    return values


def _row(mode: str, config: ml_collections.ConfigDict, rounds: int) -> dict:
    """A row's figures."""
    return rows.compare({"forward": _forward, "train": _train}[mode](config), rounds)


def _forward(config) -> dict[str, Callable]:
    task = DetectionTask(config, ours.CLASSES)
    variables = ours.draw_variables(task)
    image = ours.make_batch(config)["image"].astype(np.float32)

    def theirs(compiled):
        model = torch_ssd.SSD(config, variables["params"]).eval()
        run = torch.compile(model, dynamic=False) if compiled else model
        inputs = torch_ssd.images(image)

        def call():
            with torch.inference_mode():
                run(inputs)

        return call

    return {
        rows.OURS: lambda: ours.forward(task, variables, image),
        "eager": lambda: theirs(False),
        "compile": lambda: theirs(True),
    }


def _train(config) -> dict[str, Callable]:
    task = DetectionTask(config, ours.CLASSES)
    variables = ours.draw_variables(task)
    examples, totals = ours.make_examples(task, ours.make_batch(config))

    def theirs(compiled):
        model = torch_ssd.SSD(config, variables["params"])
        image = torch_ssd.images(np.asarray(examples.image))
        targets = torch_ssd.make_targets(examples, totals)
        return torch_ssd.Trainer(model, config, image, targets, compiled)

    return {
        rows.OURS: lambda: ours.Trainer(task, variables, examples, totals),
        "eager": lambda: theirs(False),
        "compile": lambda: theirs(True),
    }


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
