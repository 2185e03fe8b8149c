"""The page of inspect in a real browser, without a network."""

import pytest

from tests.browser import MARKS
from tests.tools.inspect.made_folder import HOSTILE_CLASSES, HOSTILE_FILES

pytestmark = MARKS
SECTIONS = [
    *("Is this for you", "Suggestions", "Problems", "Splits", "Classes"),
    *("Sizes and aspect ratios", "Lenders", "Anchors", "Duplicates"),
    *("Labelled images", "After augmentation", "Labels that look wrong"),
]


@pytest.mark.parametrize("width", [1280, 390])
def test_all_sections_and_images_are_there(browser, output, width):
    browser.open(output / "inspection.html", width)
    heads = "[...document.querySelectorAll('h2')].map(e => e.textContent)"
    assert browser.run(heads) == SECTIONS
    images = "[...document.images]"
    assert browser.run(f"{images}.every(i => i.complete && i.naturalWidth > 0)")
    assert browser.run(f"{images}.every(i => i.src.startsWith('data:image/'))")
    # Two sheets, two duplicates, and crops of every kind of label.
    assert browser.run(f"{images}.length") >= 2 + 2 + 6
    assert browser.run("document.querySelectorAll('svg.chart').length") == 6
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.complaints() == []


def test_names_in_any_script_stay_text(browser, output):
    browser.open(output / "inspection.html", 1280)
    assert browser.run("document.title").startswith("Inspection of /")
    assert browser.run("document.scripts.length") == 0
    text = browser.run("document.body.innerText")
    for name in (*HOSTILE_CLASSES, *HOSTILE_FILES):
        assert name in text
    assert browser.run("document.querySelectorAll('style').length") == 1


def test_links_lead_to_the_sections(browser, output):
    browser.open(output / "inspection.html", 1280)
    targets = "[...document.querySelectorAll('nav a')].map(a => a.hash.slice(1))"
    found = browser.run(f"{targets}.map(id => document.getElementById(id).tagName)")
    assert found == ["SECTION"] * len(SECTIONS)


def test_the_answer_the_problems_and_the_leak_are_shown(browser, output):
    browser.open(output / "inspection.html", 1280)
    answer = browser.run("document.querySelector('.answer p').textContent")
    assert answer == (
        "1 of 2 small objects has a larger object of its class in its image: "
        "most can borrow."
    )
    leak = browser.run("document.querySelector('.leak').textContent")
    assert leak.startswith("2 images in 1 group of duplicates, 1 across splits: a leak")
    fragment = browser.run("document.querySelector('pre code').textContent")
    assert "--config.dataset.bad_boxes=clip" in fragment
    rows = browser.run(
        "[...document.querySelectorAll('#problems td:last-child')]"
        ".map(e => e.textContent)"
    )
    assert len(rows) == 2
    assert all("train.json" not in row for row in rows)
