"""Components with and without pasted copies: where does borrowing help photographs?

python -m borrow_det.tools.ablate --sweep=configs/sweeps/pasted_copies.py \
    --config=configs/folder.py:path=DIR,weights=VGG,frozen=5 \
    --workdir=runs/pasted_copies --seeds=2 --folds=5

All rows but the two of plain SSD have context. Pooling is borrowing with the same
weights for every descriptor: it knows what is in the image, but cannot match. Pasted
copies (augment.paste) are small copies of larger objects of the same image, so that
every copy has a lender. benchmarks/photographs.sh runs this sweep on several sets.
"""

from collections.abc import Callable
from typing import Any

from borrow_det.configs import arguments


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, plain SSD, is the baseline."""
    no_matching = {"loss.matching": 0.0}
    pooling = {"borrow.similarity": "query_independent", "borrow.center": False}
    rows: dict[str, dict[str, Any]] = {
        "ssd": arguments.PLAIN_SSD,
        "ssd + context": arguments.CONTEXT_ONLY,
        "full, pooling": {**pooling, **no_matching},
        "full, no matching loss": no_matching,
        "full": {},
    }
    for name, fields in rows.items():
        add(name, {"augment.paste": 0.0, **fields})
    for name, fields in rows.items():
        add(f"{name}, pasted copies", {"augment.paste": 0.5, **fields})
