import importlib.util
import io
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import inputs, strips, upright
from borrow_det.errors import InputError

HEIGHT, WIDTH = 600, 70  # Many blocks of rows.


@pytest.fixture(autouse=True)
def read_small_images_by_strips(monkeypatch):
    monkeypatch.setattr(strips, "STRIP_PIXELS", 1000)


def noise(channels, kind=np.uint8, most=255):
    values = np.random.default_rng(0).integers(0, most + 1, (HEIGHT, WIDTH, channels))
    return np.squeeze(values.astype(kind))


def pil(form, mode="RGB", **options):
    def encode():
        buffer = io.BytesIO()
        channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
        if mode == "P":
            image = PIL.Image.fromarray(noise(3)).quantize(16)
        elif mode == "1":
            image = PIL.Image.fromarray(noise(1) > 127)
        else:
            image = PIL.Image.fromarray(noise(channels[mode]))
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


def cv(suffix, channels, most):
    return lambda: cv2.imencode(suffix, noise(channels, np.uint16, most))[1].tobytes()


READABLE = {
    "png": pil("PNG"),
    "png of gray": pil("PNG", "L"),
    "png of gray and alpha": pil("PNG", "LA"),
    "png with alpha": pil("PNG", "RGBA"),
    "png with a palette": pil("PNG", "P"),
    "png with a transparent color of its palette": pil("PNG", "P", transparency=3),
    "png with a transparent color": pil("PNG", transparency=(1, 2, 3)),
    "png with a transparent gray": pil("PNG", "L", transparency=7),
    "png of one bit": pil("PNG", "1"),
    "png of 12 bits": cv(".png", 3, 4095),
    "png of 16 bits with alpha": cv(".png", 4, 65535),
    "png of 10 bits of gray": cv(".png", 1, 1023),
    "jpeg": pil("JPEG", quality=80),
    "jpeg of gray": pil("JPEG", "L"),
    "progressive jpeg": pil("JPEG", progressive=True),
    "tiff": pil("TIFF"),
    "tiff with lzw": pil("TIFF", compression="tiff_lzw"),
    "tiff with deflate": pil("TIFF", compression="tiff_adobe_deflate"),
    "tiff with alpha": pil("TIFF", "RGBA"),
    "tiff with jpeg": pil("TIFF", compression="jpeg"),
    "tiff of 12 bits": cv(".tif", 3, 4095),
    "tiff of 14 bits of gray": cv(".tif", 1, 16383),
    "tiff with a palette": pil("TIFF", "P"),
}


@pytest.mark.parametrize("kind", READABLE)
def test_strips_have_the_pixels_of_the_whole_image(kind, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(READABLE[kind]())
    whole = upright.read(path).pixels
    opened = strips.open_strips(path, 0, "max_pixels")
    assert opened is not None
    assert opened.shape == whole.shape == (HEIGHT, WIDTH, 3)
    for top, left, bottom, right in [
        (0, 0, 40, 30),
        (0, 40, 40, 70),
        (30, 0, 300, 70),  # Over several blocks.
        (500, 10, 600, 30),
        (100, 0, 200, 70),  # Above the one before it.
    ]:
        crop = opened.crop(np.array([top, left, bottom, right]))
        np.testing.assert_array_equal(crop, whole[top:bottom, left:right])
    # An image of less than 2**24 pixels is not shrunk.
    np.testing.assert_array_equal(opened.picture, whole)
    assert opened.crop(np.array([0, 0, HEIGHT, WIDTH])) is opened.picture


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a format that is decoded as a whole", pil("BMP")),
        ("cmyk", lambda: _cmyk()),
        ("rotated", lambda: _rotated("JPEG")),
        ("a rotated tiff", lambda: _rotated("TIFF")),
        ("without an end marker", lambda: pil("JPEG")()[:-2]),
    ],
)
def test_other_files_are_read_whole(name, encode, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(encode())
    assert strips.open_strips(path, 0, "max_pixels") is None, name
    pixels = inputs.open_image(path, warn=lambda message: None)
    np.testing.assert_array_equal(pixels, upright.read(path).pixels)


def _cmyk():
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise(4), "CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


def _rotated(form):
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(noise(3)).save(buffer, form, exif=exif)
    return buffer.getvalue()


def test_ordinary_images_are_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(pil("PNG")())
    monkeypatch.setattr(strips, "STRIP_PIXELS", HEIGHT * WIDTH)
    assert strips.open_strips(path, 0, "max_pixels") is None
    monkeypatch.setattr(strips, "STRIP_PIXELS", HEIGHT * WIDTH - 1)
    assert strips.open_strips(path, 0, "max_pixels") is not None
    # A platform without libvips reads all images whole.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert strips.open_strips(path, 0, "max_pixels") is None


def test_the_picture_is_the_mean_of_squares(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(pil("PNG")())
    monkeypatch.setattr(strips, "_PICTURE_PIXELS", HEIGHT * WIDTH // 9 + 1)
    opened = strips.open_strips(path, 0, "max_pixels")
    # 70 columns are 23 squares of 3 and one column.
    squares = noise(3)[:, :69].reshape(200, 3, 23, 3, 3)
    np.testing.assert_allclose(
        opened.picture, squares.mean(axis=(1, 3)), rtol=0, atol=0.51
    )


@pytest.mark.parametrize("name", ["a[b].png", "a[page=3]", b"\xff.png"])
def test_names_of_any_bytes_are_opened(name, tmp_path):
    path = pathlib.Path(
        os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name)))
    )
    try:
        path.write_bytes(pil("PNG")())
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    opened = strips.open_strips(path, 0, "max_pixels")
    np.testing.assert_array_equal(opened.picture, noise(3))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_truncated_file_is_an_error_when_it_is_opened(form, tmp_path):
    path = tmp_path / "a"
    content = pil(form)()
    path.write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(InputError, match="a is truncated or damaged") as caught:
        inputs.open_image(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_strip_is_an_error_when_the_file_is_opened(tmp_path):
    path = tmp_path / "a"
    content = bytearray(pil("TIFF", compression="tiff_adobe_deflate")())
    content[2000] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="a is truncated or damaged"):
        strips.open_strips(path, 0, "max_pixels")


def test_the_limit_names_its_option(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(pil("PNG")())
    with pytest.raises(InputError, match=r"set --max_pixels=42000 if you trust"):
        strips.open_strips(path, 41999, "--max_pixels")
    with pytest.raises(InputError, match=r"gone\.png cannot be read: No such file"):
        inputs.open_image(tmp_path / "gone.png")


def write_large_png(path, side):
    """Writes a square RGB image, row by row."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    compressor = zlib.compressobj(1)
    row = b"\0" + bytes(range(250)) * (3 * side // 250)
    with path.open("wb") as file:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
        for _ in range(side):
            if data := compressor.compress(row):
                file.write(chunk(b"IDAT", data))
        file.write(chunk(b"IDAT", compressor.flush()) + chunk(b"IEND", b""))


MEASURED = """
import pathlib, resource, sys
import numpy as np
from borrow_det.data.images import inputs

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
image = inputs.open_image(pathlib.Path(sys.argv[1]))
for top in range(0, image.shape[0] - 512, 512):
    for left in range(0, image.shape[1] - 512, 512):
        part = image.crop(np.array([top, left, top + 512, left + 512]))
        assert part[0, 1].tolist() == part[511, 1].tolist()
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of memory differ")
def test_a_huge_image_is_never_held_as_a_whole(tmp_path):
    side = 11000  # 363 MB as RGB.
    write_large_png(tmp_path / "a.png", side)
    process = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "a.png"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(process.stdout) < 300
