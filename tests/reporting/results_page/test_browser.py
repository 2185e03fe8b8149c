"""The results page in a real browser, without a network."""

import json

import pytest

from borrow_det.evaluation import outcomes
from borrow_det.reporting.results_page import page as results_page
from tests.browser import MARKS
from tests.reporting.results_page.brute_force import counts_of_the_better_detections
from tests.reporting.results_page.made_evaluation import (
    CLASSES,
    HOSTILE,
    make_evaluation,
)

pytestmark = MARKS
TABLE = (
    "Object.fromEntries([...document.querySelectorAll('#table tr')].map(row =>"
    "[row.cells[0].textContent.replace('of these, ', ''),"
    "[...row.cells].slice(1).map(c => +c.textContent)]))"
)
COUNTS = "document.getElementById('counts').textContent"
POSITION = "document.getElementById('position').textContent"
TITLE = "Results of val[:40] at step 7"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("W")
    done, detections = make_evaluation(workdir)
    return results_page.write(done, workdir), done.evaluator.truth, detections


def slide(browser, threshold):
    """Moves the slider to a threshold; returns its index."""
    index = browser.run(f"RESULTS.thresholds.indexOf({threshold})")
    assert index >= 0
    browser.run(
        "(() => { const e = document.getElementById('threshold');"
        f"e.value = {index}; e.dispatchEvent(new Event('input')); }})()"
    )
    return index


def best_f1(page):
    analysis = json.loads(page.with_suffix(".analysis.json").read_text())
    return analysis["operating_points"]["best_f1"]


def expected_table(counts, labels):
    return {
        kind: [sum(row), *row]
        for kind in (*outcomes.DETECTION_KINDS, "not found", "missed")
        for row in [
            [sum(counts[label, s, kind] for label in labels) for s in outcomes.SIZES]
        ]
    }


def test_the_sliders_counts_equal_a_new_pairing(browser, made):
    page, truth, detections = made
    browser.open(page, 1280)
    best = best_f1(page)["score"]
    for threshold in (0, 0.03, 0.1, 0.29, 0.3, 0.31, 0.5, 0.57, 0.7, 0.9, 1, best):
        slide(browser, threshold)
        counts = counts_of_the_better_detections(truth, detections, threshold)
        assert browser.run(TABLE) == expected_table(counts, range(3))
        browser.choose("#class", "1")
        assert browser.run(TABLE) == expected_table(counts, [1])
        browser.choose("#class", "")
    slide(browser, 0.3)
    table = expected_table(
        counts_of_the_better_detections(truth, detections, 0.3), range(3)
    )
    hits, lost = table["hit"][2], table["not found"][2]
    wrong = sum(table[kind][2] for kind in outcomes.DETECTION_KINDS[1:])
    browser.choose("#size", "1")
    assert browser.run(COUNTS) == (
        f"All images at 0.30: {hits} hits, {wrong} false positives, {lost} objects "
        f"not found. Precision {hits / (hits + wrong):.3f}, recall "
        f"{hits / (hits + lost):.3f}, F1 {2 * hits / (2 * hits + wrong + lost):.3f}."
    )
    assert browser.complaints() == []


def test_the_slider_starts_at_the_best_f1_and_moves_by_a_hundredth(browser, made):
    page, _, _ = made
    browser.open(page, 1280)
    best = best_f1(page)
    shown = "document.getElementById('value').textContent"
    assert browser.run(shown) == f"{best['score']:.3f}"
    values = (best["precision"], best["recall"], best["f1"])
    assert browser.run(COUNTS).endswith(
        "Precision {:.3f}, recall {:.3f}, F1 {:.3f}.".format(*values)
    )
    browser.run("document.getElementById('threshold').focus()")
    browser.press("ArrowRight")
    first = float(browser.run(shown))
    assert 0 < first - best["score"] <= 0.01
    browser.press("ArrowRight")
    assert float(browser.run(shown)) == pytest.approx(first + 0.01)


def drawn(browser):
    """Numbers of the boxes in the picture, by type and whether filters leave them."""
    return browser.run(
        "Object.fromEntries(['hit', 'wrong', 'lost', 'ignored'].map(type => [type,"
        "[...document.querySelectorAll(`#stage g.${type}`)].map("
        "g => g.classList.contains('other'))]))"
    )


def test_boxes_are_those_of_the_threshold(browser, made):
    page, _, _ = made
    browser.open(page, 1280)
    record = browser.run(
        "JSON.parse(document.querySelector('.picture script').textContent)"
    )
    for score in (0.05, 0.4, 0.7):
        threshold = slide(browser, score)
        kinds = [row[2] for row in record["detections"] if row[3] >= threshold]
        found = [row[2] for row in record["objects"]]
        lost = [n for n in found if n is not None and n < threshold]
        assert {kind: len(marks) for kind, marks in drawn(browser).items()} == {
            "hit": kinds.count(0),
            "wrong": len(kinds) - kinds.count(0),
            "lost": len(lost),
            "ignored": found.count(None),
        }
        rows = browser.run("document.querySelectorAll('#marks tr').length")
        assert rows == len(kinds) + len(lost)
    # Types differ by their shapes and dashes, not by color alone.
    dashes = browser.run(
        "['hit', 'wrong', 'lost'].map(type => getComputedStyle(document"
        ".querySelector(`.legend .${type} rect:last-of-type`)).strokeDasharray)"
    )
    assert len(set(dashes)) == 3


