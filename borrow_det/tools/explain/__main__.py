"""Shows where small objects borrowed their features from.

  python -m borrow_det.tools.explain --workdir=W --output=DIR IMAGE_OR_FOLDER...
  python -m borrow_det.tools.explain --workdir=W --output=DIR --split=validation[:8]

The second form looks at images of the run's own data set. For every small detection
that scores --score or more, or for one that --detection names, DIR then holds
  pictures/          a JPEG each: the object, lines to the strongest sources, the
                     attention as heat over each source level, and the numbers;
  explanations.json  these numbers, and what they were made with: an entry an image,
                     its detections by falling score, and of those that are explained
                     the share of the attention that each level has, the strongest
                     sources, the precision (the share inside of larger detections of
                     the same class: evaluation.lender_scale times the side) and
                     `positions`, what the precision of an even spread would be;
  index.html         all of it in one page, which needs no network and no other file.
What an earlier call left there is replaced, its pictures too.

What is shown is the attention of the descriptors that stand for the detection: those of
the level of its anchor whose centres lie in its box (the nearest one where none does),
averaged. Levels are counted from 1, as the paper does. Scores of
borrow.similarity=dot_product may be negative and count by their absolute values.
Attention is not contribution: values and fusion may make it count for little.

Exit status: 0; 1 where an input could not be read (it is named on stderr, the others
are done); 2 where nothing could start.
"""

import collections
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm
from absl import flags

from borrow_det.data import pipeline, sources
from borrow_det.data.images import decode
from borrow_det.data.images import inputs as inputs_lib
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.tools.common import cli
from borrow_det.tools.explain import explanation
from borrow_det.tools.explain.explanation import Borrowed, Found
from borrow_det.tools.explain.files import Explained, Output
from borrow_det.tools.explain.text import Settings, readable


class Picture(NamedTuple):
    """An image to look at."""

    name: str
    image: np.ndarray  # uint8 RGB [H, W, 3], upright.


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    inputs = cli.parse(options, argv, __doc__)
    _check_flags(options, inputs)
    output = cli.output_folder(options.output)
    # Files are looked for before the network is built, which takes a while.
    paths = inputs_lib.find(inputs, leave_out=output / "pictures") if inputs else []
    detector = Detector.load(options.workdir, options.step)
    check_level(detector, options.level)
    readers = _of_split(detector, options.split) if options.split else _of_files(paths)
    if options.detection is not None and len(readers) != 1:
        raise InputError(
            f"--detection={options.detection} is one image's, and there are "
            f"{len(readers)}: name one image"
        )
    failures: list[str] = []
    looked = (
        (picture, *look(detector, picture, options))
        for picture in _pictures(
            tqdm.tqdm(readers, unit="image", disable=None), failures
        )
    )
    if options.detection is not None:
        looked = list(looked)  # Before anything is written: there may be none such.
    settings = _settings(detector, options)
    with Output(output, detector, settings, options.pictures, options.limit) as writer:
        for picture, found, explained in looked:
            _tell(picture.name, explained)
            writer.add(picture.name, picture.image, found, explained)
    print(readable(writer.summary()))
    return 1 if failures else 0


def _check_flags(options, inputs):
    if bool(inputs) == bool(options.split):
        raise InputError("name images or folders, or a --split of the run's data set")
    for name in ("score", "small"):
        if not math.isfinite(options[name].value):
            raise InputError(f"--{name}={options[name].value} is not a number")
    if not options.output:
        raise InputError("--output is empty: name a folder")


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
    canvas, size = decode.to_canvas(picture.image, detector.canvas)
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
            f"level {own.number}, {own.name}, does not borrow; --level shows what "
            "another level's descriptors there looked at"
        )
    borrowed = explanation.explain(
        detector.task, P[level][0], level, found, k, options.sources
    )
    return borrowed, ""


def _settings(detector, options):
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


def _tell(name: str, explained: Sequence[Explained]) -> None:
    """Says what could not be explained: a line an image and level."""
    notes = collections.Counter(one.note for one in explained if one.note)
    for note, count in notes.items():
        many = "1 detection" if count == 1 else f"{count} detections"
        tqdm.tqdm.write(f"note: {name}, {many}: {note}", file=sys.stderr)


def _pictures(
    readers: Iterable[Callable[[], Picture]], failures: list[str]
) -> Iterator[Picture]:
    """What can be read; what cannot goes to stderr and `failures`."""
    for read in readers:
        try:
            picture = read()
        except InputError as error:
            tqdm.tqdm.write(f"skipped: {readable(str(error))}", file=sys.stderr)
            failures.append(str(error))
        else:
            yield picture._replace(name=readable(picture.name))


def _of_files(paths) -> list[Callable[[], Picture]]:
    """Readers of files."""

    def read(path):
        if inputs_lib.is_video(path):
            raise InputError(f"{path}: a video; explain looks at images alone")
        return Picture(str(path), inputs_lib.read_upright(path))

    return [functools.partial(read, path) for path in paths]


def _of_split(detector, name) -> list[Callable[[], Picture]]:
    """Readers of a split of the run's data set."""
    split = sources.load(detector.config.dataset, name)
    pipeline.check_split(split, detector.config)

    def read(index):
        record = split[index]
        name = record["file_name"]
        return Picture(name, decode.decode_image(record, name))

    return [functools.partial(read, index) for index in range(len(split))]


def _flags() -> flags.FlagValues:
    values = cli.run_flags()
    text = {"flag_values": values}
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
        "(COCO's 32): their area is at most the number's square.",
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
    sys.exit(cli.call(main, sys.argv))
