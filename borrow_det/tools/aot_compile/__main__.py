r"""Compiles a run for a TPU slice that nobody has at hand; says what it needs there.

  python -m borrow_det.tools.aot_compile --config=configs/coco.py \
      --topology=v5e:16x16 --config.batch_size=2048 --config.eval_batch_size=2048

prints one JSON object on stdout: the slice, and of each --program

  train       the run's training step, at batch_size
  detect      detections alone, as the tools make them, at eval_batch_size
  evaluate    what an evaluation runs, at eval_batch_size

the seconds that compiling took; whether it fits; the bytes a device of its arguments,
outputs, temporaries and all, against those of the chip (of a program that is refused,
what the compiler says: the temporaries at least. A run keeps two more batches there,
and an evaluation the optimizer's state); FLOPs, bytes of memory accessed and clock
cycles a device as the compiler expects them (with micro_batch of one pass, not of all:
what stands in a loop counts once); `products`, the FLOPs a device of all convolutions
and matrix products, what they are when channels and positions fill up the matrix unit,
and the share that is wasted so; and the collectives, with their bytes. With
--largest_batch also the largest batch that fits, found by compiling others: one image
more on each device does not. Exit status 0 says that it was compiled or refused. It
needs no TPU and no data set, but requirements-tpu.txt, and a minute or more of
CPU for each program. What cannot be gives one line on stderr and exit status 2.
"""

import functools
import json
import sys
from collections.abc import Sequence

import jax
from absl import flags

from borrow_det.config import command_line, packaged, validate
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import check_choice
from borrow_det.tasks import TASKS
from borrow_det.tools.aot_compile import tpu_programs
from borrow_det.tools.common import class_count, cli


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    # Attached TPUs stay free: their library only compiles.
    jax.config.update("jax_platforms", "cpu")
    config = command_line.resolved(options["config"])
    for name in options.program:
        check_choice("--program", name, tpu_programs.PROGRAMS)
    chip, devices = tpu_programs.open_topology(options.topology)
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    _round_batches(config, mesh.size, options)
    validate.check(config, TASKS, mesh.size)
    num_classes = class_count.of(config, options.num_classes)
    make_task = functools.partial(TASKS[config.task], num_classes=num_classes)
    report = {
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
            tpu_programs.Program(name, config, make_task, mesh, chip),
            options.largest_batch,
        )
    print(json.dumps(report, indent=1))
    return 0


def _round_batches(config, devices, options):
    """Makes multiples of where a search begins, and of what is not compiled."""
    compiled = {tpu_programs.PROGRAMS[name] for name in options.program}
    units = {"batch_size": devices * (config.micro_batch or 1)}
    units["eval_batch_size"] = devices
    for field, unit in units.items():
        if options.largest_batch or field not in compiled:
            config[field] = -(-config[field] // unit) * unit


def _describe(program, search):
    """A program at the config's batch, and with `search` the largest that fits."""
    found = program.compile(program.batch)
    _log(program, found)
    if not search:
        if not found["fits"]:
            print("--largest_batch finds one that does", file=sys.stderr)
        return found
    largest = tpu_programs.largest_batch(program, found, lambda f: _log(program, f))
    return {**found, "largest_batch": largest}


def _log(program, found):
    """A line on stderr: the next one may take minutes."""
    used, memory = (n / 2**30 for n in (found["bytes"]["total"], program.chip.memory))
    verdict = "fits" if found["fits"] else "does not fit"
    print(
        f"{program.name}, batch {found['batch']}: {used:.2f} of {memory:.2f} GiB a "
        f"device, {verdict} ({found['compile_seconds']:.0f} s)",
        file=sys.stderr,
    )


def _flags(argv) -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    packaged.define_config("config", packaged.HELP, values, argv)
    flags.DEFINE_string(
        "topology",
        None,
        "The slice, CHIP:AxB or CHIP:AxBxC in chips: v5e:2x4, v5p:2x2x1.",
        required=True,
        **text,
    )
    flags.DEFINE_list(
        "program", ["train", "detect"], "Of train, detect, evaluate.", **text
    )
    flags.DEFINE_boolean(
        "largest_batch", False, "Look for the largest batch that fits.", **text
    )
    class_count.define_flag(values)
    flags.mark_flag_as_required("config", values)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
