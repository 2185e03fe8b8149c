"""References on the page of explain in a real browser."""

import types

import numpy as np
import pytest

from borrow_det.inference.detector import Level
from borrow_det.tools.explain.explanation import (
    Borrowed,
    BorrowedReference,
    LevelDetections,
    SourcePosition,
)
from borrow_det.tools.explain.files import ExplanationWriter
from borrow_det.tools.explain.records import Explained
from borrow_det.tools.explain.references import Reference
from borrow_det.tools.explain.text import Settings
from tests.browser import MARKS
from tests.tools.explain.canvas_heat import heat_ends, picture_of

pytestmark = MARKS
NASTY = "<img src=x onerror=alert(1)>"


def found_of(*boxes):
    count = len(boxes)
    return LevelDetections(
        np.array(boxes, "f4"),
        np.linspace(0.9, 0.5, count).astype("f4"),
        np.zeros(count, "i4"),
        np.zeros(count, "i4"),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two views of one image with three references.

    The second detection of each has no attention to references.
    """
    folder = tmp_path_factory.mktemp("page")
    detector = types.SimpleNamespace(
        class_names=("puffin",),
        category_ids=(1,),
        input_size=(64, 64),
        levels=tuple(Level(n + 1, "abc"[n], 8 << n, (8 >> n,) * 2) for n in range(3)),
    )
    rng = np.random.default_rng(0)
    references = [
        Reference(
            10 + i,
            f"videos/{i}{NASTY}.png",
            rng.integers(0, 256, (60, 80 + 40 * i, 3), np.uint8),
            found_of((0.5, 0.5, 1.0, 1.0), (0.0, 0.0, 0.2, 0.2)),
            view=(0.0, 0.25, 0.5, 0.75) if i == 1 else None,
        )
        for i in range(3)
    ]
    found = found_of((0.1, 0.1, 0.3, 0.3), (0.5, 0.5, 0.7, 0.7))
    image = rng.integers(0, 256, (96, 128, 3), np.uint8)
    # 20 % in the first reference, on level 2; 70 % in the second, in a cell of level 3.
    heats = [{1: np.zeros((4, 4)), 2: np.zeros((2, 2))} for _ in range(3)]
    heats[0][1][:] = 0.2 / 16
    heats[1][2][0, 1] = 0.7
    own = {1: np.full((4, 4), 0.1 / 16), 2: np.zeros((2, 2))}
    parts = tuple(BorrowedReference(heat, (0,)) for heat in heats)
    sources = (
        SourcePosition(2, (0.25, 0.75), 0.7, (), 1),
        SourcePosition(1, (0.6, 0.6), 0.0125, (0,), 0),
        SourcePosition(1, (0.6, 0.2), 0.00625, ()),
    )
    centers = np.array([[0.2, 0.2]], "f4")
    borrowed = Borrowed(0, centers, own, sources, (), 0.25, 0.05, parts)
    alone = tuple(
        BorrowedReference({m: 0 * h for m, h in heat.items()}, ()) for heat in heats
    )
    own = {1: np.full((4, 4), 1 / 16), 2: np.zeros((2, 2))}
    without = Borrowed(0, centers, own, (), (), 0.0, None, alone)
    settings = Settings("W", 1, "cosine", 2.0, 0.4, 32.0, None, None, "3 images")
    with ExplanationWriter(
        folder, detector, settings, pictures=False, limit=0
    ) as writer:
        for tile in (1, 2):
            writer.add(
                *(f"photo.png, tile {tile} of 2", image, found),
                [Explained(1, without, ""), Explained(0, borrowed, "")],
                references,
                (0, 0, 96, 128),
            )
    return folder / "index.html"


FIGURES = (
    "[...document.querySelectorAll('#references figure')].map(f => "
    "(r => [r.left, r.top, r.right, r.bottom])(f.getBoundingClientRect()))"
)
STAGE = (
    "(r => [r.left, r.top, r.right, r.bottom])("
    "document.querySelector('#stage').getBoundingClientRect())"
)
CAPTIONS = (
    "[...document.querySelectorAll('#references figcaption')].map(c => c.textContent)"
)


@pytest.mark.parametrize("width", [1280, 390])
def test_references_are_beside_the_image_or_below(
    browser, page, width, tmp_path_factory
):
    browser.open(page, width)
    assert browser.run(CAPTIONS) == [
        f"borrowed 70\u00a0% from reference 2, 1{NASTY}.png; level 3: 70\u00a0%",
        f"borrowed 20\u00a0% from reference 1, 0{NASTY}.png; level 2: 20\u00a0%",
    ]
    browser.settle()
    browser.picture(tmp_path_factory.getbasetemp() / f"references_{width}.png")
    figures, stage = browser.run(FIGURES), browser.run(STAGE)
    for left, top, right, _ in figures:
        assert right <= width
        if width == 1280:
            assert left > stage[2]
            assert top == pytest.approx(stage[1], abs=1)
        else:
            assert top >= stage[3]
    assert browser.run("document.documentElement.scrollWidth") <= width
    # The second detection has no attention to references: they are gone.
    browser.mouse("#list li:nth-child(2) button")
    assert browser.run(CAPTIONS) == []
    if width == 1280:
        assert browser.run(STAGE)[2] > stage[2]
    browser.mouse("#list li:nth-child(3) button")
    assert len(browser.run(CAPTIONS)) == 2
    assert browser.complaints() == []


def test_the_heat_of_a_reference_is_drawn_at_its_position(browser, page):
    browser.open(page, 1280)
    browser.settle()
    uri = browser.run("document.querySelector('#references canvas').toDataURL()")
    drawn = picture_of(uri)
    assert heat_ends(drawn) == pytest.approx([0, 0.5, 0.5, 1], abs=0.02)
    # Another level, with the keys of the page, and no heat at all.
    browser.mouse("#levels button:first-child")
    assert [text.split("; ")[1] for text in browser.run(CAPTIONS)] == [
        "level 2: 0\u00a0%", "level 2: 20\u00a0%",
    ]  # fmt: skip
    browser.mouse("#heat")
    assert browser.run("document.querySelectorAll('.framed.heated').length") == 0


def test_numbers_and_lenders_are_marked_in_their_image(browser, page):
    browser.open(page, 1280)
    browser.settle()
    numbers = (
        "texts => [...texts].map(t => "
        "[t.textContent, +t.getAttribute('x'), +t.getAttribute('y')])"
    )
    marked = browser.run(
        "[...document.querySelectorAll('#references svg')].map(svg => "
        f"({numbers})(svg.querySelectorAll('text')))"
    )
    # Pixels of the references: 120 x 60 and 80 x 60.
    assert marked == [
        [["1", pytest.approx(90), pytest.approx(15)]],
        [["2", pytest.approx(48), pytest.approx(36)]],
    ]
    own = browser.run(f"({numbers})(document.querySelectorAll('#stage text'))")
    assert [number for number, *_ in own] == ["3"]
    dashes = browser.run(
        "[...document.querySelectorAll('#references svg')].map(svg => "
        "[...svg.querySelectorAll('.box')].map(b => "
        "b.lastChild.getAttribute('stroke-dasharray')))"
    )
    assert dashes == [["7 5", "none"]] * 2  # The largest box is first.
    views = browser.run(
        "[...document.querySelectorAll('#references .view')].map(v => "
        "['x', 'y', 'width', 'height'].map(n => +v.getAttribute(n)))"
    )
    assert views == [[30, 0, 60, 30]]
    rows = browser.run(
        "[...document.querySelectorAll('#detail tr')].map(r => r.lastChild.textContent)"
    )
    assert rows[1:] == [
        "reference 2: no detection", "reference 1: lender puffin 0.90",
        "in no detection",
    ]  # fmt: skip


def test_the_page_contains_each_reference_once_and_orders_by_their_share(browser, page):
    browser.open(page, 1280)
    assert browser.run("document.querySelectorAll('figure.reference img').length") == 3
    assert browser.run("document.querySelectorAll('[onerror]').length") == 0
    texts = "[...document.querySelectorAll('#list button')].map(b => b.textContent)"
    assert [("references: 90" in text) for text in browser.run(texts)] == [
        True, False, True, False,
    ]  # fmt: skip
    browser.choose("#order", "references")
    assert [("references: 90" in text) for text in browser.run(texts)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert browser.complaints() == []


def test_without_scripts_references_are_shown(browser, page):
    browser.open(page, 390, scripts=False)
    wide = browser.run(
        "[...document.querySelectorAll('figure.reference img')].map(i => i.width)"
    )
    assert min(wide) > 50
    text = browser.run("document.querySelector('section td:nth-child(4)').textContent")
    assert "references: 90" in text
    browser.open(page, 390)
