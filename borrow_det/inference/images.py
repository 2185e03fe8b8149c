"""Images as callers have them: paths, NumPy arrays and PIL images."""

import os
import pathlib
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import PIL.Image
import PIL.ImageOps

from borrow_det.data.images import inputs, upright
from borrow_det.data.images.strips import StripImage
from borrow_det.errors import InputError
from borrow_det.io import paths, web

ImageLike: TypeAlias = str | os.PathLike | np.ndarray | PIL.Image.Image | StripImage


def is_image(value: Any) -> TypeGuard[ImageLike]:
    """Returns true for one image of any kind, false for a collection of images."""
    kinds = (str, os.PathLike, np.ndarray, PIL.Image.Image, StripImage)
    return isinstance(value, kinds) or hasattr(value, "__array__")


def read(image: ImageLike, name: str, max_pixels: int = 0) -> np.ndarray | StripImage:
    """Reads one image.

    Args:
      image: path of an image file; uint8 array [H, W] or [H, W, 1] (gray), [H, W, 3]
        (RGB) or [H, W, 4] (RGBA); or PIL image of any mode. Files and PIL images are
        rotated by their EXIF orientation. Transparent pixels are blended with white.
      name: the image's name in error messages, if it has no path.
      max_pixels: number of pixels above which a file is refused; 0 for Pillow's limit.

    Returns:
      uint8 RGB [H, W, 3]. An RGB array is returned without a copy. A large file is
      opened by strips (`data/images/strips.py`).

    Raises:
      InputError: the file is missing or not an image, or the array has another dtype
        or shape.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read_file(os.fsdecode(image), max_pixels)
    if isinstance(image, StripImage):
        return image
    if isinstance(image, PIL.Image.Image):
        return _from_pil(image, name)
    if hasattr(image, "__array__"):
        return _from_array(image, name)
    raise InputError(
        f"{name} is of type {type(image).__name__}: pass a path, a NumPy array or a "
        "PIL image"
    )


def _read_file(text: str, max_pixels: int) -> np.ndarray | StripImage:
    if web.is_url(text):
        raise InputError(f"{text} is a URL: download it, and pass the file's path")
    path = pathlib.Path(paths.expand_home(text))
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass a list of the images in it")
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if inputs.is_video(path):
        raise InputError(
            f"{path} is a video: pass its frames as arrays, or use borrow-det predict"
        )
    return inputs.open_image(path, max_pixels)


def _from_pil(image: PIL.Image.Image, name: str) -> np.ndarray:
    if 0 in image.size:
        raise InputError(f"{name} has no pixels: its size is {image.size}")
    try:
        return np.array(upright.to_rgb(PIL.ImageOps.exif_transpose(image)))
    except upright.UnsupportedPixelsError as error:
        raise InputError(
            f"{name} has {error}: convert it to gray or RGB of 8 bits"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        # PIL decodes a file when its pixels are first asked for.
        raise InputError(f"{name} is truncated or damaged ({error})") from error


def _from_array(image: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} does not convert to NumPy: {error}") from error
    if array.dtype != np.uint8:
        raise InputError(
            f"{name} has values of type {array.dtype}: pass uint8 values from 0 to 255"
        )
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in shape:
        raise InputError(
            f"{name} is an array of shape {shape}: pass [H, W] (gray), [H, W, 3] (RGB) "
            "or [H, W, 4] (RGBA) for each image"
        )
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    # OpenCV takes no array of negative strides, as of pixels turned from BGR to RGB.
    array = np.ascontiguousarray(array)
    if array.shape[2] == 4:
        return np.array(upright.to_rgb(PIL.Image.fromarray(array)))
    return array


def pixels(image: np.ndarray | StripImage) -> np.ndarray:
    """Returns an entire image, uint8 RGB [H, W, 3]; shrunk if it is read by strips."""
    return image.picture if isinstance(image, StripImage) else image
