import json
import pathlib
import resource
import shutil

import cv2
import pytest
import tensorflow_datasets as tfds

from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.data.datasets import folder_copy, prepare, records
from borrow_det.errors import InputError


@pytest.mark.parametrize(
    ("name", "convert", "split"),
    [
        ("voc/2007", records.convert_voc, "train"),
        ("voc/2012", records.convert_voc, "train"),
        ("wider_face", records.convert_wider_face, "validation"),
        ("kitti", records.convert_kitti, "train"),
    ],
)
def test_records_of_mock_data_are_converted(name, convert, split):
    """Mock records of TFDS have stacked arrays, invalid boxes and decoded images."""
    key = "faces" if name == "wider_face" else "objects"
    with tfds.testing.mock_data(num_examples=3):
        mock = tfds.data_source(name, split=split)
        for i in range(len(mock)):
            record = dict(mock[i])
            height, width = record["image"].shape[:2]
            record["image"] = cv2.imencode(".png", record["image"])[1].tobytes()
            for text in {"image/filename", "image/file_name"} & set(record):
                record[text] = f"{i:06d}.jpg"
            # The mock draws a length for each field of a sequence.
            n = min(len(values) for values in record[key].values())
            record[key] = {k: values[:n] for k, values in record[key].items()}
            found = convert(record, i, policy="drop")
            assert (found["height"], found["width"]) == (height, width)
            boxes = found["boxes"]
            assert len(boxes) + found["bad_boxes"] == n > 0
            assert (boxes[:, :2] < boxes[:, 2:]).all()
            for field in ("labels", "is_crowd", "is_difficult", "area"):
                assert found[field].shape == (len(boxes),)


def test_the_error_names_tensorflow_if_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_has_tensorflow", lambda: False)
    dataset = base.get_config().dataset
    dataset.data_dir = str(tmp_path)
    for name in ("voc", "coco/2017", "wider_face", "kitti"):
        dataset.name = name
        with pytest.raises(
            InputError,
            match=r"is not prepared in .* pip install -r requirements-tf\.txt",
        ):
            sources.load(dataset, "train")


@pytest.mark.parametrize("below", ["", "/below"])
def test_a_data_dir_that_cannot_be_created_is_an_error(below, drawn_config, tmp_path):
    (tmp_path / "file").write_text("")
    drawn_config.dataset.data_dir = str(tmp_path / "file") + below
    with pytest.raises(
        InputError, match=r"file.* cannot be prepared \(.*Not a dir"
    ) as e:
        sources.load(drawn_config.dataset, "train")
    assert "set dataset.data_dir to a writable folder" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_full_disk_is_an_error_and_leaves_no_prepared_set(folder, noise_image):
    for i in range(3):
        folder.add(f"{i}.png", noise_image(200, 200, seed=i))
    folder.write()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow beyond this: the writer fails as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(
            InputError, match=r"prepared/folder/.* cannot be prepared \(.*too large"
        ) as error:
            sources.load(folder.config(), "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert not list((folder.folder / "prepared").rglob("*.array_record*"))
    split = sources.load(folder.config(), "train")
    assert [split[i]["image_id"] for i in range(len(split))] == [10, 20, 30]


def test_bugs_keep_their_traceback(folder, noise_image, monkeypatch):
    def fail(source):
        raise RuntimeError("a bug")

    folder.add("a.png", noise_image())
    folder.write()
    monkeypatch.setattr(folder_copy, "Content", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        sources.load(folder.config(), "train")


def test_a_set_prepared_in_another_format_is_an_error(drawn_config, tmp_path):
    sources.load(drawn_config.dataset, "train")
    prepared = pathlib.Path(drawn_config.dataset.data_dir) / "scale_pairs"
    shutil.copytree(prepared, tmp_path / "scale_pairs")
    name = f"scale_pairs/{next(tmp_path.glob('scale_pairs/64px*')).name}"
    assert len(prepare.prepared_by_name(name, str(tmp_path)).info.splits) == 4
    info = next(tmp_path.rglob("dataset_info.json"))
    content = json.loads(info.read_text())
    content["fileFormat"] = "tfrecord"
    info.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"as tfrecord.*set dataset\.data_dir to"):
        prepare.prepared_by_name(name, str(tmp_path))
