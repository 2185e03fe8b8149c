"""Archives of arrays: headers are read on opening, arrays later and within limits."""

import zipfile

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.weights import files


def read_all(path):
    with files.open_tensors(path) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def npy(description, data=b"", version=(1, 0)):
    """Makes the file of an array: magic, version, length of header, header, data."""
    header = description.encode() + b"\n"
    length = len(header).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + header + data


def described(shape, dtype="<f4"):
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}"


def write_npz(path, *members, packed=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_pickles_in_npz_are_refused_and_not_loaded(tmp_path):
    sprung = tmp_path / "sprung"
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([Trap(sprung)], dtype=object))
    with pytest.raises(InputError, match=r"damaged: x\.npy: it has objects$") as error:
        read_all(path)
    assert not sprung.exists()
    assert "allow_pickle" not in str(error.value)  # No advice to load it anyway.
    np.load(path, allow_pickle=True)["x"]
    assert sprung.exists()  # The trap works.


def test_headers_are_read_without_the_arrays(tmp_path, monkeypatch):
    """Arrays are unpacked when they are read, and not before."""
    path = write_npz(
        tmp_path / "a.npz",
        ("x.npy", npy(described("(2, 3)"), bytes(24))),
        ("dir/y.npy", npy(described("(1,)", ">f8"), b"\x3f\xf8" + bytes(6), (2, 0))),
        ("n", npy(described("()", "<i8"), b"\7" + bytes(7))),
    )
    whole, read_array = [], np.lib.format.read_array
    monkeypatch.setattr(
        np.lib.format,
        "read_array",
        lambda *a, **k: whole.append(read_array(*a, **k)) or whole[-1],
    )
    with files.open_tensors(path) as tensors:
        seen = {n: (t.shape, t.dtype, t.floating) for n, t in tensors.items()}
        assert seen == {
            "x": ((2, 3), "float32", True),
            "dir/y": ((1,), "float64", True),
            "n": ((), "int64", False),
        }
        assert whole == []
        np.testing.assert_array_equal(tensors["dir/y"].read(), np.float32([1.5]))
        assert len(whole) == 1
        assert tensors["n"].read() == 7


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            npy(described("(1000000, 1000000)")),
            r"x.npy: float32 \[1000000, 1000000\] has 4000000000000 bytes, not 0",
        ),
        (npy(described("(2,)"), bytes(4)), r"has 8 bytes, not 4"),
        (npy(described("(2,)"), bytes(12)), r"has 8 bytes, not 12"),
        (npy(described("(-1,)"), bytes(4)), r"has -4 bytes, not 4"),
        (npy(described("(2,)"), bytes(8), (3, 0)), r"version \(3, 0\) of the format"),
        (npy("-" * 7000 + "1"), r"damaged: x.npy: "),  # A MemoryError of Python's.
        (npy("(" * 7000), r"damaged: x.npy: "),
        (npy("{}"), r"x.npy: Header does not contain the correct keys"),
        (npy("x" * 12000), r"damaged$"),  # NumPy advises loading it anyway.
        (npy(described("(2,)", "nope")), r"descr is not a valid dtype descriptor"),
        (b"some words", r"x.npy: the magic string is not correct"),
        (b"", r"x.npy: EOF: reading magic string"),
    ],
    ids=[
        *("shape", "short", "long", "negative", "version", "minuses", "brackets"),
        *("fields", "length", "type", "words", "empty"),
    ],
)
def test_invalid_headers_are_errors_on_opening(tmp_path, content, reason):
    path = write_npz(tmp_path / "a.npz", ("x.npy", content))
    assert path.stat().st_size < 300
    with (
        pytest.raises(InputError, match=reason) as error,
        files.open_tensors(path),
    ):
        pass
    assert str(error.value).startswith(f"{path}: not an archive of NumPy arrays")


def test_two_arrays_with_one_name_are_an_error(tmp_path):
    content = npy(described("()"), bytes(4))
    path = write_npz(tmp_path / "a.npz", ("x", content), ("x.npy", content))
    with pytest.raises(InputError, match=r"a\.npz: two tensors have the name x$"):
        read_all(path)


def test_a_damaged_tensor_is_an_error_when_it_is_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(5000))
    content = bytearray(path.read_bytes())
    content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged: Bad CRC-32"):
        read_all(path)


def test_archives_beyond_the_limit_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MAX_UNPACKED", 1000)
    keras = write_npz(tmp_path / "a.keras", ("model.weights.h5", bytes(1001)))
    with pytest.raises(
        InputError, match="weights have 1001 bytes, more than the limit of 1000"
    ):
        read_all(keras)
    half = npy(described("(100,)"), bytes(400))
    assert len(half) == 480 - 12
    path = write_npz(tmp_path / "a.npz", ("x.npy", half), ("y.npy", half))
    assert len(read_all(path)) == 2
    path = write_npz(path, *((f"{i}.npy", half) for i in range(3)))
    with pytest.raises(InputError, match=r"a\.npz: its weights have 1404 bytes"):
        read_all(path)


@pytest.mark.parametrize("kind", ["a.npz", "a.keras"])
def test_archives_with_other_compression_are_errors(tmp_path, kind):
    name = "x.npy" if kind == "a.npz" else "model.weights.h5"
    path = write_npz(tmp_path / kind, (name, bytes(9)), packed=zipfile.ZIP_LZMA)
    with pytest.raises(
        InputError, match=f"{name} must be stored or deflated, as NumPy and"
    ):
        read_all(path)
