"""Picture of the attention of one detection."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import ScaledTranslation

from borrow_det.inference.detector import Level
from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import Borrowed, LevelDetections
from borrow_det.tools.explain.reference_panels import ReferencePanels
from borrow_det.tools.explain.references import Reference
from borrow_det.tools.explain.shown_image import LENDER, ShownImage
from borrow_det.visualization import fonts

_DPI = 100
_HEIGHT = 6.6  # Minimum height, inches.
_PANEL = 1.9  # Minimum height of a row of panels, inches.
_BAR = 0.9  # Width of the color scale, inches.
_CROP = 1.15  # Side of the enlarged object, inches.
_LISTED = 12  # Source positions listed in the text.
_LINE = 0.2  # Height of a line of text, inches.
_FOOT = 17.0  # Letters of the footer per inch.


def draw_explanation(
    image: np.ndarray,
    found: LevelDetections,
    k: int,
    borrowed: Borrowed,
    levels: Sequence[Level],
    input_size: tuple[int, int],
    class_names: Sequence[str],
    footer: str,
    references: Sequence[Reference] = (),
) -> np.ndarray:
    """Draws the attention of detection k.

    On the left is the image with the detection, lines to its strongest source positions
    (wider for more attention), and the detections that contain these. On the right is a
    panel for each source level with the attention of each position, all on one color
    scale. Below are the references with the most attention, if present.

    Args:
      image: uint8 RGB [H, W, 3].
      found: detections of the image.
      k: index of the detection.
      borrowed: attention of the detection.
      levels: levels of the run.
      input_size: (height, width) of the network's input in pixels.
      class_names: text of each label; see `fonts.class_text`.
      footer: text below the picture.
      references: references of the image.

    Returns:
      uint8 RGB: the figure, about 840 to 1670 pixels wide.
    """
    footer = fonts.readable(footer)
    # Names are untrusted text: a dollar sign in them must not start a formula.
    literal = matplotlib.rc_context({"text.parse_math": False})
    references = [r._replace(name=fonts.readable(r.name)) for r in references]
    names = [reference.name for reference in references]
    with literal, fonts.figure_text((*class_names, *names, footer)):
        scene = _Scene(
            image, found, k, borrowed, levels, input_size, class_names, references
        )
        return _draw(scene, footer)


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
    panels_of = ReferencePanels(scene, scene.references, borrowed)
    middle = panels_of.height(main + side)
    heights = [total, middle, foot] if middle else [total, foot]
    figure = Figure((main + side, sum(heights)), _DPI, layout="constrained")
    (above,), *between, (bottom,) = figure.subfigures(
        len(heights), 1, squeeze=False, height_ratios=heights
    )
    bottom.text(0.01, 0.5, below, va="center", fontsize=8, color="#444444")
    ((left, right),) = above.subfigures(1, 2, squeeze=False, width_ratios=(main, side))
    scene.draw_image(left.subplots())
    last_row = max(needed, total / rows)
    of_rows = [(total - last_row) / max(rows - 1, 1)] * (rows - 1) + [last_row]
    grid = right.add_gridspec(rows, columns, height_ratios=of_rows)
    end = 100 * borrowed.scale
    norm = Normalize(0, end)
    panels = []
    for i, m in enumerate(sources):
        panels.append(right.add_subplot(grid[i // columns, i % columns]))
        mesh = scene.draw_heat(panels[-1], m, norm)
    for (part,) in between:
        panels_of.draw(part, norm)
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


class _Scene(ShownImage):
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
        references: Sequence[Reference] = (),
    ):
        super().__init__(image, found, levels, input_size, class_names)
        self.k, self.borrowed, self.references = k, borrowed, references

    def draw_image(self, axes: Axes) -> None:
        """Draws the left panel."""
        self.show(axes, self.image)
        sources = self.borrowed.sources_in(None)
        named = {i for _, s in sources for i in s.detections} - {self.k}
        for i in (*sorted(named, reverse=True), self.k):
            own = i == self.k
            line = self.box(axes, i, edgecolor=self.color(i), linewidth=2.5)
            line.set_path_effects([withStroke(linewidth=5, foreground="white")])
            self.label(axes, i, bold=own)
        self._lines(axes)
        level = self.levels[self.borrowed.level]
        axes.set_title(
            f"{self.name(self.k)}\nborrows on {text.title(level)}", fontsize=11
        )

    def _lines(self, axes: Axes) -> None:
        """Draws lines from the box to the source positions, the strongest on top."""
        heaviest = max((s.weight for s in self.borrowed.sources), default=1)
        for number, source in self.borrowed.sources_in(None):
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
            self.mark(axes, number, source.center)

    def draw_heat(self, axes: Axes, m: int, norm: Normalize | None) -> QuadMesh:
        """Draws the panel of source level m; returns the mesh for the color bar."""
        mesh = self.heat(axes, self.borrowed.heat[m], m, norm)
        self.outline_lenders(axes, self.borrowed.lenders)
        self.box(axes, self.k, edgecolor=LENDER, linewidth=1.6, linestyle="-")
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
            held = text.location(
                source,
                self.k,
                borrowed,
                self.found,
                self.class_names,
                [reference.found for reference in self.references],
            )
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
