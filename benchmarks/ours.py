"""This project's side of the benchmarks: models, weights, batches, compiled calls."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import traverse_util

from borrow_det.config import validate
from borrow_det.configs import ssd300_coco, ssd512_coco
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.models import detector, trunks
from borrow_det.ops import anchors as anchor_ops
from borrow_det.optimizer import make_optimizer
from borrow_det.tasks import TASKS
from borrow_det.tasks.detection import DetectionExamples, DetectionTask
from borrow_det.tools.aot_compile import program_cost
from borrow_det.tools.common import synthetic
from borrow_det.train_step import (
    TrainState,
    accumulate_gradients,
    make_train_step,
    shard_state,
)

CLASSES = 90  # COCO's ids as torchvision counts them; background beside them.
OBJECTS = 8  # An image.
# So small that no weight changes, however many steps are timed.
_LEARNING_RATE = 1e-14


def make_config(
    borrow: bool,
    *,
    model: str = "ssd300",
    batch: int,
    size: int | None = None,
    width: float = 1.0,
    dtype: str = "float32",
    micro_batch: int = 0,
) -> ml_collections.ConfigDict:
    """SSD300 as torchvision trains it, or SSD512; no augmentation.

    Args:
      borrow: whether its levels borrow.
      model: ssd300 or ssd512.
      batch: images a step.
      size: the input's side in pixels, the model's own by default; for ssd300 at least
        257, from which on no map is empty.
      width: of the trunk.
      dtype: of convolutions and products.
      micro_batch: images a pass; 0: all.

    Raises:
      InputError: a run would refuse it; names the field.
    """
    if model == "ssd300":
        config = ssd300_coco.get_config(f"reference=torchvision,borrow={borrow}")
    else:
        config = ssd512_coco.get_config(f"borrow={borrow}")
    size = size or config.input_size[0]
    config.batch_size = config.eval_batch_size = batch
    config.micro_batch = micro_batch
    config.input_size = config.dataset.canvas = (size, size)
    shapes = detector.map_shapes(config.model.trunk, (size, size))
    fixed = trunks.TRUNKS[config.model.trunk].strides
    others = (math.ceil(size / side) for side, _ in shapes[len(fixed) :])
    config.anchors.strides = (*fixed, *others)
    config.dataset.max_boxes = OBJECTS
    config.model.width = width
    config.dtype = dtype
    config.augment.enabled = False
    config.optimizer.learning_rate = _LEARNING_RATE
    config.schedule.warmup_steps = 0
    validate.check(config, TASKS, data_parallelism=1)
    return config


def draw_variables(task: DetectionTask, seed: int = 0) -> dict:
    """Weights drawn by NumPy, which compiles nothing: {params, batch_stats}.

    Kernels have He's deviation, so that activations keep their size; also those that
    training starts at zero, and biases, so that nothing passes unseen.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    random = np.random.default_rng(seed)

    def draw(path, shape):
        if path[-1] == "kernel":
            deviation = math.sqrt(2 / np.prod(shape.shape[:-1]))
            return random.normal(0, deviation, shape.shape).astype(np.float32)
        start = {"scale": 20.0, "log_temperature": math.log(10.0)}.get(path[-1], 0.0)
        return random.normal(start, 0.1, shape.shape).astype(np.float32)

    drawn = {k: draw(k, s) for k, s in traverse_util.flatten_dict(shapes).items()}
    return {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(drawn)


def noise(batch: int, side: int, seed: int = 0) -> np.ndarray:
    """Images uint8 [batch, side, side, 3]."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)


def make_batch(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """A training batch of noise, NumPy, of `batch_size` images."""
    return synthetic.make_batch(config, CLASSES, config.batch_size)


def make_examples(task: DetectionTask, batch: dict) -> tuple[DetectionExamples, dict]:
    """What a step's loss takes, and the totals that divide it, on the device."""
    return jax.jit(task.prepare)(jax.random.key(0), batch)


# Calls.


def forward(task: DetectionTask, variables: dict, image: Any) -> Callable[[], Any]:
    """Of float32 images [B, H, W, 3]: logits and offsets of every anchor."""

    @jax.jit
    def run(variables, image):
        said = task.model.apply(variables, image, train=False)
        return said.logits, said.offsets

    variables, image = jax.device_put((variables, image))
    return functools.partial(run.lower(variables, image).compile(), variables, image)


class Trainer:
    """Steps on prepared targets: loss, gradient and update."""

    def __init__(
        self, task: DetectionTask, variables: dict, examples: DetectionExamples, totals: dict
    ):
        """Compiles the step."""
        self._data = jax.device_put((examples, totals))
        # Copies, since a step takes them over.
        self._params = jax.tree.map(jnp.array, variables["params"])
        self._opt_state = make_optimizer(task.config).init(self._params)
        step = jax.jit(functools.partial(_step, task), donate_argnums=(0, 1))
        self._step = step.lower(self._params, self._opt_state, *self._data).compile()

    def __call__(self) -> jax.Array:
        """One step; its loss, [], when the update is made."""
        self._params, self._opt_state, loss = self._step(
            self._params, self._opt_state, *self._data
        )
        return jax.block_until_ready((self._params, loss))[1]


def _step(task, params, opt_state, examples, totals):
    grads, terms, _ = accumulate_gradients(
        functools.partial(task.loss, totals=totals),
        params,
        {},
        examples,
        task.config.micro_batch,
    )
    updates, opt_state = make_optimizer(task.config).update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, terms["loss"]


def detect(task: DetectionTask, variables: dict, batch: dict) -> Callable[..., Any]:
    """The detector from uint8 images to detections, compiled: of the variables."""
    image, size = jax.device_put((batch["image"], batch["image_size"]))
    run = jax.jit(task.detect).lower(variables, image, size).compile()
    return lambda variables: run(variables, image, size)


class RunTrainer:
    """Steps as a run makes them: from uint8 images and boxes, targets found in it."""

    def __init__(self, task: DetectionTask, variables: dict, batch: dict):
        """Compiles the step for one device."""
        config = task.config
        mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
        params = variables["params"]
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats={},
            ema_params={},
            opt_state=make_optimizer(config).init(params),
            key_data=jax.random.key_data(jax.random.key(config.seed)),
        )
        self._state = shard_state(jax.device_get(state), mesh)
        self._batch = mesh_lib.put_batch(batch, mesh)
        self._step = make_train_step(task, mesh, self._state)
        self.compiled = self._step.lower(self._state, self._batch).compile()

    def __call__(self) -> dict[str, jax.Array]:
        """One step; its metrics, when the update is made."""
        self._state, metrics = self.compiled(self._state, self._batch)
        return jax.block_until_ready((self._state.params, metrics))[1]

    def flops(self) -> int:
        """Of a step's convolutions and products."""
        return program_cost.products(self._step, self._state, self._batch).flops


