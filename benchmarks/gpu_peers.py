"""On a GPU: our detectors against torchvision's, and their parts against PyTorch's.

  python -m benchmarks.gpu_peers --device=gpu [--budget=480] [--mode=train] [--rows=…]

Rows are MODE/…/bBATCH, and --rows takes shell patterns of them:
  train     a whole step of SSD300 from uint8 images and boxes, targets found in it:
            forward, loss, backward, SGD. Theirs is torchvision's ssd300_vgg16, with
            the same weights, channels last, AMP in bfloat16; `compile` passes its
            network to torch.compile. Ours computes in bfloat16, too.
  detect    uint8 images to detections, with the suppression.
  borrow    detect, the full borrowing model against plain SSD, both ours.
  trunk     SSD300's, forward or with the gradient: its share of the FLOP/s that a large
            matrix product reaches.
  matching  the sum of the shallowest level of 512 pixels against
            scaled_dot_product_attention, forward or with the gradient.
  nms       class-wise suppression against torchvision.ops.batched_nms: scores as of a
            trained detector (sparse) or uniform.
Programs are compiled side by side, in a few waves, before the rows of each wave are
timed. With --budget, what does not fit in so many seconds is left out and said so.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from absl import flags

from benchmarks import kernels, ours, rows, setting, torchvision_ssd
from benchmarks.programs import Once, Programs
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import cli

MODES = ("train", "detect", "borrow", "trunk", "matching", "nms")
# Scores above the threshold that an image has, in all classes.
CANDIDATES = 1000
# Of --budget: when the programs of a wave must be there, and rows are timed.
_SHARES = (0.6, 0.9)


class Row(NamedTuple):
    """What is compared in a row.

    Attributes:
      name: MODE/….
      programs: by name, what makes a call of ours, for minutes and in any thread.
      peers: by name, what makes a call of theirs; those whose name has "compile" are
        made and called once while our programs are being compiled.
      base: of the names, the one that the others are held against.
      check: see rows.compare.
      finish: more figures, of these and of `programs`.
    """

    name: str
    programs: Mapping[str, Callable[[], Any]]
    peers: Mapping[str, Callable[[], Callable]] = {}
    base: str = rows.OURS
    check: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda said: {}
    finish: Callable[[dict, Mapping[str, Any]], Mapping] = lambda figures, made: {}


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; returns the exit status."""
    options = _flags()
    setting.parse(options, argv, __doc__)
    start = time.monotonic()
    with setting.started(options) as table:
        programs = Programs(options.compilations)
        for share, wave in zip(_SHARES, _waves(options), strict=True):
            wave = [row for row in wave if table.wanted(row.name)]
            end = start + share * options.budget if options.budget else np.inf
            _run_wave(wave, programs, table, end, options)
        programs.cancel()
    if programs.unfinished:  # Python would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _flags():
    values = setting.make_flags(MODES, (1, 8, 32, 128), rounds=10)
    text = {"flag_values": values}
    flags.DEFINE_integer("compilations", 10, "Programs made side by side.", 1, **text)
    flags.DEFINE_float(
        "seconds", 6.0, "Of a row, about; slow ones repeat less.", **text
    )
    flags.DEFINE_bool("small", False, "Small parts, to try this out.", **text)
    return values


def _run_wave(wave, programs, table, end, options):
    """Makes what the rows need, until `end` at most, and times them."""
    if table.over or not wave:
        for row in wave:
            table.measure(row.name, dict)
        return
    start = time.monotonic()
    programs.begin(
        {
            f"{row.name}/{name}": make
            for row in wave
            for name, make in row.programs.items()
        }
    )
    peers = _compile_peers(wave, end)
    programs.wait(end - time.monotonic() if np.isfinite(end) else None)
    seconds, late = time.monotonic() - start, programs.unfinished
    table.put({"rows_compiled": len(wave), "seconds": seconds, "unfinished": late})
    for row in wave:
        measure = functools.partial(
            _measure, row, programs, peers.pop(row.name), options
        )
        table.measure(row.name, measure)
        _free_memory()
    programs.drop()


def _compile_peers(wave, end):
    """{row: {name: maker}} of theirs, of which those to be compiled are made here."""
    # They are tried once more, when nothing else runs.
    torch.backends.cudnn.benchmark = False
    peers = {}
    for row in wave:
        peers[row.name] = dict(row.peers)
        for name, make in row.peers.items():
            if "compile" not in name:
                continue
            if time.monotonic() > end:
                error = TimeoutError("--budget was over before it was compiled")
                peers[row.name][name] = functools.partial(_raise, error)
                continue
            try:
                call = make()
                call()
            except Exception as error:
                peers[row.name][name] = functools.partial(_raise, error)
            else:
                peers[row.name][name] = functools.partial(_give, call)
    torch.backends.cudnn.benchmark = True
    return peers


def _raise(error):
    raise error


def _give(value):
    return value


def _measure(row, programs, peers, options):
    """A row's figures."""

    def call(name):
        made = programs[f"{row.name}/{name}"]
        return made.call if isinstance(made, kernels.Counted) else made

    makers = {name: functools.partial(call, name) for name in row.programs}
    figures = rows.compare(
        makers | peers,
        options.rounds,
        base=row.base,
        seconds=options.seconds,
        check=row.check,
    )
    made = {
        name: programs[f"{row.name}/{name}"]
        for name in row.programs
        if name in figures["ms"]
    }
    return figures | row.finish(figures, made)


def _free_memory():
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# Rows.


