"""Objects that can be cut out of photographs, their pixels, and the colors around."""

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.data.datasets import folder as folders
from borrow_det.data.datasets.cut_outs import Photographs

HEIGHT, WIDTH = 120, 160


@pytest.fixture
def open_photographs(folder):
    """A function that opens what was added to `folder`."""

    def open_photographs(min_side=20.0, context=0.1, max_size=1000):
        folder.write()
        opened = folders.open_set(folder.config(), ["train"])
        (records,) = opened.splits["train"]

        def convert(record, index):
            return opened.convert(record, index, "error")

        return Photographs(records, convert, min_side, context, max_size)

    return open_photographs


def crops(photographs):
    """The boxes of the cut-outs in their photographs: [top, left, bottom, right]."""
    found = []
    for cut_out in photographs.cut_outs:
        corner = np.array(cut_out.window[:2] * 2)
        found.append((corner + np.array(cut_out.box) * (cut_out.size * 2)).tolist())
    return found


# What is wrong with the object, its box [x, y, w, h], and other objects.
UNUSABLE = [
    ("nothing", [40, 30, 40, 30], [], True),
    ("touches the border", [0, 30, 40, 30], [], False),
    ("its margin leaves the image", [117, 30, 40, 30], [], False),
    ("its margin ends at the border", [4, 30, 40, 30], [], True),
    ("too small", [40, 30, 40, 19], [], False),
    ("as small as possible", [40, 30, 40, 20], [], True),
    ("too long", [40, 30, 47, 20], [], False),
    ("as long as possible", [40, 30, 46, 20], [], True),
    ("a quarter is covered", [40, 30, 40, 30], [[70, 20, 30, 80]], True),
    ("more is covered", [40, 30, 40, 30], [[69, 20, 30, 80]], False),
    ("two cover it", [40, 30, 40, 30], [[72, 0, 9, 99], [9, 0, 39, 99]], True),
]


@pytest.mark.parametrize(
    ("box", "others", "usable"),
    [case[1:] for case in UNUSABLE],
    ids=[case[0] for case in UNUSABLE],
)
def test_objects_are_cut_out_if_they_are_shown_whole(
    folder, noise_image, open_photographs, box, others, usable
):
    objects = [(1, box), *((7, other) for other in others)]
    folder.add("a.png", noise_image(HEIGHT, WIDTH), objects)
    labels = [cut_out.label for cut_out in open_photographs().cut_outs]
    assert (0 in labels) == usable


@pytest.mark.parametrize("flag", ["iscrowd", "difficult"])
def test_crowds_and_difficult_objects_are_not_cut_out_but_cover_others(
    folder, noise_image, open_photographs, flag
):
    boxes = [(1, [40, 30, 40, 30]), (1, [45, 35, 40, 30])]
    folder.add("a.png", noise_image(HEIGHT, WIDTH), boxes[:1])
    folder.add("b.png", noise_image(HEIGHT, WIDTH), boxes)
    folder.coco["annotations"][2][flag] = 1
    assert [c.photograph for c in open_photographs().cut_outs] == [0]


def test_a_cut_out_knows_its_object_and_its_box(folder, noise_image, open_photographs):
    folder.add("a.png", noise_image(HEIGHT, WIDTH))
    boxes = [(1, [0, 0, 50, 50]), (7, [60.5, 40.25, 40, 30]), (1, [110, 80, 30, 20])]
    folder.add("b.png", noise_image(HEIGHT, WIDTH), boxes)
    photographs = open_photographs()
    assert [c[:3] for c in photographs.cut_outs] == [(1, 1, 1), (1, 2, 0)]
    expected = [[40.25, 60.5, 70.25, 100.5], [80, 110, 100, 140]]
    np.testing.assert_allclose(crops(photographs), expected, rtol=0, atol=1e-4)
    # Margins of 3 rows and 4 columns, moved outwards to the borders of pixels.
    assert photographs.cut_outs[0].window == (37, 56, 74, 105)
    assert photographs.cut_outs[0].side == pytest.approx(np.sqrt(40 * 30), abs=1e-3)
    assert len(photographs) == 2
    assert photographs.file_name(1) == "b.png"


def test_pixels_are_the_photographs_at_the_asked_size(
    folder, noise_image, open_photographs
):
    image = noise_image(HEIGHT, WIDTH, seed=5)
    folder.add("a.png", image, [(1, [40, 30, 40, 30])])
    photographs = open_photographs(context=0.0)
    (cut_out,) = photographs.cut_outs
    crop = np.asarray(image)[30:60, 40:80]
    np.testing.assert_array_equal(photographs.pixels(cut_out, (30, 40)), crop)
    # Halves of the sides: means of four pixels.
    means = crop.reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
    halved = photographs.pixels(cut_out, (15, 20)).astype(float)
    assert np.abs(halved - means).max() <= 0.5
    assert photographs.pixels(cut_out, (45, 60)).shape == (45, 60, 3)


def test_large_cut_outs_are_shrunk_once(folder, noise_image, open_photographs):
    image = noise_image(HEIGHT, WIDTH, seed=5)
    folder.add("a.png", image, [(1, [40, 30, 40, 30])])
    photographs = open_photographs(context=0.0, max_size=20)
    (cut_out,) = photographs.cut_outs
    means = np.asarray(image)[30:60, 40:80].reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
    kept = np.rint(means).astype(np.uint8)
    enlarged = cv2.resize(kept, (40, 30), interpolation=cv2.INTER_CUBIC)
    found = photographs.pixels(cut_out, (30, 40)).astype(int)
    assert np.abs(found - enlarged).max() <= 3  # Halves may be rounded otherwise.


def test_colors_are_those_outside_of_the_boxes(folder, open_photographs):
    rng = np.random.default_rng(0)
    pixels = np.full((48, 64, 3), (255, 0, 0), np.uint8)
    mean, root = np.array([90.0, 120.0, 60.0]), np.diag([10.0, 20.0, 5.0])
    root[1, 0] = 12.0
    outside = np.ones((48, 64), bool)
    outside[10:30, 20:60] = False
    drawn = mean + rng.standard_normal((outside.sum(), 3)) @ root.T
    pixels[outside] = np.clip(np.rint(drawn), 0, 255)
    folder.add("a.png", PIL.Image.fromarray(pixels), [(1, [20, 10, 40, 20])])
    found = open_photographs().colors(0)
    expected = pixels[outside].astype(float)
    np.testing.assert_allclose(found.mean, expected.mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(expected.T, ddof=0))


def test_a_photograph_that_is_all_box_has_the_colors_of_its_box(
    folder, noise_image, open_photographs
):
    image = noise_image(48, 64)
    folder.add("a.png", image, [(1, [0, 0, 64, 48])])
    found = open_photographs().colors(0)
    np.testing.assert_allclose(found.mean, np.asarray(image).mean(axis=(0, 1)))
