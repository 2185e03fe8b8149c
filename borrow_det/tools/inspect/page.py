"""Page of the inspect tool: one HTML file with the report and its pictures.

The page contains its images as data URIs and its style; its policy forbids scripts and
everything else, since names of files and classes are untrusted text.
"""

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from borrow_det.reporting import html_page
from borrow_det.tools.common.wording import counted
from borrow_det.tools.inspect import figures, text
from borrow_det.tools.inspect.pictures import Pictures
from borrow_det.tools.inspect.suspicious import KINDS, Label
from borrow_det.visualization import annotate

_PARTS = pathlib.Path(__file__).parent
_CROP_SIDE = 200
_SHOWN_PROBLEMS = 20  # Of each kind; inspection.json has all.
_COLORED = ("yes", "partly", "no")  # Answers with a color; others have that of "no".


def render(report: Mapping[str, Any], pictures: Pictures) -> str:
    """Returns the page.

    Args:
      report: content of inspection.json.
      pictures: its pictures.
    """
    name = report["path"] or report["dataset"]
    splits = report["splits"]
    sections = {
        "Is this for you": _answer(report["answer"]),
        "Suggestions": _suggestions(report["answer"]),
        "Problems": _problems(report["problems"]),
        "Splits": _table("split", *text.overview_cells(splits)),
        "Classes": _classes(splits),
        "Sizes and aspect ratios": _sizes(splits),
        "Lenders": _lenders(report),
        "Anchors": _anchors(report),
        "Duplicates": _duplicates(report["duplicates"], pictures.duplicates),
        "Labelled images": _labelled(report, pictures.labelled),
        "After augmentation": _augmented(report, pictures.augmented),
        "Labels that look wrong": _labels(report["labels"]["counts"], pictures.labels),
    }
    height, width = report["input_size"]
    images, objects = (
        sum(split[name] for split in splits.values()) for name in ("images", "objects")
    )
    classes = len(next(iter(splits.values()))["classes"])
    about = (
        f"{', '.join(splits)}: {counted(images, 'image')}, "
        f"{counted(objects, 'object')}, {counted(classes, 'class')}. "
        f"Sizes are in pixels of the network's input, {width} x {height}, to which "
        "images are resized."
    )
    notices = "<br>".join(map(html.escape, report["notices"]))
    fields = {
        "ABOUT": html.escape(about) + (f"<br>{notices}" if notices else ""),
        "LINKS": html_page.links(sections),
        "SECTIONS": html_page.sections(sections),
    }
    return html_page.page(_PARTS, f"Inspection of {name}", fields)


def _paragraph(sentence: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(sentence)}</p>\n"


def _table(
    corner: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]
) -> str:
    escaped = [[html.escape(cell) for cell in (name, *cells)] for name, cells in rows]
    return html_page.table([corner, *columns], escaped)


def _answer(answer: Mapping[str, Any]) -> str:
    sentences = "".join(map(_paragraph, answer["sentences"]))
    kind = answer["answer"] if answer["answer"] in _COLORED else "no"
    return f'<div class="answer {kind}">\n{sentences}</div>\n'


def _suggestions(answer: Mapping[str, Any]) -> str:
    if not answer["suggestions"]:
        return _paragraph("None.")
    items = "".join(
        f"<li>{html.escape(s['reason'])} {html.escape(s['hint'])}</li>\n"
        for s in answer["suggestions"]
    )
    body = f"<ul>\n{items}</ul>\n"
    if answer["fragment"]:
        flags = html.escape(" \\\n".join(answer["fragment"]))
        body += _paragraph("Flags for the command line of a run:")
        body += f"<pre><code>{flags}</code></pre>\n"
    return body


def _problems(problems: Mapping[str, Any]) -> str:
    if not problems["counts"]:
        return _paragraph("None: every annotation and image can be used as it is.")
    parts = []
    for kind, count in problems["counts"].items():
        found = [p for p in problems["problems"] if p["kind"] == kind]
        rows = [[p["file"], p["record"], p["reason"]] for p in found[:_SHOWN_PROBLEMS]]
        escaped = [[html.escape(cell) for cell in row] for row in rows]
        more = count - len(rows)
        rest = f"and {more} more in inspection.json" if more > 0 else ""
        parts.append(
            f"<details open><summary>{html.escape(kind)}: {count}</summary>\n"
            f"{html_page.table(['file', 'record', 'what is wrong'], escaped)}"
            f"{_paragraph(rest) if rest else ''}</details>\n"
        )
    return "".join(parts)


def _classes(splits: Mapping[str, Any]) -> str:
    first = next(iter(splits.values()))["classes"]
    columns = ["class"]
    for name in splits:
        columns += [f"{name}: objects", "", "share", "images"]
    rows = []
    for label, class_name in enumerate(first):
        row = [f"{_swatch(label)}{html.escape(class_name)}"]
        for split in splits.values():
            found = split["classes"][class_name]
            row += [
                str(found["objects"]),
                _bar(found["share"] or 0),
                text.percent(found["share"]),
                str(found["images"]),
            ]
        rows.append(row)
    return html_page.table(columns, rows)


def _swatch(label: int) -> str:
    color = "#{:02x}{:02x}{:02x}".format(*annotate.class_color(label))
    return (
        '<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">'
        f'<rect width="1" height="1" fill="{color}"/></svg>'
    )


def _bar(share: float) -> str:
    return (
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" '
        f'role="img" aria-label="{share:.1%}">'
        '<rect class="back" width="100" height="6"/>'
        f'<rect class="value" width="{100 * share:.2f}" height="6"/></svg>'
    )


