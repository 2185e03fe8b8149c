"""Shows which features small objects borrowed from larger ones.

  python -m borrow_det.tools.explain --workdir=W --output=DIR IMAGE_OR_FOLDER...
  python -m borrow_det.tools.explain --workdir=W --output=DIR --split=validation[:8]

The second form reads images of the run's own dataset. The tool explains every small
detection with a score of at least --score, or the one that --detection names, and
writes into DIR
  pictures/          a JPEG each: the object, lines to the strongest source positions,
                     the attention as heat over each source level, and the numbers;
  explanations.json  these numbers and the settings: an entry per image with its
                     detections, best first. An explained detection has the share of
                     its attention for each level, the strongest source positions, the
                     attention precision (the attention inside its lenders, larger
                     detections of the same class by evaluation.lender_scale) and
                     `positions`, the attention precision of an even spread;
  index.html         all of it in one page, which needs no network and no other file;
                     it links to W/results.html if that exists, and results pages link
                     to W/explain/index.html.
The output of an earlier call is replaced, including its pictures.

The attention shown is that of the detection's descriptors: the positions of its
anchor's level whose centers are in its box (the nearest one if none is), averaged.
Levels count from 1, as in the paper. Scores of borrow.similarity=dot_product may be
negative and count by their absolute values. Attention is not contribution: values and
fusion may give it little effect.

Exit status: 0; 1 if an input could not be read (it is named on stderr, the others are
processed); 2 if nothing could start.
"""

import collections
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm
from absl import flags

from borrow_det.data import pipeline, sources
from borrow_det.data.images import decode, inputs
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.reporting.results_page import page as results_page
from borrow_det.tools.common import cli
from borrow_det.tools.explain import explanation
from borrow_det.tools.explain.explanation import Borrowed, LevelDetections
from borrow_det.tools.explain.files import Explained, ExplanationWriter
from borrow_det.tools.explain.text import Settings, readable


class Picture(NamedTuple):
    """An image and its name."""

    name: str
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    names = cli.parse(options, argv, __doc__)
    _check_flags(options, names)
    output = cli.output_folder(options.output)
    # Files are searched before the network is built, which takes a while.
    files, others = (
        inputs.find(names, leave_out=output / "pictures") if names else ([], {})
    )
    detector = Detector.load(options.workdir, options.step)
    check_level(detector, options.level)
    readers = (
        _of_split(detector, options.split)
        if options.split
        else _of_files(files, options.max_pixels)
    )
    if options.detection is not None and len(readers) != 1:
        raise InputError(
            f"--detection={options.detection} is an index in one image, and there are "
            f"{len(readers)} images: name one image"
        )
    failures: list[str] = []
    explained: Iterable[tuple[Picture, LevelDetections, list[Explained]]] = (
        (picture, *explain_picture(detector, picture, options))
        for picture in _pictures(
            tqdm.tqdm(readers, unit="image", disable=None), failures
        )
    )
    if options.detection is not None:
        explained = list(explained)  # Raises before anything is written.
    settings = _settings(detector, options)
    results = results_page.link_to_run(paths.as_path(options.workdir), output)
    with ExplanationWriter(
        output, detector, settings, options.pictures, options.limit, results
    ) as writer:
        for picture, found, parts in explained:
            _report_notes(picture.name, parts)
            writer.add(picture.name, picture.image, found, parts)
    unread = f"\nskipped: {inputs.described(others)}" if others else ""
    print(readable(writer.summary() + unread))
    return 1 if failures else 0


def _check_flags(options: flags.FlagValues, names: Sequence[str]) -> None:
    if bool(names) == bool(options.split):
        raise InputError("name images or folders, or a --split of the run's dataset")
    for name in ("score", "small"):
        value = getattr(options, name)
        if not math.isfinite(value):
            raise InputError(f"--{name}={value} is not a number")


def check_level(detector: Detector, level: int | None) -> None:
    """Checks that the run borrows, and on this level.

    Args:
      detector: trained run.
      level: --level, from 1; None for the level of each detection's anchor.

    Raises:
      InputError: there is nothing to explain.
    """
    borrow = detector.config.borrow
    if not (borrow.enabled and borrow.levels):
        raise InputError(
            "this run does not borrow (borrow.enabled or borrow.levels): there is "
            "nothing to explain; name a run that does"
        )
    known = sorted(n + 1 for n in borrow.levels)
    if level is not None and level not in known:
        raise InputError(
            f"--level={level} does not borrow in this run; choose one of these: "
            f"{', '.join(map(str, known))}"
        )


