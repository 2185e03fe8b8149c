"""The files of --output, without a browser."""

import json
import re

import PIL.Image

from tests.tools.inspect.made_folder import HOSTILE_CLASSES


def test_the_output_has_small_files(output):
    files = {path.name: path.stat().st_size for path in output.iterdir()}
    assert sorted(files) == [
        *("augmented.jpg", "inspection.html", "inspection.json", "labelled.jpg"),
    ]
    assert max(files["augmented.jpg"], files["labelled.jpg"]) < 1_000_000
    assert PIL.Image.open(output / "labelled.jpg").format == "JPEG"
    report = json.loads((output / "inspection.json").read_text())
    assert list(report["splits"]["train"]["classes"]) == list(HOSTILE_CLASSES)
    assert report["problems"]["counts"] == {
        "box outside its image": 1,
        "box without area": 1,
    }
    assert report["duplicates"]["exact"]["across_splits"] == 1
    assert report["labels"]["counts"] == {"off_image": 1, "duplicate": 1, "conflict": 2}


def test_the_page_forbids_scripts_and_addresses(output):
    page = (output / "inspection.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert "<script" not in page
    assert not re.search(r"https?://|url\(|@import", page)


def test_bars_of_whole_numbers_do_not_share_their_ends(output):
    page = (output / "inspection.html").read_text()
    chart = page[: page.index("images by objects</text>")].rpartition("<svg")[2]
    ranges = re.findall(r'class="soft"[^>]*>([^<]*)</text>', chart)
    assert ranges == ["0", "1", "2-4", "5-9", "10-19", "20-49", "50-99", "100+"]
