"""Contents and pixels of scenes, made of objects that this file invents."""

import itertools

import numpy as np
import pytest

from borrow_det.data.datasets import object_pairs_scenes as scenes
from borrow_det.data.datasets.cut_outs import MAX_ASPECT, Colors, CutOut

SIDE = 192
COUNT = 120
GRAY = Colors(np.full(3, 128.0), 400.0 * np.eye(3))


def cut_out(label, number, height, width, context=0.1):
    """An object with a box of that size and a margin, at the top left."""
    extent = np.array([height, width])
    margin = np.ceil(context * extent).astype(int)
    size = extent + 2 * margin
    box = np.concatenate([margin / size, (margin + extent) / size])
    return CutOut(number, 0, label, (0, 0, *size.tolist()), tuple(box.tolist()))


@pytest.fixture(scope="module")
def cut_outs():
    """Six objects of each of five classes, from the widest to the highest."""
    aspects = np.linspace(-1, 1, 6)
    return {
        label: [
            cut_out(label, 10 * label + i, round(100 * r), round(100 / r))
            for i, r in enumerate(MAX_ASPECT ** (aspects / 2))
        ]
        for label in (0, 1, 3, 4, 6)
    }


@pytest.fixture(scope="module")
def made(cut_outs):
    """The first scenes with other instances."""
    return [make(cut_outs, i) for i in range(COUNT)]


def make(cut_outs, index, side=SIDE, same=False, split_number=1):
    return scenes.make_scene((0, split_number, index), side, cut_outs, 9, same)


def sides(placed, side=SIDE):
    """Square root of the area of each box, relative to the side of the scene."""
    boxes = np.array([p.box for p in placed])
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) / side


def labels(placed):
    return [p.cut_out.label for p in placed]


def test_large_and_small_objects_have_their_sizes(made):
    large = np.concatenate([sides(s.large + s.swapped) for s in made])
    small = np.concatenate([sides(s.small) for s in made])
    rounding = 0.5 / SIDE  # Of windows, whose sides are whole pixels.
    assert 0.25 - 2 * rounding <= large.min() < 0.255
    assert 0.305 < large.max() <= 0.31 + 2 * rounding
    assert 0.055 - 2 * rounding <= small.min() < 0.057
    assert 0.073 < small.max() <= 0.075 + 2 * rounding
    for scene in made:
        assert all(p.is_large for p in scene.large + scene.swapped)
        assert not any(p.is_large for p in scene.small)


def test_aspect_ratios_are_kept(made):
    for placed in itertools.chain.from_iterable(s.objects("validation") for s in made):
        height, width = placed.cut_out.size
        expected = placed.size[0] / height * width
        assert abs(placed.size[1] - expected) <= 0.5 + 0.5 * max(
            width / height, height / width
        )


def test_classes_of_small_objects_are_those_of_the_large_ones(made):
    counts = set()
    seen = set()
    for scene in made:
        first, second = labels(scene.large)
        assert first != second
        small = labels(scene.small)
        assert set(small) <= {first, second}
        counts.add(len(small))
        seen |= {small.count(first) / len(small), *map(type, small)}
    assert counts == {2, 3, 4}
    assert {0.0, 0.5, 1.0} <= seen  # None, half and all of the first class.


def test_all_pairs_of_classes_are_equally_likely(made):
    pairs = [frozenset(labels(s.large)) for s in made]
    frequencies = [pairs.count(pair) for pair in set(pairs)]
    assert len(frequencies) == 10
    # 12 are expected of each, with a standard deviation of 3.3.
    assert min(frequencies) >= 2
    assert max(frequencies) <= 24


def test_boxes_are_inside_apart_and_far_from_the_lenders(made, cut_outs):
    edges = set()
    at_the_least_size = [make(cut_outs, i, side=96) for i in range(COUNT)]
    for scene, side in itertools.chain(
        ((s, SIDE) for s in made), ((s, 96) for s in at_the_least_size)
    ):
        small = np.array([p.box for p in scene.small]) / side
        centers = (small[:, :2] + small[:, 2:]) / 2
        for split in ("validation", "swapped"):
            boxes = np.array([p.box for p in scene.objects(split)]) / side
            assert boxes.min() > 0
            assert boxes.max() < 1
            for a, b in itertools.combinations(boxes, 2):
                gap = np.maximum(a[:2] - b[2:], b[:2] - a[2:]).max()
                assert gap > 0
            large = boxes[:2]
            low, high = large[:, None, :2] - centers, centers - large[:, None, 2:]
            distance = np.maximum(low, high).max(axis=-1)
            assert distance.min() >= 0.28
        step = centers.mean(axis=0) - 0.5
        axis = int(np.abs(step).argmax())
        edges.add((axis, step[axis] > 0))
    assert len(edges) == 4


def test_small_objects_are_other_instances_or_the_same_one(cut_outs, made):
    for i, other in enumerate(made[:30]):
        same = make(cut_outs, i, same=True)
        lenders = {p.cut_out.label: p.cut_out for p in other.large}
        assert all(p.cut_out != lenders[p.cut_out.label] for p in other.small)
        assert [p.cut_out for p in same.small] == [
            lenders[label] for label in labels(other.small)
        ]
        # Nothing else differs.
        assert same.large == other.large
        assert same.swapped == other.swapped
        np.testing.assert_array_equal(same.field, other.field)


