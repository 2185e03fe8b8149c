"""Conversion of image files to upright 8-bit images that all decoders read alike."""

import contextlib
import dataclasses
import io
import pathlib
import re
import struct
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import PIL.Image
import PIL.ImageOps

from borrow_det.data.images import decode, deep, jpeg_end
from borrow_det.errors import InputError
from borrow_det.io import paths

_ORIENTATION = 0x0112  # EXIF tag.
_ROTATED = (5, 6, 7, 8)  # Values of the tag that swap width and height.


# OpenCV decodes no larger image.
_DECODABLE_PIXELS = 2**30
_DECODABLE_SIDE = 10**6
_PNG_END = b"IEND\xaeB\x60\x82"
_PIL_LIMIT_LOCK = threading.Lock()


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
      repairs: defects of the file that were repaired, such as "has no end marker".
      pixels: the decoded image, uint8 RGB [height, width, 3].
    """

    encoded: bytes
    height: int
    width: int
    file_height: int
    file_width: int
    orientation: int
    repairs: tuple[str, ...]
    pixels: np.ndarray = dataclasses.field(repr=False, compare=False)


def read(
    path: pathlib.Path, max_pixels: int = 0, option: str = "dataset.max_pixels"
) -> StoredImage:
    """Reads an image file, checks that it decodes, and converts it if necessary.

    JPEG and PNG files of 8-bit gray or RGB without EXIF rotation keep their bytes.
    Other files become upright 8-bit RGB: transparent pixels are blended with white,
    16-bit values are scaled from the range that they use (`deep.significant_bits`), and
    Pillow converts CMYK (also Adobe's, which is inverted). The result is a JPEG of
    quality 95 with full color resolution for JPEG files, and a PNG for others.

    A JPEG that lacks nothing but its end marker, and a PNG that lacks nothing but its
    last chunk, are read and completed.

    Args:
      path: image file.
      max_pixels: number of pixels above which an image is refused; 0 for Pillow's limit
        against decompression bombs (179 million).
      option: name of the option that sets `max_pixels`, for messages.

    Raises:
      InputError: the file cannot be read, is not an image, is truncated, has an
        unsupported kind of pixels, or is larger than the limit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = paths.reason(error)
        raise InputError(f"{path} cannot be read: {reason}") from error
    with errors_named(path, max_pixels, option), pixel_limit(max_pixels):
        image, content, repairs = _load(content)
        with image:
            return _store(image, content, repairs)


def _load(content: bytes) -> tuple[PIL.Image.Image, bytes, tuple[str, ...]]:
    """Opens and decodes a file; returns the image, the complete file, the repairs."""
    image = PIL.Image.open(io.BytesIO(content))
    try:
        check_size(image.size)
        image.load()
    except OSError:
        repaired = jpeg_end.with_end_marker(content) if _is_jpeg(image) else None
        if repaired is None:
            raise
        image = PIL.Image.open(io.BytesIO(repaired))
        image.load()
        return image, repaired, ("it has no end marker",)
    no_end = image.format == "PNG" and _PNG_END not in content
    return image, content, ("it has no end chunk",) if no_end else ()


@contextlib.contextmanager
def pixel_limit(max_pixels: int) -> Iterator[None]:
    """Sets the number of pixels above which Pillow refuses images; 0 for its own."""
    if not max_pixels:
        yield
        return
    # The limit is a global of Pillow, of which it takes twice the value.
    with _PIL_LIMIT_LOCK:
        before = PIL.Image.MAX_IMAGE_PIXELS
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]
        try:
            yield
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def errors_named(path: pathlib.Path, max_pixels: int, option: str) -> Iterator[None]:
    """Turns the errors of opening and decoding an image into InputErrors.

    Args:
      path: the image file.
      max_pixels: limit on the number of pixels; 0 for Pillow's.
      option: name of the option that sets the limit.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns from half its limit on; large photographs are valid input.
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            yield
    except UnsupportedPixelsError as error:
        raise InputError(
            f"{path} has {error}, which are not supported: convert it to gray or RGB "
            "with 8 or 16 bits"
        ) from error
    except UndecodableSizeError as error:
        raise TooManyPixelsError(
            f"{path} has {error}, too many to decode: shrink or divide it"
        ) from error
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not an image that Pillow can read: replace it, or leave it out"
        ) from error
    except PIL.Image.DecompressionBombError as error:
        limit = (
            f"{option}={max_pixels}"
            if max_pixels
            else "Pillow's limit against decompression bombs "
            f"({2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)} pixels)"
        )
        stated = re.search(r"\d+", str(error))
        needed = f"{option}={stated[0]}" if stated else option
        raise TooManyPixelsError(
            f"{path} is larger than {limit}: set {needed} if you trust the file, or "
            "shrink or divide it"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(
            f"{path} is truncated or damaged ({error}): replace it, or leave it out"
        ) from error


def check_size(size: tuple[int, int]) -> None:
    """Refuses an image (width, height) that is too large to be decoded completely.

    Raises:
      UndecodableSizeError: it has more pixels than OpenCV decodes, or a longer side
        than libpng does.
    """
    if max(size) > _DECODABLE_SIDE:
        raise UndecodableSizeError(f"more than {_DECODABLE_SIDE} pixels on a side")
    if size[0] * size[1] > _DECODABLE_PIXELS:
        raise UndecodableSizeError(f"more than {_DECODABLE_PIXELS} pixels")


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


class TooManyPixelsError(InputError):
    """An image has more pixels than the limit allows."""


class UndecodableSizeError(Exception):
    """An image is too large to be decoded completely under any limit of pixels."""


class UnsupportedPixelsError(Exception):
    """The pixel values of a valid image have no obvious form in 8 bits."""


def _store(
    image: PIL.Image.Image, content: bytes, repairs: tuple[str, ...]
) -> StoredImage:
    orientation = image.getexif().get(_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    file_width, file_height = image.size
    rotated = orientation in _ROTATED
    height, width = image.size if rotated else image.size[::-1]
    is_jpeg = _is_jpeg(image)
    pixels = None
    plain = orientation == 1 and _is_plain(image, content)
    if plain:
        image.close()  # Two decoded images take much memory.
        pixels = decode.decode_bytes(content)
    # A damaged file that Pillow reads and OpenCV does not is encoded again, too.
    if pixels is None or pixels.shape[:2] != (height, width):
        if plain:
            image, *_ = _load(content)
        content = encode(_upright_rgb(image, content), is_jpeg)
        image.close()
        pixels = decode.decode_bytes(content)
        assert pixels is not None  # Pillow has just encoded it.
    return StoredImage(
        encoded=content,
        height=height,
        width=width,
        file_height=file_height,
        file_width=file_width,
        orientation=orientation,
        repairs=repairs,
        pixels=pixels,
    )


def _is_jpeg(image: PIL.Image.Image) -> bool:
    return image.format in ("JPEG", "MPO")


def _is_plain(image: PIL.Image.Image, content: bytes) -> bool:
    """Returns true if all decoders read the same 8-bit gray or RGB from the bytes."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    # PNG files with 16 bits per channel open as RGB; byte 24 is the bit depth.
    return _is_jpeg(image) or (
        image.format == "PNG" and content[24] == 8 and _PNG_END in content
    )


