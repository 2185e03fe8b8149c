"""What tools.design_anchors prints: its figures, and a config fragment."""

import shlex

from borrow_det.tools.design_anchors import proposal as proposal_lib


def text(design: dict) -> str:
    """The figures of design.json for reading, and a config fragment."""
    height, width = design["input_size"]
    low, high = design["size_range"]
    thin, wide = design["aspect_ratio_range"]
    fragment = design["fragment"]
    name = design["path"] or design["dataset"]
    lines = [
        f"{name}, split {design['split']}: {design['objects']} objects at {width} x "
        f"{height} pixels ({_left_out(design)} left out)",
        f"{design['share']:.4g} of them have sizes of {low:.1f} to {high:.1f} pixels "
        f"(square root of the area) and aspect ratios (width / height) of {thin:.3g} "
        f"to {wide:.3g}",
        _equation(design["equation_1"]),
        "",
        "Sizes below are in pixels of the input; COCO's small, medium and large, too.",
        "",
        *_table(design),
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


def _left_out(design):
    text = f"{design['left_out']} crowds or difficult ones"
    if design["without_area"]:
        text += f" and {design['without_area']} whose box has no area"
    return text


def _equation(figures):
    ratios = figures["aspect_ratios"]
    listed = ", ".join(f"{ratio:.3g}" for ratio in ratios)
    needed = f"these need {listed}"
    if len(ratios) == 1:
        needed = f"a single one, {listed}, serves these"
    return (
        f"Eq. (1): with sizes a factor {figures['scale_step']:.3g} apart (mismatch "
        f"{figures['worst_mismatch']:.3g} at worst) an anchor serves aspect ratios up "
        f"to a factor {figures['max_quotient']:.3g} from its own, so {needed}; objects "
        "measured where anchors stand, not this, decide how many are proposed"
    )


def _table(design):
    own, proposal = design["sets"]["config"], design["sets"]["proposal"]
    rows = [("all", design["objects"], own["share_measured"])]
    rows[0] += (proposal["share_measured"],)
    rows += [
        (b["size"], b["objects"], b["config"], b["proposal"]) for b in design["bins"]
    ]
    head = f"share with IoU >= {design['theta']:g}"
    lines = [f"| {head:24} | objects | config | proposal |"]
    lines.append(f"| {'-' * 24} | ------: | -----: | -------: |")
    for name, count, *shares in rows:
        a, b = ("-" if share is None else f"{share:.3f}" for share in shares)
        lines.append(f"| {name:24} | {count:7} | {a:>6} | {b:>8} |")
    for label, key in (
        ("objects it fits, centred", "share_centered"),
        ("closed form, worst IoU", "worst_case_iou"),
    ):
        a, b = own[key], proposal[key]
        lines.append(f"| {label:24} | {'':7} | {a:6.3f} | {b:8.3f} |")
    counts = [str(sum(s["anchors_per_position"])) for s in (own, proposal)]
    lines.append(
        f"| {'anchors a position, sum':24} | {'':7} | {counts[0]:>6} | {counts[1]:>8} |"
    )
    return lines


def _sentences(design):
    for name, figures in design["sets"].items():
        sizes = figures["guaranteed_sizes"]
        where = f"{sizes[0]:.1f} to {sizes[1]:.1f} pixels" if sizes else "no size"
        yield (
            f"{name}: {figures['anchors']} anchors; by the closed form, objects of all "
            f"wanted aspect ratios reach {design['theta']:g} at {where}"
        )
        for key, why in (
            ("missed_shape", "that no anchor's shape fits"),
            ("missed_place", "that fit a shape but lie too far from its anchors"),
        ):
            missed = figures[key]
            if missed["objects"]:
                low, middle, high = missed["sizes"]
                thin, _, wide = missed["aspect_ratios"]
                yield (
                    f"  misses {missed['objects']} {why}: 90 % of these have sizes of "
                    f"{low:.1f} to {high:.1f} (median {middle:.1f}) and aspect ratios "
                    f"of {thin:.3g} to {wide:.3g}"
                )


def _shortfall(design):
    reached = design["sets"]["proposal"]["share_measured"]
    if reached < design["share"]:
        yield (
            f"no set was found that covers {design['share']:.4g} on these strides; "
            f"this one covers {reached:.3f}, and is the smallest within "
            f"{proposal_lib.WORTHLESS:g} of the best; a larger input_size brings "
            "small objects nearer to anchors"
        )
