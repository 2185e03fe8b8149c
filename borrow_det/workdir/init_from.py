"""The initial parameters of a run from another run or an import (`init_from`)."""

import copy
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import ml_collections

from borrow_det.errors import InputError, check_choice
from borrow_det.io import paths
from borrow_det.ops import subtrees
from borrow_det.workdir import checkpoints, metadata, origin_run, trunk_conversion
from borrow_det.workdir.named_weights import NamedWeights

SCOPES = ("all", "no_heads", "trunk")
# The pixel statistics that weights were trained with; fields of config.model.
PIXEL_STATISTICS = ("channel_order", "pixel_mean", "pixel_std")
# VGG-16's layers, and their normalization layers.
_VGG_LAYER = re.compile(
    r"\w+/trunk/(?P<layer>conv[1-5]_\d+)/(?P<part>conv/kernel|conv/bias|norm/\w+)"
)
# Layers of a trunk that make the levels of a detector; classifiers have none of them.
_LEVEL_LAYER = re.compile(r"\w+/trunk/(?:conv_fc[67]|conv([6-9]|10)_\d|pyramid|level)")
# Parameters that only some networks of a trunk have: the class token of ViT without
# windows, and the LayerNorm of ConvNeXt's classifier.
_OPTIONAL = re.compile(r"\w+/trunk/(?:cls_token|pooled_norm/\w+)")
# Most arrays that a message names.
_NAMED = 50
# The description of an import beside its checkpoint (tools/import_weights.py).
IMPORT_FILE = "import.json"


class Initialized(NamedTuple):
    """Variables, part of them taken from elsewhere.

    Attributes:
      variables: {params, batch_stats}.
      taken: paths of the arrays that were taken.
      fresh: paths of the other arrays.
    """

    variables: dict
    taken: list[str]
    fresh: list[str]


class Start(NamedTuple):
    """The initial parameters of a run.

    Attributes:
      origin: config.init_from.
      scope: config.init_scope.
      variables: {params, batch_stats}; arrays that stay fresh are as `start_from` got
        them, shapes for instance.
      taken: paths of the arrays that were taken from the origin.
      fresh: paths of the other arrays.
      other_heads: parts of the heads that were not taken, with the reason.
      pixel_statistics: those of the run.
      named: the published weights that the origin names, if it is no folder.
    """

    origin: str
    scope: str
    variables: dict
    taken: list[str]
    fresh: list[str]
    other_heads: dict[str, str]
    pixel_statistics: dict[str, Any]
    named: NamedWeights | None

    def fill(self, drawn: Mapping[str, Any]) -> dict:
        """Returns the variables, with drawn values for the fresh arrays."""
        flat, values = (
            flax.traverse_util.flatten_dict(dict(tree), sep="/")
            for tree in (self.variables, drawn)
        )
        flat |= {path: values[path] for path in self.fresh}
        return _unflatten(flat)

    def record(self) -> dict[str, Any]:
        """Returns the content of the run's initialization.json."""
        weights = {"weights": self.named.record} if self.named else {}
        return {
            "origin": self.origin,
            **weights,
            "scope": self.scope,
            "taken": self.taken,
            "fresh": self.fresh,
            "other_heads": self.other_heads,
            "normalization": self.pixel_statistics,
        }

    def describe(self) -> str:
        """Returns a line for the console."""
        why = "".join(f"; {part} heads: {w}" for part, w in self.other_heads.items())
        origin = self.named.describe() if self.named else self.origin
        return (
            f"from {origin}: {len(self.taken)} parameters taken: "
            f"{', '.join(self.taken)}; {len(self.fresh)} fresh: "
            f"{', '.join(self.fresh) or 'none'}{why}; pixel statistics: "
            f"{self.pixel_statistics}"
        )


def start_from(
    config: ml_collections.ConfigDict,
    classes: metadata.Classes,
    fresh: Mapping[str, Any],
    named: NamedWeights | None = None,
) -> Start:
    """Reads the parameters that a run takes from `init_from`.

    Args:
      config: the run's configuration, with its pixel statistics resolved.
      classes: the classes of its dataset.
      fresh: variables {params, batch_stats} of its network, or their shapes.
      named: the published weights that `init_from` names; None if it is a folder.

    Raises:
      InputError: `init_from` cannot be read, its trunk does not fit, or a run of no
        steps would evaluate fresh parameters.
    """
    origin, scope = config.init_from, config.init_scope
    others: dict[str, str] = {}
    if named:
        given = named.variables
    else:
        try:
            given = checkpoints.restore_variables(origin)
        except InputError as error:
            raise InputError(f"init_from: {error}") from error
        origin_run.check_groups(origin, config)
        if scope == "all":
            others = origin_run.other_heads(origin, config, classes)
    variables, taken, left = take(given, fresh, scope, others)
    start = Start(
        origin=origin,
        scope=scope,
        variables=variables,
        taken=taken,
        fresh=left,
        other_heads=others,
        pixel_statistics={name: config.model[name] for name in PIXEL_STATISTICS},
        named=named,
    )
    if left and not config.num_steps:
        raise InputError(
            f"num_steps=0 would evaluate fresh parameters; {start.describe()}"
        )
    return start


