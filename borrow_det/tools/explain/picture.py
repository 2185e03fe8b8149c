"""Picture of the attention of one detection."""

import textwrap
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from borrow_det.inference.detector import Level
from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import Borrowed, LevelDetections
from borrow_det.visualization import annotate, fonts

_DPI = 100
_HEIGHT = 6.6  # Minimum height, inches.
_PANEL = 1.9  # Minimum height of a row of panels, inches.
_BAR = 0.9  # Width of the color scale, inches.
_CROP = 1.15  # Side of the enlarged object, inches.
_SHOWN_SIDE = 1280  # Larger images are shrunk to this many pixels before drawing.
_LISTED = 12  # Source positions listed in the text.
_LINE = 0.2  # Height of a line of text, inches.
_FOOT = 17.0  # Letters of the footer per inch.


def _heat_map() -> ListedColormap:
    """Colors from transparent white to opaque dark red; the image shows through."""
    colors = colormaps["YlOrRd"](np.linspace(0.05, 1, 256))
    colors[:, 3] = np.linspace(0, 1, 256) ** 0.6 * 0.8
    return ListedColormap(colors)


_HEAT = _heat_map()


def draw_explanation(
    image: np.ndarray,
    found: LevelDetections,
    k: int,
    borrowed: Borrowed,
    levels: Sequence[Level],
    input_size: tuple[int, int],
    class_names: Sequence[str],
    footer: str,
) -> np.ndarray:
    """Draws the attention of detection k.

    On the left is the image with the detection, lines to its strongest source positions
    (wider for more attention), and the detections that contain these. On the right is a
    panel for each source level with the attention of each position, all on one color
    scale.

    Args:
      image: uint8 RGB [H, W, 3].
      found: detections of the image.
      k: index of the detection.
      borrowed: attention of the detection.
      levels: levels of the run.
      input_size: (height, width) of the network's input in pixels.
      class_names: text of each label; see `fonts.class_text`.
      footer: text below the picture.

    Returns:
      uint8 RGB: the figure, about 840 to 1670 pixels wide.
    """
    footer = fonts.readable(footer)
    # Names are untrusted text: a dollar sign in them must not start a formula.
    literal = matplotlib.rc_context({"text.parse_math": False})
    with literal, fonts.figure_text((*class_names, footer)):
        return _draw(
            _Scene(image, found, k, borrowed, levels, input_size, class_names), footer
        )


