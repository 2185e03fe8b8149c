import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import deep, upright


def chunk(kind, data):
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def png(values, color_type, *chunks):
    """Writes a PNG of 16 bits: color type 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(
                b"IHDR",
                struct.pack(">IIBBBBB", width, height, 16, color_type, *[0] * 3),
            ),
            *(chunk(*pair) for pair in chunks),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def read(tmp_path, content, name="a.png"):
    path = tmp_path / name
    path.write_bytes(content)
    return upright.read(path).pixels


@pytest.mark.parametrize(
    ("largest", "bits"),
    [
        (0, 8),
        (255, 8),
        (256, 10),
        (1023, 10),
        (1024, 12),
        (4095, 12),
        (4096, 14),
        (16383, 14),
        (16384, 16),
        (65535, 16),
    ],
)
def test_the_largest_value_names_the_bits(largest, bits):
    assert deep.significant_bits(largest) == bits


def test_stated_bits_count_if_they_hold_the_largest_value():
    assert deep.significant_bits(200, stated=12) == 12
    assert deep.significant_bits(5000, stated=12) == 14


# Black, a half, white of a range; 2047 * 255 // 4095 is 127.
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_gray_is_scaled_from_the_range_of_its_camera(bits, name, tmp_path):
    most = 2**bits - 1
    values = np.uint16([[0, most // 2, most]])
    content = cv2.imencode(name[1:], values)[1].tobytes()
    expected = np.repeat(np.uint8([[[0], [127], [255]]]), 3, axis=2)
    np.testing.assert_array_equal(read(tmp_path, content, name), expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_color_keeps_the_proportions_of_its_channels(bits, name, tmp_path):
    most = 2**bits - 1
    rgb = np.uint16([[[most, most // 2, 0], [0, 0, most // 2]]])
    content = cv2.imencode(name[1:], rgb[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(
        read(tmp_path, content, name), [[[255, 127, 0], [0, 0, 127]]]
    )


def test_alpha_has_its_own_range(tmp_path):
    # A camera of 12 bits; half of the white behind the second pixel shines through.
    rgba = np.uint16([[[4095, 0, 0, 65535], [0, 0, 0, 32896], [0, 0, 0, 0]]])
    pixels = read(tmp_path, png(rgba, 6))
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [127] * 3, [255] * 3]])
    gray = np.uint16([[[4095, 65535], [0, 65535], [4095, 0]]])
    pixels = read(tmp_path, png(gray, 4))
    np.testing.assert_array_equal(pixels, [[[255] * 3, [0] * 3, [255] * 3]])


def test_a_png_states_its_significant_bits(tmp_path):
    gray = np.uint16([[0, 200, 511]])
    dark = read(tmp_path, png(gray, 0, (b"sBIT", bytes([12]))))
    np.testing.assert_array_equal(dark[0, :, 0], [0, 200 * 255 // 4095, 31])
    rgb = np.uint16([[[511, 0, 0]]])
    dark = read(tmp_path, png(rgb, 2, (b"sBIT", bytes([12, 12, 12]))))
    np.testing.assert_array_equal(dark, [[[31, 0, 0]]])
    content = png(np.uint16([[[511, 65535]]]), 4, (b"sBIT", bytes([12, 16])))
    assert deep.stated_bits(content) == 12


def test_a_portable_graymap_states_its_largest_value(tmp_path):
    values = np.array([[0, 256, 1023]], ">u2")
    content = b"P5 3 1 4095\n" + values.tobytes()
    # Pillow scales them to 0..65535.
    expected = np.round(values[0] / 4095 * 65535).astype(int) // 257
    np.testing.assert_array_equal(read(tmp_path, content, "a.pgm")[0, :, 0], expected)


def test_a_picture_of_sixteen_bits_from_the_caller_is_scaled_alike():
    image = PIL.Image.fromarray(np.uint16([[0, 2047, 4095]]))
    np.testing.assert_array_equal(
        np.asarray(upright.to_rgb(image))[0, :, 0], [0, 127, 255]
    )
