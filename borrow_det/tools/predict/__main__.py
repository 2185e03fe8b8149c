"""Detects objects in images and videos with a trained run.

  python -m borrow_det.tools.predict --workdir=W --output=DIR INPUT...

INPUT is an image, a folder, a pattern or a video, a URL of an image or a video (http,
https, rtsp, ...), the index of a camera (0), or a list: a text file (.txt) with one of
these in each line. Ctrl-C ends a camera or a video of a URL, and the call continues
with the next input. The tool prints a line for each image, and writes into DIR
  detections.json  list in COCO's results format: image_id, category_id, bbox [x, y,
                   width, height] in pixels of the upright image, score, and file_name
                   (and frame, counted from 0, for a video). It holds all detections
                   of the run (from its nms.score on), as average precision needs them;
  images.json      COCO's `images` and `categories`, which the ids refer to, with the
                   name of the annotated picture;
  pictures/        annotated JPEG pictures, and an annotated MP4 for each video, with
                   the detections that have a score of at least --score. The pictures
                   of an earlier call are removed.
  tracks/          with --tracks: the tracks of each video, a text file in the format
                   of the MOT Challenge. The detections of a track have a track_id in
                   detections.json, and a number in the annotated video.
The JSON files have the suffix .part until the call ends. They are complete after every
image: a process that is killed loses its last batch at most.

Exit status: 0; 1 if an input could not be read completely or a picture could not be
written (it is named on stderr, the others are processed); 2 if nothing could start, or
the disk is full; 130 if Ctrl-C ends the call. The results so far are kept.

Images larger than the network's input lose their small objects when they are shrunk
to it. With --tiles or --tile_size, the network processes overlapping tiles and the
entire image, and the tool merges their detections (tiling/merging.py).

With --references, small objects also borrow from other images: the entire image for
its tiles (overview), the last N images, or the images of a folder.
"""

import collections
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tqdm
from absl import flags

from borrow_det.config import path_flags
from borrow_det.data.images import inputs
from borrow_det.errors import InputError, escape_controls
from borrow_det.inference import minimum_score, references, tracking
from borrow_det.inference.detections import DRAWN_SCORE, Detections
from borrow_det.inference.detector import Detector, Options
from borrow_det.inference.images import ImageLike
from borrow_det.tools.common import cli, view_flags
from borrow_det.tools.predict import sources
from borrow_det.tools.predict.files import FOLDER, PredictionWriter
from borrow_det.tools.predict.image_ids import ImageIds, image_ids
from borrow_det.tools.predict.reading import Item, read_items

_SHOWN = 3  # Inputs without an id that the last line names.
_SILENT = "; annotated videos without sound: {} (pip install av keeps it)"


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    values = _flags()
    names = cli.parse(values, argv, __doc__)
    if not names:
        raise InputError(
            "name at least one image, folder, pattern, video, URL, camera or list"
        )
    parsed = references.parse(values.references, values.max_pixels, "--")
    options = _options(values, parsed)
    if values.tracks:
        tracking.check_installed()
    score = minimum_score.parse(values.score, "--score")
    output = cli.output_folder(values.output)
    found, others = sources.find(names, leave_out=output / FOLDER)
    ids = image_ids(values.ids_from, found) if values.ids_from else None
    chosen = [source for source in found if ids is None or source in ids.ids]
    detector = Detector.load(values.workdir, values.step)
    view_flags.check_references(parsed, detector.config)
    least = detector.minimum_score(score)
    writer = PredictionWriter(
        output, detector, least, values.pictures, values.tracks, ids and ids.ids
    )
    failures: list[str] = []
    repaired: list[str] = []
    items = read_items(chosen, failures, repaired, values.max_pixels)
    complete = False
    try:
        for item, detections in _with_bar(detect(detector, items, options), chosen):
            writer.add(item, detections)
            if not values.quiet:
                line = _line(item, detections.filter(least))
                tqdm.tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()  # A reader of a pipe need not wait for the end.
        complete = True
    finally:  # Ctrl-C and errors leave the results so far.
        writer.close(complete)
        print(
            f"{writer.images} images, {writer.drawn} detections with a score of at "
            f"least {_threshold_text(score, least)}; {writer.written} in all: "
            f"{output / 'detections.json'}{_remarks(failures, repaired, others, ids)}"
            f"{_SILENT.format(writer.silent) if writer.silent else ''}"
        )
    return 1 if failures or writer.failures else 0


def _with_bar(
    detected: Iterator[tuple[Item, Detections]], chosen: Sequence[sources.Source]
) -> Iterable[tuple[Item, Detections]]:
    """Shows a progress bar on a terminal, without an end if there are videos."""
    videos = any(source.may_be_video for source in chosen)
    total = None if videos else len(chosen)
    return tqdm.tqdm(detected, unit="image", total=total, disable=None)


