"""Paths on a disk and in buckets of Google Cloud Storage (gs://).

Paths on a disk stay pathlib's: epath treats brackets in a folder's name as a pattern
and opens files in fewer modes. Only paths in a bucket are epath's.
"""

import errno
import functools
import importlib.util
import os
import pathlib
import re
from typing import TypeAlias

from etils import epath

from borrow_det.errors import InputError

# epath reads this variable on first use. With TensorFlow installed it would use
# TensorFlow's file system, which needs a separate set-up; the core does without it.
os.environ.setdefault("EPATH_USE_TF", "false")

Path: TypeAlias = pathlib.Path | epath.Path
_GCS = "gs://"
_SECONDS_TO_REACH = 20.0  # A bucket that does not answer for longer is an error.
# `gs:/` is the form that pathlib makes of gs://.
_SCHEME = re.compile(r"[a-z][a-z0-9]+://|gs:/", re.IGNORECASE)


def as_path(path: str | os.PathLike) -> Path:
    """Returns a path object, after checking the bucket of a remote path.

    Raises:
      InputError: the bucket does not exist or access is denied, the libraries that
        read buckets are not installed, or the path is neither local nor of the form
        gs://BUCKET/FOLDER.
    """
    text = os.fspath(path)
    if not text.startswith(_GCS):
        # pathlib would create a folder of that name.
        if _SCHEME.match(text):
            raise InputError(f"{text} is neither a local path nor gs://BUCKET/FOLDER")
        return pathlib.Path(path)
    bucket, _, rest = text.removeprefix(_GCS).partition("/")
    if not bucket or not rest.strip("/"):
        raise InputError(f"{text} names no folder in a bucket: gs://BUCKET/FOLDER")
    _check_bucket(bucket)
    return epath.Path(text)


def local_path(path: str | os.PathLike, flag: str) -> pathlib.Path:
    """Returns a local path, for code that works on local files only.

    Args:
      path: value of a flag.
      flag: name of the flag, for the message.

    Raises:
      InputError: the path is in a bucket.
    """
    if is_remote(path):
        raise InputError(
            f"{flag}={os.fspath(path)} must be a local folder; copy it to the bucket "
            "afterwards (gcloud storage cp --recursive)"
        )
    return pathlib.Path(as_path(path))


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether the path is in a bucket."""
    return os.fspath(path).startswith(_GCS)


def exists(path: Path) -> bool:
    """Returns whether a file or folder exists and is visible to this user."""
    return path.exists() if is_remote(path) else os.path.exists(path)


def reason(error: OSError) -> str:
    """Returns in words why a file could not be read or written."""
    if error.strerror is None and isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)  # gcsfs' message is the address alone.
    return error.strerror or str(error)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents; does nothing in a bucket, which has none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file atomically; text is encoded in UTF-8.

    Raises:
      OSError: the file cannot be written.
    """
    content = content.encode() if isinstance(content, str) else content
    if not is_remote(path):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
        return
    # An object appears once it has arrived completely. Writing to a second name and
    # copying would be no safer and takes three requests.
    try:
        path.write_bytes(content)
    except OSError:
        raise
    except Exception as error:  # gcsfs and its libraries raise many kinds.
        raise OSError(f"{path}: {error}") from error


@functools.cache
def _check_bucket(name: str) -> None:
    """Refuses a bucket that cannot be used, before a library fails at length."""
    missing = [m for m in ("gcsfs", "google.cloud.storage") if not _installed(m)]
    if missing:
        raise InputError(
            f"{_GCS}{name} needs {' and '.join(missing)}: "
            "pip install -r requirements-gcs.txt"
        )
    import fsspec
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY

    # Other libraries write checkpoints: gcsfs' cached listings would not show them.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    try:
        # The request that orbax makes: a refusal here would be a refusal there.
        retry = DEFAULT_RETRY.with_timeout(_SECONDS_TO_REACH)
        storage.Client().get_bucket(name, retry=retry)
    except exceptions.NotFound as error:
        raise InputError(
            f"bucket {_GCS}{name} does not exist: create it or correct the name"
        ) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise InputError(
            f"bucket {_GCS}{name}: access is denied; these credentials need "
            "storage.buckets.get and Storage Object Admin on it"
        ) from error
    except GoogleAuthError as error:
        raise InputError(
            f"bucket {_GCS}{name}: Google credentials are missing or have expired: "
            "gcloud auth application-default login"
        ) from error
    except (exceptions.GoogleAPIError, OSError) as error:
        raise InputError(f"bucket {_GCS}{name} cannot be reached: {error}") from error


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # A parent package is missing.
        return False
