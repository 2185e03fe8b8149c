"""MkDocs hooks: equations become MathML, and measured figures are not broken.

Browsers render MathML without JavaScript, so that no page loads anything from a server.
"""

import re
from typing import Any

from latex2mathml import converter

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_FIGURE = re.compile(r"(\d) ± (\d)")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def on_page_content(html: str, **_: Any) -> str:
    """Replaces the TeX of a page by MathML, and the spaces around ± by fixed ones."""
    html = _FIGURE.sub("\\1&nbsp;±&nbsp;\\2", html)
    html = _BLOCK.sub(lambda match: _mathml(match[1], "block"), html)
    return _INLINE.sub(lambda match: _mathml(match[1], "inline"), html)


def _mathml(tex: str, display: str) -> str:
    for entity, character in _ENTITIES.items():
        tex = tex.replace(entity, character)
    return converter.convert(tex.strip(), display=display)
