"""TFDS's builder of imagenet2012, with archives of a few images."""

import importlib
import importlib.util
import io
import os
import shutil
import tarfile
import types

import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import imagenet_vgg16
from borrow_det.data import sources
from borrow_det.data.datasets import object_crops, prepare
from borrow_det.errors import InputError

pytestmark = pytest.mark.tensorflow

# Of TFDS's list of classes: numbers 0, 1 and 999.
SYNSETS = {"n01440764": 0, "n01443537": 1, "n15075141": 999}


def jpeg(color, size=(40, 30), mode="RGB") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, color).convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def with_tensorflow(monkeypatch):
    """Replaces the functions of TensorFlow that the builder calls, if it is missing."""
    if importlib.util.find_spec("tensorflow") is not None:
        return
    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: True)
    gfile = types.SimpleNamespace(GFile=open, exists=os.path.exists)
    fake = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
    for name in (
        "datasets.imagenet2012.imagenet2012_dataset_builder",
        "datasets.imagenet2012.imagenet_common",
        "core.download.extractor",
    ):
        module = importlib.import_module(f"tensorflow_datasets.{name}")
        monkeypatch.setattr(module, "tf", fake)


@pytest.fixture
def config(tmp_path, with_tensorflow):
    """A configuration of a run, with archives in the manual folder."""
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    classes = {
        f"{synset}.tar": tar(
            {f"{synset}_{i}.JPEG": jpeg((50 * i, label % 256, 200)) for i in range(2)}
        )
        for synset, label in SYNSETS.items()
    }
    (manual / "ILSVRC2012_img_train.tar").write_bytes(tar(classes))
    validation = {
        f"ILSVRC2012_val_{i:08d}.JPEG": jpeg((10 * i, 0, 0)) for i in (1, 2, 3)
    }
    (manual / "ILSVRC2012_img_val.tar").write_bytes(tar(validation))
    config = imagenet_vgg16.get_config()
    config.dataset.data_dir = str(tmp_path)
    return config


def test_each_image_of_imagenet_is_one_object(config):
    train, validation = object_crops.load_splits(
        config.dataset, (config.dataset.train_split, *config.dataset.eval_splits)
    )
    assert len(train.class_names) == 1000
    assert (train.class_names[0], train.class_names[999]) == (
        *("n01440764", "n15075141"),
    )
    assert (len(train), len(validation)) == (6, 3)
    for i in range(len(train)):
        record = train[i]
        synset, _, number = record["file_name"].removesuffix(".JPEG").partition("_")
        assert record["label"] == SYNSETS[synset]
        assert record["image_id"] == i
        pixels = object_crops.decode_crop(record, "a")
        assert pixels.shape == (30, 40, 3)
        expected = [50 * int(number), record["label"] % 256, 200]
        np.testing.assert_allclose(pixels[15, 20], expected, atol=4)
    # The labels of the first three validation images, as TFDS lists them.
    common = importlib.import_module(
        "tensorflow_datasets.datasets.imagenet2012.imagenet_common"
    )
    names = common.tfds.core.tfds_path(common._VALIDATION_LABELS_FNAME)
    labels = names.read_text().split()[:3]
    found = {
        validation[i]["file_name"]: validation.class_names[validation[i]["label"]]
        for i in range(3)
    }
    assert found == {f"ILSVRC2012_val_{i:08d}.JPEG": labels[i - 1] for i in (1, 2, 3)}


@pytest.mark.parametrize("name", ["train", "val"])
def test_the_error_names_a_missing_archive_and_its_folder(config, tmp_path, name):
    archive = tmp_path / "downloads" / "manual" / f"ILSVRC2012_img_{name}.tar"
    archive.unlink()
    with pytest.raises(InputError, match=r"image-net\.org") as error:
        object_crops.load_splits(
            config.dataset, (config.dataset.train_split, *config.dataset.eval_splits)
        )
    assert f"{archive.name} into {archive.parent}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "imagenet2012").exists()


def test_the_error_names_the_folder_that_is_missing(config, tmp_path):
    shutil.rmtree(tmp_path / "downloads")
    with pytest.raises(InputError, match=r"img_train\.tar and ILSVRC2012_img_val\.tar"):
        sources.load(config.dataset, "train")
