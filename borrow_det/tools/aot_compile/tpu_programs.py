"""Programs of a run, compiled for a TPU slice that is not attached."""

import contextlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import jax
import ml_collections
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from borrow_det import evaluate
from borrow_det.data import pipeline, sources
from borrow_det.data.datasets import object_crops, records
from borrow_det.data.reference_rows import with_absent_references
from borrow_det.distributed import mesh as device_mesh
from borrow_det.errors import InputError
from borrow_det.tasks import EVALUATORS
from borrow_det.tools.aot_compile import program_cost, report
from borrow_det.train_step import abstract_state, make_train_step

# Programs, and the config field with the batch size of each.
PROGRAMS = {
    "train": "batch_size",
    "detect": "eval_batch_size",
    "evaluate": "eval_batch_size",
}


class Chip(NamedTuple):
    """Generation of TPUs.

    Attributes:
      memory: bytes of HBM; the compiler leaves a small part to the runtime.
      config: libtpu's configuration in which a chip is one device.
    """

    memory: int
    config: str = "default"


# "HBM capacity" of https://cloud.google.com/tpu/docs/v4 and of v5e, v5p and v6e there.
CHIPS = {
    "v4": Chip(32 * 2**30, config="megacore"),
    "v5e": Chip(16 * 2**30),
    "v5p": Chip(95 * 2**30),
    "v6e": Chip(32 * 2**30),
}

# libtpu queries a metadata server for its TPU, and there is none here. It may be loaded
# by other processes as well, since it only compiles.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def open_topology(name: str) -> tuple[Chip, Sequence[jax.Device]]:
    """Returns the chip and the devices of a slice, for compilation only.

    Args:
      name: chip and shape of the slice, such as `v5e:16x16`.

    Raises:
      InputError: the slice does not exist, or libtpu is not installed.
    """
    generation, _, shape = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise InputError(
            f"--topology is {name!r}; it must be one of {', '.join(CHIPS)}, a colon "
            "and the shape of the slice in chips, as in v5e:16x16 or v5p:2x2x1"
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


class TpuProgram:
    """Program of a run on a slice, which can be compiled for any batch size.

    Attributes:
      name: one of PROGRAMS.
      chip: chip of the slice.
      batch: batch size in the config.
      unit: number of images of which a batch size must be a multiple.
    """

    def __init__(
        self,
        name: str,
        config: ml_collections.ConfigDict,
        make_task: Callable[[ml_collections.ConfigDict], Any],
        mesh: Mesh,
        chip: Chip,
    ) -> None:
        """Prepares the shapes of the program's arguments.

        Args:
          name: one of PROGRAMS.
          config: resolved config of the run.
          make_task: makes a task from a config, which may have another batch size.
          mesh: mesh of the slice's devices.
          chip: chip of the slice.

        Raises:
          InputError: the task of the config does not have this program.
        """
        if name == "detect" and config.task != "detection":
            raise InputError(
                f"--program={name} is for task=detection; this config has "
                f"task={config.task}"
            )
        self.name = name
        self.chip = chip
        self.batch = config[PROGRAMS[name]]
        self.unit = mesh.size
        if name == "train":
            self.unit *= config.micro_batch or 1
        self._config = device_mesh.resolve_layout(config, "tpu")
        self._make_task = make_task
        self._mesh = mesh
        self._row = self._one_row()

    def compile(self, batch: int) -> dict[str, Any]:
        """Compiles the program for a batch size and returns its report."""
        function, arguments = self._call(batch)
        lowered = function.lower(*arguments)
        start = time.monotonic()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            sizes = report.exhausted(str(error))
            if sizes is None:
                raise
            found: dict[str, Any] = {"fits": False, "bytes": sizes}
        else:
            sizes = report.memory(compiled)
            hlo = compiled.as_text()
            found = {
                "fits": sizes["total"] <= self.chip.memory,
                "bytes": sizes,
                **report.arithmetic(compiled),
                "cycles": report.cycles(hlo),
                "products": _products(function, arguments, self._mesh.size),
                "collectives": report.collectives(hlo),
            }
        seconds = round(time.monotonic() - start, 1)
        return {"batch": batch, "compile_seconds": seconds, **found}

    def _call(self, batch: int) -> tuple[Any, tuple]:
        """Returns the program as a jitted function, and the shapes of its arguments."""
        config = self._config.copy_and_resolve_references()
        config[PROGRAMS[self.name]] = batch
        task = self._make_task(config)
        split = device_mesh.batch_sharding(self._mesh)
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
        on_each_device = device_mesh.on_each_device(
            task.detect, self._mesh, split=(False, True, True), out_split=True
        )
        detect = jax.jit(
            on_each_device,
            in_shardings=(device_mesh.replicated(self._mesh), split, split),
        )
        variables = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state.eval_variables
        )
        return detect, (variables, fields["image"], fields["image_size"])

    def _one_row(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Returns shape and dtype of each field of a row, from the run's pipeline."""
        config = self._config.copy_and_resolve_references()
        config.batch_size = config.eval_batch_size = 1
        config.dataset.num_workers = 0
        # The split has a single image, without a group.
        config.references.kind = "none"
        task, split = self._make_task(config), _one_image(config)
        if self.name == "train":
            batches = pipeline.train_batches(
                split, config, make_row=task.train_row(split)
            )
        else:
            batches = EVALUATORS[config.task](split, config).batches()
        with contextlib.closing(batches):
            row = {name: value[0] for name, value in next(batches).items()}
        references = self._config.references
        if references.kind == "group":
            row = with_absent_references(row, references.count)
        return {
            # Devices have no 64-bit integers unless JAX is configured for them.
            name: (value.shape, jax.dtypes.canonicalize_dtype(value.dtype))
            for name, value in row.items()
        }


def _products(
    function: Callable, arguments: Sequence[Any], devices: int
) -> dict[str, float]:
    """Counts the FLOPs per device of convolutions and matrix products."""
    counted = program_cost.products(function, *arguments)
    return {
        "flops": counted.flops // devices,
        "padded": counted.padded // devices,
        "wasted": round(counted.wasted, 4),
    }


def largest_batch(
    program: TpuProgram,
    found: dict[str, Any],
    on_compiled: Callable[[dict[str, Any]], None],
) -> int | None:
    """Finds the largest batch that fits, as a multiple of the program's unit.

    One unit more does not fit. Two units more might fit, since the compiler can save
    memory by recomputation, but no such case is known.

    Args:
      program: program to compile.
      found: report of the program at its own batch size.
      on_compiled: called with the report of each other batch size.

    Returns:
      The batch size, or None if even one unit does not fit.
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
        on_compiled(known[units])


def _beyond(fitting: dict[int, int], memory: int) -> int:
    """Estimates a number of units that just does not fit, from those that fit."""
    units = max(fitting)
    # All memory is assumed to grow with the batch, so the estimate is rather too low.
    room = int(units * memory / fitting[units])
    return max(room, units + units // 4) + 1


def _one_image(config: ml_collections.ConfigDict) -> Any:
    """Returns a split of one image that one object covers."""
    height, width = config.dataset.canvas
    encoded = cv2.imencode(".png", np.zeros((height, width, 3), np.uint8))[1].tobytes()
    record = records.make_record(
        image=encoded,
        file_name="empty.png",
        image_id=0,
        size=(height, width),
        boxes=np.array([[0, 0, 1, 1]], np.float32),
        labels=np.zeros(1, np.int32),
    )
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
