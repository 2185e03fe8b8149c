"""Folders of runs and datasets: ~ in the API, and names that libraries cannot take."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest

from borrow_det import train
from borrow_det.data import sources
from borrow_det.errors import InputError
from borrow_det.inference import images
from borrow_det.inference.detections import Detections
from borrow_det.inference.detector import Detector
from borrow_det.workdir import checkpoints

BYTES = os.fsdecode(b"a\xff")  # Not UTF-8.


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder; the current folder is another one."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "home"
    assert os.listdir() == []


def test_the_api_takes_the_home_folder(home):
    with pytest.raises(InputError, match=f"{home}/run/config.json does not exist"):
        Detector.load("~/run")
    pixels = np.full((6, 8, 3), 90, np.uint8)
    PIL.Image.fromarray(pixels).save(home / "a.png")
    np.testing.assert_array_equal(images.read("~/a.png", "the image"), pixels)
    none = np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
    Detections(*none, ("cat",), (1,), (6, 8), pixels).save("~/out/b.png")
    assert (home / "out" / "b.png").exists()


def test_fields_of_a_dataset_take_the_home_folder(home, scenes, tiny_config):
    (home / "images").symlink_to(scenes)
    tiny_config.dataset.path = "~/images"
    tiny_config.dataset.data_dir = "~/prepared"
    assert len(sources.load(tiny_config.dataset, "val")) == 7
    assert [path.name for path in (home / "prepared").iterdir()] == ["folder"]


def test_a_folder_of_images_may_have_any_name(tmp_path, scenes, tiny_config):
    shutil.copytree(scenes, tmp_path / BYTES)
    tiny_config.dataset.path = str(tmp_path / BYTES)
    tiny_config.dataset.data_dir = str(tmp_path / "prepared")
    split = sources.load(tiny_config.dataset, "val")
    assert [record["file_name"] for record in split] == [
        f"val_{i}.jpg" for i in range(7)
    ]


def test_prepared_copies_need_a_name_in_utf8(tmp_path, tiny_config):
    tiny_config.dataset.data_dir = str(tmp_path / BYTES)
    with pytest.raises(InputError, match=r"a\\xff: .* not valid UTF-8: rename"):
        sources.load(tiny_config.dataset, "val")
    assert not (tmp_path / BYTES).exists()


def test_a_work_directory_needs_a_name_in_utf8(tmp_path, tiny_config):
    with pytest.raises(InputError, match=r"a\\xff: .* not valid UTF-8: rename"):
        train.prepare_run(tiny_config, tmp_path / BYTES)
    assert not (tmp_path / BYTES).exists()
    (tmp_path / BYTES).mkdir()
    with pytest.raises(InputError, match=r"a\\xff: .* not valid UTF-8: rename"):
        checkpoints.newest_step(tmp_path / BYTES)