def _sizes(splits: Mapping[str, Any]) -> str:
    parts = [_table("split", *text.size_cells(splits))]
    for name, split in splits.items():
        found = split["histograms"]
        charts = (
            _chart(
                "objects by side at the input, pixels",
                figures.SIZE_EDGES,
                found["sizes"],
            ),
            _chart(
                "objects by width / height at the input",
                figures.RATIO_EDGES,
                found["aspect_ratios"],
            ),
            _chart(
                "images by objects", figures.COUNT_EDGES, found["objects_per_image"]
            ),
        )
        parts.append(f"<h3>{html.escape(name)}</h3>\n")
        parts.append(f'<div class="charts">{"".join(charts)}</div>\n')
    return "".join(parts)


def _chart(title: str, edges: Sequence[float], counts: Sequence[int]) -> str:
    """Draws the counts between edges as bars; the last one has no upper end."""
    step, floor, high, width = 48, 118, 90, 384
    most = max(max(counts), 1)
    parts = []
    for i, (edge, count) in enumerate(zip(edges, counts, strict=True)):
        tall = high * count / most
        middle = step * (i + 0.5)
        parts.append(
            f'<rect x="{step * i + 4}" y="{floor - tall:.1f}" width="{step - 8}" '
            f'height="{tall:.1f}"/>'
            f'<text x="{middle}" y="{floor - tall - 4:.1f}">{count}</text>'
            f'<text class="soft" x="{middle}" y="{floor + 14}">'
            f"{html.escape(_range(edges, i, edge))}</text>"
        )
    label = html.escape(title)
    return (
        f'<svg class="chart" viewBox="0 0 {width} 152" role="img" aria-label="{label}">'
        f'{"".join(parts)}<line x1="0" y1="{floor}" x2="{width}" y2="{floor}"/>'
        f'<text class="soft" x="{width / 2}" y="148">{label}</text></svg>'
    )


def _range(edges: Sequence[float], i: int, edge: float) -> str:
    if i + 1 == len(edges):
        return f"{edge:g}+"
    if edges is not figures.COUNT_EDGES:
        return f"{edge:.3g}-{edges[i + 1]:.3g}"
    last = edges[i + 1] - 1
    return f"{edge:g}" if last == edge else f"{edge:g}-{last:g}"


def _lenders(report: Mapping[str, Any]) -> str:
    scale = report["lender_scale"]
    return _paragraph(
        f"A lender of a small object has its class and at least {scale:g} times its "
        "side. The distance is that of the centers, the larger one of both axes. A "
        "lender is in a level's receptive field if a descriptor at the center of the "
        "small object sees the center of the lender. It gets features of lenders "
        "that are farther away by borrowing only.",
        "soft",
    ) + _table("split", *text.lender_cells(report["splits"]))


def _anchors(report: Mapping[str, Any]) -> str:
    return _paragraph(
        "Objects that an anchor of the config reaches with an IoU of at least "
        f"{report['positive_iou']:g}.",
        "soft",
    ) + _table("split", *text.anchor_cells(report["splits"]))


def _duplicates(
    found: Mapping[str, Any], shown: Sequence[Sequence[tuple[str, np.ndarray]]]
) -> str:
    parts = []
    for sentence, kind in zip(text.duplicates(found), ("exact", "near"), strict=True):
        leak = "leak" if found[kind]["leaks"] else ""
        parts.append(_paragraph(sentence, leak))
    for group in shown:
        images = "".join(_figure(image, caption) for caption, image in group)
        parts.append(f'<div class="group">{images}</div>\n')
    return "".join(parts)


def _figure(image: np.ndarray, caption: str, side: int = _CROP_SIDE) -> str:
    name = html.escape(caption)
    return (
        f'<figure><img alt="{name}" src="{html_page.embedded(image, side)}">'
        f"<figcaption>{name}</figcaption></figure>\n"
    )


def _labelled(report: Mapping[str, Any], sheet: bytes | None) -> str:
    sample = report["sample"]
    return _paragraph(
        f"{counted(len(sample['images']), 'image')} of {sample['split']}, chosen at "
        f"random (seed {sample['seed']}).",
        "soft",
    ) + _sheet(sheet, "Random images with their labels")


def _augmented(report: Mapping[str, Any], sheet: bytes | None) -> str:
    sentence = (
        "The same images as the network sees them in training, at its input size."
    )
    if not report["sample"]["augmented"]:
        sentence += " Augmentation is off in this config: images are only resized."
    return _paragraph(sentence, "soft") + _sheet(sheet, "Images after augmentation")


def _sheet(sheet: bytes | None, alt: str) -> str:
    if sheet is None:
        return _paragraph("No image to show.")
    return (
        f'<img class="sheet" alt="{alt}" src="{html_page.data_uri(sheet, "jpeg")}">\n'
    )


def _labels(
    counts: Mapping[str, int],
    shown: Mapping[str, Sequence[tuple[Label, np.ndarray]]],
) -> str:
    parts = [
        _paragraph(
            "The largest, smallest and most elongated boxes are shown for every "
            "dataset and need not be wrong. A caption has the place of the object "
            "among those of its image, from 0, and its box: x, y, width and height "
            "in pixels of the image.",
            "soft",
        )
    ]
    for kind, labels in shown.items():
        count = f": {counts[kind]}" if kind in counts else ""
        parts.append(f"<h3>{KINDS[kind]}{count}</h3>\n")
        if not labels:
            parts.append(_paragraph("None."))
            continue
        crops = "".join(_figure(crop, _caption(label)) for label, crop in labels)
        parts.append(f'<div class="crops">{crops}</div>\n')
    return "".join(parts)


def _caption(label: Label) -> str:
    box = ", ".join(f"{value:g}" for value in label.bbox)
    return (
        f"{label.class_name}, {label.note}. {label.split}: {label.file_name}, object "
        f"{label.number} at [{box}]"
    )
