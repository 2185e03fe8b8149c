"""What detectors cost: parameters, FLOPs, and their time side by side."""

import contextlib
import time
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np

from borrow_det.data import pipeline, sources
from borrow_det.tasks.detection import DetectionTask


def measure(
    configs: Mapping[str, ml_collections.ConfigDict],
    trained: Mapping[str, dict],
    rounds: int,
) -> dict[str, dict[str, float]]:
    """The cost of each detector, for one image of the evaluation's first split.

    Args:
      configs: by name; the first is what the others are compared with.
      trained: variables by name; those that are left out run with initial ones, of
        whose many overlapping detections NMS has more to do.
      rounds: timings of each; 0 leaves the time out.

    Returns:
      For each name the figures of `static_cost` and `side_by_side`.
    """
    costs, calls = {}, {}
    for name, config in configs.items():
        # Loaded for each: rows may differ in what they read.
        image, num_classes = _first_image(config)
        task = DetectionTask(config, num_classes)
        costs[name] = static_cost(task)
        if rounds:
            variables = trained.get(name)
            if variables is None:
                # The rbg generator compiles several times faster than threefry.
                variables = jax.jit(task.init)(jax.random.key(0, impl="rbg"))
            calls[name] = _detect_call(task, variables, image)
    for name, times in side_by_side(calls, rounds).items():
        costs[name] |= times
    return costs


def _detect_call(task, variables, image):
    detect, variables = jax.jit(task.detect), jax.device_put(variables)
    return lambda: detect(variables, *image)


def _first_image(config):
    """(canvas [1, Hc, Wc, 3] and size [1, 2]), and the number of classes."""
    config = config.copy_and_resolve_references()
    config.eval_batch_size = 1
    (source,) = sources.load_splits(config.dataset, config.dataset.eval_splits[:1])
    with contextlib.closing(pipeline.eval_batches(source, config)) as batches:
        batch = next(batches)
    image = jax.device_put((batch["image"], batch["image_size"]))
    return image, len(source.class_names)


def static_cost(task: DetectionTask) -> dict[str, int]:
    """Parameters, and FLOPs of one image through the network (without NMS).

    FLOPs are those of the program as it was written, before a compiler fuses or
    splits it, on any device: a multiply-add as two, products with padding not at all.
    """
    variables = jax.eval_shape(task.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *task.input_size, 3), np.float32)

    def forward(variables, image):
        predictions = task.model.apply(variables, image, train=False)
        return predictions.logits, predictions.offsets

    cost = jax.jit(forward).lower(variables, image).cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {"parameters": parameters, "flops": int(cost["flops"])}


def side_by_side(
    calls: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, dict[str, float]]:
    """Times calls in turns, so that whatever else the machine does meets all of them.

    Args:
      calls: by name; the first is what the others are compared with. Each returns
        arrays, which are waited for.
      rounds: how often each is timed, after one call that is not.

    Returns:
      For each name latency_ms, the median, and latency_ratio, the median over rounds
      of its time over the first one's in the same round.
    """
    if not calls:
        return {}
    names = list(calls)
    for call in calls.values():
        jax.block_until_ready(call())
    seconds = np.empty((rounds, len(names)))
    for turn in range(rounds):
        # Each begins as often as the others: what stands after whom may matter.
        for place in np.roll(np.arange(len(names)), turn):
            start = time.perf_counter()
            jax.block_until_ready(calls[names[place]]())
            seconds[turn, place] = time.perf_counter() - start
    ratios = np.median(seconds / seconds[:, :1], axis=0)
    return {
        name: {"latency_ms": 1e3 * median, "latency_ratio": ratio}
        for name, median, ratio in zip(
            names, np.median(seconds, axis=0).tolist(), ratios.tolist(), strict=True
        )
    }
