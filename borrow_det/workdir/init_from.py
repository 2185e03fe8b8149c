"""Where a run's first parameters come from: another run, or an import."""

import copy
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import flax
import ml_collections
import numpy as np

from borrow_det.errors import InputError, check_choice
from borrow_det.io import paths
from borrow_det.ops import anchors as anchor_ops
from borrow_det.workdir import checkpoints, metadata

SCOPES = ("all", "no_heads", "trunk")
# What the weights of a trunk want of an image; fields of config.model.
NORMALIZATION = ("channel_order", "pixel_mean", "pixel_std")
# The layers that every trunk takes from VGG-16, and what normalises them.
_STAGE = re.compile(
    r"\w+/trunk/(?P<layer>conv[1-5]_\d+)/(?:conv/kernel|(?P<norm>norm/\w+))"
)
# Beside an import's checkpoint: what it was made of (tools/import_weights.py).
IMPORT_FILE = "import.json"


class Initialized(NamedTuple):
    """Variables, some of which were given."""

    variables: dict
    taken: list[str]  # Paths of the parameters that were.
    fresh: list[str]  # Paths of those that stayed as they were.


class Start(NamedTuple):
    """What a run starts from."""

    origin: str
    scope: str
    variables: dict
    taken: list[str]
    fresh: list[str]
    other_heads: dict[str, str]  # Parts of the heads that were not taken: why.
    normalization: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """All but the values, for the run's initialization.json."""
        return {n: v for n, v in self._asdict().items() if n != "variables"}

    def describe(self) -> str:
        """A line for the console."""
        why = "".join(f"; {part} heads: {w}" for part, w in self.other_heads.items())
        return (
            f"from {self.origin}: {len(self.taken)} parameters taken: "
            f"{', '.join(self.taken)}; {len(self.fresh)} fresh: "
            f"{', '.join(self.fresh) or 'none'}{why}; normalisation: "
            f"{self.normalization}"
        )


def start_from(
    config,
    classes: metadata.Classes,
    fresh: Mapping[str, Any],
    read: Callable[[str], dict] = checkpoints.restore_variables,
) -> Start:
    """What a run of `config` takes from `init_from`, and what is left of `fresh`.

    Args:
      config: the run's, its normalisation resolved.
      classes: of its data set.
      fresh: variables {params, batch_stats} of its network; shapes will do.
      read: from a directory to its variables; where only the fit is asked for,
        `checkpoints.variable_shapes`.

    Raises:
      InputError: `init_from` cannot be read or its trunk does not fit, or a run of
        no steps would evaluate fresh parameters.
    """
    origin, scope = config.init_from, config.init_scope
    try:
        given = read(origin)
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    check_groups(origin, config)
    others = other_heads(origin, config, classes) if scope == "all" else {}
    variables, taken, left = take(given, fresh, scope, others)
    start = Start(
        origin=origin,
        scope=scope,
        variables=variables,
        taken=taken,
        fresh=left,
        other_heads=others,
        normalization={name: config.model[name] for name in NORMALIZATION},
    )
    if left and not config.num_steps:
        raise InputError(
            f"num_steps=0 would evaluate fresh parameters; {start.describe()}"
        )
    return start


def take(
    given: Mapping[str, Any],
    fresh: Mapping[str, Any],
    scope: str,
    other_heads: Collection[str] = (),
) -> Initialized:
    """Replaces in `fresh` every array for which `given` has one of its path and shape.

    What one of the two lacks stays fresh: the layers of another trunk, normalisation
    (which takes the place of biases). Heads and neck of another shape stay fresh, too:
    other classes, other anchors. A trunk must fit, for part of one is no start: its
    stages are the same layers, keep the normalisation that they were trained with, and
    what both have is of the same shape.

    Args:
      given: variables {params, batch_stats}; those of a classifier are converted.
      fresh: variables {params, batch_stats} of the network to start.
      scope: `all`; `no_heads`, all but the prediction layers; or `trunk` alone.
      other_heads: parts of the heads, `class` and `box`, that stay fresh though their
        shapes may fit (see `other_heads`).

    Raises:
      InputError: on an unknown scope; lists what of the trunk does not fit.
    """
    check_choice("init_scope", scope, SCOPES)
    given, flat = (
        flax.traverse_util.flatten_dict(dict(tree), sep="/")
        for tree in (_convert(given, fresh), fresh)
    )
    _check_trunk(given, flat)
    taken = [
        path
        for path, value in flat.items()
        if _in_scope(path, scope)
        and _head_part(path) not in other_heads
        and path in given
        and given[path].shape == value.shape
    ]
    flat |= {path: given[path] for path in taken}
    variables = {"params": {}, "batch_stats": {}}
    variables |= flax.traverse_util.unflatten_dict(flat, sep="/")
    return Initialized(variables, sorted(taken), sorted(set(flat) - set(taken)))


