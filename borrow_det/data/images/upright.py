"""From an image file as people have it to bytes that every decoder reads alike."""

import dataclasses
import io
import pathlib
import struct
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps

from borrow_det.errors import InputError

_ORIENTATION = 0x0112  # EXIF tag.
_TURNED = (5, 6, 7, 8)  # Its values that swap width and height.


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image that decodes, upright, to 8-bit grey or RGB.

    Attributes:
      encoded: bytes, JPEG or PNG.
      height: upright, in pixels.
      width: upright, in pixels.
      file_height: as the file stores its rows, before orientation.
      file_width: likewise.
      orientation: EXIF's, 1 to 8; what was applied.
    """

    encoded: bytes
    height: int
    width: int
    file_height: int
    file_width: int
    orientation: int


def read(path: pathlib.Path) -> StoredImage:
    """Reads an image file, decodes it to be sure, and converts it where need be.

    JPEG and PNG files of 8-bit grey or RGB without EXIF rotation keep their bytes.
    All else becomes upright 8-bit RGB: transparent pixels are laid on white, 16-bit
    values are scaled from 0..65535 to 0..255, CMYK is converted by Pillow (which
    knows that Adobe's are inverted). It is stored as JPEG of quality 95 with full
    colour resolution where the file was a JPEG, else as PNG.

    Raises:
      InputError: the file cannot be read, is no image, is truncated, has pixels of
        a kind that is not supported, or is larger than Pillow's limit against
        decompression bombs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            # Pillow warns from half its limit on; large photographs are welcome.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(content)) as image:
                image.load()
                return _store(image, content)
    except UnsupportedPixelsError as error:
        raise InputError(
            f"{path} has {error}, which are not supported: convert it to grey or RGB "
            "of 8 or 16 bits"
        ) from error
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image that Pillow knows: replace it, or leave it out"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(
            f"{path} is larger than Pillow's limit against decompression bombs "
            f"({2 * PIL.Image.MAX_IMAGE_PIXELS} pixels): shrink it or cut it up"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(
            f"{path} is truncated or damaged ({error}): replace it, or leave it out"
        ) from error


def turn_boxes(boxes: np.ndarray, stored: StoredImage) -> np.ndarray:
    """Turns boxes from the rows as stored in the file to the upright image.

    Args:
      boxes: [n, 4], [y_min, x_min, y_max, x_max] in pixels of the file's rows.
      stored: an image whose orientation is 5 to 8.

    Returns:
      [n, 4], likewise in the upright image.
    """
    y0, x0, y1, x1 = boxes.T
    if stored.orientation in (6, 7):  # The file's rows run from right to left.
        y0, y1 = stored.file_height - y1, stored.file_height - y0
    if stored.orientation in (7, 8):  # Its columns run from bottom to top.
        x0, x1 = stored.file_width - x1, stored.file_width - x0
    return np.stack([x0, y0, x1, y1], axis=-1)


class UnsupportedPixelsError(Exception):
    """The file is sound, but there is no one way to show its values in 8 bits."""


def _store(image: PIL.Image.Image, content: bytes) -> StoredImage:
    orientation = image.getexif().get(_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    file_width, file_height = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    if orientation != 1 or not _is_plain(image, content):
        content = _encode(to_rgb(PIL.ImageOps.exif_transpose(image)), is_jpeg)
    turned = orientation in _TURNED
    return StoredImage(
        encoded=content,
        height=file_width if turned else file_height,
        width=file_height if turned else file_width,
        file_height=file_height,
        file_width=file_width,
        orientation=orientation,
    )


def _is_plain(image: PIL.Image.Image, content: bytes) -> bool:
    """Whether the bytes decode to the same 8-bit grey or RGB everywhere."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    # A PNG of 16 bits a channel opens as RGB; byte 24 of the file is its bit depth.
    return image.format in ("JPEG", "MPO") or (
        image.format == "PNG" and content[24] == 8
    )


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts an image of any mode to 8-bit RGB; see `read`.

    Raises:
      UnsupportedPixelsError: the mode has no one form in 8 bits.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnsupportedPixelsError("grey values of more than 16 bits")
        return PIL.Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnsupportedPixelsError("floating-point pixels")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _encode(image: PIL.Image.Image, as_jpeg: bool) -> bytes:
    buffer = io.BytesIO()
    if as_jpeg:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
