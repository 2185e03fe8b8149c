"""Words that the pictures, the page and the console of explain share."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from borrow_det.inference.detector import Level
from borrow_det.tools.explain.explanation import (
    Borrowed,
    LevelDetections,
    SourcePosition,
)

_CLASS = 24  # Letters of a class name in pictures and lists.
_NAMED = 2  # Detections named in a source position's line; the others are counted.


class Settings(NamedTuple):
    """Settings that explanations are made with."""

    workdir: str
    step: int
    similarity: str  # The run's borrow.similarity.
    lender_scale: float  # The run's evaluation.lender_scale.
    score: float  # Flags of the tool, as the next three.
    small: float
    detection: int | None
    level: int | None
    references: str = ""  # Images that objects borrow from, too, in words; "": none.

    def record(self) -> dict[str, Any]:
        """Returns the settings by name, as in explanations.json."""
        fields = self._asdict()
        if not self.references:
            del fields["references"]
        return fields

    @property
    def explained(self) -> str:
        """The detections that are explained."""
        if self.detection is not None:
            return f"detection {self.detection}"
        return f"every detection with an area of at most {self.small:g}² pixels"

    def __str__(self) -> str:
        level = (
            "the level of its anchor"
            if self.level is None
            else f"level {self.level}, regardless of its anchor's level"
        )
        words = (
            f"Run {self.workdir}, step {self.step}. Explained: {self.explained}, among "
            f"those with a score of at least {self.score:g}, by the descriptors of "
            f"{level}. A lender is a detection of the same class with at least "
            f"{self.lender_scale:g} times the side."
        )
        if self.references:
            words += (
                f" References: {self.references}; lenders may be detections in them, "
                "too, with sides in pixels of the network's input."
            )
        if self.similarity == "dot_product":
            words += (
                " The scores of this run (dot_product) may be negative: they count as "
                "|P| divided by its sum over the row."
            )
        return (
            f"{words} Attention is not contribution: values and fusion may give it "
            "little effect."
        )


def readable(text: str) -> str:
    """Returns text that can be written as UTF-8, which file names need not be."""
    return text.encode("utf-8", "backslashreplace").decode()


def percent(share: float) -> str:
    """Formats a share; nonzero shares never read 0 %, partial ones never 100 %.

    A no-break space joins number and sign, here and in `weight`.
    """
    if 0 < share < 0.01:
        return "<\u00a01\u00a0%"
    if 0.99 < share < 1 - 1e-6:
        return ">\u00a099\u00a0%"
    return f"{100 * share:.0f}\u00a0%"


def shares(by_level: Mapping[int, float]) -> dict[str, str]:
    """Formats the share of each level; levels count from 1 in the result."""
    return {str(m + 1): percent(share) for m, share in by_level.items()}


def weight(share: float) -> str:
    """Formats a share with at least two significant digits."""
    number = f"{100 * share:.1f}" if share >= 0.01 else f"{100 * share:#.2g}"
    return f"{number}\u00a0%"


def cut(text: str, most: int) -> str:
    """Returns the text's first letters, with a mark if some are missing."""
    return text if len(text) <= most else text[: most - 1] + "…"


def title(level: Level) -> str:
    """Formats a level's number, name and stride."""
    return f"level {level.number}, {level.name}, stride {level.stride}"


def named(found: LevelDetections, i: int, class_names: Sequence[str]) -> str:
    """Formats class and score of detection i."""
    return f"{cut(class_names[int(found.labels[i])], _CLASS)} {found.scores[i]:.2f}"


def attention_precision(borrowed: Borrowed) -> str:
    """Formats the attention precision and that of an even spread, or why none is."""
    if borrowed.attention_precision is not None:
        even = percent(borrowed.positions)
        return f"{percent(borrowed.attention_precision)} (even spread: {even})"
    count = borrowed.num_lenders
    if not count:
        return "no lender"
    return (
        "1 lender, which contains no position"
        if count == 1
        else f"{count} lenders, none contains a position"
    )


def strongest(borrowed: Borrowed) -> str:
    """Formats the number of positions that are listed, and their attention."""
    together = percent(sum(source.weight for source in borrowed.sources))
    listed = len(borrowed.sources)
    return f"{listed} of {borrowed.num_positions} positions, {together} together"


def location(
    source: SourcePosition,
    k: int,
    borrowed: Borrowed,
    found: LevelDetections,
    class_names: Sequence[str],
    references: Sequence[LevelDetections] = (),
) -> str:
    """Names the boxes that contain a source position of detection k.

    Args:
      source: the source position.
      k: index of the detection in `found`.
      borrowed: attention of the detection.
      found: detections of the image.
      class_names: name of each label.
      references: detections of each reference.
    """
    place, lenders, own = "", borrowed.lenders, k
    if source.reference is not None:
        place = f"reference {source.reference + 1}: "
        found = references[source.reference]
        lenders, own = borrowed.references[source.reference].lenders, -1

    def one(i: int) -> str:
        if i == own:
            return "itself"
        name = named(found, i, class_names)
        return f"lender {name}" if i in lenders else name

    # Lenders first, then the detection itself: these are named, not counted.
    holders = sorted(source.detections, key=lambda i: (i not in lenders, i != own))
    text = ", ".join(one(i) for i in holders[:_NAMED])
    if len(holders) > _NAMED:
        text += f" and {len(holders) - _NAMED} more"
    text = text or "no detection"
    return place + text if place else f"in {text}"


def reference(index: int, name: str, borrowed: Borrowed) -> str:
    """Formats a reference, without its folder, and the attention to it.

    Args:
      index: index of the reference.
      name: its name.
      borrowed: attention of the detection that borrows.
    """
    share = percent(borrowed.references[index].share)
    file = pathlib.PurePath(name).name
    return f"borrowed {share} from reference {index + 1}, {file}"
