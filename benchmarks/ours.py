"""This project's side of the benchmarks: configs, weights, batches, compiled calls."""

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
from borrow_det.distributed.mesh import make_mesh, put_batch
from borrow_det.models import detector, trunks
from borrow_det.ops.anchors import anchors_per_position
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

CLASSES = 90  # COCO's ids as torchvision counts them, without background.
OBJECTS = 8  # Number of objects per image.
# Small enough that timed steps do not change the weights.
LEARNING_RATE = 1e-14


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
    """Returns a config of SSD300 as torchvision trains it, or SSD512, not augmented.

    Args:
      borrow: True for the borrowing neck.
      model: ssd300 or ssd512.
      batch: number of images per step.
      size: side of the input in pixels; the model's own by default. For ssd300 it must
        be at least 257, since smaller inputs give empty maps.
      width: factor of the trunk's channels.
      dtype: type of convolutions and matrix products.
      micro_batch: number of images per pass; 0 for all.

    Raises:
      InputError: a field is out of its range.
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
    config.optimizer.learning_rate = LEARNING_RATE
    config.schedule.warmup_steps = 0
    validate.check(config, TASKS, data_parallelism=1)
    return config


def draw_variables(task: DetectionTask, seed: int = 0) -> dict:
    """Draws variables {params, batch_stats} with NumPy, which compiles nothing.

    Kernels have He's standard deviation, so that activations keep their scale. Kernels
    and biases that training starts at zero are drawn as well, so that they have an
    effect.
    """
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    random = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1] == "kernel":
            deviation = math.sqrt(2 / np.prod(shape.shape[:-1]))
            return random.normal(0, deviation, shape.shape).astype(np.float32)
        start = {"scale": 20.0, "log_temperature": math.log(10.0)}.get(path[-1], 0.0)
        return random.normal(start, 0.1, shape.shape).astype(np.float32)

    drawn = {k: draw(k, s) for k, s in traverse_util.flatten_dict(shapes).items()}
    return {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(drawn)


def noise(batch: int, side: int, seed: int = 0) -> np.ndarray:
    """Returns images of noise, uint8 [batch, side, side, 3]."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)


