"""Parts of self-contained HTML pages: images inside, a policy, a template."""

import base64
import hashlib
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from borrow_det.visualization import annotate

_EXACT_SIDE = 256  # Largest side in pixels of images that are tried as PNG.


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Replaces the marks @NAME@ of a template by fields.

    All marks are replaced in one pass, since a filled-in text may contain such a mark.
    """
    return re.sub(r"@([A-Z]+)@", lambda match: fields[match[1]], template)


def policy(style: str, script: str = "") -> str:
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


def _hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
