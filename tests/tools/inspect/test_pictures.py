"""Sheets and crops: sizes of files, boxes at their places."""

import io

import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import folder as folder_config
from borrow_det.data import sources
from borrow_det.tools.inspect import inspection, pictures
from borrow_det.tools.inspect.suspicious import Label
from borrow_det.visualization import annotate, sheets
from tests.tools.inspect.made_folder import write_split

SIDE = 64


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The config of a folder of gray images, each with a white square in a box."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    folder = tmp_path / "data"
    folder.mkdir()
    images, files = [], []
    for i in range(6):
        content = np.full((SIDE, SIDE, 3), 60, np.uint8)
        x, y = 8 + 4 * i, 20
        content[y : y + 16, x : x + 16] = 255
        images.append([(1, x, y, 16, 16)])
        files.append((f"{i}.png", content))
    write_split(folder, "train", images, SIDE, files=files)
    config = folder_config.get_config(f"path={folder},size=64")
    config.dataset.eval_splits = ("train",)
    return config


def test_boxes_after_augmentation_are_around_their_objects(config, monkeypatch):
    config.augment.photometric = 0.0
    drawn = []

    def draw_boxes(image, boxes, labels, *args, **options):
        drawn.append((image, boxes, labels))
        return image

    monkeypatch.setattr(annotate, "draw_boxes", draw_boxes)
    split = sources.load(config.dataset, "train")
    scenes = pictures.augmented(split, range(6), config)
    assert len(scenes) == len(drawn) == 6
    changed = 0
    for i, (image, boxes, labels) in enumerate(drawn):
        assert image.shape == (64, 64, 3)
        assert image.dtype == np.uint8
        assert labels.tolist() == [0] * len(boxes)
        white = np.argwhere(image.min(axis=2) > 200)
        for y0, x0, y1, x1 in boxes * 64:
            low, high = white.min(axis=0), white.max(axis=0) + 1
            assert (y0, x0, y1, x1) == pytest.approx((*low, *high), abs=1.5)
            changed += abs(x0 - (8 + 4 * i)) > 2
    assert changed


def test_pasted_copies_are_drawn_with_their_labels(config, monkeypatch):
    config.augment.update(expand=0.0, crop=False, paste=1.0, paste_sides=(4.0, 6.0))
    numbers = []

    def draw_boxes(image, boxes, *args, **options):
        numbers.append(len(boxes))
        return image

    monkeypatch.setattr(annotate, "draw_boxes", draw_boxes)
    split = sources.load(config.dataset, "train")
    pictures.augmented(split, range(6), config)
    # The object itself, and one to three copies.
    assert min(numbers) >= 2
    assert max(numbers) == 4


def test_without_augmentation_the_sheet_has_the_resized_images(config):
    config.augment.enabled = False
    found = inspection.inspect(config, ["train"])
    assert not found.report["sample"]["augmented"]
    drawn = pictures.draw(found)
    assert drawn.augmented == drawn.labelled


def test_sheets_are_small_files_of_the_same_images(config):
    found = inspection.inspect(config, ["train"])
    assert found.report["sample"]["images"] == [f"{i}.png" for i in range(6)]
    drawn = pictures.draw(found)
    for sheet in (drawn.labelled, drawn.augmented):
        assert len(sheet) < sheets.MAX_BYTES
        # Two rows of three images of 480 pixels.
        assert PIL.Image.open(io.BytesIO(sheet)).size == (3 * 488 + 8, 2 * 488 + 8)


@pytest.mark.parametrize(
    ("bbox", "gray_share"),
    [([24, 24, 16, 16], 0.0), ([-20, 20, 40, 16], 0.3), ([60, 60, 1, 1], 0.5)],
)
def test_crops_show_the_box_and_its_surroundings(config, bbox, gray_share):
    split = sources.load(config.dataset, "train")
    label = Label("largest", "train", 0, "0.png", 0, "cat", bbox, "", 1.0)
    view = pictures.crop(split, label)
    assert max(view.shape[:2]) == 200
    red = (view == (255, 0, 0)).all(axis=2)
    rows, columns = np.argwhere(red).T
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width / height == pytest.approx(bbox[2] / bbox[3], rel=0.2)
    # Beyond the border is gray.
    gray = (view == 128).all(axis=2).mean()
    assert gray == pytest.approx(gray_share, abs=0.2)
    assert (gray > 0) == (gray_share > 0)


def test_images_that_do_not_decode_are_left_out(config, monkeypatch):
    split = sources.load(config.dataset, "train")

    def decode(record, name):
        raise pictures.InputError("damaged")

    monkeypatch.setattr(pictures.decode, "decode_image", decode)
    label = Label("largest", "train", 0, "0.png", 0, "cat", [1, 1, 5, 5], "", 1.0)
    assert pictures.crop(split, label) is None
    assert pictures.labelled(split, [0, 1]) == []
