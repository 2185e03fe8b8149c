"""Pictures of hits, false positives and objects that are not found."""

import dataclasses
import itertools

import numpy as np
import pytest

from borrow_det.visualization import annotate, outcomes

GRAY = np.full((400, 400, 3), 128, np.uint8)
CORNERS = [(0.4, 0.4, 0.6, 0.6), (0.50, 0.50, 0.52, 0.53)]


@pytest.mark.parametrize("box", CORNERS, ids=["large", "small"])
def test_outlines_differ_without_color_and_labels(box):
    drawn = []
    for style in outcomes.STYLES:
        white = dataclasses.replace(style, color=(255, 255, 255))
        mark = white.mark(box)._replace(text="a")
        drawn.append(annotate.draw_marks(GRAY, [mark], side=400))
    hit, wrong, lost, ignored = drawn
    for a, b in itertools.combinations((hit, wrong, lost), 2):
        assert np.count_nonzero((a != b).any(axis=-1)) >= 10
    # Ignored objects are told apart by the sign and the color.
    assert (hit == ignored).all()
    assert len({style.sign for style in outcomes.STYLES}) == 4
    assert len({style.color for style in outcomes.STYLES}) == 4


def test_a_dashed_outline_has_the_given_lengths():
    mark = annotate.Mark((0.25, 0.25, 0.75, 0.75), "a", (255, 0, 0), dash=(9, 4))
    picture = annotate.draw_marks(GRAY, [mark], side=400)
    # The line of 2 pixels is just outside the box, whose top left corner is (100, 100).
    row = picture[99, 98:302]
    red = (row == (255, 0, 0)).all(axis=-1)
    expected = np.tile([True] * 18 + [False] * 8, 8)[: len(red)]
    assert (red[2:-2] == expected[2:-2]).all()  # The corners are of the other sides.
    assert (row[~red] == 0).all()


def test_only_false_positives_are_crossed():
    for style in outcomes.STYLES:
        mark = style.mark((0.25, 0.25, 0.75, 0.75), "a")
        center = annotate.draw_marks(GRAY, [mark], side=400)[195:205, 195:205]
        assert (center != 128).any() == (style is outcomes.WRONG)


def test_the_caption_is_above_the_picture():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 700, 3), np.uint8)
    one = outcomes.captioned(picture, ["a line"])
    assert (one[-60:] == picture).all()
    strip = one[:-60]
    assert (strip == 255).all(axis=-1).mean() > 0.8
    assert (strip == 0).any()
    two = outcomes.captioned(picture, ["a line", "another"])
    legend = outcomes.captioned(picture, ["a line"], outcomes.STYLES)
    assert len(one) < len(two) <= len(legend)
    for style in outcomes.STYLES:
        assert (legend == style.color).all(axis=-1).any()


def test_a_narrow_picture_leaves_room_for_the_legend():
    picture = np.zeros((60, 90, 3), np.uint8)
    captioned = outcomes.captioned(picture, ["a line"], outcomes.STYLES)
    assert (captioned[-60:, :90] == picture).all()
    assert (captioned[-60:, 90:] == 255).all()
    strip = captioned[:-60]
    assert (strip[:, -5:] == 255).all()
    for style in outcomes.STYLES:
        assert (strip == style.color).all(axis=-1).any()


def test_long_lines_are_wrapped_and_nothing_is_cut_off():
    picture = np.zeros((10, 500, 3), np.uint8)
    for line in ("word " * 60, "x" * 300, "宽" * 200):
        captioned = outcomes.captioned(picture, [line])
        ink = (captioned[:-10] < 128).any(axis=-1)
        assert not ink[:, -3:].any()
        assert len(captioned) > 70  # Three lines at least.
