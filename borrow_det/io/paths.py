"""Paths on a disk and in buckets of Google Cloud Storage (gs://).

Paths on a disk stay pathlib's: epath treats brackets in a folder's name as a pattern
and opens files in fewer modes. Only paths in a bucket are epath's.

A `~` at the start of a path is the home folder, as in a shell. A name on a disk is any
bytes: Python's strings hold those that are not UTF-8 as surrogates (PEP 383), which
libraries in C++ do not take.
"""

import contextlib
import errno
import functools
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import TypeAlias

from etils import epath

from borrow_det.errors import InputError
from borrow_det.io import streams

# epath reads this variable on first use. With TensorFlow installed it would use
# TensorFlow's file system, which needs a separate set-up; the core does without it.
os.environ.setdefault("EPATH_USE_TF", "false")

Path: TypeAlias = pathlib.Path | epath.Path
_GCS = "gs://"
_NAME_BYTES = 255  # Length of a file's name, in bytes.
_SECONDS_TO_REACH = 20.0  # A bucket that does not answer for longer is an error.
# `gs:/` is the form that pathlib makes of gs://.
_SCHEME = re.compile(r"[a-z][a-z0-9]+://|gs:/", re.IGNORECASE)


def as_path(path: str | os.PathLike) -> Path:
    """Returns a path object, after checking the bucket of a remote path.

    Args:
      path: a path; `~` and `~USER` at its start are home folders.

    Raises:
      InputError: the bucket does not exist or access is denied, the libraries that
        read buckets are not installed, the path is neither local nor of the form
        gs://BUCKET/FOLDER, or it names the home folder of an unknown user.
    """
    text = os.fspath(path)
    if not text.startswith(_GCS):
        # pathlib would create a folder of that name.
        if _SCHEME.match(text):
            raise InputError(f"{text} is neither a local path nor gs://BUCKET/FOLDER")
        return pathlib.Path(_on_disk(expand_home(text)))
    bucket, _, rest = text.removeprefix(_GCS).partition("/")
    if not bucket or not rest.strip("/"):
        raise InputError(f"{text} names no folder in a bucket: gs://BUCKET/FOLDER")
    _check_bucket(bucket)
    return epath.Path(text)


def _on_disk(text: str) -> str:
    """Returns a path that Python can open under any locale.

    Under an ASCII locale, it opens the bytes of UTF-8 as surrogates only.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return text
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def expand_home(text: str) -> str:
    """Returns a path with the home folder in place of a `~` or `~USER` at its start.

    Raises:
      InputError: the user is unknown, and no file or folder has that name.
    """
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(expanded):
        name = expanded.partition("/")[0]
        raise InputError(
            f"{text}: there is no user {name[1:]}, so {name} is not a home folder; "
            f"for a folder of that name, write ./{text}"
        )
    return expanded


def local_path(path: str | os.PathLike, flag: str) -> pathlib.Path:
    """Returns a local path, for code that works on local files only.

    Args:
      path: value of a flag; `~` and `~USER` at its start are home folders.
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


def as_text(path: str | os.PathLike) -> str:
    r"""Returns a path as text for a file or a message: `\xff` for non-UTF-8 bytes.

    The text does not depend on the locale.
    """
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # Not a name that the system has given.
        return streams.escaped(os.fspath(path))


def fitting_name(stem: str, suffix: str) -> str:
    """Returns a file's name, its stem cut to the bytes that file systems take."""
    raw = stem.encode("utf-8", "surrogateescape")
    room = _NAME_BYTES - len(suffix.encode())
    if len(raw) > room:
        stem = raw[:room].decode("utf-8", "ignore")
    return stem + suffix


def check_utf8(path: str | os.PathLike) -> None:
    """Refuses a folder whose name TensorStore, XLA and ArrayRecord cannot take.

    Raises:
      InputError: the local path, made absolute, is not valid UTF-8, or the locale does
        not let Python write it in UTF-8.
    """
    if is_remote(path):
        return
    absolute = os.path.abspath(as_path(path))
    if not _has_surrogates(absolute):
        return
    if _has_surrogates(os.fsencode(absolute).decode("utf-8", "surrogateescape")):
        why = "the name is not valid UTF-8: rename the folder or choose another"
    else:
        why = "the locale is ASCII: set LC_ALL=C.UTF-8 and unset PYTHONUTF8"
    raise InputError(
        f"{as_text(absolute)}: the libraries that read and write there cannot take "
        f"this name; {why}"
    )


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


@contextlib.contextmanager
def plain_name(path: pathlib.Path) -> Iterator[str]:
    """Yields another name of a file, in ASCII, for a library in C++.

    OpenCV ends the process for a name that is not UTF-8, and takes `%d` for a sequence
    of files and `cam:` for a protocol.

    Args:
      path: a file to read, or one to write, whose folder exists.

    Raises:
      InputError: the folder of temporary files cannot be used.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = tempfile.TemporaryDirectory(prefix="borrow_det_")
            suffix = path.suffix if path.suffix.isascii() else ""
            link = os.path.join(stack.enter_context(folder), "file" + suffix)
            os.symlink(os.path.abspath(path), link)
        except OSError as error:
            raise InputError(
                f"{path}: a temporary link to it cannot be made ({reason(error)}): set "
                "TMPDIR to another folder"
            ) from error
        check_utf8(link)
        yield link


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
    """Writes a file atomically; text is encoded in UTF-8, surrogates are escaped.

    Raises:
      OSError: the file cannot be written.
    """
    if isinstance(content, str):
        # Such an escape stands in JSON, too.
        content = content.encode("utf-8", "backslashreplace")
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
