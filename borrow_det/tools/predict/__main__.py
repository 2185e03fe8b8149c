"""Detects objects in images and videos with a trained run.

  python -m borrow_det.tools.predict --workdir=W --output=DIR INPUT...

INPUT is an image, a folder, a pattern or a video. The tool writes into DIR
  detections.json  list in COCO's results format: image_id, category_id, bbox [x, y,
                   width, height] in pixels of the upright image, score, and file_name
                   (and frame, counted from 0, for a video). It holds all detections
                   of the run (from its nms.score on), as average precision needs them;
  images.json      COCO's `images` and `categories`, which the ids refer to;
  pictures/        annotated JPEG pictures, and an annotated MP4 for each video, with
                   the detections that have a score of at least --score.
The JSON files have the suffix .part until the call ends. They are complete after every
image: a process that is killed loses its last batch at most.

Exit status: 0; 1 if an input could not be read completely or a picture could not be
written (it is named on stderr, the others are processed); 2 if nothing could start, or
the disk is full; 130 after Ctrl-C. The results so far are kept.

Images larger than the network's input lose their small objects when they are shrunk
to it. With --tiles or --tile_size, the network processes overlapping tiles and the
entire image, and the tool merges their detections (inference/tiling.py).
"""

import collections
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from absl import flags

from borrow_det.config import path_flags
from borrow_det.data.images import inputs
from borrow_det.errors import InputError
from borrow_det.inference import tiling, video
from borrow_det.inference.detections import DRAWN_SCORE, Detections
from borrow_det.inference.detector import Detector, Options
from borrow_det.inference.images import ImageLike
from borrow_det.tools.common import cli
from borrow_det.tools.predict.files import Item, PredictionWriter
from borrow_det.tools.predict.image_ids import image_ids


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    values = _flags()
    names = cli.parse(values, argv, __doc__)
    if not names:
        raise InputError("name at least one image, folder, pattern or video")
    options = _options(values)
    output = cli.output_folder(values.output)
    paths, others = inputs.find(names, leave_out=output / "pictures")
    ids = image_ids(values.ids_from, paths) if values.ids_from else None
    detector = Detector.load(values.workdir, values.step)
    writer = PredictionWriter(output, detector, values.score, values.pictures, ids)
    failures: list[str] = []
    repaired: list[str] = []
    items = read_items(
        tqdm.tqdm(paths, unit="file", disable=None),
        failures,
        repaired,
        values.max_pixels,
    )
    complete = False
    try:
        for item, found in detect(detector, items, options):
            writer.add(item, found)
        complete = True
    finally:  # Ctrl-C and errors leave the results so far.
        writer.close(complete)
        print(
            f"{writer.images} images, {writer.drawn} detections with a score of at "
            f"least {values.score}; {writer.written} in all: "
            f"{output / 'detections.json'}{_remarks(failures, repaired, others)}"
        )
    return 1 if failures or writer.failures else 0


def _remarks(
    failures: Sequence[str], repaired: Sequence[str], others: Mapping[str, int]
) -> str:
    """Returns the end of the last line: files that were not read or were repaired."""
    text = f"; inputs not read completely: {len(failures)}" if failures else ""
    if repaired:
        text += f"; repaired images: {len(repaired)}"
    if others:
        text += f"; skipped: {inputs.described(others)}"
    return text


def read_items(
    paths: Iterable[pathlib.Path],
    failures: list[str],
    repaired: list[str],
    max_pixels: int = 0,
) -> Iterator[Item]:
    """Yields the images of files and the frames of videos.

    A file that cannot be read is reported on stderr and in `failures`, and so is a
    video that breaks off, after its readable frames.

    Args:
      paths: images and videos.
      failures: gets a message for each file that is not read completely.
      repaired: gets a message for each image that was repaired, as stderr does.
      max_pixels: number of pixels above which an image is refused; 0 for Pillow's
        limit.
    """

    def warn(message: str) -> None:
        tqdm.tqdm.write(f"warning: {message}", file=sys.stderr)
        repaired.append(message)

    for path in paths:
        kind = "skipped"
        try:
            if inputs.is_video(path):
                for frame, (rate, image) in enumerate(video.read_frames(path)):
                    yield Item(path, image, frame, rate)
                    kind = "incomplete"
            else:
                opened = inputs.open_image(path, max_pixels, "--max_pixels", warn)
                yield Item(path, opened)
        except Exception as error:  # Decoders raise any kind for a damaged file.
            expected = isinstance(error, InputError)
            told = (
                str(error) if expected else f"{path}: {type(error).__name__}: {error}"
            )
            tqdm.tqdm.write(f"{kind}: {told}", file=sys.stderr)
            failures.append(told)


def detect(
    detector: Detector, items: Iterable[Item], options: Options
) -> Iterator[tuple[Item, Detections]]:
    """Yields each item with its detections, in the order of `items`."""
    waiting: collections.deque[Item] = collections.deque()

    def images() -> Iterator[ImageLike]:
        for item in items:
            waiting.append(item)
            yield item.image

    for found in detector.stream(images(), **options):
        yield waiting.popleft(), found


def _options(values: flags.FlagValues) -> Options:
    """Returns the options of the detector that the flags give, checked."""
    options: Options = {
        "tiles": values.tiles or None,
        "tile_size": values.tile_size or None,
        "overlap": values.overlap,
        "whole": values.whole,
        "batch_size": values.batch,
    }
    # Checked before the network is loaded, which takes a while, and by their flags.
    tiling.make_tiles(values.tiles or None, values.tile_size or None, prefix="--")
    return options


def _flags() -> flags.FlagValues:
    values = cli.run_flags()
    text: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_float(
        "score",
        DRAWN_SCORE,
        "Minimum score of the detections to draw and count. detections.json holds all "
        "detections of the run, from its nms.score on.",
        0.0,
        1.0,
        **text,
    )
    flags.DEFINE_integer("batch", 8, "Views per batch.", 1, **text)
    flags.DEFINE_string(
        "tiles",
        None,
        "ROWSxCOLUMNS of the tiles of every image; auto: tiles of the network's input "
        "size (of the canvas if that is smaller) in images larger than that.",
        **text,
    )
    flags.DEFINE_string(
        "tile_size", None, "Pixels of a tile instead: N or HEIGHTxWIDTH.", **text
    )
    flags.DEFINE_float(
        "overlap",
        0.2,
        "Overlap of neighboring tiles as a fraction of a side.",
        0.0,
        tiling.MAX_OVERLAP,
        **text,
    )
    flags.DEFINE_boolean(
        "whole", True, "Process the entire image in addition to the tiles.", **text
    )
    flags.DEFINE_boolean("pictures", True, "Write annotated pictures.", **text)
    cli.define_max_pixels(values)
    path_flags.define_path(
        "ids_from",
        None,
        "COCO file whose image ids are used, by file name, so that the score tool can "
        "compare the detections with it.",
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
