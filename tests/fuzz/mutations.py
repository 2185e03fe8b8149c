"""Random damage to files: bytes, JSON, XML, text and headers of images.

Every function draws from a NumPy generator, so that a seed gives the same damage.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, -0.0, 10**30, -(2**63), 1e308, -1e-320),
    *(float("nan"), float("inf"), float("-inf")),
    *(
        "",
        " ",
        "0",
        "1",
        "true",
        "nan",
        "-1",
        "1e999",
        "\x00",
        "\n",
        "\u202e",
        "\ud800",
    ),
    *(
        "../../x",
        "/etc/passwd",
        "C:\\a\\b.png",
        "x" * 5000,
        "9" * 5000,
        "汽车",
        "e\u0301",
    ),
    *([], {}, [[]], [None], [1, 2, 3], [1, 2, 3, "4"], {"a": {"b": []}}, [0] * 1000),
    *([1e308] * 4, [[1, 2], [3, 4]], {"counts": "x", "size": [1, 2]}),
)
_ODD_TEXTS = (
    *("", "-1", "1e999", "nan", "inf", "0", "true", "9" * 5000, "x" * 5000, "1,2"),
    *("0x10", "\u0664", "½", "../../x", "/etc/passwd", "\ufeff", "&amp;", "--", "%s{}"),
)


def change_bytes(
    content: bytes, rng: np.random.Generator, others: Sequence[bytes]
) -> bytes:
    """Flips, cuts, doubles or replaces bytes, or takes another file's content."""
    kind = rng.choice(
        ["flip", "flip", "set", "cut", "remove", "double", "insert", "zeros", "other"]
    )
    data = bytearray(content)
    if kind == "other":
        return others[rng.integers(len(others))]
    if not data:
        return b"\x00"
    start = int(rng.integers(len(data)))
    length = int(rng.integers(1, max(2, len(data) // 4)))
    if kind == "flip":
        for _ in range(int(rng.integers(1, 9))):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    elif kind == "set":
        data[start] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)]))
    elif kind == "cut":
        del data[start:]
    elif kind == "remove":
        del data[start : start + length]
    elif kind == "double":
        data[start:start] = data[start : start + length]
    elif kind == "insert":
        data[start:start] = rng.bytes(int(rng.integers(1, 20)))
    else:
        data[start : start + length] = bytes(len(data[start : start + length]))
    return bytes(data)


