"""Names of published weights: defaults, and the nearest ones to a wrong name."""

import re

import pytest

from borrow_det.errors import InputError
from borrow_det.weights import layouts, published


def test_a_name_without_weights_or_tag_is_the_default():
    named = published.torchvision_file
    assert named("resnet50") == named("resnet50.IMAGENET1K_V2")
    assert named("resnet50").name == "resnet50-11ad3fa6.pth"
    assert named("resnet50.IMAGENET1K_V1").name == "resnet50-0676ba61.pth"
    assert published.timm_repository("resnet50") == "timm/resnet50.a1_in1k"


def test_a_tag_is_taken_as_it_is():
    repository = published.timm_repository("swin_tiny_patch4_window7_224.ms_in1k")
    assert repository == "timm/swin_tiny_patch4_window7_224.ms_in1k"
    assert published.timm_pixel_statistics(repository) is None


def test_the_checksum_is_in_the_name():
    file = published.torchvision_file("vgg16_features")
    assert file.name == "vgg16_features-amdegroot-88682ab5.pth"
    assert file.checksum == "88682ab5"
    for files in published.TORCHVISION.values():
        for file in files.values():
            assert re.fullmatch("[0-9a-f]{8}", file.checksum)


def test_pixel_statistics_are_those_of_the_layouts():
    for name in ("vgg16", "vgg16_features"):
        layout = layouts.LAYOUTS[f"torchvision_{name}"]
        statistics = published.torchvision_file(name).pixel_statistics.fields()
        assert statistics == layout.pixel_statistics


def test_pixel_statistics_depend_on_the_tag():
    def mean(tag):
        repository = f"timm/vit_small_patch16_224.{tag}"
        return published.timm_pixel_statistics(repository)["pixel_mean"]

    assert mean("augreg_in21k_ft_in1k") == (127.5, 127.5, 127.5)
    assert mean("dino") == (123.675, 116.28, 103.53)


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        ("torchvision_file", "resnet_50", "torchvision/resnet_50 is not .*/resnet50"),
        ("torchvision_file", "resnet50.IMAGENET1K_V3", "/resnet50.IMAGENET1K_V2"),
        ("torchvision_file", "xyz", "the models are torchvision/vgg16, .*/vit_b_16$"),
        (
            "timm_repository",
            "vit_small_patch16",
            "the nearest are timm/vit_small_patch16_224, .* the tag, too: timm/MODEL.T",
        ),
        ("timm_repository", "xyz", "the models are timm/resnet18, .*_base_patch16_224"),
    ],
)
def test_a_wrong_name_lists_the_nearest(find, name, message):
    with pytest.raises(InputError, match=message):
        getattr(published, find)(name)