def _line(item: Item, found: Detections) -> str:
    """Returns a line about an image: counts by class, and the network's time."""
    counts = [f"{count} {name}" for name, count in found.counts().items()]
    told = ", ".join(counts) or "nothing found"
    return escape_controls(f"{item.name}: {told}, {1000 * found.seconds:.1f} ms")


def _threshold_text(score: float | str, least: float) -> str:
    """Returns the minimum score for a message, with the name of --score if any."""
    return f"{least:.3f} ({score})" if isinstance(score, str) else f"{least:g}"


def _remarks(
    failures: Sequence[str],
    repaired: Sequence[str],
    others: Mapping[str, int],
    ids: ImageIds | None,
) -> str:
    """Returns the end of the last line: inputs that were not read or were repaired."""
    text = f"; inputs not read completely: {len(failures)}" if failures else ""
    if repaired:
        text += f"; repaired images: {len(repaired)}"
    if others:
        text += f"; skipped: {inputs.described(others)}"
    if ids is not None and ids.left_out:
        shown = ", ".join(source.name for source in ids.left_out[:_SHOWN])
        more = ", ..." if len(ids.left_out) > _SHOWN else ""
        text += f"; not in --ids_from: {len(ids.left_out)} ({shown}{more})"
    return escape_controls(text)


def detect(
    detector: Detector, items: Iterable[Item], options: Options
) -> Iterator[tuple[Item, Detections]]:
    """Yields each item with its detections, in the order of `items`."""
    waiting: collections.deque[Item] = collections.deque()

    def images(items: Iterable[Item]) -> Iterator[ImageLike]:
        for item in items:
            waiting.append(item)
            yield item.image

    # References that are the images before one begin anew with each sequence.
    ring = isinstance(options.get("references"), int)
    for sequence in _sequences(items) if ring else (items,):
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            stream = detector.stream(images(sequence), **options)
        for found in stream:
            yield waiting.popleft(), found


def _sequences(items: Iterable[Item]) -> Iterator[Iterable[Item]]:
    """Yields the frames of each video, and consecutive images as one sequence."""
    groups = itertools.groupby(
        items, lambda item: None if item.frame is None else item.source
    )
    return (sequence for _, sequence in groups)


def _options(values: flags.FlagValues, parsed: references.Parsed) -> Options:
    """Returns the options of the detector that the flags give, checked."""
    options: Options = {
        "tiles": values.tiles or None,
        "tile_size": values.tile_size or None,
        "overlap": values.overlap,
        "whole": values.whole,
        "batch_size": values.batch,
        "references": parsed,
        "reference_stride": values.reference_stride,
        "reference_cuts": values.reference_cuts,
    }
    # Checked before the network is loaded, which takes a while, and by their flags.
    view_flags.tiles(values)
    references.check_stride(
        parsed, values.reference_stride, values.reference_cuts, prefix="--"
    )
    return options


def _flags() -> flags.FlagValues:
    values = cli.run_flags()
    text: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "score",
        str(DRAWN_SCORE),
        "Minimum score of the detections to draw and count: a number, or an operating "
        "point of the run, such as best_f1. detections.json holds all detections of "
        "the run, from its nms.score on.",
        **text,
    )
    flags.DEFINE_integer("batch", 8, "Views per batch.", 1, **text)
    view_flags.define_tiles(values)
    path_flags.define_path(
        "references",
        None,
        "Images that small objects borrow from in addition to their own: overview, the "
        "entire image for its tiles; N, the last N images before each of a video or of "
        "consecutive images; a folder of exemplars; or none. Default: overview for "
        "tiles if the run was trained with it, and none otherwise.",
        **text,
    )
    flags.DEFINE_integer(
        "reference_stride",
        1,
        "Make every k-th image a reference, for --references=N.",
        1,
        **text,
    )
    flags.DEFINE_boolean(
        "reference_cuts",
        False,
        "Forget the references at the cuts of a video, for --references=N.",
        **text,
    )
    flags.DEFINE_boolean("pictures", True, "Write annotated pictures.", **text)
    flags.DEFINE_boolean(
        "tracks",
        False,
        "Link the detections of a video, class by class (ByteTrack; needs the extra "
        "tracks). Detections of at least --score begin a track, weaker ones from "
        f"{tracking.LOWEST_SCORE} on continue it.",
        **text,
    )
    flags.DEFINE_boolean("quiet", False, "Print no line for each image.", **text)
    cli.define_max_pixels(values)
    path_flags.define_path(
        "ids_from",
        None,
        "COCO file whose image ids are used, by file name, so that the score tool can "
        "compare the detections with it. Images that it does not list are left out.",
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