def change_encoding(content: bytes, rng: np.random.Generator) -> bytes:
    """Writes a text in another encoding, or with other ends of lines."""
    text = content.decode("utf-8", "replace")
    encodings = ["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "cp1252", "cp037"]
    encoding = str(rng.choice([*encodings, "crlf", "cr"]))
    if encoding in ("crlf", "cr"):
        return content.replace(b"\n", b"\r\n" if encoding == "crlf" else b"\r")
    return text.encode(encoding, "replace")


def change_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces, removes or repeats a value, or nests it deeply."""
    data = json.loads(content)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        keys = node if isinstance(node, dict) else range(len(node))
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    visit(data)
    for _ in range(int(rng.integers(1, 4))):
        node, key = places[rng.integers(len(places))]
        kind = rng.choice(["odd", "odd", "odd", "remove", "repeat", "swap", "deep"])
        if isinstance(node, list) and key >= len(node):
            continue
        if isinstance(node, dict) and key not in node:
            continue
        if kind == "remove":
            del node[key]
        elif kind == "repeat":
            if isinstance(node, list):
                node.append(node[key])
            else:
                node[f"{key}s"] = node[key]
        elif kind == "swap":
            other, other_key = places[rng.integers(len(places))]
            found = isinstance(other, dict) and other_key in other
            # A value that contains itself could not be written.
            if found and not isinstance(other[other_key], dict | list):
                node[key] = other[other_key]
        elif kind == "deep":
            node[key] = "DEEP"
        else:
            node[key] = _ODD_VALUES[rng.integers(len(_ODD_VALUES))]
    deep = "[" * 5000 + "]" * 5000
    return json.dumps(data).replace('"DEEP"', deep).encode()


def change_xml(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces a text or an attribute, removes or repeats an element, adds entities."""
    text = content.decode()
    values = list(re.finditer(r">([^<>\n]+)<|=\"([^\"]*)\"", text))
    elements = list(re.finditer(r"<(\w+)[^<>]*/>|<(\w+)[^<>]*>[^<>]*</\2>", text))
    kind = rng.choice(["value", "value", "value", "remove", "repeat", "doctype"])
    if kind == "doctype":
        lol = "".join(
            f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(9)
        )
        external = '<!ENTITY x SYSTEM "file:///etc/passwd">'
        head = f"<!DOCTYPE r [{rng.choice([lol, external])}]>"
        body = re.sub(r"<\?xml[^>]*>", "", text)
        return (head + body.replace(">1<", f">&{rng.choice(['a8', 'x'])};<")).encode()
    match = (values if kind == "value" else elements)[
        rng.integers(len(values if kind == "value" else elements))
    ]
    start, end = match.span()
    if kind == "value":
        start, end = match.span(1 if match[1] is not None else 2)
        new = _odd_text(rng).replace("&amp;", "&").replace('"', "")
    else:
        new = match[0] * 2 if kind == "repeat" else ""
    return (text[:start] + new + text[end:]).encode("utf-8", "surrogatepass")


def change_words(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces, removes or repeats a word or a line of a text."""
    lines = content.decode().split("\n")
    i = int(rng.integers(len(lines)))
    words = lines[i].split(" ")
    k = int(rng.integers(len(words)))
    kind = rng.choice(["odd", "odd", "word", "twice", "line", "lines", "mark"])
    if kind == "odd":
        words[k] = _odd_text(rng)
    elif kind == "word":
        del words[k]
    elif kind == "twice":
        words.insert(k, words[k])
    elif kind == "mark":
        words[k] = str(rng.choice(list("&*!|>%@`{}[]:#-?,\t"))) + words[k]
    lines[i] = " ".join(words)
    if kind == "line":
        del lines[i]
    elif kind == "lines":
        lines.insert(i, lines[i])
    return "\n".join(lines).encode()


def change_header(content: bytes, rng: np.random.Generator) -> bytes:
    """Replaces a number in the header of an image; PNG's checksum stays right."""
    data = bytearray(content)
    value = int(rng.choice([0, 1, 2, 255, 256, 65535, 2**24, 2**31 - 1, 2**32 - 1]))
    if data.startswith(b"\x89PNG"):
        place = int(rng.choice([16, 20]))
        data[place : place + 4] = struct.pack(">I", value)
        if rng.random() < 0.3:  # Depth, color type, interlacing.
            data[int(rng.choice([24, 25, 28]))] = int(rng.integers(256))
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        return bytes(data)
    if data.startswith(b"\xff\xd8"):
        frames = [m.start() for m in re.finditer(rb"\xff[\xc0-\xc2]\0", data)]
        if frames:
            place = frames[0] + int(rng.choice([5, 7]))
            data[place : place + 2] = struct.pack(">H", value % 65536)
            if rng.random() < 0.2:  # The number of components.
                data[frames[0] + 9] = int(rng.integers(6))
            return bytes(data)
    place = int(rng.integers(min(64, len(data))))
    size = int(rng.choice([1, 2, 4]))
    order = str(rng.choice(["little", "big"]))
    data[place : place + size] = (value % 256**size).to_bytes(size, order)
    return bytes(data)


def change_some(
    content: bytes,
    rng: np.random.Generator,
    changes: Sequence[Callable[[bytes, np.random.Generator], bytes]],
    others: Sequence[bytes],
) -> tuple[str, bytes]:
    """Applies one of several changes, or `change_bytes`; returns its name, too."""
    chosen = rng.integers(2 * len(changes) + 1)
    if chosen >= 2 * len(changes) or not content:
        return "change_bytes", change_bytes(content, rng, others)
    change = changes[chosen // 2]
    return change.__name__, change(content, rng)


def _odd_text(rng: np.random.Generator) -> str:
    return _ODD_TEXTS[rng.integers(len(_ODD_TEXTS))]