def check_frozen(start: Start | None, stages: Sequence[Collection[str]]) -> None:
    """Checks that a run takes all of its frozen stages from `init_from`.

    Random values that nothing trains are a mistake.

    Args:
      start: the run's start; None without `init_from`.
      stages: paths of the modules of each frozen stage, from the input on.

    Raises:
      InputError: parameters or statistics of these stages would be random.
    """
    frozen = f"model.frozen is {len(stages)}"
    if stages and start is None:
        raise InputError(
            f"{frozen}, and init_from is empty, so that the frozen stages would keep "
            "random values: set init_from to a run or to imported weights, or set "
            "model.frozen=0"
        )
    fresh = [path.partition("/")[2] for path in start.fresh] if start else []
    for count, modules in enumerate(stages):
        random = [path for path in fresh if subtrees.is_inside(path, modules)]
        if random:
            raise InputError(
                f"{frozen}, but init_from gives no {', '.join(random)}, which would "
                f"keep random values: the largest model.frozen for it is {count}"
            )


def check_statistics(start: Start | None, norm: str) -> None:
    """Checks that frozen batch statistics (`model.norm`) come from `init_from`.

    Raises:
      InputError: they would stay at zero and one.
    """
    if norm != "frozen_batch":
        return
    if start is None:
        raise InputError(
            "model.norm is frozen_batch, and init_from is empty, so that nothing would "
            "be normalized: set init_from, or set model.norm=batch"
        )
    fresh = [path for path in start.fresh if path.startswith("batch_stats/")]
    if fresh:
        raise InputError(
            f"model.norm is frozen_batch, but init_from gives no {', '.join(fresh)}: "
            "set model.norm=batch"
        )


def take(
    given: Mapping[str, Any],
    fresh: Mapping[str, Any],
    scope: str,
    other_heads: Collection[str] = (),
) -> Initialized:
    """Replaces each array of `fresh` with the array of the same path in `given`.

    Arrays that one of the two lacks stay fresh: the layers of another trunk, and
    normalization layers (which take the place of biases). Heads and neck of another
    shape stay fresh, too: other classes, other anchors. A trunk must fit, since part of
    one is useless: its stages have the same layers, keep the normalization that they
    were trained with, and arrays that both have are of the same shape. A layer of a
    deeper level that would lose its normalization stays fresh. Position embeddings of
    another grid are interpolated.

    Args:
      given: variables {params, batch_stats}; those of a classifier are converted.
      fresh: variables {params, batch_stats} of the network to start.
      scope: `all`; `no_heads`, all but the prediction layers; or `trunk` alone.
      other_heads: parts of the heads, `class` and `box`, that stay fresh although their
        shapes may fit (see `origin_run.other_heads`).

    Raises:
      InputError: the scope is unknown, or the trunk does not fit; lists its arrays.
    """
    check_choice("init_scope", scope, SCOPES)
    given, flat = (
        flax.traverse_util.flatten_dict(dict(tree), sep="/")
        for tree in (trunk_conversion.convert(given, fresh), fresh)
    )
    _check_trunk(given, flat)
    taken = [
        path
        for path, value in flat.items()
        if _in_scope(path, scope)
        and _head_part(path) not in other_heads
        and path in given
        and given[path].shape == value.shape
        and not _loses_norm(path, given, flat)
    ]
    flat |= {path: given[path] for path in taken}
    fresh_paths = sorted(set(flat) - set(taken))
    return Initialized(_unflatten(flat), sorted(taken), fresh_paths)


def _unflatten(flat: Mapping[str, Any]) -> dict[str, dict]:
    """Returns {params, batch_stats} of arrays by path."""
    variables: dict[str, dict] = {"params": {}, "batch_stats": {}}
    return variables | flax.traverse_util.unflatten_dict(dict(flat), sep="/")


