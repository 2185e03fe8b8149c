"""The words of tools.explain: what its pictures, its page and its console say."""

from collections.abc import Sequence
from typing import NamedTuple

from borrow_det.inference.detector import Level
from borrow_det.tools.explain.explanation import Borrowed, Found, SourcePosition

_CLASS = 24  # Letters of a class name in pictures and lists.
_NAMED = 2  # Detections named in a source's line; the others are counted.


class Settings(NamedTuple):
    """What explanations were made with."""

    workdir: str
    step: int
    similarity: str  # The run's borrow.similarity.
    lender_scale: float  # The run's evaluation.lender_scale: what makes "larger".
    score: float  # The tool's flags, as the next three.
    small: float
    detection: int | None
    level: int | None

    @property
    def asked(self) -> str:
        """Which detections are explained."""
        if self.detection is not None:
            return f"detection {self.detection}"
        return f"every detection with an area below {self.small:g}² pixels"

    def __str__(self) -> str:
        seen = (
            "the level that each one's anchor is on"
            if self.level is None
            else f"level {self.level}, whatever level its anchor is on"
        )
        words = (
            f"Made with {self.workdir}, step {self.step}: {self.asked}, of those with "
            f"a score of {self.score:g} or more, by the descriptors of {seen}. Larger "
            f"means at least {self.lender_scale:g} times the side."
        )
        if self.similarity == "dot_product":
            words += (
                " This run's scores (dot_product) may be negative: they count by |P| "
                "over its sum in the row."
            )
        return (
            f"{words} Attention is not contribution: values and fusion may make it "
            "count for little."
        )


def readable(text: str) -> str:
    """Text that can be written as UTF-8, which names of files need not be."""
    return text.encode("utf-8", "backslashreplace").decode()


def percent(share: float) -> str:
    """A share in words that claim neither none nor all where that is not so.

    Number and sign are not to be broken apart, here and in `weight`.
    """
    if 0 < share < 0.01:
        return "<\u00a01\u00a0%"
    if 0.99 < share < 1 - 1e-6:
        return ">\u00a099\u00a0%"
    return f"{100 * share:.0f}\u00a0%"


def weight(share: float) -> str:
    """A share with at least two digits that count."""
    number = f"{100 * share:.1f}" if share >= 0.01 else f"{100 * share:#.2g}"
    return f"{number}\u00a0%"


def cut(text: str, most: int) -> str:
    """The text's first letters, with a mark where some are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def title(level: Level) -> str:
    """A level's number, name and stride."""
    return f"level {level.number}, {level.name}, stride {level.stride}"


def named(found: Found, i: int, class_names: Sequence[str]) -> str:
    """Class and score of detection i."""
    return f"{cut(class_names[int(found.labels[i])], _CLASS)} {found.scores[i]:.2f}"


def precision(borrowed: Borrowed) -> str:
    """The precision beside that of an even spread, or why there is none."""
    if borrowed.precision is not None:
        even = percent(borrowed.positions)
        return f"{percent(borrowed.precision)} (even spread: {even})"
    count = len(borrowed.lenders)
    if not count:
        return "no larger detection of its class"
    return f"{count} larger of its class, {'none' if count > 1 else 'it'} holds " + (
        "a position" if count > 1 else "no position"
    )


def strongest(borrowed: Borrowed) -> str:
    """How many of the positions are listed, and what they have together."""
    together = percent(sum(source.weight for source in borrowed.sources))
    listed = len(borrowed.sources)
    return f"{listed} of {borrowed.count} positions, {together} together"


def where(
    source: SourcePosition,
    k: int,
    borrowed: Borrowed,
    found: Found,
    class_names: Sequence[str],
) -> str:
    """What holds a source of detection k: itself, larger ones of its class, others."""

    def one(i):
        if i == k:
            return "itself"
        name = named(found, i, class_names)
        return f"larger {name}" if i in borrowed.lenders else name

    # Larger ones first, then itself: of many, these must not be the uncounted ones.
    holders = sorted(
        source.detections, key=lambda i: (i not in borrowed.lenders, i != k)
    )
    text = ", ".join(one(i) for i in holders[:_NAMED])
    if len(holders) > _NAMED:
        text += f" and {len(holders) - _NAMED} more"
    return f"in {text}" if text else "in no detection"
