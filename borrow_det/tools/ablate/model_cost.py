"""Costs of detectors: parameters, FLOPs, and latency relative to a baseline."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from borrow_det.data import pipeline, sources
from borrow_det.models import detector
from borrow_det.models.references import ReferenceMaps
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import synthetic, timing


def measure(
    tasks: Mapping[str, DetectionTask],
    trained: Mapping[str, dict],
    baseline: str,
    rounds: int,
) -> dict[str, dict[str, float]]:
    """Measures each detector on one image of the first evaluation split.

    Args:
      tasks: tasks by name.
      trained: trained variables by name. Detectors without them run with initial
        variables, which give NMS more overlapping detections to suppress.
      baseline: name of the detector with which the others are compared.
      rounds: number of timings of each; 0 omits the latency and needs no dataset.

    Returns:
      By name, the values of `static_cost` and `relative_latency`.
    """
    costs: dict[str, dict[str, float]] = {
        name: {**static_cost(task)} for name, task in tasks.items()
    }
    if not rounds:
        return costs
    calls = {}
    for name, task in tasks.items():
        variables = trained.get(name)
        if variables is None:
            # The rbg generator compiles several times faster than threefry.
            variables = jax.jit(task.init)(jax.random.key(0, impl="rbg"))
        calls[name] = _detect_call(task, variables, _first_image(task.config))
    for name, times in relative_latency(calls, baseline, rounds).items():
        costs[name] |= times
    return costs


def first_split(config: ml_collections.ConfigDict) -> sources.Split:
    """Opens the first evaluation split, once for all configs of the same dataset."""
    return _open(ml_collections.FrozenConfigDict(config.dataset))


@functools.cache
def _open(dataset: ml_collections.FrozenConfigDict) -> sources.Split:
    (split,) = sources.load_splits(dataset, dataset.eval_splits[:1])
    return split


def _detect_call(
    task: DetectionTask,
    variables: Mapping[str, Any],
    image: tuple[jax.Array, jax.Array],
) -> Callable[[], object]:
    detect, variables = jax.jit(task.detect), jax.device_put(variables)
    references = synthetic.make_reference_maps(task, images=1)
    return lambda: detect(variables, *image, references)


def _first_image(config: ml_collections.ConfigDict) -> tuple[jax.Array, jax.Array]:
    """Returns the canvas [1, Hc, Wc, 3] and size [1, 2] of a split's first image."""
    config = config.copy_and_resolve_references()
    config.eval_batch_size = 1
    split = first_split(config)
    with contextlib.closing(pipeline.eval_batches(split, config)) as batches:
        batch = next(batches)
    return jax.device_put((batch["image"], batch["image_size"]))


def static_cost(task: DetectionTask) -> dict[str, int]:
    """Counts the parameters, and the FLOPs of one image in the network without NMS.

    The FLOPs are those of the program before compilation, so they do not depend on the
    device. A multiply-add counts as two; products with padding do not count. The count
    assumes matching without blocks, since the body of a loop would count once. Maps of
    references are given: a stream of frames, or the tiles of an image, share them.
    """
    config = task.config.copy_and_resolve_references()
    config.borrow.attention = config.first_stage = "plain"
    task = DetectionTask(config, task.model.head_options.num_classes)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *task.input_size, 3), np.float32)

    references = synthetic.make_reference_maps(task, images=1)

    def forward(
        variables: dict, image: jax.Array, references: ReferenceMaps | None
    ) -> tuple[jax.Array, jax.Array]:
        predictions = task.model.apply(
            variables, image, train=False, references=references
        )
        assert isinstance(predictions, detector.Predictions)
        return predictions.logits, predictions.offsets

    cost = jax.jit(forward).lower(variables, image, references).cost_analysis()
    assert cost is not None
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return {"parameters": parameters, "flops": int(cost["flops"])}


def relative_latency(
    calls: Mapping[str, Callable[[], object]], baseline: str, rounds: int
) -> dict[str, dict[str, float]]:
    """Times calls in turns (`timing.in_turns`) and compares them with the baseline.

    Args:
      calls: calls by name. Each returns arrays; a timing ends when they are ready.
      baseline: name of the call with which the others are compared.
      rounds: number of timings of each call, after one that is not timed.

    Returns:
      By name, `latency_ms`, the median. If the baseline is among the calls, also
      `latency_ratio`, the median over rounds of the call's time divided by the
      baseline's in the same round, and its quartiles `ratio_low` and `ratio_high`.
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
