"""Pascal VOC's XML files, one per image, as LabelImg, CVAT and Roboflow write them.

xmin, ymin, xmax and ymax are taken as they are written, as distances of the borders of
the box from the left and upper border of the image. That is how these tools write them.
The original VOC counts pixels from 1 and includes the last. Boxes of its files differ
by a pixel from those of `--config=voc`, which reads VOC exactly.
"""

import os
import pathlib
import reprlib
import xml.etree.ElementTree as ET

from borrow_det.data.datasets import folder_files, split_files, xml_files
from borrow_det.data.datasets.named_classes import Collector, box_around
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Annotations, Object
from borrow_det.evaluation.coco_values import as_flag, as_size
from borrow_det.io.problems import Problems

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_LISTS = "ImageSets/Main"


def evidence(folder: pathlib.Path) -> str:
    """Returns the name of a folder with VOC's XML files; "" if there is none."""
    for _, place in _folders(folder):
        return folder_files.relative(folder, place / "*.xml")
    return ""


def splits(folder: pathlib.Path) -> dict[str, SplitFiles]:
    """Finds the splits of a folder.

    ImageSets/Main/NAME.txt lists the images of a split. Without such lists, a split has
    the XML files of a folder: those of DIR, DIR/Annotations or DIR/images are "train"
    or divided by the folders of their images, DIR/images/NAME or DIR/NAME; those of
    DIR/NAME, DIR/Annotations/NAME or DIR/NAME/Annotations are NAME. A folder
    DIR/NAME that has ImageSets (VOCdevkit/VOC2007) is another dataset, not a split.

    Raises:
      InputError: names of splits conflict.
    """
    lists = sorted(folder.glob(f"{_LISTS}/*.txt"))
    found = [(path.stem, [path]) for path in lists if _is_list(folder, path)]
    if not found:
        found = folder_files.divided_by_images(folder, _folders(folder), ".xml")
    return split_files.by_name(folder, found)


def read(split: SplitFiles, problems: Problems) -> Annotations:
    """Reads a split.

    Images without an XML file are not part of it: LabelImg writes none for an image
    that was not looked at. Problems are XML files that are missing or damaged, objects
    without a name, and flags that are not 0, 1, true or false.

    Raises:
      InputError: no XML file can be read.
    """
    source = split.files[0]
    if source.is_dir():
        files = list(split.files[1:]) or folder_files.files_with(source, (".xml",))
    else:
        files = _listed(split.folder, source)
    finder = folder_files.ImageFinder(split.folder, split.name)
    collector = Collector(split)
    for file in files:
        try:
            root = xml_files.read(file)
        except InputError as error:
            reason = str(error).removeprefix(f"{file}: ").removeprefix(f"{file} ")
            problems.add("damaged annotation file", file, "", reason)
            continue
        if root.tag != "annotation":
            reason = f"its root is <{root.tag}>, not <annotation>"
            problems.add("damaged annotation file", file, "", reason)
            continue
        record = folder_files.relative(split.folder, file)
        _read_image(root, file, record, finder, collector, problems)
    return collector.annotations(source, problems)


def _read_image(
    root: ET.Element,
    file: pathlib.Path,
    record: str,
    finder: folder_files.ImageFinder,
    collector: Collector,
    problems: Problems,
) -> None:
    objects = []
    for number, element in enumerate(root.iter("object"), 1):
        name = xml_files.text(element, "name")
        if not name:
            problems.add(
                "object without class", file, f"object {number}", "it has no name"
            )
            continue
        try:
            difficult = as_flag(xml_files.text(element, "difficult") or 0)
        except ValueError:
            problems.add(
                "wrong flag",
                file,
                f"object {number} ({name})",
                f"difficult is {reprlib.repr(xml_files.text(element, 'difficult'))}, "
                "not 0, 1, true or false",
            )
            continue
        bbox, bbox_text = _box(element)
        objects.append(
            Object(
                record=f"{record}, object {number} ({name})",
                category=collector.label(name),
                bbox=bbox,
                bbox_text=bbox_text,
                is_difficult=difficult,
            )
        )
    named = [xml_files.text(root, "filename"), xml_files.text(root, "path")]
    found = finder.find(file, *named)
    size = tuple(
        as_size(xml_files.number(xml_files.text(root, f"size/{side}")))
        for side in ("height", "width")
    )
    collector.add(
        record,
        found or next(filter(None, named), file.stem),
        (size[0], size[1]),
        objects,
    )


def _box(
    element: ET.Element,
) -> tuple[tuple[float, float, float, float] | None, str]:
    """Returns the box of an object, or that around its polygon, and a text of it."""
    box = element.find("bndbox")
    if box is not None:
        texts = [xml_files.text(box, side) for side in _SIDES]
        shown = ", ".join(f"{s} {t}" for s, t in zip(_SIDES, texts, strict=True))
        x0, y0, x1, y1 = map(xml_files.number, texts)
        if x0 is None or y0 is None or x1 is None or y1 is None:
            return None, shown
        return (x0, y0, x1 - x0, y1 - y0), shown
    polygon = element.find("polygon")
    if polygon is None:
        return None, "no bndbox"
    values = [(item.tag, xml_files.number(item.text)) for item in polygon]
    xs = [value for tag, value in values if tag.startswith("x") and value is not None]
    ys = [value for tag, value in values if tag.startswith("y") and value is not None]
    return box_around(xs, ys), f"polygon of {len(xs)} points"


def _is_voc(path: pathlib.Path) -> bool:
    return xml_files.root_tag(path) == "annotation"


def _folders(folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Returns (name of the split, folder) of each folder of XML files."""
    return [
        (name, place)
        for name, place in folder_files.annotation_folders(folder, ".xml", _is_voc)
        if folder in (place, place.parent) or not (place.parent / _LISTS).is_dir()
    ]


def _is_list(folder: pathlib.Path, path: pathlib.Path) -> bool:
    """Returns false for an empty list and VOC's lists of a class: "000012 -1"."""
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return False
    first = next((line for line in lines if line.strip()), "")
    parts = first.split()
    if len(parts) > 1 and parts[-1] in ("-1", "0", "1", "+1"):
        return os.path.isfile(_xml_file(folder, first))  # An image called "photo 1".
    return bool(parts)


def _listed(folder: pathlib.Path, path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the XML files of a list of images."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return list(dict.fromkeys(_xml_file(folder, x) for x in lines if x.strip()))


def _xml_file(folder: pathlib.Path, line: str) -> pathlib.Path:
    """Returns the XML file of a line in a list of images, which may be missing.

    The line is the name of an image without its suffix. CVAT quotes names with spaces,
    and other tools write the path of the image.
    """
    name = line.strip().strip('"').replace("\\", "/")
    stem = os.path.splitext(name)[0] if folder_files.is_image(name) else name
    place = folder / "Annotations"
    place = place if place.is_dir() else folder / "annotations"
    stems = (stem, name, stem.rpartition("/")[2])
    candidates = [place / f"{text}.xml" for text in stems]
    return next((path for path in candidates if os.path.isfile(path)), candidates[0])