# Scores as they are before and after training, of weights that are drawn.


class Spread(NamedTuple):
    """What to do to heads that were drawn, so that their scores are worth sorting.

    Attributes:
      class_scales, box_scales: of each level's kernels.
      background: added to the background's bias.
    """

    class_scales: tuple[float, ...]
    box_scales: tuple[float, ...]
    background: float


def find_spread(task: DetectionTask, variables: dict, candidates: int) -> Spread:
    """What makes the scores of drawn variables those of a trained detector.

    Runs on the CPU; the task's dtype should be float32.
    """
    image = noise(1, task.input_size[0]).astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        said = forward(task, variables, image)()
    counts = np.prod(task.level_shapes, axis=1)
    counts = counts * anchor_ops.anchors_per_position(task.config.anchors)
    logits, offsets = (np.asarray(x[0], np.float64) for x in said)
    return spread_of(logits, offsets, counts, task.config.nms.score, candidates)


def spread_of(
    logits: np.ndarray,
    offsets: np.ndarray,
    counts: Sequence[int],
    score: float,
    candidates: int,
) -> Spread:
    """So that class logits have a deviation of 1 in each level, and offsets as well.

    Args:
      logits: of an image, [A, 1 + C].
      offsets: [A, 4].
      counts: the anchors of each level.
      score: the least that a candidate has.
      candidates: scores above it that the image should have, in all classes; 0: as at
        the start of training, when background is like another class.
    """
    ends = np.cumsum(counts)[:-1]
    levels = np.split(logits, ends)
    class_scales = tuple(1 / float(np.std(level)) for level in levels)
    box_scales = tuple(1 / float(np.std(level)) for level in np.split(offsets, ends))
    if not candidates:
        return Spread(class_scales, box_scales, 0.0)
    pairs = zip(levels, class_scales, strict=True)
    scaled = np.concatenate([level * scale for level, scale in pairs])
    return Spread(class_scales, box_scales, _background(scaled, score, candidates))


def _background(logits, score, candidates):
    """The bias that leaves so many scores, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(30):
        bias = (low + high) / 2
        shifted = logits + np.eye(logits.shape[1])[0] * bias
        scores = np.exp(shifted - shifted.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        many = np.sum(scores[:, 1:] > score) > candidates
        low, high = (bias, high) if many else (low, bias)
    return bias


def apply_spread(variables: dict, spread: Spread) -> dict:
    """Variables whose heads are those that `find_spread` asks for, NumPy."""
    params = dict(variables["params"])
    scales = zip(spread.class_scales, spread.box_scales, strict=True)
    for number, (of_class, of_box) in enumerate(scales, start=1):
        head = params[f"head{number}"]
        bias = np.array(head["class"]["bias"])
        bias.reshape(-1, 1 + CLASSES)[:, 0] += spread.background
        params[f"head{number}"] = {
            "class": {"kernel": head["class"]["kernel"] * of_class, "bias": bias},
            "box": {**head["box"], "kernel": head["box"]["kernel"] * of_box},
        }
    return {**variables, "params": params}
