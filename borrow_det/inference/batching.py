"""Detection in the views of images, in batches of one size."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from borrow_det.data.images import decode
from borrow_det.data.images.strips import StripImage
from borrow_det.tiling import merging
from borrow_det.tiling.merging import ViewDetections

# Maps canvases and sizes to detections, as Detector.detect_canvases does.
DetectCanvases: TypeAlias = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]


class View(NamedTuple):
    """A view of an image, as a detector asks for it.

    Attributes:
      window: int [4], `[y_min, x_min, y_max, x_max]` in pixels of the image.
      number: its index in the views of the image; None for a view that serves others
        only, whose detections are dropped.
      key: number by which other views name it as their reference; None if none does.
      references: keys of its reference images.
    """

    window: np.ndarray
    number: int | None
    key: int | None = None
    references: tuple[int, ...] = ()


class ViewDetector(Protocol):
    """Detects objects in batches of views, whose images come in order."""

    def begin(
        self, image: np.ndarray | StripImage, windows: np.ndarray
    ) -> Sequence[View]:
        """Returns the views of the next image in which to detect, in order.

        Args:
          image: uint8 RGB [H, W, 3], or opened by strips.
          windows: int [v, 4], the views of the image; each is among those returned.
        """
        ...

    def compile_for(self, batch_size: int) -> object:
        """Compiles the program of batches of a size, unless it is compiled already."""
        ...

    def detect(
        self, canvases: np.ndarray, sizes: np.ndarray, views: Sequence[View]
    ) -> dict[str, np.ndarray]:
        """Returns the detections in a batch of views, as `Detector.detect_canvases`.

        Args:
          canvases: uint8 [B, Hc, Wc, 3], a view at the top left of each.
          sizes: int32 [B, 2], (height, width) of the views on their canvases.
          views: at most B views, in the order of all; the other rows are padding.
        """
        ...


class IndependentViews(NamedTuple):
    """Detects in each view by itself; a `ViewDetector`."""

    detect_canvases: DetectCanvases
    compile_for: Callable[[int], object]

    def begin(self, image: np.ndarray | StripImage, windows: np.ndarray) -> list[View]:
        """Returns the views as they are."""
        del image
        return [View(window, number) for number, window in enumerate(windows)]

    def detect(
        self, canvases: np.ndarray, sizes: np.ndarray, views: Sequence[View]
    ) -> dict[str, np.ndarray]:
        """Returns the detections in a batch of views."""
        del views
        return self.detect_canvases(canvases, sizes)


class DetectedImage(NamedTuple):
    """An image and its detections."""

    image: np.ndarray | StripImage  # uint8 RGB [H, W, 3]
    detections: ViewDetections  # In pixels.
    seconds: float  # Time of the network: the views' shares of their batches.


@dataclasses.dataclass
class _PendingImage:
    """An image, its views, and the detections of each view so far."""

    image: np.ndarray | StripImage  # uint8 RGB [H, W, 3]
    windows: np.ndarray  # int [v, 4]
    detections: list[ViewDetections | None]
    left: int  # Number of views that wait for their batches.
    seconds: float = 0.0  # Shares of the views so far in the times of their batches.


class _QueuedView(NamedTuple):
    """A view that waits for its batch."""

    pending: _PendingImage
    view: View
    canvas: np.ndarray  # uint8 [*canvas, 3], the view at its top left.
    size: tuple[int, int]  # (height, width) of the view on the canvas.


def detect_images(
    detector: ViewDetector,
    images: Iterable[np.ndarray | StripImage],
    windows: Callable[[tuple[int, int]], np.ndarray],
    *,
    canvas: tuple[int, int],
    iou: float,
    batch_size: int,
) -> Iterator[DetectedImage]:
    """Yields each image with its detections, in the order of `images`.

    The last batch is padded to `batch_size`, so that one program is compiled. A single
    view in all is a batch of one: padded, it would take as long as a full batch.

    Args:
      detector: detects in the views. Its program is compiled before the time of a batch
        is taken.
      images: uint8 RGB [H, W, 3] each, or opened by strips.
      windows: maps the (height, width) of an image to its views, int [v, 4].
      canvas: (height, width) of a canvas in pixels.
      iou: two boxes of different views that overlap by more are the same object.
      batch_size: views per call of the detector.
    """
    waiting: collections.deque[_PendingImage] = collections.deque()
    queue: list[_QueuedView] = []
    full_batches = 0
    for image in images:
        shown = windows(image.shape[:2])
        views = detector.begin(image, shown)
        waiting.append(_PendingImage(image, shown, [None] * len(shown), len(views)))
        for view in views:
            padded = decode.to_canvas(_cut(image, view.window), canvas)
            queue.append(_QueuedView(waiting[-1], view, *padded))
            if len(queue) == batch_size:
                _detect_views(detector, queue, canvas, batch_size)
                queue = []
                full_batches += 1
        if isinstance(image, StripImage):
            image.release()
        while waiting and not waiting[0].left:
            yield _merged(waiting.popleft(), iou)
    if queue:
        single = len(queue) == 1 and not full_batches
        _detect_views(detector, queue, canvas, 1 if single else batch_size)
    while waiting:
        yield _merged(waiting.popleft(), iou)


def _detect_views(
    detector: ViewDetector,
    queue: list[_QueuedView],
    canvas: tuple[int, int],
    rows: int,
) -> None:
    """Detects in the queued views as a batch of `rows`; enters the results."""
    canvases = np.zeros((rows, *canvas, 3), np.uint8)
    sizes = np.tile(np.array(canvas, np.int32), (rows, 1))
    for row, queued in enumerate(queue):
        canvases[row], sizes[row] = queued.canvas, queued.size
    detector.compile_for(rows)
    start = time.perf_counter()
    found = detector.detect(canvases, sizes, [queued.view for queued in queue])
    share = (time.perf_counter() - start) / len(queue)
    for row, (pending, view, *_) in enumerate(queue):
        pending.left -= 1
        pending.seconds += share
        if view.number is not None:
            pending.detections[view.number] = _in_pixels(found, row, view.window)


def _in_pixels(
    found: dict[str, np.ndarray], row: int, window: np.ndarray
) -> ViewDetections:
    """Returns the detections of one view of a batch, in pixels of its image."""
    mask = found["mask"][row]
    sides = np.tile(window[2:] - window[:2], 2)
    return ViewDetections(
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
    return DetectedImage(pending.image, found, pending.seconds)
