"""Finds objects in images and videos with a trained run.

  python -m borrow_det.tools.predict --workdir=W --output=DIR INPUT...

INPUT is an image, a folder, a pattern or a video. DIR then holds
  detections.json  COCO results list: image_id, category_id, bbox [x, y, width,
                   height] in pixels of the upright image, score, and file_name
                   (and frame, counted from 0, of a video); all that the run detects
                   (from its nms.score on), as average precision asks for;
  images.json      what the ids stand for: COCO's `images` and `categories`;
  pictures/        annotated JPEG pictures, and an annotated MP4 of each video, with
                   the detections that score --score or more.

Exit status: 0; 1 where an input could not be read, or not to its end (it is named on
stderr, the others are done), or an annotated video not be written; 2 where nothing
could start.

Images larger than the network's input lose their small objects when they are shrunk
to it. --tiles or --tile_size looks at overlapping tiles instead, and at the whole
image, and merges what they show (inference/tiling.py).
"""

import collections
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm
from absl import flags

from borrow_det.data.images import decode
from borrow_det.data.images import inputs as inputs_lib
from borrow_det.errors import InputError
from borrow_det.evaluation import coco_format
from borrow_det.inference import tiling
from borrow_det.inference.detector import Detector
from borrow_det.io import json_files
from borrow_det.tools.common import cli
from borrow_det.tools.predict.files import Item, Output


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    inputs = cli.parse(options, argv, __doc__)
    if not inputs:
        raise InputError("name at least one image, folder, pattern or video")
    tile_size = _tile_size_of(options)
    output = cli.output_folder(options.output)
    paths = inputs_lib.find(inputs, leave_out=output / "pictures")
    ids = _known_ids(options.ids_from, paths) if options.ids_from else None
    detector = Detector.load(options.workdir, options.step)
    writer = Output(output, detector, options.score, options.pictures, ids)
    failures: list[str] = []
    views = _views(tile_size, detector, options.overlap, options.whole)
    items = read_items(tqdm.tqdm(paths, unit="file", disable=None), failures)
    for item, found in detect(detector, items, views, options.batch):
        writer.add(item, found)
    writer.close()
    print(
        f"{len(writer.images)} images, {writer.shown} detections with a score of "
        f"{options.score} or more; {writer.written} in all: "
        f"{output / 'detections.json'}"
    )
    return 1 if failures or writer.failures else 0


def read_items(paths: Iterable[pathlib.Path], failures: list[str]) -> Iterator[Item]:
    """Yields the pictures of files; unreadable ones go to stderr and `failures`.

    So do videos that break off, after their readable frames.
    """
    for path in paths:
        kind = "skipped"
        try:
            if inputs_lib.is_video(path):
                for frame, (rate, image) in enumerate(inputs_lib.video_frames(path)):
                    yield Item(path, image, frame, rate)
                    kind = "incomplete"
            else:
                yield Item(path, inputs_lib.read_upright(path))
        except InputError as error:
            print(f"{kind}: {error}", file=sys.stderr)
            failures.append(str(error))


def detect(
    detector: Detector,
    items: Iterable[Item],
    views: Callable[[tuple[int, int]], np.ndarray],
    batch: int,
) -> Iterator[tuple[Item, tiling.Found]]:
    """Yields each picture with its detections, in pixels, in the order of `items`.

    Args:
      detector: a run.
      items: the pictures.
      views: from (height, width) to the windows to look at, as tiling.windows does.
      batch: views a call of the detector; the last call is filled up, so that one
        shape is compiled.
    """
    waiting: collections.deque[_Views] = collections.deque()
    queue: list[tuple[_Views, int]] = []
    for item in items:
        windows = views(item.image.shape[:2])
        waiting.append(_Views(item, windows, [None] * len(windows)))
        for index in range(len(windows)):
            queue.append((waiting[-1], index))
            if len(queue) == batch:
                _look(detector, queue, batch)
                queue = []
        while waiting and None not in waiting[0].found:
            yield _merged(waiting.popleft(), detector.config.nms.iou)
    if queue:
        _look(detector, queue, batch)
    while waiting:
        yield _merged(waiting.popleft(), detector.config.nms.iou)


class _Views(NamedTuple):
    """A picture, the windows to look at, and what was found in each so far."""

    item: Item
    windows: np.ndarray  # int [v, 4]
    found: list[tiling.Found | None]