def explain_picture(
    detector: Detector, picture: Picture, options: flags.FlagValues
) -> tuple[LevelDetections, list[Explained]]:
    """Detects the objects of an image, and explains the chosen detections."""
    canvas, size = decode.to_canvas(picture.image, detector.canvas)
    attended = detector.attend(canvas[None], np.array([size], np.int32))
    found = explanation.detections(attended, 0, options.score)
    if options.detection is None:
        small = explanation.is_small(
            found.boxes, picture.image.shape[:2], options.small
        )
        chosen = np.flatnonzero(small).tolist()
    else:
        chosen = [options.detection]
        if options.detection >= len(found.boxes):
            raise InputError(
                f"--detection={options.detection}: {picture.name} has "
                f"{len(found.boxes)} detections with a score of at least "
                f"{options.score}, counted from 0"
            )
    return found, [
        Explained(k, *_explain(detector, attended.P, found, k, options)) for k in chosen
    ]


def _explain(
    detector: Detector,
    P: dict[int, np.ndarray],
    found: LevelDetections,
    k: int,
    options: flags.FlagValues,
) -> tuple[Borrowed | None, str]:
    """Explains detection k; returns (None, reason) if its level does not borrow."""
    level = int(found.levels[k]) if options.level is None else options.level - 1
    if level not in P:
        own = detector.levels[level]
        return None, (
            f"level {own.number}, {own.name}, does not borrow; --level shows the "
            "attention of another level's descriptors in the same box"
        )
    borrowed = explanation.explain(
        detector.task, P[level][0], level, found, k, options.sources
    )
    return borrowed, ""


def _settings(detector: Detector, options: flags.FlagValues) -> Settings:
    return Settings(
        workdir=readable(options.workdir),
        step=detector.step,
        similarity=detector.config.borrow.similarity,
        lender_scale=detector.config.evaluation.lender_scale,
        score=options.score,
        small=options.small,
        detection=options.detection,
        level=options.level,
    )


def _report_notes(name: str, explained: Sequence[Explained]) -> None:
    """Prints the reasons why detections are not explained, a line per level."""
    notes = collections.Counter(one.note for one in explained if one.note)
    for note, count in notes.items():
        many = "1 detection" if count == 1 else f"{count} detections"
        tqdm.tqdm.write(f"note: {name}, {many}: {note}", file=sys.stderr)


def _pictures(
    readers: Iterable[Callable[[], Picture]], failures: list[str]
) -> Iterator[Picture]:
    """Yields the images; one that cannot be read goes to stderr and `failures`."""
    for read in readers:
        try:
            picture = read()
        except InputError as error:
            tqdm.tqdm.write(f"skipped: {readable(str(error))}", file=sys.stderr)
            failures.append(str(error))
        else:
            yield picture._replace(name=readable(picture.name))


def _of_files(
    files: Sequence[pathlib.Path], max_pixels: int
) -> list[Callable[[], Picture]]:
    """Returns a reader for each file."""

    def warn(message: str) -> None:
        tqdm.tqdm.write(f"warning: {readable(message)}", file=sys.stderr)

    def read(path: pathlib.Path) -> Picture:
        if inputs.is_video(path):
            raise InputError(f"{path} is a video: explain reads images only")
        image = inputs.read_upright(path, max_pixels, "--max_pixels", warn)
        return Picture(str(path), image)

    return [functools.partial(read, path) for path in files]


def _of_split(detector: Detector, name: str) -> list[Callable[[], Picture]]:
    """Returns a reader for each image of a split of the run's dataset."""
    split = sources.load(detector.config.dataset, name)
    pipeline.check_split(split, detector.config)

    def read(index: int) -> Picture:
        record = split[index]
        name = record["file_name"]
        return Picture(name, decode.decode_image(record, name))

    return [functools.partial(read, index) for index in range(len(split))]


def _flags() -> flags.FlagValues:
    values = cli.run_flags()
    text: dict[str, Any] = {"flag_values": values}
    flags.DEFINE_string(
        "split",
        None,
        "Split of the run's dataset to read images from instead of files, or a slice "
        "of it such as validation[3:5].",
        **text,
    )
    flags.DEFINE_float(
        "score",
        0.4,
        "Minimum score of the detections to explain and of lenders.",
        0.0,
        1.0,
        **text,
    )
    flags.DEFINE_float(
        "small",
        32.0,
        "Side in pixels of the image; detections of at most its square in area are "
        "small (COCO's 32).",
        0.0,
        **text,
    )
    flags.DEFINE_integer(
        "detection",
        None,
        "Index in explanations.json of one detection to explain, small or not "
        "(default: every small one).",
        0,
        **text,
    )
    flags.DEFINE_integer(
        "level",
        None,
        "Level, from 1, whose descriptors are explained (default: the level of the "
        "detection's anchor).",
        1,
        **text,
    )
    flags.DEFINE_integer(
        "sources", 5, "Number of strongest source positions to list.", 1, **text
    )
    flags.DEFINE_boolean(
        "pictures", True, "Draw pictures; the page needs none.", **text
    )
    cli.define_max_pixels(values)
    flags.DEFINE_integer(
        "limit",
        8,
        "Maximum number of pictures per image, best scores first; 0: all. "
        "explanations.json and the page always hold all explanations.",
        0,
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
