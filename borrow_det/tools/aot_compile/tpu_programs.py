"""The programs of a run, compiled for a TPU slice that is not there."""

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from borrow_det import evaluate
from borrow_det.data import pipeline, sources
from borrow_det.data.datasets import object_crops
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError
from borrow_det.tasks import EVALUATORS
from borrow_det.tools.aot_compile import program_cost
from borrow_det.tools.aot_compile import report as report_lib
from borrow_det.train_step import abstract_state, make_train_step

# By name, the field of the config that is its batch.
PROGRAMS = {
    "train": "batch_size",
    "detect": "eval_batch_size",
    "evaluate": "eval_batch_size",
}


class Chip(NamedTuple):
    """A generation of TPUs."""

    memory: int  # Bytes of HBM; of these the compiler leaves a little to the runtime.
    config: str = "default"  # Of libtpu's; a chip of any of them is one device.


# https://cloud.google.com/tpu/docs/v4 and its sisters v5e, v5p and v6e, "HBM capacity".
CHIPS = {
    "v4": Chip(32 * 2**30, config="megacore"),
    "v5e": Chip(16 * 2**30),
    "v5p": Chip(95 * 2**30),
    "v6e": Chip(32 * 2**30),
}

# libtpu looks for the TPU that it is on: it is told of one, instead of asking a server
# that is not there. And as it takes none, other processes may load it, too.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def open_topology(name: str) -> tuple[Chip, Sequence[jax.Device]]:
    """The chip and the devices of a slice, for compiling alone.

    Args:
      name: as `v5e:16x16`.

    Raises:
      InputError: there is no such slice, or libtpu is not installed.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise InputError(
            f"--topology is {name!r}; it must be one of {', '.join(CHIPS)}, a colon "
            "and the slice's shape in chips, as in v5e:16x16 or v5p:2x2x1"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for TPUs needs libtpu: pip install -r requirements-tpu.txt"
        )
    chip = CHIPS[generation]
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        slice_ = topologies.get_topology_desc(
            name, platform="tpu", chip_config_name=chip.config
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"--topology={name}: {error}") from error
    return chip, slice_.devices


class Program:
    """One program of a run on a slice, to be compiled for any batch.

    Attributes:
      name: of PROGRAMS.
      chip: the slice's.
      batch: that of the config.
      unit: images of which a batch must be a multiple.
    """

    def __init__(
        self, name: str, config, make_task: Callable[[Any], Any], mesh: Mesh, chip: Chip
    ):
        """`make_task` makes a task of a config; the config's batches may be changed."""
        if name == "detect" and config.task != "detection":
            raise InputError(f"task={config.task} has no program {name}")
        self.name = name
        self.chip = chip
        self.batch = config[PROGRAMS[name]]
        self.unit = mesh.size
        if name == "train":
            self.unit *= config.micro_batch or 1
        self._config = mesh_lib.resolve_layout(config, "tpu")
        self._make_task = make_task
        self._mesh = mesh
        self._row = self._one_row()

    def compile(self, batch: int) -> dict:
        """Compiles it for a batch: what the tool prints of a program."""
        function, arguments = self._call(batch)
        lowered = function.lower(*arguments)
        start = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            sizes = report_lib.exhausted(str(error))
            if sizes is None:
                raise
            found = {"fits": False, "bytes": sizes}
        else:
            sizes = report_lib.memory(compiled)
            hlo = compiled.as_text()
            found = {
                "fits": sizes["total"] <= self.chip.memory,
                "bytes": sizes,
                **report_lib.arithmetic(compiled),
                "cycles": report_lib.cycles(hlo),
                "products": _products(function, arguments, self._mesh.size),
                "collectives": report_lib.collectives(hlo),
            }
        seconds = round(time.monotonic() - start, 1)
        return {"batch": batch, "compile_seconds": seconds, **found}

    def _call(self, batch):
        """The program as a jitted function, and the shapes of its arguments."""
        config = self._config.copy_and_resolve_references()
        config[PROGRAMS[self.name]] = batch
        task = self._make_task(config)
        split = mesh_lib.batch_sharding(self._mesh)
        fields = {
            name: jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=split)
            for name, (shape, dtype) in self._row.items()
        }
        state = abstract_state(task, self._mesh)
        if self.name == "train":
            return make_train_step(task, self._mesh, state), (state, fields)
        fields = {name: fields[name] for name in task.predict_fields}
        if self.name == "evaluate":
            predict = evaluate.make_predict(task, self._mesh)
            return predict, (state.eval_variables, fields)
        on_each_device = mesh_lib.on_each_device(
            task.detect, self._mesh, split=(False, True, True), out_split=True
        )
        detect = jax.jit(
            on_each_device,
            in_shardings=(mesh_lib.replicated(self._mesh), split, split),
        )
        variables = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.eval_variables
        )
        return detect, (variables, fields["image"], fields["image_size"])

    def _one_row(self):
        """Shape and type of each field of a row, as the run's own pipeline makes it."""
        config = self._config.copy_and_resolve_references()
        config.batch_size = config.eval_batch_size = 1
        config.dataset.num_workers = 0
        task, split = self._make_task(config), _one_image(config)
        if self.name == "train":
            row = task.train_row(split)
            batches = pipeline.train_batches(split, config, make_row=row)
        else:
            batches = EVALUATORS[config.task](split, config).batches()
        with contextlib.closing(batches):
            batch = next(batches)
        return {
            # Devices have no 64-bit integers unless told to.
            name: (value.shape[1:], jax.dtypes.canonicalize_dtype(value.dtype))
            for name, value in batch.items()
        }


