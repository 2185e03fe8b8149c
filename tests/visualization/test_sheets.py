"""Sheets of images: the choice of images, and the size of files."""

import io

import numpy as np
import PIL.Image

from borrow_det.visualization import sheets


def test_a_choice_has_distinct_images_and_depends_on_the_seed_alone():
    chosen = sheets.choose(1000, 9, seed=3)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 9
    assert sheets.choose(1000, 9, seed=3) == chosen
    assert sheets.choose(1000, 9, seed=4) != chosen
    # Not the first images, which often show one place.
    assert max(chosen) > 500
    assert sheets.choose(4, 9, seed=3) == [0, 1, 2, 3]
    assert sheets.choose(0, 9, seed=3) == sheets.choose(5, 0, seed=3) == []


def test_sheets_are_square_and_fit_a_screen():
    assert [sheets.columns(n) for n in (1, 2, 4, 5, 9, 16)] == [1, 2, 2, 3, 3, 4]
    assert [sheets.cell_side(n) for n in (1, 4, 9, 16)] == [720, 720, 480, 360]


def test_a_jpeg_of_noise_is_shrunk_until_it_is_small_enough():
    noise = np.random.default_rng(0).integers(0, 256, (900, 700, 3), np.uint8)
    content = sheets.jpeg(noise, max_bytes=100_000)
    assert len(content) <= 100_000
    width, height = PIL.Image.open(io.BytesIO(content)).size
    assert 200 < width < 700
    assert abs(height / width - 900 / 700) < 0.01


def test_a_small_sheet_keeps_its_quality(tmp_path):
    scenes = [np.full((40, 60, 3), value, np.uint8) for value in (0, 90, 180, 250)]
    sheets.write(tmp_path / "new" / "sheet.jpg", scenes)
    sheet = np.asarray(PIL.Image.open(tmp_path / "new" / "sheet.jpg"))
    # Two rows and columns, and gaps of 8 white pixels.
    assert sheet.shape == (2 * 48 + 8, 2 * 68 + 8, 3)
    centers = [sheet[28 + 48 * row, 38 + 68 * column, 0] for row, column in
               ((0, 0), (0, 1), (1, 0), (1, 1))]  # fmt: skip
    assert centers == [0, 90, 180, 250]
