"""Published weights by name: `torchvision/NAME`, `timm/NAME`, `hf://OWNER/NAME`.

A name denotes one file. It is downloaded to the cache of its publisher's library, and
each new run reads it from there. It is not converted to a checkpoint: all processes of
a run write a checkpoint together, but their hosts may have separate caches.
"""

import hashlib
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from borrow_det.distributed import processes
from borrow_det.errors import InputError
from borrow_det.io import download
from borrow_det.weights import files, hub, importing, published
from borrow_det.workdir import metadata
from borrow_det.workdir.named_weights import NamedWeights

_TORCHVISION_URL = "https://download.pytorch.org/models"
_HUB = "hf://"
_NAME = re.compile(r"(?P<publisher>torchvision|timm)/(?P<name>[\w.-]+)")
_REPOSITORY = re.compile(r"hf://(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>.+))?")


class NamedFile(NamedTuple):
    """The file that a name denotes.

    Attributes:
      path: place of the file on this machine.
      pixel_statistics: values of the fields `init_from.PIXEL_STATISTICS`; None for
        those of the file's layout.
      record: see NamedWeights.
    """

    path: pathlib.Path
    pixel_statistics: dict[str, Any] | None
    record: dict[str, Any]


def is_name(text: str) -> bool:
    """Returns whether a text names published weights, and no file or folder here."""
    if text.startswith(_HUB):
        return True
    return _NAME.fullmatch(text) is not None and not os.path.exists(text)


def locate(text: str) -> NamedFile:
    """Returns the file that a name denotes, downloaded if the caches lack it.

    Raises:
      InputError: the name is unknown, or the file cannot be downloaded.
    """
    if match := _NAME.fullmatch(text):
        by_publisher = {"torchvision": _torchvision, "timm": _timm}
        return by_publisher[match["publisher"]](match["name"])
    if match := _REPOSITORY.fullmatch(text):
        found = hub.fetch(match["name"], match["revision"])
        return _hub_file(found, hub.pixel_statistics(found))
    raise InputError(f"{text}: write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")


def load(text: str) -> NamedWeights:
    """Reads the weights that a name denotes.

    Raises:
      InputError: see `locate`; or the file has no known layout.
    """
    found = locate(text)
    imported = importing.read(found.path, pixel_statistics=found.pixel_statistics)
    return NamedWeights(
        text, imported.variables(), imported.pixel_statistics, found.record
    )


def load_for_start(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> NamedWeights | None:
    """Reads the weights that a run starts from, if `init_from` names published ones.

    Every process of a run calls it: each reads the file on its host.

    Returns:
      The weights; None if `init_from` is a folder or empty, or if the run resumes.

    Raises:
      InputError: see `load`; or the processes have different files.
    """
    name = config.init_from
    if not is_name(name) or metadata.has_checkpoints(workdir):
        return None
    try:
        weights = load(name)
    except InputError as error:
        raise InputError(f"init_from: {error}") from error
    _check_same_everywhere(weights)
    return weights


def _check_same_everywhere(weights: NamedWeights) -> None:
    """Compares the weights of the processes; the caches of hosts may have others."""
    content = json.dumps([weights.record, weights.pixel_statistics], sort_keys=True)
    digest = np.frombuffer(hashlib.sha256(content.encode()).digest(), np.uint8)
    rows = processes.all_rows(digest[None])
    if (rows != rows[0]).any():
        raise InputError(
            f"init_from: the processes of this run have different files of "
            f"{weights.describe()}: remove the file from the "
            "caches of the hosts, or name a revision, hf://OWNER/NAME@COMMIT"
        )


def _torchvision(name: str) -> NamedFile:
    file = published.torchvision_file(name)
    files.check_library(file.name)
    url, path = f"{_TORCHVISION_URL}/{file.name}", _torch_folder() / file.name
    try:
        checksum = download.fetch(url, path, file.checksum)
    except InputError as error:
        raise InputError(
            f"{error}; without a network, download {url} elsewhere and save it as "
            f"{path}"
        ) from error
    record = {"file": file.name, "sha256": checksum, "url": url}
    return NamedFile(path, file.pixel_statistics.fields(), record)


def _torch_folder() -> pathlib.Path:
    """Returns the folder of torch.hub for downloaded files."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return pathlib.Path(os.path.expanduser(home), "hub", "checkpoints")


def _timm(name: str) -> NamedFile:
    repository = published.timm_repository(name)
    found = hub.fetch(repository, None, f"; {published.nearest_timm(name)}")
    known = published.timm_pixel_statistics(repository)
    return _hub_file(found, known or hub.pixel_statistics(found))


def _hub_file(file: hub.HubFile, statistics: dict[str, Any] | None) -> NamedFile:
    record = {
        "file": hub.WEIGHTS,
        "sha256": download.sha256(file.path),
        "repository": file.repository,
        "revision": file.revision,
    }
    return NamedFile(file.path, statistics, record)
