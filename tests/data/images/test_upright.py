import io

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from borrow_det.data.images import upright as upright_lib
from borrow_det.errors import InputError

BOX = (3, 5, 9, 21)  # y_min, x_min, y_max, x_max; nowhere symmetric in 24 x 32.


def decode(encoded, flags=cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION):
    """Decodes to RGB and ignores orientation, like the pipeline."""
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)[..., ::-1].astype(int)


@pytest.fixture
def save(tmp_path):
    def write(image, name, **options):
        path = tmp_path / name
        image.save(path, **options)
        return path

    return write


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.jpg", {"quality": 80}),
        ("a.jpg", {"progressive": True}),
    ],
)
def test_plain_images_keep_their_bytes(mode, name, options, save, noise_image):
    image = noise_image().convert(mode)
    path = save(image, name, **options)
    stored = upright_lib.read(path)
    assert stored.encoded == path.read_bytes()
    assert (stored.height, stored.width, stored.orientation) == (24, 32, 1)
    if name == "a.png":
        np.testing.assert_array_equal(
            decode(stored.encoded), np.asarray(image.convert("RGB"))
        )


def test_transparent_pixels_are_blended_with_white(save, noise_image):
    image = noise_image()
    alpha = np.repeat(np.uint8([[0], [51], [255]]), 8, axis=0).repeat(32, axis=1)
    image.putalpha(PIL.Image.fromarray(alpha))
    pixels = decode(upright_lib.read(save(image, "a.png")).encoded)
    colour = np.asarray(image)[..., :3].astype(int)
    np.testing.assert_array_equal(pixels[:8], 255)
    # 51 / 255 is a fifth.
    np.testing.assert_allclose(
        pixels[8:16], 0.2 * colour[8:16] + 0.8 * 255, rtol=0, atol=1
    )
    np.testing.assert_array_equal(pixels[16:], colour[16:])


def test_gray_with_alpha_and_palettes_with_transparency(save, noise_image):
    grey = noise_image().convert("L")
    grey.putalpha(0)
    stored = upright_lib.read(save(grey, "a.png"))
    np.testing.assert_array_equal(decode(stored.encoded), 255)

    palette = noise_image().quantize(8)
    opaque = np.asarray(palette.convert("RGB"))
    transparent = np.asarray(palette) == 3
    path = save(palette, "b.png", transparency=3)
    pixels = decode(upright_lib.read(path).encoded)
    np.testing.assert_array_equal(pixels, np.where(transparent[..., None], 255, opaque))


def test_a_transparent_color_becomes_white(save, noise_image):
    image = noise_image()
    colour = image.getpixel((3, 2))
    pixels = decode(upright_lib.read(save(image, "a.png", transparency=colour)).encoded)
    expected = np.array(image)
    expected[2, 3] = 255
    np.testing.assert_array_equal(pixels, expected)


def test_gray_of_sixteen_bits_is_scaled(save):
    values = np.uint16([[0, 256, 257, 514], [32768, 65278, 65279, 65535]])
    path = save(PIL.Image.fromarray(values), "a.png")
    pixels = decode(upright_lib.read(path).encoded)
    np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 1, 2], [127, 254, 254, 255]])
    assert (pixels == pixels[..., :1]).all()


def test_color_of_sixteen_bits_is_converted_to_eight(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 7, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1])
    stored = upright_lib.read(tmp_path / "a.png")
    assert stored.encoded[24] == 8  # PNG's bit depth.
    np.testing.assert_allclose(decode(stored.encoded), values / 257, rtol=0, atol=1)


