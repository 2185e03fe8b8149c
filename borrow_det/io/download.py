"""Files from web servers, kept in a folder that several processes share.

A file has its name only once it is complete and its checksum is right. Until then it
has the suffix `.part`, and a later call resumes it.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import platform
import sys
import uuid
from collections.abc import Iterator

import tqdm

from borrow_det.errors import InputError
from borrow_det.io import paths, web


def fetch(url: str, path: pathlib.Path, checksum: str) -> str:
    """Downloads a file, unless the path has it.

    Of several processes on a host, one downloads while the others wait.

    Args:
      url: address of the file.
      path: place of the file.
      checksum: first hexadecimal digits of its SHA-256.

    Returns:
      The complete SHA-256 of the file.

    Raises:
      InputError: the server cannot be reached or refuses, the folder cannot be written,
        or the checksum is another one.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _own_part(path) as part:
                if not path.exists():
                    _download_checked(url, path, part, checksum)
        found = sha256(path)
    except OSError as error:
        raise InputError(f"{path}: {paths.reason(error)}") from error
    if not found.startswith(checksum):
        raise InputError(
            f"{path} is not the file of {url}: its SHA-256 begins with "
            f"{found[: len(checksum)]}, not {checksum}; remove it"
        )
    return found


def sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_checked(
    url: str, path: pathlib.Path, part: pathlib.Path, checksum: str
) -> None:
    _download(url, part)
    found = sha256(part)
    if not found.startswith(checksum):
        part.unlink()  # It would spoil the next download, too.
        raise InputError(
            f"{url}: the SHA-256 of the download begins with {found[: len(checksum)]}, "
            f"not {checksum}, so that it was not kept; try again"
        )
    part.replace(path)


def _download(url: str, part: pathlib.Path) -> None:
    """Downloads a file; continues after a broken connection that gave some of it."""
    while True:
        begun = part.stat().st_size if part.exists() else 0
        try:
            # The last byte is asked for again: a server refuses to send no bytes.
            with web.opened(url, max(begun - 1, 0)) as answer:
                _write(answer, url, part)
            return
        except web.RefusedError as error:
            if error.code != 416 or not begun:
                raise
            part.unlink()  # It is longer than the file.
        except InputError:
            if not part.exists() or part.stat().st_size <= begun:
                raise


def _write(answer: web.Answer, url: str, part: pathlib.Path) -> None:
    shown = sys.stderr.isatty()
    if not shown:
        size = f" ({answer.size / 1e6:.1f} MB)" if answer.size else ""
        print(f"downloading {web.shown(url)}{size}", file=sys.stderr)
    bar = tqdm.tqdm(
        desc=web.name_in(url),
        total=answer.size,
        initial=answer.offset,
        unit="B",
        unit_scale=True,
        disable=not shown,
    )
    part.touch()
    with bar, part.open("r+b") as file:
        file.seek(answer.offset)
        for block in answer.blocks():
            file.write(block)
            bar.update(len(block))
        file.truncate()


@contextlib.contextmanager
def _own_part(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the name of an incomplete file that no other process writes.

    A lock excludes the processes of this host, and the name of the host those of other
    hosts, for which locks in a common folder may have no effect.
    """
    host = f"{path.name}.{platform.node()}"
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # The file system has no locks, so that nothing is resumed.
            part = path.with_name(f"{host}.{uuid.uuid4().hex[:8]}.part")
            try:
                yield part
            finally:
                part.unlink(missing_ok=True)
        else:
            yield path.with_name(f"{host}.part")
