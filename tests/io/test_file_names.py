"""Recorded file names of other machines, resolved to the files of a folder."""

import os
import pathlib
import unicodedata

import pytest

from borrow_det.io import file_names


def index(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return file_names.FileIndex(folder)


def resolved(found, folder):
    return None if found.found is None else found.found.relative_to(folder).as_posix()


@pytest.mark.parametrize(
    "recorded",
    [
        "a b.jpg",
        "./a b.jpg",
        "images/a b.jpg",
        "../images/a b.jpg",
        "/home/ann/data/images/a b.jpg",
        "C:\\data\\images\\a b.jpg",
        "..\\..\\label-studio\\media\\upload\\4\\a b.jpg",
        "https://example.org/x/a%20b.jpg?size=full",
        "file:///home/ann/a b.jpg",
        "/data/local-files/?d=images/a b.jpg",
        "A B.JPG",
        "a b",
        "elsewhere/a b.png",
    ],
)
def test_names_of_other_machines_find_the_file(tmp_path, recorded):
    files = index(tmp_path, "images/a b.jpg", "images/b.jpg", "labels/a b.txt")
    found = files.resolve(recorded, [tmp_path / "annotations", tmp_path])
    assert resolved(found, tmp_path) == "images/a b.jpg"


def test_unicode_normal_forms_are_equal(tmp_path):
    name = "Aufnahme_größer.jpg"
    for on_disk, recorded in (("NFD", "NFC"), ("NFC", "NFD")):
        folder = tmp_path / on_disk
        files = index(folder, unicodedata.normalize(on_disk, name))
        found = files.resolve(unicodedata.normalize(recorded, name), [folder])
        assert found.found == folder / unicodedata.normalize(on_disk, name)


def test_a_name_with_a_backslash_is_found_as_it_is(tmp_path):
    files = index(tmp_path, "a\\b.jpg", "a/b.jpg")
    assert resolved(files.resolve("a\\b.jpg", [tmp_path]), tmp_path) == "a\\b.jpg"


def test_the_first_place_with_exactly_that_name_wins(tmp_path):
    files = index(tmp_path, "images/val/x.jpg", "images/x.jpg", "x.jpg")
    for places, expected in (
        (["images/val", "images"], "images/val/x.jpg"),
        (["images", "images/val"], "images/x.jpg"),
        (["annotations", "."], "x.jpg"),
    ):
        found = files.resolve("x.jpg", [tmp_path / place for place in places])
        assert resolved(found, tmp_path) == expected


def test_the_longest_trailing_part_decides(tmp_path):
    files = index(tmp_path, "cam1/0001.jpg", "cam2/0001.jpg", "cam2/x/0001.jpg")
    found = files.resolve("/mnt/cam2/0001.jpg")
    assert resolved(found, tmp_path) == "cam2/0001.jpg"
    found = files.resolve("D:\\cam2\\x\\0001.jpg")
    assert resolved(found, tmp_path) == "cam2/x/0001.jpg"


def test_a_place_decides_between_equally_good_files(tmp_path):
    files = index(tmp_path, "images/train/x.jpg", "images/val/x.jpg")
    found = files.resolve("/mnt/a/x.jpg", [tmp_path / "images/val"])
    assert resolved(found, tmp_path) == "images/val/x.jpg"


def test_equally_good_files_are_listed(tmp_path):
    files = index(tmp_path, "a/x.jpg", "b/x.jpg", "c/X.jpg")
    found = files.resolve("q/x.jpg")
    assert found.found is None
    assert found.candidates == (tmp_path / "a/x.jpg", tmp_path / "b/x.jpg")
    message = file_names.reason("q/x.jpg", found, tmp_path)
    assert message == (
        f"the image 'q/x.jpg' may be any of a/x.jpg, b/x.jpg in {tmp_path}: write a "
        "path relative to that folder"
    )


def test_a_name_without_a_file_is_an_error(tmp_path):
    files = index(tmp_path, "x.jpg")
    for name in ("gone.jpg", "x.jpg.jpg", "\0", "a\ud800.jpg", "x" * 5000, "..", "/"):
        found = files.resolve(name, [tmp_path])
        assert found == (None, ())
        reason = file_names.reason(name, found, tmp_path)
        assert reason == f"the image {name!r} is not in {tmp_path}"
    assert files.resolve("").found is None
    assert "no file_name" in file_names.reason("", files.resolve(""), tmp_path)


def test_files_outside_the_folder_are_found_by_their_exact_path(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else/x.jpg").write_bytes(b"")
    files = index(tmp_path / "set", "annotations/train.json")
    places = [tmp_path / "set/annotations"]
    for name in ("../../else/x.jpg", str(tmp_path / "else/x.jpg")):
        found = files.resolve(name, places).found
        assert found is not None
        assert found.samefile(tmp_path / "else/x.jpg")


def test_labels_do_not_compete_with_images_of_the_same_stem(tmp_path):
    files = index(tmp_path, "x.xml", "x.jpg", "x.json", "y.001.jpg")
    assert resolved(files.resolve("x"), tmp_path) == "x.jpg"
    assert resolved(files.resolve("y.001"), tmp_path) == "y.001.jpg"
    assert files.resolve("y.002").found is None


def test_links_to_folders_are_followed_and_circles_are_not(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/x.jpg").write_bytes(b"")
    folder = tmp_path / "set"
    folder.mkdir()
    os.symlink(tmp_path / "store", folder / "images")
    os.symlink(folder, tmp_path / "store/back")
    files = file_names.FileIndex(folder)
    found = files.resolve("C:\\x.jpg")
    assert found.found == folder / "images/x.jpg"


def test_a_file_with_two_names_by_a_link_is_one_file(tmp_path):
    index(tmp_path, "a/x.jpg")
    os.symlink(tmp_path / "a", tmp_path / "b")
    found = file_names.FileIndex(tmp_path).resolve("/mnt/x.jpg").found
    assert found is not None
    assert found.samefile(tmp_path / "a/x.jpg")


def test_a_folder_that_does_not_exist_has_no_files(tmp_path):
    files = file_names.FileIndex(tmp_path / "gone")
    assert files.resolve("x.jpg", [tmp_path]) == (None, ())


def test_names_are_looked_up_without_comparing_all_of_them():
    names = [(f"cam{i // 100}", f"{i % 100:06d}.jpg") for i in range(20_000)]
    items = file_names.NameIndex((parts, parts) for parts in names)
    compared = 0
    for parts in names:
        found = items.find(file_names.readings_of("D:\\data\\" + "\\".join(parts)))
        compared += found.found == parts
    assert compared == len(names)


def test_an_index_of_recorded_names_finds_them_by_path():
    recorded = ["C:\\images\\train\\x.jpg", "C:\\images\\val\\x.jpg"]
    items = file_names.NameIndex(
        (parts, name)
        for name in recorded
        for parts in file_names.readings_of(name)[-1:]
    )
    path = pathlib.PurePosixPath("/here/val/x.jpg")
    assert items.find([path.parts]).found == recorded[1]
    assert len(items.find([("x.jpg",)]).candidates) == 2


def test_names_that_an_ascii_locale_gives_as_bytes_are_found():
    # os.listdir gives such a name under LC_ALL=POSIX and PYTHONUTF8=0.
    listed = "猫.jpg".encode().decode("ascii", "surrogateescape")
    items = file_names.NameIndex([((listed,), listed)])
    assert items.find([("猫.jpg",)]).found == listed
    assert items.find([("\udcff.jpg",)]).found is None
