r"""Measures what references cost: time of tiles and of N references, and memory.

  python -m benchmarks.references [--models=narrow,full] [--rows='detect/*'] \
      [--rounds=20] [--size=300] [--memory_size=512] [--output=FILE]

Models have drawn weights and 90 classes. `full` is the detector of configs/base.py;
`narrow` has an eighth of its channels and one convolution in each of the first two
stages. Heads are scaled so that an image has about 1000 scores above the threshold, as
after training.

Rows:
  detect/MODEL/whole, detect/MODEL/nowhole
      Detector on an image of 3 x 3 tiles of the input's size, with and without the
      entire image as a view: `tiles`, which do not borrow from it, and `overview`.
  forward/MODEL/maps, forward/MODEL/images
      The network on one image and N references, of which the maps or the images are
      given: 0, 1, 2, 4, 8.
  train/MODEL
      A training step of one image with N references of references.kind=group.
  memory/MODEL
      A ring of the last 8 images at --memory_size. `ring_MiB` are its deeper maps by
      their shapes, and `reference_MiB` those of one image. `held_MiB` is the growth of
      all arrays of the process while a stream has a ring. `program_MiB` is the memory
      of the program of one view, arguments and outputs included, with a ring and
      without; and `device_peak_MiB` the peak of the device after a stream of each, if
      the backend reports it.

The calls of a row are timed in turns in one process; `over_tiles` and `over_0` are
ratios of times in the same round (benchmarks/README.md has the other fields). The first
object that is printed describes the machine. Each row is a JSON object on stdout, and a
line of a table on stderr.
"""

import functools
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags
from jax import Array

from benchmarks import ours
from benchmarks.rows import RowWriter, compare, define_row_flags, opened
from borrow_det.configs import base
from borrow_det.errors import check_choice
from borrow_det.inference.borrowing_views import BorrowingPrograms
from borrow_det.inference.detector import Detector
from borrow_det.models.references import ReferenceImages, ReferenceMaps
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tiling.views import windows
from borrow_det.tools.common import cli, synthetic
from borrow_det.workdir.metadata import Classes

MODELS = ("narrow", "full")
COUNTS = (0, 1, 2, 4, 8)  # Numbers of references.
RING = 8
_CANDIDATES = 1000  # Scores of an image above the threshold.
_GRID = (3, 3)
_OVERLAP = 0.2

Call = Callable[[], Any]


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    for model in options.models:
        check_choice("--models", model, MODELS)
    with opened(options.output) as file:
        rows = RowWriter(file, options.rows, options.budget)
        rows.put(_about(options))
        for model in options.models:
            for name, measure in _rows(model, options):
                rows.measure(name, measure)
    return 0


def _rows(
    model: str, options: flags.FlagValues
) -> Iterator[tuple[str, Callable[[], Mapping[str, Any]]]]:
    """Yields the rows of a model: their names, and functions that measure them."""
    size, rounds = options.size, options.rounds
    for whole in (True, False):
        yield (
            f"detect/{model}/{'whole' if whole else 'nowhole'}",
            functools.partial(detect_row, model, size, whole, rounds),
        )
    for given in ("maps", "images"):
        measure = functools.partial(forward_row, model, size, given, rounds)
        yield f"forward/{model}/{given}", measure
    yield f"train/{model}", functools.partial(train_row, model, size, rounds)
    yield f"memory/{model}", functools.partial(memory_row, model, options.memory_size)


def make_config(
    model: str, size: int, references: int = 0
) -> ml_collections.ConfigDict:
    """Returns the config of a model for one image a step.

    Args:
      model: one of MODELS.
      size: side of the input and of the canvas in pixels.
      references: number of references of an image in training.
    """
    config = base.get_config()
    config.input_size = config.dataset.canvas = (size, size)
    config.batch_size = config.eval_batch_size = 1
    config.dataset.max_boxes = ours.OBJECTS
    config.optimizer.learning_rate = ours.LEARNING_RATE
    if references:
        config.references.kind = "group"
        config.references.count = references
    if model == "narrow":
        config.model.width = 0.125
        config.model.stages = (1, 1, 2, 2, 2)
        config.borrow.channels = 32
    return config


# Tiles.


def detect_row(model: str, size: int, whole: bool, rounds: int) -> dict[str, Any]:
    """Compares tiles with an overview with tiles without."""
    detector = make_detector(model, size)
    image = tiled_image(size)

    def make(references: str) -> Call:
        call = functools.partial(
            detector,
            image,
            tiles=_GRID,
            overlap=_OVERLAP,
            whole=whole,
            references=references,
            batch_size=1,
        )
        return lambda: len(call())

    calls = {"tiles": "none", "overview": "overview"}
    makers = {name: functools.partial(make, kind) for name, kind in calls.items()}
    figures = compare(
        makers, rounds, base="tiles", check=lambda found: {"detections": dict(found)}
    )
    return {"image": image.shape[:2], **figures}


def make_detector(model: str, size: int) -> Detector:
    """Returns a detector with drawn weights and scores as after training."""
    config = make_config(model, size)
    # Tiles borrow from the overview without a warning.
    config.references.kind = "overview"
    task = DetectionTask(config, ours.CLASSES)
    variables = ours.draw_variables(task)
    spread = ours.find_spread(task, variables, _CANDIDATES)
    names = tuple(str(number) for number in range(ours.CLASSES))
    classes = Classes(names, tuple(range(ours.CLASSES)))
    return Detector(config, classes, ours.apply_spread(variables, spread), step=0)


def tiled_image(size: int) -> np.ndarray:
    """Returns the largest square image of 3 x 3 tiles of a size, filled with noise."""
    rows, columns = _GRID
    side = int(size * (1 + (rows - 1) * (1 - _OVERLAP)))
    tiles = windows((side, side), (size, size), _OVERLAP, whole=False)
    assert len(tiles) == rows * columns
    return ours.noise(1, side)[0]


