"""Converts a folder in any known format to COCO's.

  python -m borrow_det.tools.convert --input=DIR --output=DIR [--images=copy|link|none]
      [--largest_side=PIXELS]

Reads the formats that `--config=folder:path=DIR` trains on, and writes
OUTPUT/annotations/SPLIT.json for each split, and its images to OUTPUT/images/SPLIT. Ids
become integers, and all splits get the same categories. Boxes, areas, crowds, difficult
objects and further fields of images are kept; masks and keypoints are not.
--largest_side shrinks larger images, and scales their boxes and areas.

Everything that is wrong is found before anything is written; only an image that does
not decode is found when it is shrunk. The exit status is 2 after wrong input, with one
line on stderr that counts the wrong records by kind.
"""

import dataclasses
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from borrow_det.config import path_flags
from borrow_det.data.datasets import folder, folder_files, formats
from borrow_det.data.datasets.folder_copy import Source
from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes, coco_truth
from borrow_det.evaluation.annotations import Annotations, Category, Image
from borrow_det.evaluation.coco_values import id_key
from borrow_det.io import paths
from borrow_det.io.problems import Problems
from borrow_det.tools.common import cli
from borrow_det.tools.common.wording import counted
from borrow_det.tools.convert import writing
from borrow_det.tools.convert.writing import IMAGES, Converted

# Python's surrogates for bytes of a file name that are not valid UTF-8.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    origin = paths.local_path(options.input, "--input").absolute()
    output = cli.output_folder(options.output).absolute()
    if not origin.is_dir():
        raise InputError(f"--input={origin} is not a folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"--output={output} exists and is not empty: choose another")
    if options.largest_side and options.images != "copy":
        raise InputError("--largest_side writes images: it needs --images=copy")
    sources = _read(origin, options.splits)
    converted = _convert(sources, options, output)
    writing.write(
        converted,
        output,
        options.images,
        options.largest_side,
        options.bad_images,
    )
    use = f"train on it with --config=folder:path={output}"
    if options.images == "none":
        use = f"file names are relative to {origin}"
    print(f"wrote {output}; {use}")
    return 0


def _read(origin: pathlib.Path, chosen: Sequence[str]) -> dict[str, Source]:
    """Reads the splits that were chosen; all without a choice."""
    kind = formats.recognize(origin)
    print(kind.describe(origin))
    splits = kind.splits(origin)
    for name in chosen:
        if name not in splits:
            raise InputError(
                f"--splits: {origin} has no split {name!r}; it has {', '.join(splits)}"
            )
    return {
        name: folder.read_source(kind, files)
        for name, files in splits.items()
        if name in chosen or not chosen
    }


def _convert(
    sources: Mapping[str, Source], options: flags.FlagValues, output: pathlib.Path
) -> list[Converted]:
    """Returns the splits in COCO's format.

    Raises:
      InputError: there are problems that --bad_boxes and --bad_images do not allow; a
        report next to the output has all of them.
    """
    merged = folder.merge_categories(
        {name: source.annotations.categories for name, source in sources.items()}
    )
    all_int = all(isinstance(category.id, int) for category in merged)
    categories = {
        id_key(category.id): Category(category.id if all_int else number, category.name)
        for number, category in enumerate(merged, 1)
    }
    records, boxes, images = Problems(), Problems(), Problems()
    converted = []
    for name, source in sources.items():
        records.extend(source.annotation_problems)
        of_images = Problems(source.image_problems)
        annotations, files = _good_images(source, of_images, options.images != "none")
        annotations = dataclasses.replace(
            annotations,
            categories=tuple(categories[id_key(c.id)] for c in annotations.categories),
        )
        coco = coco_truth.to_coco(annotations, options.bad_boxes, boxes)
        coco["categories"] = [category._asdict() for category in categories.values()]
        for record, image in zip(coco["images"], annotations.images, strict=True):
            record |= {k: v for k, v in image.fields.items() if k not in record}
        if options.bad_images == "error":
            images.extend(of_images)
        converted.append(Converted(name, coco, files))
        _print_counts(name, coco, annotations, of_images)
    _refuse(output, records, boxes, images)
    for split in converted:
        if not split.files:
            raise InputError(
                f"{options.input}: no image of the split {split.name} can be read: add "
                "images"
            )
    return converted


def _refuse(
    output: pathlib.Path, records: Problems, boxes: Problems, images: Problems
) -> None:
    """Raises InputError for problems, with advice that fits their kinds."""
    report = output.with_name(f"{output.name}.problems.json")
    report.unlink(missing_ok=True)
    advice = ["Correct the files"]
    if boxes:
        advice.append("--bad_boxes=clip or drop accepts wrong boxes")
    if images:
        advice.append("--bad_images=skip leaves bad images out")
    Problems([*records, *boxes, *images]).refuse(report, "; ".join(advice))


def _good_images(
    source: Source, problems: Problems, renamed: bool
) -> tuple[Annotations, dict[str, pathlib.Path]]:
    """Returns a split without missing and damaged images, and the files of the others.

    Images get integers as ids, their size, and the name of the file to write.

    Args:
      source: the split.
      problems: receives the bad images.
      renamed: whether images are written; else they keep their names.
    """
    annotations = source.annotations
    found: list[tuple[Image, pathlib.Path]] = []
    for image, path in zip(annotations.images, source.paths, strict=True):
        if path is None:
            continue  # A problem already.
        sized = _with_size(image, path, annotations.path, problems)
        if sized is None:
            continue
        if not renamed and _NOT_UTF8.search(str(path)):
            reason = (
                "the name is not valid UTF-8, which COCO files cannot have: rename the "
                "file, or use --images=copy"
            )
            problems.add("wrong file name", path, "", reason)
            continue
        found.append((sized, path))
    numbered = not all(isinstance(image.id, int) for image, _ in found)
    names = _names([path for _, path in found])
    images = [
        dataclasses.replace(
            image,
            id=number if numbered else image.id,
            file_name=(name if renamed else folder_files.relative(source.folder, path)),
        )
        for number, ((image, path), name) in enumerate(
            zip(found, names, strict=True), 1
        )
    ]
    files = {name: path for name, (_, path) in zip(names, found, strict=True)}
    return dataclasses.replace(annotations, images=tuple(images)), files


def _with_size(
    image: Image, path: pathlib.Path, annotation_file: object, problems: Problems
) -> Image | None:
    """Returns an image with its size; None, and a problem, if its file is bad."""
    try:
        sizes = folder_files.image_sizes(path)
    except InputError as error:
        reason = str(error).removeprefix(str(path)).lstrip(": ")
        problems.add("damaged image", path, "", reason)
        return None
    size = sizes.upright
    height, width = image.height or size[0], image.width or size[1]
    if (height, width) not in sizes:
        problems.add(
            "image of another size",
            annotation_file,
            image.record,
            f"{image.file_name} is {size[1]} x {size[0]} pixels, but its annotation "
            f"has {width} x {height}",
        )
        return None
    return dataclasses.replace(image, height=height, width=width)


def _names(files: Sequence[pathlib.Path]) -> list[str]:
    """Returns paths of files relative to the deepest folder with all of them.

    COCO files cannot have names that are not valid UTF-8: their wrong bytes are written
    as %E9.
    """
    if not files:
        return []
    common = os.path.commonpath([path.parent for path in files])
    names = [path.relative_to(common).as_posix() for path in files]
    return [
        _NOT_UTF8.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)
        for name in names
    ]


