"""Reading the images that callers pass."""

import pathlib

import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import inputs, strips
from borrow_det.errors import InputError
from borrow_det.inference import images


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


RGB = noise(6, 8, 3)
GRAY = noise(6, 8)


def gray_as_rgb(array):
    return np.stack([array] * 3, axis=-1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (GRAY, gray_as_rgb(GRAY)),
        (GRAY[..., None], gray_as_rgb(GRAY)),
        (np.dstack([RGB, np.full((6, 8), 255, np.uint8)]), RGB),
        # Transparent pixels show the white behind them.
        (np.dstack([RGB, np.zeros((6, 8), np.uint8)]), np.full_like(RGB, 255)),
        (RGB[:, ::-1, ::-1], RGB[:, ::-1, ::-1]),
        (PIL.Image.fromarray(RGB), RGB),
        (PIL.Image.fromarray(GRAY), gray_as_rgb(GRAY)),
        (PIL.Image.fromarray(np.dstack([RGB, np.full((6, 8), 255, np.uint8)])), RGB),
        (PIL.Image.fromarray(GRAY.astype(np.uint16) * 257), gray_as_rgb(GRAY)),
        (
            PIL.Image.fromarray(GRAY > 127),
            gray_as_rgb(np.where(GRAY > 127, 255, 0)),
        ),
    ],
)
def test_arrays_and_pil_images_become_rgb(image, expected):
    read = images.read(image, "the image")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, expected)
    assert read.flags.c_contiguous


def test_an_rgb_array_is_not_copied():
    assert images.read(RGB, "the image") is RGB


def test_arrays_of_other_libraries_are_read():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return RGB

    assert images.is_image(Tensor())
    np.testing.assert_array_equal(images.read(Tensor(), "the image"), RGB)


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_files_are_read_as_predict_reads_them(tmp_path, kind):
    path = tmp_path / "a.jpg"
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # Shown turned by 90 degrees clockwise.
    PIL.Image.fromarray(noise(40, 60, 3)).save(path, exif=exif)
    read = images.read(kind(path), "the image")
    assert read.shape == (60, 40, 3)
    np.testing.assert_array_equal(read, inputs.read_upright(path))


def test_pil_images_are_turned_as_their_orientation_says(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with PIL.Image.open(tmp_path / "a.png") as image:
        read = images.read(image, "the image")
    np.testing.assert_array_equal(read, np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB / 255, "images[3] has values of type float64: pass uint8 values"),
        (RGB > 9, "images[3] has values of type bool: pass uint8 values"),
        (RGB.astype(np.int64), "images[3] has values of type int64: pass uint8"),
        (RGB[None], "images[3] is an array of shape (1, 6, 8, 3): pass [H, W] (gray)"),
        (RGB.transpose(2, 0, 1), "images[3] is an array of shape (3, 6, 8): pass"),
        (RGB[:0], "images[3] is an array of shape (0, 8, 3): pass"),
        (np.zeros(4, np.uint8), "images[3] is an array of shape (4,): pass"),
        (PIL.Image.new("F", (4, 4)), "images[3] has floating-point pixels: convert"),
        (PIL.Image.new("RGB", (0, 4)), "images[3] has no pixels: its size is (0, 4)"),
        (None, "images[3] is of type NoneType: pass a path, a NumPy array or a PIL"),
        ([RGB], "images[3] is of type list: pass a path"),
        (b"a.png", "images[3] is of type bytes: pass a path"),
        ("no/where.png", "no/where.png: there is no such file"),
        ("https://a.b/c.png", "https://a.b/c.png is a URL: download it"),
        ("gs://a/b.png", "gs://a/b.png is a URL: download it"),
        ("FOLDER", "FOLDER is a folder: pass a list of the images in it"),
        ("FOLDER/a.mp4", "FOLDER/a.mp4 is a video: pass its frames as arrays"),
        ("FOLDER/a.txt", "FOLDER/a.txt is not an image"),
        ("FOLDER/a.png", "FOLDER/a.png is truncated or damaged"),
    ],
)
def test_wrong_images_give_one_sentence_that_names_them(tmp_path, image, message):
    for name in ("a.mp4", "a.txt"):
        (tmp_path / name).write_bytes(b"text")
    PIL.Image.fromarray(RGB).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    if isinstance(image, str):
        image = image.replace("FOLDER", str(tmp_path))
    with pytest.raises(InputError) as caught:
        images.read(image, "images[3]")
    assert str(caught.value).startswith(message.replace("FOLDER", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_truncated_pil_image_is_named(tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with (
        PIL.Image.open(path) as image,
        pytest.raises(InputError, match="the image is truncated or damaged"),
    ):
        images.read(image, "the image")


def test_the_limit_on_pixels_is_a_keyword(tmp_path):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(RGB).save(path)
    np.testing.assert_array_equal(images.read(path, "the image", 48), RGB)
    with pytest.raises(InputError, match=r"larger than max_pixels=47: set max_pixels"):
        images.read(path, "the image", 47)


def test_a_huge_file_is_opened_by_strips(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    PIL.Image.fromarray(RGB).save(path)
    monkeypatch.setattr(strips, "STRIP_PIXELS", 47)
    opened = images.read(path, "the image")
    assert isinstance(opened, strips.StripImage)
    np.testing.assert_array_equal(opened.picture, RGB)
    # It is an image for later calls, too.
    assert images.is_image(opened)
    assert images.read(opened, "the image") is opened
