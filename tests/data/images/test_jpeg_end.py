import io

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import jpeg_end, upright
from borrow_det.errors import InputError

KINDS = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3},
]


@pytest.fixture(scope="module")
def pixels():
    """A smooth picture with a flat lower part, where single bytes matter little."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    image = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    image[100:] = 128
    return image


def encode(pixels, **options):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("removed", [1, 2])
def test_a_jpeg_that_lacks_its_end_marker_is_read_whole(
    options, gray, removed, pixels, tmp_path
):
    whole = encode(pixels[..., 0] if gray else pixels, **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:-removed])
    stored = upright.read(path)
    # The stored file is complete, so every decoder reads it.
    assert stored.encoded == whole
    assert stored.repairs == ("it has no end marker",)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    intact = cv2.imdecode(np.frombuffer(whole, np.uint8), flags)
    np.testing.assert_array_equal(stored.pixels, intact)
    # OpenCV's reader of files takes the end of the file for the marker.
    np.testing.assert_array_equal(stored.pixels, cv2.imread(str(path), flags))


def test_an_intact_jpeg_has_no_repairs(pixels, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(pixels))
    assert upright.read(path).repairs == ()


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_jpeg_that_is_cut_in_its_data_stays_an_error(options, pixels, tmp_path):
    whole = encode(pixels, **options)
    for removed in (3, 4, 5, 9, 30, 100, 300, 1000, 2000):
        assert jpeg_end.with_end_marker(whole[:-removed]) is None, removed
        path = tmp_path / "a.jpg"
        path.write_bytes(whole[:-removed])
        with pytest.raises(InputError, match=r"a\.jpg is truncated or damaged"):
            upright.read(path)


def test_a_jpeg_that_ends_at_a_restart_marker_or_a_scan_is_cut(pixels):
    restarts = encode(pixels, restart_marker_rows=1)
    markers = [restarts.rindex(bytes([0xFF, 0xD0 + n])) for n in range(7)]
    for marker in markers:
        assert jpeg_end.with_end_marker(restarts[:marker]) is None
    progressive = encode(pixels, progressive=True)
    for scan in range(2, 10):
        # Tables, which begin with FFC4, stand before each scan.
        start = b"\xff\xda".join(progressive.split(b"\xff\xda")[:scan])
        assert jpeg_end.with_end_marker(start[: start.rindex(b"\xff\xc4")]) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda", b"text"])
def test_nothing_is_added_to_files_without_an_image(content):
    assert jpeg_end.with_end_marker(content) is None
