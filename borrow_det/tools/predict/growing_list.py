"""A JSON file with a list to which records are added, and which is always complete."""

import contextlib
import pathlib
from collections.abc import Sequence

from borrow_det.errors import InputError
from borrow_det.io import paths


class GrowingList:
    """A list in a JSON file that can be read after every addition.

    Until `close`, the file has the suffix `.part` in addition: a process that is killed
    leaves it there with every record so far. Each addition overwrites the end of the
    document by the new records and the end again.
    """

    def __init__(
        self,
        path: pathlib.Path,
        head: str = "[",
        tail: str = "]\n",
        spaces: tuple[str, str, str] = ("", "\n", ""),
    ):
        """Writes a document with an empty list.

        Args:
          path: file to write.
          head: text of the document up to the list's opening bracket.
          tail: text from the closing bracket on.
          spaces: text before the first record, between records (after a comma), and
            after the last one.

        Raises:
          OSError: the file cannot be written.
        """
        before, between, after = spaces
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._before, self._between = before, f",{between}"
        self._empty_end, self._end = tail.encode(), (after + tail).encode()
        self._file = self._part.open("wb", buffering=0)
        self._size = 0  # Bytes up to the end of the last record.
        self._extend(head.encode(), self._empty_end, b"")
        self.count = 0

    def add(self, records: Sequence[str]) -> None:
        """Adds records, in JSON.

        Raises:
          InputError: the disk is full or refuses. The file then holds the earlier
            records.
        """
        if not records:
            return
        text = self._between if self.count else self._before
        text += self._between.join(records)
        old_end = self._end if self.count else self._empty_end
        try:
            self._extend(text.encode(), self._end, old_end)
        except OSError as error:
            raise InputError(f"{self._part}: {paths.reason(error)}") from error
        self.count += len(records)

    def close(self, keep: bool = True) -> None:
        """Gives the file its name, or removes it if it is not to be kept."""
        self._file.close()
        if keep:
            self._part.replace(self._path)
        else:
            self._part.unlink()

    def _extend(self, content: bytes, end: bytes, old_end: bytes) -> None:
        """Overwrites `old_end`, the end of the document, by `content` and `end`."""
        try:
            self._overwrite(content + end)
        except OSError:
            # These bytes had room before.
            with contextlib.suppress(OSError):
                self._overwrite(old_end)
            raise
        self._size += len(content)

    def _overwrite(self, content: bytes) -> None:
        """Replaces everything after the last record."""
        self._file.seek(self._size)
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]
        self._file.truncate()
