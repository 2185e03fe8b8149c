"""The files of a work directory that describe its run, and who may go on in it."""

import json
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple

import flax
import jax
import ml_collections

from borrow_det.config import renamed_fields
from borrow_det.errors import InputError
from borrow_det.io import json_files, paths

# With another value of one of these, groups or fields, a checkpoint of the run either
# does not fit or goes on as another run than it began.
FIXED = (
    *("task", "seed", "input_size", "model", "borrow", "anchors"),
    *("optimizer.name", "ema_decay", "evaluation.area_pixels"),
)
# Fields that are younger than some runs, and what these did.
_LATER = {
    "evaluation.area_pixels": "original",
    "mesh.fsdp": 1,
    "remat": "none",
    "first_stage": "plain",
    "borrow.attention": "plain",
    "borrow.query_block": 512,
}
# Fields of how a run is computed, not of what: it may go on with others.
_HOW = ("borrow.attention", "borrow.query_block", "remat", "first_stage")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain")


class Classes(NamedTuple):
    """The classes that a run was trained on, in the order of its labels."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # Of COCO-format files.


def prepare(
    workdir: str | os.PathLike,
    config,
    classes: Classes,
    boxes: Mapping[str, Mapping[str, int]],
    write: bool = True,
) -> paths.Path:
    """Creates a work directory, or checks that this run may go on in it.

    Writes `dataset.json` (the classes, and `boxes`: how many of each split were
    clipped, dropped or cut), `environment.json` (of this start, and of the `earlier`
    ones) and `config.json`. Without `write`, in all processes but one, it only checks.

    Raises:
      InputError: the directory holds checkpoints of another architecture or of other
        classes (nothing has been written then), or it cannot be written.
    """
    workdir = paths.as_path(workdir)
    if has_checkpoints(workdir):
        _check_fixed(load_config(workdir), config, workdir)
        trained = load_classes(workdir)
        if trained != classes:
            raise InputError(
                f"{workdir} was trained on the classes {_describe(trained)}, the data "
                f"set has {_describe(classes)}: choose another --workdir"
            )
    if not write:
        return workdir
    try:
        paths.make_folder(workdir)
        dataset = {**classes._asdict(), "boxes": boxes}
        write_json(workdir / "dataset.json", dataset)
        here = {**environment(config.seed), "earlier": starts(workdir)}
        write_json(workdir / "environment.json", here)
        write_json(workdir / "config.json", config.to_dict())
    except OSError as error:
        raise InputError(
            f"--workdir={workdir} cannot be written: {paths.reason(error)}"
        ) from error
    return workdir


def has_checkpoints(workdir: str | os.PathLike) -> bool:
    """Whether a run has begun in this directory."""
    workdir = paths.as_path(workdir)
    if paths.is_remote(workdir):  # One that is being written lacks this file.
        marks = workdir.glob("checkpoints/*/commit_success.txt")
        names = [mark.parent.name for mark in marks]
    else:  # One that is being written has a longer name.
        names = [step.name for step in workdir.glob("checkpoints/*")]
    return any(map(str.isdigit, names))


def _describe(classes):
    pairs = zip(classes.class_names, classes.category_ids, strict=True)
    return ", ".join(f"{name} (id {category_id})" for name, category_id in pairs)


def load_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """The resolved configuration of a run; sequences come back as tuples.

    Renamed fields come back under their present names, and fields that are younger
    than the run with what the run did.

    Raises:
      InputError: the folder holds no readable config.json.
    """
    fields = flax.traverse_util.flatten_dict(
        load_json(workdir, "config.json"), keep_empty_nodes=True, sep="."
    )
    fields = _LATER | renamed_fields.current(fields)
    fields = flax.traverse_util.unflatten_dict(fields, sep=".")
    return ml_collections.ConfigDict(fields).lock()


def as_stored(fields: dict) -> dict:
    """A configuration's fields as they come back from config.json.

    So that equal values compare equal.
    """
    return _as_tuples(json.loads(json.dumps(fields)))


def differences(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> dict[str, tuple]:
    """The fields, by full name, by which a stored configuration is another run.

    Returns (old, new) values; None stands for a field that one of them lacks, unless
    the old one is older than the field.
    """
    then, now = (
        flax.traverse_util.flatten_dict(config, sep=".")
        for config in (old.to_dict(), as_stored(new.to_dict()))
    )
    then = renamed_fields.current(then)
    then = {field: value for field, value in _LATER.items() if field in now} | then
    return {
        field: (then.get(field), now.get(field))
        for field in sorted({*then, *now} - {*_HOW})
        if then.get(field) != now.get(field)
    }


def load_classes(workdir: str | os.PathLike) -> Classes:
    """The classes of a run.

    Raises:
      InputError: the folder holds no readable dataset.json.
    """
    dataset = load_json(workdir, "dataset.json")
    missing = [name for name in Classes._fields if name not in dataset]
    if missing:
        raise InputError(f"{workdir}/dataset.json lacks {', '.join(missing)}")
    return Classes(*(dataset[name] for name in Classes._fields))


def starts(workdir: str | os.PathLike) -> list[dict]:
    """The `environment` of every start of a run, in order; [] of one never started."""
    if not (paths.as_path(workdir) / "environment.json").exists():
        return []
    last = load_json(workdir, "environment.json")
    return [*last.pop("earlier", ()), last]


def environment(seed: int) -> dict:
    """Versions, devices, command, git state and seed, to repeat a run by."""
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


def write_json(path: paths.Path, value) -> None:
    """Writes a file whole or not at all."""
    paths.write_whole(path, json.dumps(value, indent=2) + "\n")


def folder_name(name: str) -> str:
    """A name as a folder's: `train[:16]` becomes `train_16`."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


def load_json(workdir: str | os.PathLike, name: str) -> dict:
    """The JSON object in a file of a work directory; sequences come back as tuples.

    Raises:
      InputError: the file is absent or holds something else.
    """
    path = paths.as_path(workdir) / name
    if not paths.exists(path):
        raise InputError(f"{path} does not exist: {workdir} is not a work directory")
    value = json_files.read(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: it is not a run's {name}")
    return _as_tuples(value)


def _as_tuples(value):
    if isinstance(value, dict):
        return {key: _as_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_as_tuples(inner) for inner in value)
    return value


def _check_fixed(old, new, workdir):
    for field, (then, now) in differences(old, new).items():
        if field in FIXED or field.split(".")[0] in FIXED:
            raise InputError(
                f"{workdir} was made with {field}={then}, this config says {now}: "
                "choose another --workdir or the same value"
            )


def _hardware() -> str:
    """The devices in words: `2 cores of NAME`, `4 x NVIDIA H200`."""
    kinds = {device.device_kind for device in jax.devices()}
    if kinds != {"cpu"}:
        return f"{jax.device_count()} x {', '.join(sorted(kinds))}"
    info = pathlib.Path("/proc/cpuinfo")  # Of Linux.
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return f"{os.cpu_count()} cores of {names[0] if names else platform.machine()}"


def _git_state():
    """Commit and whether it was changed, of the checkout that this code lies in."""
    folder = pathlib.Path(__file__).parent

    def git(*arguments):
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
        return None  # An installed copy: there is no checkout, or no git.
