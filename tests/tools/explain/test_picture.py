"""The pictures of explain."""

import numpy as np
import pytest
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from borrow_det.inference.detector import Level
from borrow_det.tools.explain import picture as picture_lib
from borrow_det.tools.explain.explanation import (
    Borrowed,
    BorrowedReference,
    LevelDetections,
    SourcePosition,
)
from borrow_det.tools.explain.reference_panels import ReferencePanels
from borrow_det.tools.explain.references import Reference


def test_heat_is_drawn_at_its_position():
    # 2 x 2 cells of level 3 of 64 pixels, in an image of 200 x 100.
    found = LevelDetections(
        np.array([[0.1, 0.1, 0.2, 0.2]], "f4"),
        np.ones(1, "f4"),
        np.zeros(1, "i4"),
        np.zeros(1, "i4"),
    )
    heat = {2: np.array([[0.0, 0.0], [1.0, 0.0]])}
    borrowed = Borrowed(0, np.array([[0.1, 0.1]]), heat, (), (), 0.0, None)
    levels = tuple(Level(n + 1, f"l{n}", 8 << n, (8 >> n,) * 2) for n in range(4))
    picture = picture_lib.draw_explanation(
        np.full((200, 100, 3), 128, np.uint8), found, 0, borrowed, levels, (64, 64),
        ["puffin"], "A footer.",
    ).astype(int)  # fmt: skip
    # The color scale ends in the same red; only the panel's cell is a block of it.
    right = picture[:345, 450:755]
    red = (right[..., 0] - right[..., 2] > 50) & (right[..., 1] < 110)
    columns = np.flatnonzero(red.sum(axis=0) > 60)
    rows = np.flatnonzero(red[:, columns].sum(axis=1) > 40)
    assert len(columns) > 40
    assert len(rows) == pytest.approx(2 * len(columns), rel=0.1)
    # The other cells, above and to its right, show only the lightened image.
    light = 155 + 128 // 5 * 2
    assert (right[rows[0] - 30, columns[5:-5]] == light).all()
    assert (right[rows[-1] - 30, columns[5:-5] + len(columns)] == light).all()
    assert borrowed.scale == 1.0


def scene_of(borrowed, *boxes, size=(100, 400)):
    """A scene whose sides differ fourfold: x for y shows."""
    found = LevelDetections(
        np.array(boxes, "f4"),
        np.ones(len(boxes), "f4"),
        np.zeros(len(boxes), "i4"),
        np.zeros(len(boxes), "i4"),
    )
    levels = (Level(1, "a", 8, (8, 8)), Level(2, "b", 16, (4, 4)))
    image = np.zeros((*size, 3), np.uint8)
    return picture_lib._Scene(image, found, 0, borrowed, levels, (64, 64), ["puffin"])


# 20 x 10 % of the image: of 400 x 100 pixels, x 40..80 and y 30..50.
BOX = (0.3, 0.1, 0.5, 0.2)


@pytest.mark.parametrize(
    ("target", "border"),
    [
        ((0.4, 0.9), (0.4, 0.2)),  # To the right: the right side's middle.
        ((0.0, 0.15), (0.3, 0.15)),  # Above.
        ((0.8, 0.35), (0.5, 0.2)),  # Through the corner: 0.4 down by 0.2 right.
        ((0.45, 0.16), (0.45, 0.16)),  # Inside: the point itself.
        ((0.4, 0.15), (0.4, 0.15)),  # The center.
    ],
)
def test_a_line_leaves_the_box_at_its_border(target, border):
    found = picture_lib._border(np.array(BOX), target)
    assert found == pytest.approx(border, abs=1e-6)


