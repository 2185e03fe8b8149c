"""Text report of an anchor design, with a config fragment."""

import shlex
from collections.abc import Iterator
from typing import Any

from borrow_det.tools.design_anchors.proposal import WORTHLESS
from borrow_det.tools.design_anchors.size_ranges import RANGES


def text(design: dict[str, Any]) -> str:
    """Formats the contents of design.json, with a fragment for a config."""
    height, width = design["input_size"]
    low, high = design["size_range"]
    thin, wide = design["aspect_ratio_range"]
    fragment = design["fragment"]
    name = design["path"] or design["dataset"]
    lines = [
        *design["notices"],
        f"{name}, split {design['split']}: {design['objects']} objects at {width} x "
        f"{height} pixels ({_left_out(design)} left out)",
        f"{design['share']:.4g} of them have sizes of {low:.1f} to {high:.1f} pixels "
        f"(square root of the area) and aspect ratios (width / height) of {thin:.3g} "
        f"to {wide:.3g}",
        _equation(design["equation_1"]),
        "",
        "Sizes are in pixels of the input, including COCO's small, medium and large.",
        "",
        *_table(design),
        "",
        *_choice(design),
        "",
        *_sentences(design),
        *_shortfall(design),
        "",
        "Fragment for a config file:",
        "",
        *(f"    config.anchors.{k} = {v!r}" for k, v in fragment.items()),
        "",
        "or for the command line:",
        "",
        " \\\n".join(
            f"    --config.anchors.{k}={shlex.quote(str(v))}"
            for k, v in fragment.items()
        ),
    ]
    return "\n".join(lines)


def _left_out(design: dict[str, Any]) -> str:
    text = f"{design['left_out']} crowds or difficult objects"
    if design["without_area"]:
        text += f" and {design['without_area']} boxes without an area"
    return text


def _equation(figures: dict[str, Any]) -> str:
    ratios = figures["aspect_ratios"]
    listed = ", ".join(f"{ratio:.3g}" for ratio in ratios)
    needed = f"these objects need the aspect ratios {listed}"
    if len(ratios) == 1:
        needed = f"these objects need a single aspect ratio, {listed}"
    return (
        f"Eq. (1): with sizes a factor of {figures['scale_step']:.3g} apart (worst "
        f"mismatch {figures['worst_mismatch']:.3g}), an anchor covers aspect ratios up "
        f"to a factor of {figures['max_quotient']:.3g} from its own; {needed}. The "
        "proposal is selected by the measured share of objects, not by this equation"
    )


def _table(design: dict[str, Any]) -> list[str]:
    own, proposal = design["sets"]["config"], design["sets"]["proposal"]
    counted = ", ".join(f"{weight:g}" for weight in design["weights"].values())
    rows = [
        ("all", design["objects"], own["share_measured"], proposal["share_measured"]),
        *(
            (b["size"], b["objects"], b["config"], b["proposal"])
            for b in design["bins"]
        ),
    ]
    weighted = own["share_weighted"], proposal["share_weighted"]
    rows.insert(1 + len(RANGES), (f"weighted ({counted})", "", *weighted))
    head = f"share with IoU >= {design['theta']:g}"
    lines = [f"| {head:24} | objects | config | proposal |"]
    lines.append(f"| {'-' * 24} | ------: | -----: | -------: |")
    for name, count, *shares in rows:
        a, b = ("-" if share is None else f"{share:.3f}" for share in shares)
        lines.append(f"| {name:24} | {count:7} | {a:>6} | {b:>8} |")
    for label, key in (
        ("share at the best place", "share_centered"),
        ("worst IoU, closed form", "worst_case_iou"),
    ):
        a, b = own[key], proposal[key]
        lines.append(f"| {label:24} | {'':7} | {a:6.3f} | {b:8.3f} |")
    counts = [str(sum(s["anchors_per_position"])) for s in (own, proposal)]
    lines.append(
        f"| {'anchors per position':24} | {'':7} | {counts[0]:>6} | {counts[1]:>8} |"
    )
    return lines


def _choice(design: dict[str, Any]) -> Iterator[str]:
    """Yields the sentences about the weights, and about sizes that get worse."""
    weights = [f"{weight:g}" for weight in design["weights"].values()]
    yield (
        "The proposal is selected by the weighted share: the mean of the shares of "
        f"small, medium and large objects with the weights {', '.join(weights)} "
        "(--weights); sizes without objects do not count"
    )
    lower = [
        f"{b['size']} from {b['config']:.3f} to {b['proposal']:.3f}"
        for b in design["bins"][: len(RANGES)]
        if b["objects"] and b["proposal"] < b["config"]
    ]
    if design["config_kept"]:
        condition = "" if design["allow_worse"] else " that is not worse for any size"
        yield (
            f"No better set of anchors was found{condition}: the proposal is the "
            "config's own anchors"
        )
    elif lower:
        yield f"--allow_worse: the proposal lowers the share of {', '.join(lower)}"
    else:
        yield (
            "The proposal covers as many small, medium and large objects as the "
            "config's own anchors, or more"
        )


def _sentences(design: dict[str, Any]) -> Iterator[str]:
    for name, figures in design["sets"].items():
        sizes = figures["guaranteed_sizes"]
        where = f"{sizes[0]:.1f} to {sizes[1]:.1f} pixels" if sizes else "no size"
        yield (
            f"{name}: {figures['anchors']} anchors; by the closed form, objects of all "
            f"wanted aspect ratios reach an IoU of {design['theta']:g} at {where}"
        )
        for key, why in (
            ("missed_shape", "that fit the shape of no anchor"),
            ("missed_place", "that fit a shape but are too far from its anchors"),
        ):
            missed = figures[key]
            if missed["objects"]:
                low, middle, high = missed["sizes"]
                thin, _, wide = missed["aspect_ratios"]
                yield (
                    f"  misses {missed['objects']} objects {why}: 90 % of them have "
                    f"sizes of {low:.1f} to {high:.1f} (median {middle:.1f}) and "
                    f"aspect ratios of {thin:.3g} to {wide:.3g}"
                )


def _shortfall(design: dict[str, Any]) -> Iterator[str]:
    reached = design["sets"]["proposal"]["share_weighted"]
    if reached < design["share"]:
        yield (
            f"no set was found that covers a weighted share of {design['share']:.4g} "
            f"on these strides; the proposal covers {reached:.3f} and is the smallest "
            f"set within {WORTHLESS:g} of the best; with a larger input_size, small "
            "objects are nearer to anchors"
        )