def test_filters_leave_pictures_with_such_a_mark(browser, made):
    page, _, _ = made
    browser.open(page, 1280)
    every = "[...document.querySelectorAll('.picture script')]"
    records = browser.run(f"{every}.map(s => JSON.parse(s.textContent))")
    threshold = slide(browser, 0.3)
    browser.choose("#kind", "missed")
    browser.choose("#class", "1")
    browser.choose("#size", "1")
    left = [
        record["name"]
        for record in records
        if any(
            row[:2] == [1, 1] and row[2] is not None and max(row[2:4]) < threshold
            for row in record["objects"]
        )
    ]
    assert 0 < len(left) < len(records)
    shown = []
    for _ in left:
        shown.append(browser.run("document.querySelector('#stage img').alt"))
        browser.mouse("#next")
    assert shown == left
    assert f"of {len(left)}: " in browser.run(POSITION)
    marks = drawn(browser)
    assert all(marks["hit"] + marks["wrong"])
    assert marks["lost"].count(False) > 0
    browser.choose("#class", "2")
    assert browser.run(POSITION) == "No picture of this page has such a mark."
    assert browser.run("document.getElementById('stage').checkVisibility()") is False
    browser.choose("#class", "")
    assert browser.run("document.getElementById('stage').checkVisibility()") is True
    assert browser.complaints() == []


def test_arrow_keys_turn_the_pages(browser, made):
    page, _, _ = made
    browser.open(page, 1280)
    assert browser.run(POSITION).startswith("Picture 1 of 12: ")
    browser.press("ArrowRight")  # Nothing is focused.
    assert browser.run(POSITION).startswith("Picture 1 of 12: ")
    browser.run("document.getElementById('stage').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.run(POSITION).startswith("Picture 3 of 12: ")
    browser.press("ArrowLeft", shift=True)
    browser.press("ArrowLeft")
    assert browser.run(POSITION).startswith("Picture 2 of 12: ")
    browser.press("End")
    assert browser.run(POSITION).startswith("Picture 12 of 12: ")
    browser.press("ArrowRight")
    assert browser.run(POSITION).startswith("Picture 1 of 12: ")
    outline = browser.run(
        "getComputedStyle(document.getElementById('stage')).outlineStyle"
    )
    assert outline == "solid"
    # All controls are reached by Tab, in the order of the page.
    order = (
        "[...document.querySelectorAll('#viewer :is(input, select, button, figure)')]"
        ".map(e => [e.id, e.tabIndex])"
    )
    names = ("threshold", "kind", "class", "size", "annotated", "previous", "next")
    assert browser.run(order) == [[name, 0] for name in (*names, "stage")]


@pytest.mark.parametrize("width", [320, 360, 1280])
def test_the_page_is_as_wide_as_the_window(browser, made, width):
    page, _, _ = made
    browser.open(page, width)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.settle()
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.until("document.querySelector('#stage img').complete")
    stage = browser.run(
        "(() => { const r = document.getElementById('stage').getBoundingClientRect();"
        "return [r.left, r.right, r.width / r.height]; })()"
    )
    assert stage[0] >= 0
    assert stage[1] <= width
    assert stage[2] == pytest.approx(1, abs=0.01)


def test_names_do_not_change_the_page(browser, made):
    page, _, _ = made
    browser.open(page, 1280)
    for choice in ("#kind", "#class", "#size"):
        browser.choose(choice, "1")
        browser.choose(choice, "")
    browser.run("document.getElementById('annotated').click()")
    browser.settle()
    assert browser.run("document.title") == TITLE
    images = browser.run("[...document.images].map(i => i.src.slice(0, 11))")
    assert set(images) == {"data:image/"}
    assert len(images) == 12 + 1
    options = browser.run("[...document.querySelector('#class')].map(o => o.text)")
    assert options == ["all", *CLASSES]
    position = browser.run(POSITION)
    # Isolated: a name's direction of writing does not turn the other words.
    isolated = "[...document.querySelectorAll('#position bdi')].map(e => e.textContent)"
    name, reason = browser.run(isolated)
    assert name.endswith(f"{HOSTILE}.png")
    assert position == f"Picture 1 of 12: {name} ({reason})"
    assert browser.complaints() == []


def test_without_scripts_the_page_is_a_document(browser, made):
    page, _, _ = made
    browser.open(page, 360, scripts=False)
    # The browser itself may still evaluate.
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("document.getElementById('viewer')") is None
    assert browser.run("document.documentElement.scrollWidth") <= 360
    visible = "[...document.querySelectorAll('.picture')].map(e => e.checkVisibility())"
    assert browser.run(visible) == [True] * 12


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_contrast_with_their_background(browser, made, scheme):
    page, _, _ = made
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.call("Emulation.setEmulatedMedia", features=features)
    browser.open(page, 1280)
    color = (
        "getComputedStyle(document.querySelector('{}')).{}.match(/\\d+/g).map(Number)"
    )
    paper = browser.run(color.format("body", "backgroundColor"))
    assert (max(paper) < 60) == (scheme == "dark")
    for part in ("body", ".about", "caption", "th", ".none", "a"):
        ink = browser.run(color.format(part, "color"))
        assert contrast(ink, paper) >= 4.5
    browser.call("Emulation.setEmulatedMedia", features=[])


def contrast(first, second):
    """Returns the contrast ratio of two colors, as WCAG 2 defines it."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(color):
    shares = [value / 255 for value in color[:3]]
    linear = [
        s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares
    ]
    return sum(f * v for f, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
