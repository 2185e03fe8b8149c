import importlib
import re

import numpy as np
import pytest

from borrow_det.config import validate
from borrow_det.configs import arguments, base
from borrow_det.errors import InputError

NAMES = [
    "quickstart",
    "scale_pairs",
    "scale_pairs_wide",
    "scale_pairs_clips",
    "object_pairs",
    "folder",
    "folder_narrow",
    "voc",
    "coco",
    "coco_modern",
    "wider_face",
    "kitti",
    "ssd300_coco",
    "ssd300_voc",
    "ssd512_coco",
]


def get_config(name, arg):
    if name.startswith(("folder", "object_pairs")):
        arg = f"path=DIR,{arg}"
    return importlib.import_module(f"borrow_det.configs.{name}").get_config(arg)


def test_values_take_the_type_of_their_default():
    defaults = {"path": str, "size": 512, "width": 0.5, "borrow": True, "split": "a"}
    values = arguments.parse("path=3,width=2,borrow=False,split=train[:16]", **defaults)
    assert values.to_dict() == {
        "path": "3",
        "size": 512,
        "width": 2.0,
        "borrow": False,
        "split": "train[:16]",
    }
    assert type(values.width) is float


@pytest.mark.parametrize("arg", [None, ""])
def test_defaults_without_arguments(arg):
    assert arguments.parse(arg, size=512).to_dict() == {"size": 512}


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("colour=3", "'colour=3' is unknown.*size, borrow, path"),
        ("size", "'size' is unknown; write NAME=VALUE"),
        ("size=x", "size=x must be of type int"),
        ("size=1.5", "size=1.5 must be of type int"),
        ("borrow=1", "borrow=1 must be of type bool"),
        ("size=3", "the config needs the arguments path"),
    ],
)
def test_invalid_arguments_are_errors(arg, message):
    with pytest.raises(InputError, match=message):
        arguments.parse(arg, size=512, borrow=True, path=str)


@pytest.mark.parametrize("name", NAMES)
def test_borrow_false_only_disables_borrowing_and_what_serves_it(name):
    full = get_config(name, "borrow=True").to_dict()
    plain = get_config(name, "borrow=False").to_dict()
    assert full["borrow"]["enabled"]
    assert full["borrow"]["context"]
    assert full["loss"]["matching"] > 0
    assert not plain["borrow"].pop("enabled")
    assert not plain["borrow"].pop("context")
    assert plain["loss"].pop("matching") == 0
    assert plain["references"].pop("kind") == "none"
    del full["references"]["kind"]
    for fields in (full["borrow"], full["loss"]):
        for field in ("enabled", "context", "matching"):
            fields.pop(field, None)
    assert full == plain


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_locked_and_refuses_unknown_arguments(name):
    config = get_config(name, "")
    assert config.is_locked
    assert sorted(config.to_dict()) == sorted(base.get_config().to_dict())
    with pytest.raises(InputError, match="'colour=1' is unknown"):
        get_config(name, "colour=1")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_command(name):
    docstring = importlib.import_module(f"borrow_det.configs.{name}").__doc__
    command = rf"python -m borrow_det\.main[\s\\]+--config=configs/{name}\.py"
    assert re.search(command, docstring)


def test_folder_needs_a_path():
    with pytest.raises(InputError, match="needs the arguments path"):
        importlib.import_module("configs.folder").get_config()


def test_folder_arguments():
    config = get_config("folder", "train=a,val=b[:16],size=320,steps=7,batch=4")
    assert config.dataset.path == "DIR"
    assert config.dataset.train_split == "a"
    assert config.dataset.eval_splits == ("b[:16]",)
    assert config.input_size == (320, 320)
    assert config.dataset.canvas == (640, 640)
    assert (config.num_steps, config.batch_size) == (7, 4)


@pytest.mark.parametrize(("steps", "warmup"), [(400, 40), (2000, 200), (5000, 200)])
def test_folder_warms_up_for_at_most_a_tenth_of_the_steps(steps, warmup):
    assert get_config("folder", f"steps={steps}").schedule.warmup_steps == warmup


