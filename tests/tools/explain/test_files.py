"""The files of tools.explain where they cannot be written, or not to their end."""

import errno
import json
import os
import types

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.inference.detector import Level
from borrow_det.tools.explain import files as files_lib
from borrow_det.tools.explain.explanation import Borrowed, Found
from borrow_det.tools.explain.files import Explained, Output
from borrow_det.tools.explain.text import Settings
from borrow_det.visualization import annotate

DETECTOR = types.SimpleNamespace(
    # One begins a formula, one is longer than a picture, one is no text.
    class_names=("$\\foo$", "x" * 500, "\udcff"),
    category_ids=(1, 2, 3),
    input_size=(16, 16),
    levels=(Level(1, "a", 8, (2, 2)), Level(2, "b", 16, (1, 1))),
)
SETTINGS = Settings("$\\W$", 1, "cosine", 2.0, 0.4, 32.0, None, None)


def open_output(folder, pictures=True):
    return Output(folder, DETECTOR, SETTINGS, pictures, limit=0)


def add(output, label=0):
    found = Found(
        np.array([[0.1, 0.1, 0.4, 0.4]], "f4"),
        np.array([0.9], "f4"),
        np.array([label], "i4"),
        np.array([0], "i4"),
    )
    centers = np.array([[0.25, 0.25]], "f4")
    borrowed = Borrowed(0, centers, {1: np.ones((1, 1))}, (), (), 0.0, None)
    image = np.full((40, 50, 3), 100, np.uint8)
    output.add("a.png", image, found, [Explained(0, borrowed, "")])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("label", [0, 1, 2])
def test_names_of_classes_that_are_hard_to_draw(tmp_path, label):
    with open_output(tmp_path) as output:
        add(output, label)
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == "0000_a_0.jpg"
    (image,) = json.loads((tmp_path / "explanations.json").read_text())["images"]
    assert image["detections"][0]["class"] == ("$\\foo$", "x" * 500, "\\udcff")[label]
    assert files(tmp_path) == [
        "explanations.json", "index.html", "pictures/0000_a_0.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [InputError("no image"), KeyboardInterrupt()])
def test_nothing_half_done_is_left(tmp_path, error):
    with pytest.raises(type(error)), open_output(tmp_path) as output:  # noqa: PT012
        add(output)
        raise error
    assert files(tmp_path) == ["pictures/0000_a_0.jpg"]


def test_an_earlier_call_stays_where_a_later_one_fails(tmp_path):
    with open_output(tmp_path, pictures=False) as output:
        add(output)
    before = (tmp_path / "index.html").read_bytes()
    with pytest.raises(ValueError, match="x"), open_output(tmp_path, pictures=False):
        raise ValueError("x")
    assert (tmp_path / "index.html").read_bytes() == before
    assert files(tmp_path) == ["explanations.json", "index.html"]


@pytest.mark.parametrize("name", ["index.html", "explanations.json"])
def test_a_folder_in_a_files_place_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is a folder: name another --output"):
        open_output(tmp_path)
    assert files(tmp_path) == []


def test_a_file_in_the_pictures_place_is_refused(tmp_path):
    (tmp_path / "pictures").write_text("")
    with pytest.raises(InputError, match="pictures: File exists"):
        open_output(tmp_path)
    assert files(tmp_path) == ["pictures"]


def test_the_size_of_the_page_is_told(tmp_path, monkeypatch):
    with open_output(tmp_path, pictures=False) as output:
        add(output)
    size = (tmp_path / "index.html").stat().st_size / 1e6
    assert output.summary() == (
        "1 images, 1 detections with a score of 0.4 or more; 1 explained: "
        f"{tmp_path}/index.html ({size:.1f} MB)"
    )
    monkeypatch.setattr(files_lib, "_LARGE", 1000)
    assert "\nnote: a browser takes its time over a page" in output.summary()


def test_a_full_disk_is_told_in_a_line(tmp_path, monkeypatch):
    def full(path, image):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(annotate, "write_image", full)
    with (
        pytest.raises(InputError, match=r"a_0\.jpg: No space left on device"),
        open_output(tmp_path) as output,
    ):
        add(output)
    assert files(tmp_path) == []
