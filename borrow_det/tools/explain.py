"""Shows where small objects borrowed their features from.

  python -m borrow_det.tools.explain --workdir=W --output=DIR IMAGE_OR_FOLDER...
  python -m borrow_det.tools.explain --workdir=W --output=DIR --split=validation[:8]

The second form looks at images of the run's own data set. For every small detection
that scores --score or more, or for one that --detection names, DIR then holds
  pictures/          a JPEG each: the object, lines to the strongest sources, the
                     attention as heat over each source level, and the numbers;
  explanations.json  these numbers: an entry an image, its detections by falling score,
                     and of those that are explained the share of the attention that
                     each level has, the strongest sources, and the precision: the
                     share inside of larger detections (loss.matching_scale times the
                     side) of the same class;
  index.html         all of it in one page, which needs no network and no other file.

What is shown is the attention of the descriptors that stand for the detection: those of
the level of its anchor whose centres lie in its box (the nearest one where none does),
averaged. Levels are counted from 1, as the paper does. Scores of
borrow.similarity=dot_product may be negative and count by their absolute values.

Exit status: 0; 1 where an input could not be read (it is named on stderr, the others
are done); 2 where nothing could start.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm
from absl import flags

from borrow_det.data import images, pipeline, sources
from borrow_det.errors import InputError
from borrow_det.tasks.detector import Detector
from borrow_det.tools import command, explanation
from borrow_det.tools.explanation import Borrowed, Found
from borrow_det.tools.explanation_files import Explained, Output


class Picture(NamedTuple):
    """An image to look at."""

    name: str
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    inputs = command.parse(options, argv, __doc__)
    if bool(inputs) == bool(options.split):
        raise InputError("name images or folders, or a --split of the run's data set")
    output = pathlib.Path(options.output)
    failures: list[str] = []
    # Files are looked for before the network is built, which takes a while.
    paths = images.find(inputs, leave_out=output / "pictures") if inputs else []
    detector = Detector.load(options.workdir, options.step)
    check_level(detector, options.level)
    if options.split:
        count, pictures = _of_split(detector, options.split)
    else:
        count, pictures = len(paths), _of_files(paths, failures)
    if options.detection is not None and count != 1:
        raise InputError(
            f"--detection={options.detection} is one image's, and there are {count}: "
            "name one image"
        )
    writer = Output(output, detector, options.pictures, options.limit)
    for picture in tqdm.tqdm(pictures, total=count, unit="image", disable=None):
        found, explained = look(detector, picture, options)
        for one in explained:
            if one.note:
                name = detector.class_names[found.labels[one.index]]
                score = found.scores[one.index]
                print(
                    f"note: {picture.name}, detection {one.index} ({name} "
                    f"{score:.2f}): {one.note}",
                    file=sys.stderr,
                )
        writer.add(picture.name, picture.image, found, explained)
    writer.close()
    print(writer.summary(options.score))
    return 1 if failures else 0


def check_level(detector: Detector, level: int | None) -> None:
    """Refuses runs that do not borrow, and levels that do not.

    Args:
      detector: the run.
      level: --level, from 1; None: each detection's own.

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
            f"--level={level} does not borrow; of this run, these do: "
            f"{', '.join(map(str, known))}"
        )


def look(
    detector: Detector, picture: Picture, options: flags.FlagValues
) -> tuple[Found, list[Explained]]:
    """What is in an image, and what the chosen detections borrowed."""
    canvas, size = pipeline.to_canvas(picture.image, detector.canvas)
    attended = detector.attend(canvas[None], np.array([size], np.int32))
    found = explanation.detections(attended, 0, options.score)
    if options.detection is None:
        small = explanation.is_small(
            found.boxes, picture.image.shape[:2], options.small
        )
        chosen = np.flatnonzero(small)
    else:
        chosen = [options.detection]
        if options.detection >= len(found.boxes):
            raise InputError(
                f"--detection={options.detection}: {picture.name} has "
                f"{len(found.boxes)} detections with a score of {options.score} or "
                "more, counted from 0"
            )
    return found, [
        Explained(int(k), *_explain(detector, attended.P, found, k, options))
        for k in chosen
    ]


def _explain(detector, P, found, k, options) -> tuple[Borrowed | None, str]:
    """What detection k borrowed; None, and why, where its level does not borrow."""
    level = int(found.levels[k]) if options.level is None else options.level - 1
    if level not in P:
        own = detector.levels[level]
        return None, (
            f"comes from level {own.number}, {own.name}, which does not borrow; "
            "--level shows what another level's descriptors there looked at"
        )
    borrowed = explanation.explain(
        detector.task, P[level][0], level, found, k, options.sources
    )
    return borrowed, ""


def _of_files(paths, failures) -> Iterator[Picture]:
    """The images of files; what cannot be read goes to stderr and `failures`."""
    for path in paths:
        try:
            if images.is_video(path):
                raise InputError(f"{path}: a video; explain looks at images alone")
            yield Picture(str(path), images.read_upright(path))
        except InputError as error:
            print(f"skipped: {error}", file=sys.stderr)
            failures.append(str(error))


def _of_split(detector, split) -> tuple[int, Iterator[Picture]]:
    """The number of images of a split of the run's data set, and these."""
    source = sources.load(detector.config.dataset, split)
    pipeline.check_source(source, detector.config)

    def pictures():
        for index in range(len(source)):
            record = source[index]
            name = record["file_name"]
            yield Picture(name, pipeline.decode_image(record, name))

    return len(source), pictures()


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "The trained run.", required=True, **text)
    flags.DEFINE_string("output", None, "Where results go.", required=True, **text)
    flags.DEFINE_integer("step", None, "Of the checkpoint; the newest one.", **text)
    flags.DEFINE_string(
        "split",
        None,
        "Images of the run's data set in place of files: a split's name, or a slice "
        "of it such as validation[3:5].",
        **text,
    )
    flags.DEFINE_float(
        "score",
        0.4,
        "Least score of a detection that is explained or that sources lie in.",
        0.0,
        1.0,
        **text,
    )
    flags.DEFINE_float(
        "small",
        32.0,
        "Detections of less than this many pixels squared, of the image, are small "
        "(COCO's 32).",
        0.0,
        **text,
    )
    flags.DEFINE_integer(
        "detection",
        None,
        "The one to explain, small or not, by its index in explanations.json; every "
        "small one.",
        0,
        **text,
    )
    flags.DEFINE_integer(
        "level",
        None,
        "Look at this level's descriptors (from 1) instead of those of the level that "
        "a detection's anchor is on.",
        1,
        **text,
    )
    flags.DEFINE_integer("sources", 5, "Strongest sources shown.", 1, **text)
    flags.DEFINE_boolean(
        "pictures", True, "Draw pictures; the page needs none.", **text
    )
    flags.DEFINE_integer(
        "limit",
        8,
        "Pictures an image, of the best scores; 0: all. explanations.json and the "
        "page hold all in any case.",
        0,
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(command.call(main, sys.argv))
