r"""Copies a folder of images in COCO's format, shrunk to the size of a network's input.

  python -m benchmarks.shrink_images --input=DIR --output=DIR --size=300

Every image becomes SIZE x SIZE pixels, as a network with that input sees it, and boxes
and areas are scaled with it; images, annotations and categories keep all other fields.
DIR has annotations/SPLIT.json and images/, as the output. Runs that compare many
variants then decode small images, and the set is small enough to be copied elsewhere.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
from absl import flags

from borrow_det.config import path_flags
from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tools.common import cli

_QUALITY = 95  # Of the JPEG files.


def main(argv: Sequence[str]) -> int:
    """Runs the program and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    origin = paths.local_path(options.input, "--input")
    output = cli.output_folder(options.output)
    files = sorted((origin / "annotations").glob("*.json"))
    if not files:
        raise InputError(f"{origin}/annotations has no JSON file: see --help")
    for file in files:
        coco = json.loads(file.read_text())
        for image in coco["images"]:
            _shrink(
                origin / "images" / image["file_name"],
                output / "images" / image["file_name"],
                options.size,
            )
        paths.make_folder(output / "annotations")
        text = json.dumps(scaled(coco, options.size))
        paths.write_whole(output / "annotations" / file.name, text)
        print(f"{file.stem}: {len(coco['images'])} images")
    return 0


def scaled(coco: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Returns a COCO dictionary with sizes, boxes and areas of shrunk images.

    Args:
      coco: the annotations, with `width` and `height` of each image.
      size: side of the shrunk images in pixels.
    """
    scales = {
        image["id"]: (size / image["width"], size / image["height"])
        for image in coco["images"]
    }
    annotations = []
    for annotation in coco["annotations"]:
        across, down = scales[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        bbox = [x * across, y * down, width * across, height * down]
        area = annotation.get("area", width * height) * across * down
        annotations.append({**annotation, "bbox": bbox, "area": area})
    images = [{**image, "width": size, "height": size} for image in coco["images"]]
    return {**coco, "images": images, "annotations": annotations}


def _shrink(path: pathlib.Path, to: pathlib.Path, size: int) -> None:
    with PIL.Image.open(path) as image:
        shrunk = image.convert("RGB").resize((size, size), PIL.Image.Resampling.BOX)
    paths.make_folder(to.parent)
    shrunk.save(to, "JPEG", quality=_QUALITY, subsampling=0)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    path_flags.define_path(
        "input",
        None,
        "Folder with annotations/SPLIT.json and images/.",
        required=True,
        flag_values=values,
    )
    path_flags.define_path(
        "output", None, "Local folder to write.", required=True, flag_values=values
    )
    flags.DEFINE_integer(
        "size",
        300,
        "Side of the shrunk images in pixels.",
        lower_bound=1,
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
