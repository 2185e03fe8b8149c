"""Layouts of published weight files: names and shapes of tensors, and our parameters.

`LAYOUTS` has all of them.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from borrow_det.errors import InputError
from borrow_det.weights.entries import Entry, Layout
from borrow_det.weights.files import Tensor
from borrow_det.weights.trunk_layouts import TRUNK_LAYOUTS
from borrow_det.weights.vgg_layouts import COCO_CHANNELS, VGG_LAYOUTS

# Most differences of a kind that a message names.
_NAMED = 20

LAYOUTS: dict[str, Layout] = {**VGG_LAYOUTS, **TRUNK_LAYOUTS}


def recognize(tensors: Mapping[str, Tensor]) -> str:
    """Returns the name of the layout of a file.

    torchvision's `vgg16` and `vgg16_features` have the same names. The classifier of
    the latter is missing, or has no finite number. Among other layouts with the same
    names, it is the one that has most of the shapes.

    Raises:
      InputError: the tensors are similar to no layout; the message names the layouts.
    """
    if not tensors:
        raise InputError("the file has no tensors")

    def similarity(name: str) -> tuple[float, int]:
        known = LAYOUTS[name].tensors
        present = tensors.keys() - LAYOUTS[name].ignored
        both = known.keys() & present
        fitting = sum(_fits(tensors[tensor], known[tensor]) for tensor in both)
        return len(both) / len(known.keys() | present), fitting

    best = max(LAYOUTS, key=similarity)  # The first of equals is vgg16.
    if similarity(best)[0] < 0.5:
        raise InputError(
            f"its tensors ({_some(tensors)}) do not match a known layout "
            f"({', '.join(LAYOUTS)}): set --layout to one of them"
        )
    plain, features = "torchvision_vgg16", "torchvision_vgg16_features"
    if best == plain and not set(LAYOUTS[features].optional) & tensors.keys():
        return features
    # Numbers are read only from valid files: others may declare any size.
    if best == plain and not _problems(tensors, LAYOUTS[plain]):
        classifier = list(LAYOUTS[features].optional)
        classifier.sort(
            key=lambda name: len(tensors[name].shape)
        )  # Small tensors first.
        if not any(np.isfinite(tensors[name].read()).any() for name in classifier):
            return features
    return best


def check(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Checks the names, shapes and types of a file's tensors.

    Raises:
      InputError: lists all tensors that are missing, unexpected or of another shape.
    """
    found = _problems(tensors, layout)
    if found:
        raise InputError(f"it is not {layout.about}; {'; '.join(found)}")


def convert(
    tensors: Mapping[str, Tensor], layout: Layout
) -> dict[str, dict[str, np.ndarray]]:
    """Converts the tensors of a file that passed `check` to our variables.

    Returns:
      {params, batch_stats}, each with the float32 array of every path.

    Raises:
      InputError: lists all tensors with NaN or infinite numbers.
    """
    not_finite = []
    converted: dict[str, dict[str, np.ndarray]] = {"params": {}, "batch_stats": {}}
    for name, entry in layout.tensors.items():
        if name not in tensors or not entry.path:
            continue
        array = tensors[name].read()
        if not np.isfinite(array).all():
            not_finite.append(name)
        made = np.ascontiguousarray(entry.convert(array))
        converted[entry.collection][entry.path] = made
    if not_finite:
        raise InputError(f"NaN or infinite numbers in {', '.join(not_finite)}")
    return converted


def keep_classes(
    parameters: Mapping[str, np.ndarray], ids: Iterable[int]
) -> dict[str, np.ndarray]:
    """Keeps the class channels of background and `ids` of a torchvision detector.

    Args:
      parameters: path to array. The channels of head{n}/class are anchor-major,
        [..., k * COCO_CHANNELS].
      ids: COCO category ids.

    Returns:
      The parameters, with channels [..., k * (1 + len(ids))] in the order of `ids`.
    """
    channels = [0, *ids]

    def keep(path: str, array: np.ndarray) -> np.ndarray:
        if "/class/" not in path:
            return array
        lead = array.shape[:-1]
        kept = array.reshape(*lead, -1, COCO_CHANNELS)[..., channels]
        return kept.reshape(*lead, -1)

    return {path: keep(path, array) for path, array in parameters.items()}


def _problems(tensors: Mapping[str, Tensor], layout: Layout) -> list[str]:
    """Describes the differences between a file and a layout; [] if there are none."""
    optional = layout.optional if set(layout.optional) & tensors.keys() else ()
    expected = [*layout.required, *optional]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [
            name
            for name in tensors
            if name not in layout.tensors and name not in layout.ignored
        ],
        "of another shape": [
            f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}, not float "
            f"{list(layout.tensors[name].shape)}"
            for name in expected
            if name in tensors and not _fits(tensors[name], layout.tensors[name])
        ],
    }
    return [
        f"{kind}: {_some(names, _NAMED)}"
        + (f" ({len(names)} in all)" if len(names) > _NAMED else "")
        for kind, names in problems.items()
        if names
    ]


def _fits(tensor: Tensor, entry: Entry) -> bool:
    same = len(tensor.shape) == len(entry.shape) and all(
        wanted in (size, -1)
        for size, wanted in zip(tensor.shape, entry.shape, strict=True)
    )
    return same and tensor.floating


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
