"""Compares our detectors with torchvision's on a GPU, and their parts with PyTorch's.

  python -m benchmarks.gpu_peers --device=gpu [--budget=480] [--mode=train] [--rows=...]

Rows are named MODE/.../bBATCH; --rows takes shell patterns of the names.
  train     a step of SSD300 from uint8 images and boxes, targets included: forward,
            loss, backward, SGD. The peer is torchvision's ssd300_vgg16 with the same
            weights, channels last and AMP in bfloat16; `compile` passes its network to
            torch.compile. Ours computes in bfloat16 as well.
  detect    uint8 images to detections, suppression included
  borrow    detect of the full borrowing model compared with plain SSD, both ours
  trunk     SSD300's trunk, forward or with the gradient: its share of the FLOP/s of a
            large matrix product
  matching  the weighted sum of the shallowest level at 512 pixels, compared with
            scaled_dot_product_attention, forward or with the gradient
  nms       class-wise suppression compared with torchvision.ops.batched_nms, for scores
            as of a trained detector (sparse) or uniform ones
Programs are compiled in parallel, in two waves, before the rows of each wave are timed.
With --budget, rows that do not fit into this number of seconds fail with a message.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from absl import flags

from benchmarks import kernels, rows, setting
from benchmarks.gpu_rows import DetectorRows, PartRows, Row
from benchmarks.programs import ProgramPool
from borrow_det.tools.common import cli

MODES = ("train", "detect", "borrow", "trunk", "matching", "nms")
# Shares of --budget at which the programs of each wave must be compiled.
_SHARES = (0.6, 0.9)


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit status."""
    options = _flags()
    setting.parse(options, argv, __doc__)
    start = time.monotonic()
    with setting.started(options) as table:
        programs = ProgramPool(options.compilations)
        for share, wave in zip(_SHARES, _waves(options), strict=True):
            wave = [row for row in wave if table.wanted(row.name)]
            end = start + share * options.budget if options.budget else np.inf
            _run_wave(wave, programs, table, end, options)
        programs.cancel()
    if programs.unfinished:  # Exit without waiting for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _flags() -> flags.FlagValues:
    values = setting.make_flags(MODES, (1, 8, 32, 128), rounds=10)
    text: Any = {"flag_values": values}
    flags.DEFINE_integer(
        "compilations", 10, "Number of programs compiled in parallel.", 1, **text
    )
    flags.DEFINE_float(
        "seconds", 6.0, "Approximate seconds per row; slow calls repeat less.", **text
    )
    flags.DEFINE_bool("small", False, "Use small parts, to try the script.", **text)
    return values


def _run_wave(
    wave: Sequence[Row],
    programs: ProgramPool,
    table: rows.RowWriter,
    end: float,
    options: flags.FlagValues,
) -> None:
    """Compiles the programs of rows, at most until `end`, and times them."""
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


def _compile_peers(
    wave: Sequence[Row], end: float
) -> dict[str, dict[str, Callable[[], Callable]]]:
    """Returns makers of the peers' calls by row and name, and compiles some calls."""
    # cuDNN tries kernels later, when nothing else runs.
    torch.backends.cudnn.benchmark = False
    peers = {}
    for row in wave:
        peers[row.name] = dict(row.peers)
        for name, make in row.peers.items():
            if "compile" not in name:
                continue
            if time.monotonic() > end:
                error = TimeoutError("--budget was used up before it was compiled")
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


def _raise(error: Exception) -> NoReturn:
    raise error


def _give(value: Callable) -> Callable:
    return value


def _measure(
    row: Row,
    programs: ProgramPool,
    peers: dict[str, Callable[[], Callable]],
    options: flags.FlagValues,
) -> dict[str, Any]:
    """Returns the figures of a row."""

    def call(name: str) -> Callable:
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
    return {**figures, **row.finish(figures, made)}


def _free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _waves(options: flags.FlagValues) -> tuple[list[Row], ...]:
    """Returns the rows of --mode and --batches, the most important ones first."""
    detector = DetectorRows(options)
    parts = PartRows(options)
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

    def selected(row: Row) -> bool:
        mode, batch = row.name.split("/")[0], row.name.split("/b")[-1]
        return mode in options.mode and int(batch) in options.batches

    return tuple([row for row in wave if selected(row)] for wave in waves)


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
