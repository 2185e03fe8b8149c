r"""Exports a trained run to one file that needs neither this package nor Flax.

  python -m borrow_det.tools.export --workdir=W --output=FILE [--batch=N|any] \
      [--references=N]

The file is a function that includes the run's parameters, resizing to the input size of
the network, pixel statistics and suppression. Inputs:
  image       uint8 [B, H, W, 3] RGB canvases of the size config.dataset.canvas, with
              each image at the top left and zeros elsewhere
  image_size  int32 [B, 2]: height and width of each image on its canvas
and, with --references=N, the images that each image also borrows from:
  reference_image  uint8 [B, N, H, W, 3], canvases like those of the images
  reference_size   int32 [B, N, 2]
  reference_mask   bool [B, N], false for an absent reference
Outputs, for K = nms.max_total detections sorted by descending score:
  boxes       float32 [B, K, 4]: y_min, x_min, y_max, x_max, relative to the image
  scores      float32 [B, K]
  labels      int32 [B, K], counted from 0
  mask        bool [B, K], false for padding

--format=stablehlo writes a zip file with
  model.stablehlo  input of jax.export.deserialize, for all of --platforms
  metadata.json    class names, category ids, sizes in pixels, number of references,
                   pixel statistics, operating points (minimum scores, such as
                   best_f1), versions, and the config fields of the network
--format=onnx (needs requirements-export.txt) writes an ONNX model with the same
metadata as properties. It computes in float32, also for a bfloat16 run, since
onnxruntime has few operators in bfloat16. The suffix of FILE implies the format: .onnx
or .zip.

The exit status is 2 after wrong input, with one line on stderr.
"""

import io
import json
import pathlib
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from borrow_det.errors import InputError, check_choice
from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.models.layers import PixelStatistics
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import cli, view_flags
from borrow_det.tools.export import onnx_model, program
from borrow_det.workdir.metadata import environment

PLATFORMS = ("cpu", "cuda", "tpu")
FORMATS = ("stablehlo", "onnx")
# Suffixes of --output that imply a format.
_SUFFIXES = {".zip": "stablehlo", ".onnx": "onnx"}
# Largest difference of an ONNX model from the run on noise, of scores and of boxes, and
# the share of boxes that may differ more.
_TOLERANCE, _DIFFERING = 0.01, 0.25
# Fields and groups of fields that define the network.
_NETWORK = ("input_size", "dtype", "model", "borrow", "head", "loss", "anchors", "nms")


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    batch = _batch(options.batch)
    kind = _format(options.format, options.output)
    _check_platforms(options, kind)
    output = _new_file(options.output)
    detector = Detector.load(options.workdir, options.step)
    count = options.references or None
    view_flags.check_references(count, detector.config)
    if kind == "onnx":
        content, note = to_onnx(detector, batch, options.references)
    else:
        content = to_stablehlo(detector, batch, options.platforms, options.references)
        note = f"for {', '.join(options.platforms)}"
    try:
        paths.write_whole(output, content)
    except OSError as error:
        raise _unwritable(output, error) from error
    number = "" if count is None else f"references {count}, "
    print(
        f"{output}: {kind} of step {detector.step}, batch {options.batch}, "
        f"{number}{note}; {len(content) / 2**20:.1f} MiB"
    )
    return 0


def to_stablehlo(
    detector: Detector,
    batch: int | None,
    platforms: Sequence[str],
    count: int = 0,
) -> bytes:
    """Returns the zip file of a run; see the module's docstring.

    Args:
      detector: trained run.
      batch: number of images per call; None for any number.
      platforms: one or more of PLATFORMS; they need not be available here.
      count: number of references of an image; 0 for none.
    """
    # These forms of attention run on all platforms; cuDNN's does not.
    form = detector.config.borrow.attention
    task = _task(
        detector,
        attention="plain" if form == "plain" else "blocks",
        first_stage="pairs" if tuple(platforms) == ("tpu",) else "plain",
    )
    inputs = program.make_inputs(detector.canvas, batch, count)
    exported = jax.export.export(
        jax.jit(program.make_function(task, detector.variables)),
        platforms=tuple(platforms),
    )(*inputs.values())
    about = {
        **metadata(detector, batch, count, task.config),
        "platforms": list(exported.platforms),
    }
    about["versions"]["calling_convention"] = exported.calling_convention_version
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("metadata.json", json.dumps(about, indent=2) + "\n")
        members.writestr("model.stablehlo", bytes(exported.serialize()))
    return file.getvalue()