# Growth with the number of references.


def forward_row(model: str, size: int, given: str, rounds: int) -> dict[str, Any]:
    """Compares the network with N references with the network without."""
    task = DetectionTask(make_config(model, size), ours.CLASSES)
    variables = jax.device_put(ours.draw_variables(task))
    image = ours.noise(1, size).astype(np.float32)

    def make(count: int) -> Call:
        references = draw_references(task, variables, size, given, count)
        arguments = (variables, *jax.device_put((image, references)))
        run = jax.jit(functools.partial(_outputs, task))
        return functools.partial(run.lower(*arguments).compile(), *arguments)

    return compare(_by_count(make), rounds, base="0")


def _outputs(
    task: DetectionTask,
    variables: dict,
    image: Array,
    references: ReferenceImages | ReferenceMaps | None,
) -> tuple[Array, Array]:
    predictions = task.model.apply(variables, image, references=references)
    return predictions.logits, predictions.offsets


def draw_references(
    task: DetectionTask, variables: dict, size: int, given: str, count: int
) -> ReferenceImages | ReferenceMaps | None:
    """Returns references of one image: noise, or its maps.

    Args:
      task: the task.
      variables: its variables.
      size: side of the references in pixels.
      given: images or maps.
      count: N; None is returned for 0.
    """
    if not count:
        return None
    images = ours.noise(count, size, seed=1).astype(np.float32)
    mask = np.ones((1, count), bool)
    if given == "images":
        return ReferenceImages(images[None], mask)
    levels = jax.jit(task.maps)(variables, images)[1:]
    return ReferenceMaps(tuple(level[None] for level in levels), mask)


def train_row(model: str, size: int, rounds: int) -> dict[str, Any]:
    """Compares training steps with N references with steps without."""

    def make(count: int) -> Call:
        config = make_config(model, size, count)
        task = DetectionTask(config, ours.CLASSES)
        batch = synthetic.make_batch(config, ours.CLASSES, 1, ours.OBJECTS)
        return ours.RunTrainer(task, ours.draw_variables(task), batch)

    return compare(_by_count(make), rounds, base="0")


def _by_count(make: Callable[[int], Call]) -> dict[str, Callable[[], Call]]:
    return {str(count): functools.partial(make, count) for count in COUNTS}


# Memory.


def memory_row(model: str, size: int) -> dict[str, Any]:
    """Returns the memory of a ring of references in MiB; see the module docstring."""
    detector = make_detector(model, size)
    programs = BorrowingPrograms(detector.task, detector.variables, detector.canvas)
    slots = programs.empty_slots(RING)
    values = sum(level[0].size for level in slots)
    ring = sum(level.nbytes for level in slots)
    with_ring = _program_bytes(programs.compile_for(1, slots))
    without = _program_bytes(_compile_without(detector))
    del slots
    return {
        "size": size,
        "values_of_a_reference": values,
        "reference_MiB": _mib(ring / RING),
        "ring_MiB": _mib(ring),
        "held_MiB": _mib(_held(detector, RING) - _held(detector, "none")),
        "program_MiB": {"ring": _mib(with_ring), "none": _mib(without)},
        **_device_peaks(detector),
    }


def _compile_without(detector: Detector) -> jax.stages.Compiled:
    inputs = (np.zeros((1, *detector.canvas, 3), np.uint8), np.zeros((1, 2), np.int32))
    return jax.jit(detector.task.detect).lower(detector.variables, *inputs).compile()


def _program_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes of a program's arguments, outputs and temporaries."""
    sizes = program.memory_analysis()
    assert sizes is not None
    return (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        + sizes.temp_size_in_bytes
    )


def _held(detector: Detector, references: int | str) -> int:
    """Returns the growth of all arrays in bytes while a stream is open."""
    before = _live_bytes()
    stream = detector.stream(_frames(detector), references=references, batch_size=1)
    next(stream)
    held = _live_bytes() - before
    stream.close()
    return held


def _live_bytes() -> int:
    return sum(array.nbytes for array in jax.live_arrays())


def _device_peaks(detector: Detector) -> dict[str, Any]:
    """Returns the peaks of the device's memory in MiB, first without a ring."""
    if not jax.devices()[0].memory_stats():
        return {}
    peaks = {}
    for name, references in (("none", "none"), ("ring", RING)):
        options = {"references": references, "batch_size": 1}
        for _ in detector.stream(_frames(detector), **options):
            pass
        stats = jax.devices()[0].memory_stats()
        peaks[name] = _mib(stats["peak_bytes_in_use"])
    return {"device_peak_MiB": peaks}


def _frames(detector: Detector) -> Iterator[np.ndarray]:
    """Yields more frames of noise than a ring holds."""
    for frame in range(RING + 2):
        yield ours.noise(1, detector.canvas[0], seed=frame)[0]


def _mib(size: float) -> float:
    return round(size / 2**20, 2)


def _about(options: flags.FlagValues) -> dict[str, Any]:
    """Returns a description of the machine and the flags."""
    device = jax.devices()[0]
    on_cpu = device.platform == "cpu"
    return {
        "device": platform.machine() if on_cpu else device.device_kind,
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
        "flags": {
            name: options[name].value
            for name in options
            if name not in ("help", "output")
        },
    }


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    flags.DEFINE_list("models", list(MODELS), "Models to measure.", **text)
    flags.DEFINE_integer("size", 300, "Side of the input in pixels.", 1, **text)
    flags.DEFINE_integer(
        "memory_size", 512, "Side of the input of the rows of memory.", 1, **text
    )
    define_row_flags(values, rounds=20)
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