def _check_trunk(given, fresh):
    normalized = _normalized(given)

    def must_agree(path):
        stage = _STAGE.fullmatch(path)
        # Normalisation that the origin's layer did not have at all may be added to it.
        if stage and (stage["norm"] is None or stage["layer"] in normalized):
            return True
        return path in given and path in fresh

    problems = [
        f"{path} is {_shape(given, path)} there and {_shape(fresh, path)} here"
        for path in sorted({*given, *fresh})
        if path.split("/")[1] == "trunk"
        and must_agree(path)
        and _shape(given, path) != _shape(fresh, path)
    ]
    if problems:
        raise InputError(
            "init_from: its trunk does not fit this network (model.width, model.stages "
            f"and model.norm decide): {'; '.join(problems)}"
        )


def _normalized(flat):
    """The stage layers of a trunk that have a normalisation."""
    stages = filter(None, map(_STAGE.fullmatch, flat))
    return {stage["layer"] for stage in stages if stage["norm"]}


def _shape(flat, path):
    return "x".join(map(str, flat[path].shape)) if path in flat else "absent"


def _in_scope(path, scope):
    if scope == "trunk":
        return path.split("/")[1] == "trunk"
    return scope == "all" or _head_part(path) is None


def _head_part(path):
    """`class` or `box` of a prediction layer's parameter; None of others."""
    _, module, part = path.split("/")[:3]
    if module == "fc8":
        return "class"
    return part if module.startswith("head") else None


def _convert(given, fresh):
    """A classifier's fully connected layers become a detector's convolutions."""
    if not {"fc6", "fc7"} <= given["params"].keys() or "fc6" in fresh["params"]:
        return given
    layers = {name: given["params"][name] for name in ("fc6", "fc7")}
    trunk = {**given["params"]["trunk"], **decimate(layers)}
    return {**given, "params": {"trunk": trunk}}