def to_onnx(detector: Detector, batch: int | None, count: int = 0) -> tuple[bytes, str]:
    """Converts a run to an ONNX model and compares both on an image of noise.

    Args:
      detector: trained run.
      batch: number of images per call; None for any number.
      count: number of references of an image; 0 for none.

    Returns:
      The model, and a sentence with its largest differences from the run.

    Raises:
      InputError: the packages are not installed, or cannot convert the run, or
        convert it to another model.
    """
    # The converter gives wrong results for loops over blocks, and onnxruntime has few
    # operators in bfloat16.
    task = _task(detector, attention="plain", first_stage="plain", dtype="float32")
    function = program.make_function(task, detector.variables)
    inputs = program.make_inputs(detector.canvas, batch, count)
    about = metadata(detector, batch, count, task.config)
    content = onnx_model.convert(function, inputs, about)
    noise = program.draw_inputs(detector.canvas, batch or 1, count)
    found = onnx_model.run(content, noise)
    expected = jax.device_get(jax.jit(function)(*noise.values()))
    scores = np.abs(found["scores"] - expected["scores"]).max()
    # Compare with the nearest box, since detections of equal score may change places.
    pairs = np.abs(found["boxes"][:, :, None] - expected["boxes"][:, None])
    boxes = pairs.max(axis=-1).min(axis=-1)
    differences = (
        f"largest differences from the run on noise: scores {scores:.0e}, boxes "
        f"{boxes.max():.0e}"
    )
    # A few boxes may differ: rounding decides between detections of equal score.
    if scores > _TOLERANCE or np.mean(boxes > _TOLERANCE) > _DIFFERING:
        raise InputError(f"the ONNX model is not that of the run; {differences}")
    return content, differences


def metadata(
    detector: Detector, batch: int | None, count: int, config: ConfigDict
) -> dict[str, Any]:
    """Returns the metadata of an exported run, for JSON.

    Args:
      detector: trained run.
      batch: number of images per call; None for any number.
      count: number of references of an image; 0 for none.
      config: config of the exported function.
    """
    fields = config.to_dict()
    fields["loss"] = {"classification": fields["loss"]["classification"]}
    return {
        "class_names": detector.class_names,
        "category_ids": detector.category_ids,
        "canvas": detector.canvas,
        "input_size": detector.input_size,
        "normalization": PixelStatistics.of(config.model)._asdict(),
        "batch": batch or "any",
        "references": count,
        "step": detector.step,
        "operating_points": detector.operating_points.points,
        "versions": {
            "borrow_det": environment(config.seed)["git"],
            "jax": jax.__version__,
        },
        "config": {name: fields[name] for name in _NETWORK},
    }


def _task(
    detector: Detector, attention: str, first_stage: str, **fields: str
) -> DetectionTask:
    """Returns the run's task with other values of some fields of the config."""
    config = detector.config.copy_and_resolve_references()
    config.borrow.attention = attention
    config.first_stage = first_stage
    config.update(fields)
    return DetectionTask(config, len(detector.class_names))


def _batch(text: str) -> int | None:
    """Parses --batch: a number, or None for any."""
    if text == "any":
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise InputError(f"--batch={text} must be a positive integer or any")
    return int(text)


def _format(stated: str | None, output: str) -> str:
    """Returns the format of the file: --format, or what the suffix of --output implies.

    Raises:
      InputError: the two contradict each other.
    """
    suffix = pathlib.PurePath(output).suffix
    implied = _SUFFIXES.get(suffix.lower())
    if None not in (stated, implied) and stated != implied:
        raise InputError(
            f"--output={output} contradicts --format={stated}: {suffix} is the suffix "
            f"of {implied}, so leave out --format, or choose another name"
        )
    return stated or implied or FORMATS[0]


def _check_platforms(options: flags.FlagValues, kind: str) -> None:
    if kind == "onnx" and options["platforms"].present:
        raise InputError(
            "--platforms can only be used with --format=stablehlo: an ONNX model runs "
            "on all platforms"
        )
    if not options.platforms:
        raise InputError(
            f"--platforms is empty: name at least one of {', '.join(PLATFORMS)}"
        )
    for name in options.platforms:
        check_choice("--platforms", name, PLATFORMS)


def _new_file(text: str) -> paths.Path:
    """Returns the path of --output, and makes its folder.

    Raises:
      InputError: the file exists or cannot be written.
    """
    output = paths.as_path(text)
    if paths.exists(output):
        raise InputError(f"--output={text} exists: choose a new file")
    try:
        paths.make_folder(output.parent)
        # Fail before minutes of export.
        paths.write_whole(output, b"")
        output.unlink()
    except OSError as error:
        raise _unwritable(output, error) from error
    return output


def _unwritable(output: paths.Path, error: OSError) -> InputError:
    return InputError(f"--output={output} cannot be written: {paths.reason(error)}")


def _flags() -> flags.FlagValues:
    values = cli.run_flags("Local file to write, such as model.zip or model.onnx.")
    text: Any = {"flag_values": values}
    flags.DEFINE_enum(
        "format",
        None,
        FORMATS,
        "Format of the file (default: onnx if --output ends in .onnx, else "
        f"{FORMATS[0]}).",
        **text,
    )
    flags.DEFINE_string(
        "batch",
        "any",
        "Number of images per call: a number, or any for a variable number.",
        **text,
    )
    flags.DEFINE_integer(
        "references",
        0,
        "Number of reference images of an image, which are inputs, too.",
        lower_bound=0,
        **text,
    )
    flags.DEFINE_list(
        "platforms",
        list(PLATFORMS),
        f"Platforms of the StableHLO file: {', '.join(PLATFORMS)}.",
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
