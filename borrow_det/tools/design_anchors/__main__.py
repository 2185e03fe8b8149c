"""Designs anchors for a data set by Eq. (1) of the paper, and measures them.

  python -m borrow_det.tools.design_anchors --config=FILE[:arg=value,...]
      [--config.field=value] [--theta=0.5] [--share=0.99] [--split=NAME] [--output=DIR]

measures the sizes and aspect ratios of a split's objects (crowds and difficult ones
are some where loss.ignored says so) at the training input's size (config.input_size,
to which images are resized whole), proposes the smallest set of anchors on the levels
of config.anchors.strides that covers `share` of them, and shows what it and the
config's own anchors (the paper's, unless a field says otherwise) reach: the closed
form's worst case, and the share of objects with IoU >= theta with an anchor where it
really stands, by size. It prints a report with a config fragment, and writes to DIR
  design.png   the objects, both sets of anchors, and what is covered at each size;
  design.json  the same figures.

  python -m borrow_det.tools.design_anchors --object_aspect_ratio=6 [--theta=0.5]
      [--scale_step=2]

needs no data: it prints one JSON object with the largest aspect ratio that anchors
need for objects of up to that one (max_aspect_ratio), and the fewest ratios that do.

Wrong input gives one line on stderr and exit status 2.
"""

import itertools
import json
import math
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from borrow_det.config import command_line, packaged, validate
from borrow_det.data import sources
from borrow_det.errors import InputError
from borrow_det.ops import anchor_design, assignment
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools.common import cli
from borrow_det.tools.design_anchors import plot, report
from borrow_det.tools.design_anchors import proposal as proposal_lib
from borrow_det.workdir import metadata