def _draw(scene: "_Scene", footer: str) -> np.ndarray:
    """Draws a scene; see `draw_explanation`."""
    borrowed = scene.borrowed
    sources = list(borrowed.heat)
    columns, rows = _grid(len(sources) + 1)
    # Inches, regardless of the image's aspect ratio: text needs some width.
    needed = _CROP + _LINE * (1 + len(scene.source_lines()))
    total = max(_HEIGHT, needed + _PANEL * (rows - 1))
    main = np.clip(total * scene.width / scene.height, 4.2, 7.8)
    side = max(main * columns / rows, 3.3 * columns if columns < 3 else 8) + _BAR
    below = textwrap.fill(footer, int(_FOOT * (main + side)))
    foot = 0.15 * (below.count("\n") + 2)
    size = main + side, total + foot
    figure = Figure(size, _DPI, layout="constrained")
    (above,), (bottom,) = figure.subfigures(
        2, 1, squeeze=False, height_ratios=(total, foot)
    )
    bottom.text(0.01, 0.5, below, va="center", fontsize=8, color="#444444")
    ((left, right),) = above.subfigures(1, 2, squeeze=False, width_ratios=(main, side))
    scene.draw_image(left.subplots())
    last_row = max(needed, total / rows)
    heights = [(total - last_row) / max(rows - 1, 1)] * (rows - 1) + [last_row]
    grid = right.add_gridspec(rows, columns, height_ratios=heights)
    end = 100 * borrowed.scale
    norm = Normalize(0, end)
    panels = []
    for i, m in enumerate(sources):
        panels.append(right.add_subplot(grid[i // columns, i % columns]))
        mesh = scene.draw_heat(panels[-1], m, norm)
    bar = right.colorbar(mesh, ax=panels, aspect=40, pad=0.02)
    bar.set_label("attention per source position", fontsize=10)
    # The background of the heat in the panels, which shows through.
    bar.ax.set_facecolor([scene.gray.mean() / 255] * 3)
    bar.ax.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=_decimals(end)))
    last = divmod(len(sources), columns)
    scene.write_text(right.add_subplot(grid[last[0], last[1] :]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _grid(cells: int) -> tuple[int, int]:
    """Returns (columns, rows) of a nearly square grid of this many cells."""
    columns = max(1, int(np.ceil(np.sqrt(cells)))) if cells > 2 else 1
    return columns, -(-cells // columns)


def _decimals(end: float) -> int:
    """Decimals of a color scale in percent that ends here."""
    return 0 if end >= 5 else 1 if end >= 0.5 else 2


class _Scene:
    """State shared by the parts of one picture; see `draw_explanation`."""

    def __init__(
        self,
        image: np.ndarray,
        found: LevelDetections,
        k: int,
        borrowed: Borrowed,
        levels: Sequence[Level],
        input_size: tuple[int, int],
        class_names: Sequence[str],
    ):
        self.height, self.width = image.shape[:2]
        self.image = annotate.shrink(image, _SHOWN_SIDE)
        gray = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
        # Lightened, so that only the heat has a color and the scene stays visible.
        self.gray = 155 + gray // 5 * 2
        self.found, self.k = found, k
        self.borrowed, self.levels, self.input_size = borrowed, levels, input_size
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
        x, y, width, height = self.found.pixels(i, (self.height, self.width))
        outline = Rectangle((x, y), width, height, fill=False, **options)
        axes.add_patch(outline)
        return outline

    def show(self, axes: Axes, image: np.ndarray) -> None:
        """Shows an image, possibly shrunk, in pixels of the original."""
        extent = (0, self.width, self.height, 0)
        axes.imshow(image, extent=extent, interpolation="bilinear")
        axes.set(xticks=[], yticks=[], xlim=(0, self.width), ylim=(self.height, 0))

    def draw_image(self, axes: Axes) -> None:
        """Draws the left panel."""
        self.show(axes, self.image)
        named = {i for s in self.borrowed.sources for i in s.detections} - {self.k}
        for i in (*sorted(named, reverse=True), self.k):
            own = i == self.k
            line = self.box(axes, i, edgecolor=self.color(i), linewidth=2.5)
            line.set_path_effects([withStroke(linewidth=5, foreground="white")])
            self._label(axes, i, bold=own)
        self._lines(axes)
        level = self.levels[self.borrowed.level]
        axes.set_title(
            f"{self.name(self.k)}\nborrows on {text.title(level)}", fontsize=11
        )

    def _lines(self, axes: Axes) -> None:
        """Draws lines from the box to the source positions, the strongest on top."""
        heaviest = max((s.weight for s in self.borrowed.sources), default=1)
        for number, source in reversed(list(enumerate(self.borrowed.sources, start=1))):
            strength = source.weight / heaviest
            x, y = self.point(source.center)
            start = self.point(_border(self.found.boxes[self.k], source.center))
            (line,) = axes.plot(
                (start[0], x),
                (start[1], y),
                color="#d7191c",
                linewidth=1 + 3 * strength,
                alpha=0.5 + 0.5 * strength,
                zorder=4,
            )
            line.set_path_effects(
                [withStroke(linewidth=2.5 + 3 * strength, foreground="white")]
            )
            axes.text(
                x,
                y,
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

    def _label(self, axes: Axes, i: int, bold: bool) -> None:
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

    def draw_heat(self, axes: Axes, m: int, norm: Normalize | None) -> QuadMesh:
        """Draws the panel of source level m; returns the mesh for the color bar."""
        self.show(axes, np.stack([self.gray] * 3, axis=-1))
        heat, stride = self.borrowed.heat[m], self.levels[m].stride
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
        for i in (*self.borrowed.lenders, self.k):
            look = "-" if i == self.k else "--"
            self.box(axes, i, edgecolor="#1f5fa8", linewidth=1.6, linestyle=look)
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        share = text.percent(self.borrowed.shares[m])
        axes.set_title(
            f"{text.title(self.levels[m])}:\n{share} of the attention", fontsize=10
        )
        return mesh

    def write_text(self, axes: Axes) -> None:
        """Draws the enlarged object with its descriptors, and writes the numbers."""
        axes.set_axis_off()
        # Inches from the top left, so that text and object fit regardless of panels.
        # The stubs ask for an affine transform, which transAxes is.
        corner = ScaledTranslation(0, 1, axes.transAxes)  # type: ignore[arg-type]
        inches = axes.figure.dpi_scale_trans + corner
        self._crop(axes.inset_axes((0, -_CROP, _CROP, _CROP), transform=inches))
        for x, y, lines in (
            (_CROP + 0.15, 0, self._object_lines()),
            (0, -_CROP - 0.12, self.source_lines()),
        ):
            axes.text(
                x,
                y,
                "\n".join(lines),
                va="top",
                fontsize=9.5,
                linespacing=1.3,
                transform=inches,
                in_layout=False,
            )

    def _crop(self, axes: Axes) -> None:
        """Draws the enlarged object with the centers of its descriptors."""
        self.show(axes, self.image)
        x, y, width, height = self.found.pixels(self.k, (self.height, self.width))
        half = max(width, height, 8)
        middle = x + width / 2, y + height / 2
        axes.set_xlim(middle[0] - half, middle[0] + half)
        axes.set_ylim(middle[1] + half, middle[1] - half)
        self.box(axes, self.k, edgecolor=self.color(self.k), linewidth=2)
        for center in self.borrowed.descriptors:
            axes.add_patch(
                Circle(
                    self.point(center),
                    half / 22,
                    facecolor="white",
                    edgecolor="black",
                    linewidth=1,
                )
            )

    def _object_lines(self) -> list[str]:
        _, _, width, height = self.found.pixels(self.k, (self.height, self.width))
        own = self.levels[self.found.levels[self.k]]
        count = len(self.borrowed.descriptors)
        return [
            self.name(self.k),
            f"{width:.0f} x {height:.0f} pixels",
            f"anchor on {own.name}",
            f"○ {count} descriptor{'s' * (count > 1)} of",
            f"    {self.levels[self.borrowed.level].name}",
        ]

    def source_lines(self) -> list[str]:
        """Returns the numbers, line by line."""
        borrowed = self.borrowed
        precision = text.attention_precision(borrowed)
        if borrowed.attention_precision is None:
            lines = ["Attention precision:", f"{precision}."]
        else:
            lines = [
                f"Attention precision: {precision},",
                "inside its lenders (dashed).",
            ]
        lines += ["Strongest source positions:", text.strongest(borrowed)]
        for number, source in enumerate(borrowed.sources[:_LISTED], start=1):
            held = text.location(source, self.k, borrowed, self.found, self.class_names)
            name = self.levels[source.level].name
            line = f"{number}  {text.weight(source.weight)}  {name}, {held}"
            lines.append(text.cut(line, 50))
        more = len(borrowed.sources) - _LISTED
        return lines + [f"… {more} more"] * (more > 0)


def _border(box: np.ndarray, target: Sequence[float]) -> np.ndarray:
    """Returns the point where the line from a box's center to (y, x) leaves the box."""
    center, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    way = np.asarray(target) - center
    # The point may be inside the box or at its center.
    steps = half / np.maximum(np.abs(way), 1e-9)
    return center + way * min(1.0, steps.min())
