"""Scores COCO-format detections against COCO-format ground truth.

  python -m borrow_det.tools.score --ground_truth=G.json --detections=D.json [--voc]

prints one JSON object, metric: value (null where there is no object to find), on
stdout: COCO's box metrics, and with --voc Pascal VOC's beside them. The names are
those of evaluation/average_precision.py. Bad files give one line on stderr and exit
status 2.
"""

import json
import math
import sys
from collections.abc import Sequence

from absl import flags

from borrow_det.errors import InputError
from borrow_det.evaluation import average_precision, coco_format, voc
from borrow_det.io import json_files
from borrow_det.tools.common import cli


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    if options["iou"].present and not options.voc:
        raise InputError("--iou is VOC's threshold: give --voc as well")
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
    metrics = {k: None if math.isnan(v) else v for k, v in metrics.items()}
    print(json.dumps(metrics, indent=1, allow_nan=False))
    return 0


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string(
        "ground_truth",
        None,
        "COCO annotation file.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_string(
        "detections",
        None,
        "COCO results file, a list of image_id, category_id, bbox, score.",
        required=True,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_detections",
        100,
        "Detections of an image and class that count for COCO's metrics.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "voc", False, "Pascal VOC's metrics as well.", flag_values=values
    )
    flags.DEFINE_float(
        "iou",
        0.5,
        "VOC's least overlap of a hit.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "inclusive_pixels",
        True,
        "VOC's boxes include their last pixel (its development kit's +1).",
        flag_values=values,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
