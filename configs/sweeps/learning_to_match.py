"""The matching loss, and alternatives to it, for learning to match.

python -m borrow_det.main --config=configs/object_crops.py --workdir=runs/pretrain
python -m borrow_det.tools.ablate --sweep=configs/sweeps/learning_to_match.py \
    --config=configs/quickstart.py --workdir=runs/learning_to_match --seeds=5

Rows without the loss have a possible alternative: another temperature, standardized
descriptors, queries with context, a trunk that was pretrained on the classes (the first
command), or more steps. docs/results.md has results.
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first is the baseline."""
    add("no matching loss", {"loss.matching": 0.0})
    helps: dict[str, dict[str, Any]] = {
        "temperature 1": {"borrow.temperature": 1.0},
        "temperature 30": {"borrow.temperature": 30.0},
        "normalised": {"borrow.normalize": True},
        "after context": {"borrow.after_context": True},
        "pretrained trunk": {"init_from": "runs/pretrain", "init_scope": "trunk"},
        "600 steps": {"num_steps": 600, "eval_every": 600},
    }
    for name, fields in helps.items():
        add(f"no matching loss, {name}", {"loss.matching": 0.0, **fields})
    for weight in (0.1, 0.3, 1.0):
        add(f"matching loss, weight {weight:g}", {"loss.matching": weight})
    # The defaults of configs/base.py.
    add(
        "matching loss, weight 0.1, three levels",
        {"loss.matching": 0.1, "borrow.levels": (0, 1, 2)},
    )
    for name in ("temperature 1", "temperature 30"):
        add(f"matching loss, {name}", helps[name])
    add("ssd, 600 steps", {**arguments.PLAIN_SSD, **helps["600 steps"]})