def _check_trunk(given: Mapping[str, Any], fresh: Mapping[str, Any]) -> None:
    normalized = _normalized(given)

    def must_agree(path: str) -> bool:
        if path in given and path in fresh:
            return True
        vgg = _VGG_LAYER.fullmatch(path)
        # Layers of VGG without normalization may get one in place of their bias.
        if vgg and vgg["part"] != "conv/kernel":
            return vgg["layer"] in normalized and vgg["part"].startswith("norm/")
        return not (_LEVEL_LAYER.match(path) or _OPTIONAL.fullmatch(path))

    problems = [
        f"{path} is {_shape(given, path)} there and {_shape(fresh, path)} here"
        for path in sorted({*given, *fresh}, key=_statistics_last)
        if path.split("/")[1] == "trunk"
        and must_agree(path)
        and _shape(given, path) != _shape(fresh, path)
    ]
    if problems:
        more = len(problems) - _NAMED
        others = [f"and {more} more"] if more > 0 else []
        raise InputError(
            "init_from: its trunk does not fit this network (model.trunk, model.width, "
            "model.stages and model.norm decide): "
            f"{'; '.join(problems[:_NAMED] + others)}"
        )


def _loses_norm(path: str, given: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Returns whether a convolution was trained with a normalization that is gone."""
    block, is_conv, _ = path.rpartition("/conv/")
    scale = f"{block}/norm/scale"
    return bool(is_conv) and scale in given and scale not in fresh


def _statistics_last(path: str) -> tuple[bool, str]:
    return not path.startswith("params/"), path


def _normalized(flat: Mapping[str, Any]) -> set[str]:
    """Returns VGG's layers that have a normalization."""
    layers = filter(None, map(_VGG_LAYER.fullmatch, flat))
    return {each["layer"] for each in layers if each["part"].startswith("norm/")}


def _shape(flat: Mapping[str, Any], path: str) -> str:
    return "x".join(map(str, flat[path].shape)) if path in flat else "absent"


def _in_scope(path: str, scope: str) -> bool:
    if scope == "trunk":
        return path.split("/")[1] == "trunk"
    return scope == "all" or _head_part(path) is None


def _head_part(path: str) -> str | None:
    """Returns `class` or `box` for a parameter of a prediction layer, else None."""
    _, module, part = path.split("/")[:3]
    if module in ("fc8", "fc"):
        return "class"
    return part if module.startswith("head") else None


def resolve_pixel_statistics(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    named: NamedWeights | None = None,
) -> ml_collections.ConfigDict:
    """Returns the config with the pixel statistics of the weights it starts from.

    A resumed run keeps those that it began with: its origin may be gone.

    Args:
      config: the run's configuration.
      workdir: its work directory.
      named: the published weights that `init_from` names, for a run that does not
        resume; None if it is a folder.

    Raises:
      InputError: `init_from` does not state its pixel statistics, `init_scope` is
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
        values = (
            named.pixel_statistics
            if named
            else pixel_statistics(workdir if begun else config.init_from)
        )
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    config = copy.deepcopy(config)
    for name, value in values.items():
        config.model[name] = value
    return config


def pixel_statistics(origin: str | os.PathLike) -> dict[str, Any]:
    """Reads the fields PIXEL_STATISTICS of a run or an import.

    Raises:
      InputError: `origin` is neither, or a value makes no sense.
    """
    if (paths.as_path(origin) / IMPORT_FILE).exists():
        fields = metadata.load_json(origin, IMPORT_FILE).get("normalization")
    else:
        fields = metadata.load_json(origin, "config.json").get("model")
    fields = fields if isinstance(fields, Mapping) else {}
    missing = [name for name in PIXEL_STATISTICS if name not in fields]
    if missing:
        raise InputError(f"{origin} does not say what {', '.join(missing)} it wants")
    values = {name: fields[name] for name in PIXEL_STATISTICS}
    check_pixel_statistics(values, origin)
    return values


def check_pixel_statistics(
    fields: Mapping[str, Any], origin: str | os.PathLike
) -> None:
    """Raises InputError if a value of the fields PIXEL_STATISTICS makes no sense."""
    sound = (
        fields["channel_order"] in ("RGB", "BGR")
        and all(_is_triple(fields[name]) for name in ("pixel_mean", "pixel_std"))
        and min(fields["pixel_std"]) > 0
    )
    if not sound:
        raise InputError(
            f"{origin}: {dict(fields)} are no pixel statistics: give RGB or BGR, three "
            "means and three scales above 0"
        )


def _is_triple(value: Any) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 3
        and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    )