def test_folder_with_weights_is_vgg16_with_frozen_stages():
    config = get_config("folder", "weights=VGG,frozen=5")
    assert (config.init_from, config.init_scope) == ("VGG", "trunk")
    assert (config.model.width, config.model.norm, config.model.frozen) == (
        *(1.0, "none", 5),
    )
    assert config.borrow.channels == 256
    assert get_config("folder", "weights=VGG,width=0.25").model.width == 0.25
    assert get_config("folder", "").model.width == 0.5


@pytest.mark.parametrize("name", ["folder", "coco", "voc", "coco_modern"])
@pytest.mark.parametrize(
    ("trunk", "norm", "optimizer", "rate", "decay"),
    [
        ("resnet18", "batch", "sgd", None, 1.0),
        ("resnet101", "batch", "sgd", None, 1.0),
        ("convnext_small", "layer", "adamw", 1e-4, 0.95),
        ("vit_base", "layer", "adamw", 1e-4, 0.7),
    ],
)
def test_another_trunk_has_its_normalization_and_optimizer(
    name, trunk, norm, optimizer, rate, decay
):
    config = get_config(name, f"trunk={trunk}")
    assert (config.model.trunk, config.model.norm) == (trunk, norm)
    assert config.model.width == 1.0
    assert config.optimizer.name == optimizer
    # RetinaNet's 0.01 for 16 images.
    expected = rate or 0.01 * config.batch_size / 16
    np.testing.assert_allclose(config.optimizer.learning_rate, expected)
    # A folder without weights is trained from scratch.
    assert config.optimizer.layer_decay == (1.0 if name == "folder" else decay)


def test_weights_of_another_trunk_leave_its_normalization_alone():
    config = get_config("folder", "trunk=vit_small,weights=W,frozen=3")
    assert (config.init_from, config.init_scope) == ("W", "trunk")
    assert (config.model.norm, config.model.frozen) == ("layer", 3)
    assert config.optimizer.layer_decay == 0.7
    assert config.model.l2_scales == (0.0,) * 4


def test_an_unknown_trunk_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"trunk=resnet must be .*vgg16, resnet18"):
        get_config("voc", "trunk=resnet")


@pytest.mark.parametrize("trunk", ["vgg16", "resnet18", "vit_small"])
def test_crops_pretrain_every_trunk_at_one_rate(trunk):
    config = get_config("object_crops", f"trunk={trunk}")
    assert (config.model.trunk, config.task) == (trunk, "classification")
    assert config.optimizer.layer_decay == 1.0
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adamw", 1e-3)
    assert config.model.norm == ("layer" if trunk == "vit_small" else "batch")


def test_anchors_of_scale_pairs_scale_with_the_images():
    config = get_config("scale_pairs", "size=128")
    assert config.dataset.image_size == 128
    assert config.input_size == config.dataset.canvas == (128, 128)
    assert config.anchors.sizes == (10.0, 20.0, 40.0, 80.0)
    # Mirrored stripes are another species.
    assert not config.augment.enabled


@pytest.mark.parametrize(
    ("name", "arg", "kind"),
    [
        ("scale_pairs_wide", "", "overview"),
        ("scale_pairs_wide", "references=none", "none"),
        ("scale_pairs_wide", "tiles=False", "none"),
        ("scale_pairs_wide", "borrow=False", "none"),
        ("scale_pairs_clips", "", "group"),
        ("scale_pairs_clips", "references=none", "none"),
        ("scale_pairs_clips", "borrow=False", "none"),
    ],
)
def test_references_of_the_diagnostic_configs(name, arg, kind):
    config = get_config(name, arg)
    assert config.references.kind == kind
    validate.check_fields(config)


def test_scale_pairs_wide_without_tiles_sees_the_entire_image():
    by_tiles, entire = (get_config("scale_pairs_wide", a) for a in ("", "tiles=False"))
    assert by_tiles.augment.tile
    assert by_tiles.evaluation.tiles == "3x3"
    assert not entire.augment.enabled
    assert not entire.augment.tile
    assert entire.evaluation.tiles == ""
    assert entire.dataset.canvas == by_tiles.dataset.canvas == (576, 576)
