r"""How long a config takes, and how much of the machine that uses.

  python -m borrow_det.tools.benchmark --config=FILE[:ARGUMENTS] --mode=MODE \
      [--config.FIELD=VALUE] [--compare=FILE[:ARGUMENTS]] [--rounds=20]

  forward     uint8 canvases to what the network says of every anchor
  detect      the same, decoded and suppressed: boxes, scores and classes
  train       a training step on one batch that lies on the devices
  input       batches of the data set, decoded by the host alone
  end_to_end  training steps on the data set: input and train, one beside the other
  blocks      each block of the network and of a step apart, forward and gradient

forward and detect have eval_batch_size images, the others batch_size. Only input and
end_to_end need the config's data set; the others take noise, and parameters as at the
start of training. Most classes of most anchors then score above nms.score, so that
suppression has more to do than of a trained network. train and end_to_end run on all
devices of config.mesh, the others on one.

After a call that is not timed, --rounds calls are, each waited for; of --compare and of
blocks all in turns. Prints one JSON object to stdout and a table to stderr. `rows` has

  ms, ms_low, ms_high  a call's median and quartiles; of end_to_end, and of input, a
                       step's or a batch's, of eight or more in a row
  images_per_second    by the median
  compile_seconds      from tracing to the program
  flops                of convolutions and matrix products, as the model is defined (of
                       blocks: as they run, but for gradients of convolutions on CPUs):
                       a multiply-add is two, what is computed again for its gradient
                       does not count
  flops_xla            the compiler's own count; it has loops once, and none of the
                       convolutions that are a library's, as on GPUs
  of_matmul_rate       flops a second over those of a product of large square matrices,
                       in config.dtype, measured here (`matmul`)
  bytes                of the compiled program, a device: arguments, outputs and
                       temporaries
  data_wait            of end_to_end, the share of its time spent on batches

and `memory` the most bytes that the process, and its fullest device where that tells,
have held in all. With --compare, `compared` has the rows of the second config, and
`ratio` (of blocks: for each that both have) is the median over rounds of the first
one's time over the second's in the same round; ratio_low and ratio_high its quartiles.
"""

import contextlib
import functools
import json
import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from borrow_det.config import command_line, packaged, validate
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError
from borrow_det.reporting import step_timer
from borrow_det.tasks import TASKS
from borrow_det.tools.benchmark import programs as programs_lib
from borrow_det.tools.common import class_count, cli, timing
from borrow_det.visualization.tables import markdown_table

# With a data set, and with noise.
_REAL = {
    "input": programs_lib.pipeline,
    "end_to_end": programs_lib.end_to_end,
}
_SYNTHETIC = {
    "forward": programs_lib.forward,
    "detect": programs_lib.detect,
    "train": programs_lib.train_step,
    "blocks": programs_lib.blocks,
}
# Sides of the matrices that tell a device's rate: long enough to reach it.
_SIDES = {"cpu": 2048}
_SIDE = 8192


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    names = ["config", *(["compare"] if options["compare"].present else [])]
    configs = [command_line.resolved(options[name]) for name in names]
    # What TFDS says when it prepares a set is not part of the report.
    with contextlib.redirect_stdout(sys.stderr):
        report = _measure(configs, options)
    print(_table(report), file=sys.stderr)
    print(json.dumps(report, indent=1))
    return 0


def _measure(configs, options) -> dict:
    """What is printed of one config or two."""
    programs = [_programs(config, options) for config in configs]
    measures = {
        (which, name): functools.partial(_seconds, program)
        for which, made in enumerate(programs)
        for name, program in made.items()
    }
    seconds = timing.sample_in_turns(measures, options.rounds)
    rates = {dtype: _matmul_rate(dtype) for dtype in {c.dtype for c in configs}}
    rows = [
        {
            name: _row(program, seconds[which, name], rates[config.dtype])
            for name, program in made.items()
        }
        for which, (config, made) in enumerate(zip(configs, programs, strict=True))
    ]
    report = {
        "mode": options.mode,
        "rounds": options.rounds,
        "device": jax.devices()[0].device_kind,
        "matmul": rates,
        "memory": step_timer.memory_metrics(),
        "rows": rows[0],
    }
    if len(configs) > 1:
        report |= {"compared": rows[1], **_ratios(*programs, seconds)}
    return report


def _programs(config, options) -> dict[str, programs_lib.Program]:
    mesh = mesh_lib.make_mesh(config.mesh)
    validate.check(config, TASKS, mesh.size)
    config = mesh_lib.resolve_layout(config)
    if options.mode in _REAL:
        return _REAL[options.mode](config)
    if config.task != "detection":
        raise InputError(
            f"--mode={options.mode} is of task=detection; this config's is "
            f"{config.task}: see --mode=input and --mode=end_to_end"
        )
    count = class_count.resolve(config, options.num_classes)
    return _SYNTHETIC[options.mode](config, count)


def _seconds(program: programs_lib.Program) -> float:
    if program.times_itself:
        return program.call()
    return timing.seconds(program.call)


def _matmul_rate(dtype: str) -> float:
    """FLOPs a second of the product of two square matrices, on one device."""
    side = _SIDES.get(jax.default_backend(), _SIDE)
    matrix = jax.device_put(np.full((side, side), 1 / side, dtype))
    multiply = jax.jit(lambda a: a @ a)
    taken = timing.in_turns({"": lambda: multiply(matrix)}, 10)[""]
    return 2 * side**3 / float(np.median(taken))


def _row(program, seconds, rate):
    """What is printed of a program."""
    low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
    milliseconds = 1e3 / program.repeats
    row = {
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
        row["compile_seconds"] = program.compile_seconds
        row["flops_xla"] = (program.compiled.cost_analysis() or {}).get("flops")
        row["bytes"] = {
            "arguments": sizes.argument_size_in_bytes,
            "outputs": sizes.output_size_in_bytes,
            "temporaries": sizes.temp_size_in_bytes,
        }
    if program.waited:
        # The first was not timed.
        row["data_wait"] = float(np.median(program.waited[1:]))
    return row


def _ratios(programs, compared, seconds):
    """Quartiles of the first config's time over the second's, by name if several."""
    common = [name for name in programs if name in compared]
    quartiles = {n: timing.ratio(seconds[0, n], seconds[1, n]) for n in common}
    kinds = ("ratio_low", "ratio", "ratio_high")
    if len(programs) == 1:
        (name,) = common
        return dict(zip(kinds, quartiles[name], strict=True))
    return {
        kind: {name: quartiles[name][place] for name in common}
        for place, kind in enumerate(kinds)
    }


def _table(report) -> str:
    """The rows in Markdown."""
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


def _flags(argv) -> flags.FlagValues:
    values = flags.FlagValues()
    packaged.define_config("config", packaged.HELP, values, argv)
    packaged.define_config(
        "compare", "A second config, timed in turns with the first.", values, argv
    )
    flags.DEFINE_enum(
        "mode",
        None,
        [*_SYNTHETIC, *_REAL],
        "What is timed.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "rounds", 20, "Timings of each.", lower_bound=1, flag_values=values
    )
    class_count.define_flag(values)
    flags.mark_flag_as_required("config", values)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
