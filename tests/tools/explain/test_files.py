"""The files of explain, and failures to write them."""

import errno
import json
import os
import types

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.inference.detector import Level
from borrow_det.tools.explain import files as files_lib
from borrow_det.tools.explain.explanation import (
    Borrowed,
    BorrowedReference,
    LevelDetections,
    SourcePosition,
)
from borrow_det.tools.explain.files import ExplanationWriter
from borrow_det.tools.explain.records import Explained
from borrow_det.tools.explain.references import Reference
from borrow_det.tools.explain.text import Settings
from borrow_det.visualization import annotate

DETECTOR = types.SimpleNamespace(
    # The start of a formula, a name longer than a picture, and an invalid text.
    class_names=("$\\foo$", "x" * 500, "\udcff"),
    category_ids=(1, 2, 3),
    input_size=(16, 16),
    levels=(Level(1, "a", 8, (2, 2)), Level(2, "b", 16, (1, 1))),
)
SETTINGS = Settings("$\\W$", 1, "cosine", 2.0, 0.4, 32.0, None, None)


FOUND = LevelDetections(
    np.array([[0.1, 0.1, 0.4, 0.4]], "f4"),
    np.array([0.9], "f4"),
    np.array([0], "i4"),
    np.array([0], "i4"),
)
CENTERS = np.array([[0.25, 0.25]], "f4")


def open_writer(folder, pictures=True):
    return ExplanationWriter(folder, DETECTOR, SETTINGS, pictures, limit=0)


def add(writer, label=0):
    found = FOUND._replace(labels=np.array([label], "i4"))
    source = SourcePosition(1, (0.5, 0.5), 1.0, ())
    borrowed = Borrowed(0, CENTERS, {1: np.ones((1, 1))}, (source,), (), 0.0, None)
    image = np.full((40, 50, 3), 100, np.uint8)
    writer.add("a.png", image, found, [Explained(0, borrowed, "")])


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("label", [0, 1, 2])
def test_unusual_class_names_are_drawn(tmp_path, label):
    with open_writer(tmp_path) as writer:
        add(writer, label)
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == "0000_a_0.jpg"
    (image,) = json.loads((tmp_path / "explanations.json").read_text())["images"]
    assert image["detections"][0]["class"] == ("$\\foo$", "x" * 500, "\\udcff")[label]
    assert files(tmp_path) == [
        "explanations.json", "index.html", "pictures/0000_a_0.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [InputError("no image"), KeyboardInterrupt()])
def test_incomplete_files_are_removed(tmp_path, error):
    with pytest.raises(type(error)), open_writer(tmp_path) as writer:  # noqa: PT012
        add(writer)
        raise error
    assert files(tmp_path) == ["pictures/0000_a_0.jpg"]


def test_a_failed_call_keeps_the_files_of_an_earlier_one(tmp_path):
    with open_writer(tmp_path, pictures=False) as writer:
        add(writer)
    before = (tmp_path / "index.html").read_bytes()
    with pytest.raises(ValueError, match="x"), open_writer(tmp_path, pictures=False):
        raise ValueError("x")
    assert (tmp_path / "index.html").read_bytes() == before
    assert files(tmp_path) == ["explanations.json", "index.html"]


@pytest.mark.parametrize("name", ["index.html", "explanations.json"])
def test_an_existing_folder_of_a_files_name_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is a folder: name another --output"):
        open_writer(tmp_path)
    assert files(tmp_path) == []


def test_an_existing_file_named_pictures_is_refused(tmp_path):
    (tmp_path / "pictures").write_text("")
    with pytest.raises(InputError, match="pictures: File exists"):
        open_writer(tmp_path)
    assert files(tmp_path) == ["pictures"]


def test_the_summary_gives_the_size_of_the_page(tmp_path, monkeypatch):
    with open_writer(tmp_path, pictures=False) as writer:
        add(writer)
    size = (tmp_path / "index.html").stat().st_size / 1e6
    assert writer.summary() == (
        "1 images, 1 detections with a score of at least 0.4; 1 explained: "
        f"{tmp_path}/index.html ({size:.1f} MB)"
    )
    monkeypatch.setattr(files_lib, "_LARGE", 1000)
    assert "\nnote: a page of this size opens slowly" in writer.summary()


def test_a_full_disk_gives_one_line(tmp_path, monkeypatch):
    def full(path, image):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(annotate, "write_image", full)
    with (
        pytest.raises(InputError, match=r"a_0\.jpg: No space left on device"),
        open_writer(tmp_path) as writer,
    ):
        add(writer)
    assert files(tmp_path) == []


def test_explanations_json_has_these_bytes_without_references(tmp_path):
    with open_writer(tmp_path, pictures=False) as writer:
        add(writer)
    assert (tmp_path / "explanations.json").read_text() == (
        '{"settings": {"workdir": "$\\\\W$", "step": 1, "similarity": "cosine", '
        '"lender_scale": 2.0, "score": 0.4, "small": 32.0, "detection": null, "level": '
        'null},\n "levels": [{"number": 1, "name": "a", "stride": 8, "shape": [2, 2]}, '
        '{"number": 2, "name": "b", "stride": 16, "shape": [1, 1]}],\n "images": [\n'
        '{"file_name": "a.png", "height": 40, "width": 50, "detections": [{"index": 0, '
        '"class": "$\\\\foo$", "category_id": 1, "score": 0.8999999761581421, "bbox": '
        '[5.0, 4.0, 15.0, 12.0], "level": 1, "picture": null, "note": "", "borrowed": '
        '{"level": 1, "descriptors": 1, "shares": {"2": 1.0}, "attention_precision": '
        'null, "positions": 0.0, "larger": [], "sources": [{"level": 2, "center": '
        '[25.0, 20.0], "weight": 1.0, "detections": []}]}}]}\n]}\n'
    )


def test_explanations_json_has_the_references_and_windows(tmp_path):
    reference = Reference(3, "b.png", np.zeros((100, 200, 3), np.uint8), FOUND)
    part = BorrowedReference({1: np.full((1, 1), 0.75)}, (0,))
    sources = (
        SourcePosition(1, (0.5, 0.5), 0.75, (0,), 0),
        SourcePosition(1, (0.5, 0.5), 0.25, ()),
    )
    borrowed = Borrowed(
        0, CENTERS, {1: np.full((1, 1), 0.25)}, sources, (), 0.5, 0.75, (part,)
    )
    image = np.zeros((40, 50, 3), np.uint8)
    with ExplanationWriter(tmp_path, DETECTOR, SETTINGS, False, limit=0) as writer:
        writer.add(
            *("a.png, tile 1 of 4", image, FOUND, [Explained(0, borrowed, "")]),
            references=[reference],
            window=(7, 20, 47, 70),
        )
    (record,) = json.loads((tmp_path / "explanations.json").read_text())["images"]
    assert record["window"] == [20, 7, 50, 40]
    (listed,) = record["references"]
    (lender,) = listed.pop("detections")
    assert listed == {"file_name": "b.png", "height": 100, "width": 200}
    assert (lender["index"], lender["bbox"]) == (0, [20.0, 10.0, 60.0, 30.0])
    written = record["detections"][0]["borrowed"]
    assert written["references"] == [
        {"share": 0.75, "shares": {"2": 0.75}, "larger": [0]}
    ]
    assert (written["share_references"], written["shares"]) == (0.75, {"2": 0.25})
    first, second = written["sources"]
    # Centers are pixels of the reference, and of the view.
    assert (first["reference"], first["center"]) == (1, [100.0, 50.0])
    assert (second["reference"], second["center"]) == (None, [25.0, 20.0])
