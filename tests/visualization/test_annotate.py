"""Annotated images: positions of outlines and names, sizes and colors."""

import numpy as np
import PIL.Image
import pytest

from borrow_det.visualization import annotate

GRAY = 90


def gray(height, width):
    return np.full((height, width, 3), GRAY, np.uint8)


@pytest.mark.parametrize(
    ("size", "factor"),
    [((1200, 900), 1), ((480, 640), 2), ((192, 192), 4), ((9, 7), 4)],
)
def test_small_images_are_enlarged_by_an_integer_factor(size, factor):
    picture = annotate.draw_boxes(gray(*size), np.zeros((0, 4)), [], [])
    assert picture.shape == (factor * size[0], factor * size[1], 3)
    assert picture.dtype == np.uint8
    assert (picture == GRAY).all()


def test_a_box_is_outlined_just_outside_and_stays_free_inside():
    color = np.array(annotate.class_color(1))
    box = np.array([[0.3, 0.25, 0.5, 0.75]])
    # 1000 pixels: no enlargement, a line of 2 pixels, and a dark line around it.
    picture = annotate.draw_boxes(gray(1000, 1000), box, [1], ["cat", "dog"])
    assert (picture[300:500, 250:750] == GRAY).all()
    for row in (298, 299, 500, 501):
        assert (picture[row, 250:750] == color).all(), row
    for column in (248, 249, 750, 751):
        assert (picture[300:500, column] == color).all(), column
    assert (picture[502, 250:750] == 0).all()
    assert (picture[300:500, 752] == 0).all()


def test_names_are_outside_all_boxes_if_there_is_room():
    boxes = np.array([[0.4, 0.4, 0.6, 0.6], [0.2, 0.4, 0.39, 0.6]])
    picture = annotate.draw_boxes(
        gray(1000, 1000), boxes, [0, 0], ["kittiwake"], np.array([0.25, 0.5])
    )
    for top, left, bottom, right in (boxes * 1000).round().astype(int):
        assert (picture[top:bottom, left:right] == GRAY).all()
    color = (picture == np.array(annotate.class_color(0))).all(axis=-1)
    # Two outlines of 2 pixels, and two labels next to them.
    outlines = sum(2 * 2 * (h + w + 4) for h, w in ((200, 200), (190, 200)))
    assert color.sum() > outlines + 2 * 600


@pytest.mark.parametrize(
    "box", [[0, 0, 1, 1], [0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0.99, 0.99, 1, 1]]
)
def test_boxes_at_the_border_or_without_extent_are_drawn(box):
    picture = annotate.draw_boxes(
        gray(40, 30), np.array([box]), [0], ["a name wider than the image"], [1.0]
    )
    assert (picture != GRAY).any()


def test_text_contrasts_with_its_class_color():
    for label in range(64):
        color = np.array(annotate.class_color(label))
        picture = annotate.draw_boxes(
            gray(1000, 1000), np.array([[0.5, 0.5, 0.6, 0.6]]), [label], ["x"] * 64
        )
        colored = np.argwhere((picture == color).all(axis=-1))
        top, left = colored.min(axis=0)
        name = picture[top : top + 8, left : left + 8].reshape(-1, 3).astype(int)
        luminance = name @ [0.299, 0.587, 0.114]
        assert luminance.max() - luminance.min() > 70, label


def test_class_colors_are_distinguishable():
    colors = np.array([annotate.class_color(i) for i in range(20)], int)
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=-1)
    assert distances[~np.eye(20, dtype=bool)].min() > 50


def test_contact_sheet_places_images_row_by_row():
    images = [np.full((20 + i, 30, 3), 10 * i, np.uint8) for i in range(5)]
    sheet = annotate.contact_sheet(images, columns=2)
    # Cells of 24 x 30 with gaps of 8 around each.
    assert sheet.shape == (8 + 3 * 32, 8 + 2 * 38, 3)
    for i, image in enumerate(images):
        top, left = 8 + i // 2 * 32, 8 + i % 2 * 38
        cell = sheet[top : top + len(image), left : left + 30]
        assert (cell == image).all(), i
    assert (sheet[8 + 64 :, 8 + 38 :] == 255).all()  # The sixth cell.
    assert annotate.contact_sheet(images[:1], 4).shape == (36, 46, 3)
    for some, columns in (([], 2), (images, 0)):
        with pytest.raises(ValueError, match="at least one"):
            annotate.contact_sheet(some, columns)


def test_write_image_by_suffix(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    annotate.write_image(tmp_path / "deep" / "a.png", image)
    assert (np.array(PIL.Image.open(tmp_path / "deep" / "a.png")) == image).all()
    annotate.write_image(tmp_path / "a.JPG", gray(6, 5))
    assert (np.array(PIL.Image.open(tmp_path / "a.JPG")) == GRAY).all()