# Sides in pixels of the input. COCO's small ends at 32, its medium at 96.
_EDGES = (0, 8, 16, 32, 64, 96, 192, math.inf)
_COCO = {"small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}
# Beyond these the fewest aspect ratios are hundreds, and serve nobody.
_THETAS = (0.01, 0.99)
_LARGEST_RATIO = 1000


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    low, high = _THETAS
    if not low <= options.theta <= high:
        raise InputError(
            f"--theta={options.theta:.12g} must lie between {low:g} and {high:g}"
        )
    if (options["config"].value is None) == (options.object_aspect_ratio is None):
        raise InputError(
            "give either --config, to design for a data set, or --object_aspect_ratio"
        )
    data_only, plain_only = ("share", "split", "output"), ("scale_step",)
    for name in plain_only if options.object_aspect_ratio is None else data_only:
        if options[name].present:
            mode = "--object_aspect_ratio" if name in plain_only else "--config"
            raise InputError(f"--{name} goes with {mode} only")
    if options.object_aspect_ratio is not None:
        answer = from_ratio(
            options.object_aspect_ratio, options.theta, options.scale_step
        )
        print(json.dumps(answer))
        return 0
    if not 0 < options.share <= 1:
        raise InputError(f"--share={options.share:g} must lie above 0, up to 1")
    config = command_line.resolved(options["config"])
    split = options.split or config.dataset.train_split
    design, drawn = from_data(config, split, options.theta, options.share)
    output = cli.output_folder(options.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        metadata.write_json(output / "design.json", design)
        plot.write(output / "design.png", design, **drawn)
    except OSError as error:
        raise InputError(
            f"--output={output} cannot be written: {error.strerror}"
        ) from error
    print(report.text(design))
    print(f"\nFigures and plot: {output / 'design.json'}, {output / 'design.png'}")
    return 0


def from_ratio(object_aspect_ratio: float, theta: float, scale_step: float) -> dict:
    """What Eq. (1) says of objects from 1 : a to a : 1, as a JSON object.

    Raises:
      InputError: the ratio or the step is out of range, or the step is too large for
        theta.
    """
    if not 1 <= object_aspect_ratio <= _LARGEST_RATIO:
        raise InputError(
            f"--object_aspect_ratio={object_aspect_ratio:g} must be a number from 1 to "
            f"{_LARGEST_RATIO}"
        )
    if not 1 <= scale_step < math.inf:
        raise InputError(f"--scale_step={scale_step:g} must be a number from 1 on")
    largest = anchor_design.max_aspect_ratio(object_aspect_ratio, theta, scale_step)
    return {
        "theta": theta,
        "object_aspect_ratio": _plain(object_aspect_ratio),
        "max_aspect_ratio": _plain(largest),
        **_equation(1 / object_aspect_ratio, object_aspect_ratio, theta, scale_step),
    }


def _equation(low, high, theta, scale_step):
    """What Eq. (1) says of objects whose aspect ratios lie from low to high."""
    quotient = anchor_design.largest_quotient(scale_step, theta)
    ratios = anchor_design.aspect_ratios(low, high, quotient)
    return {
        "scale_step": _plain(scale_step),
        "worst_mismatch": _plain(math.sqrt(scale_step)),
        "max_quotient": _plain(quotient),
        "aspect_ratios": [_plain(ratio) for ratio in ratios],
    }


def from_data(config, split: str, theta: float, share: float) -> tuple[dict, dict]:
    """Designs anchors for one split and measures them beside the config's own.

    Returns:
      What design.json holds, and the arrays that the plot needs beside it:
      `objects` [N, 2] and, by set, `shapes` [k, 2], (height, width) in pixels.

    Raises:
      InputError: the split has no objects, or as sources.load and the proposal do.
    """
    validate.check_fields(config)
    _check_levels(config.anchors)
    boxes, left_out = _read_boxes(config, split)
    objects = proposal_lib.measure(boxes, config.input_size)
    region = proposal_lib.wanted_region(objects, share)
    own = config.anchors
    proposal, step = proposal_lib.propose(objects, own, config.input_size, theta, share)
    sets = {"config": own, "proposal": proposal}
    found = {
        name: _measured(anchors, objects, region, config.input_size, theta)
        for name, anchors in sets.items()
    }
    design = {
        "dataset": config.dataset.name,
        "path": config.dataset.path,
        "split": split,
        "input_size": list(config.input_size),
        "theta": theta,
        "share": share,
        "objects": len(boxes),
        **left_out,
        "size_range": [_plain(v) for v in region.sizes],
        "aspect_ratio_range": [_plain(v) for v in region.ratios],
        "equation_1": _equation(*region.ratios, theta, step),
        "sets": {name: figures for name, (figures, _) in found.items()},
        "bins": _bins(objects.sizes, {name: ok for name, (_, ok) in found.items()}),
        "fragment": {name: getattr(proposal, name) for name in proposal_lib.FIELDS},
    }
    shapes = {
        name: proposal_lib.all_shapes(anchors, config.input_size)
        for name, anchors in sets.items()
    }
    sides = boxes[:, 2:] - boxes[:, :2]
    return design, {"objects": sides * np.array(config.input_size), "shapes": shapes}


def _check_levels(anchors):
    for name in ("sizes", "aspect_ratios"):
        count = len(getattr(anchors, name))
        if count != len(anchors.strides):
            raise InputError(
                f"anchors.{name} has {count} levels, anchors.strides has "
                f"{len(anchors.strides)}: give each level its own"
            )


def _read_boxes(config, name):
    """Boxes [N, 4] of the objects that training learns; counts of those it does not.

    Boxes without an area cannot overlap anything.
    """
    split = sources.load(config.dataset, name)
    found, count = [np.zeros((0, 4), np.float32)], 0
    for index in range(len(split)):
        record = split[index]
        ignore = record["is_crowd"] | record["is_difficult"]
        valid = np.ones_like(ignore)
        target = np.asarray(assignment.objects(valid, ignore, config.loss.ignored))
        found.append(record["boxes"][target])
        count += len(target)
    boxes = np.concatenate(found)
    with_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not with_area.any():
        raise InputError(
            f"split {name} of {config.dataset.path or config.dataset.name} has no "
            "objects to design anchors for: choose another --split"
        )
    left_out = {
        "left_out": count - len(boxes),
        "without_area": int((~with_area).sum()),
    }
    return boxes[with_area], left_out


def _measured(anchors, objects, region, input_size, theta):
    """The figures of one set of anchors, and which objects it covers, bool [N]."""
    placed = anchor_ops.make_anchors(anchors, input_size)
    covered = anchor_design.best_iou(objects.boxes, placed) >= theta
    shapes = proposal_lib.all_shapes(anchors, input_size)
    centered = anchor_design.best_centered_iou(objects.sizes, objects.ratios, shapes)
    reachable = centered >= theta - proposal_lib.TOLERANCE
    sides, worst = proposal_lib.closed_form(anchors, region, input_size)
    figures = {
        "anchors_per_position": list(anchor_ops.anchors_per_position(anchors)),
        "anchors": len(placed),
        **{name: _plain_nested(getattr(anchors, name)) for name in proposal_lib.FIELDS},
        "worst_case_iou": _plain(worst.min()),
        "guaranteed_sizes": _longest_run(
            sides, worst >= theta - proposal_lib.TOLERANCE
        ),
        "share_centered": _plain(reachable.mean()),
        "share_measured": _plain(covered.mean()),
        "missed_shape": _describe(objects, ~covered & ~reachable),
        "missed_place": _describe(objects, ~covered & reachable),
    }
    return figures, covered


def _describe(objects, missed):
    """Count, and middle 90 % of sizes and aspect ratios, of some objects."""
    if not missed.any():
        return {"objects": 0}
    sizes, ratios = (
        [_plain(v) for v in np.quantile(values[missed], (0.05, 0.5, 0.95))]
        for values in (objects.sizes, objects.ratios)
    )
    return {"objects": int(missed.sum()), "sizes": sizes, "aspect_ratios": ratios}


def _longest_run(sides, holds):
    """Smallest and largest side of the longest run where it holds; None for none."""
    best, start = None, None
    for i, held in enumerate(holds):
        if not held:
            start = None
            continue
        start = i if start is None else start
        if best is None or sides[i] / sides[start] >= best[1] / best[0]:
            best = [_plain(sides[start]), _plain(sides[i])]
    return best


def _bins(sizes, covered):
    """Objects and covered shares of COCO's classes of size, then of finer ones."""
    named = [*_COCO.items()]
    for low, high in itertools.pairwise(_EDGES):
        text = f"{low}-{high}" if high < math.inf else f"{low}-"
        named.append((text, (low, high)))
    bins = []
    for name, (low, high) in named:
        inside = (sizes >= low) & (sizes < high)
        shares = {
            of_set: _plain(ok[inside].mean()) if inside.any() else None
            for of_set, ok in covered.items()
        }
        bins.append({"size": name, "objects": int(inside.sum()), **shares})
    return bins


def _plain(value: float) -> float | int:
    """A number for JSON: ten digits, and 3 rather than 3.0000000000000004."""
    value = float(f"{float(value):.10g}")
    return int(value) if value.is_integer() else value


def _plain_nested(value):
    if isinstance(value, tuple):
        return [_plain_nested(inner) for inner in value]
    return value if isinstance(value, str) else _plain(value)


def _flags(argv) -> flags.FlagValues:
    values = flags.FlagValues()
    text = {"flag_values": values}
    packaged.define_config("config", packaged.HELP, values, argv)
    flags.DEFINE_float("theta", 0.5, "IoU from which an object is covered.", **text)
    flags.DEFINE_float("share", 0.99, "Of the objects, to be covered.", **text)
    flags.DEFINE_string("split", None, "The split; dataset.train_split.", **text)
    flags.DEFINE_string("output", "anchor_design", "Where results go.", **text)
    flags.DEFINE_float(
        "object_aspect_ratio",
        None,
        "Without data: of the objects, a from 1 on.",
        **text,
    )
    flags.DEFINE_float(
        "scale_step", 2.0, "Without data: from one anchor size to the next.", **text
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