def decimate(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
    """conv_fc6 and conv_fc7 of VGG-16's fc6 and fc7: {name: {conv: {kernel, bias}}}.

    Of fc6, seen as a 7x7 convolution, rows and columns 0, 3, 6 are kept and every
    fourth output; of fc7 every fourth input (those that fc6 kept) and every fourth
    output, each beginning with the first: 7x7x512 -> 4096 becomes 3x3x512 -> 1024,
    4096 -> 4096 becomes 1024 -> 1024. It is how SSD's implementations subsample
    (after DeepLab-LargeFOV); the kept taps stand 3 apart, so that the network has to
    be trained on from them.

    Args:
      layers: `fc6` {kernel [7, 7, C, F], bias [F]}, `fc7` {kernel [1, 1, F, F],
        bias [F]}.
    """
    fc6, fc7 = layers["fc6"], layers["fc7"]
    kernels = {
        "conv_fc6": fc6["kernel"][::3, ::3, :, ::4],
        "conv_fc7": fc7["kernel"][:, :, ::4, ::4],
    }
    biases = {"conv_fc6": fc6["bias"][::4], "conv_fc7": fc7["bias"][::4]}
    return {
        name: {"conv": {"kernel": kernel, "bias": biases[name]}}
        for name, kernel in kernels.items()
    }


def check_groups(origin: str | os.PathLike, config) -> None:
    """Compares what no shape shows of a trunk that is normalised in groups.

    Raises:
      InputError: both trunks are, in groups of another number of channels.
    """
    if not _is_run(origin):
        return
    here, there = config.model, _stored_fields(origin)["model"]
    sizes = there.get("group_size"), here.group_size
    if there.get("norm") == here.norm == "group" and sizes[0] != sizes[1]:
        raise InputError(
            f"init_from: the trunk of {origin} is normalised with model.group_size="
            f"{sizes[0]}, this config says {sizes[1]}"
        )


def other_heads(
    origin: str | os.PathLike, config, classes: metadata.Classes
) -> dict[str, str]:
    """Parts of the heads that mean something else at the origin: {part: why}.

    No shape shows that: class logits of other classes, boxes against other anchors. An
    import without config and classes has no heads.

    Raises:
      InputError: the origin's files are not those of a run.
    """
    if not _is_run(origin):
        return {}
    there, here = _stored_fields(origin), metadata.as_stored(config.to_dict())
    found = {}
    if metadata.load_classes(origin).class_names != classes.class_names:
        found["class"] = "other classes"
    if there["task"] == here["task"] == "detection":
        why = _other_anchors(there, here)
        found |= {part: found.get(part, why) for part in ("class", "box") if why}
    return found


def _other_anchors(there, here):
    """How two configs' anchors differ; "" where they do not."""
    for name, value in here["anchors"].items():
        if there["anchors"].get(name) != value:
            return f"other anchors.{name}"
    shapes, other_shapes = (
        anchor_ops.position_shapes(
            ml_collections.ConfigDict(fields["anchors"]), fields["input_size"]
        )
        for fields in (here, there)
    )
    same = all(map(np.array_equal, shapes, other_shapes))
    return "" if same else "other anchors by another input_size"


def _is_run(origin):
    return (paths.as_path(origin) / "config.json").exists()


def _stored_fields(origin):
    """The fields of a run's config.json that are compared here."""
    fields = metadata.load_json(origin, "config.json")
    groups = {"model": Mapping, "anchors": Mapping, "task": str, "input_size": tuple}
    wrong = [n for n, kind in groups.items() if not isinstance(fields.get(n), kind)]
    if wrong:
        raise InputError(
            f"init_from: {origin}/config.json is not a run's: {', '.join(wrong)} "
            "missing or damaged"
        )
    return fields


def resolve_normalization(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> ml_collections.ConfigDict:
    """The config with the normalisation that the weights it starts from want.

    A run that is resumed keeps the one that it began with: what it was started from
    may be gone.

    Raises:
      InputError: `init_from` says nothing of its normalisation, `init_scope` is
        unknown, or `workdir` is an import.
    """
    if (paths.as_path(workdir) / IMPORT_FILE).exists():
        raise InputError(
            f"{workdir} holds imported weights, no run: choose another --workdir and "
            f"start from it with --config.init_from={workdir}"
        )
    check_choice("init_scope", config.init_scope, SCOPES)
    if not (config.init_from and config.init_normalization):
        return config
    begun = metadata.has_checkpoints(workdir)
    try:
        values = normalization(workdir if begun else config.init_from)
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    config = copy.deepcopy(config)
    for name, value in values.items():
        config.model[name] = value
    return config


def normalization(origin: str | os.PathLike) -> dict[str, Any]:
    """`NORMALIZATION`'s fields, as a run or an import states them.

    Raises:
      InputError: `origin` is neither, or states them wrongly.
    """
    if (paths.as_path(origin) / IMPORT_FILE).exists():
        fields = metadata.load_json(origin, IMPORT_FILE).get("normalization")
    else:
        fields = metadata.load_json(origin, "config.json").get("model")
    fields = fields if isinstance(fields, Mapping) else {}
    missing = [name for name in NORMALIZATION if name not in fields]
    if missing:
        raise InputError(f"{origin} does not say what {', '.join(missing)} it wants")
    values = {name: fields[name] for name in NORMALIZATION}
    check_normalization(values, origin)
    return values


def check_normalization(fields: Mapping[str, Any], origin: str | os.PathLike) -> None:
    """Raises InputError where `NORMALIZATION`'s fields hold what makes no sense."""
    sound = (
        fields["channel_order"] in ("RGB", "BGR")
        and all(_is_triple(fields[name]) for name in ("pixel_mean", "pixel_std"))
        and min(fields["pixel_std"]) > 0
    )
    if not sound:
        raise InputError(
            f"{origin}: {dict(fields)} is no normalisation: RGB or BGR, three means, "
            "three scales above 0"
        )


def _is_triple(value):
    return (
        isinstance(value, tuple | list)
        and len(value) == 3
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )
