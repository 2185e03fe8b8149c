"""The page of explain as text: names, addresses, numbers."""

import base64
import html
import json
import re
import types

import numpy as np
import PIL.Image
import pytest

from borrow_det.inference.detector import Level
from borrow_det.tools.explain.explanation import (
    Borrowed,
    LevelDetections,
    SourcePosition,
)
from borrow_det.tools.explain.files import ExplanationWriter
from borrow_det.tools.explain.records import Explained
from borrow_det.tools.explain.text import Settings
from tests.html_elements import Elements

NASTY = '<script>alert("1")</script>&\'"</title>'
HEAT = {
    1: np.array([[0.5, 0.0], [0.125, 0.125]]),
    2: np.array([[0.25]]),
}


SETTINGS = Settings(f"{NASTY}@SCRIPT@", 7, "cosine", 2.0, 0.4, 32.0, None, None)


def write_page(folder, explained=True, side=(100, 80), results=""):
    """A page of one hand-made image with hostile names."""
    detector = types.SimpleNamespace(
        class_names=("puffin", NASTY),
        category_ids=(4, 9),
        input_size=(32, 32),
        levels=(
            Level(1, "conv4_3", 8, (4, 4)),
            Level(2, "conv5_3", 16, (2, 2)),
            Level(3, "conv_fc7", 32, (1, 1)),
        ),
    )
    found = LevelDetections(
        np.array([[0.1, 0.1, 0.3, 0.3], [0.4, 0.4, 1, 1], [0, 0.8, 0.1, 0.9]], "f4"),
        np.array([0.9, 0.8, 0.7], "f4"),
        np.array([1, 1, 0], "i4"),
        np.array([0, 2, 1], "i4"),
    )
    strongest = SourcePosition(1, (0.25, 0.25), 0.5, (1,))
    centers = np.array([[0.125, 0.125]], "f4")
    borrowed = Borrowed(0, centers, HEAT, (strongest,), (1,), 0.25, 0.125)
    done = [Explained(0, borrowed, ""), Explained(2, None, NASTY)]
    image = np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)
    with ExplanationWriter(
        folder, detector, SETTINGS, pictures=False, limit=0, results=results
    ) as writer:
        writer.add(f"{NASTY}.png", image, found, done if explained else [])
    return (folder / "index.html").read_text()


def test_names_of_files_and_classes_stay_text(tmp_path):
    page = write_page(tmp_path)
    assert "<script>alert" not in page
    scripts = [attrs for tag, attrs in Elements(page).tags if tag == "script"]
    assert scripts == [{"type": "application/json"}, {}]
    alts = [a["alt"] for t, a in Elements(page).tags if t == "img"]
    assert alts == [f"{NASTY}.png: 3 detections", NASTY, "puffin"]


def test_the_page_needs_no_other_file_and_no_network(tmp_path):
    page = write_page(tmp_path)
    tags = Elements(page).tags
    assert not {"link", "iframe", "object", "embed", "base"} & {t for t, _ in tags}
    for tag, attrs in tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            if attrs.get(name) is not None:
                assert tag == "img"
                assert attrs[name].startswith("data:image/")
    # The SVG namespace is a name, not an address.
    addresses = set(re.findall(r"[a-z]+://[^\s\"']+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page)
    policy = next(a["content"] for t, a in tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_contains_the_heat(tmp_path):
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", write_page(tmp_path), re.S)
    data, script = scripts
    detection = json.loads(data)["detections"][0]
    borrowed = detection["borrowed"]
    # With five positions, five times an even spread is 100 %.
    assert borrowed["texts"]["scale"] == "100.0\u00a0%"
    for level, heat in HEAT.items():
        packed = borrowed["heat"][str(level + 1)]
        values = np.frombuffer(base64.b64decode(packed["values"]), np.uint8)
        assert packed["shape"] == list(heat.shape)
        assert packed["cell"] == [(16, 32)[level - 1] / 32] * 2
        np.testing.assert_allclose(
            values.reshape(heat.shape) / 255, heat, atol=0.5 / 255
        )
    assert borrowed["shares"] == {"2": 0.75, "3": 0.25}
    assert borrowed["sources"][0] == {
        "level": 2, "center": [20.0, 25.0], "weight": 0.5, "detections": [1],
    }  # fmt: skip
    assert '"conv_fc7"' in script


def test_without_a_script_the_page_is_a_list(tmp_path):
    page = write_page(tmp_path)
    rows = re.findall(r"<tr><td>.*</tr>", page)
    assert len(rows) == 2
    assert "<td>0.900</td><td>level 2: 75\u00a0%, level 3: 25\u00a0%</td>" in rows[0]
    assert "<td>12\u00a0% (even spread: 25\u00a0%)</td>" in rows[0]
    assert "<td>50.0\u00a0%, level 2 at (20, 25)</td>" in rows[0]
    assert "<td>puffin</td><td>0.700</td><td>&lt;script&gt;" in rows[1]


def test_the_page_shows_the_settings(tmp_path):
    page = write_page(tmp_path)
    words = html.unescape(page[page.index("<header>") : page.index("</header>")])
    # A text like one of the template's marks stays text.
    assert f"Run {NASTY}@SCRIPT@, step 7. Explained: every detection with" in words
    settings = json.loads((tmp_path / "explanations.json").read_text())["settings"]
    assert Settings(**settings) == SETTINGS


def test_the_page_links_to_the_results_of_the_run(tmp_path):
    link = '<a href="../results.html">results of the run</a>'
    page = write_page(tmp_path, results=link)
    assert f"<br>See also the {link}.</p>" in page
    assert "See also" not in write_page(tmp_path)


def test_images_without_explanations_say_why(tmp_path):
    page = write_page(tmp_path, explained=False)
    assert "No small" not in page
    assert (
        "3 detections with a score of at least 0.4; none to explain (explained: every "
        "detection with an area of at most 32² pixels)." in page
    )


@pytest.mark.parametrize(("side", "forms"), [((256, 9), {"png"}), ((257, 9), {"jpeg"})])
def test_only_small_images_are_tried_as_png(tmp_path, monkeypatch, side, forms):
    saved = []
    save = PIL.Image.Image.save

    def spy(image, stream, form, **options):
        saved.append((image.size, form))
        save(image, stream, form, **options)

    monkeypatch.setattr(PIL.Image.Image, "save", spy)
    write_page(tmp_path, explained=False, side=side)
    assert {form for size, form in saved if size == side[::-1]} == forms | {"jpeg"}
