"""Writes the metrics of a run to TensorBoard events, metrics.jsonl and loggers.

The methods are named like those of clu's metric writers, which need TensorFlow.
"""

import io
import itertools
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import flax
import numpy as np
import PIL.Image
import tensorboardX
from tensorboardX import summary
from tensorboardX.proto.summary_pb2 import Summary

from borrow_det.errors import InputError
from borrow_det.io import paths, streams
from borrow_det.reporting.loggers import Loggers
from borrow_det.visualization import annotate, sheets

_writers = itertools.count()
# A bucket cannot append: metrics.jsonl is rewritten there, at most this often. (An
# object takes one write per second.)
_SECONDS_BETWEEN_WRITES = 30.0
# Pictures of one call in TensorBoard. Their files in evaluations/ are complete.
MOST_IMAGES = 6
IMAGE_BYTES = 100_000
_IMAGE_SIDE = 1280


class MetricWriter:
    """Writes the metrics of one work directory; use it from one process only.

    `metrics.jsonl` has one object per line, `{"step": 100, "loss": 1.5, ...}`, in the
    order of writing; a value that is not finite becomes null. Lines reach the file
    immediately, so that a user can follow a running run. Opening the file cuts off a
    partial last line, which a crash may leave.

    In a bucket, lines arrive within half a minute, and all lines and TensorBoard events
    at each `flush`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        resume_step: int | None = None,
        loggers: Loggers | None = None,
    ):
        """Opens the files of a run for appending, and creates the folder if needed.

        Args:
          workdir: the run's work directory.
          resume_step: step of the checkpoint that the run resumes from, 0 for a new
            run. Lines of later steps come from an interrupted start whose steps will
            be repeated: they are removed, and hidden in TensorBoard. None keeps every
            complete line.
          loggers: get every finite number and picture that TensorBoard gets.

        Raises:
          InputError: a line of metrics.jsonl is not an object with a step.
        """
        workdir = paths.as_path(workdir)
        paths.make_folder(workdir)
        path = workdir / "metrics.jsonl"
        kept = _repair(path, resume_step) if path.exists() else b""
        self._resumed = {
            name
            for record in map(json.loads, kept.splitlines())
            if record["step"] == resume_step
            for name in record
        }
        remote = paths.is_remote(workdir)
        self._lines = (
            _Object(path, kept)
            if remote
            else path.open("a", encoding="utf-8", buffering=1)
        )
        purge_step = None if resume_step is None else resume_step + 1
        events = _RemoteEvents if remote else _Events
        self._events = events(workdir, purge_step)
        self._loggers = loggers

    def resumes_with(self, prefix: str) -> bool:
        """Returns whether the step that the run resumes from has such a metric.

        Args:
          prefix: start of the metric's name.
        """
        return any(name.startswith(prefix) for name in self._resumed)

    def write_scalars(
        self,
        step: int,
        scalars: Mapping[str, Any],
        tag: Callable[[str], str] = str,
    ) -> None:
        """Writes one line of numbers.

        Args:
          step: the step.
          scalars: numbers by name, anything that `float()` accepts.
          tag: returns the tag in TensorBoard of a name.
        """
        record: dict[str, float | None] = {"step": int(step)}
        finite: dict[str, float] = {}  # A curve has no place for other values.
        for name, value in scalars.items():
            value = float(value)
            if math.isfinite(value):
                finite[tag(name)] = value
            record[name] = value if math.isfinite(value) else None
        for name, value in finite.items():
            self._events.writer.add_scalar(name, value, int(step))
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        if self._loggers:
            self._loggers.write_scalars(int(step), finite)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes the first MOST_IMAGES pictures, to TensorBoard as small JPEGs.

        Args:
          step: the step.
          images: uint8 RGB [H, W, 3] by tag. Each takes at most IMAGE_BYTES.
        """
        shown = {
            name: annotate.shrink(image, _IMAGE_SIDE)
            for name, image in itertools.islice(images.items(), MOST_IMAGES)
        }
        for name, image in shown.items():
            content = sheets.jpeg(image, IMAGE_BYTES)
            width, height = PIL.Image.open(io.BytesIO(content)).size
            picture = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=content
            )
            value = Summary.Value(tag=name, image=picture)
            self._events.writer.file_writer.add_summary(
                Summary(value=[value]), int(step)
            )
        if self._loggers and shown:
            self._loggers.write_images(int(step), shown)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes a run's settings to TensorBoard, nested ones as `group.field`."""
        for part in summary.hparams(plain_settings(hparams), {}):
            self._events.writer.file_writer.add_summary(part)

    def flush(self) -> None:
        """Writes everything buffered to the files."""
        self._lines.flush()
        self._events.flush()

    def close(self, finished: bool = True) -> None:
        """Flushes and closes the files; the writer cannot be used afterwards.

        Args:
          finished: false if the run is to be resumed, for the loggers.
        """
        self._lines.close()
        self._events.close()
        if self._loggers:
            self._loggers.close(finished)


def plain_settings(
    settings: Mapping[str, Any],
) -> dict[str, bool | int | float | str]:
    """Returns settings as numbers and texts, nested ones as `group.field`."""
    flat = flax.traverse_util.flatten_dict(dict(settings), sep=".")
    return {
        # A path may have bytes that are not UTF-8.
        name: v if isinstance(v, bool | int | float) else streams.escaped(str(v))
        for name, v in flat.items()
    }


class _Object:
    """A text object in a bucket, with the methods of a file that lines need."""

    def __init__(self, path: paths.Path, content: bytes):
        self._path, self._content = path, bytearray(content)
        # The file of a new run exists at once, as on a disk.
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
    """TensorBoard events in a local folder."""

    def __init__(self, folder: paths.Path, purge_step: int | None):
        self.writer = _summary_writer(folder, purge_step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _RemoteEvents:
    """TensorBoard events in a bucket: each flush writes the new events to a new file.

    tensorboardX can write to a bucket itself, but from a separate thread, which a
    failing request would end silently, and it rewrites the entire file each time.
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
        # flush() of tensorboardX does not wait for its thread; close() does.
        self._writer.close()
        self._writer = None
        for path in pathlib.Path(self._temporary.name).iterdir():
            paths.write_whole(self._folder / path.name, path.read_bytes())
            path.unlink()

    def close(self) -> None:
        self.flush()
        self._temporary.cleanup()


def _summary_writer(
    folder: str | os.PathLike, purge_step: int | None
) -> tensorboardX.SummaryWriter:
    return tensorboardX.SummaryWriter(
        str(folder),
        # The name of an event file has a resolution of one second: two writers opened
        # within a second would overwrite each other. TensorBoard sorts by name.
        filename_suffix=f".{os.getpid()}.{next(_writers):04d}",
        purge_step=purge_step,
    )


def _repair(path: paths.Path, resume_step: int | None) -> bytes:
    """Removes a partial last line and the lines after `resume_step`.

    Returns:
      The remaining lines.
    """
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    kept = []
    for number, line in enumerate(complete.splitlines(keepends=True), start=1):
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
        # Not in place: a kill here must not lose complete lines.
        paths.write_whole(path, repaired)
    return repaired
