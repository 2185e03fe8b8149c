r"""Measures the time of a config's programs and how well they use the machine.

  python -m borrow_det.tools.benchmark --config=FILE[:ARGUMENTS] --mode=MODE \
      [--config.FIELD=VALUE] [--compare=FILE[:ARGUMENTS]] [--rounds=20]

Modes:
  forward     the network: uint8 canvases to logits and offsets of every anchor
  detect      the detector: uint8 canvases to boxes, scores and classes, suppression
              included
  train       a training step on one batch that stays on the devices
  input       batches of the dataset, decoded by the host
  end_to_end  training steps on the dataset: input and train in parallel
  blocks      each block of the network and of a step separately, forward and gradient

forward and detect use eval_batch_size images, the others batch_size. Only input and
end_to_end need the config's dataset. The others run on noise, with initial parameters:
most scores then exceed nms.score, so suppression has more to do than in a trained
network. train and end_to_end run on all devices of config.mesh, the others on one.

Each program is called once without timing and then --rounds times; each timing ends
when the result is ready. With --compare and in blocks, all programs take turns. Prints
a JSON object to stdout and a table to stderr. `rows` has for each program
  ms, ms_low, ms_high  median and quartiles of a call; in input and end_to_end, of a
                       batch or a step, in sequences of at least eight
  images_per_second    from the median
  compile_seconds      time of tracing and compiling
  flops                FLOPs of the model's convolutions and matrix products; a
                       multiply-add counts as two, and recomputation for the gradient
                       does not count. In blocks, FLOPs are those of the program as it
                       runs, except for gradients of convolutions on CPUs.
  flops_xla            the compiler's count, with the body of a loop once, and without
                       convolutions of libraries, as on GPUs
  of_matmul_rate       FLOP/s relative to those of a product of large square matrices in
                       config.dtype, measured in the same process (`matmul`)
  bytes                bytes per device of the compiled program: arguments, outputs and
                       temporaries
  data_wait            in end_to_end, the share of the time spent waiting for batches

`memory` has the peak memory of the process and, where the device reports it, of the
fullest device. With --compare, `compared` has the rows of the second config. `ratio` is
the median over rounds of the first config's time divided by the second's in the same
round, with the quartiles ratio_low and ratio_high; in blocks, by block.
"""

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from borrow_det.config import command_line, packaged, validate
from borrow_det.distributed.mesh import make_mesh, resolve_layout
from borrow_det.errors import InputError
from borrow_det.reporting import step_timer
from borrow_det.tasks import TASKS
from borrow_det.tools.benchmark import blocks, programs
from borrow_det.tools.common import class_count, cli, timing
from borrow_det.visualization.tables import markdown_table

_ON_DATASET: dict[str, Callable[..., dict[str, programs.Program]]] = {
    "input": programs.input_batches,
    "end_to_end": programs.end_to_end,
}
_ON_NOISE: dict[str, Callable[..., dict[str, programs.Program]]] = {
    "forward": programs.forward,
    "detect": programs.detect,
    "train": programs.train_step,
    "blocks": blocks.blocks,
}
# Sides of square matrices whose product reaches the peak rate of a device.
_SIDES = {"cpu": 2048}
_SIDE = 8192


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    names = ["config", *(["compare"] if options["compare"].present else [])]
    configs = [command_line.resolved(options[name]) for name in names]
    # TFDS prints to stdout while it prepares a dataset.
    with contextlib.redirect_stdout(sys.stderr):
        report = _measure(configs, options)
    print(_table(report), file=sys.stderr)
    print(json.dumps(report, indent=1))
    return 0


def _measure(
    configs: Sequence[ConfigDict], options: flags.FlagValues
) -> dict[str, Any]:
    """Measures one config or two and returns the report."""
    made_programs = [_programs(config, options) for config in configs]
    measures = {
        (which, name): functools.partial(_seconds, program)
        for which, made in enumerate(made_programs)
        for name, program in made.items()
    }
    seconds = timing.sample_in_turns(measures, options.rounds)
    rates = {dtype: _matmul_rate(dtype) for dtype in {c.dtype for c in configs}}
    rows = [
        {
            name: _row(program, seconds[which, name], rates[config.dtype])
            for name, program in made.items()
        }
        for which, (config, made) in enumerate(zip(configs, made_programs, strict=True))
    ]
    report: dict[str, Any] = {
        "mode": options.mode,
        "rounds": options.rounds,
        "device": jax.devices()[0].device_kind,
        "matmul": rates,
        "memory": step_timer.memory_metrics(),
        "rows": rows[0],
    }
    if len(configs) > 1:
        first, second = made_programs
        report |= {"compared": rows[1], **_ratios(first, second, seconds)}
    return report


