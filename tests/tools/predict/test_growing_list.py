"""JSON files with a list that are complete after every addition."""

import errno
import json

import pytest

from borrow_det.errors import InputError
from borrow_det.tools.predict.growing_list import GrowingList

SPACES = ("\n", "\n", "\n  ")  # Of a list in an object with indent=2.


def test_the_document_is_complete_after_every_addition(tmp_path):
    path, part = tmp_path / "a.json", tmp_path / "a.json.part"
    found = GrowingList(path)
    assert part.read_text() == "[]\n"
    found.add([])
    assert part.read_text() == "[]\n"
    found.add(["1"])
    assert part.read_text() == "[1]\n"
    found.add(["2", "3"])
    assert part.read_text() == "[1,\n2,\n3]\n"
    assert (found.count, path.exists()) == (3, False)
    found.close()
    assert (path.read_text(), part.exists()) == ("[1,\n2,\n3]\n", False)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_list_in_an_object_is_written_as_python_indents_it(tmp_path, count):
    whole = {"images": list(range(count)), "categories": [{"id": 1}]}
    empty = json.dumps(whole | {"images": []}, indent=2)
    head, tail = empty.split("]", maxsplit=1)
    found = GrowingList(tmp_path / "a.json", head, f"]{tail}", SPACES)
    for i in range(count):
        found.add([f"    {i}"])
    found.close()
    assert (tmp_path / "a.json").read_text() == json.dumps(whole, indent=2)


class FullDisk:
    """A file that takes a number of bytes more, as a full disk does."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        end = self.file.seek(0, 1)
        fits = max(self.file.seek(0, 2) + self.room - end, 0)
        self.file.seek(end)
        if not fits:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room = max(self.room - len(content), 0)
        return self.file.write(content[:fits])


@pytest.mark.parametrize("room", [0, 1, 5, 12])
@pytest.mark.parametrize("before", [[], ["1"], ["1", "2"]])
def test_a_full_disk_leaves_the_records_before(tmp_path, before, room):
    path = tmp_path / "a.json"
    head, tail = '{"a": [', "]}\n"
    found = GrowingList(path, head, tail, SPACES)
    found.add(before)
    text = (tmp_path / "a.json.part").read_text()
    found._file = FullDisk(found._file, room)
    with pytest.raises(InputError, match=r"a\.json\.part: No space left on device"):
        found.add([30 * "3"])
    found.close()
    assert path.read_text() == text
    assert json.loads(text) == {"a": list(map(int, before))}
    assert found.count == len(before)
