r"""Imports published weights into a folder that `config.init_from` can start from.

  python -m borrow_det.tools.import_weights --input=FILE --output=DIR

FILE ends in .pth or .pt (PyTorch; needs torch), .safetensors, .h5 or .keras (Keras), or
.npz (arrays with PyTorch's names). No code in it is executed. torchvision/NAME,
timm/NAME and hf://OWNER/NAME[@REVISION] are names of published weights, which are
downloaded (borrow_det/weights/named.py). The layout is recognized by the names of the
tensors, or set by --layout:
  torchvision_vgg16           torchvision's vgg16, complete
  torchvision_vgg16_features  the same names; the classifier is absent or NaN
  keras_vgg16                 Keras' VGG16, with or without its top
  vgg16_reducedfc             the VGG-16 that SSD implementations use
  torchvision_ssd300_vgg16    torchvision's complete detector, trained on COCO
  resnet18, resnet34, resnet50, resnet101
                              torchvision's or timm's, with or without fc
  torchvision_convnext_tiny, torchvision_convnext_small
  timm_convnext_tiny, timm_convnext_small
                              with or without the classifier
  torchvision_vit_b_16, timm_vit_small, timm_vit_base
                              with patches of 16 pixels, for any input size
Files with missing, unknown or misshaped tensors are refused, with a list of them.

Writes to DIR
  import.json   file, sha256, the origin of a name, layout, the pixel statistics that
                the weights expect, and the parameter made from each tensor
  checkpoints/  the parameters
The pixel statistics are those of the publisher. --channel_order, --pixel_mean
and --pixel_std, which must be given together, override them: three numbers each, in the
order of the channels, in units of 0..255.

A complete detector also needs the config of its network, with the input size, anchors
and variances that it was trained with. DIR is then a work directory, for tools.predict
as well as for init_from:

  python -m borrow_det.tools.import_weights --input=ssd300_vgg16_coco.pth \
      --config=configs/ssd300_coco.py:reference=torchvision --output=DIR

Its outputs are COCO's 80 classes in the order of their ids. --keep_unused_classes also
keeps the ten classes that torchvision's ids count but COCO does not annotate.

The exit status is 2 after wrong input, with one line on stderr.
"""

import contextlib
import os
import pathlib
import shutil
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from borrow_det.config import command_line, packaged, path_flags, validate
from borrow_det.data.datasets import coco_classes
from borrow_det.errors import InputError, check_choice
from borrow_det.io import download
from borrow_det.ops.anchors import make_anchors
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import cli
from borrow_det.weights import layouts, named
from borrow_det.weights.importing import Imported, read
from borrow_det.workdir import checkpoints, init_from, metadata

_DETECTOR_CONFIG = "configs/ssd300_coco.py:reference=torchvision"


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    output = cli.output_folder(options.output)
    _check_output(output)
    pixel_statistics = _given_pixel_statistics(options)
    source, published = pathlib.Path(options.input), {}
    if named.is_name(options.input):
        source, stated, record = named.locate(options.input)
        pixel_statistics = pixel_statistics or stated
        published = {"name": options.input, **record}
    imported = read(source, options.layout, pixel_statistics)
    config = classes = None
    if layouts.LAYOUTS[imported.layout].trained:
        config = _config(options)
        imported, classes = as_detector(imported, config, options.keep_unused_classes)
    elif options["config"].present or options.keep_unused_classes:
        raise InputError(
            "--config and --keep_unused_classes are for complete detectors; "
            f"{options.input} is {layouts.LAYOUTS[imported.layout].about}"
        )
    write(output, source, imported, config, classes, published)
    print(_summary(imported, output))
    return 0


def as_detector(
    imported: Imported, config: ConfigDict, keep_unused: bool
) -> tuple[Imported, metadata.Classes]:
    """Fits a complete detector to COCO's classes and to the network of a config.

    The config gets the pixel statistics of the weights.

    Args:
      imported: content of the weight file.
      config: config of the network, which is changed.
      keep_unused: True to keep the ten classes that COCO does not annotate.

    Returns:
      The parameters of the selected classes, and the classes.

    Raises:
      InputError: a field of the config is out of its range, or its anchors or network
        differ from those of the weights; the message lists the differences.
    """
    ids = range(1, layouts.COCO_CHANNELS) if keep_unused else coco_classes.NAMES
    names = [coco_classes.NAMES.get(i, f"unused {i}") for i in ids]
    classes = metadata.Classes(tuple(names), tuple(ids))
    parameters = layouts.keep_classes(imported.parameters, ids)
    for field, value in imported.pixel_statistics.items():
        config.model[field] = value
    # The config is stored and used for predictions and runs.
    check_choice("task", config.task, ["detection"])
    validate.check_fields(config)
    _check_anchors(config, layouts.LAYOUTS[imported.layout].trained)
    _check_network(parameters, config, len(names))
    unused = [i for i in range(1, layouts.COCO_CHANNELS) if i not in classes[1]]
    dropped = imported.dropped + [f"class channel {i}" for i in unused]
    return imported._replace(parameters=parameters, dropped=dropped), classes


def _check_anchors(config: ConfigDict, trained: Any) -> None:
    """Raises InputError if the config's anchors differ from those of the weights.

    No parameter depends on the anchors, so wrong ones would only give wrong detections.
    """
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


