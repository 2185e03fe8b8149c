"""Importing weights: the files of an import, and refusals that leave no files."""

import hashlib
import json
import subprocess
import sys

import h5py
import jax
import numpy as np
import pytest

from borrow_det.configs import ssd300_coco
from borrow_det.tasks import detection
from borrow_det.weights import keras_names, layouts
from borrow_det.workdir import checkpoints, init_from

CONFIG = f"{ssd300_coco.__file__}:reference=torchvision"
BGR = {
    "channel_order": "BGR",
    "pixel_mean": (103.939, 116.779, 123.68),
    "pixel_std": (1.0, 1.0, 1.0),
}


def shapes_of(layout, names=None):
    tensors = layouts.LAYOUTS[layout].tensors
    return {name: tensors[name].shape for name in names or tensors}


@pytest.fixture
def keras_file(tmp_path):
    """Function that writes a Keras VGG16 without top; only its first kernel is not 0.

    `change` edits the open file.
    """
    first = np.random.default_rng(0).normal(size=(3, 3, 3, 64)).astype(np.float32)

    def write(change=lambda file: None):
        path = tmp_path / "vgg16_notop.weights.h5"
        layers = keras_names.CONVOLUTIONS
        names = [f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")]
        with h5py.File(path, "w") as file:
            # Datasets without values are not stored, so the file is small.
            for name, shape in shapes_of("keras_vgg16", names).items():
                file.create_dataset(f"{name.split('/')[0]}/{name}:0", shape, "f4")
            file["block1_conv1/block1_conv1/kernel:0"][...] = first
            change(file)
        return path

    write.first = first
    return write


# Files of an import.


def test_an_import_has_the_parameters_and_their_origin(
    tmp_path, keras_file, capsys, run
):
    path, output = keras_file(), tmp_path / "new" / "W"
    assert run(path, output) == 0
    assert "26 arrays with 14,714,688 parameters" in capsys.readouterr().out
    assert sorted(p.name for p in output.iterdir()) == ["checkpoints", "import.json"]
    record = json.loads((output / "import.json").read_text())
    parameters = record.pop("parameters")
    assert record == {
        "file": "vgg16_notop.weights.h5",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "layout": "keras_vgg16",
        "normalization": {name: list(value) for name, value in BGR.items()}
        | {"channel_order": "BGR"},
        "dropped": [],
    }
    assert parameters["trunk/conv3_2/conv/bias"] == "block3_conv2/bias"
    assert len(parameters) == 26

    variables = checkpoints.restore_variables(output)
    assert variables["batch_stats"] == {}
    trunk = variables["params"]["trunk"]
    np.testing.assert_array_equal(trunk["conv1_1"]["conv"]["kernel"], keras_file.first)
    assert not np.any(trunk["conv5_3"]["conv"]["kernel"])
    assert init_from.pixel_statistics(output) == BGR


def test_a_detector_takes_every_imported_parameter(
    tmp_path, keras_file, tiny_config, run
):
    run(keras_file(), tmp_path / "W")
    tiny_config.model.width = 1.0
    tiny_config.model.stages = (2, 2, 3, 3, 3)
    tiny_config.model.norm = "none"
    task = detection.DetectionTask(tiny_config, 2)
    fresh = jax.eval_shape(task.init, jax.random.key(0))
    taken = init_from.take(
        checkpoints.restore_variables(tmp_path / "W"), fresh, "trunk"
    ).taken
    record = json.loads((tmp_path / "W" / "import.json").read_text())
    assert taken == sorted(f"params/{path}" for path in record["parameters"])


def test_flags_override_the_pixel_statistics(tmp_path, keras_file, run):
    flags = ("--channel_order=RGB", "--pixel_mean=1,2.5,3", "--pixel_std=4,5,6")
    assert run(keras_file(), tmp_path / "W", *flags) == 0
    assert init_from.pixel_statistics(tmp_path / "W") == {
        "channel_order": "RGB",
        "pixel_mean": (1.0, 2.5, 3.0),
        "pixel_std": (4.0, 5.0, 6.0),
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--channel_order=BGR"], "missing: --pixel_mean, --pixel_std"),
        (
            ["--channel_order=BGR", "--pixel_mean=1,2", "--pixel_std=1,1,1"],
            "are no pixel statistics",
        ),
        (
            ["--channel_order=BGR", "--pixel_mean=1,2,x", "--pixel_std=1,1,1"],
            "--pixel_mean: could not convert string to float: 'x'",
        ),
        (["--channel_order=RBG"], "should be one of"),
        (["--layout=vgg19"], "should be one of"),
        (["surplus"], "unexpected argument 'surplus'"),
        (["--keep_unused_classes"], "are for complete detectors; "),
        ([f"--config={CONFIG}"], "are for complete detectors; "),
    ],
)
def test_wrong_flags_are_refused(tmp_path, keras_file, flags, message, refused):
    assert message in refused(keras_file(), tmp_path / "W", *flags)


