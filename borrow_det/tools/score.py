"""Scores detections against ground truth, both in COCO's format.

  python -m borrow_det.tools.score --ground_truth=G.json --detections=D.json [--voc]

Prints one JSON object of metrics to stdout: COCO's box metrics and, with --voc, Pascal
VOC's. The names are those of evaluation/average_precision.py; a metric without objects
is null. The exit status is 2 after wrong input, with one line on stderr.
"""

import json
import math
import sys
from collections.abc import Sequence

from absl import flags

from borrow_det.config import path_flags
from borrow_det.errors import InputError
from borrow_det.evaluation import average_precision, coco_format, voc
from borrow_det.io import json_files
from borrow_det.tools.common import cli


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    if options["iou"].present and not options.voc:
        raise InputError("--iou can only be used with --voc: it is VOC's threshold")
    ground_truth = json_files.read(options.ground_truth)
    coco_format.check_ground_truth(ground_truth, options.ground_truth)
    detections = json_files.read(options.detections)
    coco_format.check_detections(detections, ground_truth, options.detections)
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