def _waves(options) -> tuple[list[Row], ...]:
    """All rows that --mode and --batches ask for, those first that matter most."""
    detector = _Detectors(options)
    parts = _Parts(options)
    both = (False, True)
    waves = (
        [
            *(detector.train(b) for b in (32, 128)),
            *(detector.detect(b) for b in (32, 8, 1)),
            *(detector.borrow("ssd512", b) for b in (32, 1)),
            parts.trunk(32, True),
            *(parts.matching(b, gradient) for b in (8, 32) for gradient in both),
            *(
                parts.nms(8732, 90, b, trained)
                for b in (1, 8, 32)
                for trained in (True, False)
            ),
        ],
        [
            *(detector.train(b) for b in (8, 1)),
            detector.detect(128),
            detector.borrow("ssd512", 8),
            *(detector.borrow("ssd300", b) for b in (32, 8, 1)),
            parts.trunk(32, False),
            *(
                parts.nms(32512, 80, b, trained)
                for b in (1, 8, 32)
                for trained in (True, False)
            ),
            *(parts.trunk(128, gradient) for gradient in both),
        ],
    )

    def asked(row):
        mode, batch = row.name.split("/")[0], row.name.split("/b")[-1]
        return mode in options.mode and int(batch) in options.batches

    return tuple([row for row in wave if asked(row)] for wave in waves)


class _Detectors:
    """Rows of whole detectors."""

    def __init__(self, options):
        self._gpu = options.device == "gpu"
        self._device = "cuda" if self._gpu else "cpu"
        self._dtype = "bfloat16" if self._gpu else "float32"
        self._reference = Once(self._draw_reference)
        self._variables = {
            (model, borrow): Once(functools.partial(self._draw, model, borrow))
            for model in ("ssd300", "ssd512")
            for borrow in (False, True)
        }

    def _config(self, batch, model="ssd300", borrow=False, dtype=None):
        dtype = dtype or self._dtype
        return ours.make_config(borrow, model=model, batch=batch, dtype=dtype)

    def _draw_reference(self):
        """Torchvision's detector with scores as after training, and ours of it."""
        score = self._config(1).nms.score
        model = torchvision_ssd.draw_model()
        model = torchvision_ssd.spread(model, score, CANDIDATES)
        return model, torchvision_ssd.to_ours(model)

    def _draw(self, model, borrow):
        """Our variables with scores as after training."""
        config = self._config(1, model, borrow, "float32")
        task = DetectionTask(config, ours.CLASSES)
        variables = ours.draw_variables(task)
        spread = ours.find_spread(task, variables, CANDIDATES)
        return ours.apply_spread(variables, spread)

    def train(self, batch: int) -> Row:
        """A training step."""
        config = self._config(batch)
        data = ours.make_batch(config)

        def our_step():
            task = DetectionTask(config, ours.CLASSES)
            return ours.RunTrainer(task, self._reference()[1], data)

        def their_step(compiled):
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
        """Images to detections."""
        config = self._config(batch)
        data = ours.make_batch(config)

        def theirs(compiled):
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
        """The full borrowing model against plain SSD."""

        def make(borrow):
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


def _our_detect(config, variables):
    task = DetectionTask(config, ours.CLASSES)
    variables = jax.device_put(variables)
    run = ours.detect(task, variables, ours.make_batch(config))
    return functools.partial(run, variables)


def _losses(said):
    """The first step's loss of each: of the same weights, the same but for rounding."""
    return {
        "loss": {
            name: float(x["loss"] if isinstance(x, dict) else x)
            for name, x in said.items()
        }
    }


def _detections(said):
    """How many detections each has made in an image, on average."""

    def count(found):
        if isinstance(found, list):
            return float(np.mean([len(image["scores"]) for image in found]))
        return float(np.mean(np.sum(found.mask, axis=1)))

    return {"detections": {name: count(found) for name, found in said.items()}}


class _Parts:
    """Rows of parts."""

    def __init__(self, options):
        self._gpu = options.device == "gpu"
        self._device = "cuda" if self._gpu else "cpu"
        self._dtype = "bfloat16" if self._gpu else "float32"
        self._small = options.small

    def trunk(self, batch: int, gradient: bool) -> Row:
        """The trunk's share of the rate of a matrix product."""
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
        """Attention of one head, of 4096 queries and 1344 keys."""
        shape = kernels.MatchingShape(batch, 4096, 1344, 256)
        if self._small:
            shape = shape._replace(queries=96, keys=64)
        arguments = (shape, self._dtype, gradient)
        ours_of = functools.partial(kernels.our_matching, *arguments)
        return Row(
            f"matching/{'gradient' if gradient else 'forward'}/b{batch}",
            {
                rows.OURS: functools.partial(ours_of, "auto"),
                "ours_plain": functools.partial(ours_of, "plain"),
                "ours_blocks": functools.partial(ours_of, "blocks"),
            },
            {"sdpa": lambda: kernels.their_matching(*arguments, self._device)},
            check=kernels.matching_difference,
        )

    def nms(self, anchors: int, classes: int, batch: int, trained: bool) -> Row:
        """Suppression of all classes."""
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

    @functools.cache  # noqa: B019 (as long as the run)
    def _suppression(self, shape):
        options = ours.make_config(False, batch=shape[0]).nms
        return Once(lambda: kernels.suppression(shape, options))


def _rates(figures, made):
    """TFLOP/s of both, and the trunk's share of the product's."""
    rates = {
        name: counted.flops / figures["ms"][name] / 1e9
        for name, counted in made.items()
    }
    share = rates[rows.OURS] / rates["matmul"]
    return {"teraflops": rates, "share_of_matmul": share}


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
