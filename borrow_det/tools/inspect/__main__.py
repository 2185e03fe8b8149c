"""Shows a dataset before training: whether borrowing is for it, and what is wrong.

  python -m borrow_det.tools.inspect --path=DIR [--output=DIR]
  python -m borrow_det.tools.inspect --config=CONFIG [--config.field=value ...]

--path opens a folder with annotations of any format, all splits of it, at the input
size of the packaged config folder. --config opens the training and evaluation splits of
any detection config. --split=NAME, which may be repeated, chooses other splits.

For each split the report has
  the images, classes and objects; objects per image, and their aspect ratios;
  the sizes of objects at the network's input size (config.input_size), to which images
  are resized: COCO's small (below 32 pixels), medium and large (from 96 pixels on);
  the small objects that have a lender: an object of the same class with at least
  config.evaluation.lender_scale times the side. These can borrow. Lenders in the image
  and in other images of its video or camera (references.field, or else dataset.group)
  are counted apart, and their distance is compared with the receptive fields of the
  levels;
  the objects that the config's anchors reach: the IoU with an anchor is at least
  config.loss.positive_iou.
Boxes that training does not learn (crowds and difficult objects, by
config.loss.ignored) and boxes without an area are counted and left out.

The report also lists everything that is wrong with the annotations and images, images
that occur twice, and labels that look wrong. It answers whether borrowing is for this
dataset, and suggests changes of the config. Nothing is trained.

--output=DIR writes
  inspection.html  the report with pictures, in one page that needs no other file
  inspection.json  the report with all problems and duplicates
  labelled.jpg     random images of the training split with their labels
  augmented.jpg    the same images as the network sees them in training
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

import ml_collections
from absl import flags

from borrow_det.config import command_line, packaged, path_flags
from borrow_det.configs import folder as folder_config
from borrow_det.data.datasets import folder
from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tools.common import cli
from borrow_det.tools.inspect import inspection, page, pictures, text


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    config, splits = _config_and_splits(options)
    output = cli.output_folder(options.output) if options.output else None
    if output:
        with _naming_output(output):
            paths.make_folder(output)
    found = inspection.inspect(config, options.split or splits)
    print(text.text(found.report))
    if output:
        with _naming_output(output):
            _write(found, output)
        print(f"\nThe report with pictures: {output / 'inspection.html'}")
    return 0


@contextlib.contextmanager
def _naming_output(output: pathlib.Path) -> Iterator[None]:
    """Makes a system error a one-line message about --output."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--output={output} cannot be written: {paths.reason(error)}"
        ) from error


def _write(found: inspection.Inspection, output: pathlib.Path) -> None:
    """Writes the files of --output."""
    drawn = pictures.draw(found)
    for name, sheet in (("labelled", drawn.labelled), ("augmented", drawn.augmented)):
        if sheet is not None:
            (output / f"{name}.jpg").write_bytes(sheet)
    # Names of files may have surrogates, which UTF-8 has not.
    for name, content in (
        ("inspection.json", json.dumps(found.report, indent=1) + "\n"),
        ("inspection.html", page.render(found.report, drawn)),
    ):
        paths.write_whole(output / name, content.encode("utf-8", "backslashreplace"))


def _config_and_splits(
    options: flags.FlagValues,
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Returns the config and the splits to inspect if --split names none."""
    if bool(options.path) == options["config"].present:
        raise InputError("give either --config or --path")
    if not options.path:
        config = command_line.resolved(options["config"])
        dataset = config.dataset
        return config, list(dict.fromkeys([dataset.train_split, *dataset.eval_splits]))
    config = folder_config.get_config("path=.")
    config.dataset.path = options.path
    names = folder.split_names(options.path)
    # Without a validation split, a run would hold images out of the training split.
    config.dataset.eval_splits = tuple(names)
    return config, names


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    packaged.define_config("config", packaged.HELP, values, argv)
    path_flags.define_path(
        "path",
        None,
        "Folder of images with annotations, in place of --config.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "split", [], "Split to inspect (default: all of them).", flag_values=values
    )
    path_flags.define_path(
        "output",
        None,
        "Local folder for the page, the figures and the sheets.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
