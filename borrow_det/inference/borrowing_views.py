"""Detection in views that borrow from reference images, by their deeper maps.

The deeper maps of a view are those of levels 2 to L. The latest ones that other views
refer to are in slots on the device. The program of a batch computes the maps of its
views, gathers the references of each view from the slots and from these maps, detects,
and returns the slots with the new maps. The host decides which maps are in which slot.

A slot holds H_2 W_2 C_2 + ... + H_L W_L C_L values, and a batch gathers B N slots. For
the full network at 512 x 512 pixels a slot has 32 * 32 * 512 + 16 * 16 * 1024 +
8 * 8 * 512 = 819,200 values, 3.3 MB in float32. A ring of N = 8 images takes 26 MB,
and the references of a batch of B = 8 views take 210 MB while it is computed.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.data.augmentation.resampling import resize_batch
from borrow_det.data.images import decode
from borrow_det.data.images.strips import StripImage
from borrow_det.inference.batching import View
from borrow_det.inference.references import Exemplars, Rule
from borrow_det.models.references import ReferenceMaps
from borrow_det.ops import nms
from borrow_det.tasks.detection import DetectionTask

DeeperMaps = tuple[Array, ...]  # [B, H_m, W_m, C_m] of each level m from 2 to L.


class BorrowingPrograms:
    """Compiled programs of a run, shared by its streams: one for each B and N.

    Attributes:
      task: detection task of the run.
      variables: {params, batch_stats} of `task`.
      canvas: (height, width) of a canvas in pixels.
    """

    def __init__(self, task: DetectionTask, variables: dict, canvas: tuple[int, int]):
        self.task, self.variables, self.canvas = task, variables, canvas
        self._deeper_maps = jax.jit(self._compute_deeper_maps)
        self._detect = jax.jit(self._detect_and_store)
        self._programs: dict[tuple[int, int], jax.stages.Compiled] = {}

    def deeper_maps(self, images: Sequence[np.ndarray]) -> DeeperMaps:
        """Computes the deeper maps of N entire images, uint8 [H, W, 3] each."""
        each = []
        for image in images:
            canvas, size = decode.to_canvas(image, self.canvas)
            sizes = np.array([size], np.int32)
            each.append(self._deeper_maps(self.variables, canvas[None], sizes))
        return tuple(jnp.concatenate(level) for level in zip(*each, strict=True))

    def empty_slots(self, count: int) -> DeeperMaps:
        """Returns `count` slots of zeros."""
        return tuple(
            jnp.zeros((count, *level.shape[1:]), level.dtype) for level in self._shapes
        )

    def compile_for(self, batch_size: int, slots: DeeperMaps) -> jax.stages.Compiled:
        """Returns the program of B views and N slots, compiled when first asked for.

        Its arguments are variables, canvases, sizes, slots, `index` int32 [B, N], mask
        bool [B, N], and `kept` int32 [N]. The indices count the slots, and then the
        views of the batch. It returns the detections and the new slots.
        """
        count = len(slots[0])
        program = self._programs.get((batch_size, count))
        if program is None:
            index = jax.ShapeDtypeStruct((batch_size, count), np.int32)
            mask = jax.ShapeDtypeStruct((batch_size, count), np.bool_)
            kept = jax.ShapeDtypeStruct((count,), np.int32)
            inputs = self._inputs(batch_size)
            lowered = self._detect.lower(
                self.variables, *inputs, slots, index, mask, kept
            )
            program = self._programs[batch_size, count] = lowered.compile()
        return program

    @functools.cached_property
    def _shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the deeper maps of one view."""
        return jax.eval_shape(
            self._compute_deeper_maps, self.variables, *self._inputs(1)
        )

    def _inputs(self, rows: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Returns the shapes of canvases and sizes."""
        canvases = jax.ShapeDtypeStruct((rows, *self.canvas, 3), np.uint8)
        return canvases, jax.ShapeDtypeStruct((rows, 2), np.int32)

    def _compute_deeper_maps(
        self, variables: dict, canvases: Array, sizes: Array
    ) -> DeeperMaps:
        return self._compute_maps(variables, canvases, sizes)[1:]

    def _compute_maps(
        self, variables: dict, canvases: Array, sizes: Array
    ) -> tuple[Array, ...]:
        inputs = resize_batch(canvases, sizes, self.task.input_size)
        return self.task.maps(variables, inputs)

    def _detect_and_store(
        self,
        variables: dict,
        canvases: Array,
        sizes: Array,
        slots: DeeperMaps,
        index: Array,
        mask: Array,
        kept: Array,
    ) -> tuple[nms.NmsOutput, DeeperMaps]:
        X = self._compute_maps(variables, canvases, sizes)
        known = [jnp.concatenate(pair) for pair in zip(slots, X[1:], strict=True)]
        references = ReferenceMaps(tuple(level[index] for level in known), mask)
        predictions = self.task.predictions(variables, X, references)
        return self.task.decode(predictions), tuple(level[kept] for level in known)


class BorrowingViews:
    """Detects in views that borrow from the references of a rule; a `ViewDetector`.

    It serves one stream of images.
    """

    def __init__(self, programs: BorrowingPrograms, rule: Rule):
        """Computes the maps of exemplars, if the rule has any."""
        self._programs, self._rule = programs, rule
        self._keys: list[int] = []  # By slot in use, the oldest first.
        if isinstance(rule, Exemplars):
            self._slots = programs.deeper_maps(rule.images)
            self._keys = list(range(rule.count))
        else:
            self._slots = programs.empty_slots(rule.count)

    def begin(self, image: np.ndarray | StripImage, windows: np.ndarray) -> list[View]:
        """Returns the views of the next image, with the references of the rule."""
        return self._rule.views(image, windows)

    def compile_for(self, batch_size: int) -> None:
        """Compiles the program of batches of a size, unless it is compiled already."""
        self._programs.compile_for(batch_size, self._slots)

    def detect(
        self, canvases: np.ndarray, sizes: np.ndarray, views: Sequence[View]
    ) -> dict[str, np.ndarray]:
        """Returns the detections in a batch of views, and keeps their maps."""
        rows, count = len(canvases), self._rule.count
        places = {key: slot for slot, key in enumerate(self._keys)}
        for row, view in enumerate(views):
            if view.key is not None:
                places[view.key] = count + row
        index, mask = _gathered(views, places, rows, count)
        self._keys = list(places)[-count:]
        kept = np.zeros(count, np.int32)
        kept[: len(self._keys)] = [places[key] for key in self._keys]
        program = self._programs.compile_for(rows, self._slots)
        found, self._slots = program(
            self._programs.variables, canvases, sizes, self._slots, index, mask, kept
        )
        return fetch(found)


def _gathered(
    views: Sequence[View], places: dict[int, int], rows: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of each view's references and their mask, [rows, count]."""
    index = np.zeros((rows, count), np.int32)
    mask = np.zeros((rows, count), bool)
    for row, view in enumerate(views):
        filled = len(view.references)
        index[row, :filled] = [places[key] for key in view.references]
        mask[row, :filled] = True
    return index, mask


def fetch(found: nms.NmsOutput) -> dict[str, np.ndarray]:
    """Copies detections to the host, in the form of `Detector.detect_canvases`."""
    found = jax.device_get(found)
    names = ("boxes", "scores", "labels", "mask")
    return {name: getattr(found, name) for name in names}
