"""Importing a complete detector: its work directory, and configs that are refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from borrow_det.configs import ssd300_coco, ssd300_voc
from borrow_det.data.datasets import coco_classes
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.tools import import_weights
from borrow_det.weights import layouts
from borrow_det.workdir import checkpoints, init_from, metadata

DETECTOR = layouts.LAYOUTS["torchvision_ssd300_vgg16"]
CONFIG = f"{ssd300_coco.__file__}:reference=torchvision"


@pytest.fixture(scope="module")
def ssd_file(tmp_path_factory):
    """File of torchvision's detector; only the biases of the first heads are not 0."""
    arrays = {n: np.zeros(e.shape, np.float32) for n, e in DETECTOR.tensors.items()}
    for name in ("classification", "regression"):
        bias = arrays[f"head.{name}_head.module_list.0.bias"]
        bias[:] = np.arange(len(bias))
    path = tmp_path_factory.mktemp("ssd") / "ssd300.safetensors"
    safetensors.numpy.save_file(arrays, path)
    return path


def test_a_detector_becomes_a_work_directory(tmp_path, ssd_file, capsys, run):
    output = tmp_path / "W"
    assert run(ssd_file, output, f"--config={CONFIG}") == 0
    assert "not used: class channel 12, class channel 26" in capsys.readouterr().out
    classes = metadata.load_classes(output)
    assert len(classes.class_names) == 80
    assert classes.class_names[:3] == ("person", "bicycle", "car")
    assert classes.class_names[-1] == "toothbrush"
    assert classes.category_ids[10:13] == (11, 13, 14)
    config = metadata.load_config(output)
    assert config.model.pixel_mean == (122.99925, 116.9991, 103.9992)
    assert config.model.pixel_std == (1, 1, 1)
    assert config.model.channel_order == "RGB"
    assert init_from.pixel_statistics(output)["pixel_std"] == (1, 1, 1)
    record = json.loads((output / "import.json").read_text())
    assert record["class_names"] == list(classes.class_names)
    assert len(record["dropped"]) == 10

    detector = Detector.load(output)
    assert detector.class_names == classes.class_names
    head = checkpoints.restore_variables(output)["params"]["head1"]
    bias = np.asarray(head["class"]["bias"]).reshape(4, 81)
    expected = np.arange(4)[:, None] * 91 + np.array([0, *coco_classes.NAMES])
    np.testing.assert_array_equal(bias, expected)
    offsets = np.asarray(head["box"]["bias"])
    np.testing.assert_array_equal(offsets[:8], [1, 0, 3, 2, 5, 4, 7, 6])


def test_classes_that_coco_does_not_annotate_can_be_kept(ssd_file):
    imported = import_weights.read(ssd_file)
    config = ssd300_coco.get_config("reference=torchvision")
    kept, classes = import_weights.as_detector(imported, config, True)
    assert kept.parameters.keys() == imported.parameters.keys()
    for path, array in kept.parameters.items():
        np.testing.assert_array_equal(array, imported.parameters[path])
    assert kept.dropped == []
    assert classes.category_ids == tuple(range(1, 91))
    assert classes.class_names[10:14] == (
        *("fire hydrant", "unused 12"),
        *("stop sign", "parking meter"),
    )


def test_a_detector_needs_the_config_of_its_network(tmp_path, ssd_file, refused):
    message = refused(ssd_file, tmp_path / "W")
    assert "the config of its network, --config=configs/ssd300_coco.py" in message
    flag = f"--config={tmp_path / 'nowhere.py'}"
    assert "nowhere.py" in refused(ssd_file, tmp_path / "W", flag)

    config = ssd300_coco.get_config("reference=torchvision,borrow=True")
    config.model.width = 0.5
    imported = import_weights.read(ssd_file)
    with pytest.raises(InputError, match="missing in the file: neck/") as error:
        import_weights.as_detector(imported, config, False)
    assert "trunk/conv1_1/conv/bias, (64,) in the file and (32,) in the config" in str(
        error.value
    )


SIZES = (21.0, 45.0, 99.0, 153.0, 207.0, 261.0)


@pytest.mark.parametrize(
    ("field", "value", "trained"),
    [
        ("anchors.sizes", (30.0, 60.0, 111.0, 162.0, 213.0, 264.0), SIZES),  # VOC's.
        ("anchors.sizes", (21.01, *SIZES[1:]), SIZES),
        ("anchors.sizes", SIZES[:5], SIZES),
        ("anchors.next_size", 300.0, 315.0),
        ("anchors.second_last", "side", "geometric"),
        ("anchors.second_after", "all", "first"),
        ("anchors.second_aspect_ratios", (2.0,), (1.0,)),
        ("anchors.strides", (8, 16, 32, 64, 100, 299), (8, 16, 32, 64, 100, 300)),
        ("anchors.variances", (0.1, 0.1), (0.1, 0.2)),
        ("anchors.clip", "none", "sizes"),
        ("anchors.clip", "boxes", "sizes"),
        ("input_size", (512, 512), (300, 300)),
        ("input_size", (300, 299), (300, 300)),
    ],
)
def test_anchors_that_the_weights_were_not_trained_with_are_refused(
    ssd_file, field, value, trained
):
    config = ssd300_coco.get_config("reference=torchvision")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError) as error:
        import_weights.as_detector(import_weights.read(ssd_file), config, False)
    assert str(error.value).endswith(f"has them); {field} is {value}, not {trained}")


def test_another_order_of_the_ratios_is_refused(ssd_file):
    config = ssd300_coco.get_config("reference=torchvision")
    first, *others = config.anchors.aspect_ratios
    config.anchors.aspect_ratios = ((1.0, 1 / 2, 2.0), *others)
    assert sorted(config.anchors.aspect_ratios[0]) == sorted(first)
    with pytest.raises(InputError, match=r"has them\); anchors\.aspect_ratios is "):
        import_weights.as_detector(import_weights.read(ssd_file), config, False)


def test_fields_that_define_the_same_anchors_are_accepted(ssd_file):
    config = ssd300_coco.get_config("reference=torchvision")
    config.anchors.sizes = (21, 45, 99, 153, 207, 261.00001)
    ratios = (1.0, 2.0, 0.5)
    config.anchors.aspect_ratios = (ratios, *config.anchors.aspect_ratios[1:])
    import_weights.as_detector(import_weights.read(ssd_file), config, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # VOC's config with one field of the reference.
        (
            [f"--config={ssd300_voc.__file__}", "--config.anchors.clip=sizes"],
            "has them); anchors.sizes is (30.0, 60.0, 111.0, 162.0, 213.0, 264.0), not",
        ),
        (
            [f"--config={ssd300_coco.__file__}:reference=caffe"],
            "has them); anchors.clip is none, not sizes",
        ),
        (
            [f"--config={CONFIG}"]
            + [f"--config.{f}" for f in ("input_size=(9,9)", "anchors.clip=none")],
            "has them); input_size is (9, 9), not (300, 300); anchors.clip is none, no",
        ),
        (
            [f"--config={CONFIG}", "--config.task=classification"],
            "task is 'classification'; it must be one of ['detection']",
        ),
        (
            [f"--config={CONFIG}", "--config.nms.iou=7.0"],
            "nms.iou is 7.0; it must be between 0 and 1",
        ),
    ],
)
def test_configs_of_another_detector_are_refused(
    tmp_path, ssd_file, arguments, message, refused
):
    assert message in refused(ssd_file, tmp_path / "W", *arguments)