def _upright_rgb(image: PIL.Image.Image, content: bytes) -> PIL.Image.Image:
    """Converts an image of any mode to upright RGB."""
    stated = deep.stated_bits(content)
    if deep.is_deep_color(image, content):
        values = deep.decode_color(content)
        if values is None:
            raise UnsupportedPixelsError("color of 16 bits in a form unknown to OpenCV")
        exif = image.getexif()
        bits = deep.significant_bits(deep.largest_color(values), stated)
        image = PIL.Image.fromarray(deep.to_8_bits(values, bits))
        image.getexif()[_ORIENTATION] = exif.get(_ORIENTATION, 1)
    elif image.format == "PPM":
        stated = 16  # Pillow scales from the largest value that the file states.
    return to_rgb(PIL.ImageOps.exif_transpose(image), stated)


def to_rgb(image: PIL.Image.Image, stated_bits: int = 0) -> PIL.Image.Image:
    """Converts an image of any mode to 8-bit RGB, as `read` does.

    Args:
      image: image of any mode.
      stated_bits: significant bits of gray with 16 bits; 0 if they are unknown.

    Raises:
      UnsupportedPixelsError: the pixel values have no obvious form in 8 bits.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise UnsupportedPixelsError("gray values of more than 16 bits")
        bits = deep.significant_bits(int(values.max()), stated_bits)
        gray = deep.to_8_bits(values, bits)
        return PIL.Image.fromarray(gray).convert("RGB")
    if image.mode == "F":
        raise UnsupportedPixelsError("floating-point pixels")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def encode(image: PIL.Image.Image, as_jpeg: bool) -> bytes:
    """Encodes RGB as a PNG, or as a JPEG of quality 95 with full color resolution."""
    buffer = io.BytesIO()
    if as_jpeg:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
