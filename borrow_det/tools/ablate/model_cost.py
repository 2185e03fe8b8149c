"""What detectors cost: parameters, FLOPs, and their time side by side."""

import contextlib
import functools
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np

from borrow_det.data import pipeline, sources
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import timing


def measure(
    tasks: Mapping[str, DetectionTask],
    trained: Mapping[str, dict],
    baseline: str,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """The cost of each detector, for one image of the evaluation's first split.

    Args:
      tasks: by name.
      trained: variables by name; those that are left out run with initial ones, of
        whose many overlapping detections NMS has more to do.
      baseline: the name of what the others' times are held against.
      rounds: timings of each; 0 leaves the time out, and needs no data set.

    Returns:
      For each name the figures of `static_cost` and `side_by_side`.
    """
    costs = {name: static_cost(task) for name, task in tasks.items()}
    if not rounds:
        return costs
    calls = {}
    for name, task in tasks.items():
        variables = trained.get(name)
        if variables is None:
            # The rbg generator compiles several times faster than threefry.
            variables = jax.jit(task.init)(jax.random.key(0, impl="rbg"))
        calls[name] = _detect_call(task, variables, _first_image(task.config))
    for name, times in side_by_side(calls, baseline, rounds).items():
        costs[name] |= times
    return costs


def first_split(config: ml_collections.ConfigDict) -> sources.Split:
    """The evaluation's first split; opened once for all rows that read the same."""
    return _open(ml_collections.FrozenConfigDict(config.dataset))


@functools.cache
def _open(dataset):
    (split,) = sources.load_splits(dataset, dataset.eval_splits[:1])
    return split


def _detect_call(task, variables, image):
    detect, variables = jax.jit(task.detect), jax.device_put(variables)
    return lambda: detect(variables, *image)


def _first_image(config):
    """Canvas [1, Hc, Wc, 3] and size [1, 2] of a split's first image."""
    config = config.copy_and_resolve_references()
    config.eval_batch_size = 1
    split = first_split(config)
    with contextlib.closing(pipeline.eval_batches(split, config)) as batches:
        batch = next(batches)
    return jax.device_put((batch["image"], batch["image_size"]))


def static_cost(task: DetectionTask) -> dict[str, int]:
    """Parameters, and FLOPs of one image through the network (without NMS).

    FLOPs are those of the program as it was written, before a compiler fuses or
    splits it, on any device: a multiply-add as two, products with padding not at all.
    Of matching in blocks, a loop whose body would count once, those without blocks.
    """
    config = task.config.copy_and_resolve_references()
    config.borrow.attention = config.first_stage = "plain"
    task = DetectionTask(config, task.model.num_classes)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *task.input_size, 3), np.float32)

    def forward(variables, image):
        predictions = task.model.apply(variables, image, train=False)
        return predictions.logits, predictions.offsets

    cost = jax.jit(forward).lower(variables, image).cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {"parameters": parameters, "flops": int(cost["flops"])}


def side_by_side(
    calls: Mapping[str, Callable[[], object]], baseline: str, rounds: int
) -> dict[str, dict[str, float]]:
    """Times calls in turns (timing.in_turns) and holds them against one of them.

    Args:
      calls: by name. Each returns arrays, which are waited for.
      baseline: the name of what the others are held against.
      rounds: how often each is timed, after one call that is not.

    Returns:
      For each name latency_ms, the median; and where there is a baseline latency_ratio,
      the median over rounds of its time over the baseline's in the same round, with
      the quartiles ratio_low and ratio_high.
    """
    seconds = timing.in_turns(calls, rounds)
    times = {
        name: {"latency_ms": 1e3 * float(np.median(taken))}
        for name, taken in seconds.items()
    }
    if baseline in seconds:
        for name, taken in seconds.items():
            low, middle, high = timing.ratio(taken, seconds[baseline])
            times[name]["latency_ratio"] = middle
            times[name] |= {"ratio_low": low, "ratio_high": high}
    return times
