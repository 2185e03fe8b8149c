"""The picture of what one detection borrowed: where from, and how much."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.patheffects import withStroke

from borrow_det import visualize
from borrow_det.tasks.detector import Level
from borrow_det.tools.explanation import Borrowed, Found

_DPI = 100
_MAIN = 6.4  # Longer side of the left panel, inches.
_SHOWN_SIDE = 1280  # Larger images are shrunk to this many pixels before drawing.
_NAMED = 2  # Detections named in a source's line; the others are counted.


def _heat_map():
    """From a transparent white to an opaque dark red: the image shows through."""
    colors = colormaps["YlOrRd"](np.linspace(0.05, 1, 256))
    colors[:, 3] = np.linspace(0, 1, 256) ** 0.6 * 0.9
    return ListedColormap(colors)


_HEAT = _heat_map()
_HALO = [withStroke(linewidth=3, foreground="white")]


def draw(
    image: np.ndarray,
    found: Found,
    k: int,
    borrowed: Borrowed,
    levels: Sequence[Level],
    input_size: tuple[int, int],
    class_names: Sequence[str],
) -> np.ndarray:
    """Draws what detection k borrowed.

    Left, the image with the small object, lines to its strongest sources, as wide as
    their weights, and the detections that hold these; right, a panel a source level
    with the share of the attention that each of its cells has, on one colour scale.

    Args:
      image: uint8 RGB [H, W, 3].
      found: the image's detections.
      k: the detection.
      borrowed: what it borrowed.
      levels: the run's.
      input_size: (height, width) of the network's input in pixels.
      class_names: the name of each label.

    Returns:
      uint8 RGB: the figure, some 1300 to 1600 pixels wide.
    """
    scene = _Scene(image, found, k, borrowed, levels, input_size, class_names)
    sources = list(borrowed.heat)
    columns, rows = _grid(len(sources) + 1)
    height, width = image.shape[:2]
    # Panels of photographs in any format stay between these widths, in inches.
    main = _MAIN * np.clip(width / height, 0.6, 1.6) / max(1.0, width / height * 0.8)
    panel = max(main * columns / rows, 3.4 * columns)
    figure = Figure(figsize=(main + panel + 0.9, _MAIN), dpi=_DPI, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(main, panel + 0.9))
    scene.draw_image(left.subplots())
    grid = right.add_gridspec(rows, columns)
    norm = Normalize(0, 100 * max(heat.max() for heat in borrowed.heat.values()))
    panels = []
    for i, m in enumerate(sources):
        panels.append(right.add_subplot(grid[i // columns, i % columns]))
        mesh = scene.draw_heat(panels[-1], m, norm)
    bar = right.colorbar(mesh, ax=panels, shrink=0.9, pad=0.02)
    bar.set_label("share of the attention in a cell", fontsize=10)
    bar.ax.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=_decimals(norm)))
    last = len(sources)
    text = grid[last // columns, last % columns :].subgridspec(1, 1)
    scene.write_text(right.add_subplot(text[0, 0]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _grid(cells):
    """(columns, rows) that hold so many cells, as square as can be."""
    columns = max(1, int(np.ceil(np.sqrt(cells)))) if cells > 2 else 1
    return columns, -(-cells // columns)


def _decimals(norm):
    return 0 if norm.vmax >= 5 else 1 if norm.vmax >= 0.5 else 2


class _Scene:
    """What the parts of one picture have in common; see `draw`."""

    def __init__(self, image, found, k, borrowed, levels, input_size, class_names):
        self.height, self.width = image.shape[:2]
        shrink = min(1.0, _SHOWN_SIDE / max(image.shape[:2]))
        if shrink < 1:
            size = tuple(max(1, round(s * shrink)) for s in (self.width, self.height))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self.image, self.found, self.k = image, found, k
        self.borrowed, self.levels, self.input_size = borrowed, levels, input_size
        self.class_names = class_names

    def color(self, i):
        """The colour of detection i's class."""
        return np.array(visualize.class_color(int(self.found.labels[i]))) / 255

    def name(self, i):
        """Class and score of detection i."""
        label = self.class_names[int(self.found.labels[i])]
        return f"{label} {self.found.scores[i]:.2f}"

    def point(self, center):
        """Pixels (x, y) of a normalised (y, x)."""
        return center[1] * self.width, center[0] * self.height

    def box(self, axes, i, **options):
        """Outlines detection i."""
        y0, x0, y1, x1 = self.found.boxes[i] * np.tile((self.height, self.width), 2)
        return axes.add_patch(
            Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, **options)
        )

    def show(self, axes, image):
        """The image in pixels of the original, whatever it was shrunk to."""
        extent = (0, self.width, self.height, 0)
        axes.imshow(image, extent=extent, interpolation="bilinear")
        axes.set(xticks=[], yticks=[], xlim=(0, self.width), ylim=(self.height, 0))

    def draw_image(self, axes):
        """The left panel."""
        self.show(axes, self.image)
        named = {i for s in self.borrowed.sources for i in s.detections} - {self.k}
        for i in (*sorted(named, reverse=True), self.k):
            own = i == self.k
            line = self.box(axes, i, edgecolor=self.color(i), linewidth=2.5)
            line.set_path_effects([withStroke(linewidth=5, foreground="white")])
            self._label(axes, i, bold=own)
        start = self.point((self.found.boxes[self.k].reshape(2, 2)).mean(axis=0))
        self._lines(axes, start)
        level = self.levels[self.borrowed.level]
        axes.set_title(f"{self.name(self.k)}: borrows on {_title(level)}", fontsize=12)

    def _lines(self, axes, start):
        heaviest = max((s.weight for s in self.borrowed.sources), default=1)
        for number, source in reversed(list(enumerate(self.borrowed.sources, start=1))):
            strength = source.weight / heaviest
            x, y = self.point(source.center)
            (line,) = axes.plot(
                (start[0], x),
                (start[1], y),
                color="#d7191c",
                linewidth=1 + 3 * strength,
                alpha=0.35 + 0.65 * strength,
                zorder=4,
            )
            line.set_path_effects(
                [withStroke(linewidth=3 + 3 * strength, foreground="white")]
            )
            axes.text(
                x,
                y,
                str(number),
                fontsize=9,
                color="white",
                ha="center",
                va="center",
                zorder=5,
                bbox={
                    "boxstyle": "circle,pad=0.2",
                    "facecolor": "#a50f15",
                    "edgecolor": "white",
                },
            )

    def _label(self, axes, i, bold):
        """The detection's name above its box, or below where there is no room."""
        y0, x0, y1, _ = self.found.boxes[i] * np.tile((self.height, self.width), 2)
        above = y0 > 0.06 * self.height
        color = self.color(i)
        bright = color @ (0.299, 0.587, 0.114) > 0.55
        right = x0 > 0.75 * self.width
        axes.annotate(
            self.name(i),
            (self.found.boxes[i][3] * self.width if right else x0, y0 if above else y1),
            xytext=(0, 4 if above else -4),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if above else "top",
            fontsize=10,
            fontweight="bold" if bold else "normal",
            color="black" if bright else "white",
            zorder=6,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": color, "linewidth": 0},
        )

    def draw_heat(self, axes, m, norm):
        """The panel of source level m; returns the mesh for the colour bar."""
        grey = cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)
        # Lightened, so that the heat is all that has a colour, and the scene is seen.
        self.show(axes, np.stack([110 + grey // 7 * 4] * 3, axis=-1).astype(np.uint8))
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
            linewidth=0.4 if rows * columns < 1000 else 0.15,
        )
        for i in (*self.borrowed.lenders, self.k):
            look = "-" if i == self.k else "--"
            self.box(axes, i, edgecolor="#1f5fa8", linewidth=1.6, linestyle=look)
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        share = 100 * self.borrowed.shares[m]
        axes.set_title(
            f"{_title(self.levels[m])}:\n{share:.0f} % of the attention", fontsize=10
        )
        return mesh

    def write_text(self, axes):
        """The object, enlarged, with its descriptors, and the numbers."""
        axes.set_axis_off()
        crop = axes.inset_axes((0.0, 0.62, 0.36, 0.38))
        self._crop(crop)
        text = {"va": "top", "fontsize": 10, "transform": axes.transAxes}
        axes.text(0.4, 1.0, self._object_text(), **text)
        axes.text(0.0, 0.58, self._source_text(), linespacing=1.35, **text)

    def _crop(self, axes):
        self.show(axes, self.image)
        y0, x0, y1, x1 = self.found.boxes[self.k] * np.tile(
            (self.height, self.width), 2
        )
        half = max(y1 - y0, x1 - x0, 8)
        middle = (x0 + x1) / 2, (y0 + y1) / 2
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

    def _object_text(self):
        y0, x0, y1, x1 = self.found.boxes[self.k] * np.tile(
            (self.height, self.width), 2
        )
        level = self.levels[self.borrowed.level]
        own = self.levels[self.found.levels[self.k]]
        count = len(self.borrowed.descriptors)
        lines = [
            self.name(self.k),
            f"{x1 - x0:.0f} x {y1 - y0:.0f} pixels",
            f"anchor: level {own.number}, {own.name}",
            f"○ {count} descriptor{'s' * (count > 1)} of",
            f"    level {level.number}, {level.name}",
        ]
        return "\n".join(lines)

    def _source_text(self):
        if self.borrowed.precision is None:
            lines = ["No larger detection of its class."]
        else:
            lines = [
                f"{100 * self.borrowed.precision:.0f} % of the attention inside of "
                "larger",
                "detections of its class (dashed)",
            ]
        lines.append("strongest sources:")
        for number, source in enumerate(self.borrowed.sources, start=1):
            level = self.levels[source.level]
            inside = [self.name(i) for i in source.detections]
            where = ", ".join(inside[:_NAMED]) or "no detection"
            if len(inside) > _NAMED:
                where += f" and {len(inside) - _NAMED} more"
            lines.append(
                f" {number}  {100 * source.weight:.1f} %  {level.name}, in {where}"
            )
        return "\n".join(lines)


def _title(level):
    return f"level {level.number}, {level.name}, stride {level.stride}"
