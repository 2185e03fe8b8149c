"""Rows of the GPU benchmark: what each compares, and how its programs are made."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import torch
from absl import flags

from benchmarks import kernels, ours, rows, torchvision_ssd
from benchmarks.programs import Once
from borrow_det.tasks.detection import DetectionTask

# Number of scores above the threshold per image, in all classes.
CANDIDATES = 1000


class Row(NamedTuple):
    """Comparison of calls.

    Attributes:
      name: MODE/.../bBATCH.
      programs: functions by name that make our calls; they may take minutes and may run
        in any thread.
      peers: functions by name that make the peers' calls. Those with "compile" in their
        name are made and called once while our programs are compiled.
      base: name of the call with which the others are compared.
      check: see `rows.compare`.
      finish: computes further figures from the figures and `programs`.
    """

    name: str
    programs: Mapping[str, Callable[[], Any]]
    peers: Mapping[str, Callable[[], Callable]] = {}
    base: str = rows.OURS
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda results: {}
    finish: Callable[[dict, Mapping[str, Any]], Mapping] = lambda figures, made: {}


class DetectorRows:
    """Rows that compare complete detectors."""

    def __init__(self, options: flags.FlagValues) -> None:
        self._gpu = options.device == "gpu"
        self._device = "cuda" if self._gpu else "cpu"
        self._dtype = "bfloat16" if self._gpu else "float32"
        self._reference = Once(self._draw_reference)
        self._variables = {
            (model, borrow): Once(functools.partial(self._draw, model, borrow))
            for model in ("ssd300", "ssd512")
            for borrow in (False, True)
        }

    def _config(
        self,
        batch: int,
        model: str = "ssd300",
        borrow: bool = False,
        dtype: str | None = None,
    ) -> ml_collections.ConfigDict:
        dtype = dtype or self._dtype
        return ours.make_config(borrow, model=model, batch=batch, dtype=dtype)

    def _draw_reference(self) -> tuple[torch.nn.Module, dict[str, Any]]:
        """Draws torchvision's detector with trained-like scores; returns ours too."""
        score = self._config(1).nms.score
        model = torchvision_ssd.draw_model()
        model = torchvision_ssd.spread(model, score, CANDIDATES)
        return model, torchvision_ssd.to_ours(model)

    def _draw(self, model: str, borrow: bool) -> dict:
        """Draws our variables with trained-like scores."""
        config = self._config(1, model, borrow, "float32")
        task = DetectionTask(config, ours.CLASSES)
        variables = ours.draw_variables(task)
        spread = ours.find_spread(task, variables, CANDIDATES)
        return ours.apply_spread(variables, spread)

    def train(self, batch: int) -> Row:
        """Returns the row of a training step."""
        config = self._config(batch)
        data = ours.make_batch(config)

        def our_step() -> ours.RunTrainer:
            task = DetectionTask(config, ours.CLASSES)
            return ours.RunTrainer(task, self._reference()[1], data)

        def their_step(compiled: bool) -> Callable:
            model = torchvision_ssd.place(self._reference()[0], self._device, compiled)
            return torchvision_ssd.train(model, config, data, self._device)

        return Row(
            f"train/b{batch}",
            {rows.OURS: our_step},
            {
                "eager": functools.partial(their_step, False),
                "compile": functools.partial(their_step, True),
            },
            check=_losses,
        )

    def detect(self, batch: int) -> Row:
        """Returns the row of detection in uint8 images."""
        config = self._config(batch)
        data = ours.make_batch(config)

        def theirs(compiled: bool) -> Callable:
            model = torchvision_ssd.place(self._reference()[0], self._device, compiled)
            return torchvision_ssd.detect(model, data, self._device)

        return Row(
            f"detect/b{batch}",
            {rows.OURS: lambda: _our_detect(config, self._reference()[1])},
            {
                "eager": functools.partial(theirs, False),
                "compile": functools.partial(theirs, True),
            },
            check=_detections,
        )

    def borrow(self, model: str, batch: int) -> Row:
        """Returns the row of the full borrowing model compared with plain SSD."""

        def make(borrow: bool) -> Callable:
            config = self._config(batch, model, borrow)
            return _our_detect(config, self._variables[model, borrow]())

        return Row(
            f"borrow/{model}/b{batch}",
            {
                "plain": functools.partial(make, False),
                "borrow": functools.partial(make, True),
            },
            base="plain",
            check=_detections,
        )


