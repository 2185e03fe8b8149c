"""Photographs with and without references.

Videos or cameras, FIELD being what groups the images:

python -m borrow_det.tools.ablate --sweep=configs/sweeps/references_photographs.py \
    --config=configs/folder_narrow.py:path=DIR --config.references.field=FIELD \
    --workdir=runs/references --seeds=3 --row=group

Large images by tiles; --config.dataset.canvas (height, width) must hold them at their
own size, portrait ones too:

python -m borrow_det.tools.ablate --sweep=configs/sweeps/references_photographs.py \
    --config=configs/folder_narrow.py:path=DIR --config.dataset.canvas="(1024, 1024)" \
    --config.augment.tile=True --config.evaluation.tiles=auto \
    --workdir=runs/references --seeds=3 --row=overview

docs/results.md has the figures, and how the tile runs were started from a detector of
cut-outs: from scratch, 400 steps were too few.
"""

from collections.abc import Callable
from typing import Any


def sweep(add: Callable[[str, dict[str, Any]], None]) -> None:
    """Adds the rows; the first, without references, is the baseline."""
    add("no references", {"references.kind": "none"})
    add("group", {"references.kind": "group"})
    add("overview", {"references.kind": "overview"})
