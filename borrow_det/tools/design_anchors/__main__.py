r"""Designs anchors for a dataset by Eq. (1) of the paper, and measures them.

  python -m borrow_det.tools.design_anchors --config=FILE[:arg=value,...] \
      [--config.field=value] [--theta=0.5] [--share=0.99] [--weights=2,1,1] \
      [--allow_worse] [--split=NAME] [--output=DIR]

Reads the sizes and aspect ratios of a split's objects at config.input_size, to which
images are resized. Crowds and difficult objects are included if loss.ignored=positive.
Proposes the smallest set of anchors on the levels of config.anchors.strides whose
weighted share of covered objects reaches --share. The weighted share is the mean of the
covered shares of small, medium and large objects, with the weights --weights. An object
is covered if its IoU with an anchor of the grid is at least --theta. No size range may
have a smaller share than with the config's own anchors, unless --allow_worse is given.
If nothing better is found, the proposal is the config's own anchors. Compares the two:
the worst IoU by the closed form, and the share of covered objects by size. Prints a
report with a config fragment, and writes to DIR
  design.png   the objects, both sets of anchors, and the covered share by size
  design.json  the same figures

  python -m borrow_det.tools.design_anchors --object_aspect_ratio=6 [--theta=0.5] \
      [--scale_step=2]

needs no data. It prints one JSON object with the largest aspect ratio that anchors need
for objects of aspect ratios up to the given one (max_aspect_ratio), and the smallest
set of aspect ratios that covers them.

The exit status is 2 after wrong input, with one line on stderr.
"""

import json
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from borrow_det.config import command_line, packaged, path_flags, validate
from borrow_det.data import native_scale, sources
from borrow_det.errors import InputError
from borrow_det.ops import anchor_design, assignment
from borrow_det.tools.common import cli
from borrow_det.tools.design_anchors import figures, plot, proposal, report
from borrow_det.tools.design_anchors.size_ranges import RANGES, WEIGHTS
from borrow_det.workdir import metadata

# Values outside need hundreds of aspect ratios.
_THETAS = (0.01, 0.99)
_LARGEST_RATIO = 1000


def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    _check_flags(options)
    if options.object_aspect_ratio is not None:
        answer = from_ratio(
            options.object_aspect_ratio, options.theta, options.scale_step
        )
        print(json.dumps(answer))
        return 0
    config = command_line.resolved(options["config"])
    split = options.split or config.dataset.train_split
    goal = proposal.Goal(
        options.theta, options.share, _weights(options.weights), options.allow_worse
    )
    design, drawn = from_data(config, split, goal)
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


def _check_flags(options: flags.FlagValues) -> None:
    low, high = _THETAS
    if not low <= options.theta <= high:
        raise InputError(
            f"--theta={options.theta:.12g} must lie between {low:g} and {high:g}"
        )
    without_data = options.object_aspect_ratio is not None
    if (options["config"].value is not None) == without_data:
        raise InputError(
            "give either --config, to design for a dataset, or --object_aspect_ratio"
        )
    data_flags = ("share", "weights", "allow_worse", "split", "output")
    other_flags = ("scale_step",)
    for name in data_flags if without_data else other_flags:
        if options[name].present:
            mode = "--config" if without_data else "--object_aspect_ratio"
            raise InputError(f"--{name} can only be used with {mode}")
    if not 0 < options.share <= 1:
        raise InputError(f"--share={options.share:g} must be above 0 and at most 1")


def _weights(texts: Sequence[str]) -> tuple[float, ...]:
    """Parses --weights: a number above 0 for each size range."""
    try:
        values = tuple(map(float, texts))
    except ValueError:
        values = ()
    if len(values) != len(RANGES) or not all(0 < v < math.inf for v in values):
        raise InputError(
            f"--weights={','.join(texts)} must be {len(RANGES)} numbers above 0, for "
            f"{', '.join(RANGES)} objects, such as 2,1,1"
        )
    return values


