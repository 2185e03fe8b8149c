"""The heat that a page draws, read back from its canvas."""

import base64
import io

import numpy as np
import PIL.Image


def picture_of(uri):
    """Returns the picture of a canvas, from its data URI."""
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def heat_ends(picture):
    """Returns [top, bottom, left, right] of the heat, as shares of the picture."""
    opaque = np.asarray(picture.convert("RGBA"))[..., 3] > 128
    # At least a tenth of a side, to exclude crossings of the outlines of cells.
    rows = np.flatnonzero(opaque.mean(axis=1) > 0.1)
    columns = np.flatnonzero(opaque.mean(axis=0) > 0.1)
    pixels = [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]
    return np.divide(pixels, np.repeat(opaque.shape, 2))
