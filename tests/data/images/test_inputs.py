import io
import os

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import inputs
from borrow_det.errors import InputError


def content(form, **options):
    buffer = io.BytesIO()
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    PIL.Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def write(path, data=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found.paths]


@pytest.fixture
def nowhere(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


FORMS = ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["IMG0001", "a.dat", "a.0001"])
def test_images_with_unknown_names_are_found_by_their_content(
    form, name, tmp_path, nowhere
):
    path = write(tmp_path / name, content(form))
    assert inputs.find([str(tmp_path)], nowhere).paths == [path]
    assert inputs.kind_of(path) == "image"
    assert inputs.read_upright(path).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        ("bmp", "BMP"),
        ("gif", "GIF"),
        ("jfif", "JPEG"),
        ("jpe", "JPEG"),
        ("JPG", "JPEG"),
        ("jpeg", "JPEG"),
        ("png", "PNG"),
        ("pgm", "PPM"),
        ("pnm", "PPM"),
        ("ppm", "PPM"),
        ("tif", "TIFF"),
        ("tiff", "TIFF"),
        ("webp", "WEBP"),
    ],
)
def test_images_of_every_suffix_are_found_and_read(suffix, form, tmp_path, nowhere):
    path = write(tmp_path / f"a.{suffix}", content(form))
    assert inputs.find([str(tmp_path)], nowhere).paths == [path]
    assert inputs.read_upright(path).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0", "video"),
        (b"RIFF\x10\0\0\0AVI LIST", "video"),
        (b"\x1a\x45\xdf\xa3\x01\0\0\0", "video"),
        (b"\0\0\x01\xba\x44\0\4\0", "video"),
        # Pillow's supported versions do not all read these.
        (b"\0\0\0\x1cftypavif\0\0\0\0", None),
        (b"\0\0\0\x1cftypheic\0\0\0\0", None),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"BMW and other makers\n", None),
        (b"P1 is the first point\n", None),
        (b"II. The second chapter", None),
        (b"{}", None),
        (b"", None),
    ],
)
def test_the_content_decides_if_the_suffix_is_unknown(header, kind, tmp_path):
    assert inputs.kind_of(write(tmp_path / "a", header)) == kind
    assert inputs.kind_of(write(tmp_path / "a.mp4", header)) == "video"
    assert inputs.kind_of(write(tmp_path / "a.png", header)) == "image"


def test_skipped_files_are_counted_by_kind(tmp_path, nowhere):
    write(tmp_path / "a.png", content("PNG"))
    for name in ("a.txt", "b.TXT", "sub/c.txt", "README", ".hidden.png", ".git/d.png"):
        write(tmp_path / name, b"text")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    found = inputs.find([str(tmp_path)], nowhere)
    assert names(found, tmp_path) == ["a.png"]
    assert found.others == {".txt": 3, "hidden": 2, "no suffix": 1, "broken link": 1}
    assert (
        inputs.described(found.others) == "3 .txt, 2 hidden, 1 broken link, 1 no suffix"
    )


def test_links_to_folders_are_followed_once(tmp_path, nowhere):
    write(tmp_path / "data/b/1.png")
    write(tmp_path / "elsewhere/2.png")
    write(tmp_path / "elsewhere/deep/3.png")
    # Twice the same folder, and one that is there under its own name.
    (tmp_path / "data/x").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/y").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/a").symlink_to(tmp_path / "data/b")
    found = inputs.find([str(tmp_path / "data")], nowhere)
    assert names(found, tmp_path / "data") == ["b/1.png", "x/2.png", "x/deep/3.png"]


def test_cycles_of_links_end(tmp_path, nowhere):
    write(tmp_path / "data/1.png")
    write(tmp_path / "data/sub/2.png")
    write(tmp_path / "beside/3.png")
    (tmp_path / "data/sub/up").symlink_to(tmp_path / "data")
    # A folder around the one that was named is a cycle, too.
    (tmp_path / "data/top").symlink_to(tmp_path)
    (tmp_path / "data/beside").symlink_to(tmp_path / "beside")
    (tmp_path / "beside/back").symlink_to(tmp_path / "data")
    found = inputs.find([str(tmp_path / "data")], nowhere)
    assert names(found, tmp_path / "data") == ["1.png", "beside/3.png", "sub/2.png"]


def test_results_of_an_earlier_call_are_left_out(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "out/pictures/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "out/pictures")
    found = inputs.find([str(tmp_path)], tmp_path / "out/pictures")
    assert names(found, tmp_path) == ["a.png"]
    assert not found.others


def test_patterns_are_matched_in_folders_whose_names_have_brackets(tmp_path, nowhere):
    for name in ("a [1]/b.png", "a [1]/c.png", "a [1]/b.txt", "a [1]/d*/e.png"):
        write(tmp_path / name)
    folder = str(tmp_path / "a [1]")
    found = inputs.find([f"{folder}/*.png"], nowhere)
    assert names(found, tmp_path) == ["a [1]/b.png", "a [1]/c.png"]
    found = inputs.find([f"{folder}/d*/[ef].png"], nowhere)
    assert names(found, tmp_path) == ["a [1]/d*/e.png"]
    # A pattern that matches keeps its meaning.
    write(tmp_path / "a 1/c.png")
    found = inputs.find([f"{folder}/*.png"], nowhere)
    assert names(found, tmp_path) == ["a 1/c.png"]
    with pytest.raises(InputError, match="no such file or folder"):
        inputs.find([f"{folder}/*.jpg"], nowhere)


def test_files_that_are_named_are_taken_whatever_they_are(tmp_path, nowhere):
    write(tmp_path / "a.txt")
    write(tmp_path / "b.png")
    found = inputs.find([str(tmp_path / "*"), str(tmp_path / "b.png")], nowhere)
    assert names(found, tmp_path) == ["a.txt", "b.png"]


def test_a_folder_without_images_is_an_error(tmp_path, nowhere):
    write(tmp_path / "a.txt")
    with pytest.raises(InputError, match="there is no image or video in it"):
        inputs.find([str(tmp_path)], nowhere)
    with pytest.raises(InputError, match="there is no such file or folder"):
        inputs.find([str(tmp_path / "gone*")], nowhere)
    with pytest.raises(InputError, match="the name of an input is empty: name a file"):
        inputs.find([""], nowhere)


def test_names_that_are_not_utf_8_are_found(tmp_path, nowhere):
    folder = os.fsencode(tmp_path)
    try:
        with open(folder + b"/\xff.png", "wb") as file:
            file.write(content("PNG"))
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    (path,) = inputs.find([str(tmp_path)], nowhere).paths
    assert inputs.read_upright(path).shape == (8, 8, 3)


def test_a_repaired_image_is_reported_once(tmp_path):
    path = write(tmp_path / "a.jpg", content("JPEG")[:-2])
    said = []
    pixels = inputs.read_upright(path, warn=said.append)
    assert said == [
        f"{path} is incomplete, but all of its pixels are there: it has no end marker"
    ]
    np.testing.assert_array_equal(pixels, cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))
    inputs.read_upright(write(tmp_path / "b.jpg", content("JPEG")), warn=said.append)
    assert len(said) == 1
    with pytest.warns(UserWarning, match=r"a\.jpg is incomplete"):
        inputs.read_upright(path)
