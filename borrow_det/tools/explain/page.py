"""Page of the explain tool: one HTML file to browse many images.

The file contains its images as data URIs, its style and its script. Its policy
(Content-Security-Policy) forbids loading or running anything else, since file names and
class names are untrusted text. Without scripts it is a plain list.
"""

import base64
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from borrow_det.inference.detector import Level
from borrow_det.reporting import html_page
from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import Borrowed, LevelDetections
from borrow_det.tools.explain.references import Reference
from borrow_det.visualization import annotate

_PARTS = pathlib.Path(__file__).parent
_LARGEST_SIDE = 900  # Pixels of an embedded image.
_CROP_SIDE = 104  # Pixels of a detection's thumbnail, twice its size on the page.


class Page:
    """Writes the page image by image."""

    def __init__(
        self,
        file: TextIO,
        levels: Sequence[Level],
        input_size: tuple[int, int],
        colors: Mapping[int | str, str],
        settings: text.Settings,
        results: str,
    ):
        """Writes the beginning of the page.

        Args:
          file: file to write to; it stays open.
          levels: levels of the run.
          input_size: (height, width) of the network's input in pixels.
          colors: CSS color of each class, by category id.
          settings: settings of the explanations.
          results: link to the results of the run, as HTML; "" for none.
        """
        self._file, self._levels, self._colors = file, levels, colors
        self._settings = settings
        self._embedded: set[int] = set()  # Keys of references that the page has.
        # Height and width of a position as fractions of the image, by level from 0.
        self._cells = [[level.stride / side for side in input_size] for level in levels]
        head, self._tail = _template(levels, settings, results).split("<!-- images -->")
        self._file.write(head)

    def add(
        self,
        record: dict[str, Any],
        image: np.ndarray,
        found: LevelDetections,
        borrowed: Mapping[int, Borrowed],
        class_names: Sequence[str],
        references: Sequence[Reference] = (),
    ) -> None:
        """Adds an image.

        Args:
          record: entry of the image in explanations.json.
          image: uint8 RGB [H, W, 3].
          found: detections of the image.
          borrowed: attention of detections, by index.
          class_names: name of each label.
          references: references of the image.
        """
        detections = []
        for detection in self._colored(record["detections"]):
            k = detection["index"]
            if k in borrowed:
                detection["borrowed"] = (
                    detection["borrowed"]
                    | {"heat": self._heat(borrowed[k].heat, borrowed[k].scale)}
                    | {"texts": _texts(k, borrowed[k], found, class_names, references)}
                    | self._references_of(detection["borrowed"], borrowed[k])
                )
            detections.append(detection)
        name = html.escape(record["file_name"])
        content = record | {"detections": detections}
        if references:
            content["references"] = [
                of_record
                | {"key": reference.key, "view": reference.view}
                | {"detections": self._colored(of_record["detections"])}
                for of_record, reference in zip(
                    record["references"], references, strict=True
                )
            ]
        data = html_page.script_json(content)
        many = f"{record['file_name']}: {len(detections)} detections"
        self._file.write(
            f"<section>\n<h2>{name}</h2>\n"
            f'<img loading="lazy" decoding="async" alt="{html.escape(many)}" '
            f'width="{record["width"]}" height="{record["height"]}" '
            f'src="{html_page.embedded(image, _LARGEST_SIDE)}">\n'
            f"{self._table(detections, image)}"
            f"{self._pictures(references)}"
            f'<script type="application/json">{data}</script>\n</section>\n'
        )

    def close(self) -> None:
        """Writes the end of the page."""
        self._file.write(self._tail)

    def _colored(self, detections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Adds the colors of their classes to detections."""
        return [d | {"color": self._colors[d["category_id"]]} for d in detections]

    def _heat(self, heat: Mapping[int, np.ndarray], scale: float) -> dict[str, Any]:
        """Packs the attention by level into one byte per position."""
        return {
            str(m + 1): {
                "shape": list(values.shape),
                "cell": self._cells[m],
                "values": _packed(values, scale),
            }
            for m, values in heat.items()
        }

    def _references_of(
        self, record: dict[str, Any], borrowed: Borrowed
    ) -> dict[str, Any]:
        """Returns the attention to references; {} without references."""
        if not borrowed.references:
            return {}
        parts = zip(record["references"], borrowed.references, strict=True)
        return {
            "references": [
                of_record
                | {"heat": self._heat(part.heat, borrowed.scale)}
                | {"texts": text.shares(part.shares)}
                for of_record, part in parts
            ]
        }

    def _pictures(self, references: Sequence[Reference]) -> str:
        """Returns the references that the page does not have yet."""
        new = [r for r in references if r.key not in self._embedded]
        self._embedded.update(r.key for r in new)
        return "".join(
            f'<figure class="reference"><img id="reference-{r.key}" loading="lazy" '
            f'alt="reference {html.escape(r.name)}" '
            f'src="{html_page.embedded(r.image, _LARGEST_SIDE)}">'
            f"<figcaption>reference {html.escape(r.name)}</figcaption></figure>\n"
            for r in new
        )

    def _table(self, detections: list[dict[str, Any]], image: np.ndarray) -> str:
        """Returns the table that is visible without the script."""
        chosen = [d for d in detections if "borrowed" in d]
        if not chosen:
            return (
                f"<p>{len(detections)} detections with a score of at least "
                f"{self._settings.score:g}; none to explain (explained: "
                f"{html.escape(self._settings.explained)}).</p>\n"
            )
        heads = (
            *("", "class", "score", "attention by level", "attention precision"),
            "strongest source position",
        )
        rows = "".join(_row(detection, image) for detection in chosen)
        cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
        return f'<div class="scroll"><table><tr>{cells}</tr>\n{rows}</table></div>\n'


def _texts(
    k: int,
    borrowed: Borrowed,
    found: LevelDetections,
    class_names: Sequence[str],
    references: Sequence[Reference],
) -> dict[str, Any]:
    """Returns the texts of a detection in the viewer."""
    others = [reference.found for reference in references]
    texts = {
        "attention_precision": text.attention_precision(borrowed),
        "shares": text.shares(borrowed.shares),
        "scale": text.weight(borrowed.scale),
        "strongest": text.strongest(borrowed),
        "sources": [
            [
                text.weight(s.weight),
                text.location(s, k, borrowed, found, class_names, others),
            ]
            for s in borrowed.sources
        ],
    }
    if references:
        texts["share_references"] = text.percent(borrowed.share_references)
        texts["references"] = [
            text.reference(i, reference.name, borrowed)
            for i, reference in enumerate(references)
        ]
    return texts


def _packed(heat: np.ndarray, scale: float) -> str:
    levels = np.round(heat / scale * 255).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def _template(levels: Sequence[Level], settings: text.Settings, results: str) -> str:
    """Returns the page around the images."""
    fields = {
        "LEVELS": ", ".join(
            f"{v.number} is {v.name} (stride {v.stride})" for v in levels
        ),
        "SETTINGS": html.escape(str(settings)),
        "RESULTS": f"<br>See also the {results}." if results else "",
    }
    constants = {"LEVELS": [level._asdict() for level in levels]}
    title = "Borrowed features of small objects"
    return html_page.page(_PARTS, title, fields, constants)


def _row(detection: dict[str, Any], image: np.ndarray) -> str:
    name = html.escape(detection["class"])
    crop = html_page.embedded(_crop(image, detection["bbox"]), _CROP_SIDE)
    cells = [
        f'<img loading="lazy" width="44" height="44" alt="{name}" src="{crop}">',
        name,
        f"{detection['score']:.3f}",
    ]
    borrowed = detection["borrowed"]
    if borrowed is None:
        cells += [html.escape(detection["note"]), "", ""]
    else:
        texts = borrowed["texts"]
        shares = [f"level {m}: {share}" for m, share in texts["shares"].items()]
        if "share_references" in texts:
            shares.append(f"references: {texts['share_references']}")
        cells += [", ".join(shares), texts["attention_precision"], _strongest(borrowed)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def _strongest(borrowed: dict[str, Any]) -> str:
    if not borrowed["sources"]:
        return ""
    best, (share, _) = borrowed["sources"][0], borrowed["texts"]["sources"][0]
    x, y = best["center"]
    place = f"reference {best['reference']}, " if best.get("reference") else ""
    return f"{share}, {place}level {best['level']} at ({x:.0f}, {y:.0f})"


def _crop(image: np.ndarray, bbox: Sequence[float]) -> np.ndarray:
    """Returns the square around a box of twice its larger side, inside the image."""
    x, y, width, height = bbox
    half = max(width, height, 4)
    top, bottom = (round(y + height / 2 + d) for d in (-half, half))
    left, right = (round(x + width / 2 + d) for d in (-half, half))
    return image[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]


def class_colors(category_ids: Sequence[int | str]) -> dict[int | str, str]:
    """Returns the CSS color of each class, by category id, as in the pictures."""
    return {
        category: "#{:02x}{:02x}{:02x}".format(*annotate.class_color(label))
        for label, category in enumerate(category_ids)
    }
