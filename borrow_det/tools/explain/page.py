"""The page of tools.explain: one HTML file for looking through many images.

It holds its images as data URIs and its own style and script, and states a policy
(Content-Security-Policy) that lets nothing else be loaded or run: file names and class
names are other people's text. Without a script it is a plain list.
"""

import base64
import hashlib
import html
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import PIL.Image

from borrow_det.inference.detector import Level
from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import Borrowed, Found
from borrow_det.visualization import annotate

_PARTS = pathlib.Path(__file__).parent
_LARGEST_SIDE = 900  # Pixels of an embedded image.
_CROP_SIDE = 104  # Of a detection's thumbnail: twice what it is shown at.
_EXACT_SIDE = 256  # Images of up to so many pixels may be PNG, which larger ones waste.


class Page:
    """A page that is written image by image."""

    def __init__(
        self,
        file: TextIO,
        levels: Sequence[Level],
        input_size: tuple[int, int],
        colors: Mapping[int, str],
        settings: text.Settings,
    ):
        """Begins the page.

        Args:
          file: where it is written; stays open.
          levels: the run's.
          input_size: (height, width) of the network's input in pixels.
          colors: by category id, CSS' colour of a class.
          settings: what explanations are made with.
        """
        self._file, self._levels, self._colors = file, levels, colors
        self._settings = settings
        # A position's share of the image's sides, by level from 0.
        self._cells = [[level.stride / side for side in input_size] for level in levels]
        head, self._tail = _template(levels, settings).split("<!-- images -->")
        self._file.write(head)

    def add(
        self,
        record: dict,
        image: np.ndarray,
        found: Found,
        borrowed: Mapping[int, Borrowed],
        class_names: Sequence[str],
    ) -> None:
        """Adds an image.

        Args:
          record: its entry in explanations.json.
          image: uint8 RGB [H, W, 3].
          found: its detections.
          borrowed: what was borrowed, by index of the detection.
          class_names: the name of each label.
        """
        detections = []
        for detection in record["detections"]:
            k = detection["index"]
            detection = detection | {"color": self._colors[detection["category_id"]]}
            if k in borrowed:
                shown = self._heat(borrowed[k]) | {
                    "texts": _texts(k, borrowed[k], found, class_names)
                }
                detection["borrowed"] = detection["borrowed"] | shown
            detections.append(detection)
        name = html.escape(record["file_name"])
        data = _script_json(record | {"detections": detections})
        many = f"{record['file_name']}: {len(detections)} detections"
        self._file.write(
            f"<section>\n<h2>{name}</h2>\n"
            f'<img loading="lazy" decoding="async" alt="{html.escape(many)}" '
            f'width="{record["width"]}" height="{record["height"]}" '
            f'src="{_embedded(image, _LARGEST_SIDE)}">\n'
            f"{self._table(detections, image)}"
            f'<script type="application/json">{data}</script>\n</section>\n'
        )

    def close(self) -> None:
        """Ends the page."""
        self._file.write(self._tail)

    def _heat(self, borrowed):
        """The attention, in a byte a position."""
        packed = {
            str(m + 1): {
                "shape": list(heat.shape),
                "cell": self._cells[m],
                "values": _packed(heat, borrowed.scale),
            }
            for m, heat in borrowed.heat.items()
        }
        return {"heat": packed}

    def _table(self, detections, image):
        """What a reader without the script sees of an image's detections."""
        chosen = [d for d in detections if "borrowed" in d]
        if not chosen:
            return (
                f"<p>{len(detections)} detections with a score of "
                f"{self._settings.score:g} or more; explained is "
                f"{html.escape(self._settings.asked)}: none of them.</p>\n"
            )
        heads = ("", "class", "score", "shares", "precision", "strongest source")
        rows = "".join(_row(detection, image) for detection in chosen)
        cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
        return f'<div class="scroll"><table><tr>{cells}</tr>\n{rows}</table></div>\n'


def _texts(k, borrowed, found, class_names):
    """What the viewer says of a detection."""
    return {
        "precision": text.precision(borrowed),
        "shares": {str(m + 1): text.percent(v) for m, v in borrowed.shares.items()},
        "scale": text.weight(borrowed.scale),
        "strongest": text.strongest(borrowed),
        "sources": [
            [text.weight(s.weight), text.where(s, k, borrowed, found, class_names)]
            for s in borrowed.sources
        ],
    }


def _packed(heat, scale):
    levels = np.round(heat / scale * 255).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def _template(levels, settings):
    """The page around the images."""
    style = (_PARTS / "page.css").read_text(encoding="utf-8")
    script = (_PARTS / "page.js").read_text(encoding="utf-8")
    script = f"const LEVELS = {_script_json([v._asdict() for v in levels])};\n{script}"
    fields = {
        "POLICY": (
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
            f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
        ),
        "STYLE": style,
        "LEVELS": ", ".join(
            f"{v.number} is {v.name} (stride {v.stride})" for v in levels
        ),
        "SETTINGS": html.escape(str(settings)),
        "SCRIPT": script,
    }
    page = (_PARTS / "page.html").read_text(encoding="utf-8")
    # At once: what is filled in may hold such a mark, too.
    return re.sub(r"@([A-Z]+)@", lambda match: fields[match[1]], page)


def _hash(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _script_json(value: Any) -> str:
    """JSON that ends no script element, whatever names it holds."""
    return json.dumps(value).replace("<", "\\u003c")


def _row(detection, image):
    name = html.escape(detection["class"])
    crop = _embedded(_crop(image, detection["bbox"]), _CROP_SIDE)
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
        shares = (f"level {m}: {share}" for m, share in texts["shares"].items())
        cells += [", ".join(shares), texts["precision"], _strongest(borrowed)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def _strongest(borrowed):
    if not borrowed["sources"]:
        return ""
    best, (share, _) = borrowed["sources"][0], borrowed["texts"]["sources"][0]
    x, y = best["center"]
    return f"{share}, level {best['level']} at ({x:.0f}, {y:.0f})"


def _crop(image, bbox):
    """The square around a box, twice as wide as that, as far as there is an image."""
    x, y, width, height = bbox
    half = max(width, height, 4)
    top, bottom = (round(y + height / 2 + d) for d in (-half, half))
    left, right = (round(x + width / 2 + d) for d in (-half, half))
    return image[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]


def _embedded(image: np.ndarray, largest: int) -> str:
    """A data URI of an image, shrunk to `largest` pixels: JPEG, or PNG if smaller."""
    image = np.ascontiguousarray(annotate.shrink(image, largest))
    options = {"jpeg": {"quality": 85}}
    if max(image.shape[:2]) <= _EXACT_SIDE:
        options["png"] = {"optimize": True}
    forms = {}
    for form, how in options.items():
        with io.BytesIO() as stream:
            PIL.Image.fromarray(image).save(stream, form, **how)
            forms[form] = stream.getvalue()
    form = min(forms, key=lambda form: len(forms[form]))
    return f"data:image/{form};base64,{base64.b64encode(forms[form]).decode()}"


def class_colors(category_ids: Sequence[int]) -> dict[int, str]:
    """CSS' colour of each class, by category id: those of the pictures."""
    return {
        category: "#{:02x}{:02x}{:02x}".format(*annotate.class_color(label))
        for label, category in enumerate(category_ids)
    }
