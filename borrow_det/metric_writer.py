"""Metrics of a run: TensorBoard events, and metrics.jsonl for everything else.

The verbs are those of clu's metric writers, which need TensorFlow; this one does not.
"""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np
import tensorboardX
from tensorboardX import summary

from borrow_det.errors import InputError

_writers = itertools.count()


class MetricWriter:
    """Writes the metrics of one work directory; use it from one process only.

    `metrics.jsonl` holds one object a line, `{"step": 100, "loss": 1.5, ...}`, in
    the order of writing; a value that is not finite stands there as null. Lines
    reach the file as they are written, so that it can be followed while a run goes.
    A half-written last line, which a crash leaves, is cut off on opening.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int | None = None):
        """Opens the files of a run for appending, and creates the folder if needed.

        Args:
          workdir: the run's work directory.
          resume_step: the step of the checkpoint that the run goes on from, 0 where
            it starts anew. Lines of later steps come from an interrupted run that
            will be repeated: they are removed, and TensorBoard is told to hide
            them. None keeps every whole line (a pass that only adds evaluations).

        Raises:
          InputError: a line of metrics.jsonl is not an object with a step.
        """
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.exists():
            _repair(path, resume_step)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._events = tensorboardX.SummaryWriter(
            str(workdir),
            # The event file's name counts whole seconds: two writers opened within
            # one second would overwrite each other.
            filename_suffix=f".{os.getpid()}.{next(_writers)}",
            purge_step=None if resume_step is None else resume_step + 1,
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        """Writes one line of numbers; values are anything `float()` accepts."""
        record = {"step": int(step)}
        for name, value in scalars.items():
            value = float(value)
            if math.isfinite(value):  # Others have no place on a curve.
                self._events.add_scalar(name, value, int(step))
            record[name] = value if math.isfinite(value) else None
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")

    def write_images(self, step: int, images: Mapping[str, np.ndarray]):
        """Writes pictures, uint8 RGB [N, H, W, 3] a name, to TensorBoard."""
        for name, batch in images.items():
            self._events.add_images(name, batch, int(step), dataformats="NHWC")

    def write_hparams(self, hparams: Mapping[str, Any]):
        """Writes a run's settings to TensorBoard; nested ones as `group.field`."""
        flat = flax.traverse_util.flatten_dict(dict(hparams), sep=".")
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flat.items()
        }
        for part in summary.hparams(plain, {}):
            self._events.file_writer.add_summary(part)

    def flush(self):
        """Brings everything written so far to the files."""
        self._lines.flush()
        self._events.flush()

    def close(self):
        """Flushes and closes the files; the writer takes nothing afterwards."""
        self._lines.close()
        self._events.close()


def _repair(path, resume_step):
    """Removes a half-written last line, and the lines after `resume_step`."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    kept = []
    for number, line in enumerate(whole.splitlines(keepends=True), start=1):
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}, line {number} is not a JSON object with a step: "
                "remove that line or move the file away"
            ) from error
        if resume_step is None or step <= resume_step:
            kept.append(line)
    repaired = b"".join(kept)
    if repaired != content:
        # Through a second file: a kill here must not lose the lines that are whole.
        temporary = path.with_suffix(".jsonl.tmp")
        temporary.write_bytes(repaired)
        temporary.replace(path)
