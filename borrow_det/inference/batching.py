"""Detection in the views of images, in batches of one size."""

import collections
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np

from borrow_det.data.images import decode
from borrow_det.data.images.strips import StripImage
from borrow_det.tiling import merging
from borrow_det.tiling.merging import ViewDetections

# Maps canvases and sizes to detections, as Detector.detect_canvases does.
DetectCanvases: TypeAlias = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class DetectedImage(NamedTuple):
    """An image and its detections."""

    image: np.ndarray | StripImage  # uint8 RGB [H, W, 3]
    detections: ViewDetections  # In pixels.
    seconds: float  # Of the network: the sum of the views' shares of their batches.


class _PendingImage(NamedTuple):
    """An image, its views, and the detections of each view so far."""

    image: np.ndarray | StripImage  # uint8 RGB [H, W, 3]
    windows: np.ndarray  # int [v, 4]
    detections: list[ViewDetections | None]
    seconds: list[float]  # Share of each view in the time of its batch.


class _View(NamedTuple):
    """A view that waits for its batch."""

    pending: _PendingImage
    number: int  # Index in the windows of the image.
    canvas: np.ndarray  # uint8 [*canvas, 3], the view at its top left.
    size: tuple[int, int]  # (height, width) of the view on the canvas.


def detect_images(
    detect: DetectCanvases,
    compile_for: Callable[[int], object],
    images: Iterable[np.ndarray | StripImage],
    views: Callable[[tuple[int, int]], np.ndarray],
    *,
    canvas: tuple[int, int],
    iou: float,
    batch_size: int,
) -> Iterator[DetectedImage]:
    """Yields each image with its detections, in the order of `images`.

    The last batch is padded to `batch_size`, so that one program is compiled. A single
    view in all is a batch of one: padded, it would take as long as a full batch.

    Args:
      detect: the detector of a batch of canvases.
      compile_for: is called with the size of a batch before its time is taken.
      images: uint8 RGB [H, W, 3] each, or opened by strips.
      views: maps the (height, width) of an image to its views, int [v, 4].
      canvas: (height, width) of a canvas in pixels.
      iou: two boxes of different views that overlap by more are the same object.
      batch_size: views per call of `detect`.
    """
    waiting: collections.deque[_PendingImage] = collections.deque()
    queue: list[_View] = []
    full_batches = 0
    for image in images:
        windows = views(image.shape[:2])
        count = len(windows)
        waiting.append(_PendingImage(image, windows, [None] * count, [0.0] * count))
        for index, window in enumerate(windows):
            padded = decode.to_canvas(_cut(image, window), canvas)
            queue.append(_View(waiting[-1], index, *padded))
            if len(queue) == batch_size:
                _detect_views(detect, compile_for, queue, canvas, batch_size)
                queue = []
                full_batches += 1
        if isinstance(image, StripImage):
            image.release()
        while waiting and None not in waiting[0].detections:
            yield _merged(waiting.popleft(), iou)
    if queue:
        single = len(queue) == 1 and not full_batches
        rows = 1 if single else batch_size
        _detect_views(detect, compile_for, queue, canvas, rows)
    while waiting:
        yield _merged(waiting.popleft(), iou)


def _detect_views(
    detect: DetectCanvases,
    compile_for: Callable[[int], object],
    queue: list[_View],
    canvas: tuple[int, int],
    rows: int,
) -> None:
    """Detects in the queued views as a batch of `rows`; enters the results."""
    canvases = np.zeros((rows, *canvas, 3), np.uint8)
    sizes = np.tile(np.array(canvas, np.int32), (rows, 1))
    for row, view in enumerate(queue):
        canvases[row], sizes[row] = view.canvas, view.size
    compile_for(rows)
    start = time.perf_counter()
    found = detect(canvases, sizes)
    share = (time.perf_counter() - start) / len(queue)
    for row, (pending, index, *_) in enumerate(queue):
        window = pending.windows[index]
        mask = found["mask"][row]
        sides = np.tile(window[2:] - window[:2], 2)
        pending.seconds[index] = share
        pending.detections[index] = ViewDetections(
            found["boxes"][row][mask].astype(float) * sides + np.tile(window[:2], 2),
            found["scores"][row][mask],
            found["labels"][row][mask],
        )


def _cut(image: np.ndarray | StripImage, window: np.ndarray) -> np.ndarray:
    """Returns a part of an image, uint8 RGB [h, w, 3]."""
    if isinstance(image, StripImage):
        return image.crop(window)
    top, left, bottom, right = window
    return image[top:bottom, left:right]


def _merged(pending: _PendingImage, iou: float) -> DetectedImage:
    views = [view for view in pending.detections if view is not None]
    height, width, _ = pending.image.shape
    found = merging.merge(views, pending.windows, (height, width), iou)
    return DetectedImage(pending.image, found, sum(pending.seconds))
