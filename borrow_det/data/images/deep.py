"""Images with 16 bits per channel, scaled to 8 bits.

Cameras with 10, 12 or 14 bits write files of 16 bits and use only the lower part of the
range. Scaled from 0..65535, such an image would be nearly black.
"""

import struct

import cv2
import numpy as np
import PIL.Image
import PIL.TiffImagePlugin

_BITS = (8, 10, 12, 14, 16)
_BITS_PER_SAMPLE = 258  # TIFF tag.
_PNG_HEADER = 8  # Bytes of a PNG's signature.


def significant_bits(largest: int, stated: int = 0) -> int:
    """Returns the number of bits that the values of an image use.

    Args:
      largest: largest value of the image's colors.
      stated: bits that the file states; 0 if it states none.

    Returns:
      `stated`, if it holds the largest value; else the least of 8, 10, 12, 14 and 16
      that holds it.
    """
    if stated and largest < 2**stated:
        return stated
    return next(bits for bits in _BITS if largest < 2**bits)


def to_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Scales values from 0..2**bits - 1 to 0..255, rounded down.

    Args:
      values: integers [H, W] or [H, W, C]; channels are gray, gray and alpha, RGB, or
        RGBA. Alpha is always scaled from 0..65535.
      bits: significant bits of the colors, 1 to 16.

    Returns:
      uint8, of the same shape.
    """
    scaled = (values.astype(np.uint32) * 255 // (2**bits - 1)).astype(np.uint8)
    if has_alpha(values):
        scaled[..., -1] = values[..., -1] // 257
    return scaled


def has_alpha(values: np.ndarray) -> bool:
    """Returns true if the last channel of [H, W] or [H, W, C] is alpha."""
    return values.ndim == 3 and values.shape[2] in (2, 4)


def largest_color(values: np.ndarray) -> int:
    """Returns the largest value of the colors, without alpha."""
    return int((values[..., :-1] if has_alpha(values) else values).max())


def is_deep_color(image: PIL.Image.Image, content: bytes) -> bool:
    """Returns true for color of 16 bits, of which Pillow reads the upper 8 bits only.

    Args:
      image: the file as Pillow opens it.
      content: the file.
    """
    if image.mode.startswith("I"):
        return False
    if image.format == "PNG":
        return content[24] == 16  # The header's bit depth.
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == 16
    return False


def decode_color(content: bytes) -> np.ndarray | None:
    """Decodes color of 16 bits with OpenCV.

    Returns:
      uint16 RGB [H, W, 3] or RGBA [H, W, 4], as stored; None if OpenCV cannot.
    """
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        return None
    order = cv2.COLOR_BGRA2RGBA if has_alpha(values) else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(values, order)


def stated_bits(content: bytes) -> int:
    """Returns the significant bits that a PNG states in its chunk sBIT; 0 if none."""
    position = _PNG_HEADER
    while content[:4] == b"\x89PNG" and position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        if kind == b"sBIT":
            # Color channels come first, and alpha last: of 2 and 4 values.
            bits = content[position + 8 : position + 8 + length]
            most = max(bits[:-1] if length in (2, 4) else bits, default=0)
            return most if most <= 16 else 0
        if kind in (b"IDAT", b"IEND"):
            break
        position += 12 + length
    return 0
