"""Views of the images of an evaluation, and their detections merged on the host."""

from collections.abc import Iterable
from typing import NamedTuple

import ml_collections
import numpy as np

from borrow_det.data.images.decode import size_on_canvas
from borrow_det.data.rows import Row
from borrow_det.errors import InputError
from borrow_det.ops.nms import NmsOutput
from borrow_det.tiling import merging
from borrow_det.tiling.merging import ViewDetections
from borrow_det.tiling.views import Tiles, full_resolution, make_tiles


def detected(found: NmsOutput) -> ViewDetections:
    """Returns the detections of one image or view, without padding."""
    kept = np.asarray(found.mask)
    parts = (found.boxes, found.scores, found.labels)
    return ViewDetections(*(np.asarray(part)[kept] for part in parts))


class EvaluationTiles(NamedTuple):
    """The rule of `evaluation.tiles`, applied to images on the canvas.

    Attributes:
      rule: splits images into views.
      canvas: (height, width) of the canvas in pixels. A larger image is shrunk to it,
        and views are those of the shrunk image.
      full_resolution: (height, width) of the largest view that is not shrunk.
      iou: nms.iou; boxes of two views with a larger IoU are the same object.
      max_total: nms.max_total, the number of detections of an image.
    """

    rule: Tiles
    canvas: tuple[int, int]
    full_resolution: tuple[int, int]
    iou: float
    max_total: int

    @classmethod
    def of(cls, config: ml_collections.ConfigDict) -> "EvaluationTiles | None":
        """Makes the rule of a run's configuration; None for entire images only.

        Raises:
          InputError: evaluation.tiles has a wrong value.
        """
        settings = config.evaluation
        if not settings.tiles:
            return None
        height, width = config.dataset.canvas
        canvas = (height, width)
        return cls(
            make_tiles(
                settings.tiles, overlap=settings.tile_overlap, prefix="evaluation."
            ),
            canvas,
            full_resolution(canvas, tuple(config.input_size)),
            config.nms.iou,
            config.nms.max_total,
        )

    def views(self, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the views of an image and its size on the canvas.

        Args:
          image_size: (height, width) of the original image in pixels.

        Returns:
          int [v, 4] in pixels of the canvas; int [2], (height, width).
        """
        size = size_on_canvas(image_size, self.canvas)
        return self.rule.views(size, self.full_resolution), np.array(size)

    def row(self, image_size: tuple[int, int], room: int) -> Row:
        """Returns the fields of an image's row that its views add.

        Args:
          image_size: (height, width) of the original image in pixels.
          room: V, the largest number of views of an image.

        Returns:
          `views` float32 [V, 4], normalized to the image, and `view_mask` bool [V].
        """
        windows, size = self.views(image_size)
        views = np.zeros((room, 4), np.float32)
        views[: len(windows)] = windows / np.tile(size, 2)
        return {"views": views, "view_mask": np.arange(room) < len(windows)}

    def merge(self, found: NmsOutput, image_size: tuple[int, int]) -> ViewDetections:
        """Merges the detections in the views of an image; see `merging.merge`.

        Args:
          found: detections of each view, [V, K], in boxes normalized to the view.
          image_size: (height, width) of the original image in pixels.

        Returns:
          The detections, best first and at most `max_total`, in boxes normalized to
          the image.
        """
        windows, size = self.views(image_size)
        count = len(windows)
        views = [detected(NmsOutput(*(x[i] for x in found))) for i in range(count)]
        if count == 1:
            return views[0]
        for i, (low, high) in enumerate(windows.reshape(-1, 2, 2)):
            boxes = views[i].boxes.astype(float) * np.tile(high - low, 2)
            views[i] = views[i]._replace(boxes=boxes + np.tile(low, 2))
        height, width = map(int, size)
        merged = merging.merge(views, windows, (height, width), self.iou)
        boxes, *others = (part[: self.max_total] for part in merged)
        return ViewDetections(boxes / np.tile(size, 2), *others)


class TileOptions(NamedTuple):
    """Options of an evaluation by other tiles than those of the run.

    Attributes:
      tiles: "auto", "ROWSxCOLUMNS", "none", or None: as the run.
      overlap: overlap of neighboring tiles as a fraction of a side; None: as the run.
    """

    tiles: str | None = None
    overlap: float | None = None

    def __bool__(self) -> bool:
        return self != (None, None)

    def suffix(self) -> str:
        """Returns the end of the name of the evaluation's folder."""
        tiles = "" if self.tiles is None else f"_tiles_{self.tiles}"
        return tiles + ("" if self.overlap is None else f"_overlap_{self.overlap:g}")

    def apply(
        self, config: ml_collections.ConfigDict, sizes: Iterable[tuple[int, int]]
    ) -> None:
        """Changes a run's configuration to these options.

        The canvas grows to hold every image at its own size, and batches shrink so that
        their canvases need no more memory.

        Args:
          config: the configuration.
          sizes: (height, width) of the images.

        Raises:
          InputError: an option has a wrong value.
        """
        settings = config.evaluation
        if self.tiles is not None:
            settings.tiles = "" if self.tiles == "none" else self.tiles
        if self.overlap is not None:
            settings.tile_overlap = self.overlap
            if not settings.tiles:
                raise InputError("overlap is for tiles: give tiles, too")
        make_tiles(settings.tiles or None, overlap=settings.tile_overlap)
        if not settings.tiles:
            return
        canvas = tuple(np.max(list(sizes), axis=0).tolist())
        growth = np.prod(canvas) / np.prod(config.dataset.canvas)
        config.dataset.canvas = canvas
        batch = int(config.eval_batch_size / max(growth, 1))
        config.eval_batch_size = max(batch, 1)
