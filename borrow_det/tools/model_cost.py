"""What detectors cost: parameters, FLOPs, and their time side by side."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from borrow_det.tasks.detection import DetectionTask


def static_cost(task: DetectionTask) -> dict[str, int]:
    """Parameters, and FLOPs of one image through the network (without NMS).

    FLOPs are those of the program as it was written, before a compiler fuses or
    splits it, a multiply-add as two; they depend on no device.
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