def _programs(
    config: ConfigDict, options: flags.FlagValues
) -> dict[str, programs.Program]:
    mesh = make_mesh(config.mesh)
    validate.check(config, TASKS, mesh.size)
    config = resolve_layout(config)
    if options.mode in _ON_DATASET:
        return _ON_DATASET[options.mode](config)
    if config.task != "detection":
        raise InputError(
            f"--mode={options.mode} is for task=detection; this config has "
            f"task={config.task}: use --mode=input or --mode=end_to_end"
        )
    count = class_count.resolve(config, options.num_classes)
    return _ON_NOISE[options.mode](config, count)


def _seconds(program: programs.Program) -> float:
    if program.times_itself:
        return program.call()
    return timing.seconds(program.call)


def _matmul_rate(dtype: str) -> float:
    """Measures the FLOP/s of a product of two square matrices on one device."""
    side = _SIDES.get(jax.default_backend(), _SIDE)
    matrix = jax.device_put(np.full((side, side), 1 / side, dtype))
    multiply = jax.jit(lambda a: a @ a)
    taken = timing.in_turns({"": lambda: multiply(matrix)}, 10)[""]
    return 2 * side**3 / float(np.median(taken))


def _row(program: programs.Program, seconds: np.ndarray, rate: float) -> dict[str, Any]:
    """Returns the row of a program in the report."""
    low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
    milliseconds = 1e3 / program.repeats
    row: dict[str, Any] = {
        "batch": program.images // program.repeats,
        "ms": median * milliseconds,
        "ms_low": low * milliseconds,
        "ms_high": high * milliseconds,
        "images_per_second": program.images / median,
    }
    if program.flops is not None:
        row["flops"] = program.flops
        row["of_matmul_rate"] = program.flops / median / (rate * program.devices)
    if program.compiled is not None:
        sizes = program.compiled.memory_analysis()
        assert sizes is not None
        row["compile_seconds"] = program.compile_seconds
        row["flops_xla"] = (program.compiled.cost_analysis() or {}).get("flops")
        row["bytes"] = {
            "arguments": sizes.argument_size_in_bytes,
            "outputs": sizes.output_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
        }
    if program.data_wait:
        # The first call is not timed.
        row["data_wait"] = float(np.median(program.data_wait[1:]))
    return row


def _ratios(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    seconds: Mapping[tuple[int, str], np.ndarray],
) -> dict[str, Any]:
    """Returns quartiles of the first config's time over the second's.

    They are numbers for one program, and otherwise dictionaries by program.
    """
    common = [name for name in first if name in second]
    quartiles = {n: timing.ratio(seconds[0, n], seconds[1, n]) for n in common}
    kinds = ("ratio_low", "ratio", "ratio_high")
    if len(first) == 1:
        (name,) = common
        return dict(zip(kinds, quartiles[name], strict=True))
    return {
        kind: {name: quartiles[name][place] for name in common}
        for place, kind in enumerate(kinds)
    }


def _table(report: Mapping[str, Any]) -> str:
    """Formats the rows as a Markdown table."""
    columns = {
        "ms": "ms",
        "low": "ms_low",
        "high": "ms_high",
        "images/s": "images_per_second",
        "GFLOP": "flops",
        "of matmul": "of_matmul_rate",
        "data wait": "data_wait",
        "compile s": "compile_seconds",
    }
    scales = {"flops": 1e-9}
    lines = [
        (
            f"{name}{mark}",
            [
                row[field] * scales.get(field, 1) if field in row else "-"
                for field in columns.values()
            ],
        )
        for part, mark in (("rows", ""), ("compared", " (compared)"))
        for name, row in report.get(part, {}).items()
    ]
    text = markdown_table(report["mode"], list(columns), lines)
    if isinstance(report.get("ratio"), float):
        low, ratio, high = (report[f"ratio{end}"] for end in ("_low", "", "_high"))
        text += f"\nratio {ratio:.3f} ({low:.3f} to {high:.3f})"
    return text


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    packaged.define_config("config", packaged.HELP, values, argv)
    packaged.define_config(
        "compare", "Second config, timed in turns with the first.", values, argv
    )
    flags.DEFINE_enum(
        "mode",
        None,
        [*_ON_NOISE, *_ON_DATASET],
        "Programs to time: forward, detect, train, input, end_to_end or blocks.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "rounds",
        20,
        "Number of timings of each program.",
        lower_bound=1,
        flag_values=values,
    )
    class_count.define_flag(values)
    flags.mark_flag_as_required("config", values)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