def from_ratio(object_aspect_ratio: float, theta: float, scale_step: float) -> dict:
    """Applies Eq. (1) to objects of aspect ratios from 1/a to a.

    Args:
      object_aspect_ratio: a, the largest aspect ratio.
      theta: IoU from which an object is covered.
      scale_step: ratio of successive anchor sizes.

    Returns:
      Contents of a JSON object.

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
        raise InputError(f"--scale_step={scale_step:g} must be a number of at least 1")
    largest = anchor_design.max_aspect_ratio(object_aspect_ratio, theta, scale_step)
    return {
        "theta": theta,
        "object_aspect_ratio": figures.plain(object_aspect_ratio),
        "max_aspect_ratio": figures.plain(largest),
        **_equation(1 / object_aspect_ratio, object_aspect_ratio, theta, scale_step),
    }


def _equation(
    low: float, high: float, theta: float, scale_step: float
) -> dict[str, Any]:
    """Applies Eq. (1) to objects of aspect ratios from low to high."""
    quotient = anchor_design.largest_quotient(scale_step, theta)
    ratios = anchor_design.aspect_ratios(low, high, quotient)
    return {
        "scale_step": figures.plain(scale_step),
        "worst_mismatch": figures.plain(math.sqrt(scale_step)),
        "max_quotient": figures.plain(quotient),
        "aspect_ratios": [figures.plain(ratio) for ratio in ratios],
    }


def from_data(
    config: ConfigDict, split: str, goal: proposal.Goal
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Designs anchors for a split and compares them with the config's own.

    Args:
      config: config with the dataset, the input size and the strides.
      split: name of the split.
      goal: requirements of the anchors.

    Returns:
      The contents of design.json, and the other arrays of the plot: `objects` [N, 2]
      and `shapes` [k, 2] by set, both (height, width) in pixels.

    Raises:
      InputError: the split has no objects, or see `sources.load` and
        `proposal.propose`.
    """
    validate.check_fields(config)
    _check_levels(config.anchors)
    opened = sources.load(config.dataset, split)
    boxes, left_out = _read_boxes(opened, config)
    objects = proposal.measure(boxes, config.input_size)
    region = proposal.wanted_region(objects, goal.share)
    own = config.anchors
    proposed, step = proposal.propose(objects, own, config.input_size, goal)
    sets = {"config": own, "proposal": proposed}
    found = {
        name: figures.measured(anchors, objects, region, config.input_size, goal)
        for name, anchors in sets.items()
    }
    design = {
        "dataset": config.dataset.name,
        "path": config.dataset.path,
        "split": split,
        "notices": [
            *opened.notices,
            *native_scale.notices_of_measurement(config),
        ],
        "input_size": list(config.input_size),
        "theta": goal.theta,
        "share": goal.share,
        "weights": dict(zip(RANGES, map(figures.plain, goal.weights), strict=True)),
        "allow_worse": goal.allow_worse,
        "config_kept": proposed == own,
        "objects": len(boxes),
        **left_out,
        "size_range": [figures.plain(v) for v in region.sizes],
        "aspect_ratio_range": [figures.plain(v) for v in region.ratios],
        "equation_1": _equation(*region.ratios, goal.theta, step),
        "sets": {name: about for name, (about, _) in found.items()},
        "bins": figures.bins(
            objects.sizes, {name: hit for name, (_, hit) in found.items()}
        ),
        "fragment": {name: getattr(proposed, name) for name in proposal.FIELDS},
    }
    shapes = {
        name: proposal.all_shapes(anchors, config.input_size)
        for name, anchors in sets.items()
    }
    sides = boxes[:, 2:] - boxes[:, :2]
    return design, {"objects": sides * np.array(config.input_size), "shapes": shapes}


def _check_levels(anchors: ConfigDict) -> None:
    for name in ("sizes", "aspect_ratios"):
        count = len(getattr(anchors, name))
        if count != len(anchors.strides):
            raise InputError(
                f"anchors.{name} has {count} levels, anchors.strides has "
                f"{len(anchors.strides)}: give one entry per level"
            )


def _read_boxes(
    split: sources.Split, config: ConfigDict
) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the boxes [N, 4] that training learns, and counts of the others.

    The others are crowds and difficult objects, and boxes without an area.
    """
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
            f"split {split.name} of {config.dataset.path or split.dataset} has no "
            "objects: choose another --split"
        )
    left_out = {
        "left_out": count - len(boxes),
        "without_area": int((~with_area).sum()),
    }
    return boxes[with_area], left_out


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    packaged.define_config("config", packaged.HELP, values, argv)
    flags.DEFINE_float(
        "theta", 0.5, "IoU with an anchor from which an object is covered.", **text
    )
    flags.DEFINE_float("share", 0.99, "Weighted share of the objects to cover.", **text)
    flags.DEFINE_list(
        "weights",
        [f"{weight:g}" for weight in WEIGHTS],
        "Weights of the covered shares of small, medium and large objects.",
        **text,
    )
    flags.DEFINE_bool(
        "allow_worse",
        False,
        "Permit anchors that cover a smaller share of the small, medium or large "
        "objects than the config's own.",
        **text,
    )
    flags.DEFINE_string(
        "split",
        None,
        "Split whose objects are read (default: dataset.train_split).",
        **text,
    )
    path_flags.define_path(
        "output", "anchor_design", "Local folder for the results.", **text
    )
    flags.DEFINE_float(
        "object_aspect_ratio",
        None,
        "Without a dataset: largest aspect ratio of the objects, at least 1.",
        **text,
    )
    flags.DEFINE_float(
        "scale_step",
        2.0,
        "Without a dataset: ratio of successive anchor sizes.",
        **text,
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
