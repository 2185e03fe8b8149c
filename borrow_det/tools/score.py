"""Scores detections against ground truth, both in COCO's format.

  python -m borrow_det.tools.score --ground_truth=G.json --detections=D.json [--voc]

Prints one JSON object of metrics to stdout: COCO's box metrics and, with --voc, Pascal
VOC's. With --lender_classes, detections on small objects first take the class that is
predicted for the object's lender (evaluation/lender_classes.py): the score of a
detector that borrowed the class of every small object with a lender. The names are
those of evaluation/average_precision.py; a metric without objects is null. They equal
the metrics of a run on the same files, with the run's dataset.bad_boxes as --bad_boxes.
The exit status is 2 after wrong input, with one line on stderr that counts the wrong
records by kind.
"""

import json
import math
import sys
from collections.abc import Sequence

from absl import flags

from borrow_det.config import path_flags
from borrow_det.errors import InputError
from borrow_det.evaluation import (
    average_precision,
    bad_boxes,
    coco_format,
    coco_results,
    coco_truth,
    lender_classes,
    voc,
)
from borrow_det.io.problems import Problems
from borrow_det.tools.common import cli


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    if options["iou"].present and not options.voc:
        raise InputError("--iou can only be used with --voc: it is VOC's threshold")
    if options["lender_scale"].present and not options.lender_classes:
        raise InputError("--lender_scale can only be used with --lender_classes")
    problems = Problems()
    annotations = coco_format.read_annotations(options.ground_truth, problems)
    others = len(problems)
    ground_truth = coco_truth.to_coco(annotations, options.bad_boxes, problems)
    advice = "Correct the ground truth"
    if len(problems) > others:
        advice += "; --bad_boxes=clip or drop accepts wrong boxes"
    problems.refuse(None, advice)
    detections = coco_results.read_results(options.detections, annotations)
    if options.lender_classes:
        detections = lender_classes.with_classes_of_lenders(
            ground_truth, detections, options.lender_scale
        )
    metrics = average_precision.coco_metrics(
        ground_truth, detections, options.max_detections
    )
    if options.voc:
        metrics |= voc.voc_metrics(
            ground_truth, detections, options.iou, options.inclusive_pixels
        )
    defined = {k: None if math.isnan(v) else v for k, v in metrics.items()}
    print(json.dumps(defined, indent=1, allow_nan=False))
    return 0


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    path_flags.define_path(
        "ground_truth",
        None,
        "COCO annotation file with the ground truth.",
        required=True,
        flag_values=values,
    )
    path_flags.define_path(
        "detections",
        None,
        "COCO results file: a list of objects with image_id, category_id, bbox, score.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_detections",
        100,
        "Number of detections per image and class that COCO's metrics use.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "bad_boxes",
        "error",
        bad_boxes.POLICIES,
        "Boxes of the ground truth that are not finite, empty or outside their image: "
        "an error, clipped to the image, or dropped, as dataset.bad_boxes of a run.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "lender_classes",
        False,
        "Give detections on small objects the class that is predicted for the object's "
        "lender, before they are scored.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "lender_scale",
        2.0,
        "With --lender_classes: least ratio of a lender's side to the small object's.",
        lower_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_boolean("voc", False, "Add Pascal VOC's metrics.", flag_values=values)
    flags.DEFINE_float(
        "iou",
        0.5,
        "With --voc: least IoU of a true positive.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "inclusive_pixels",
        True,
        "With --voc: boxes include their last pixel, as in VOC's development kit.",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
