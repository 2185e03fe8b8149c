"""Image ids for predictions, from a COCO file that lists the same images."""

import os
import pathlib
from collections.abc import Sequence

from borrow_det.data.images import inputs
from borrow_det.evaluation import coco_format
from borrow_det.evaluation.coco_values import Id
from borrow_det.io import file_names
from borrow_det.io.problems import Problems


def image_ids(
    annotations: str, paths: Sequence[pathlib.Path]
) -> dict[pathlib.Path, Id]:
    """Returns the image id that a COCO file has for each path, by file name.

    The recorded names may be those of another machine (io/file_names.py). Names that
    are equal in several folders are distinguished by their folders.

    Args:
      annotations: COCO file; its list of annotations may be absent.
      paths: images.

    Raises:
      InputError: the file cannot be read, or paths have no image in it, several, or the
        image of another path; the message counts them and names the first of each.
    """
    unused = Problems()
    images = coco_format.read_annotations(annotations, unused, annotated=False).images
    index = file_names.NameIndex(
        (parts, number)
        for number, image in enumerate(images)
        for parts in file_names.readings_of(image.file_name)
    )
    problems = Problems()
    chosen: dict[int, pathlib.Path] = {}
    ids: dict[pathlib.Path, Id] = {}
    for path in paths:
        if inputs.is_video(path):
            problems.add("video", path, "", "frames have no image ids in a COCO file")
            continue
        parts = pathlib.Path(os.path.abspath(path)).parts[1:]
        found, candidates = index.find([parts])
        # The readings of one name are one image.
        numbers = {found} if found is not None else set(candidates)
        if len(numbers) == 1:
            number = numbers.pop()
            other = chosen.setdefault(number, path)
            ids[path] = images[number].id
            if other != path:
                reason = f"{images[number].file_name!r} is the image of {other}, too"
                problems.add("image of two files", path, "", reason)
        elif numbers:
            names = ", ".join(repr(images[n].file_name) for n in sorted(numbers)[:4])
            reason = f"the file has several images of that name: {names}"
            problems.add("ambiguous file name", path, "", reason)
        else:
            problems.add(
                "unknown file name", path, "", "the file has no image of that name"
            )
    advice = f"Correct --ids_from={annotations}, or leave out these files"
    if unused:
        advice += f". Records of that file are wrong, too: {unused.summary()}"
    problems.refuse(None, advice)
    return ids