def make_batch(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a training batch of noise in NumPy arrays, with batch_size images."""
    return synthetic.make_batch(config, CLASSES, config.batch_size)


def make_examples(task: DetectionTask, batch: dict) -> tuple[DetectionExamples, dict]:
    """Returns the examples of a step's loss and the totals that divide it."""
    return jax.jit(task.prepare)(jax.random.key(0), batch)


# Calls.


def forward(task: DetectionTask, variables: dict, image: Any) -> Callable[[], Any]:
    """Compiles the network: float32 images [B, H, W, 3] to logits and offsets."""

    @jax.jit
    def run(variables: dict, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        predictions = task.model.apply(variables, image, train=False)
        assert isinstance(predictions, detector.Predictions)
        return predictions.logits, predictions.offsets

    variables, image = jax.device_put((variables, image))
    return functools.partial(run.lower(variables, image).compile(), variables, image)


class PreparedTrainer:
    """Training steps on prepared targets: loss, gradient and update."""

    def __init__(
        self,
        task: DetectionTask,
        variables: dict,
        examples: DetectionExamples,
        totals: dict,
    ) -> None:
        """Compiles the step."""
        self._data = jax.device_put((examples, totals))
        # Copies, since a step donates its arguments.
        self._params = jax.tree.map(jnp.array, variables["params"])
        self._opt_state = make_optimizer(task.config, task.stages).init(self._params)
        step = jax.jit(functools.partial(_step, task), donate_argnums=(0, 1))
        self._step = step.lower(self._params, self._opt_state, *self._data).compile()

    def __call__(self) -> jax.Array:
        """Runs one step and returns its loss, [], after the update."""
        self._params, self._opt_state, loss = self._step(
            self._params, self._opt_state, *self._data
        )
        return jax.block_until_ready((self._params, loss))[1]


def _step(
    task: DetectionTask,
    params: dict,
    opt_state: optax.OptState,
    examples: DetectionExamples,
    totals: dict,
) -> tuple[dict, optax.OptState, jax.Array]:
    grads, terms, _ = accumulate_gradients(
        functools.partial(task.loss, totals=totals),
        params,
        {},
        examples,
        task.config.micro_batch,
    )
    updates, opt_state = make_optimizer(task.config, task.stages).update(
        grads, opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state, terms["loss"]


def detect(task: DetectionTask, variables: dict, batch: dict) -> Callable[..., Any]:
    """Compiles uint8 images to detections, as a function of the variables."""
    image, size = jax.device_put((batch["image"], batch["image_size"]))
    run = jax.jit(task.detect).lower(variables, image, size).compile()
    return lambda variables: run(variables, image, size)


class RunTrainer:
    """Training steps of a run: from uint8 images and boxes, targets included."""

    def __init__(self, task: DetectionTask, variables: dict, batch: dict) -> None:
        """Compiles the step for one device."""
        config = task.config
        mesh = make_mesh(config.mesh, jax.devices()[:1])
        params = variables["params"]
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats={},
            ema_params={},
            opt_state=make_optimizer(config, task.stages).init(params),
            key_data=jax.random.key_data(jax.random.key(config.seed)),
        )
        self._state = shard_state(jax.device_get(state), mesh)
        self._batch = put_batch(batch, mesh)
        self._step = make_train_step(task, mesh, self._state)
        self.compiled = self._step.lower(self._state, self._batch).compile()

    def __call__(self) -> dict[str, jax.Array]:
        """Runs one step and returns its metrics after the update."""
        self._state, metrics = self.compiled(self._state, self._batch)
        return jax.block_until_ready((self._state.params, metrics))[1]

    def flops(self) -> int:
        """Counts the FLOPs of a step's convolutions and matrix products."""
        return program_cost.products(self._step, self._state, self._batch).flops


# Drawn weights with scores as before or after training.


class Spread(NamedTuple):
    """Changes to drawn heads that give scores as in a trained detector.

    Attributes:
      class_scales: factor of the class kernels of each level.
      box_scales: factor of the box kernels of each level.
      background: addend of the background's bias.
    """

    class_scales: tuple[float, ...]
    box_scales: tuple[float, ...]
    background: float


def find_spread(task: DetectionTask, variables: dict, candidates: int) -> Spread:
    """Finds the spread that gives drawn variables the scores of a trained detector.

    It runs on the CPU; the task's dtype should be float32.
    """
    image = noise(1, task.input_size[0]).astype(np.float32)
    with jax.default_device(jax.devices("cpu")[0]):
        predictions = forward(task, variables, image)()
    counts = np.prod(task.level_shapes, axis=1)
    counts = counts * anchors_per_position(task.config.anchors)
    logits, offsets = (np.asarray(x[0], np.float64) for x in predictions)
    return spread_of(logits, offsets, counts, task.config.nms.score, candidates)


def spread_of(
    logits: np.ndarray,
    offsets: np.ndarray,
    counts: Sequence[int],
    score: float,
    candidates: int,
) -> Spread:
    """Returns the spread that gives logits and offsets a deviation of 1 per level.

    Args:
      logits: logits of an image, [A, 1 + C].
      offsets: offsets of the image, [A, 4].
      counts: number of anchors of each level.
      score: threshold above which a score counts as a candidate.
      candidates: wanted number of candidates in all classes; 0 for the state before
        training, when background is like any class.
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


def _background(logits: np.ndarray, score: float, candidates: int) -> float:
    """Finds the bias that leaves this number of candidates, by bisection."""
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
    """Returns variables with heads changed by a spread, in NumPy arrays."""
    params = dict(variables["params"])
    scales = zip(spread.class_scales, spread.box_scales, strict=True)
    for number, (class_scale, box_scale) in enumerate(scales, start=1):
        head = params[f"head{number}"]
        bias = np.array(head["class"]["bias"])
        bias.reshape(-1, 1 + CLASSES)[:, 0] += spread.background
        params[f"head{number}"] = {
            "class": {"kernel": head["class"]["kernel"] * class_scale, "bias": bias},
            "box": {**head["box"], "kernel": head["box"]["kernel"] * box_scale},
        }
    return {**variables, "params": params}
