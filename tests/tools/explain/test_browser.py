"""The page of explain in a real browser, without a network."""

import re
import types

import numpy as np
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
from tests.browser import MARKS
from tests.tools.explain.canvas_heat import heat_ends, picture_of

pytestmark = MARKS
NASTY = '<script>document.title = "run"</script><img src=x onerror=alert(1)>'
CLASSES = ("puffin", NASTY, "starfish")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of forty images, each with two explained detections and one note."""
    folder = tmp_path_factory.mktemp("page")
    detector = types.SimpleNamespace(
        class_names=CLASSES,
        category_ids=(1, 2, 3),
        input_size=(64, 64),
        levels=tuple(
            Level(n + 1, f"conv{n + 4}_3", 8 << n, (8 >> n,) * 2) for n in range(3)
        ),
    )
    settings = Settings("W", 1, "cosine", 2.0, 0.4, 32.0, None, None)
    writer = ExplanationWriter(folder, detector, settings, pictures=False, limit=0)
    rng = np.random.default_rng(0)
    for number in range(40):
        image = rng.integers(0, 256, (96, 128, 3), np.uint8)
        found = LevelDetections(
            np.array(
                [[0.1, 0.1, 0.3, 0.3], [0.4, 0.4, 1, 1], [0, 0.8, 0.2, 0.9],
                 [0.7, 0.05, 0.9, 0.2]], "f4"
            ),
            np.sort(rng.uniform(0.4, 1, 4).astype("f4"))[::-1],
            np.array([number % 2, 2, 2, 0], "i4"),
            np.array([0, 2, 1, 0], "i4"),
        )  # fmt: skip
        done = [Explained(0, borrowed(rng), ""), Explained(2, None, "no level")]
        done.append(Explained(3, borrowed(rng), ""))
        writer.add(f"{number:03d}{NASTY}.png", image, found, done)
    writer.__exit__(None, None, None)
    return folder / "index.html"


def borrowed(rng):
    heat = {1: rng.uniform(size=(4, 4)), 2: rng.uniform(size=(2, 2))}
    total = sum(h.sum() for h in heat.values())
    heat = {m: h / total for m, h in heat.items()}
    sources = tuple(
        SourcePosition(1, (0.6, 0.2 * i), 0.2 / (i + 1), (1,)) for i in range(3)
    )
    centers = np.array([[0.2, 0.2]], "f4")
    positions, precision = rng.uniform(0.2, 1, 2).tolist()
    return Borrowed(0, centers, heat, sources, (1,), positions, precision)


COUNT = "document.getElementById('count').textContent"
CHOSEN = (
    "[...document.querySelectorAll('#list button')].findIndex("
    "b => b.getAttribute('aria-current') === 'true')"
)
HEATED = "document.querySelector('#stage canvas').dataset.detection.split(':').pop()"
INK = "document.querySelector('#stage canvas').toDataURL()"
EMPTY = (
    "(() => { const c = document.querySelector('#stage canvas').cloneNode();"
    "return c.toDataURL(); })()"
)
ROWS = "[...document.querySelectorAll('#list button')]"
FOCUSED = f"{ROWS}.flatMap((b, i) => b === document.activeElement ? [i] : [])"
TABBED = f"{ROWS}.flatMap((b, i) => b.tabIndex === 0 ? [i] : [])"
PRESSED = "document.querySelector('#levels [aria-pressed=true]')?.textContent"


# Start of the lines, and indices of the bold and the dashed boxes, by falling area.
LINE = (
    "(() => { const l = document.querySelector('#stage .lines line');"
    "return l && [l.x1.baseVal.value, l.y1.baseVal.value]; })()"
)
BOLD = (
    "[...document.querySelectorAll('#stage .box')].flatMap((g, i) =>"
    "g.lastChild.getAttribute('stroke-width') === '3.5' ? [i] : [])"
)
DASHED = (
    "[...document.querySelectorAll('#stage .box')].flatMap((g, i) =>"
    "g.lastChild.getAttribute('stroke-dasharray') === 'none' ? [] : [i])"
)


@pytest.mark.parametrize("width", [1280, 390])
def test_keys_and_pointer_move_through_the_page(browser, page, width, tmp_path_factory):
    browser.open(page, width)
    assert browser.run(COUNT) == "120 of 120 detections in 40 images"
    assert browser.run(CHOSEN) == 0
    browser.until("document.querySelector('#stage img').complete")
    assert browser.run("document.querySelector('#stage img').naturalWidth") == 128
    # The page is not wider than the window.
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.picture(tmp_path_factory.getbasetemp() / f"page_{width}.png")

    # Only a focused element receives the keys.
    browser.press("ArrowDown")
    assert browser.run(CHOSEN) == 0
    browser.run("document.querySelector('#list [aria-current]').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    assert browser.run(CHOSEN) == 2
    browser.press("ArrowUp", shift=True)
    assert browser.run(CHOSEN) == 2
    assert browser.run(FOCUSED) == [2]
    assert browser.run(TABBED) == [2]
    browser.press("ArrowUp")
    assert browser.run(CHOSEN) == 1
    assert "no level" in browser.run("document.getElementById('detail').textContent")
    browser.press("End")
    assert browser.run(CHOSEN) == 119
    last = browser.run(f"{ROWS}.at(-1).querySelector('span').firstChild.textContent")
    heading = "document.querySelector('h2:not(section *)').textContent"
    assert browser.run(heading) == f"{last} in 039{NASTY}.png"
    browser.press("Home")
    first = browser.run(PRESSED)
    browser.press("ArrowRight")
    assert browser.run(PRESSED) != first
    assert browser.run(PRESSED).startswith("level ")

    browser.mouse("#list li:nth-child(3) button")
    assert browser.run(CHOSEN) == 2
    assert browser.run(HEATED) == "3"
    before = browser.run(INK)
    assert before != browser.run(EMPTY)
    # Boxes by falling area: of detections 1, 0, 3 and 2.
    browser.mouse("#stage g:nth-of-type(2) rect:last-child", click=False)
    assert browser.run(HEATED) == "0"
    assert browser.run(CHOSEN) == 2
    assert browser.run(INK) != before
    # Heat, lines and bold box are those of the hovered detection, also after a resize.
    assert browser.run(LINE) == pytest.approx([25.6, 19.2])
    assert browser.run(BOLD) == [1]
    browser.size(width - 40)
    browser.settle()
    assert browser.run(HEATED) == "0"
    assert browser.run(LINE) == pytest.approx([25.6, 19.2])
    browser.size(width)
    browser.mouse("#count", click=False)
    assert browser.run(HEATED) == "3"
    browser.mouse("#heat")
    assert browser.run(INK) == browser.run(EMPTY)
    assert browser.complaints() == []


def shares(text):
    """Attention precision and that of an even spread, in percent."""
    return [int(n) for n in re.findall(r"(\d+)\u00a0%", text)[:2]]


def test_filters_and_orders(browser, page):
    browser.open(page, 1280)
    browser.choose("#classes", NASTY)
    assert browser.run(COUNT) == "20 of 120 detections in 40 images"
    browser.choose("#classes", "")
    facts = "[...document.querySelectorAll('#list button')].map(b => b.textContent)"
    numbers = {
        "score": lambda text: -float(text.partition("attention")[0].split()[-1]),
        "imprecise": lambda text: shares(text)[0],
        "lift": lambda text: -shares(text)[0] / shares(text)[1],
        "unlifted": lambda text: shares(text)[0] / shares(text)[1],
    }
    for order, number in numbers.items():
        browser.choose("#order", order)
        rows = [text for text in browser.run(facts) if "precision" in text]
        assert len(rows) == 80
        values = [number(text) for text in rows]
        # The lifts are computed from rounded shares here.
        slack = 0.1 * np.abs(values) if "lift" in order else 0
        assert (np.diff(values) >= -np.resize(slack, 79)).all()
    orders = browser.run("[...document.querySelector('#order').options].map(o=>o.text)")
    assert orders[-2:] == [
        "attention to level 2, high to low",
        "attention to level 3, high to low",
    ]
    browser.choose("#order", "3")
    first = browser.run("document.querySelector('#levels').textContent")
    assert "level 3" in first
    assert browser.complaints() == []


def test_scripts_in_names_do_not_run(browser, page):
    browser.open(page, 1280)
    assert browser.run("document.title") == "Borrowed features of small objects"
    assert browser.run("document.querySelectorAll('body script').length") == 41
    assert browser.run("document.querySelectorAll('[onerror]').length") == 0
    assert browser.complaints() == []


def test_without_scripts_the_page_is_a_list(browser, page):
    browser.open(page, 1280, scripts=False)
    assert browser.run("document.querySelectorAll('section table').length") == 40
    shown = "document.querySelector('section > img').getBoundingClientRect().width"
    assert browser.run(shown) >= 128
    browser.open(page, 1280)
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [1280, 900, 390])
def test_the_image_keeps_its_aspect_ratio(browser, page, width):
    # Long facts next to the picture must not stretch it.
    browser.open(page, width)
    browser.run(
        "document.querySelector('#facts').append(Object.assign("
        "document.createElement('div'), {style: 'height: 3000px'}))"
    )
    stage = "document.querySelector('#stage')"
    browser.until(f"{stage}.clientWidth > 0")
    wide, high = browser.run(f"[{stage}.clientWidth, {stage}.clientHeight]")
    assert wide / high == pytest.approx(128 / 96, rel=0.01)
    sides = browser.run(
        "(({width, height}) => [width, height])("
        "document.querySelector('#stage img').getBoundingClientRect())"
    )
    assert sides == pytest.approx([wide, high], abs=1)


def test_choosing_scrolls_the_list_only(browser, page):
    browser.open(page, 390)
    browser.run("document.querySelector('#list [aria-current]').focus("
                "{preventScroll: true})")  # fmt: skip
    browser.press("End")
    assert browser.run(CHOSEN) == 119
    assert browser.run("scrollY") == 0
    browser.settle()
    # The chosen row is visible in the list.
    top, bottom, low, high = browser.run(
        "(() => { const l = document.querySelector('#list').getBoundingClientRect();"
        "const r = document.querySelector('[aria-current]').getBoundingClientRect();"
        "return [l.top, l.bottom, r.top, r.bottom]; })()"
    )
    assert top - 1 <= low < high <= bottom + 1


def test_lines_end_at_numbered_positions_and_lenders_are_dashed(browser, page):
    browser.open(page, 1280)
    marks = browser.run(
        "[...document.querySelectorAll('#stage .lines text')].map("
        "t => [t.textContent, +t.getAttribute('x'), +t.getAttribute('y')])"
    )
    assert sorted(marks) == [
        [str(i + 1), pytest.approx(128 * 0.2 * i), pytest.approx(96 * 0.6)]
        for i in range(3)
    ]
    rows = browser.run("[...document.querySelectorAll('#detail tr')].map(r => "
                       "[...r.cells].map(c => c.textContent))")  # fmt: skip
    assert rows[0] == ["", "attention", "level", "location"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
    assert rows[1][3].startswith("in lender starfish") or "lender <" in rows[1][3]
    # The largest box is the lender of the first detection.
    assert browser.run(DASHED) == [0]


def test_a_level_button_keeps_the_focus(browser, page):
    browser.open(page, 1280)
    browser.mouse("#levels button:last-child")
    assert browser.run(PRESSED).startswith("level 3")
    assert browser.run("document.activeElement.textContent").startswith("level 3")
    browser.press("ArrowRight")
    assert browser.run(PRESSED).startswith("level 2")


def one_image(folder, image, found, explained, input_size=(64, 64)):
    """A page of one image, and its path."""
    levels = (Level(1, "a", 8, (8, 8)), Level(2, "b", 16, (2, 4)))
    detector = types.SimpleNamespace(
        class_names=CLASSES, category_ids=(1, 2, 3), levels=levels,
        input_size=input_size,
    )  # fmt: skip
    settings = Settings("W", 1, "cosine", 2.0, 0.4, 32.0, None, None)
    with ExplanationWriter(
        folder, detector, settings, pictures=False, limit=0
    ) as writer:
        writer.add("a.png", image, found, explained)
    return folder / "index.html"


def test_heat_is_drawn_at_its_position(browser, tmp_path):
    # 2 x 4 cells of 16 pixels of an input of 32 x 64, over an image of 120 x 100.
    found = LevelDetections(
        np.array([[0.1, 0.1, 0.2, 0.2]], "f4"), np.ones(1, "f4"), np.zeros(1, "i4"),
        np.zeros(1, "i4"),
    )  # fmt: skip
    heat = {1: np.zeros((2, 4))}
    heat[1][0, 2] = 1.0
    borrowed = Borrowed(0, np.array([[0.1, 0.1]]), heat, (), (), 0.0, None)
    image = np.full((120, 100, 3), 90, np.uint8)
    path = one_image(tmp_path, image, found, [Explained(0, borrowed, "")], (32, 64))
    browser.open(path, 1280)
    uri = browser.run(INK)
    drawn = picture_of(uri)
    assert drawn.width / drawn.height == pytest.approx(100 / 120, rel=0.01)
    assert heat_ends(drawn) == pytest.approx([0, 0.5, 0.5, 0.75], abs=0.01)


def test_without_explanations_the_images_are_listed(browser, tmp_path):
    found = LevelDetections(
        np.zeros((0, 4), "f4"), np.zeros(0, "f4"), np.zeros(0, "i4"), np.zeros(0, "i4")
    )
    path = one_image(tmp_path, np.full((40, 60, 3), 90, np.uint8), found, [])
    browser.open(path, 1280)
    assert browser.run("document.querySelector('section > img').clientWidth") >= 60
    said = browser.run("document.querySelector('section > p').textContent")
    assert "a score of at least 0.4" in said
    assert browser.complaints() == []


@pytest.mark.parametrize("side", [(20, 800), (800, 20)])
def test_extreme_aspect_ratios_fit_the_window(browser, tmp_path, side):
    found = LevelDetections(
        np.array([[0.1, 0.1, 0.2, 0.2]], "f4"), np.ones(1, "f4"), np.zeros(1, "i4"),
        np.zeros(1, "i4"),
    )  # fmt: skip
    image = np.full((*side, 3), 90, np.uint8)
    browser.open(one_image(tmp_path, image, found, [Explained(0, None, "none")]), 1280)
    stage = "document.querySelector('#stage')"
    wide, high = browser.run(f"[{stage}.clientWidth, {stage}.clientHeight]")
    assert high <= 900
    # Sides are whole pixels here.
    assert (wide * side[0] - high * side[1]) / max(side) == pytest.approx(0, abs=1)
