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
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import cv2
import numpy as np
import PIL.Image

from borrow_det import visualize
from borrow_det.tasks.detector import Level
from borrow_det.tools.explanation import Borrowed

_PARTS = pathlib.Path(__file__).parent
_LARGEST_SIDE = 900  # Pixels of an embedded image.
_CROP_SIDE = 104  # Of a detection's thumbnail: twice what it is shown at.


class Page:
    """A page that is written image by image."""

    def __init__(
        self,
        path: pathlib.Path,
        levels: Sequence[Level],
        input_size: tuple[int, int],
        colors: Mapping[int, str],
    ):
        """Opens the file.

        Args:
          path: the file; whole after `close`.
          levels: the run's.
          input_size: (height, width) of the network's input in pixels.
          colors: by category id, CSS' colour of a class.

        Raises:
          OSError: the file cannot be written.
        """
        self._path, self._levels, self._colors = path, levels, colors
        # A position's share of the image's sides, by level from 0.
        self._cells = [[level.stride / side for side in input_size] for level in levels]
        head, self._tail = _template(levels).split("<!-- images -->")
        self._part = path.with_name(path.name + ".part")
        self._file: TextIO = self._part.open("w", encoding="utf-8")
        self._file.write(head)

    def add(
        self, record: dict, image: np.ndarray, borrowed: Mapping[int, Borrowed]
    ) -> None:
        """Adds an image.

        Args:
          record: its entry in explanations.json.
          image: uint8 RGB [H, W, 3].
          borrowed: what was borrowed, by index of the detection.
        """
        detections = [
            self._with_heat(detection, borrowed.get(detection["index"]))
            for detection in record["detections"]
        ]
        chosen = [d for d in detections if "borrowed" in d]
        name = html.escape(record["file_name"])
        data = _script_json(record | {"detections": detections})
        text = f"{record['file_name']}: {len(detections)} detections"
        self._file.write(
            f"<section>\n<h2>{name}</h2>\n"
            f'<img loading="lazy" decoding="async" alt="{html.escape(text)}" '
            f'width="{record["width"]}" height="{record["height"]}" '
            f'src="{_embedded(image, _LARGEST_SIDE)}">\n'
            f"{_table(chosen, image)}"
            f'<script type="application/json">{data}</script>\n</section>\n'
        )

    def close(self) -> None:
        """Ends the file and gives it its name."""
        self._file.write(self._tail)
        self._file.close()
        self._part.replace(self._path)

    def _with_heat(self, detection, borrowed):
        """The record with its colour and, in a byte a position, its heat."""
        detection = detection | {"color": self._colors[detection["category_id"]]}
        if borrowed is None:
            return detection
        packed = {
            str(m + 1): {
                "shape": list(heat.shape),
                "cell": self._cells[m],
                "values": _packed(heat, borrowed.scale),
            }
            for m, heat in borrowed.heat.items()
        }
        of_page = {"heat": packed, "scale": borrowed.scale}
        return detection | {"borrowed": detection["borrowed"] | of_page}


def _packed(heat, scale):
    levels = np.round(heat / scale * 255).astype(np.uint8)
    return base64.b64encode(levels.tobytes()).decode()


def _template(levels):
    """The page around the images."""
    style = (_PARTS / "explanation_page.css").read_text(encoding="utf-8")
    script = (_PARTS / "explanation_page.js").read_text(encoding="utf-8")
    script = f"const LEVELS = {_script_json([v._asdict() for v in levels])};\n{script}"
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    named = ", ".join(f"{v.number} is {v.name} (stride {v.stride})" for v in levels)
    page = (_PARTS / "explanation_page.html").read_text(encoding="utf-8")
    for field, value in (
        ("POLICY", policy),
        ("STYLE", style),
        ("LEVELS", named),
        ("SCRIPT", script),
    ):
        page = page.replace(f"@{field}@", value)
    return page


def _hash(text):
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _script_json(value: Any) -> str:
    """JSON that ends no script element, whatever names it holds."""
    return json.dumps(value).replace("<", "\\u003c")


def _table(chosen, image):
    """What a reader without the script sees of an image's detections."""
    if not chosen:
        return "<p>No small detection.</p>\n"
    heads = ("", "class", "score", "shares", "precision", "strongest source")
    rows = "".join(_row(detection, image) for detection in chosen)
    cells = "".join(f"<th>{head}</th>" for head in heads)
    return f'<div class="scroll"><table><tr>{cells}</tr>\n{rows}</table></div>\n'


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
        cells += [_shares(borrowed), _precision(borrowed), _strongest(borrowed)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"


def _shares(borrowed):
    parts = (f"level {m}: {100 * v:.0f} %" for m, v in borrowed["shares"].items())
    return ", ".join(parts)


def _precision(borrowed):
    share = borrowed["precision"]
    return "no larger one of its class" if share is None else f"{100 * share:.0f} %"


def _strongest(borrowed):
    if not borrowed["sources"]:
        return ""
    best = borrowed["sources"][0]
    x, y = best["center"]
    return f"{100 * best['weight']:.1f} %, level {best['level']} at ({x:.0f}, {y:.0f})"


def _crop(image, bbox):
    """The square around a box, twice as wide as that, as far as there is an image."""
    x, y, width, height = bbox
    half = max(width, height, 4)
    top, bottom = (round(y + height / 2 + d) for d in (-half, half))
    left, right = (round(x + width / 2 + d) for d in (-half, half))
    return image[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]


def _embedded(image: np.ndarray, largest: int) -> str:
    """A data URI of an image, shrunk to `largest` pixels: JPEG or PNG, the smaller."""
    scale = largest / max(image.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    picture = PIL.Image.fromarray(np.ascontiguousarray(image))
    forms = {}
    for form, options in (("jpeg", {"quality": 85}), ("png", {"optimize": True})):
        with io.BytesIO() as stream:
            picture.save(stream, form, **options)
            forms[form] = stream.getvalue()
    form = min(forms, key=lambda form: len(forms[form]))
    return f"data:image/{form};base64,{base64.b64encode(forms[form]).decode()}"


def class_colors(category_ids: Sequence[int]) -> dict[int, str]:
    """CSS' colour of each class, by category id: those of the pictures."""
    return {
        category: "#{:02x}{:02x}{:02x}".format(*visualize.class_color(label))
        for label, category in enumerate(category_ids)
    }
