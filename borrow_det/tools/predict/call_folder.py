"""Folders of an output folder that hold the files of one call only."""

import contextlib
import json
import pathlib
from typing import TextIO

from borrow_det.errors import InputError
from borrow_det.io import paths

_SHOWN = 3  # Files that a message names.


class CallFolder:
    """A folder of an output folder, such as pictures/.

    A list in the output folder, `.pictures.jsonl`, has a line [name, bytes] for each
    file, with null for an unfinished one, so that the next call removes these and no
    other files.
    """

    def __init__(self, output: pathlib.Path, name: str, is_written: bool):
        """Checks the folder; changes nothing.

        Args:
          output: output folder of the call.
          name: name of the folder.
          is_written: whether the call writes files into it.

        Raises:
          InputError: files are to be written, and the folder has files that no call
            has written, or that were changed since.
        """
        self.path = output / name
        self._list_path = output / f".{name}.jsonl"
        self._list: TextIO | None = None
        self._names: set[str] = set()
        self._earlier = _listed(self._list_path)
        others = [path for path in _files(self.path) if not self._is_ours(path)]
        if others and is_written:
            names = ", ".join(paths.as_text(path.name) for path in others[:_SHOWN])
            more = ", ..." if len(others) > _SHOWN else ""
            raise InputError(
                f"{self.path} holds files that predict has not written or not listed: "
                f"{len(others)} ({names}{more}); move them, or name another --output"
            )

    def clear(self) -> None:
        """Removes the files of an earlier call, unless they were changed since.

        Raises:
          InputError: a file cannot be removed.
        """
        ours = [path for path in _files(self.path) if self._is_ours(path)]
        try:
            for path in ours:
                path.unlink()
            self._list_path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{self.path}: {paths.reason(error)}") from error
        if ours:
            with contextlib.suppress(OSError):  # It has other files.
                self.path.rmdir()

    def new_path(self, stem: str, suffix: str) -> pathlib.Path:
        """Returns the path of a new file, and lists it.

        Raises:
          OSError: the list cannot be written.
        """
        name, number = paths.fitting_name(stem, suffix), 1
        while name in self._names:
            number += 1
            name = paths.fitting_name(stem, f"_{number}{suffix}")
        self._names.add(name)
        self._add(name, None)
        return self.path / name

    def finish(self, path: pathlib.Path) -> None:
        """Lists the size of a file that is complete."""
        with contextlib.suppress(OSError):  # It stays in the list as unfinished.
            self._add(path.name, path.stat().st_size)

    def close(self) -> None:
        """Ends the list."""
        if self._list is not None:
            self._list.close()

    def _add(self, name: str, size: int | None) -> None:
        if self._list is None:
            self._list = self._list_path.open("a", encoding="ascii")
        self._list.write(json.dumps([name, size]) + "\n")
        self._list.flush()

    def _is_ours(self, path: pathlib.Path) -> bool:
        if path.name not in self._earlier or not path.is_file():
            return False
        return self._earlier[path.name] in (None, path.stat().st_size)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{folder}: {paths.reason(error)}") from error


def _listed(path: pathlib.Path) -> dict[str, int | None]:
    """Returns the sizes of the listed files by name; None for unfinished ones."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: {paths.reason(error)}") from error
    found: dict[str, int | None] = {}
    for line in lines:
        with contextlib.suppress(ValueError):  # The process was killed within a line.
            match json.loads(line):
                case [str(name), int() | None as size] if (
                    name == pathlib.Path(name).name
                ):
                    found[name] = size
    return found
