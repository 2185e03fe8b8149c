"""The answer to whether borrowing is for a dataset, and changes of the config."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from borrow_det.data.datasets.split_files import IMAGE_PROBLEMS
from borrow_det.errors import InputError
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools.design_anchors import proposal
from borrow_det.tools.design_anchors.size_ranges import RANGES, WEIGHTS, weighted
from borrow_det.tools.inspect.objects import Image, Objects

# Shares of small objects with a lender: below the first, there is too little to borrow
# from; above the second, borrowing serves most of them.
_FEW, _MOST = 0.1, 0.5
_CONCLUSIONS = {
    "no": "there is too little to borrow from",
    "partly": "these can borrow, the others cannot",
    "yes": "most can borrow",
}
_LARGEST_SIDE = 1024  # Pixels of an input that is suggested.
_SIDE_UNIT = 64
_WELL_REACHED = 0.95  # Weighted share from which anchors are left as they are.
_WORTHWHILE = 0.02  # Gain in that share for which other anchors are suggested.


class Suggestion(NamedTuple):
    """A change of the configuration.

    Attributes:
      reason: one or two sentences.
      fields: new values of fields of the config, by name.
      hint: other command-line flags or advice; "" for none.
    """

    reason: str
    fields: dict[str, Any]
    hint: str = ""

    def lines(self) -> list[str]:
        """Returns the flags for the command line, quoted for a shell."""
        return [
            f"--config.{name}={shlex.quote(str(value))}"
            for name, value in self.fields.items()
        ]


def verdict(
    name: str, split: Mapping[str, Any], report: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """Answers whether borrowing is for a dataset, by its training split.

    Args:
      name: name of the split.
      split: figures of the split, with those of its lenders under `lenders`.
      report: `input_size` and `lender_scale`.

    Returns:
      "yes", "partly", "no", "no small objects" or "no objects", and the sentences of
      the answer. It depends on the lenders in the same image, since a detector borrows
      from other images with references.kind=group only.
    """
    height, width = report["input_size"]
    found = split["lenders"]
    small, objects = found["small"], split["objects"]
    at_input = f"at the input of {width} x {height} pixels"
    if not objects:
        return "no objects", [f"{name} has no objects to learn from."]
    if not small:
        return "no small objects", [
            f"0 of {objects} objects of {name} are small (below 32 x 32 pixels "
            f"{at_input}): borrowing serves small objects only."
        ]
    with_lender = found["in_image"]["objects"]
    share = with_lender / small
    answer = "no" if share < _FEW else "partly" if share < _MOST else "yes"
    have, their = ("has", "its") if with_lender == 1 else ("have", "their")
    are = "is" if small == 1 else "are"
    sentences = [
        f"{with_lender} of {small} small objects {have} a larger object of {their} "
        f"class in {their} image: {_CONCLUSIONS[answer]}.",
        f"{small} of the {objects} objects of {name} {are} small (below 32 x 32 pixels "
        f"{at_input}). Larger means at least {report['lender_scale']:g} times the "
        "side.",
        _group_sentence(found),
    ]
    if with_lender:
        sentences.append(_distance_sentence(found))
    reached = split["by_size"]["small"]["reached_by_anchors"]
    sentences.append(
        f"Anchors of the config reach {reached / small:.1%} of the small objects with "
        f"an IoU of at least {report['positive_iou']:g}; of the others, each gets its "
        "best anchor only."
    )
    return answer, sentences


def _group_sentence(found: Mapping[str, Any]) -> str:
    field = found["group_field"]
    if field is None:
        return (
            "No field of the images names their video or camera, so it is unknown "
            "whether other images of a group have lenders."
        )
    if not found["groups"]:
        return f"Every image has a group of its own by the field {field}."
    own, both = found["in_image"]["objects"], found["in_image_or_group"]["objects"]
    only = both - own
    sentence = (
        f"Other images of the group (field {field}, groups with several images: "
        f"{found['groups']}) have lenders for {found['in_group']['objects']} of the "
        f"small objects, including {only} without one in the same image."
    )
    if only:
        these = "This one" if only == 1 else f"These {only}"
        sentence += f" {these} can borrow with references.kind=group only."
    return sentence


def _distance_sentence(found: Mapping[str, Any]) -> str:
    total = found["in_image"]["objects"]
    away = f"{found['distance'][1]:.0f} pixels away"
    if not found["fields"]:
        median = " (median)" if total > 1 else ""
        return (
            f"The nearest lender is {away}{median}. Every descriptor of this trunk "
            "depends on the entire image."
        )
    first = found["fields"][0]
    beyond = total - first["objects"]
    if total == 1:
        lies = f"{away}, {'outside' if beyond else 'inside'}"
    else:
        lies = f"{away} (median). For {beyond} of the {total} it is outside"
    side = first["field"]
    return (
        f"The nearest lender is {lies} the receptive field of a descriptor of "
        f"{first['level']}, {side} x {side} pixels around the small object."
    )


def suggest(
    answer: str,
    split: Mapping[str, Any],
    objects: Objects,
    images: Sequence[Image],
    problems: Mapping[str, int],
    config: ml_collections.ConfigDict,
) -> list[Suggestion]:
    """Suggests changes of the configuration for a dataset.

    Args:
      answer: result of `verdict`.
      split: figures of the training split.
      objects: objects of the training split.
      images: its images.
      problems: number of problems of the dataset by kind.
      config: the configuration.
    """
    if not split["objects"]:
        return []
    resized = larger_input(split["sizes"][0], images, config)
    input_size = (
        resized.fields.get("input_size", config.input_size) if resized else None
    )
    found = [
        resized,
        _anchors(objects, input_size or config.input_size, config),
        _max_boxes(objects.most_boxes, config),
        borrowing(answer, config),
        *policies(problems, config),
    ]
    return [suggestion for suggestion in found if suggestion is not None]


def fragment(suggestions: Sequence[Suggestion]) -> list[str]:
    """Returns the flags of all suggestions, ready to paste after a command."""
    return [line for suggestion in suggestions for line in suggestion.lines()]


def larger_input(
    smallest: float, images: Sequence[Image], config: ml_collections.ConfigDict
) -> Suggestion | None:
    """Suggests an input in which small objects have the side of a position.

    The input is enlarged until 95 % of the objects are as large as a position of the
    first level, but not beyond the images' resolution, and to at most 1024 pixels.

    Args:
      smallest: side that 95 % of the objects exceed, in pixels of the input.
      images: images of the training split.
      config: the configuration.
    """
    stride = config.anchors.strides[0]
    longest = max(config.input_size)
    resolution = float(np.median([max(image.size) for image in images]))
    if smallest >= stride or resolution <= longest:
        return None
    wanted = min(longest * stride / smallest, resolution, _LARGEST_SIDE)
    side = _SIDE_UNIT * math.ceil(wanted / _SIDE_UNIT)
    why = (
        f"5 % of the objects have sides below {smallest:.1f} pixels at the input, less "
        f"than one position of the first level ({stride} pixels), and the images have "
        f"more pixels (longer side {resolution:.0f}, median)."
    )
    tiles = ""
    if smallest * side / longest < stride and resolution > side:
        tiles = (
            "At prediction, tiles keep all pixels of larger images: borrow-det predict "
            "--tiles=auto"
        )
    if side <= longest:
        return Suggestion(why, {}, tiles) if tiles else None
    factor = side / longest
    fields = {
        "input_size": tuple(_rounded(length * factor) for length in config.input_size)
    }
    canvas = tuple(config.dataset.canvas)
    if any(c < size for c, size in zip(canvas, fields["input_size"], strict=True)):
        fields["dataset.canvas"] = tuple(2 * size for size in fields["input_size"])
    height, width = fields["input_size"]
    why += (
        f" At {width} x {height} pixels, objects are larger, and steps take longer and "
        "need more memory."
    )
    return Suggestion(why, fields, tiles)


def _rounded(length: float) -> int:
    return _SIDE_UNIT * max(1, round(length / _SIDE_UNIT))


def _anchors(
    objects: Objects, input_size: Sequence[int], config: ml_collections.ConfigDict
) -> Suggestion | None:
    """Suggests anchors by Eq. (1) if those of the config miss many objects.

    The suggestion reaches at least as many small, medium and large objects.
    """
    size = (int(input_size[0]), int(input_size[1]))
    goal = proposal.Goal(config.loss.positive_iou, 0.99, WEIGHTS, allow_worse=False)
    measured = proposal.measure(objects.boxes, size)
    own = proposal.covered_shares(measured, config.anchors, size, goal.theta)
    levels = len(config.anchors.strides)
    fitting = levels == len(config.anchors.sizes) == len(config.anchors.aspect_ratios)
    if weighted(own, goal.weights) >= _WELL_REACHED or not fitting:
        return None
    try:
        proposed, _ = proposal.propose(measured, config.anchors, size, goal)
    except InputError:  # No set of anchors reaches this IoU.
        return None
    shares = proposal.covered_shares(measured, proposed, size, goal.theta)
    if weighted(shares, goal.weights) < weighted(own, goal.weights) + _WORTHWHILE:
        return None
    counts = [
        sum(anchor_ops.anchors_per_position(a)) for a in (config.anchors, proposed)
    ]
    return Suggestion(
        f"The anchors of the config reach {_listed(own)} objects at {size[1]} x "
        f"{size[0]} pixels. Those below reach {_listed(shares)}. They have {counts[1]} "
        f"shapes on all levels together, and those of the config have {counts[0]}.",
        {f"anchors.{name}": getattr(proposed, name) for name in proposal.FIELDS},
    )


def _listed(shares: np.ndarray) -> str:
    """Returns the shares [3] of size ranges in words, without ranges that are nan."""
    texts = [
        f"{share:.1%} of the {name}"
        for name, share in zip(RANGES, shares, strict=True)
        if not math.isnan(share)
    ]
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def _max_boxes(largest: int, config: ml_collections.ConfigDict) -> Suggestion | None:
    limit = config.dataset.max_boxes
    if not limit or largest <= limit:
        return None
    return Suggestion(
        f"An image has {largest} boxes, more than dataset.max_boxes={limit}. With 0, "
        "there is room for all.",
        {"dataset.max_boxes": 0},
    )


def borrowing(answer: str, config: ml_collections.ConfigDict) -> Suggestion | None:
    """Suggests to borrow or not if the config does the other.

    Args:
      answer: result of `verdict`.
      config: the configuration.
    """
    if answer in ("no", "no small objects") and config.borrow.enabled:
        few = "small objects" if answer == "no small objects" else "lenders"
        return Suggestion(
            f"With so few {few}, a detector that does not borrow is simpler and "
            "faster; compare the two if in doubt.",
            {"borrow.enabled": False, "loss.matching": 0.0},
        )
    if answer == "yes" and not config.borrow.enabled:
        return Suggestion(
            "This config does not borrow, and at least half of the small objects have "
            "a lender.",
            {"borrow.enabled": True},
        )
    return None


def policies(
    problems: Mapping[str, int], config: ml_collections.ConfigDict
) -> list[Suggestion]:
    """Suggests policies with which a run starts in spite of problems.

    Args:
      problems: number of problems of the dataset by kind.
      config: the configuration.
    """
    boxes = sum(n for kind, n in problems.items() if kind.startswith("box "))
    images = sum(problems.get(kind, 0) for kind in IMAGE_PROBLEMS)
    found = []
    if boxes and config.dataset.bad_boxes == "error":
        found.append(
            Suggestion(
                f"A run stops at bad boxes ({boxes} here). This clips them to their "
                "images, and drops those without area there.",
                {"dataset.bad_boxes": "clip"},
            )
        )
    if images and config.dataset.bad_images == "error":
        found.append(
            Suggestion(
                f"A run stops at bad images ({images} here). This leaves them out.",
                {"dataset.bad_images": "skip"},
            )
        )
    return found
