"""The files that describe the run of a work directory, and checks before it resumes."""

import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import types
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

import flax
import jax
import ml_collections

from borrow_det.config import renamed_fields
from borrow_det.errors import InputError
from borrow_det.io import json_files, paths

# Groups and fields that a resumed run must keep: with another value a checkpoint does
# not fit, or the run is no longer the one that began.
FIXED = (
    *("task", "seed", "input_size", "model", "borrow", "head", "anchors"),
    *("loss.classification", "optimizer.name", "ema_decay", "evaluation.area_pixels"),
    *("dataset.folds", "dataset.fold"),
)
# Fields that are younger than some runs, and the values that describe those runs.
_LATER = {
    "evaluation.area_pixels": "original",
    "mesh.fsdp": 1,
    "remat": "none",
    "first_stage": "plain",
    "model.frozen": 0,
    "model.window": 0,
    "model.global_blocks": 4,
    "optimizer.trunk_rate": 1.0,
    "optimizer.layer_decay": 1.0,
    "head.depth": 0,
    "head.channels": 256,
    "head.shared": False,
    "head.norm": "none",
    "head.prior": 0.01,
    "loss.classification": "softmax",
    "loss.focal_alpha": 0.25,
    "loss.focal_gamma": 2.0,
    "loss.box": "smooth_l1",
    "loss.matching_lenders": "all",
    "loss.matching_reach": 1.0,
    "borrow.heads": "both",
    "borrow.attention": "plain",
    "borrow.query_block": 512,
    "dataset.bad_images": "error",
    "dataset.max_pixels": 0,
    "dataset.held_out": 0.2,
    "dataset.group": "",
    "dataset.instance": "other",
    "dataset.folds": 0,
    "dataset.fold": 0,
    "report.page_images": 48,
    "report.loggers": (),
    "checkpoint_best": "",
    "stop_after": 0,
    "num_epochs": 0.0,
    "schedule.extend": "",
    "schedule.restarts": (),
    "references.kind": "none",
    "references.count": 2,
    "references.field": "",
    "augment.tile": False,
    "augment.tile_zoom": (0.8, 1.25),
    "augment.tile_objects": 0.75,
    "augment.tile_whole": 0.1,
    "augment.paste": 0.0,
    "augment.paste_count": 3,
    "augment.paste_sides": (8.0, 32.0),
    "augment.paste_scale": 2.0,
    "augment.paste_edge": 0.1,
    "augment.paste_flip": 0.5,
    "evaluation.tiles": "",
    "evaluation.tile_overlap": 0.2,
}
# Fields of how a run is computed, not of its result; a resumed run may change them.
_HOW = (
    *("borrow.attention", "borrow.query_block", "remat", "first_stage"),
    "checkpoint_best",
    "report.loggers",
)
STEPS = "borrow_det.train"  # Module of the training steps of most runs.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


class Classes(NamedTuple):
    """The classes of a run, in the order of its labels."""

    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]  # In COCO files.


def prepare(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    classes: Classes,
    boxes: Mapping[str, Mapping[str, int]],
    folds: Mapping[str, Any] = types.MappingProxyType({}),
    write: bool = True,
    steps: str = STEPS,
) -> paths.Path:
    """Creates a work directory, or checks that this run may resume in it.

    Writes `dataset.json` (the classes and `boxes`), `folds.json` (the `folds`, if
    there is one), `environment.json` (of this start and the `earlier` ones) and
    `config.json`.

    Args:
      workdir: the work directory.
      config: the run's configuration.
      classes: the classes of its dataset.
      boxes: counts of the boxes that were clipped, dropped or cut, by split.
      folds: with dataset.folds, the folds and their images; {} without.
      write: whether to write; one process of a run does, the others only check.
      steps: name of the module that makes the training steps.

    Returns:
      The work directory as a path.

    Raises:
      InputError: the directory has checkpoints of another architecture or of other
        classes (nothing has been written then), or it cannot be written.
    """
    workdir = paths.as_path(workdir)
    if has_checkpoints(workdir):
        _check_fixed(load_config(workdir), config, workdir)
        trained = load_classes(workdir)
        if trained != classes:
            raise InputError(
                f"{workdir} was trained on the classes {_describe(trained)}, the "
                f"dataset has {_describe(classes)}: choose another --workdir"
            )
    if not write:
        return workdir
    try:
        paths.make_folder(workdir)
        dataset = {**classes._asdict(), "boxes": boxes}
        write_json(workdir / "dataset.json", dataset)
        if folds:
            write_json(workdir / "folds.json", folds)
        here = {**environment(config.seed), "steps": steps}
        here["earlier"] = starts(workdir)
        write_json(workdir / "environment.json", here)
        write_json(workdir / "config.json", config.to_dict())
    except OSError as error:
        raise InputError(
            f"--workdir={workdir} cannot be written: {paths.reason(error)}"
        ) from error
    return workdir


