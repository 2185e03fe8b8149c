"""Files from web servers, kept in a folder that several processes share.

A file has its name only once it is complete and its checksum is right. Until then it
has the suffix `.part`, and a later call resumes it.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator

import tqdm

from borrow_det.errors import InputError
from borrow_det.io import paths, web


def fetch(url: str, path: pathlib.Path, checksum: str) -> str:
    """Downloads a file, unless the path has it.

    Of several processes on a host, one downloads while the others wait. The file is
    also sound where locks have no effect: each writes the same bytes at the same place.

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
            with _locked(path.with_name(f".{path.name}.lock")):
                _download_unless_there(url, path, checksum)
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


def _download_unless_there(url: str, path: pathlib.Path, checksum: str) -> None:
    if path.exists():
        return
    try:
        _download_checked(url, path, checksum)
    except (InputError, FileNotFoundError):
        # Without locks, another process may have completed the file.
        if not path.exists():
            raise


def _download_checked(url: str, path: pathlib.Path, checksum: str) -> None:
    part = path.with_name(path.name + ".part")
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
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process has this lock, and holds it."""
    with path.open("ab") as file:
        # Some network file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