def test_cmyk_becomes_rgb(save):
    # Ink: none, cyan, magenta, yellow, black; in blocks, since JPEG blurs.
    inks = np.uint8([[0] * 4, *(255 * np.eye(4, dtype=np.uint8))])
    image = PIL.Image.fromarray(inks.repeat(16, 0)[None].repeat(16, 0), "CMYK")
    path = save(image, "a.jpg", quality=100, subsampling=0)
    assert PIL.Image.open(path).info["adobe_transform"] is not None
    stored = upright_lib.read(path)
    again = PIL.Image.open(io.BytesIO(stored.encoded))
    assert (again.format, again.mode) == ("JPEG", "RGB")
    np.testing.assert_allclose(
        decode(stored.encoded)[8, 8::16],
        [[255, 255, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]],
        atol=6,
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, name, save, noise_image):
    # Smooth, so that a second JPEG compression changes little.
    smooth = noise_image(3, 4).resize((32, 24), PIL.Image.Resampling.BICUBIC)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = save(smooth, name, exif=exif, **({"quality": 95} if "jpg" in name else {}))
    stored = upright_lib.read(path)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB")
    assert (stored.width, stored.height) == upright.size
    assert (stored.file_width, stored.file_height) == (32, 24)
    assert stored.orientation == orientation
    pixels = decode(stored.encoded)
    np.testing.assert_allclose(pixels, np.asarray(upright), rtol=0, atol=8)
    # A decoder that minds the tag sees the same: it is gone, or says upright.
    np.testing.assert_array_equal(decode(stored.encoded, cv2.IMREAD_COLOR), pixels)
    assert (stored.encoded == path.read_bytes()) == (orientation == 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_rotate_with_the_image(orientation, save):
    painted = np.zeros((24, 32, 3), np.uint8)
    painted[BOX[0] : BOX[2], BOX[1] : BOX[3]] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = save(PIL.Image.fromarray(painted), "a.png", exif=exif)
    stored = upright_lib.read(path)
    turned = upright_lib.rotate_boxes(np.array([BOX, (0, 0, 24, 32)]), stored)
    y, x = np.nonzero(decode(stored.encoded)[..., 0])
    np.testing.assert_array_equal(turned[0], [min(y), min(x), max(y) + 1, max(x) + 1])
    np.testing.assert_array_equal(turned[1], [0, 0, 32, 24])


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_truncated_image_is_an_error(name, save, noise_image):
    path = save(noise_image(), name)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=rf"{name} is truncated or damaged .*replace"):
        upright_lib.read(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x89PNG\r\n"])
def test_a_file_that_is_not_an_image_is_an_error(content, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.jpg is not an image"):
        upright_lib.read(path)


def test_a_decompression_bomb_is_an_error(save, noise_image, monkeypatch):
    path = save(noise_image(), "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 24 * 32 // 2)
    assert upright_lib.read(path).width == 32  # Up to twice Pillow's warning.
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 24 * 32 // 2 - 1)
    with pytest.raises(InputError, match=r"a\.png is larger than Pillow"):
        upright_lib.read(path)


def test_other_formats_are_stored_as_png(save, noise_image):
    path = save(noise_image(), "a.bmp")
    stored = upright_lib.read(path)
    np.testing.assert_array_equal(decode(stored.encoded), np.asarray(noise_image()))


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.ones((4, 4), np.float32), "floating-point pixels"),
        (np.full((4, 4), 65536, np.int32), "gray values of more than 16 bits"),
        (np.full((4, 4), -1, np.int32), "gray values of more than 16 bits"),
    ],
)
def test_the_error_names_unsupported_pixels(pixels, kind, save):
    path = save(PIL.Image.fromarray(pixels), "a.tiff")
    with pytest.raises(
        InputError, match=rf"a\.tiff has {kind}, which are not supported: convert it"
    ):
        upright_lib.read(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png cannot be read: No such file"):
        upright_lib.read(tmp_path / "gone.png")


def test_the_limit_on_pixels_is_an_option(save, noise_image, monkeypatch):
    path = save(noise_image(), "a.png")
    with pytest.raises(
        InputError,
        match=r"a\.png is larger than dataset\.max_pixels=767: set "
        r"dataset\.max_pixels=768 if you trust the file",
    ):
        upright_lib.read(path, max_pixels=24 * 32 - 1)
    assert upright_lib.read(path, max_pixels=24 * 32).width == 32
    # Above Pillow's limit, too, which stays in place for others.
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert upright_lib.read(path, max_pixels=24 * 32).width == 32
    assert PIL.Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(InputError, match=r"200 pixels\): set --max_pixels=768 if"):
        upright_lib.read(path, option="--max_pixels")


def test_an_image_too_large_for_opencv_says_so(save, noise_image, monkeypatch):
    monkeypatch.setattr(upright_lib, "_DECODABLE_PIXELS", 24 * 32 - 1)
    path = save(noise_image(), "a.png")
    advice = "too many to decode: shrink or divide it$"
    with pytest.raises(InputError, match=rf"a\.png has more than 767 pixels, {advice}"):
        upright_lib.read(path)
    monkeypatch.setattr(upright_lib, "_DECODABLE_SIDE", 31)
    with pytest.raises(InputError, match=rf"more than 31 pixels on a side, {advice}"):
        upright_lib.read(path)


@pytest.mark.parametrize("removed", [1, 4, 8, 12])
def test_a_png_without_its_last_chunk_is_stored_whole(removed, save, noise_image):
    path = save(noise_image(), "a.png")
    path.write_bytes(path.read_bytes()[:-removed])
    stored = upright_lib.read(path)
    assert stored.repairs == ("it has no end chunk",)
    np.testing.assert_array_equal(decode(stored.encoded), np.asarray(noise_image()))


def test_the_pixels_are_those_of_the_stored_file(save, noise_image):
    for name in ("a.png", "a.jpg", "a.bmp", "a.gif"):
        stored = upright_lib.read(save(noise_image(), name))
        np.testing.assert_array_equal(stored.pixels, decode(stored.encoded))