def test_lines_lead_from_the_border_to_the_sources():
    sources = (
        SourcePosition(1, (0.4, 0.9), 0.6, ()),
        SourcePosition(1, (0.9, 0.15), 0.3, ()),
    )
    heat = {1: np.zeros((4, 4))}
    borrowed = Borrowed(0, np.zeros((1, 2)), heat, sources, (), 0.0, None)
    axes = Figure().add_subplot()
    scene_of(borrowed, BOX)._lines(axes)
    # The strongest is drawn last, on top.
    second, first = (line.get_xydata().ravel().tolist() for line in axes.lines)
    assert first == pytest.approx([80, 40, 360, 40], abs=1e-4)
    assert second == pytest.approx([60, 50, 60, 90], abs=1e-4)
    widths = [line.get_linewidth() for line in axes.lines]
    assert widths == [1 + 3 * 0.5, 4]
    numbers = {t.get_text(): t.get_position() for t in axes.texts}
    assert numbers["1"] == pytest.approx((360, 40))
    assert numbers["2"] == pytest.approx((60, 90))


def test_the_object_is_enlarged_around_its_center_with_its_descriptors():
    centers = np.array([[0.35, 0.125], [0.45, 0.175]])
    borrowed = Borrowed(0, centers, {1: np.zeros((4, 4))}, (), (), 0.0, None)
    axes = Figure().add_subplot()
    scene_of(borrowed, BOX)._crop(axes)
    # 40 x 20 pixels around (60, 40): a square of twice the larger side.
    assert axes.get_xlim() == pytest.approx((20, 100))
    assert axes.get_ylim() == pytest.approx((80, 0))
    box, *dots = axes.patches
    assert box.get_bbox().bounds == pytest.approx((40, 30, 40, 20), abs=1e-4)
    assert [dot.center for dot in dots] == [
        pytest.approx((50, 35)), pytest.approx((70, 45)),
    ]  # fmt: skip


def test_lenders_are_dashed_and_unlisted_positions_are_counted():
    sources = tuple(SourcePosition(1, (0.5, 0.5), 0.05, ()) for _ in range(15))
    heat = {1: np.full((4, 4), 1 / 16)}
    borrowed = Borrowed(0, np.zeros((1, 2)), heat, sources, (1,), 0.5, 0.5)
    scene = scene_of(borrowed, BOX, (0.0, 0.5, 1.0, 1.0))
    axes = Figure().add_subplot()
    scene.draw_heat(axes, 1, None)
    larger, own = axes.patches
    assert (larger.get_linestyle(), own.get_linestyle()) == ("--", "-")
    assert larger.get_bbox().bounds == pytest.approx((200, 0, 200, 100))
    lines = scene.source_lines()
    assert lines[0] == "Attention precision: 50\u00a0% (even spread: 50\u00a0%),"
    assert lines[3] == "15 of 16 positions, 75\u00a0% together"
    assert lines[-2].startswith("12  5.0\u00a0%  b, in no detection")
    assert lines[-1] == "… 3 more"


def test_a_long_name_takes_no_room_from_the_picture():
    def size(name):
        heat = {1: np.full((4, 4), 1 / 16)}
        sources = (SourcePosition(1, (0.5, 0.5), 0.05, (0, 1)),)
        borrowed = Borrowed(0, np.zeros((1, 2)), heat, sources, (1,), 0.5, 0.5)
        scene = scene_of(borrowed, BOX, (0.0, 0.5, 1.0, 1.0), size=(300, 60))
        scene.class_names = [name]
        return picture_lib._draw(scene, "A footer.").astype(int)

    short, long = size("a"), size("W" * 80)
    assert short.shape == long.shape
    # The image's black without labels has not moved.
    black = [(picture == 0).all(axis=-1) for picture in (short, long)]
    rows = [np.flatnonzero(b.sum(axis=1) > 60)[[0, -1]] for b in black]
    np.testing.assert_allclose(*rows, atol=2)


# --- references

SHARES = (0.05, 0.4, 0.0, 0.2, 0.1)