def test_swapped_shows_large_objects_of_classes_that_are_not_in_the_scene(made):
    for scene in made:
        first, second = labels(scene.swapped)
        assert first != second
        assert not {first, second} & {*labels(scene.large)}
        assert scene.objects("swapped") == scene.swapped + scene.small
        assert scene.objects("alone") == scene.small
        assert scene.objects("validation") == scene.large + scene.small
        assert scene.objects("train") == scene.large + scene.small


def test_with_three_classes_both_are_of_the_third_and_with_two_there_are_none(cut_outs):
    three = {label: cut_outs[label] for label in (0, 3, 6)}
    for i in range(20):
        scene = make(three, i)
        assert len({*labels(scene.large), *labels(scene.swapped)}) == 3
        first, second = (p.cut_out for p in scene.swapped)
        assert first.label == second.label
        assert first != second
    two = {label: cut_outs[label] for label in (0, 3)}
    assert make(two, 0).swapped == ()


def test_a_scene_is_a_function_of_seed_split_and_index(cut_outs, made):
    again = make(cut_outs, 3)
    assert again.objects("swapped") == made[3].objects("swapped")
    np.testing.assert_array_equal(again.field, made[3].field)
    others = [made[4], make(cut_outs, 3, split_number=0)]
    others.append(scenes.make_scene((1, 1, 3), SIDE, cut_outs, 9, False))
    for other in others:
        assert other.large != again.large
        assert (other.field != again.field).mean() > 0.9


def plain(color):
    """A function like `Photographs.pixels` of windows of one color."""
    return lambda cut_out, size: np.full((*size, 3), color, np.uint8)


def test_backgrounds_have_the_mean_and_the_covariance_of_the_photograph(made):
    root = np.array([[20.0, 0, 0], [12, 9, 0], [-5, 3, 10]])
    colors = Colors(np.array([120.0, 100, 140]), root @ root.T)
    for scene in made[:5]:
        image = scenes.draw(scene, (), colors, plain(0)).reshape(-1, 3).astype(float)
        np.testing.assert_allclose(image.mean(axis=0), colors.mean, atol=0.1)
        found = np.cov(image.T)
        # Rounding to whole numbers adds 1/12.
        np.testing.assert_allclose(found - np.eye(3) / 12, colors.covariance, atol=0.5)


def test_a_photograph_of_one_color_gives_a_background_of_that_color(made):
    colors = Colors(np.array([7.0, 200, 90]), np.zeros((3, 3)))
    image = scenes.draw(made[0], (), colors, plain(0))
    assert np.abs(image.astype(int) - [7, 200, 90]).max() <= 1


def test_backgrounds_are_smooth(made):
    field = made[0].field
    neighbors = np.abs(np.diff(field, axis=0)).mean()
    distant = np.abs(field[:96] - field[96:]).mean()
    assert neighbors < 0.15 * distant


def test_objects_are_opaque_in_the_middle_and_fade_towards_the_margin(cut_outs):
    for shown in (c for by_label in cut_outs.values() for c in by_label):
        for scale in (0.1, 0.5):
            size = tuple(round(scale * n) for n in shown.size)
            weight = scenes.opacity(scenes.Placed(shown, True, 0, 0, size))
            rows, columns = size
            assert weight.shape == size
            assert weight[rows // 2, columns // 2] == 1
            corners = weight[[0, 0, -1, -1], [0, -1, 0, -1]]
            np.testing.assert_array_equal(corners, 0)
            border = np.concatenate(
                [weight[0], weight[-1], weight[:, 0], weight[:, -1]]
            )
            assert border.max() < 0.5
            # A third of the box, around its middle, is opaque.
            assert (weight == 1).mean() > 0.33
            assert weight.min() >= 0
            assert weight.max() <= 1


def test_only_the_large_objects_differ_between_the_splits(made):
    for scene in made[:10]:
        images = {
            split: scenes.draw(scene, scene.objects(split), GRAY, plain((250, 0, 0)))
            for split in ("validation", "swapped", "alone")
        }
        outside = np.ones((SIDE, SIDE), bool)
        for placed in scene.large + scene.swapped:
            height, width = placed.size
            top, left = max(placed.top, 0), max(placed.left, 0)
            rows = slice(top, placed.top + height)
            outside[rows, left : placed.left + width] = False
        for name in ("swapped", "alone"):
            differs = (images["validation"] != images[name]).any(axis=-1)
            assert not differs[outside].any()
            assert differs[~outside].mean() > 0.1
        for placed in scene.small:
            y, x = ((placed.box[:2] + placed.box[2:]) / 2).astype(int)
            assert not (~outside)[y, x]
            np.testing.assert_array_equal(images["alone"][y, x], (250, 0, 0))


def test_windows_beyond_the_border_are_cut_there(made):
    shown = cut_out(0, 0, 40, 40)
    placed = scenes.Placed(shown, True, -3, SIDE - 42, shown.size)
    pixels = np.arange(48 * 48 * 3).reshape(48, 48, 3) % 256
    image = scenes.draw(
        made[0],
        (placed,),
        GRAY,
        lambda cut_out, size: pixels.astype(np.uint8),
    )
    opaque = scenes.opacity(placed)[3:, :42] == 1
    assert opaque.any()
    np.testing.assert_array_equal(
        image[:45, SIDE - 42 :][opaque], pixels[3:, :42][opaque]
    )
