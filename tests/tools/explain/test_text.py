"""The texts of explain."""

import numpy as np
import pytest

from borrow_det.tools.explain import text
from borrow_det.tools.explain.explanation import (
    Borrowed,
    BorrowedReference,
    LevelDetections,
    SourcePosition,
)

FOUND = LevelDetections(
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
def test_weights_have_two_significant_digits(share, words):
    assert text.weight(share) == words.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "no lender"),
        ({"lenders": (1,)}, "1 lender, which contains no position"),
        ({"lenders": (1, 2)}, "2 lenders, none contains a position"),
        ({"lenders": (1,), "positions": 0.88, "precision": 0.92},
         "92\u00a0% (even spread: 88\u00a0%)"),
        ({"lenders": (1,), "positions": 0.1, "precision": 0.0},
         "0\u00a0% (even spread: 10\u00a0%)"),
    ],
)  # fmt: skip
def test_attention_precision_is_next_to_that_of_an_even_spread(fields, words):
    assert text.attention_precision(borrowed_of(**fields)) == words


@pytest.mark.parametrize(
    ("holders", "words"),
    [
        ((), "in no detection"),
        ((1,), "in itself"),
        ((0,), "in lender puffin 0.90"),
        ((2,), "in puffin 0.70"),
        ((1, 3), "in itself, " + "x" * 23 + "… 0.60"),
        # Lenders and itself are named before others of better scores.
        ((0, 1, 2, 3), "in lender puffin 0.90, itself and 2 more"),
        ((2, 3, 1), "in itself, puffin 0.70 and 1 more"),
    ],
)
def test_boxes_that_contain_a_source_position_are_named(holders, words):
    source = SourcePosition(1, (0.5, 0.5), 0.1, holders)
    borrowed = borrowed_of(lenders=(0,))
    names = ("puffin", "x" * 60)
    assert text.location(source, 1, borrowed, FOUND, names) == words


def test_unlisted_positions_are_counted():
    sources = tuple(
        SourcePosition(1, (0.5, 0.5), share, ()) for share in (0.5, 0.2, 0.03)
    )
    words = text.strongest(borrowed_of(sources=sources))
    assert words == "3 of 189 positions, 73\u00a0% together"


def test_settings_in_words():
    settings = text.Settings("runs/W", 240, "cosine", 2.5, 0.4, 32.0, None, None)
    assert str(settings) == (
        "Run runs/W, step 240. Explained: every detection with an area of at most 32² "
        "pixels, among those with a score of at least 0.4, by the descriptors of the "
        "level of its anchor. A lender is a detection of the same class with at least "
        "2.5 times the side. Attention is not contribution: values and fusion may give "
        "it little effect."
    )
    words = str(settings._replace(similarity="dot_product", detection=3, level=2))
    assert "step 240. Explained: detection 3, among those with a score of at" in words
    assert "of level 2, regardless of its anchor's level." in words
    assert "(dot_product) may be negative: they count as |P|" in words


def test_names_that_are_not_utf8_can_be_written():
    name = b"caf\xe9_\xc3\xa9.png".decode(errors="surrogateescape")
    assert text.readable(name) == "caf\\udce9_é.png"


@pytest.mark.parametrize(
    ("holders", "words"),
    [
        ((), "reference 2: no detection"),
        ((1,), "reference 2: lender puffin 0.80"),
        # The borrower has this index in its own image.
        ((0, 3), "reference 2: puffin 0.90, eider 0.60"),
    ],
)
def test_positions_in_references_name_boxes_there(holders, words):
    source = SourcePosition(1, (0.5, 0.5), 0.1, holders, 1)
    empty = BorrowedReference({}, ())
    borrowed = borrowed_of(lenders=(3,))._replace(
        references=(empty, BorrowedReference({}, (1,)))
    )
    nothing = LevelDetections(*(part[:0] for part in FOUND))
    found = FOUND._replace(labels=np.ones(5, np.int32))
    places = (found, ("puffin", "eider"), [nothing, FOUND])
    assert text.location(source, 0, borrowed, *places) == words


def test_references_are_named_with_their_share():
    heat = {1: np.array([[0.5, 0.0]]), 2: np.array([[0.21]])}
    borrowed = borrowed_of()._replace(references=(BorrowedReference(heat, (4, 5)),))
    words = text.reference(0, "videos/7/frame_0012.jpg", borrowed)
    assert words == "borrowed 71\u00a0% from reference 1, frame_0012.jpg"
    assert text.attention_precision(borrowed) == "2 lenders, none contains a position"
    assert text.shares(borrowed.references[0].shares) == {
        "2": "50\u00a0%", "3": "21\u00a0%",
    }  # fmt: skip


def test_settings_name_references():
    settings = text.Settings("W", 1, "cosine", 2.0, 0.4, 32.0, None, None)
    assert "eference" not in str(settings)
    assert "references" not in settings.record()
    settings = settings._replace(references="2 images of exemplars")
    assert settings.record() == settings._asdict()
    assert (
        "least 2 times the side. References: 2 images of exemplars; lenders may be "
        "detections in them, too, with sides in pixels of the network's input."
        in str(settings)
    )
