"""Views of the explained images: tiles, and the entire image."""

from collections.abc import Callable, Iterator

import numpy as np

from borrow_det.inference.detector import Detector
from borrow_det.tiling.views import Tiles
from borrow_det.tools.explain.reading import Picture
from borrow_det.tools.explain.references import Reference


def views(
    picture: Picture,
    tiles: Tiles,
    detector: Detector,
    overview: Callable[[str, np.ndarray], Reference] | None = None,
) -> Iterator[Picture]:
    """Yields the views of an image, each as a separate image.

    The views are those of `predict`: tiles row by row, and then the entire image. An
    image that is one view keeps its name.

    Args:
      picture: the image and its references, which its views have, too.
      tiles: rule that splits images into views.
      detector: trained run.
      overview: makes the entire image the reference of all its views.
    """
    size = picture.image.shape[0], picture.image.shape[1]
    windows = tiles.views(size, detector.full_resolution)
    whole: Reference | None = None
    if overview is not None:
        name = picture.name if len(windows) == 1 else f"{picture.name}, entire image"
        whole = overview(name, picture.image)

    def references(window: np.ndarray) -> tuple[Reference, ...]:
        if whole is None:
            return picture.references
        top, left, bottom, right = (window / np.tile(size, 2)).tolist()
        return (whole._replace(view=(top, left, bottom, right)),)

    if len(windows) == 1:
        yield picture._replace(references=references(windows[0]))
        return
    for number, window in enumerate(windows, start=1):
        top, left, bottom, right = window.tolist()
        part = f"tile {number} of {len(windows) - tiles.whole}"
        if tiles.whole and number == len(windows):  # It comes last.
            part = "entire image"
        yield Picture(
            f"{picture.name}, {part}",
            picture.image[top:bottom, left:right],
            references(window),
            (top, left, bottom, right),
        )
