"""Weights in repositories of the Hugging Face hub, fetched by `huggingface_hub`.

Files come to that library's cache, and its variables apply: HF_HOME (place of the
cache), HF_HUB_OFFLINE (no requests), HF_ENDPOINT (another server), HF_TOKEN.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from borrow_det.errors import InputError, absent_package
from borrow_det.io import json_files
from borrow_det.workdir import init_from

_ABSENT = (
    "weights of the hub need the package {}: pip install -r requirements-hub.txt (the "
    "extra 'hub')"
)
WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"  # The index of sharded weights.


class HubFile(NamedTuple):
    """The weight file of a repository.

    Attributes:
      path: place of the file in the cache.
      repository: OWNER/NAME.
      revision: the commit that the file is of.
    """

    path: pathlib.Path
    repository: str
    revision: str


def fetch(repository: str, revision: str | None, hint: str = "") -> HubFile:
    """Downloads the weight file of a repository, unless the cache has it.

    Args:
      repository: OWNER/NAME.
      revision: branch, tag or commit; None for the main branch.
      hint: addition to the message that the repository is missing.

    Raises:
      InputError: the package `huggingface_hub` is not installed, the hub has no such
        file for this user, or the file is not in the cache and cannot be downloaded.
    """
    with absent_package(_ABSENT):
        import huggingface_hub as hub
        from huggingface_hub import constants, errors
    name = _shown(repository, revision)
    try:
        path = pathlib.Path(hub.hf_hub_download(repository, WEIGHTS, revision=revision))
    except errors.GatedRepoError as error:
        raise InputError(
            f"{name} is for registered users: accept its terms on "
            f"{constants.ENDPOINT}/{repository}, and run `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{constants.ENDPOINT} has no repository {repository}, or only its "
            f"members see it (`hf auth login`){hint}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"the repository {repository} has no branch, tag or commit {revision}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(_describe_files(repository, revision)) from error
    except errors.HFValidationError as error:
        raise InputError(f"{name} is no name of a repository: {error}") from error
    except Exception as error:  # Libraries for HTTP and the file system raise any.
        raise InputError(
            f"{name}: {WEIGHTS} is not in the cache {constants.HF_HUB_CACHE}, and "
            f"cannot be downloaded ({_reason(error)}); where there is a network, run "
            f"`{_command(repository, revision)} {WEIGHTS} config.json` and copy the "
            "cache, or pass the file to borrow-det import-weights (--input=FILE) with "
            "the pixel statistics of config.json"
        ) from error
    # The cache has a folder for each commit.
    return HubFile(path, repository, path.parent.name)


def pixel_statistics(file: HubFile) -> dict[str, Any] | None:
    """Reads the pixel statistics that the file's repository states.

    Returns:
      Values of the fields `init_from.PIXEL_STATISTICS`, from timm's config.json or
      from preprocessor_config.json (transformers); None if neither states them.

    Raises:
      InputError: a file cannot be downloaded or read, or its values make no sense.
    """
    for name, parse in _FORMATS.items():
        fields = _read_json(file, name)
        try:
            found = parse(fields) if fields else None
            if found:
                init_from.check_pixel_statistics(found, f"{file.repository}/{name}")
                return found
        except (TypeError, ArithmeticError) as error:
            raise InputError(
                f"{file.repository}/{name} states pixel statistics that are no three "
                f"means and deviations ({error}); set model.pixel_mean and "
                "model.pixel_std, and init_normalization=False"
            ) from error
    return None


def _from_timm(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    # The first repositories have the fields without this group.
    fields = fields.get("pretrained_cfg", fields)
    if not {"mean", "std"} <= fields.keys():
        return None
    return _scaled("RGB", fields["mean"], fields["std"], 1 / 255)


def _from_transformers(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    normalizes = fields.get("do_normalize", True)
    if normalizes and not {"image_mean", "image_std"} <= fields.keys():
        return None
    rescales = fields.get("do_rescale", True)
    return _scaled(
        "BGR" if fields.get("do_flip_channel_order") else "RGB",
        fields["image_mean"] if normalizes else (0.0,) * 3,
        fields["image_std"] if normalizes else (1.0,) * 3,
        fields.get("rescale_factor", 1 / 255) if rescales else 1.0,
    )


# Files with pixel statistics, in the order in which they are read.
_FORMATS = {
    "config.json": _from_timm,
    "preprocessor_config.json": _from_transformers,
}


def _scaled(order: str, mean: Any, std: Any, factor: float) -> dict[str, Any]:
    """Returns the fields for values in 0..255 that are multiplied by a factor first."""
    return {
        "channel_order": order,
        "pixel_mean": tuple(round(value / factor, 5) for value in mean),
        "pixel_std": tuple(round(value / factor, 5) for value in std),
    }


def _read_json(file: HubFile, name: str) -> dict[str, Any] | None:
    """Reads a JSON object of the repository; None if it has no such file."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    place = {"repo_id": file.repository, "filename": name, "revision": file.revision}
    path: Any = hub.try_to_load_from_cache(**place)
    if path is None:
        try:
            path = hub.hf_hub_download(**place)
        except errors.RemoteEntryNotFoundError:
            return None
        except Exception as error:
            raise InputError(
                f"{_shown(file.repository, file.revision)}: the cache has {WEIGHTS} "
                f"without {name}, which may state the pixel statistics, and it cannot "
                f"be downloaded ({_reason(error)}); run "
                f"`{_command(file.repository, file.revision)} {name}` where there is a "
                "network (also if the repository has no such file: the cache records "
                "that), and copy the cache"
            ) from error
    if not isinstance(path, str):  # The cache records that there is no such file.
        return None
    fields = json_files.read(path)
    return fields if isinstance(fields, dict) else None


def _describe_files(repository: str, revision: str | None) -> str:
    """Describes a repository without a single weight file in safetensors."""
    import huggingface_hub as hub

    name = _shown(repository, revision)
    try:
        files = hub.HfApi().list_repo_files(repository, revision=revision)
    except Exception as error:
        return f"{name} has no {WEIGHTS}, and its files are unknown ({_reason(error)})"
    why = "has its weights in several files" if _INDEX in files else f"has no {WEIGHTS}"
    return (
        f"{name} {why}; its files are {', '.join(sorted(files))}: save the weights as "
        "one file in a format of import-weights, and pass it there (--input=FILE)"
    )


def _shown(repository: str, revision: str | None) -> str:
    return f"hf://{repository}" + (f"@{revision}" if revision else "")


def _command(repository: str, revision: str | None) -> str:
    return f"hf download {repository}" + (f" --revision={revision}" if revision else "")


def _reason(error: BaseException) -> str:
    """Returns the innermost reason of an error, in one line."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    while error.__cause__ is not None:
        error = error.__cause__
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
