r"""Compiles the programs of a run for a TPU slice that is not attached.

  python -m borrow_det.tools.aot_compile --config=configs/coco.py \
      --topology=v5e:16x16 --config.batch_size=2048 --config.eval_batch_size=2048

Programs, selected by --program:
  train      the training step, at batch_size
  detect     detections without evaluation, as the tools compute them, at
             eval_batch_size
  evaluate   the step of an evaluation, at eval_batch_size

Prints one JSON object to stdout: the slice, and for each program
  compile_seconds  time of the compilation
  fits             true if the program fits into the memory of the chip
  bytes            bytes per device of arguments, outputs, temporaries and in total; for
                   a program that does not fit, the sizes in the compiler's message, of
                   which `total` may be the temporaries alone. A run keeps two more
                   batches on the device, and during an evaluation the optimizer state.
  flops, bytes_accessed, cycles
                   FLOPs, bytes of memory accessed and clock cycles per device, as the
                   compiler estimates them. The body of a loop counts once, so with
                   micro_batch they are those of one pass.
  products         FLOPs per device of all convolutions and matrix products: by
                   definition (flops), with channels and positions padded to the size of
                   the matrix unit (padded), and the share of padding (wasted)
  collectives      collective operations between the devices, with their bytes
  largest_batch    with --largest_batch, the largest batch that fits, found by compiling
                   other batches. One image more per device does not fit.

Progress goes to stderr. The tool needs requirements-tpu.txt and at least a minute of
CPU time per program, but no TPU and no dataset. The exit status is 0 if all programs
were compiled, whether or not they fit, and 2 after wrong input.
"""

import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from borrow_det.config import command_line, packaged, validate
from borrow_det.distributed.mesh import make_mesh
from borrow_det.errors import check_choice
from borrow_det.tasks import TASKS
from borrow_det.tools.aot_compile import tpu_programs
from borrow_det.tools.common import class_count, cli


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    # Leave attached TPUs free: the tool only compiles.
    jax.config.update("jax_platforms", "cpu")
    config = command_line.resolved(options["config"])
    for name in options.program:
        check_choice("--program", name, tpu_programs.PROGRAMS)
    chip, devices = tpu_programs.open_topology(options.topology)
    mesh = make_mesh(config.mesh, devices)
    _round_batches(config, mesh.size, options)
    validate.check(config, TASKS, mesh.size)
    num_classes = class_count.resolve(config, options.num_classes)
    make_task = functools.partial(TASKS[config.task], num_classes=num_classes)
    report: dict[str, Any] = {
        "topology": options.topology,
        "chip": devices[0].device_kind,
        "memory": chip.memory,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "dtype": config.dtype,
        "num_classes": num_classes,
        "programs": {},
    }
    for name in options.program:
        report["programs"][name] = _describe(
            tpu_programs.TpuProgram(name, config, make_task, mesh, chip),
            options.largest_batch,
        )
    print(json.dumps(report, indent=1))
    return 0


def _round_batches(config: ConfigDict, devices: int, options: flags.FlagValues) -> None:
    """Rounds up batch sizes that need not be exact, so that the config is valid.

    These are the start of a search for the largest batch, and the batch sizes of
    programs that are not compiled.
    """
    compiled = {tpu_programs.PROGRAMS[name] for name in options.program}
    units = {"batch_size": devices * (config.micro_batch or 1)}
    units["eval_batch_size"] = devices
    for field, unit in units.items():
        if options.largest_batch or field not in compiled:
            config[field] = -(-config[field] // unit) * unit


def _describe(program: tpu_programs.TpuProgram, search: bool) -> dict[str, Any]:
    """Compiles a program at the config's batch and, on request, finds the largest."""
    found = program.compile(program.batch)
    _log(program, found)
    if not search:
        if not found["fits"]:
            print("--largest_batch finds a batch that fits", file=sys.stderr)
        return found
    largest = tpu_programs.largest_batch(program, found, lambda f: _log(program, f))
    return {**found, "largest_batch": largest}


def _log(program: tpu_programs.TpuProgram, found: dict[str, Any]) -> None:
    """Prints a line to stderr, since the next compilation may take minutes."""
    used, memory = (n / 2**30 for n in (found["bytes"]["total"], program.chip.memory))
    verdict = "fits" if found["fits"] else "does not fit"
    print(
        f"{program.name}, batch {found['batch']}: {used:.2f} of {memory:.2f} GiB "
        f"per device, {verdict} ({found['compile_seconds']:.0f} s)",
        file=sys.stderr,
    )


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    packaged.define_config("config", packaged.HELP, values, argv)
    flags.DEFINE_string(
        "topology",
        None,
        "TPU slice as CHIP:AxB or CHIP:AxBxC in chips, such as v5e:2x4 or v5p:2x2x1.",
        required=True,
        **text,
    )
    flags.DEFINE_list(
        "program",
        ["train", "detect"],
        "Programs to compile: train, detect, evaluate.",
        **text,
    )
    flags.DEFINE_boolean(
        "largest_batch", False, "Search for the largest batch that fits.", **text
    )
    class_count.define_flag(values)
    flags.mark_flag_as_required("config", values)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
