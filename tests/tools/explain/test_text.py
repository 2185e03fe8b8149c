"""What tools.explain says in words."""

import numpy as np
import pytest

from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import Borrowed, Found, SourcePosition

FOUND = Found(
    np.zeros((5, 4), np.float32),
    np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32),
    np.array([0, 0, 0, 1, 1], np.int32),
    np.zeros(5, np.int32),
)


def borrowed_of(*, lenders=(), positions=0.0, precision=None, sources=()):
    heat = {1: np.zeros((9, 9)), 2: np.zeros((9, 12))}
    centers = np.zeros((1, 2), np.float32)
    return Borrowed(0, centers, heat, sources, lenders, positions, precision)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0 %"), (0.004, "< 1 %"), (0.01, "1 %"), (0.126, "13 %"),
        (0.99, "99 %"), (0.996, "> 99 %"), (1.0, "100 %"), (1 - 1e-9, "100 %"),
    ],
)  # fmt: skip
def test_shares_in_words(share, words):
    assert text.percent(share) == words.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.578, "57.8 %"), (0.01, "1.0 %"), (0.00314, "0.31 %"), (0.002, "0.20 %")],
)
def test_weights_have_two_digits_that_count(share, words):
    assert text.weight(share) == words.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "no larger detection of its class"),
        ({"lenders": (1,)}, "1 larger of its class, it holds no position"),
        ({"lenders": (1, 2)}, "2 larger of its class, none holds a position"),
        ({"lenders": (1,), "positions": 0.88, "precision": 0.92},
         "92\u00a0% (even spread: 88\u00a0%)"),
        ({"lenders": (1,), "positions": 0.1, "precision": 0.0},
         "0\u00a0% (even spread: 10\u00a0%)"),
    ],
)  # fmt: skip
def test_precision_stands_beside_that_of_an_even_spread(fields, words):
    assert text.precision(borrowed_of(**fields)) == words


@pytest.mark.parametrize(
    ("holders", "words"),
    [
        ((), "in no detection"),
        ((1,), "in itself"),
        ((0,), "in larger puffin 0.90"),
        ((2,), "in puffin 0.70"),
        ((1, 3), "in itself, " + "x" * 23 + "… 0.60"),
        # What counts is named before what only scores better.
        ((0, 1, 2, 3), "in larger puffin 0.90, itself and 2 more"),
        ((2, 3, 1), "in itself, puffin 0.70 and 1 more"),
    ],
)
def test_what_holds_a_source(holders, words):
    source = SourcePosition(1, (0.5, 0.5), 0.1, holders)
    borrowed = borrowed_of(lenders=(0,))
    names = ("puffin", "x" * 60)
    assert text.where(source, 1, borrowed, FOUND, names) == words


def test_what_the_list_of_sources_leaves_out():
    sources = tuple(
        SourcePosition(1, (0.5, 0.5), share, ()) for share in (0.5, 0.2, 0.03)
    )
    words = text.strongest(borrowed_of(sources=sources))
    assert words == "3 of 189 positions, 73\u00a0% together"


def test_settings_say_what_it_was_made_with():
    settings = text.Settings("runs/W", 240, "cosine", 2.5, 0.4, 32.0, None, None)
    assert str(settings) == (
        "Made with runs/W, step 240: every detection with an area below 32² pixels, of "
        "those with a score of 0.4 or more, by the descriptors of the level that each "
        "one's anchor is on. Larger means at least 2.5 times the side. Attention is "
        "not contribution: values and fusion may make it count for little."
    )
    words = str(settings._replace(similarity="dot_product", detection=3, level=2))
    assert "step 240: detection 3, of those with a score of 0.4" in words
    assert "of level 2, whatever level its anchor is on." in words
    assert "(dot_product) may be negative: they count by |P|" in words


def test_any_name_can_be_written():
    name = b"caf\xe9_\xc3\xa9.png".decode(errors="surrogateescape")
    assert text.readable(name) == "caf\\udce9_é.png"
