"""Tables of published weights: torchvision's files and timm's models, by name.

Names, hashes and pixel statistics are those of torchvision 0.28 and timm 1.0; a test of
the group `parity` compares them with the installed libraries.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from borrow_det.errors import InputError


class UnitStatistics(NamedTuple):
    """Mean and deviation of each channel, for RGB values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def fields(self) -> dict[str, Any]:
        """Returns the fields `init_from.PIXEL_STATISTICS`, for values in 0..255."""
        return {
            "channel_order": "RGB",
            "pixel_mean": tuple(round(255 * value, 5) for value in self.mean),
            "pixel_std": tuple(round(255 * value, 5) for value in self.std),
        }


class TorchvisionFile(NamedTuple):
    """A file of torchvision; its name ends with digits of its SHA-256."""

    name: str
    pixel_statistics: UnitStatistics

    @property
    def checksum(self) -> str:
        """First hexadecimal digits of the SHA-256."""
        return self.name.rpartition("-")[2].partition(".")[0]


IMAGENET = UnitStatistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = UnitStatistics((0.5,) * 3, (0.5,) * 3)
# SSD's features subtract the mean from values in 0..255, without a deviation.
SSD_FEATURES = UnitStatistics((0.48235, 0.45882, 0.40784), (1 / 255,) * 3)


def _files(**names: str) -> dict[str, TorchvisionFile]:
    return {weights: TorchvisionFile(name, IMAGENET) for weights, name in names.items()}


# Files by the name of the model and of the weights; the first are the model's default.
TORCHVISION: dict[str, dict[str, TorchvisionFile]] = {
    "vgg16": _files(IMAGENET1K_V1="vgg16-397923af.pth"),
    "vgg16_features": {
        "IMAGENET1K_FEATURES": TorchvisionFile(
            "vgg16_features-amdegroot-88682ab5.pth", SSD_FEATURES
        )
    },
    "resnet18": _files(IMAGENET1K_V1="resnet18-f37072fd.pth"),
    "resnet34": _files(IMAGENET1K_V1="resnet34-b627a593.pth"),
    "resnet50": _files(
        IMAGENET1K_V2="resnet50-11ad3fa6.pth", IMAGENET1K_V1="resnet50-0676ba61.pth"
    ),
    "resnet101": _files(
        IMAGENET1K_V2="resnet101-cd907fc2.pth", IMAGENET1K_V1="resnet101-63fe2227.pth"
    ),
    "convnext_tiny": _files(IMAGENET1K_V1="convnext_tiny-983f1562.pth"),
    "convnext_small": _files(IMAGENET1K_V1="convnext_small-0c510722.pth"),
    "vit_b_16": _files(
        IMAGENET1K_V1="vit_b_16-c867db91.pth",
        IMAGENET1K_SWAG_LINEAR_V1="vit_b_16_lc_swag-4e70ced5.pth",
    ),
}


def _tags(imagenet: str = "", half: str = "") -> dict[str, UnitStatistics]:
    return dict.fromkeys(imagenet.split(), IMAGENET) | dict.fromkeys(half.split(), HALF)


_RESNET = "a1_in1k a2_in1k a3_in1k gluon_in1k tv_in1k"
_RESNET_50 = (
    "a1h_in1k am_in1k b1k_in1k b2k_in1k bt_in1k c1_in1k c2_in1k d_in1k ra_in1k "
    "ram_in1k tv2_in1k fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k"
)
_CONVNEXT = (
    "in12k_ft_in1k in12k_ft_in1k_384 in12k fb_in1k fb_in22k fb_in22k_ft_in1k "
    "fb_in22k_ft_in1k_384"
)
_AUGREG = "augreg_in21k_ft_in1k augreg_in21k augreg_in1k"

# Pixel statistics by the name of the model and its tag; the first tag is the default.
TIMM: dict[str, dict[str, UnitStatistics]] = {
    "resnet18": _tags(f"{_RESNET} fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k"),
    "resnet34": _tags(f"{_RESNET} bt_in1k", "ra4_e3600_r224_in1k"),
    "resnet50": _tags(f"{_RESNET} {_RESNET_50}"),
    "resnet101": _tags(f"a1h_in1k {_RESNET} tv2_in1k"),
    "convnext_tiny": _tags(_CONVNEXT),
    "convnext_small": _tags(_CONVNEXT),
    "vit_small_patch16_224": _tags(half=_AUGREG) | _tags("dino"),
    "vit_base_patch16_224": _tags(
        half=f"augreg2_in21k_ft_in1k {_AUGREG} orig_in21k orig_in21k_ft_in1k sam_in1k"
    )
    | _tags("dino mae"),
}


def torchvision_file(name: str) -> TorchvisionFile:
    """Returns the file of MODEL or MODEL.WEIGHTS, such as resnet50.IMAGENET1K_V1.

    Raises:
      InputError: the table has no such name; lists the nearest ones.
    """
    model, _, weights = name.partition(".")
    files = TORCHVISION.get(model, {})
    if not weights and files:
        return next(iter(files.values()))
    if weights not in files:
        raise InputError(
            f"torchvision/{name} is not among the known weights; "
            f"{_nearest(name, 'torchvision', TORCHVISION)}"
        )
    return files[weights]


def timm_repository(name: str) -> str:
    """Returns the hub's repository of MODEL, by its default tag, or of MODEL.TAG.

    Raises:
      InputError: the name has no tag, and the table has no default tag for it; lists
        the nearest names.
    """
    if "." in name:
        return f"timm/{name}"
    if name not in TIMM:
        raise InputError(
            f"timm/{name} is not among the models with a known default tag; "
            f"{nearest_timm(name)}, or write the tag, too: timm/MODEL.TAG"
        )
    return f"timm/{name}.{next(iter(TIMM[name]))}"


def timm_pixel_statistics(repository: str) -> dict[str, Any] | None:
    """Returns the pixel statistics of a repository timm/MODEL.TAG, if the table has it.

    The values are those of the fields `init_from.PIXEL_STATISTICS`.
    """
    model, _, tag = repository.removeprefix("timm/").partition(".")
    found = TIMM.get(model, {}).get(tag)
    return found.fields() if found else None


def nearest_timm(name: str) -> str:
    """Describes the known names that are similar to MODEL or MODEL.TAG of timm."""
    return _nearest(name, "timm", TIMM)


def _nearest(name: str, publisher: str, models: Mapping[str, Iterable[str]]) -> str:
    known = [*models, *(f"{model}.{tag}" for model in models for tag in models[model])]
    close = difflib.get_close_matches(name, known, n=4)
    text = "the nearest are" if close else "the models are"
    return f"{text} {', '.join(f'{publisher}/{each}' for each in close or models)}"
