"""Turns published weights into something that `config.init_from` starts a run from.

  python -m borrow_det.tools.import_weights --input=FILE --output=DIR

FILE ends in .pth or .pt (PyTorch; needs torch), .safetensors, .h5 or .keras (Keras) or
.npz (arrays under PyTorch's names). Nothing that it holds is executed. Its layout is
recognised by the names of its tensors, or given by --layout:
  torchvision_vgg16           torchvision's vgg16, whole
  torchvision_vgg16_features  the same names; the classifier is absent or NaN
  keras_vgg16                 Keras' VGG16, with or without its top
  vgg16_reducedfc             the VGG-16 that SSD implementations pass around
  torchvision_ssd300_vgg16    torchvision's whole detector, trained on COCO
A file with missing, surplus or misshaped tensors is refused, with the list of them.

DIR then holds
  import.json  what was read (file, sha256, layout), the channel order, mean and scale
               that the weights want of an image, which tensor became which parameter;
  checkpoints/ the parameters.
The order, mean and scale are those of the layout's publisher; --channel_order,
--pixel_mean and --pixel_std (three numbers each, in that order of the channels, units
of 0..255) say otherwise, together.

A whole detector needs the config of its network as well, with the input size, anchors
and variances that it was trained with; DIR is then a work directory, for tools.predict
as for init_from:

  python -m borrow_det.tools.import_weights --input=ssd300_vgg16_coco.pth \
      --config=configs/ssd300_coco.py:reference=torchvision --output=DIR

Its outputs are COCO's 80 classes in the order of their ids; --keep_unused_classes keeps
the ten that torchvision's ids count and nobody annotated, too.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax
import jax
import numpy as np
from absl import flags
from ml_collections import config_dict

from borrow_det.config import command_line, packaged, validate
from borrow_det.data.datasets import coco_classes
from borrow_det.errors import InputError, check_choice
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tasks import detection
from borrow_det.tools.common import cli
from borrow_det.weights import files, layouts
from borrow_det.workdir import checkpoints, init_from, metadata

_DETECTOR_CONFIG = "configs/ssd300_coco.py:reference=torchvision"


class Imported(NamedTuple):
    """What a file gave."""

    layout: str  # Of layouts.LAYOUTS.
    parameters: dict[str, np.ndarray]  # By our path, float32.
    normalization: dict  # init_from.PIXEL_STATISTICS's fields.
    dropped: list[str]  # Tensors that are not part of it.


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    output = cli.output_folder(options.output)
    _check_output(output)
    normalization = _given_normalization(options)
    imported = read(options.input, options.layout, normalization)
    config = classes = None
    if layouts.LAYOUTS[imported.layout].trained:
        config = _config(options)
        imported, classes = as_detector(imported, config, options.keep_unused_classes)
    elif options["config"].present or options.keep_unused_classes:
        raise InputError(
            f"--config and --keep_unused_classes are for whole detectors; "
            f"{options.input} is {layouts.LAYOUTS[imported.layout].about}"
        )
    write(output, options.input, imported, config, classes)
    print(_summary(imported, output))
    return 0


def read(
    path: str | os.PathLike, layout: str | None = None, normalization=None
) -> Imported:
    """Reads a weight file whole; see the module's docstring.

    Args:
      path: the file.
      layout: its name in layouts.LAYOUTS; None recognises it.
      normalization: init_from.PIXEL_STATISTICS's fields, where they are not those
        of the layout's publisher.

    Raises:
      InputError: the file cannot be read, or is not of that layout, or of none.
    """
    with files.open_tensors(path) as tensors:
        try:
            name = layout or layouts.recognize(tensors)
            known = layouts.LAYOUTS[name]
            layouts.check(tensors, known)
            parameters = layouts.convert(tensors, known)
        except InputError as error:
            # The reader names the file itself.
            named = str(error).startswith(str(path))
            raise error if named else InputError(f"{path}: {error}") from error
        dropped = [tensor for tensor in tensors if not known.tensors[tensor].path]
    return Imported(name, parameters, normalization or known.pixel_statistics, dropped)


def as_detector(
    imported: Imported, config, keep_unused: bool
) -> tuple[Imported, metadata.Classes]:
    """Fits a whole detector to COCO's classes and to the network of a config.

    The config gets the normalisation of the weights.

    Raises:
      InputError: a field of the config is out of its range; lists what its anchors or
        its network have otherwise than the weights.
    """
    ids = range(1, layouts.COCO_CHANNELS) if keep_unused else coco_classes.NAMES
    names = [coco_classes.NAMES.get(i, f"unused {i}") for i in ids]
    classes = metadata.Classes(tuple(names), tuple(ids))
    parameters = layouts.keep_classes(imported.parameters, ids)
    for field, value in imported.normalization.items():
        config.model[field] = value
    # It is stored as it is, for predictions and for runs.
    check_choice("task", config.task, ["detection"])
    validate.check_fields(config)
    _check_anchors(config, layouts.LAYOUTS[imported.layout].trained)
    _check_network(parameters, config, len(names))
    unused = [i for i in range(1, layouts.COCO_CHANNELS) if i not in classes[1]]
    dropped = imported.dropped + [f"class channel {i}" for i in unused]
    return imported._replace(parameters=parameters, dropped=dropped), classes


def _check_anchors(config, trained):
    """No parameter tells the anchors, and detections would be off without a word."""
    given = {"input_size": tuple(config.input_size)}
    given |= {f"anchors.{name}": config.anchors[name] for name in trained.anchors}
    wanted = {"input_size": trained.input_size}
    wanted |= {f"anchors.{name}": value for name, value in trained.anchors.items()}
    differing = [name for name in wanted if given[name] != wanted[name]]
    if differing and not _same_anchors(config, trained):
        found = (f"{name} is {given[name]}, not {wanted[name]}" for name in differing)
        raise InputError(
            "the anchors of --config are not those that the weights were trained with "
            f"({_DETECTOR_CONFIG} has them); {'; '.join(found)}"
        )


def _same_anchors(config, trained):
    """Whether fields that differ mean the same after all."""
    given, wanted = config.anchors, config_dict.ConfigDict(trained.anchors)
    lengths = [
        [len(anchors[name]) for name in ("strides", "sizes", "aspect_ratios")]
        for anchors in (given, wanted)
    ]
    if (
        lengths[0] != lengths[1]
        or tuple(config.input_size) != trained.input_size
        or tuple(given.variances) != wanted.variances
    ):
        return False
    found, expected = (
        anchor_ops.make_anchors(anchors, trained.input_size)
        for anchors in (given, wanted)
    )
    # A rounding or two of numbers around 1.
    return found.shape == expected.shape and np.allclose(found, expected, 0, 1e-6)


def _check_network(parameters, config, num_classes):
    task = detection.DetectionTask(config, num_classes)
    network = jax.eval_shape(task.init, jax.random.key(0))["params"]
    shapes = {
        path: leaf.shape
        for path, leaf in flax.traverse_util.flatten_dict(network, sep="/").items()
    }
    given = {path: array.shape for path, array in parameters.items()}
    problems = {
        "the config lacks": [path for path in given if path not in shapes],
        "the file lacks": [path for path in shapes if path not in given],
        "of another shape": [
            f"{path}, {given[path]} in the file and {shapes[path]} in the config"
            for path in given
            if path in shapes and given[path] != shapes[path]
        ],
    }
    found = [f"{kind}: {', '.join(paths)}" for kind, paths in problems.items() if paths]
    if found:
        raise InputError(
            f"the network of --config is not torchvision's ({_DETECTOR_CONFIG} has "
            f"it); {'; '.join(found)}"
        )


def write(
    output: pathlib.Path,
    source: str | os.PathLike,
    imported: Imported,
    config=None,
    classes: metadata.Classes | None = None,
) -> None:
    """Writes an import, whole or not at all; with a config, as a work directory.

    Raises:
      InputError: the directory cannot be written.
    """
    tensors = layouts.LAYOUTS[imported.layout].tensors
    record = {
        "file": pathlib.Path(source).name,
        "sha256": _sha256(source),
        "layout": imported.layout,
        "normalization": imported.normalization,
        "parameters": {
            entry.path: name
            for name, entry in tensors.items()
            if entry.path in imported.parameters
        },
        "dropped": imported.dropped,
    }
    if classes:
        record |= classes._asdict()
    with _whole(output) as folder:
        if config is not None:
            metadata.prepare(folder, config, classes, boxes={})
        metadata.write_json(folder / init_from.IMPORT_FILE, record)
        nested = flax.traverse_util.unflatten_dict(imported.parameters, sep="/")
        checkpoints.save_variables(folder, {"params": nested, "batch_stats": {}})


@contextlib.contextmanager
def _whole(output) -> Iterator[pathlib.Path]:
    """A folder that becomes `output` where nothing fails, and else disappears."""
    # Resolved: `.` gets a name to replace, and a link to an empty folder stays one.
    output = output.resolve()
    folder = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True)
        yield folder
        folder.replace(output)
    except OSError as error:
        raise InputError(f"--output={output}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_output(output):
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"--output={output} is there already, and no empty folder: name a new one"
        )


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _summary(imported, output):
    count = sum(array.size for array in imported.parameters.values())
    dropped = ", ".join(imported.dropped)
    return (
        f"{layouts.LAYOUTS[imported.layout].about}: {len(imported.parameters)} "
        f"parameters, {count:,} numbers; "
        + (f"not taken: {dropped}; " if dropped else "")
        + f"it wants {imported.normalization}; start a run from it with "
        f"--config.init_from={output}"
    )


def _given_normalization(options) -> dict | None:
    """What the flags say of it, or None."""
    given = {name: options[name].value for name in init_from.PIXEL_STATISTICS}
    absent = [name for name, value in given.items() if value is None]
    if len(absent) == len(given):
        return None
    if absent:
        raise InputError(
            f"give --{', --'.join(given)} together; missing: --{', --'.join(absent)}"
        )
    for name in ("pixel_mean", "pixel_std"):
        try:
            given[name] = tuple(float(number) for number in given[name])
        except ValueError as error:
            raise InputError(f"--{name}: {error}") from error
    init_from.check_pixel_statistics(given, "the flags")
    return given


def _config(options):
    if not options["config"].present:
        raise InputError(
            f"{options.input} is a whole detector: name the config of its network, "
            f"--config={_DETECTOR_CONFIG}"
        )
    return command_line.resolved(options["config"])


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_string("input", None, "The weight file.", required=True, **text)
    flags.DEFINE_string("output", None, "A new folder.", required=True, **text)
    flags.DEFINE_enum(
        "layout", None, list(layouts.LAYOUTS), "What the file is.", **text
    )
    flags.DEFINE_enum(
        "channel_order", None, ["RGB", "BGR"], "That the weights want.", **text
    )
    flags.DEFINE_list("pixel_mean", None, "Subtracted from the channels.", **text)
    flags.DEFINE_list("pixel_std", None, "By which they are divided.", **text)
    flags.DEFINE_boolean(
        "keep_unused_classes",
        False,
        "Keep a detector's ten classes that COCO never annotated.",
        **text,
    )
    packaged.define_config(
        "config", "Config of the network, if the file holds a detector.", values
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
