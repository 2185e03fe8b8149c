"""A trained run that is called on images."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypedDict, Unpack, cast, overload

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import Array

from borrow_det.data.images.strips import StripImage
from borrow_det.distributed.mesh import resolve_layout
from borrow_det.errors import InputError
from borrow_det.inference import batching, minimum_score
from borrow_det.inference.batching import IndependentViews, ViewDetector
from borrow_det.inference.borrowing_views import (
    BorrowingPrograms,
    BorrowingViews,
    DeeperMaps,
    fetch,
)
from borrow_det.inference.detections import Detections
from borrow_det.inference.images import ImageLike, is_image, pixels, read
from borrow_det.inference.references import References, Rule, choose_rule
from borrow_det.models.references import ReferenceMaps
from borrow_det.models.trunks import TRUNKS
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops import nms
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tiling.merging import ViewDetections
from borrow_det.tiling.views import full_resolution, make_tiles
from borrow_det.workdir import checkpoints, metadata, operating_points
from borrow_det.workdir.best import LAST, find_step
from borrow_det.workdir.operating_points import OperatingPoints

_LISTED = 6  # Classes that the text form of a detector lists.


class Level(NamedTuple):
    """One of the maps that detections are made on."""

    number: int  # From 1, as the paper counts; config.borrow.levels counts from 0.
    name: str
    stride: int  # Pixels of the network's input.
    shape: tuple[int, int]  # (height, width) in positions.


class Attended(NamedTuple):
    """Detections of a batch and the attention behind them; NumPy arrays."""

    detections: nms.NmsOutput  # [B, K]
    levels: np.ndarray  # int32 [B, K], level (from 0) of each detection's anchor.
    # Scores of each level (from 0) that borrows: [B, R, T], or [B, R, (1 + N) T] with N
    # references.
    P: dict[int, np.ndarray]


class Options(TypedDict, total=False):
    """Keyword options of a call of `Detector`."""

    score: float | str | None
    tiles: str | Sequence[int] | None
    tile_size: str | int | Sequence[int] | None
    overlap: float
    whole: bool
    batch_size: int
    max_pixels: int
    references: References
    reference_stride: int
    reference_cuts: bool


class Detector:
    """A trained run that is called on images.

    Attributes:
      config: configuration of the run.
      task: detection task of the run.
      step: step of the checkpoint.
      class_names: name of each label.
      category_ids: id of each label in the COCO files of the run.
      canvas: (height, width) in pixels of the canvases that images are padded to.
      input_size: (height, width) of the network's input in pixels.
      levels: the maps that detections are made on, shallow to deep.
      variables: {params, batch_stats} of `task`.
      operating_points: minimum scores by name, such as `best_f1`, of this checkpoint.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        classes: metadata.Classes,
        variables: dict,
        step: int,
        points: OperatingPoints | None = None,
    ):
        self.step = step
        self.operating_points = points or OperatingPoints(
            "W", step, config.dataset.eval_splits[0], {}
        )
        self.class_names = classes.class_names
        self.category_ids = classes.category_ids
        self.canvas: tuple[int, int] = tuple(config.dataset.canvas)
        self.input_size: tuple[int, int] = tuple(config.input_size)
        self.config = config
        layout = resolve_layout(config)
        self.task = DetectionTask(layout, len(classes.class_names))
        self.levels = levels_of(self.task)
        self.variables = variables
        self._detect = jax.jit(self.task.detect)
        self._programs: dict[tuple, jax.stages.Compiled] = {}
        self._borrowing = BorrowingPrograms(self.task, variables, self.canvas)
        self._attend = jax.jit(self._detect_and_attend)

    @classmethod
    def load(
        cls, workdir: str | os.PathLike, step: int | str | None = LAST
    ) -> "Detector":
        """Loads the network of a work directory, averaged parameters if it has any.

        Args:
          workdir: work directory of a detection run.
          step: checkpoint to load: "best" (`config.checkpoint_best`), "last" (or
            None), or that of a step.

        Raises:
          InputError: the folder is not a work directory of a detection run, or has no
            such checkpoint.
        """
        config = metadata.load_config(workdir)
        if config.task != "detection":
            raise InputError(
                f"{workdir} is a run of task={config.task}: it detects nothing; name "
                "a detection run, which may start from it by config.init_from"
            )
        classes = metadata.load_classes(workdir)
        # Looked up first: a run that is still training may save another one meanwhile.
        number = find_step(workdir, step)
        variables = checkpoints.restore_variables(workdir, number)
        split = config.dataset.eval_splits[0]
        points = operating_points.load(workdir, number, split)
        return cls(config, classes, variables, number, points)

    def __repr__(self) -> str:
        height, width = self.input_size
        names = ", ".join(self.class_names[:_LISTED])
        if len(self.class_names) > _LISTED:
            names += f" and {len(self.class_names) - _LISTED} more"
        return f"Detector(step {self.step}, {width} x {height} pixels: {names})"

    @overload
    def __call__(  # type: ignore[overload-overlap]  # A str is an iterable of str.
        self, images: ImageLike, **options: Unpack[Options]
    ) -> Detections: ...
    @overload
    def __call__(
        self, images: Iterable[ImageLike], **options: Unpack[Options]
    ) -> list[Detections]: ...
    def __call__(
        self, images: ImageLike | Iterable[ImageLike], **options: Unpack[Options]
    ) -> Detections | list[Detections]:
        """Detects the objects in images.

        Args:
          images: one image or an iterable of images. An image is a path, a PIL image,
            or a uint8 array [H, W] or [H, W, 1] (gray), [H, W, 3] (RGB) or [H, W, 4]
            (RGBA).
          **options: score, tiles, tile_size, overlap, whole, references,
            reference_stride, reference_cuts, batch_size and max_pixels; see `stream`.

        Returns:
          The detections of the image, or a list of them, one for each image.

        Raises:
          InputError: an image cannot be read, `images` is empty, or an option has a
            wrong value.
        """
        if is_image(images):
            image = read(images, "the image", options.get("max_pixels", 0))
            return next(self.stream([image], **options))
        many = cast(Iterable[ImageLike], images)
        found = list(self.stream(many, **options))
        if not found:
            raise InputError("there are no images: pass at least one")
        return found

    def stream(
        self,
        images: Iterable[ImageLike],
        *,
        score: float | str | None = None,
        tiles: str | Sequence[int] | None = None,
        tile_size: str | int | Sequence[int] | None = None,
        overlap: float = 0.2,
        whole: bool = True,
        references: References = None,
        reference_stride: int = 1,
        reference_cuts: bool = False,
        batch_size: int = 8,
        max_pixels: int = 0,
    ) -> Iterator[Detections]:
        """Yields the detections of each image, in order.

        For long inputs, such as the frames of a video: images are read as batches need
        them, and detections come as soon as their batch is done. `batch_size=1` waits
        for no other image.

        An image larger than the network's input is shrunk to it, and its small objects
        vanish. With `tiles` or `tile_size` the network processes overlapping tiles and
        the entire image instead, and the detections are merged (tiling/merging.py).

        With `references`, small objects also borrow from other images. A run that was
        trained without references accepts them, with a warning.

        Args:
          images: iterable of images; see `__call__`.
          score: minimum score, or the name of an operating point that the run has
            stored: "best_f1", or "precision_0.9" and the like after `borrow-det
            evaluate`. None for all detections that the run makes, from its nms.score
            on, as average precision needs them.
          tiles: (rows, columns) or "ROWSxCOLUMNS" of the tiles of every image; "auto"
            for tiles of the network's input size in images larger than that.
          tile_size: side of a square tile in pixels, or (height, width).
          overlap: overlap of neighboring tiles as a fraction of a side, in [0, 0.9].
          whole: false to process the tiles without the entire image.
          references: "overview", the entire image for its tiles; a number N, the last N
            images of the stream before each; exemplars, a folder of images, an image or
            a list of images; or "none". None for "overview" if the views are tiles and
            the run was trained with references.kind=overview, and "none" otherwise.
          reference_stride: k, for N: every k-th image becomes a reference.
          reference_cuts: true to forget the references at cuts (inference/cuts.py),
            for N.
          batch_size: views per batch. A program is compiled for each batch size that
            is used, and one for a single view.
          max_pixels: number of pixels above which a file is refused; 0 for Pillow's
            limit against decompression bombs (179 million). Files of more than 100
            million pixels are read by strips if their format allows it (JPEG, PNG
            and TIFF do), so that a huge image need not fit in the memory.

        Raises:
          InputError: an image cannot be read, or an option has a wrong value.
        """
        rule = make_tiles(tiles, tile_size, overlap, whole)
        if is_image(images):
            images = [images]
        if not isinstance(images, Iterable) or isinstance(images, (bytes, Mapping)):
            raise InputError(
                f"the images are of type {type(images).__name__}: pass a path, a NumPy "
                "array, a PIL image, or a list of them"
            )
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size={batch_size} is not a positive integer")
        if not isinstance(max_pixels, int) or max_pixels < 0:
            raise InputError(f"max_pixels={max_pixels} is not a number of pixels or 0")
        least = None if score is None else self.minimum_score(score)
        reference_rule = choose_rule(
            references,
            self.config,
            tiled=rule.grid is not None or rule.size is not None,
            stride=reference_stride,
            cuts=reference_cuts,
            max_pixels=max_pixels,
        )
        detected = batching.detect_images(
            self._view_detector(reference_rule),
            (read(image, f"images[{i}]", max_pixels) for i, image in enumerate(images)),
            lambda size: rule.views(size, self.full_resolution),
            canvas=self.canvas,
            iou=self.config.nms.iou,
            batch_size=batch_size,
        )
        return (self._detections(*parts).filter(least) for parts in detected)

    @property
    def full_resolution(self) -> tuple[int, int]:
        """(height, width) in pixels of the largest view that is not shrunk."""
        return full_resolution(self.canvas, self.input_size)

    def _view_detector(self, rule: Rule | None) -> ViewDetector:
        """Returns the detector of a stream's views, with the references of a rule."""
        if rule is None:
            return IndependentViews(self.detect_canvases, self.compile_for)
        return BorrowingViews(self._borrowing, rule)

    def minimum_score(self, score: float | str) -> float:
        """Returns the minimum score that the option `score` means.

        Raises:
          InputError: it is not a number from 0 to 1, and no operating point of the run.
        """
        if not isinstance(score, str):
            return minimum_score.check(score)
        return minimum_score.look_up(score, self.operating_points)

    def _detections(
        self,
        image: np.ndarray | StripImage,
        found: ViewDetections,
        seconds: float,
    ) -> Detections:
        """Returns the public form of an image's detections."""
        return Detections(
            boxes=np.asarray(found.boxes[:, [1, 0, 3, 2]], np.float64),
            scores=np.asarray(found.scores, np.float32),
            labels=np.asarray(found.labels, int),
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_size=(image.shape[0], image.shape[1]),
            image=pixels(image),
            seconds=seconds,
        )

    def compile_for(self, batch_size: int) -> None:
        """Compiles the program of batches of a size, unless it is compiled already.

        Detection does so itself when it needs to; this is for taking times.

        Args:
          batch_size: number of canvases.
        """
        canvases = jax.ShapeDtypeStruct((batch_size, *self.canvas, 3), np.uint8)
        sizes = jax.ShapeDtypeStruct((batch_size, 2), np.int32)
        key = (canvases.shape, canvases.dtype, sizes.dtype)
        if key not in self._programs:
            lowered = self._detect.lower(self.variables, canvases, sizes)
            self._programs[key] = lowered.compile()

    def detect_canvases(
        self, canvases: np.ndarray, image_size: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns the network's detections in a batch of padded images.

        Args:
          canvases: uint8 [B, Hc, Wc, 3], an image at the top left of each.
          image_size: int32 [B, 2], (height, width) of the images.

        Returns:
          `boxes`, float32 [B, K, 4], `[y_min, x_min, y_max, x_max]` normalized to each
          image; `scores`, float32 [B, K], falling; `labels`, int32 [B, K]; and `mask`,
          bool [B, K], false for padding.
        """
        key = (canvases.shape, canvases.dtype, image_size.dtype)
        program = self._programs.get(key, self._detect)
        return fetch(program(self.variables, canvases, image_size))

    def attend(
        self,
        canvases: np.ndarray,
        image_size: np.ndarray,
        references: ReferenceMaps | None = None,
    ) -> Attended:
        """Returns detections as `detect_canvases`, and the attention behind them.

        Args:
          canvases: uint8 [B, Hc, Wc, 3], an image at the top left of each.
          image_size: int32 [B, 2], (height, width) of the images.
          references: maps of N references of each image; see `deeper_maps`.
        """
        parts = self._attend(self.variables, canvases, image_size, references)
        return Attended(*jax.device_get(parts))

    def deeper_maps(self, images: Sequence[np.ndarray]) -> DeeperMaps:
        """Computes the maps that N references lend, uint8 [H, W, 3] each.

        Returns:
          [N, H_m, W_m, C_m] of each level m from the second on.
        """
        return self._borrowing.deeper_maps(images)

    def _detect_and_attend(
        self,
        variables: dict,
        image: Array,
        image_size: Array,
        references: ReferenceMaps | None,
    ) -> tuple[nms.NmsOutput, Array, dict[int, Array]]:
        predictions = self.task.forward(variables, image, image_size, references)
        found = self.task.decode(predictions)
        levels = anchor_levels(self.task, found.anchors)
        P = {n: matching.scores for n, matching in predictions.matchings.items()}
        return found, levels, P


def levels_of(task: DetectionTask) -> tuple[Level, ...]:
    """Returns the levels of a task, shallow to deep."""
    names = TRUNKS[task.config.model.trunk].level_names
    parts = zip(names, task.config.anchors.strides, task.level_shapes, strict=True)
    return tuple(Level(number, *part) for number, part in enumerate(parts, start=1))


def anchor_levels(task: DetectionTask, anchors: Array) -> Array:
    """Returns the level (from 0) of each anchor index, int32 of the same shape."""
    positions = np.prod(task.level_shapes, axis=1)
    per_level = positions * anchor_ops.anchors_per_position(task.config.anchors)
    ends = jnp.asarray(np.cumsum(per_level), jnp.int32)
    return jnp.searchsorted(ends, anchors, side="right").astype(jnp.int32)
