"""An image in a picture of explain, with boxes and heat over it."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Rectangle

from borrow_det.inference.detector import Level
from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import LevelDetections
from borrow_det.visualization import annotate

LENDER = "#1f5fa8"  # Color of the outlines of lenders over heat.
_SHOWN_SIDE = 1280  # Larger images are shrunk to this many pixels before drawing.


def _heat_map() -> ListedColormap:
    """Colors from transparent white to opaque dark red; the image shows through."""
    colors = colormaps["YlOrRd"](np.linspace(0.05, 1, 256))
    colors[:, 3] = np.linspace(0, 1, 256) ** 0.6 * 0.8
    return ListedColormap(colors)


_HEAT = _heat_map()


class ShownImage:
    """An image and its detections, drawn into axes in pixels of the image."""

    def __init__(
        self,
        image: np.ndarray,
        found: LevelDetections,
        levels: Sequence[Level],
        input_size: tuple[int, int],
        class_names: Sequence[str],
    ):
        """Prepares the image.

        Args:
          image: uint8 RGB [H, W, 3].
          found: detections of the image.
          levels: levels of the run.
          input_size: (height, width) of the network's input in pixels.
          class_names: text of each label; see `fonts.class_text`.
        """
        self.height, self.width = image.shape[:2]
        self.image = annotate.shrink(image, _SHOWN_SIDE)
        gray = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
        # Lightened, so that only the heat has a color and the scene stays visible.
        self.gray = 155 + gray // 5 * 2
        self.found, self.levels, self.input_size = found, levels, input_size
        self.class_names = class_names

    def color(self, i: int) -> np.ndarray:
        """RGB in [0, 1] of detection i's class."""
        return np.array(annotate.class_color(int(self.found.labels[i]))) / 255

    def name(self, i: int) -> str:
        """Class and score of detection i."""
        return text.named(self.found, i, self.class_names)

    def point(self, center: Sequence[float] | np.ndarray) -> tuple[float, float]:
        """Pixels (x, y) of a normalized (y, x)."""
        return center[1] * self.width, center[0] * self.height

    def box(self, axes: Axes, i: int, **options: Any) -> Rectangle:
        """Outlines detection i."""
        return self.outline(axes, self.found.boxes[i], **options)

    def outline(
        self, axes: Axes, box: Sequence[float] | np.ndarray, **options: Any
    ) -> Rectangle:
        """Outlines a normalized box."""
        corners = np.asarray(box, float)
        (x, y), (right, bottom) = self.point(corners[:2]), self.point(corners[2:])
        outline = Rectangle((x, y), right - x, bottom - y, fill=False, **options)
        axes.add_patch(outline)
        return outline

    def show(self, axes: Axes, image: np.ndarray) -> None:
        """Shows an image, possibly shrunk, in pixels of the original."""
        extent = (0, self.width, self.height, 0)
        axes.imshow(image, extent=extent, interpolation="bilinear")
        axes.set(xticks=[], yticks=[], xlim=(0, self.width), ylim=(self.height, 0))

    def mark(self, axes: Axes, number: int, center: Sequence[float]) -> None:
        """Writes the number of a source position at its center."""
        axes.text(
            *self.point(center),
            str(number),
            fontsize=9,
            color="white",
            ha="center",
            va="center",
            zorder=7,
            bbox={
                "boxstyle": "circle,pad=0.2",
                "facecolor": "#a50f15",
                "edgecolor": "white",
            },
        )

    def label(self, axes: Axes, i: int, bold: bool) -> None:
        """Writes the name of detection i above its box, or below it without room."""
        x, y, width, height = self.found.pixels(i, (self.height, self.width))
        above, right = y > 0.06 * self.height, x + width / 2 > 0.6 * self.width
        color = annotate.class_color(int(self.found.labels[i]))
        label = axes.annotate(
            self.name(i),
            (x + width * right, y + height * (not above)),
            xytext=(0, 4 if above else -4),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if above else "top",
            fontsize=10,
            fontweight="bold" if bold else "normal",
            color=np.divide(annotate.text_color(color), 255),
            zorder=6,
            bbox={
                "boxstyle": "square,pad=0.15",
                "facecolor": np.divide(color, 255),
                "linewidth": 0,
            },
        )
        # A long name takes no room from the other parts and ends at the panels.
        label.set(in_layout=False, clip_on=True, clip_box=axes.figure.bbox)

    def heat(
        self, axes: Axes, heat: np.ndarray, m: int, norm: Normalize | None
    ) -> QuadMesh:
        """Draws attention over the image, in gray.

        Args:
          axes: axes to draw into.
          heat: float [H, W], attention of each position of source level m.
          m: level, from 0.
          norm: color scale in percent.

        Returns:
          The mesh, for a color bar.
        """
        self.show(axes, np.stack([self.gray] * 3, axis=-1))
        stride = self.levels[m].stride
        rows, columns = heat.shape
        y = np.arange(rows + 1) * stride / self.input_size[0] * self.height
        x = np.arange(columns + 1) * stride / self.input_size[1] * self.width
        mesh = axes.pcolormesh(
            x,
            y,
            100 * heat,
            cmap=_HEAT,
            norm=norm,
            edgecolors=(0, 0, 0, 0.18),
            linewidth=0.4 if rows * columns < 600 else 0,
        )
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        return mesh

    def outline_lenders(self, axes: Axes, lenders: Iterable[int]) -> None:
        """Outlines detections that are lenders."""
        for i in lenders:
            self.box(axes, i, edgecolor=LENDER, linewidth=1.6, linestyle="--")
