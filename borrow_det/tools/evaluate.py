"""Evaluates a trained run on any split, and changes nothing else in its work directory.

  python -m borrow_det.tools.evaluate --workdir=W --split=NAME [--step=best|last|N]
      [--output=DIR]
  python -m borrow_det.tools.evaluate --workdir=W --split=NAME --path=FOLDER
      [--group=FIELD]
  python -m borrow_det.tools.evaluate --workdir=W --split=NAME --precision=0.9
  python -m borrow_det.tools.evaluate --workdir=W --split=NAME --tiles=auto

The split is one of the run's dataset, or a slice of it such as test[:100]; with --path
it is one of a folder of images and annotations, whose classes must be among those of
the run. --group is what groups the images of that folder by video or camera, as
references.field: the name of a field, or a regular expression for file names. The tool
prints the main metrics and the kinds of errors, and writes to --output (default:
W/evaluations/SPLIT, with the folder's name before SPLIT for --path)
  STEP.json             all metrics, null if undefined;
  STEP.detections.json  the results (of a detector in COCO's format);
  STEP.analysis.json    curves, operating points, confusion and errors;
  STEP.plots/           precision against recall; F1, precision and recall over the
                        minimum score; the confusion matrix;
  STEP/                 pictures: annotations on the left, detections on the right;
  STEP.html             all of it in one page, which needs no network and no other
                        file; not with report.page_images=0.
An existing evaluation is not overwritten, only completed.

--tiles=auto evaluates images at their own size by tiles of the network's input and the
entire image, --tiles=ROWSxCOLUMNS by that many tiles, and --tiles=none by the entire
image alone. --overlap sets the overlap of neighboring tiles. Without them, images are
evaluated as in training. The folder of an evaluation with one of these flags has them
in its name, such as W/evaluations/SPLIT_tiles_auto.

--precision=0.9 finds the score with the highest recall at that precision or above, and
--recall=0.9 the one with the highest precision at that recall or above. They are
printed and, unless --output is given, stored in W/operating_points.json, as is the
score of the best F1 on the run's first evaluation split. predict takes them with
--score=precision_0.9 and --score=best_f1. The exit status is 1 if no score reaches the
value.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from absl import flags

from borrow_det.config import path_flags
from borrow_det.evaluate import Evaluated, evaluate_run, read_analysis
from borrow_det.io import paths
from borrow_det.reporting import devices, evaluation_plots
from borrow_det.reporting.console import Console
from borrow_det.reporting.results_page import page as results_page
from borrow_det.tiling.views import MAX_OVERLAP
from borrow_det.tools.common import cli
from borrow_det.visualization.tables import error_tables, markdown_report
from borrow_det.workdir import operating_points


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    wanted = _points(options)
    console = Console(num_steps=0)
    console.line(devices.describe())
    if unused := devices.unused_accelerator():
        console.line(unused)
    done = evaluate_run(
        options.workdir,
        options.split,
        step=options.step,
        path=options.path,
        group=options.group,
        output=options.output,
        points=wanted,
        tiles=options.tiles,
        overlap=options.overlap,
        evaluating=lambda split: _evaluating(console, split),
    )
    figures, split = done.evaluator.figures, done.evaluator.split
    name, lines = split.name, split.reference_lines
    console.line(f"step {done.step}\n")
    console.line(markdown_report({name: done.metrics}, lines, figures.report))
    if any(field in done.metrics for field in figures.details):
        console.line("\n" + markdown_report({name: done.metrics}, {}, figures.details))
    if analysis := read_analysis(done.path):
        console.line("\n" + error_tables(analysis["errors"]))
    evaluation_plots.write(done.path, split)
    page = results_page.write(done, paths.as_path(options.workdir))
    kept = operating_points.load(options.workdir, done.step, options.split).points
    found = [_found(done, name, kept.get(name)) for name in done.points]
    console.line("\n" + "\n".join([*found, f"all metrics: {done.path}"]))
    if page is not None:
        console.line(f"results page: {page}")
    return 0 if all(done.points[name] for name in wanted) else 1


def _points(options: flags.FlagValues) -> list[str]:
    """Returns the names of the operating points that the flags ask for."""
    return [
        f"{kind}_{options[kind].value:g}"
        for kind in ("precision", "recall")
        if options[kind].value is not None
    ]


def _found(done: Evaluated, name: str, kept: Mapping[str, Any] | None) -> str:
    """Returns a line about an operating point; `kept` is the stored one."""
    point = done.points[name]
    if point is None:
        return f"{name}: no score reaches it"
    uses = f"; --score={name} of predict uses"
    if name in done.stored:
        use = f"{uses} it"
    elif kept and kept["score"] != point["score"]:
        use = f"{uses} {kept['score']:.3f}, that of {kept['split']}"
    else:
        use = ""
    return operating_points.describe(name, point) + use


def _evaluating(
    console: Console, split: Any
) -> AbstractContextManager[Callable[[int], None]]:
    """Prints the notices of a split, and shows the progress of its evaluation."""
    for notice in split.notices:
        console.line(notice)
    return console.evaluating(f"{split.dataset} {split.name}", len(split))


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    cli.define_workdir(values)
    flags.DEFINE_string(
        "split",
        None,
        "Split to evaluate on, or a slice of it.",
        required=True,
        flag_values=values,
    )
    path_flags.define_path(
        "path",
        None,
        "Folder of images with annotations (default: the run's dataset).",
        flag_values=values,
    )
    cli.define_step(values)
    flags.DEFINE_string(
        "tiles",
        None,
        "auto, ROWSxCOLUMNS or none (default: evaluation.tiles of the run).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "group",
        None,
        "Field that groups other images by video or camera (default: references.field "
        "of the run).",
        flag_values=values,
    )
    flags.DEFINE_float(
        "overlap",
        None,
        "Overlap of neighboring tiles as a fraction of a side (default: "
        "evaluation.tile_overlap of the run).",
        0.0,
        MAX_OVERLAP,
        flag_values=values,
    )
    for kind, other in (("precision", "recall"), ("recall", "precision")):
        flags.DEFINE_float(
            kind,
            None,
            f"Find and store the score with the highest {other} at this {kind}.",
            0.001,
            1.0,
            flag_values=values,
        )
    path_flags.define_path(
        "output",
        None,
        "Folder for the results (default: WORKDIR/evaluations/SPLIT).",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
