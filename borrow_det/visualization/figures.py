"""Figures of Matplotlib as PNG files, with text in any script."""

import io
import os
from collections.abc import Callable, Iterable

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from borrow_det.io import paths
from borrow_det.visualization import fonts


def write_png(
    png: str | os.PathLike,
    draw: Callable[[], Figure],
    texts: Iterable[str],
    dpi: int = 110,
) -> None:
    """Draws a figure and writes it, also to a bucket.

    Args:
      png: file to write.
      draw: returns the figure.
      texts: texts in it that may not be ASCII; see `fonts.figure_text`.
      dpi: pixels per inch.
    """
    file = io.BytesIO()
    with fonts.figure_text(texts):
        FigureCanvasAgg(draw()).print_figure(file, dpi=dpi, format="png")
    paths.as_path(png).write_bytes(file.getvalue())
