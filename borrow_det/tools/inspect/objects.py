"""Objects and images of a split."""

from typing import Any, NamedTuple

import numpy as np

from borrow_det.tools.inspect.duplicates import Fingerprint


class Objects(NamedTuple):
    """The objects of a split that training learns, N of them in all its images.

    Attributes:
      boxes: float32 [N, 4], normalized corners.
      labels: int32 [N].
      images: int32 [N], index of the image that shows the object.
      has_lender: bool [N], whether the image has a lender of the object.
      lender_distance: float64 [N], pixels of the input to the nearest lender of the
        image; nan without one (`lenders.in_image`).
      annotated: float64 [N, 4], corners as annotated, in pixels of the original image.
      numbers: int64 [N], position of the object among those of its image, from 0.
      num_images: images of the split, including those without objects.
      ignored: boxes that training does not learn.
      without_area: boxes without an area.
      most_boxes: largest number of boxes of an image, of all kinds.
    """

    boxes: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    has_lender: np.ndarray
    lender_distance: np.ndarray
    annotated: np.ndarray
    numbers: np.ndarray
    num_images: int
    ignored: int
    without_area: int
    most_boxes: int


class Image(NamedTuple):
    """One image of a split.

    Attributes:
      file_name: as in the record.
      size: (height, width) in pixels of the original.
      fields: further fields of the image in the annotation file, such as its video.
      fingerprint: for the search of duplicates.
    """

    file_name: str
    size: tuple[int, int]
    fields: dict[str, Any]
    fingerprint: Fingerprint
