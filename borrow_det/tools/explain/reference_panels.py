"""Panels of the references that a detection borrowed from."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import SubFigure

from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import Borrowed
from borrow_det.tools.explain.references import Reference
from borrow_det.tools.explain.shown_image import ShownImage

_MOST = 3  # References that are drawn.
_TITLES = 0.8  # Height of the titles of panels and row, inches.
_LOW, _HIGH = 1.6, 4.2  # Range of the height of a panel, inches.
_LETTERS = 13.0  # Letters of a title per inch.


class ReferencePanels:
    """A row with the references that have the most attention."""

    def __init__(
        self, scene: ShownImage, references: Sequence[Reference], borrowed: Borrowed
    ):
        """Chooses the references.

        Args:
          scene: the image that borrows.
          references: references of the image.
          borrowed: attention of the detection that borrows.
        """
        shares = [part.share for part in borrowed.references]
        order = np.argsort(np.negative(shares), kind="stable").tolist()
        chosen = [i for i in order if shares[i] > 0]
        self._shown, self._left_out = chosen[:_MOST], chosen[_MOST:]
        self._borrowed, self._references = borrowed, references
        self._images = {
            i: ShownImage(
                references[i].image,
                references[i].found,
                scene.levels,
                scene.input_size,
                scene.class_names,
            )
            for i in self._shown
        }

    def height(self, width: float) -> float:
        """Returns the height of the row in inches, 0 without references."""
        if not self._shown:
            return 0
        self._width = width / max(len(self._shown), 2)
        sides = [self._width * x.height / x.width for x in self._images.values()]
        return float(np.clip(max(sides), _LOW, _HIGH)) + _TITLES

    def draw(self, figure: SubFigure, norm: Normalize) -> None:
        """Draws the row.

        Args:
          figure: place of the row.
          norm: color scale of the attention, in percent.
        """
        figure.suptitle(self._title(), fontsize=11)
        (row,) = figure.subplots(1, len(self._shown), squeeze=False)
        for axes, i in zip(row, self._shown, strict=True):
            self._panel(axes, i, norm)

    def _title(self) -> str:
        share = text.percent(self._borrowed.share_references)
        words = f"References: {share} of the attention; lenders are dashed"
        if any(self._references[i].view for i in self._shown):
            words += ", and the tile above is dotted"
        if self._left_out:
            rest = sum(self._borrowed.references[i].share for i in self._left_out)
            count = len(self._left_out)
            words += f"; not drawn: {count} more, {text.percent(rest)}"
        return words

    def _panel(self, axes: Axes, i: int, norm: Normalize) -> None:
        """Draws reference i with the heat of its strongest level."""
        shown, part = self._images[i], self._borrowed.references[i]
        m = max(part.shares, key=lambda level: part.shares[level])
        shown.heat(axes, part.heat[m], m, norm)
        shown.outline_lenders(axes, part.lenders)
        # Others would hide the heat.
        holders = {k for _, s in self._borrowed.sources_in(i) for k in s.detections}
        for lender in sorted(holders.intersection(part.lenders), reverse=True):
            shown.label(axes, lender, bold=False)
        view = self._references[i].view
        if view is not None:
            shown.outline(axes, view, edgecolor="black", linewidth=1.6, linestyle=":")
        for number, source in self._borrowed.sources_in(i):
            shown.mark(axes, number, source.center)
        name = text.reference(i, self._references[i].name, self._borrowed)
        title = text.cut(name, max(30, int(_LETTERS * self._width)))
        level = f"heat: {text.percent(part.shares[m])} on {text.title(shown.levels[m])}"
        axes.set_title(f"{title}\n{level}", fontsize=10)
