"""Parts of self-contained HTML pages: images inside, a policy, a template."""

import base64
import hashlib
import html
import io
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from borrow_det.visualization import annotate

_SHARED = pathlib.Path(__file__).parent
_EXACT_SIDE = 256  # Largest side in pixels of images that are tried as PNG.


def page(
    folder: pathlib.Path,
    title: str,
    fields: Mapping[str, str],
    constants: Mapping[str, Any] | None = None,
) -> str:
    """Returns a page that contains its style and its script.

    The style is that of all pages, html_page.css, and the folder's page.css. A page
    with a script, page.js, also has the functions of html_page.js, and those of other
    scripts in the folder.

    Args:
      folder: folder with page.html, page.css and, for a page with a script, page.js.
        page.html is what follows the heading in html_page.html.
      title: title and heading, as text.
      fields: HTML for each mark @NAME@ in page.html, except SCRIPT.
      constants: constants of the script, by name; values that JSON can represent.
    """

    def part(place: pathlib.Path, name: str) -> str:
        return (place / name).read_text(encoding="utf-8")

    style = part(_SHARED, "html_page.css") + part(folder, "page.css")
    script = ""
    if (folder / "page.js").exists():
        lines = [
            f"const {name} = {script_json(value)};\n"
            for name, value in (constants or {}).items()
        ]
        shared = part(_SHARED, "html_page.js")
        names = {path.name for path in folder.glob("*.js")} - {"page.js"}
        scripts = [part(folder, name) for name in (*sorted(names), "page.js")]
        script = "".join([*lines, shared, *scripts])
    fields = {
        **fields,
        "TITLE": html.escape(title),
        "POLICY": _policy(style, script),
        "STYLE": style,
        "SCRIPT": script,
    }
    frame = part(_SHARED, "html_page.html")
    return _fill(frame.replace("@BODY@", part(folder, "page.html")), fields)


def links(sections: Iterable[str]) -> str:
    """Returns links to sections, by their titles."""
    return "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in sections)


def sections(parts: Mapping[str, str]) -> str:
    """Returns section elements with headings: HTML by title, without markup in it."""
    return "".join(
        f'<section id="{_anchor(title)}">\n<h2>{title}</h2>\n{body}</section>\n'
        for title, body in parts.items()
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def script_json(value: Any) -> str:
    """Returns JSON that cannot end a script element."""
    return json.dumps(value).replace("<", "\\u003c")


def _fill(template: str, fields: Mapping[str, str]) -> str:
    """Replaces the marks @NAME@ of a template by fields.

    All marks are replaced in one pass, since a filled-in text may contain such a mark.
    """
    return re.sub(r"@([A-Z]+)@", lambda match: fields[match[1]], template)


def _policy(style: str, script: str = "") -> str:
    """Returns a Content-Security-Policy that allows this style and script alone.

    Images may be data URIs. Nothing else is loaded or run, so that untrusted text in
    the page can do no harm.

    Args:
      style: content of the page's style element.
      script: content of its script element; "" forbids scripts.
    """
    runs = f"script-src {_hash(script)}; " if script else ""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; "
        f"{runs}base-uri 'none'; form-action 'none'"
    )


def data_uri(content: bytes, form: str) -> str:
    """Returns the data URI of an encoded image; `form` is jpeg or png."""
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"


def embedded(image: np.ndarray, largest: int) -> str:
    """Returns the data URI of an image as JPEG or PNG, whichever is smaller.

    Args:
      image: uint8 RGB [H, W, 3].
      largest: larger images are shrunk to this longer side, in pixels.
    """
    image = np.ascontiguousarray(annotate.shrink(image, largest))
    options: dict[str, dict[str, Any]] = {"jpeg": {"quality": 85}}
    if max(image.shape[:2]) <= _EXACT_SIDE:
        options["png"] = {"optimize": True}
    forms = {}
    for form, how in options.items():
        with io.BytesIO() as stream:
            PIL.Image.fromarray(image).save(stream, form, **how)
            forms[form] = stream.getvalue()
    form = min(forms, key=lambda form: len(forms[form]))
    return data_uri(forms[form], form)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table element.

    Args:
      columns: headings, as text.
      rows: cells of each row, as HTML.
    """
    heads = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in columns)
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="scroll"><table><tr>{heads}</tr>\n{body}</table></div>\n'


def number_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str,
) -> str:
    """Returns a table of numbers, whose rows have headings.

    A table that is wider than the window scrolls by itself, also by keyboard.

    Args:
      columns: headings, as text.
      rows: heading and cells of each row, as HTML.
      caption: caption, as text.
    """
    heads = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in columns)
    lines = (
        f'<tr><th scope="row">{name}</th>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
        for name, *cells in rows
    )
    title = html.escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="numbers"><caption>{title}</caption>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{''.join(lines)}</tbody>"
        "</table></div>\n"
    )


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
