"""Weight files of every format, names of all versions of Keras, and invalid files."""

import sys
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from borrow_det.errors import InputError
from borrow_det.weights import files, keras_names

KERNEL = np.arange(12, dtype=np.float32).reshape(1, 2, 3, 2) / 7
BIAS = np.array([1.5, -2.0], np.float32)
ARRAYS = {"a.weight": KERNEL, "a.bias": BIAS}


def read_all(path):
    with files.open_tensors(path) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


# What is read.


def test_safetensors_and_npz_give_their_arrays(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / "a.safetensors")
    np.savez_compressed(tmp_path / "a.npz", **ARRAYS)
    for name in ("a.safetensors", "a.npz"):
        with files.open_tensors(tmp_path / name) as tensors:
            assert set(tensors) == set(ARRAYS)
            assert tensors["a.weight"].shape == (1, 2, 3, 2)
            assert tensors["a.weight"].dtype == "float32"
            assert tensors["a.weight"].floating
            for key, array in ARRAYS.items():
                np.testing.assert_array_equal(tensors[key].read(), array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_types_become_float32(tmp_path, dtype):
    arrays = {"x": np.array([1.5, -0.25, 3e4]).astype(dtype)}
    paths = [tmp_path / "a.safetensors"]
    safetensors.numpy.save_file(arrays, paths[0])
    if dtype is not ml_dtypes.bfloat16:  # Which NumPy and HDF5 have not.
        paths += [tmp_path / "a.npz", tmp_path / "a.h5"]
        np.savez(paths[1], **arrays)
        with h5py.File(paths[2], "w") as file:
            file["x"] = arrays["x"]
    for path in paths:
        with files.open_tensors(path) as tensors:
            assert tensors["x"].dtype == np.dtype(dtype).name
            assert tensors["x"].floating
            found = tensors["x"].read()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, arrays["x"].astype(np.float32))


def test_integers_are_not_floating(tmp_path):
    safetensors.numpy.save_file({"n": np.arange(3)}, tmp_path / "a.safetensors")
    with files.open_tensors(tmp_path / "a.safetensors") as tensors:
        assert (tensors["n"].dtype, tensors["n"].floating) == ("I64", False)


# Keras' names. The forms are those that Keras 3.15 wrote here, and, for its older
# versions, those in which code that reads their files names them.


def old(layer, letter):
    return f"{layer}/{layer}_{letter}_1:0"


def write_keras(path, names, named=None):
    """Writes datasets with pairs of `names`; `named` is an attribute of groups."""
    with h5py.File(path, "w") as file:
        for kernel, bias in names:
            file[kernel], file[bias] = KERNEL, BIAS
        for folder, name in (named or {}).items():
            file[folder].attrs["name"] = name


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ([(old(n, "W"), old(n, "b")) for n in ("block2_conv1", "fc2")], None),
        (
            [(f"{n}/{n}/kernel:0", f"{n}/{n}/bias:0") for n in ("block2_conv1", "fc2")],
            None,
        ),
        (
            [
                (f"model_weights/{n}/{n}/kernel", f"model_weights/{n}/{n}/bias")
                for n in ("block2_conv1", "fc2")
            ],
            None,
        ),
        (
            [
                (f"model_weights/{n}/vgg16/{n}/kernel", f"model_weights/{n}/x/bias")
                for n in ("block2_conv1", "fc2")
            ],
            None,
        ),
        (
            [
                (f"{top}/{n}/vars/0", f"{top}/{n}/vars/1")
                for top, n in (
                    ("layers", "conv2d_2"),
                    ("_layer_checkpoint_dependencies", "dense_1"),
                )
            ],
            None,
        ),
        (
            [
                (f"layers/{n}/vars/0", f"layers/{n}/vars/1")
                for n in ("conv2d_7", "dense_9")
            ],
            {"layers/conv2d_7/vars": "block2_conv1", "layers/dense_9/vars": b"fc2"},
        ),
    ],
)
def test_names_of_all_versions_of_keras_are_unified(tmp_path, names, named):
    write_keras(tmp_path / "a.weights.h5", names, named)
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(tmp_path / "a.weights.h5", "model.weights.h5")
    for name in ("a.weights.h5", "a.keras"):
        found = read_all(tmp_path / name)
        layers = ("block2_conv1", "fc2")
        assert set(found) == {f"{n}/{w}" for n in layers for w in ("kernel", "bias")}
        for layer in layers:
            np.testing.assert_array_equal(found[f"{layer}/kernel"], KERNEL)
            np.testing.assert_array_equal(found[f"{layer}/bias"], BIAS)