def _products(function, arguments, devices):
    """FLOPs of convolutions and matrix products, a device (tools/aot_compile/program_cost.py)."""
    counted = program_cost.products(function, *arguments)
    return {
        "flops": counted.flops // devices,
        "padded": counted.padded // devices,
        "wasted": round(counted.wasted, 4),
    }


def largest_batch(
    program: Program, found: dict, report: Callable[[dict], None]
) -> int | None:
    """The largest batch that fits, as a multiple of the program's unit.

    It fits, and one unit more does not. (The compiler saves memory where it must, by
    computing things twice; so two units more could, though none is known to.)

    Args:
      program: to be compiled.
      found: what it is at its own batch.
      report: told what it is at each other one.

    Returns:
      None where not even one unit fits.
    """
    known = {found["batch"] // program.unit: found}
    while True:
        fitting = {n: f["bytes"]["total"] for n, f in known.items() if f["fits"]}
        low = max(fitting, default=0)
        high = min((n for n, f in known.items() if not f["fits"]), default=None)
        if high is None:
            units = _beyond(fitting, program.chip.memory)
        elif high - low > 1:
            units = (low + high) // 2
        else:
            return low * program.unit or None
        known[units] = program.compile(units * program.unit)
        report(known[units])


def _beyond(fitting: dict[int, int], memory: int) -> int:
    """A number of units that should just not fit, from the bytes of those that do."""
    units = max(fitting)
    # As if all of it grew with the batch: too few, if anything.
    room = int(units * memory / fitting[units])
    return max(room, units + units // 4) + 1


def _one_image(config):
    """A split of one image, all of it an object."""
    height, width = config.dataset.canvas
    encoded = cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()
    record = {
        "image": encoded,
        "file_name": "empty.png",
        "image_id": 0,
        "height": height,
        "width": width,
        "boxes": np.array([[0, 0, 1, 1]], np.float32),
        "labels": np.zeros(1, np.int32),
        "is_crowd": np.zeros(1, np.bool_),
        "is_difficult": np.zeros(1, np.bool_),
        "area": np.full(1, height * width, np.float32),
        "bad_boxes": 0,
    }
    split = sources.Split(
        dataset="empty",
        name="train",
        class_names=("object",),
        category_ids=(1,),
        records=(record,),
        convert=lambda record, index: record,
    )
    if config.task == "classification":
        return object_crops.ObjectCrops(split, None, config.dataset.crop_context, {})
    return split
