"""Where files lie: on a disk, or in a bucket of Google Cloud Storage (gs://).

Paths on a disk stay pathlib's: epath's take brackets of a folder's name for a pattern,
and open files in fewer ways. Only those of a bucket are epath's.
"""

import errno
import functools
import importlib.util
import os
import pathlib
import re

from etils import epath

from borrow_det.errors import InputError

# Read by epath at its first look at a path: with TensorFlow installed it would go
# through that, which needs its own set-up and is no part of the core.
os.environ.setdefault("EPATH_USE_TF", "false")

Path = pathlib.Path | epath.Path
_GCS = "gs://"
_SECONDS_TO_REACH = 20.0  # Of a bucket, before it counts as out of reach.
# What pathlib leaves of gs://, too.
_SCHEME = re.compile(r"[a-z][a-z0-9]+://|gs:/", re.IGNORECASE)


def as_path(path: str | os.PathLike) -> Path:
    """A path to work with; one in a bucket only if that is there and may be used.

    Raises:
      InputError: the bucket is not there or not permitted, what reads buckets is not
        installed, or the path is neither a disk's nor gs://BUCKET/FOLDER.
    """
    text = os.fspath(path)
    if not text.startswith(_GCS):
        # pathlib would make a folder of that name.
        if _SCHEME.match(text):
            raise InputError(f"{text} is neither a local path nor gs://BUCKET/FOLDER")
        return pathlib.Path(path)
    bucket, _, rest = text.removeprefix(_GCS).partition("/")
    if not bucket or not rest.strip("/"):
        raise InputError(f"{text} names no folder in a bucket: gs://BUCKET/FOLDER")
    _check_bucket(bucket)
    return epath.Path(text)


def local_path(path: str | os.PathLike, flag: str) -> pathlib.Path:
    """A path on a disk, for what works on no other.

    Raises:
      InputError: names the flag that holds another one.
    """
    if is_remote(path):
        raise InputError(
            f"{flag}={os.fspath(path)} must be a local folder; copy it to the bucket "
            "afterwards (gcloud storage cp --recursive)"
        )
    return pathlib.Path(as_path(path))


def is_remote(path: str | os.PathLike) -> bool:
    """Whether the path lies in a bucket."""
    return os.fspath(path).startswith(_GCS)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder, as far as it may be seen."""
    return path.exists() if is_remote(path) else os.path.exists(path)


def reason(error: OSError) -> str:
    """Why a file could not be read or written, in words."""
    if error.strerror is None and isinstance(error, FileNotFoundError):
        return os.strerror(errno.ENOENT)  # gcsfs' says no more than an address.
    return error.strerror or str(error)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it; a bucket has none and needs none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file, text in UTF-8, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    content = content.encode() if isinstance(content, str) else content
    if not is_remote(path):
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
        return
    # An object is there once all of it has arrived. A second name would have to be
    # copied to the first, which is no safer and takes three requests.
    try:
        path.write_bytes(content)
    except OSError:
        raise
    except Exception as error:  # gcsfs' and those of the libraries beneath it.
        raise OSError(f"{path}: {error}") from error


@functools.cache
def _check_bucket(name: str) -> None:
    """Refuses a bucket that cannot be used, before libraries do at length."""
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

    # Checkpoints are written and listed by other libraries: a list that gcsfs keeps
    # would lack them.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    try:
        # As orbax does: what is refused here would be refused there.
        retry = DEFAULT_RETRY.with_timeout(_SECONDS_TO_REACH)
        storage.Client().get_bucket(name, retry=retry)
    except exceptions.NotFound as error:
        raise InputError(
            f"bucket {_GCS}{name} does not exist: create it or mend the name"
        ) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise InputError(
            f"bucket {_GCS}{name} is not permitted: these credentials need "
            "storage.buckets.get and Storage Object Admin on it"
        ) from error
    except GoogleAuthError as error:
        raise InputError(
            f"bucket {_GCS}{name}: Google credentials are missing or have expired: "
            "gcloud auth application-default login"
        ) from error
    except (exceptions.GoogleAPIError, OSError) as error:
        raise InputError(f"bucket {_GCS}{name} cannot be reached: {error}") from error


def _installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # Of a package above it.
        return False
