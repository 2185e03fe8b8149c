"""The report as text for the console."""

import textwrap
from collections.abc import Mapping
from typing import Any

from borrow_det.evaluation.average_precision import AREA_RANGES
from borrow_det.tools.common.wording import counted
from borrow_det.tools.inspect.figures import QUANTILES
from borrow_det.tools.inspect.suspicious import KINDS
from borrow_det.visualization.tables import markdown_table

_WIDTH = 88
_SHOWN = 3  # Problems of each kind, and groups of duplicates; the files have all.


def text(report: Mapping[str, Any]) -> str:
    """Returns the report as Markdown for the console."""
    height, width = report["input_size"]
    splits = report["splits"]
    paragraphs = [
        f"{report['path'] or report['dataset']}, at the network's input of "
        f"{width} x {height} pixels",
        "\n".join(report["notices"]),
        *_problems(report["problems"]),
        overview(splits),
        class_table(splits),
        size_table(splits),
        "Is borrowing for this dataset? A lender of a small object has its class and\n"
        f"at least {report['lender_scale']:g} times its side. In the same image:",
        lender_table(splits),
        "\n".join(map(_filled, report["answer"]["sentences"])),
        "Objects that an anchor of the config reaches with an IoU of at least "
        f"{report['positive_iou']:g}:",
        anchor_table(splits),
        "\n".join(_filled(line) for line in duplicates(report["duplicates"])),
        *_labels(report["labels"]["counts"]),
        *_suggestions(report["answer"]),
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def overview(splits: Mapping[str, Any]) -> str:
    """Returns the table of images and objects."""
    return markdown_table("split", *overview_cells(splits))


def overview_cells(splits: Mapping[str, Any]) -> tuple[list[str], list]:
    """Returns columns and rows of the table of images and objects."""
    columns = ["images", "without objects", "objects", "per image (mean, largest)"]
    columns += ["ignored boxes", "without area"]
    rows = []
    for name, split in splits.items():
        counts = split["objects_per_image"]
        per_image = f"{number(counts['mean'])}, {number(counts['largest'])}"
        cells = [split["images"], split["images_without_objects"], split["objects"]]
        cells += [per_image, split["ignored"], split["without_area"]]
        rows.append((name, [str(cell) for cell in cells]))
    return columns, rows


def class_table(splits: Mapping[str, Any]) -> str:
    """Returns the table of classes."""
    columns = [text for split in splits for text in (f"{split}: objects", "share")]
    rows = []
    for name in next(iter(splits.values()))["classes"]:
        cells = []
        for split in splits.values():
            found = split["classes"][name]
            cells += [str(found["objects"]), percent(found["share"])]
        rows.append((name, cells))
    return markdown_table("class", columns, rows)


def size_table(splits: Mapping[str, Any]) -> str:
    """Returns the table of sizes and aspect ratios."""
    return markdown_table("split", *size_cells(splits))


def size_cells(splits: Mapping[str, Any]) -> tuple[list[str], list]:
    """Returns columns and rows of the table of sizes and aspect ratios."""
    percents = ", ".join(f"{quantile:.0%}" for quantile in QUANTILES)
    columns = [
        *AREA_RANGES,
        f"sides at the input ({percents})",
        f"width / height there ({percents})",
    ]
    rows = []
    for name, split in splits.items():
        cells = [str(split["by_size"][size]["objects"]) for size in AREA_RANGES]
        for field in ("sizes", "aspect_ratios"):
            cells.append(", ".join(number(value) for value in split[field]))
        rows.append((name, cells))
    return columns, rows


def lender_table(splits: Mapping[str, Any]) -> str:
    """Returns the table of small objects with a lender in their image."""
    rows = []
    for name, split in splits.items():
        found = split["small_with_lender"]
        counts = split["by_size"]["small"]["objects"], found["objects"]
        rows.append((name, [*map(str, counts), percent(found["share"])]))
    return markdown_table("split", ["small objects", "with a lender", "share"], rows)


def lender_cells(splits: Mapping[str, Any]) -> tuple[list[str], list]:
    """Returns columns and rows of the page's table of lenders."""
    columns = ["small objects", "lender in image", "lender in group", "in either"]
    columns += ["pixels to the nearest (5%, 50%, 95%)"]
    fields = next(iter(splits.values()))["lenders"]["fields"]
    columns += [f"in {f['level']}'s field of {f['field']}" for f in fields]
    rows = []
    for name, split in splits.items():
        found = split["lenders"]
        cells = [str(found["small"])]
        for key in ("in_image", "in_group", "in_image_or_group"):
            one = found[key]
            cells.append("-" if one is None else _counted(one))
        cells.append(", ".join(number(value) for value in found["distance"]))
        cells += [percent(field["share"]) for field in found["fields"]]
        rows.append((name, cells))
    return columns, rows


def anchor_table(splits: Mapping[str, Any]) -> str:
    """Returns the table of objects that anchors reach."""
    return markdown_table("split", *anchor_cells(splits))


def anchor_cells(splits: Mapping[str, Any]) -> tuple[list[str], list]:
    """Returns columns and rows of the table of objects that anchors reach."""
    columns = [
        "objects",
        "reached",
        "share",
        *(f"{size}: share" for size in AREA_RANGES),
    ]
    rows = []
    for name, split in splits.items():
        found = split["reached_by_anchors"]
        cells = [str(split["objects"]), str(found["objects"]), percent(found["share"])]
        for part in split["by_size"].values():
            reached, count = part["reached_by_anchors"], part["objects"]
            cells.append(percent(reached / count if count else None))
        rows.append((name, cells))
    return columns, rows


def duplicates(found: Mapping[str, Any]) -> list[str]:
    """Returns sentences about images that occur twice."""
    lines = []
    for kind, noun in (("exact", "duplicates"), ("near", "near-duplicates")):
        groups, images = found[kind]["groups"], found[kind]["images"]
        if not groups:
            lines.append(f"No {noun} among the images.")
            continue
        across, leaks = found[kind]["across_splits"], found[kind]["leaks"]
        many = f"{images} images in {counted(groups, 'group')} of {noun}"
        line = f"{many}, {across or 'none'} across splits"
        if leaks:
            some = (
                ""
                if leaks == across
                else f", {leaks} with images of the training split"
            )
            line += (
                f"{some}: a leak, since a detector is evaluated on images that it was "
                "trained on"
            )
        lines.append(f"{line}.")
    return lines


def percent(share: float | None) -> str:
    """Returns a share as a percentage, "-" for None."""
    return "-" if share is None else f"{share:.1%}"


def number(value: float | None) -> str:
    """Returns a number with three digits, "-" for None."""
    return "-" if value is None else f"{value:.3g}"


def _counted(part: Mapping[str, Any]) -> str:
    return f"{part['objects']} ({percent(part['share'])})"


def _problems(problems: Mapping[str, Any]) -> list[str]:
    total = sum(problems["counts"].values())
    if not total:
        return []
    lines = [f"{counted(total, 'problem')} that a run would find:"]
    for kind, count in problems["counts"].items():
        lines.append(f"{kind} ({count})")
        found = [p for p in problems["problems"] if p["kind"] == kind]
        for problem in found[:_SHOWN]:
            place = ": ".join(filter(None, (problem["file"], problem["record"])))
            lines.append(f"  {place}: {problem['reason']}")
        if count > _SHOWN:
            lines.append(f"  and {count - _SHOWN} more")
    return ["\n".join(lines)]


def _labels(counts: Mapping[str, int]) -> list[str]:
    lines = [f"{KINDS[kind]}: {count}" for kind, count in counts.items() if count]
    return ["Labels that look wrong:\n" + "\n".join(lines)] if lines else []


def _suggestions(answer: Mapping[str, Any]) -> list[str]:
    if not answer["suggestions"]:
        return []
    lines = ["Suggestions:"]
    for suggestion in answer["suggestions"]:
        lines.append(_filled(suggestion["reason"], "- "))
        if suggestion["hint"]:
            lines.append(_filled(suggestion["hint"], "  "))
    paragraphs = ["\n".join(lines)]
    if answer["fragment"]:
        flags = " \\\n".join(f"    {line}" for line in answer["fragment"])
        paragraphs.append(f"For the command line:\n\n{flags}")
    return paragraphs


def _filled(sentence: str, lead: str = "") -> str:
    return textwrap.fill(
        sentence,
        _WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_on_hyphens=False,
        break_long_words=False,
    )
