"""Images of the frames of a video that was annotated in CVAT."""

import pathlib
import re
import xml.etree.ElementTree as ET

from borrow_det.data.datasets import folder_files
from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError


def find(
    path: pathlib.Path, root: ET.Element, split: SplitFiles
) -> dict[int, pathlib.Path]:
    """Returns the images of frames by the number of the frame.

    The number is at the end of an image's name: CVAT writes frame_000000.png. Images
    that were numbered in another way, from 1 for example, are taken in their order if
    there is one for each frame.

    Args:
      path: XML file with the tracks.
      root: its content.
      split: the split that is read.

    Raises:
      InputError: no image is found, or the names do not identify the frames.
    """
    images = _images(path, root, split)
    if not images:
        raise InputError(
            f"{path} has tracks of a video, and there are no images of its "
            "frames: export with 'Save images', or put the frames as "
            "images/frame_000000.png beside it"
        )
    ends = [re.search(r"[0-9]+$", image.stem) for image in images]
    numbers = [int(end[0]) for end in ends if end]
    are_unique = len(set(numbers)) == len(images)
    frames = _frames(root)
    if are_unique and (frames is None or set(numbers) <= set(frames)):
        return dict(zip(numbers, images, strict=True))
    # CVAT sorts images by name. It would take 10.png before 9.png.
    if len(frames or ()) == len(images) and numbers == sorted(numbers):
        return dict(zip(frames or (), images, strict=True))
    raise InputError(
        f"{path} has tracks of a video, and the names of the {len(images)} images in "
        f"{images[0].parent} do not identify their frames: call them "
        "frame_000000.png and so on, with the numbers in the XML file"
    )


def _images(
    path: pathlib.Path, root: ET.Element, split: SplitFiles
) -> list[pathlib.Path]:
    """Returns the images in the first of the usual folders that has any."""
    subset = next((track.get("subset") for track in root.iter("track")), None)
    names = [name for name in (split.name, subset) if name]
    for parent in (path.parent / "images", split.folder / "images"):
        for place in (*(parent / name for name in names), parent):
            if images := folder_files.images_in(place):
                return images
    return folder_files.images_in(path.parent)


def _frames(root: ET.Element) -> range | None:
    """Returns the numbers of the frames that the file describes; None if unknown."""
    start, stop = (
        _whole(root.findtext(f".//{end}_frame")) for end in ("start", "stop")
    )
    if start is None or stop is None:
        return None
    step = re.search(r"step\s*=\s*([0-9]{1,9})", root.findtext(".//frame_filter") or "")
    frames = range(start, stop + 1, max(int(step[1]), 1) if step else 1)
    shapes = (shape for track in root.iter("track") for shape in track)
    numbers = {_whole(shape.get("frame")) for shape in shapes}
    return frames if numbers <= {None, *frames} else None


def _whole(text: str | None) -> int | None:
    """Returns the number of a frame; None for other texts."""
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text) else None
