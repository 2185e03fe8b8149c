"""Images that occur twice: equal files, and files that show nearly the same.

The difference hash of an image has a bit for each pair of horizontal neighbors in a
thumbnail: whether the right one is brighter. It hardly changes with compression, size
and brightness. Images are near-duplicates if at most MAX_BITS of BITS bits differ and
their thumbnails have similar brightness; half of the bits of unrelated images differ.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

_ROWS = 16
BITS = _ROWS * _ROWS
# Among 1,675 images of four datasets, the pairs that differ in up to 40 bits are
# frames of one camera or photographs of one scene.
MAX_BITS = 32
# Mean difference of two thumbnails' pixels, of 255. Without this, all images without
# contrast would be duplicates.
_MAX_DIFFERENCE = 40.0
_BLOCK = 1024  # Images that are compared with all others in one product.
_THUMBNAIL = (_ROWS + 1, _ROWS)  # (width, height) in pixels.


class Fingerprint(NamedTuple):
    """A short description of an image.

    Attributes:
      digest: hash of the encoded image.
      thumbnail: uint8 [16, 17], gray; None if the image does not decode.
    """

    digest: bytes
    thumbnail: np.ndarray | None


class Place(NamedTuple):
    """An image of a split, by its index."""

    split: str
    image: int


def fingerprint(encoded: bytes) -> Fingerprint:
    """Computes the fingerprint of an encoded image, decoded at an eighth of its size.

    Args:
      encoded: JPEG or PNG.
    """
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    gray = _decode(encoded, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if gray is None or min(gray.shape) < _ROWS:
        gray = _decode(encoded, cv2.IMREAD_GRAYSCALE)
    if gray is None:
        return Fingerprint(digest, None)
    thumbnail = cv2.resize(gray, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return Fingerprint(digest, thumbnail)


def _decode(encoded: bytes, flag: int) -> np.ndarray | None:
    content = np.frombuffer(encoded, np.uint8)
    try:
        # Stored images are upright: an orientation tag would rotate them again.
        return cv2.imdecode(content, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # An eighth of a side below 4 pixels has no pixel.
        return None


def find(
    fingerprints: Mapping[str, Sequence[Fingerprint]],
) -> dict[str, list[list[Place]]]:
    """Finds groups of images that show the same.

    Args:
      fingerprints: those of each split's images.

    Returns:
      `exact`: groups of images with the same content. `near`: groups of images that
      are near-duplicates, directly or by way of others, including those of `exact`
      that have further near-duplicates. Groups have two images or more.
    """
    places = [
        Place(split, index)
        for split, of_split in fingerprints.items()
        for index in range(len(of_split))
    ]
    images = [image for of_split in fingerprints.values() for image in of_split]
    same: dict[bytes, list[int]] = {}
    for index, image in enumerate(images):
        same.setdefault(image.digest, []).append(index)
    joined = _Groups(len(images))
    for group in same.values():
        for index in group[1:]:
            joined.join(group[0], index)
    firsts = [group[0] for group in same.values()]
    for a, b in _near_pairs([images[index].thumbnail for index in firsts]):
        joined.join(firsts[a], firsts[b])
    exact = [group for group in same.values() if len(group) > 1]
    near = [
        group
        for group in joined.groups()
        if len({images[index].digest for index in group}) > 1
    ]
    return {
        "exact": [[places[index] for index in group] for group in exact],
        "near": [[places[index] for index in group] for group in near],
    }


def figures(
    groups: Mapping[str, Sequence[Sequence[Place]]],
    file_names: Mapping[str, Sequence[str]],
    training: Collection[str],
) -> dict[str, Any]:
    """Describes groups of duplicates as JSON values.

    Args:
      groups: result of `find`.
      file_names: names of each split's images.
      training: names of the training split and slices of it.

    Returns:
      For `exact` and `near`: `groups`, the number of groups; `images`, the number of
      images in them; `across_splits`, the number of groups with images of several
      splits; `leaks`, the number of groups with images of the training split and of
      another one; and `found`, the images of each group with `split` and `file_name`.
    """
    described = {}
    for kind, found in groups.items():
        splits = [{place.split for place in group} for group in found]
        described[kind] = {
            "groups": len(found),
            "images": sum(map(len, found)),
            "across_splits": sum(len(names) > 1 for names in splits),
            "leaks": sum(
                not names.isdisjoint(training) and not names.issubset(training)
                for names in splits
            ),
            "found": [
                [
                    {"split": p.split, "file_name": file_names[p.split][p.image]}
                    for p in group
                ]
                for group in found
            ],
        }
    return described


class _Groups:
    """Disjoint groups of the numbers below a count."""

    def __init__(self, count: int):
        self._parents = list(range(count))

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = self._parents[self._parents[i]]
            i = self._parents[i]
        return i

    def join(self, a: int, b: int) -> None:
        """Joins the groups of two numbers."""
        a, b = sorted((self._root(a), self._root(b)))
        self._parents[b] = a

    def groups(self) -> list[list[int]]:
        """Returns the groups of two numbers or more."""
        found: dict[int, list[int]] = {}
        for i in range(len(self._parents)):
            found.setdefault(self._root(i), []).append(i)
        return [group for group in found.values() if len(group) > 1]


def _near_pairs(
    thumbnails: Sequence[np.ndarray | None],
) -> list[tuple[int, int]]:
    """Returns the pairs (i, j), i < j, of near-duplicates."""
    known = [(i, pixels) for i, pixels in enumerate(thumbnails) if pixels is not None]
    if len(known) < 2:
        return []
    index = [i for i, _ in known]
    pixels = np.stack([pixels for _, pixels in known]).astype(np.float32)
    brighter = pixels[:, :, 1:] > pixels[:, :, :-1]
    # The product of two vectors of +1 and -1 is BITS minus twice the different bits.
    signs = np.where(brighter, np.float32(1), np.float32(-1)).reshape(len(index), -1)
    flat = pixels.reshape(len(index), -1)
    pairs = []
    for start in range(0, len(index), _BLOCK):
        agreement = signs[start : start + _BLOCK] @ signs[start:].T
        for a, b in np.argwhere(agreement >= BITS - 2 * MAX_BITS):
            i, j = start + a, start + b
            if i < j and np.abs(flat[i] - flat[j]).mean() <= _MAX_DIFFERENCE:
                pairs.append((index[i], index[j]))
    return pairs
