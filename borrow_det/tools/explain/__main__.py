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

With --tiles or --tile_size each view of an image (a tile, the entire image) is
explained as a separate image. With --references the attention also goes to other
images: the entire image for its tiles (overview), or the exemplars of a folder. Images
of a --split have the tiles and references of evaluation. Pictures and page show the
references with the most attention, their heat, and the lenders in them.

Exit status: 0; 1 if an input could not be read (it is named on stderr, the others are
processed); 2 if nothing could start.
"""

import collections
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ml_collections
import numpy as np
import tqdm
from absl import flags

from borrow_det.config import path_flags
from borrow_det.data import pipeline, sources
from borrow_det.data.images import inputs
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.reporting.results_page import page as results_page
from borrow_det.tiling.views import Tiles, make_tiles
from borrow_det.tools.common import cli, view_flags
from borrow_det.tools.explain import explanation, reading, references, views
from borrow_det.tools.explain.explanation import Borrowed, LevelDetections
from borrow_det.tools.explain.files import ExplanationWriter
from borrow_det.tools.explain.reading import Picture
from borrow_det.tools.explain.records import Explained
from borrow_det.tools.explain.text import Settings, readable


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
    chosen = references.parse(options.references, options.max_pixels)
    detector = Detector.load(options.workdir, options.step)
    check_level(detector, options.level)
    tiles = _tiles(options, detector.config)
    tiled = tiles.grid is not None or tiles.size is not None
    chosen = references.choose(chosen, detector.config, tiled, bool(options.split))
    make = references.ReferenceMaker(detector, options.score)
    readers = (
        _of_split(detector, options.split, make if chosen.kind == "group" else None)
        if options.split
        else reading.of_files(files, options.max_pixels)
    )
    if options.detection is not None and len(readers) != 1:
        raise InputError(
            f"--detection={options.detection} is an index in one image, and there are "
            f"{len(readers)} images: name one image"
        )
    failures: list[str] = []
    explained: Iterable[tuple[Picture, LevelDetections, list[Explained]]] = (
        (picture, *explain_picture(detector, picture, options))
        for picture in _views(
            reading.read(tqdm.tqdm(readers, unit="image", disable=None), failures),
            tiles,
            detector,
            chosen,
            make,
        )
    )
    if options.detection is not None:
        explained = list(explained)  # Raises before anything is written.
    settings = _settings(detector, options, chosen)
    results = results_page.link_to_run(paths.as_path(options.workdir), output)
    with ExplanationWriter(
        output, detector, settings, options.pictures, options.limit, results
    ) as writer:
        for picture, found, parts in explained:
            _report_notes(picture.name, parts)
            writer.add(
                *(picture.name, picture.image, found, parts),
                references=picture.references,
                window=picture.window,
            )
    unread = f"\nskipped: {inputs.described(others)}" if others else ""
    print(readable(writer.summary() + unread))
    return 1 if failures else 0


def _tiles(options: flags.FlagValues, config: ml_collections.ConfigDict) -> Tiles:
    """Returns the rule that splits images into views.

    Without a flag, images of a split have the views of evaluation.
    """
    rule = view_flags.tiles(options)
    if rule.grid is None and rule.size is None and options.split:
        settings = config.evaluation
        return make_tiles(settings.tiles or None, overlap=settings.tile_overlap)
    return rule


def _views(
    pictures: Iterable[Picture],
    tiles: Tiles,
    detector: Detector,
    chosen: references.Choice,
    make: references.ReferenceMaker,
) -> Iterator[Picture]:
    """Yields the views of the images, with the references of the call."""
    exemplars = tuple(make(name, image) for name, image in chosen.exemplars)
    for picture in pictures:
        yield from views.views(
            picture._replace(references=picture.references or exemplars),
            tiles,
            detector,
            make if chosen.kind == "overview" else None,
        )


def _of_split(
    detector: Detector, name: str, make: references.ReferenceMaker | None
) -> list[reading.Reader]:
    """Returns a reader for each image of a split, with references if there is `make`.

    Its group includes images of the split that a slice leaves out.
    """
    split = sources.load(detector.config.dataset, name)
    pipeline.check_split(split, detector.config)
    if make is None:
        return reading.of_split(split)
    complete = sources.load(detector.config.dataset, re.sub(r"\[[^]]*\]", "", name))
    return reading.of_split(split, references.of_group(detector, complete, make))


def _check_flags(options: flags.FlagValues, names: Sequence[str]) -> None:
    if bool(names) == bool(options.split):
        raise InputError("name images or folders, or a --split of the run's dataset")
    for name in ("score", "small"):
        value = getattr(options, name)
        if not math.isfinite(value):
            raise InputError(f"--{name}={value} is not a number")
    view_flags.tiles(options)


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
    if options.detection is not None and picture.window is not None:
        raise InputError(
            f"--detection={options.detection} is an index in one view, and "
            f"{picture.name} is one of several: explain all small detections, or give "
            "the tile as an image of its own"
        )
    attended = references.attend(detector, picture.image, picture.references)
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
    others = [reference.found for reference in picture.references]
    return found, [
        Explained(k, *_explain(detector, attended.P, found, k, options, others))
        for k in chosen
    ]


def _explain(
    detector: Detector,
    P: dict[int, np.ndarray],
    found: LevelDetections,
    k: int,
    options: flags.FlagValues,
    others: Sequence[LevelDetections],
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
        detector.task, P[level][0], level, found, k, options.sources, others
    )
    return borrowed, ""


def _settings(
    detector: Detector, options: flags.FlagValues, chosen: references.Choice
) -> Settings:
    return Settings(
        workdir=readable(options.workdir),
        step=detector.step,
        similarity=detector.config.borrow.similarity,
        lender_scale=detector.config.evaluation.lender_scale,
        score=options.score,
        small=options.small,
        detection=options.detection,
        level=options.level,
        references=chosen.words,
    )


def _report_notes(name: str, explained: Sequence[Explained]) -> None:
    """Prints the reasons why detections are not explained, a line per level."""
    notes = collections.Counter(one.note for one in explained if one.note)
    for note, count in notes.items():
        many = "1 detection" if count == 1 else f"{count} detections"
        tqdm.tqdm.write(f"note: {name}, {many}: {note}", file=sys.stderr)


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
    view_flags.define_tiles(values)
    path_flags.define_path(
        "references",
        None,
        "Images that small objects borrow from in addition to their own: overview, the "
        "entire image for its tiles; a folder of exemplars; or none. Default: overview "
        "for tiles if the run was trained with it; for a --split, other images of the "
        "group if it was trained with them; and none otherwise.",
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
