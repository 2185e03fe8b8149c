"""Makes one file of a trained run, which needs neither this package nor Flax.

  python -m borrow_det.tools.export --workdir=W --output=FILE [--batch=N|any]

The file is one function, the run's parameters and suppression inside:
  image       uint8 [B, H, W, 3] RGB: each image at the top left of a canvas of zeros,
              of the size that the run's data set has (config.dataset.canvas)
  image_size  int32 [B, 2]: the height and width that each image has there
gives, as tasks/detection.py's `detect` does, by falling score,
  boxes       float32 [B, K, 4]: y_min, x_min, y_max, x_max in shares of the image
  scores      float32 [B, K]
  labels      int32 [B, K], counted from 0
  mask        bool [B, K], false where there is no detection
Resizing to the network's input and normalisation are part of it.

--format=stablehlo makes a zip of
  model.stablehlo  what jax.export.deserialize reads, for each of --platforms
  metadata.json    class names, category ids, sizes in pixels, normalisation, versions,
                   what the network was built by
and --format=onnx (needs requirements-export.txt) an ONNX model with the same metadata
as its properties; there, a bfloat16 run computes in float32, which onnxruntime has.
"""

import io
import json
import sys
import zipfile
from collections.abc import Callable, Sequence

import jax
import jax.export
import numpy as np
from absl import flags
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.models.layers import PixelStatistics
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import cli
from borrow_det.tools.export import onnx_model
from borrow_det.workdir import metadata as metadata_lib

PLATFORMS = ("cpu", "cuda", "tpu")
_OUTPUTS = ("boxes", "scores", "labels", "mask")
# Groups and fields of a config that say what the network is.
_NETWORK = ("input_size", "dtype", "model", "borrow", "anchors", "nms")


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    batch = _batch(options.batch)
    _check_platforms(options)
    output = _new_file(options.output)
    detector = Detector.load(options.workdir, options.step)
    if options.format == "onnx":
        content, note = to_onnx(detector, batch)
    else:
        content = to_stablehlo(detector, batch, options.platforms)
        note = f"for {', '.join(options.platforms)}"
    try:
        paths.write_whole(output, content)
    except OSError as error:
        raise _unwritable(output, error) from error
    print(
        f"{options.format} of step {detector.step}, batch {options.batch}, {note}: "
        f"{output}, {len(content) / 2**20:.1f} MiB"
    )
    return 0


def to_stablehlo(
    detector: Detector, batch: int | None, platforms: Sequence[str]
) -> bytes:
    """The zip of a run; see the module's docstring.

    Args:
      detector: the run.
      batch: images of a call; None: as many as it is called with.
      platforms: some of PLATFORMS; none of them needs to be here.
    """
    # Written out, plain and blocks run everywhere; what cuDNN has would not.
    form = detector.config.borrow.attention
    task = _task(
        detector,
        attention="plain" if form == "plain" else "blocks",
        first_stage="pairs" if tuple(platforms) == ("tpu",) else "plain",
    )
    exported = jax.export.export(
        jax.jit(_function(task, detector.variables)), platforms=tuple(platforms)
    )(*_inputs(detector, batch))
    about = {
        **metadata(detector, batch, task.config),
        "platforms": list(exported.platforms),
    }
    about["versions"]["calling_convention"] = exported.calling_convention_version
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("metadata.json", json.dumps(about, indent=2) + "\n")
        members.writestr("model.stablehlo", bytes(exported.serialize()))
    return file.getvalue()