# The output folder.


def test_the_output_must_be_new_or_an_empty_folder(
    tmp_path, keras_file, capsys, run, refused
):
    path, output = keras_file(), tmp_path / "W"
    output.mkdir()
    assert run(path, output) == 0
    capsys.readouterr()
    assert "is not an empty folder" in refused(path, output)
    assert "is not an empty folder" in refused(path, path)


def test_a_link_to_an_empty_folder_is_followed(tmp_path, keras_file, run):
    (tmp_path / "disk").mkdir()
    (tmp_path / "W").symlink_to(tmp_path / "disk")
    assert run(keras_file(), tmp_path / "W") == 0
    assert (tmp_path / "W").is_symlink()
    assert (tmp_path / "disk" / "import.json").exists()


def test_a_failed_write_leaves_no_files(tmp_path, keras_file, monkeypatch, refused):
    def fail(folder, variables):
        (folder / "checkpoints").mkdir()
        raise OSError(28, "No space left on device")

    path = keras_file()
    monkeypatch.setattr(checkpoints, "save_variables", fail)
    assert "No space left" in refused(path, tmp_path / "W")


# Refusals.


def test_all_wrong_tensors_are_listed(tmp_path, keras_file, refused):
    def spoil(file):
        del file["block1_conv1/block1_conv1/bias:0"]
        del file["block2_conv1/block2_conv1/kernel:0"]
        # The axes of the kernel are in Theano's order.
        file.create_dataset("block2_conv1/block2_conv1/kernel:0", (128, 64, 3, 3), "f4")
        file.create_dataset("block6_conv1/block6_conv1/bias:0", (9,), "f4")
        file["fc1/fc1/bias:0"] = np.zeros(4096, np.float32)

    message = refused(keras_file(spoil), tmp_path / "W")
    for part in (
        "vgg16_notop.weights.h5: it is not Keras' VGG16",
        "missing: block1_conv1/bias, fc1/kernel, fc2/kernel, fc2/bias, predictions/",
        "unexpected: block6_conv1/bias",
        "block2_conv1/kernel is float32 [128, 64, 3, 3], not float [3, 3, 64, 128]",
    ):
        assert part in message


def test_numbers_that_are_not_finite_are_refused(tmp_path, keras_file, refused):
    def spoil(file):
        file["block4_conv1/block4_conv1/bias:0"][3] = np.nan

    message = refused(keras_file(spoil), tmp_path / "W")
    assert "NaN or infinite numbers in block4_conv1/bias" in message


def test_a_file_must_have_the_layout_of_the_flag(tmp_path, keras_file, refused):
    flag = "--layout=vgg16_reducedfc"
    message = refused(keras_file(), tmp_path / "W", flag)
    assert "it is not vgg16_reducedfc; missing: 0.weight, 0.bias" in message


@pytest.mark.parametrize("kind", ["surplus", "renamed"])
def test_a_wrong_name_is_refused_before_arrays_are_read(
    tmp_path, monkeypatch, kind, refused
):
    names = [*shapes_of("vgg16_reducedfc")]
    if kind == "surplus":
        shapes = shapes_of("vgg16_reducedfc") | {"extra": (2,)}
    else:
        shapes = {f"a{name}": (2,) for name in names}
    np.savez_compressed(
        tmp_path / "a.npz", **{n: np.zeros(s, np.float32) for n, s in shapes.items()}
    )
    monkeypatch.setattr(np.lib.format, "read_array", None)
    message = refused(tmp_path / "a.npz", tmp_path / "W")
    expected = {
        "surplus": "unexpected: extra",
        "renamed": "do not match a known layout",
    }
    assert f"{tmp_path / 'a.npz'}: it" in message
    assert expected[kind] in message


def test_an_absent_file_gives_one_line_and_exit_status_2(tmp_path):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.import_weights"),
            *(f"--input={tmp_path / 'a.pth'}", f"--output={tmp_path / 'W'}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr == f"error: {tmp_path / 'a.pth'}: there is no such file\n"
    assert not (tmp_path / "W").exists()