def has_checkpoints(workdir: str | os.PathLike) -> bool:
    """Returns whether a run has saved a checkpoint in this directory."""
    workdir = paths.as_path(workdir)
    if paths.is_remote(workdir):  # Unfinished checkpoints lack this file.
        marks = workdir.glob("checkpoints/*/commit_success.txt")
        names = [mark.parent.name for mark in marks]
    else:  # Unfinished ones have longer names.
        names = [step.name for step in workdir.glob("checkpoints/*")]
    return any(map(str.isdigit, names))


def _describe(classes: Classes) -> str:
    pairs = zip(classes.class_names, classes.category_ids, strict=True)
    return ", ".join(f"{name} (id {category_id})" for name, category_id in pairs)


def load_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """Reads the resolved configuration of a run; sequences come back as tuples.

    Renamed fields have their present names; fields that are younger than the run have
    the values that describe it.

    Raises:
      InputError: the folder has no readable config.json.
    """
    fields = flax.traverse_util.flatten_dict(
        load_json(workdir, "config.json"), keep_empty_nodes=True, sep="."
    )
    fields = _LATER | renamed_fields.current(fields)
    fields = flax.traverse_util.unflatten_dict(fields, sep=".")
    return ml_collections.ConfigDict(fields).lock()


def as_stored(fields: dict) -> dict:
    """Returns a configuration's fields as config.json would give them back.

    Equal values then compare equal.
    """
    return _as_tuples(json.loads(json.dumps(fields)))


def differences(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> dict[str, tuple]:
    """Finds the fields whose values make another run of a stored configuration.

    Args:
      old: the stored configuration; it may have old names of fields and values.
      new: the configuration to compare with it.

    Returns:
      {field: (old value, new value)}; None represents a field that one of them lacks,
      unless the field is younger than the old one.
    """
    then, now = (
        flax.traverse_util.flatten_dict(config, sep=".")
        for config in (old.to_dict(), as_stored(new.to_dict()))
    )
    then, now = renamed_fields.current(then), renamed_fields.current(now)
    then = {field: value for field, value in _LATER.items() if field in now} | then
    return {
        field: (then.get(field), now.get(field))
        for field in sorted({*then, *now} - {*_HOW})
        if then.get(field) != now.get(field)
    }


def load_classes(workdir: str | os.PathLike) -> Classes:
    """Reads the classes of a run.

    Raises:
      InputError: the folder has no readable dataset.json.
    """
    dataset = load_json(workdir, "dataset.json")
    missing = [name for name in Classes._fields if name not in dataset]
    if missing:
        raise InputError(f"{workdir}/dataset.json lacks {', '.join(missing)}")
    return Classes(*(dataset[name] for name in Classes._fields))


def starts(workdir: str | os.PathLike) -> list[dict]:
    """Reads the `environment` of every start of a run, in order."""
    if not (paths.as_path(workdir) / "environment.json").exists():
        return []
    last = load_json(workdir, "environment.json")
    return [*last.pop("earlier", ()), last]


def environment(seed: int) -> dict:
    """Returns versions, devices, command, git state and seed, to reproduce a run."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "hardware": _hardware(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "command": sys.argv,
        "git": _git_state(),
        "seed": seed,
    }


def write_json(path: paths.Path, value: Any) -> None:
    """Writes a JSON file completely or not at all."""
    paths.write_whole(path, json.dumps(value, indent=2) + "\n")


def folder_name(name: str) -> str:
    """Returns a name for a folder: `train[:16]` becomes `train_16`."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def load_json(workdir: str | os.PathLike, name: str) -> dict:
    """Reads the JSON object in a file of a work directory; sequences become tuples.

    Raises:
      InputError: the file is absent or has no JSON object.
    """
    path = paths.as_path(workdir) / name
    if not paths.exists(path):
        raise InputError(f"{path} does not exist: {workdir} is not a work directory")
    value = json_files.read(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: it is not a run's {name}")
    return _as_tuples(value)


def _as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_as_tuples(inner) for inner in value)
    return value


def _check_fixed(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, workdir: paths.Path
) -> None:
    for field, (then, now) in differences(old, new).items():
        if field in FIXED or field.split(".")[0] in FIXED:
            raise InputError(
                f"{workdir} was made with {field}={then}, this config says {now}: "
                "choose another --workdir or the same value"
            )


def _hardware() -> str:
    """Describes the devices: `2 cores of NAME`, `4 x NVIDIA H200`."""
    kinds = {device.device_kind for device in jax.devices()}
    if kinds != {"cpu"}:
        return f"{jax.device_count()} x {', '.join(sorted(kinds))}"
    info = pathlib.Path("/proc/cpuinfo")  # Linux only.
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def _git_state() -> dict[str, Any] | None:
    """Returns the commit of this checkout and whether files were changed."""
    folder = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None  # An installed copy, or git is absent.
