"""Conversion of image files to upright 8-bit images that all decoders read alike."""

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
_ROTATED = (5, 6, 7, 8)  # Values of the tag that swap width and height.


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """An image that decodes to upright 8-bit gray or RGB.

    Attributes:
      encoded: JPEG or PNG file.
      height: height of the upright image, in pixels.
      width: width of the upright image, in pixels.
      file_height: number of rows in the original file, before EXIF's rotation.
      file_width: number of columns in the original file, before EXIF's rotation.
      orientation: EXIF orientation that was applied, 1 to 8.
    """

    encoded: bytes
    height: int
    width: int
    file_height: int
    file_width: int
    orientation: int


def read(path: pathlib.Path) -> StoredImage:
    """Reads an image file, checks that it decodes, and converts it if necessary.

    JPEG and PNG files of 8-bit gray or RGB without EXIF rotation keep their bytes.
    Other files become upright 8-bit RGB: transparent pixels are blended with white,
    16-bit values are scaled from 0..65535 to 0..255, and Pillow converts CMYK (also
    Adobe's, which is inverted). The result is a JPEG of quality 95 with full color
    resolution for JPEG files, and a PNG for others.

    Raises:
      InputError: the file cannot be read, is not an image, is truncated, has an
        unsupported kind of pixels, or is larger than Pillow's limit against
        decompression bombs.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            # Pillow warns from half its limit on; large photographs are valid input.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(io.BytesIO(content)) as image:
                image.load()
                return _store(image, content)
    except UnsupportedPixelsError as error:
        raise InputError(
            f"{path} has {error}, which are not supported: convert it to gray or RGB "
            "with 8 or 16 bits"
        ) from error
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image that Pillow can read: replace it, or leave it out"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(
            f"{path} is larger than Pillow's limit against decompression bombs "
            f"({2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)} pixels): shrink or divide it"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(
            f"{path} is truncated or damaged ({error}): replace it, or leave it out"
        ) from error


def rotate_boxes(boxes: np.ndarray, stored: StoredImage) -> np.ndarray:
    """Rotates boxes from the image as stored in the file to the upright image.

    Args:
      boxes: [n, 4], [y_min, x_min, y_max, x_max] in pixels of the file.
      stored: image with an orientation of 5 to 8.

    Returns:
      Boxes [n, 4] in pixels of the upright image.
    """
    y0, x0, y1, x1 = boxes.T
    if stored.orientation in (
        6,
        7,
    ):  # Rows of the file become columns from right to left.
        y0, y1 = stored.file_height - y1, stored.file_height - y0
    if stored.orientation in (
        7,
        8,
    ):  # Columns of the file become rows from bottom to top.
        x0, x1 = stored.file_width - x1, stored.file_width - x0
    return np.stack([x0, y0, x1, y1], axis=-1)


class UnsupportedPixelsError(Exception):
    """The pixel values of a valid image have no obvious form in 8 bits."""


def _store(image: PIL.Image.Image, content: bytes) -> StoredImage:
    orientation = image.getexif().get(_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    file_width, file_height = image.size
    is_jpeg = image.format in ("JPEG", "MPO")
    if orientation != 1 or not _is_plain(image, content):
        content = _encode(to_rgb(PIL.ImageOps.exif_transpose(image)), is_jpeg)
    rotated = orientation in _ROTATED
    return StoredImage(
        encoded=content,
        height=file_width if rotated else file_height,
        width=file_height if rotated else file_width,
        file_height=file_height,
        file_width=file_width,
        orientation=orientation,
    )


def _is_plain(image: PIL.Image.Image, content: bytes) -> bool:
    """Returns true if all decoders read the same 8-bit gray or RGB from the bytes."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    # PNG files with 16 bits per channel open as RGB; byte 24 is the bit depth.
    return image.format in ("JPEG", "MPO") or (
        image.format == "PNG" and content[24] == 8
    )


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Converts an image of any mode to 8-bit RGB, as `read` does.

    Raises:
      UnsupportedPixelsError: the pixel values have no obvious form in 8 bits.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnsupportedPixelsError("gray values of more than 16 bits")
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
