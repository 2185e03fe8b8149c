"""Metrics of a run: TensorBoard events, and metrics.jsonl for everything else.

The verbs are those of clu's metric writers, which need TensorFlow; this one does not.
"""

import itertools
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np
import tensorboardX
from tensorboardX import summary

from borrow_det.errors import InputError
from borrow_det.io import paths

_writers = itertools.count()
# A bucket does not append: metrics.jsonl is written anew, not oftener than this. (One
# write a second is what an object bears.)
_SECONDS_BETWEEN_WRITES = 30.0


class MetricWriter:
    """Writes the metrics of one work directory; use it from one process only.

    `metrics.jsonl` holds one object a line, `{"step": 100, "loss": 1.5, ...}`, in
    the order of writing; a value that is not finite stands there as null. Lines
    reach the file as they are written, so that it can be followed while a run goes.
    A half-written last line, which a crash leaves, is cut off on opening.

    In a bucket, lines are there half a minute later, and all of them, TensorBoard's
    events as well, at each `flush`.
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
        workdir = paths.as_path(workdir)
        paths.make_folder(workdir)
        path = workdir / "metrics.jsonl"
        kept = _repair(path, resume_step) if path.exists() else b""
        remote = paths.is_remote(workdir)
        self._lines = (
            _Object(path, kept)
            if remote
            else path.open("a", encoding="utf-8", buffering=1)
        )
        purge_step = None if resume_step is None else resume_step + 1
        events = _RemoteEvents if remote else _Events
        self._events = events(workdir, purge_step)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]):
        """Writes one line of numbers; values are anything `float()` accepts."""
        record = {"step": int(step)}
        for name, value in scalars.items():
            value = float(value)
            if math.isfinite(value):  # Others have no place on a curve.
                self._events.writer.add_scalar(name, value, int(step))
            record[name] = value if math.isfinite(value) else None
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")

    def write_images(self, step: int, images: Mapping[str, np.ndarray]):
        """Writes pictures, uint8 RGB [N, H, W, 3] a name, to TensorBoard."""
        for name, batch in images.items():
            self._events.writer.add_images(name, batch, int(step), dataformats="NHWC")

    def write_hparams(self, hparams: Mapping[str, Any]):
        """Writes a run's settings to TensorBoard; nested ones as `group.field`."""
        flat = flax.traverse_util.flatten_dict(dict(hparams), sep=".")
        plain = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in flat.items()
        }
        for part in summary.hparams(plain, {}):
            self._events.writer.file_writer.add_summary(part)

    def flush(self):
        """Brings everything written so far to the files."""
        self._lines.flush()
        self._events.flush()

    def close(self):
        """Flushes and closes the files; the writer takes nothing afterwards."""
        self._lines.close()
        self._events.close()


class _Object:
    """A text in a bucket, as much of a file as lines need."""

    def __init__(self, path: paths.Path, content: bytes):
        self._path, self._content = path, bytearray(content)
        # A new run's file is there at once, as on a disk.
        self._unwritten = not content
        self.flush()

    def write(self, text: str) -> None:
        self._content += text.encode()
        self._unwritten = True
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_WRITES:
            self.flush()

    def flush(self) -> None:
        if self._unwritten:
            paths.write_whole(self._path, bytes(self._content))
        self._written, self._unwritten = time.monotonic(), False

    def close(self) -> None:
        self.flush()


class _Events:
    """TensorBoard's events in a folder on a disk."""

    def __init__(self, folder: paths.Path, purge_step: int | None):
        self.writer = _summary_writer(folder, purge_step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _RemoteEvents:
    """TensorBoard's events in a bucket: each flush leaves a file of what is new.

    tensorboardX can write to a bucket itself, but from a thread of its own, which a
    request that fails would end without a word, and the whole of a file each time.
    """

    def __init__(self, folder: paths.Path, purge_step: int | None):
        self._folder, self._purge_step = folder, purge_step
        self._temporary = tempfile.TemporaryDirectory(prefix="borrow_det_events_")
        self._writer: tensorboardX.SummaryWriter | None = None

    @property
    def writer(self) -> tensorboardX.SummaryWriter:
        if self._writer is None:
            self._writer = _summary_writer(self._temporary.name, self._purge_step)
            self._purge_step = None
        return self._writer

    def flush(self) -> None:
        if self._writer is None:
            return
        # Its own flush does not wait for what its thread has still to write.
        self._writer.close()
        self._writer = None
        for path in pathlib.Path(self._temporary.name).iterdir():
            paths.write_whole(self._folder / path.name, path.read_bytes())
            path.unlink()

    def close(self) -> None:
        self.flush()
        self._temporary.cleanup()


def _summary_writer(folder, purge_step):
    return tensorboardX.SummaryWriter(
        str(folder),
        # The event file's name counts whole seconds: two writers opened within one
        # second would overwrite each other. TensorBoard reads in the names' order.
        filename_suffix=f".{os.getpid()}.{next(_writers):04d}",
        purge_step=purge_step,
    )


def _repair(path, resume_step):
    """Removes a half-written last line, and the lines after `resume_step`.

    Returns what is left.
    """
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
        # Not in place: a kill here must not lose the lines that are whole.
        paths.write_whole(path, repaired)
    return repaired