def _print_counts(
    name: str, coco: Mapping[str, Any], annotations: Annotations, bad: Problems
) -> None:
    """Prints the numbers of images and boxes of a split, and of those left out."""
    boxes = len(coco["annotations"])
    line = f"{name}: {counted(len(coco['images']), 'image')}, {counted(boxes, 'box')}"
    dropped = sum(len(image.objects) for image in annotations.images) - boxes
    if dropped:
        line += f"; {counted(dropped, 'wrong box')} left out"
    if bad:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in bad.counts().items())
        line += f"; images left out: {kinds}"
    print(line)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    path_flags.define_path(
        "input",
        None,
        "Folder of images and annotations in COCO's, YOLO's, Pascal VOC's, CVAT's or "
        "LabelMe's format.",
        required=True,
        flag_values=values,
    )
    path_flags.define_path(
        "output",
        None,
        "Local folder to write, which must be empty or absent.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_list(
        "splits", [], "Splits to convert (default: all).", flag_values=values
    )
    flags.DEFINE_enum(
        "images",
        "copy",
        IMAGES,
        "Images in the output: copies, symbolic links, or none. With none, file names "
        "are relative to the input.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "largest_side",
        0,
        "Shrink images to at most this height and width in pixels (0: no image).",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "bad_boxes",
        "error",
        bad_boxes.POLICIES,
        "Handling of boxes that are not finite, empty or outside the image, as "
        "dataset.bad_boxes.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "bad_images",
        "error",
        folder.BAD_IMAGES,
        "Handling of images that are missing or damaged, as dataset.bad_images.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
