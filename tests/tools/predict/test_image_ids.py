"""Image ids by file name, from COCO files of other machines."""

import json
import pathlib
import unicodedata

import pytest

from borrow_det.errors import InputError
from borrow_det.tools.predict.image_ids import image_ids
from borrow_det.tools.predict.sources import Source


def coco_file(folder, names, ids=None):
    ids = ids or range(1, len(names) + 1)
    images = [{"id": i, "file_name": n} for i, n in zip(ids, names, strict=True)]
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": images, "categories": []}))
    return str(path)


def file(name):
    return Source(pathlib.Path(name))


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
    source = file("here/a.jpg")
    truth = coco_file(tmp_path, ["b.jpg", recorded])
    assert image_ids(truth, [source]) == ({source: 2}, [])


def test_text_ids_stay_texts(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg", "b.jpg"], ["img_7", "007"])
    sources = [file("b.jpg"), file("a.jpg")]
    assert list(image_ids(truth, sources).ids.values()) == ["007", "img_7"]


def test_unicode_normal_forms_are_equal(tmp_path):
    name = "größer.jpg"
    source = file(unicodedata.normalize("NFD", name))
    truth = coco_file(tmp_path, [unicodedata.normalize("NFC", name)])
    assert image_ids(truth, [source]).ids == {source: 1}


def test_folders_distinguish_equal_names_also_of_a_relative_path(tmp_path, monkeypatch):
    truth = coco_file(tmp_path, ["x/a.jpg", "y/a.jpg"])
    (tmp_path / "y").mkdir()
    monkeypatch.chdir(tmp_path / "y")
    assert image_ids(truth, [file("a.jpg")]).ids == {file("a.jpg"): 2}


def test_all_files_without_an_id_are_counted(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg"])
    with pytest.raises(InputError) as error:
        image_ids(truth, [file("c.jpg"), file("d.jpg"), file("v.mp4"), Source(0)])
    message = str(error.value)
    assert message.startswith("4 problems. unknown file name (2): c.jpg: the file has ")
    assert "video (2): v.mp4: frames have no image ids" in message
    assert "camera 0: frames have no" in message
    assert message.endswith(f"Correct --ids_from={truth}, or leave out these files")


def test_files_that_fit_equally_well_are_refused(tmp_path):
    truth = coco_file(tmp_path, ["x/a.jpg", "y/a.jpg", "b.jpg"])
    with pytest.raises(InputError) as error:
        image_ids(truth, [*map(file, ("z/a.jpg", "c.jpg", "p/b.jpg", "q/b.jpg"))])
    message = str(error.value)
    assert message.startswith("2 problems. ")
    assert "several images of that name: 'x/a.jpg', 'y/a.jpg'" in message
    assert "image of two files (1): q/b.jpg: 'b.jpg' is the image of p/b.jpg" in message


def test_inputs_that_the_file_does_not_list_are_left_out(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg", "deep/b.jpg"], [5, 6])
    sources = [*map(file, ("c.jpg", "deep/b.jpg", "v.mp4", "a.jpg"))]
    found = image_ids(truth, sources)
    assert found.ids == {sources[1]: 6, sources[3]: 5}
    assert found.left_out == [sources[0], sources[2]]


def test_the_file_in_the_recorded_folder_has_the_id_among_those_of_one_name(tmp_path):
    truth = coco_file(tmp_path, ["val/a.jpg", "b.jpg"])
    sources = [*map(file, ("train/a.jpg", "val/a.jpg", "b.png", "b.jpg"))]
    found = image_ids(truth, sources)
    assert found.ids == {sources[1]: 1, sources[3]: 2}
    assert found.left_out == [sources[0], sources[2]]


def test_images_of_urls_have_ids_by_their_names(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg", "b.jpg"])
    source = Source("https://example.org/images/b.jpg?size=full")
    assert image_ids(truth, [source]).ids == {source: 2}


def test_wrong_records_are_named_only_if_a_file_has_no_id(tmp_path):
    truth = coco_file(tmp_path, ["a.jpg", "b.jpg"], [1, 1])
    assert image_ids(truth, [file("a.jpg")]).ids == {file("a.jpg"): 1}
    with pytest.raises(InputError, match="duplicate image id"):
        image_ids(truth, [file("b.jpg")])
