"""Image ids by file name, from COCO files of other machines."""

import json
import pathlib
import unicodedata

import pytest

from borrow_det.errors import InputError
from borrow_det.tools.predict.image_ids import image_ids


def coco_file(folder, names, ids=None):
    ids = ids or range(1, len(names) + 1)
    images = [{"id": i, "file_name": n} for i, n in zip(ids, names, strict=True)]
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": images, "categories": []}))
    return str(path)


@pytest.mark.parametrize(
    "recorded",
    [
        "a.jpg",
        "./a.jpg",
        "..\\..\\upload\\4\\a.jpg",
        "/home/ann/images/a.jpg",
        "https://example.org/a.jpg?w=1",
        "A.JPG",
        "a",
    ],
)
def test_recorded_names_of_other_machines_are_found(tmp_path, recorded):
    path = pathlib.Path("here/a.jpg")
    truth = coco_file(tmp_path, ["b.jpg", recorded])
    assert image_ids(truth, [path]) == {path: 2}


def test_text_ids_stay_texts(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg", "b.jpg"], ["img_7", "007"])
    paths = [pathlib.Path("b.jpg"), pathlib.Path("a.jpg")]
    assert list(image_ids(truth, paths).values()) == ["007", "img_7"]


def test_unicode_normal_forms_are_equal(tmp_path):
    name = "größer.jpg"
    path = pathlib.Path(unicodedata.normalize("NFD", name))
    truth = coco_file(tmp_path, [unicodedata.normalize("NFC", name)])
    assert image_ids(truth, [path]) == {path: 1}


def test_folders_distinguish_equal_names_also_of_a_relative_path(tmp_path, monkeypatch):
    truth = coco_file(tmp_path, ["x/a.jpg", "y/a.jpg"])
    (tmp_path / "y").mkdir()
    monkeypatch.chdir(tmp_path / "y")
    assert list(image_ids(truth, [pathlib.Path("a.jpg")]).values()) == [2]


def test_all_files_without_an_id_are_counted(tmp_path):
    truth = coco_file(tmp_path, ["x/a.jpg", "y/a.jpg", "b.jpg"])
    paths = [*map(pathlib.Path, ("z/a.jpg", "c.jpg", "d.jpg", "b.jpg", "q/b.jpg"))]
    with pytest.raises(InputError) as error:
        image_ids(truth, [*paths, pathlib.Path("v.mp4")])
    message = str(error.value)
    assert message.startswith("5 problems. unknown file name (2): c.jpg: the file has ")
    assert "several images of that name: 'x/a.jpg', 'y/a.jpg'" in message
    assert "image of two files (1): q/b.jpg: 'b.jpg' is the image of b.jpg" in message
    assert "video (1): v.mp4" in message
    assert message.endswith(f"Correct --ids_from={truth}, or leave out these files")


def test_wrong_records_are_named_only_if_a_file_has_no_id(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg", "b.jpg"], [1, 1])
    path = pathlib.Path("a.jpg")
    assert image_ids(truth, [path]) == {path: 1}
    with pytest.raises(InputError, match="duplicate image id"):
        image_ids(truth, [pathlib.Path("b.jpg")])
