"""The files of results/ are compact: their diffs show what was measured again."""

import json
import pathlib

import pytest

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "results"


def compact(value) -> str:
    return json.dumps(value, separators=(",", ":"))


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name
)
def test_a_published_file_holds_one_record_a_line(path):
    content = json.loads(path.read_text())
    if isinstance(content, list):
        expected = "[\n" + ",\n".join(map(compact, content)) + "\n]\n"
    else:
        expected = compact(content) + "\n"
    assert path.read_text() == expected


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.name
)
def test_a_published_file_of_lines_holds_one_record_a_line(path):
    for line in path.read_text().splitlines():
        assert isinstance(json.loads(line), dict)