def _look(detector, queue, batch):
    """Fills in what the detector finds in the queued views."""
    canvases = np.zeros((batch, *detector.canvas, 3), np.uint8)
    sizes = np.tile(np.array(detector.canvas, np.int32), (batch, 1))
    for row, (views, index) in enumerate(queue):
        top, left, bottom, right = views.windows[index]
        view = views.item.image[top:bottom, left:right]
        canvases[row], sizes[row] = decode.to_canvas(view, detector.canvas)
    out = detector(canvases, sizes)
    for row, (views, index) in enumerate(queue):
        window = views.windows[index]
        mask = out["mask"][row]
        sides = np.tile(window[2:] - window[:2], 2)
        views.found[index] = tiling.Found(
            out["boxes"][row][mask].astype(float) * sides + np.tile(window[:2], 2),
            out["scores"][row][mask],
            out["labels"][row][mask],
        )


def _merged(views, iou):
    size = views.item.image.shape[:2]
    return views.item, tiling.merge(views.found, views.windows, size, iou)


def _views(tile_size, detector, overlap, whole):
    """The function from an image's size to its windows; see _tile_size_of."""
    # The largest view that is shrunk neither to the canvas nor to the input: a pixel
    # of the image is at least one of the network's.
    unshrunk = tuple(map(min, detector.canvas, detector.input_size))

    def views(size):
        if tile_size is None:
            return tiling.windows(size, size, overlap)
        if tile_size == "auto":
            return tiling.windows(size, unshrunk, overlap, whole)
        kind, numbers = tile_size
        tile = tiling.grid(size, *numbers, overlap) if kind == "tiles" else numbers
        return tiling.windows(size, tile, overlap, whole)

    return views


def _tile_size_of(options):
    """None, "auto", ("tiles", (rows, columns)) or ("tile_size", (height, width))."""
    if options.tiles and options.tile_size:
        raise InputError("give --tiles or --tile_size, not both")
    if options.tiles == "auto":
        return "auto"
    for name in ("tiles", "tile_size"):
        text = options[name].value
        if text:
            numbers = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
            if not numbers or (name == "tiles" and not numbers[2]):
                form = (
                    "ROWSxCOLUMNS or auto" if name == "tiles" else "N or HEIGHTxWIDTH"
                )
                raise InputError(f"--{name}={text} is not {form}")
            return name, (int(numbers[1]), int(numbers[2] or numbers[1]))
    return None


def _known_ids(annotations, paths):
    """The image id of each path in a COCO file, by file name."""
    data = json_files.read(annotations)
    coco_format.check_ground_truth(data, annotations)
    by_name: dict[str, list] = {}
    for image in data["images"]:
        name = pathlib.PurePath(str(image.get("file_name")))
        by_name.setdefault(name.name, []).append((name.parts, image["id"]))
    ids = {}
    for path in paths:
        candidates = by_name.get(path.name, [])
        # Names that differ by their folder only are told apart by it.
        exact = [c for c in candidates if path.parts[-len(c[0]) :] == c[0]]
        chosen = exact if len(exact) == 1 else candidates
        if (
            len(chosen) != 1
            or chosen[0][1] in ids.values()
            or inputs_lib.is_video(path)
        ):
            raise InputError(
                f"{path}: --ids_from={annotations} has no image of that name, or not "
                "one alone"
            )
        ids[path] = chosen[0][1]
    return ids


def _flags() -> flags.FlagValues:
    values = cli.run_flags()
    text = {"flag_values": values}
    flags.DEFINE_float(
        "score",
        0.4,
        "Least score of what is drawn and counted; detections.json holds all that the "
        "run detects, from its nms.score on.",
        0.0,
        1.0,
        **text,
    )
    flags.DEFINE_integer("batch", 8, "Views looked at in one go.", 1, **text)
    flags.DEFINE_string(
        "tiles",
        None,
        "ROWSxCOLUMNS of tiles for every image; auto: tiles of the network's input "
        "size (the canvas' where that is smaller), for images larger than that.",
        **text,
    )
    flags.DEFINE_string(
        "tile_size", None, "Tiles of N or HEIGHTxWIDTH pixels instead.", **text
    )
    flags.DEFINE_float(
        "overlap", 0.2, "Of neighbouring tiles, share of a side.", 0.0, 0.9, **text
    )
    flags.DEFINE_boolean("whole", True, "Look at the whole image, too.", **text)
    flags.DEFINE_boolean("pictures", True, "Draw annotated pictures.", **text)
    flags.DEFINE_string(
        "ids_from",
        None,
        "COCO file whose image ids are taken over, by file name, so that tools.score "
        "can hold the detections against it.",
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