def _same_anchors(config: ConfigDict, trained: Any) -> bool:
    """Returns True if different fields define the same anchors."""
    given, wanted = config.anchors, ConfigDict(trained.anchors)
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
        make_anchors(anchors, trained.input_size) for anchors in (given, wanted)
    )
    # Allow for rounding of numbers around 1.
    return found.shape == expected.shape and bool(np.allclose(found, expected, 0, 1e-6))


def _check_network(
    parameters: Mapping[str, np.ndarray], config: ConfigDict, num_classes: int
) -> None:
    task = DetectionTask(config, num_classes)
    network = jax.eval_shape(task.init, jax.random.key(0))["params"]
    shapes = {
        path: leaf.shape
        for path, leaf in flax.traverse_util.flatten_dict(network, sep="/").items()
    }
    given = {path: array.shape for path, array in parameters.items()}
    problems = {
        "missing in the config": [path for path in given if path not in shapes],
        "missing in the file": [path for path in shapes if path not in given],
        "different shapes": [
            f"{path}, {given[path]} in the file and {shapes[path]} in the config"
            for path in given
            if path in shapes and given[path] != shapes[path]
        ],
    }
    found = [f"{kind}: {', '.join(paths)}" for kind, paths in problems.items() if paths]
    if found:
        raise InputError(
            "the network of --config is not that of the weights "
            f"({_DETECTOR_CONFIG} has it); {'; '.join(found)}"
        )


def write(
    output: pathlib.Path,
    source: str | os.PathLike,
    imported: Imported,
    config: ConfigDict | None = None,
    classes: metadata.Classes | None = None,
    published: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes the output folder atomically; with a config, as a work directory.

    Args:
      output: folder to make.
      source: weight file.
      imported: its content.
      config: config of a complete detector.
      classes: classes of a complete detector.
      published: name and origin of the file, if it was named.

    Raises:
      InputError: the directory cannot be written.
    """
    tensors = layouts.LAYOUTS[imported.layout].tensors
    record: dict[str, Any] = {
        "file": pathlib.Path(source).name,
        "sha256": download.sha256(source),
        **published,
        "layout": imported.layout,
        "normalization": imported.pixel_statistics,
        "parameters": {
            entry.path: name
            for name, entry in tensors.items()
            if entry.path in imported.parameters or entry.path in imported.batch_stats
        },
        "dropped": imported.dropped,
    }
    if classes:
        record |= classes._asdict()
    with _atomic_folder(output) as folder:
        if config is not None and classes is not None:
            metadata.prepare(folder, config, classes, boxes={})
        metadata.write_json(folder / init_from.IMPORT_FILE, record)
        checkpoints.save_variables(folder, imported.variables())


@contextlib.contextmanager
def _atomic_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder that replaces `output` at the end, or is removed on failure."""
    # Resolving gives `.` a name, and keeps a link to an empty folder.
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


def _check_output(output: pathlib.Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"--output={output} exists and is not an empty folder: choose a new folder"
        )


def _summary(imported: Imported, output: pathlib.Path) -> str:
    count = sum(array.size for array in imported.parameters.values())
    dropped = ", ".join(imported.dropped)
    return (
        f"{layouts.LAYOUTS[imported.layout].about}: {len(imported.parameters)} arrays "
        f"with {count:,} parameters; "
        + (f"not used: {dropped}; " if dropped else "")
        + f"pixel statistics {imported.pixel_statistics}; start a run from them with "
        f"--config.init_from={output}"
    )


def _given_pixel_statistics(options: flags.FlagValues) -> dict[str, Any] | None:
    """Returns the pixel statistics that the flags set; None if they set none."""
    given: dict[str, Any] = {
        name: options[name].value for name in init_from.PIXEL_STATISTICS
    }
    absent = [name for name, value in given.items() if value is None]
    if len(absent) == len(given):
        return None
    if absent:
        raise InputError(
            f"--{', --'.join(given)} must be given together; missing: "
            f"--{', --'.join(absent)}"
        )
    for name in ("pixel_mean", "pixel_std"):
        try:
            given[name] = tuple(float(number) for number in given[name])
        except ValueError as error:
            raise InputError(f"--{name}: {error}") from error
    init_from.check_pixel_statistics(given, "the flags")
    return given


def _config(options: flags.FlagValues) -> ConfigDict:
    if not options["config"].present:
        raise InputError(
            f"{options.input} is a complete detector: give the config of its network, "
            f"--config={_DETECTOR_CONFIG}"
        )
    return command_line.resolved(options["config"])


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    path_flags.define_path(
        "input",
        None,
        "Weight file, or a name of published weights.",
        required=True,
        **text,
    )
    path_flags.define_path(
        "output", None, "New local folder for the weights.", required=True, **text
    )
    flags.DEFINE_enum(
        "layout",
        None,
        list(layouts.LAYOUTS),
        "Layout of the file (default: recognized by the names of its tensors).",
        **text,
    )
    flags.DEFINE_enum(
        "channel_order",
        None,
        ["RGB", "BGR"],
        "Order of the channels that the weights expect.",
        **text,
    )
    flags.DEFINE_list(
        "pixel_mean", None, "Mean of each channel, which is subtracted.", **text
    )
    flags.DEFINE_list(
        "pixel_std", None, "Divisor of each channel, after the mean.", **text
    )
    flags.DEFINE_boolean(
        "keep_unused_classes",
        False,
        "Keep the ten classes of a detector that COCO does not annotate.",
        **text,
    )
    packaged.define_config(
        "config", "Config of the network, if the file holds a detector.", values
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