def test_numbered_names_are_the_layers_of_vgg16_in_order():
    counted = keras_names._COUNTED
    assert counted["conv2d"] == "block1_conv1"
    assert counted["conv2d_4"] == "block3_conv1"
    assert counted["conv2d_12"] == "block5_conv3"
    assert counted["dense_2"] == "predictions"
    assert len(counted) == 16


def test_other_names_stay_as_they_are(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["optimizer/vars/0"] = BIAS
        file["block1_conv1/block1_conv2_W_1:0"] = BIAS
    assert set(read_all(tmp_path / "a.h5")) == {
        "optimizer/vars/0",
        "block1_conv1/block1_conv2_W_1:0",
    }


def test_two_tensors_with_one_name_are_an_error(tmp_path):
    write_keras(
        tmp_path / "a.h5",
        [("fc1/fc1/kernel:0", "fc1/fc1/bias:0"), ("fc1/fc1_W_1:0", "fc1/other/x")],
    )
    with pytest.raises(InputError, match="two tensors have the name fc1/kernel"):
        read_all(tmp_path / "a.h5")


# Invalid files, and links.


def test_hdf5_files_cannot_refer_to_other_files(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = BIAS
    (tmp_path / "raw.bin").write_bytes(BIAS.tobytes())
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["own"] = BIAS
        file["link"] = h5py.ExternalLink("other.h5", "secret")
        file["soft"] = h5py.SoftLink("/own")
    assert set(read_all(path)) == {"own"}

    with h5py.File(path, "w") as file:
        file.create_dataset(
            "x", (2,), "f4", external=[(str(tmp_path / "raw.bin"), 0, 8)]
        )
    with pytest.raises(InputError, match="x is stored in another file"):
        read_all(path)

    virtual = h5py.VirtualLayout((2,), "f4")
    virtual[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (2,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("y", virtual)
    with pytest.raises(InputError, match="y is stored in another file"):
        read_all(path)


def test_texts_in_hdf5_are_not_floating(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["words"] = ["some", "text"]
    with files.open_tensors(tmp_path / "a.h5") as tensors:
        assert not tensors["words"].floating


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5", ".keras", ".pth"])
def test_the_error_names_a_file_that_cannot_be_read_and_the_reason(
    tmp_path, monkeypatch, suffix
):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"x")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.pathlib.Path, "open", refuse)
    with pytest.raises(InputError) as error:
        read_all(path)
    assert str(error.value) == f"{path}: Permission denied"


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5", ".keras"])
def test_damaged_and_wrong_files_are_errors_of_one_line(tmp_path, suffix):
    arrays = {"x": np.random.default_rng(0).normal(size=5000)}
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".npz":
        np.savez(whole, **arrays)
    elif suffix == ".safetensors":
        safetensors.numpy.save_file(arrays, whole)
    else:
        with h5py.File(whole, "w") as file:
            file["x"] = arrays["x"]
        if suffix == ".keras":
            content = whole.read_bytes()
            with zipfile.ZipFile(whole, "w") as archive:
                archive.writestr("model.weights.h5", content)
    np.testing.assert_allclose(read_all(whole)["x"], arrays["x"], rtol=1e-6)
    content = whole.read_bytes()
    cases = {
        "cut": content[: len(content) // 2],
        "text": b"some words\nof text\n",
        "empty": b"",
        "zip": zipped_words(tmp_path),
    }
    for name, wrong in cases.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(wrong)
        with pytest.raises(InputError) as error:
            read_all(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def zipped_words(folder):
    with zipfile.ZipFile(folder / "words.zip", "w") as archive:
        archive.writestr("words.txt", "some words")
    return (folder / "words.zip").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "a.bin",
            r"file with the suffix \.pth, \.pt, \.safetensors, \.h5, \.keras, \.np",
        ),
        ("a", r"file with the suffix \.pth"),
        ("nowhere.h5", "there is no such file"),
        ("nowhere.pth", "there is no such file"),
    ],
)
def test_unknown_suffixes_and_missing_files_are_errors(tmp_path, name, message):
    for present in ("a.bin", "a"):
        (tmp_path / present).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        read_all(tmp_path / name)


def test_the_error_names_torch_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "a.PTH"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match="needs torch, which is not installed: pip"):
        read_all(path)