def with_references(shares, view=None):
    """A scene of a detection with this attention to references, on two levels."""
    parts = tuple(
        BorrowedReference(
            {1: np.full((4, 4), share / 64), 2: np.full((2, 2), share * 0.75 / 4)}, (1,)
        )
        for share in shares
    )
    sources = (
        SourcePosition(2, (0.25, 0.75), 0.075, (1,), 1),
        SourcePosition(1, (0.5, 0.5), 0.02, ()),
        SourcePosition(2, (0.75, 0.25), 0.03, (), 3),
    )
    heat = {1: np.full((4, 4), (1 - sum(shares)) / 16), 2: np.zeros((2, 2))}
    borrowed = Borrowed(0, np.zeros((1, 2)), heat, sources, (), 0.5, 0.5, parts)
    scene = scene_of(borrowed, BOX, size=(100, 100))
    scene.levels = (*scene.levels, Level(3, "c", 32, (2, 2)))
    # References have other sizes and detections than the image.
    found = scene.found._replace(
        boxes=np.array([BOX, (0.0, 0.5, 0.5, 1.0)], "f4"),
        scores=np.array([0.9, 0.8], "f4"),
        labels=np.zeros(2, "i4"),
    )
    scene.references = [
        Reference(
            i, f"videos/{i}.png", np.zeros((60, 80, 3), np.uint8), found, (), view
        )
        for i in range(len(shares))
    ]
    return scene


def drawn_panels(scene):
    panels = ReferencePanels(scene, scene.references, scene.borrowed)
    assert panels.height(12.0) > 1
    figure = Figure((12, 4)).subfigures(1, 1)
    panels.draw(figure, Normalize(0, 10))
    return figure.axes, figure.get_suptitle()


def test_the_strongest_references_have_panels_and_the_others_are_counted():
    axes, title = drawn_panels(with_references(SHARES))
    assert title == (
        "References: 75\u00a0% of the attention; lenders are dashed; not drawn: 1 "
        "more, 5\u00a0%"
    )
    assert [panel.get_title() for panel in axes] == [
        f"borrowed {share}\u00a0% from reference {i + 1}, {i}.png\n"
        f"heat: {level}\u00a0% on level 3, c, stride 32"
        for i, share, level in ((1, 40, 30), (3, 20, 15), (4, 10, 8))
    ]
    # Numbers are those of the list, in pixels of the reference; so are lenders.
    numbers = [
        {t.get_text(): t.get_position() for t in panel.texts if t.get_text().isdigit()}
        for panel in axes
    ]
    assert numbers == [
        {"1": pytest.approx((60, 15))}, {"3": pytest.approx((20, 45))}, {},
    ]  # fmt: skip
    # Lenders that hold a numbered position are named.
    assert [
        [t.get_text() for t in panel.texts if "puffin" in t.get_text()]
        for panel in axes
    ] == [["puffin 0.80"], [], []]
    (lender,) = axes[0].patches
    assert lender.get_linestyle() == "--"
    assert lender.get_bbox().bounds == pytest.approx((40, 0, 40, 30))
    (heat,) = axes[0].collections
    np.testing.assert_allclose(heat.get_array(), np.full((2, 2), 7.5))
    assert heat.get_coordinates()[-1, -1].tolist() == [80, 60]


def test_a_view_is_outlined_in_its_overview():
    axes, title = drawn_panels(with_references((0.4, 0.1), (0.5, 0.25, 1.0, 0.75)))
    assert title.endswith("; lenders are dashed, and the tile above is dotted")
    _, view = axes[0].patches
    assert view.get_linestyle() == ":"
    assert view.get_bbox().bounds == pytest.approx((20, 30, 40, 30))


def test_only_references_with_attention_add_a_row():
    without, with_some = (
        picture_lib._draw(with_references(shares), "A footer.")
        for shares in ((0.0,) * 5, SHARES)
    )
    assert without.shape[0] == pytest.approx(660 + 45, abs=15)  # As without references.
    assert with_some.shape[1] == without.shape[1]
    assert with_some.shape[0] > without.shape[0] + 160


def test_lines_lead_to_positions_in_the_image_only():
    axes = Figure().add_subplot()
    with_references(SHARES)._lines(axes)
    assert [t.get_text() for t in axes.texts] == ["2"]
    assert len(axes.lines) == 1
