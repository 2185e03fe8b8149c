"""Values out of their range are refused, and their field is named."""

import re

import pytest

from borrow_det.config import validate
from borrow_det.configs import base
from borrow_det.errors import InputError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "segmentation"),
        ("num_steps", -1),
        ("log_every", 0),
        ("eval_every", -1),
        ("checkpoint_every", 0),
        ("keep_checkpoints", 0),
        ("ema_decay", 1.0),
        ("dtype", "int32"),
        ("dtype", "float"),
        ("input_size", (64,)),
        ("input_size", (0, 64)),
        ("dataset.canvas", (64, -1)),
        ("dataset.max_boxes", -1),
        ("dataset.max_pixels", -1),
        ("dataset.held_out", 1.0),
        ("dataset.folds", 1),
        ("dataset.folds", -2),
        ("dataset.fold", 1),
        ("dataset.fold", -1),
        ("dataset.eval_splits", ()),
        ("evaluation.area_pixels", "pixels"),
        ("model.width", 0.0),
        ("model.group_size", 0),
        ("model.frozen", -1),
        ("model.pixel_mean", (1.0, 1.0)),
        ("model.pixel_std", (1.0, 0.0, 1.0)),
        ("anchors.variances", (0.1,)),
        ("anchors.sizes", (32.0, 64.0, -128.0, 256.0)),
        ("anchors.strides", (8, 16, 0, 64)),
        ("anchors.strides", ()),
        ("anchors.sizes", ("a", "b", "c", "d")),
        ("anchors.aspect_ratios", (1.0, 2.0)),
        ("anchors.variances", (0.1, "b")),
        ("anchors.aspect_ratios", ((1.0,), (), (1.0,), (1.0,))),
        ("anchors.aspect_ratios", ((1.0,), (0.0, 1.0), (1.0,), (1.0,))),
        ("anchors.second_aspect_ratios", (-1.0,)),
        ("nms.iou", 1.5),
        ("nms.max_total", 0),
        ("loss.matching", -1.0),
        ("loss.focal_alpha", 1.5),
        ("loss.focal_gamma", -1.0),
        ("head.depth", -1),
        ("head.channels", 0),
        ("head.norm", "batch"),
        ("head.prior", 0.0),
        ("head.prior", 1.0),
        ("evaluation.lender_scale", 1.0),
        ("loss.positive_iou", float("nan")),
        ("augment.crop_tries", 0),
        ("augment.min_crop", 0.0),
        ("augment.max_expand", 0.5),
        ("augment.crop_area", (0.0, 1.0)),
        ("augment.crop_area", (0.5, 1.1)),
        ("augment.crop_aspect", (2.0, 0.5)),
        ("augment.crop_aspect", (0.5,)),
        ("augment.paste", 1.5),
        ("augment.paste_count", 0),
        ("augment.paste_sides", (0.5, 8.0)),
        ("augment.paste_sides", (8.0, 4.0)),
        ("augment.paste_scale", 0.5),
        ("augment.paste_edge", 0.6),
        ("augment.paste_flip", -0.5),
        ("dataset.crop_context", -0.1),
        ("dataset.min_crop_side", 0.0),
        ("evaluation.crop_share", 0.0),
        ("loss.label_smoothing", 1.0),
        ("model.dropout", 1.0),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.trunk_rate", 0.0),
        ("optimizer.trunk_rate", float("nan")),
        ("evaluation.max_detections", 0),
        ("batch_size", 0),
        ("batch_size", -2),
        ("batch_size", 3),
        ("eval_batch_size", 5),
        ("micro_batch", 3),
        ("micro_batch", -1),
        ("first_stage", "columns"),
        ("remat", "stages"),
    ],
)
def test_a_value_out_of_its_range_is_refused(field, value):
    config = base.get_config()
    validate.check(config, ["detection"], 2)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"^{field} is "):
        validate.check(config, ["detection"], 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"references.kind": "overview"},
            "references.kind is overview, the entire image for a tile of it: set "
            "augment.tile or evaluation.tiles",
        ),
        (
            {"references.kind": "group", "borrow.enabled": False},
            "references.kind is group, and borrow.enabled is False: ",
        ),
        (
            {"references.kind": "group", "borrow.source": "same"},
            "references.kind is group, and borrow.source is same: references need ",
        ),
        (
            {"references.kind": "group", "borrow.levels": ()},
            "references.kind is group, and borrow.levels is empty: name the levels ",
        ),
        (
            {"augment.tile": True, "augment.enabled": False},
            "augment.tile needs augment.enabled=True",
        ),
        (
            {"augment.paste": 0.5, "augment.enabled": False},
            "augment.paste needs augment.enabled=True",
        ),
        (
            {"augment.paste": 0.5, "augment.paste_sides": (300.0, 400.0)},
            "augment.paste_sides begins at 300 pixels, and no object of "
            "input_size=(512, 512) has augment.paste_scale=2 times that side: ",
        ),
        *(
            (
                {name: value, "task": "classification"},
                f"{name} is {value}, and task is classification: references, tiles and "
                "pasted copies are for task=detection",
            )
            for name, value in (
                ("references.kind", "group"),
                ("augment.tile", True),
                ("augment.paste", 0.5),
                ("evaluation.tiles", "auto"),
            )
        ),
    ],
)
def test_references_tiles_and_copies_where_nothing_uses_them_are_refused(
    fields, message
):
    config = base.get_config()
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        validate.check(config, ["detection", "classification"], 2)


@pytest.mark.parametrize(
    ("name", "folds", "fold", "message"),
    [
        ("voc", 5, 0, "dataset.folds is 5, and dataset.name is voc: folds are for dat"),
        ("folder", 5, 5, "dataset.fold is 5; the 5 folds are 0 to 4"),
        ("folder", 5, -1, "dataset.fold is -1; the 5 folds are 0 to 4"),
        ("folder", 0, 2, "dataset.fold is 2; dataset.folds is 0: set the number of "),
        ("folder", 5, 4, ""),
        ("coco_folder", 2, 0, ""),
    ],
)
def test_folds_are_those_of_a_folder_and_counted_from_0(name, folds, fold, message):
    config = base.get_config()
    config.dataset.update({"name": name, "folds": folds, "fold": fold})
    if not message:
        validate.check(config, ["detection"], 2)
        return
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        validate.check(config, ["detection"], 2)
