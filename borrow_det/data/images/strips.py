"""Images that are too large for the memory, read as strips from top to bottom.

libvips decodes JPEG, PNG and TIFF row by row, so that only one strip is in memory.
Its pixels are those that `upright.read` gives.
"""

import contextlib
import importlib.util
import logging
import math
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import cv2
import numpy as np
import PIL.Image
import PIL.TiffImagePlugin

from borrow_det.data.images import deep, upright
from borrow_det.errors import InputError

if TYPE_CHECKING:
    import pyvips

# Images of more pixels are read by strips.
STRIP_PIXELS = 100_000_000
_PICTURE_PIXELS = 2**24
_BLOCK_ROWS = 64  # More rows take libvips more memory and save no time.
_FORMATS = frozenset(("JPEG", "PNG", "TIFF"))
_ALPHA = frozenset(("LA", "PA", "RGBA"))
_MODES = _ALPHA | {"1", "L", "P", "RGB", "I;16", "I;16B", "I;16L"}
_ORIENTATION = 0x0112  # EXIF tag.
_EXTRA_SAMPLES = 338  # TIFF tag; 1 is alpha with which the colors are multiplied.
_TIFF_DATA = ((273, 279), (324, 325))  # Offsets and sizes of strips and of tiles.
_JPEG_END = b"\xff\xd9"
_TYPES = {"uchar": np.uint8, "ushort": np.uint16}
_HEADER = 2**16  # Bytes in which a PNG may state its significant bits.


class StripImage:
    """An upright RGB image in a file, read part by part on request.

    Attributes:
      shape: (height, width, 3), as that of an array.
      picture: uint8 RGB [h, w, 3], the image shrunk by an integer factor, by averaging
        over areas, to at most 2**24 pixels.
    """

    def __init__(self, reader: "_Reader"):
        """Reads the file once, for the picture.

        Raises:
          InputError: the file is damaged.
        """
        self.shape = (*reader.size, 3)
        self._reader = reader
        self._blocks: Iterator[tuple[int, np.ndarray]] | None = None
        self._held: list[tuple[int, np.ndarray]] = []
        self.picture = _shrink(reader)

    def crop(self, window: np.ndarray) -> np.ndarray:
        """Returns a part of the image.

        Parts are read fast if none begins above the one before it. Otherwise the file
        is read again from its beginning.

        Args:
          window: int [4], `[y_min, x_min, y_max, x_max]` in pixels.

        Returns:
          uint8 RGB [y_max - y_min, x_max - x_min, 3]; `picture` for the entire image.

        Raises:
          InputError: the file can no longer be read.
        """
        top, left, bottom, right = map(int, window)
        if (top, left, bottom, right) == (0, 0, *self.shape[:2]):
            return self.picture
        if self._blocks is None or (self._held and top < self._held[0][0]):
            self.release()
            self._blocks = self._reader.blocks()
        self._held = [(at, rows) for at, rows in self._held if at + len(rows) > top]
        while not self._held or _end(self._held[-1]) < bottom:
            block = next(self._blocks)
            if _end(block) > top:
                self._held.append(block)
        return np.concatenate(
            [
                rows[max(top - at, 0) : bottom - at, left:right]
                for at, rows in self._held
            ]
        )

    def release(self) -> None:
        """Frees the strip that is held and closes the file."""
        self._held, self._blocks = [], None


