"""JPEG files that lack their end marker.

Browsers and OpenCV's file reader take the end of the file for the marker. Decoders of
bytes in memory refuse such files, so the marker is added to the bytes that are stored.
"""

import hashlib
import io
from collections.abc import Iterator

import PIL.Image

_END = b"\xff\xd9"
_SCAN = 0xDA  # Start of a scan.
# Starts of frames; 0xC4, 0xC8 and 0xCC mean something else.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# A scan that lacks data takes these bytes for it, and the image changes. For files that
# are cut between restart markers, the fillers contain such markers. A decoder ignores
# one that is 1 or 2 ahead of the next, so the fillers begin with different ones.
_FILLERS = tuple(
    b"".join(pattern + bytes([0xFF, 0xD0 + (first + i) % 8]) for i in range(16))
    for first, pattern in ((0, b"\x55\xaa\x0f\x33" * 4), (4, b"\x9c\x62\xd8\x01" * 4))
)


def with_end_marker(content: bytes) -> bytes | None:
    """Adds the end marker to a JPEG file that lacks nothing else.

    Args:
      content: a file whose end is missing.

    Returns:
      The completed file. None if data of the image is missing, too: then the pixels
      depend on bytes that follow, or coefficients of a component were never sent.
    """
    # The first half of the marker may be there.
    data = content.rstrip(b"\xff")
    if not _sends_all_coefficients(data):
        return None
    pixels = {_digest(data + filler + _END) for filler in (b"", *_FILLERS)}
    return data + _END if len(pixels) == 1 and None not in pixels else None


def _digest(content: bytes) -> str | None:
    """Returns a hash of the pixels, or None if the file does not decode."""
    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            return hashlib.sha256(image.tobytes()).hexdigest()
    except (OSError, SyntaxError, ValueError):
        return None


def _sends_all_coefficients(content: bytes) -> bool:
    """Returns true if the scans hold every bit of every coefficient.

    A progressive file that ends between two scans decodes to a blurred image, and one
    with a scan for each component to an image without some of its colors.
    """
    components: list[int] = []
    low_bit: dict[tuple[int, int], int] = {}  # Of each component and coefficient.
    for marker, body in _segments(content):
        if marker in _FRAMES and len(body) > 5:
            components = list(body[6 : 6 + 3 * body[5] : 3])
        elif marker == _SCAN:
            count = body[0] if body else 0
            if len(body) < 4 + 2 * count:
                return False
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            for component in body[1 : 1 + 2 * count : 2]:
                for coefficient in range(first, last + 1):
                    low_bit[component, coefficient] = bits & 15
    return bool(components) and all(
        low_bit.get((component, coefficient)) == 0
        for component in components
        for coefficient in range(64)
    )


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the marker and the body of each segment, without the data of scans."""
    position = 2
    while 0 <= (position := content.find(b"\xff", position)) < len(content) - 1:
        marker = content[position + 1]
        if marker == 0xFF:  # A fill byte.
            position += 1
        elif marker == 0 or 0xD0 <= marker <= 0xD7:  # Data of a scan, or a restart.
            position += 2
        else:
            end = position + 2 + int.from_bytes(content[position + 2 : position + 4])
            yield marker, content[position + 4 : end]
            position = end