def _our_detect(config: ml_collections.ConfigDict, variables: dict) -> Callable:
    task = DetectionTask(config, ours.CLASSES)
    variables = jax.device_put(variables)
    run = ours.detect(task, variables, ours.make_batch(config))
    return functools.partial(run, variables)


def _losses(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns each side's loss of the first step; they are equal up to rounding."""
    return {
        "loss": {
            name: float(x["loss"] if isinstance(x, dict) else x)
            for name, x in results.items()
        }
    }


def _detections(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns each side's mean number of detections per image."""

    def count(found: Any) -> float:
        if isinstance(found, list):
            return float(np.mean([len(image["scores"]) for image in found]))
        return float(np.mean(np.sum(found.mask, axis=1)))

    return {"detections": {name: count(found) for name, found in results.items()}}


class PartRows:
    """Rows that compare parts of detectors."""

    def __init__(self, options: flags.FlagValues) -> None:
        self._gpu = options.device == "gpu"
        self._device = "cuda" if self._gpu else "cpu"
        self._dtype = "bfloat16" if self._gpu else "float32"
        self._small = options.small

    def trunk(self, batch: int, gradient: bool) -> Row:
        """Returns the row of the trunk compared with a matrix product."""
        config = ours.make_config(False, batch=batch, dtype=self._dtype)
        side = 512 if self._small else 8192
        return Row(
            f"trunk/{'gradient' if gradient else 'forward'}/b{batch}",
            {
                rows.OURS: lambda: kernels.trunk(config, gradient),
                "matmul": lambda: kernels.matmul(side, self._dtype),
            },
            base="matmul",
            finish=_rates,
        )

    def matching(self, batch: int, gradient: bool) -> Row:
        """Returns the row of one-head attention with 4096 queries and 1344 keys."""
        shape = kernels.MatchingShape(batch, 4096, 1344, 256)
        if self._small:
            shape = shape._replace(queries=96, keys=64)
        arguments = (shape, self._dtype, gradient)
        our_form = functools.partial(kernels.our_matching, *arguments)
        return Row(
            f"matching/{'gradient' if gradient else 'forward'}/b{batch}",
            {
                rows.OURS: functools.partial(our_form, "auto"),
                "ours_plain": functools.partial(our_form, "plain"),
                "ours_blocks": functools.partial(our_form, "blocks"),
            },
            {"sdpa": lambda: kernels.their_matching(*arguments, self._device)},
            check=kernels.matching_difference,
        )

    def nms(self, anchors: int, classes: int, batch: int, trained: bool) -> Row:
        """Returns the row of class-wise suppression."""
        options = ours.make_config(False, batch=batch).nms
        name = f"nms/{anchors}x{classes}/{'sparse' if trained else 'uniform'}/b{batch}"
        if self._small:
            anchors, classes = 600, 5
        data = Once(lambda: kernels.scored(batch, anchors, classes, trained))
        program = self._suppression((batch, anchors, classes))
        return Row(
            name,
            {rows.OURS: lambda: kernels.our_suppression(program(), data())},
            {
                "batched_nms": lambda: kernels.their_suppression(
                    data(), options, self._device
                )
            },
            check=kernels.kept,
        )

    @functools.cache  # noqa: B019 (kept until the benchmark ends)
    def _suppression(self, shape: tuple[int, int, int]) -> Once:
        options = ours.make_config(False, batch=shape[0]).nms
        return Once(lambda: kernels.suppression(shape, options))


def _rates(figures: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the TFLOP/s of both sides, and the trunk's share of the product's."""
    rates = {
        name: counted.flops / figures["ms"][name] / 1e9
        for name, counted in made.items()
    }
    share = rates[rows.OURS] / rates["matmul"]
    return {"teraflops": rates, "share_of_matmul": share}