def to_onnx(detector: Detector, batch: int | None) -> tuple[bytes, str]:
    """An ONNX model of a run, and how it compares with the run on a picture of noise.

    `batch` is as in `to_stablehlo`.

    Raises:
      InputError: the packages are not installed, or cannot do it.
    """
    # The converter's loops over blocks come out wrong, and onnxruntime has few
    # operators in bfloat16.
    task = _task(detector, attention="plain", first_stage="plain", dtype="float32")
    function = _function(task, detector.variables)
    about = metadata(detector, batch, task.config)
    content = onnx_model.convert(function, _inputs(detector, batch), about)
    shape = (batch or 1, *detector.canvas, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    sizes = np.tile(np.array(detector.canvas, np.int32), (shape[0], 1))
    found = onnx_model.run(content, noise, sizes)
    expected = jax.device_get(jax.jit(function)(noise, sizes))
    scores = np.abs(found["scores"] - expected["scores"]).max()
    # From the nearest: nearly equal scores change places.
    pairs = np.abs(found["boxes"][:, :, None] - expected["boxes"][:, None])
    boxes = pairs.max(axis=-1).min(axis=-1).max()
    return content, (
        f"on noise its scores are {scores:.0e} off this run's at most, its boxes "
        f"{boxes:.0e}"
    )


def metadata(detector: Detector, batch: int | None, config) -> dict:
    """What is told of an exported run, to be written as JSON.

    Args:
      detector: the run.
      batch: as in `to_stablehlo`.
      config: that which the exported function was built by.
    """
    fields = config.to_dict()
    return {
        "class_names": detector.class_names,
        "category_ids": detector.category_ids,
        "canvas": detector.canvas,
        "input_size": detector.input_size,
        "normalization": PixelStatistics.of(config.model)._asdict(),
        "batch": batch or "any",
        "step": detector.step,
        "versions": {
            "borrow_det": metadata_lib.environment(config.seed)["git"],
            "jax": jax.__version__,
        },
        "config": {name: fields[name] for name in _NETWORK},
    }


def _task(
    detector: Detector, attention: str, first_stage: str, **fields: str
) -> DetectionTask:
    """The run's task with some fields of how it computes set otherwise."""
    config = detector.config.copy_and_resolve_references()
    config.borrow.attention = attention
    config.first_stage = first_stage
    config.update(fields)
    return DetectionTask(config, len(detector.class_names))


def _function(task: DetectionTask, variables: dict) -> Callable[..., dict[str, Array]]:
    def detect(image, image_size):
        # A dictionary: a file cannot name a type of this package.
        found = task.detect(variables, image, image_size)._asdict()
        return {name: found[name] for name in _OUTPUTS}

    return detect


def _inputs(detector, batch):
    """The abstract canvases and sizes of a call."""
    (rows,) = jax.export.symbolic_shape("batch") if batch is None else (batch,)
    return (
        jax.ShapeDtypeStruct((rows, *detector.canvas, 3), np.uint8),
        jax.ShapeDtypeStruct((rows, 2), np.int32),
    )


def _batch(text):
    """A number, or None where any will do."""
    if text == "any":
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InputError(f"--batch={text} is neither a positive number nor any")
    return int(text)


def _check_platforms(options):
    if options.format == "onnx" and options["platforms"].present:
        raise InputError("--platforms is for --format=stablehlo: ONNX names none")
    if not options.platforms:
        raise InputError(f"--platforms names none of {', '.join(PLATFORMS)}")
    for name in options.platforms:
        check_choice("--platforms", name, PLATFORMS)


def _new_file(text):
    """The path to write to, in a folder that is there."""
    output = paths.as_path(text)
    if paths.exists(output):
        raise InputError(f"--output={text} is there already: name a new file")
    try:
        paths.make_folder(output.parent)
        # Now, and not when minutes have been spent.
        paths.write_whole(output, b"")
        output.unlink()
    except OSError as error:
        raise _unwritable(output, error) from error
    return output


def _unwritable(output, error):
    return InputError(f"--output={output} cannot be written: {paths.reason(error)}")


def _flags() -> flags.FlagValues:
    values = cli.run_flags()
    text = {"flag_values": values}
    flags.DEFINE_enum(
        "format", "stablehlo", ["stablehlo", "onnx"], "Of the file.", **text
    )
    flags.DEFINE_string(
        "batch", "any", "Images of a call; any: as many as it is given.", **text
    )
    flags.DEFINE_list(
        "platforms",
        list(PLATFORMS),
        f"That it is to run on, of {', '.join(PLATFORMS)}.",
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