def open_strips(path: pathlib.Path, max_pixels: int, option: str) -> StripImage | None:
    """Opens an image by strips if it is large and its format allows it.

    An interlaced PNG and a progressive JPEG are opened, too, but libvips holds all of
    their data.

    Args:
      path: image file.
      max_pixels: number of pixels above which an image is refused; 0 for Pillow's
        limit.
      option: name of the option that sets `max_pixels`, for messages.

    Returns:
      None for an image of at most `STRIP_PIXELS` pixels, for a file that does not open,
      and for one that has to be decoded completely: of another format, rotated by
      EXIF, CMYK, a JPEG without an end marker.

    Raises:
      InputError: the file is damaged or not an image, or is larger than the limit.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError:
            return None
        stack.enter_context(upright.errors_named(path, max_pixels, option))
        stack.enter_context(upright.pixel_limit(max_pixels))
        image = stack.enter_context(PIL.Image.open(file))
        size = (image.height, image.width)
        if size[0] * size[1] <= STRIP_PIXELS or not _is_readable(image, file):
            return None
        has_alpha = image.mode in _ALPHA or "transparency" in image.info
        file.seek(0)
        bits = deep.stated_bits(file.read(_HEADER))
    # Imported for large images only. Some platforms have no libvips.
    if importlib.util.find_spec("pyvips") is None:
        return None
    return StripImage(_Reader(path, size, has_alpha, bits))


def _is_readable(image: PIL.Image.Image, file: BinaryIO) -> bool:
    """Returns true if libvips reads from the file what `upright.read` does."""
    if image.format not in _FORMATS or image.mode not in _MODES:
        return False
    # The methods of some formats decode all pixels before they look.
    if PIL.Image.Image.getexif(image).get(_ORIENTATION, 1) != 1:
        return False
    if image.format == "JPEG":
        file.seek(-len(_JPEG_END), os.SEEK_END)
        return file.read() == _JPEG_END
    if isinstance(image, PIL.TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        # libvips makes black pixels of data that is missing in the file.
        ends = [
            sum(pair)
            for offsets, counts in _TIFF_DATA
            for pair in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)
        ]
        size = os.fstat(file.fileno()).st_size
        return 1 not in tags.get(_EXTRA_SAMPLES, ()) and max(ends, default=0) <= size
    return True


class _Reader:
    """The rows of an image file, decoded by libvips and converted to RGB.

    Attributes:
      size: (height, width) in pixels.
    """

    def __init__(
        self, path: pathlib.Path, size: tuple[int, int], has_alpha: bool, bits: int
    ):
        """Finds the range of 16-bit values, for which it reads the file once.

        Args:
          path: image file.
          size: (height, width) in pixels.
          has_alpha: true if the image has transparent pixels.
          bits: significant bits that the file states; 0 if it states none.
        """
        self.size = size
        self._path, self._has_alpha, self._bits = path, has_alpha, bits
        first = next(self._stored(), None)
        if first is not None and first.dtype == np.uint16:
            largest = max(deep.largest_color(rows) for rows in self._stored())
            self._bits = deep.significant_bits(largest, bits)

    def blocks(self, height: int = _BLOCK_ROWS) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, rows) from top to bottom, uint8 RGB [height, W, 3].

        The last block may have fewer rows.

        Raises:
          InputError: the file is damaged.
        """
        top = 0
        for rows in self._stored(height):
            if rows.dtype == np.uint16:
                rows = deep.to_8_bits(rows, self._bits)
            if rows.shape[2] in (2, 4):
                rows = np.asarray(upright.to_rgb(PIL.Image.fromarray(rows)))
            yield top, np.repeat(rows, 3, axis=2) if rows.shape[2] == 1 else rows
            top += len(rows)

    def _stored(self, height: int = _BLOCK_ROWS) -> Iterator[np.ndarray]:
        """Yields blocks of rows with the channels that `deep.to_8_bits` describes."""
        import pyvips

        # It logs the warnings of decoders, which are errors here or of no importance.
        logging.getLogger("pyvips").setLevel(logging.ERROR)
        with self._path.open("rb") as file:
            try:
                # libvips gets a descriptor: names may be any bytes, and it reads
                # options from brackets in them.
                source = pyvips.Source.new_from_descriptor(file.fileno())
                image = pyvips.Image.new_from_source(
                    source, "", access="sequential", fail_on="error"
                )
                try:
                    yield from self._fetched(image, pyvips.Region.new(image), height)
                finally:
                    image.invalidate()  # Or the rows that it holds would be cached.
            except pyvips.Error as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"{self._path} is truncated or damaged ({reason}): replace it, or "
                    "leave it out"
                ) from error

    def _fetched(
        self, image: "pyvips.Image", region: "pyvips.Region", height: int
    ) -> Iterator[np.ndarray]:
        if (image.height, image.width) != self.size:
            raise InputError(f"{self._path} has changed: start again")
        if image.format not in _TYPES:
            raise InputError(
                f"{self._path} has pixels of type {image.format}, which are not "
                "supported: convert it to gray or RGB with 8 or 16 bits"
            )
        channels = (3 if image.bands >= 3 else 1) + self._has_alpha
        rows, width = self.size
        for top in range(0, rows, height):
            count = min(height, rows - top)
            # Unlike a crop, a region keeps the rest of a strip for the next block.
            fetched = region.fetch(0, top, width, count)
            values = np.frombuffer(fetched, _TYPES[image.format])
            values = values.reshape(count, width, image.bands)
            yield np.ascontiguousarray(values[..., :channels])


def _end(block: tuple[int, np.ndarray]) -> int:
    """Returns the row after a block's last."""
    return block[0] + len(block[1])


def _shrink(reader: _Reader) -> np.ndarray:
    """Shrinks an image by an integer factor to at most `_PICTURE_PIXELS`.

    Each pixel is the mean of a square. Rows and columns at the end that fill no square
    are left out.

    Returns:
      uint8 RGB [height // factor, width // factor, 3].
    """
    height, width = reader.size
    factor = math.ceil(math.sqrt(height * width / _PICTURE_PIXELS))
    # Filled in place: small arrays between the blocks would leave holes in the memory.
    picture = np.empty((height // factor, width // factor, 3), np.uint8)
    for top, rows in reader.blocks(math.ceil(_BLOCK_ROWS / factor) * factor):
        squares = rows[: len(rows) // factor * factor, : width // factor * factor]
        part = picture[top // factor :][: len(rows) // factor]
        if len(part):
            cv2.resize(squares, part.shape[1::-1], part, interpolation=cv2.INTER_AREA)
    return picture
