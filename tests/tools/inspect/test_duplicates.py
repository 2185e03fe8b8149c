"""Images that occur twice, in one split or in several."""

import io

import numpy as np
import PIL.Image
import pytest

from borrow_det.tools.inspect import duplicates, text
from tests.tools.inspect.made_folder import scenes


def encoded(image, form="jpeg", **options):
    with io.BytesIO() as stream:
        PIL.Image.fromarray(image).save(stream, form, **options)
        return stream.getvalue()


def prints(*images):
    return [duplicates.fingerprint(image) for image in images]


def places(groups):
    return [[tuple(place) for place in group] for group in groups]


def test_equal_files_are_exact_and_changed_ones_near_duplicates():
    a, b, c, d = scenes(4)
    smaller = np.asarray(PIL.Image.fromarray(b).resize((170, 150)))
    darker = (0.8 * c).astype(np.uint8)
    found = duplicates.find(
        {
            "train": prints(encoded(a), encoded(b), encoded(c), encoded(d)),
            "val": prints(encoded(a), encoded(smaller, quality=40)),
            "test": prints(encoded(darker, "png")),
        }
    )
    assert places(found["exact"]) == [[("train", 0), ("val", 0)]]
    assert places(found["near"]) == [
        [("train", 1), ("val", 1)],
        [("train", 2), ("test", 0)],
    ]


def test_the_report_counts_groups_across_splits_as_leaks():
    a, b = map(encoded, scenes(2))
    found = duplicates.find({"train": prints(a, a, b), "val": prints(b)})
    names = {"train": ["a.jpg", "a copy.jpg", "b.jpg"], "val": ["b again.jpg"]}
    figures = duplicates.figures(found, names, ["train"])
    none = {"groups": 0, "images": 0, "across_splits": 0, "leaks": 0, "found": []}
    assert figures["near"] == none
    exact = figures["exact"]
    assert (exact["groups"], exact["images"], exact["across_splits"]) == (2, 4, 1)
    assert exact["leaks"] == 1
    assert exact["found"][1] == [
        {"split": "train", "file_name": "b.jpg"},
        {"split": "val", "file_name": "b again.jpg"},
    ]


def test_unrelated_scenes_are_not_duplicates():
    images = [encoded(scene) for scene in scenes(60, seed=5)]
    assert duplicates.find({"train": prints(*images)}) == {"exact": [], "near": []}


def test_blank_images_of_different_brightness_are_not_duplicates():
    blank = [encoded(np.full((64, 64, 3), v, np.uint8)) for v in (0, 120, 250, 3)]
    found = duplicates.find({"train": prints(*blank)})
    assert places(found["near"]) == [[("train", 0), ("train", 3)]]


LEAK = ": a leak, since a detector is evaluated on images that it was trained on."


@pytest.mark.parametrize(
    ("splits", "training", "line"),
    [
        (["train", "val"], ["train"], f"1 across splits{LEAK}"),
        (["train", "train"], ["train"], "none across splits."),
        # Evaluation splits may show the same scenes.
        (["val", "test"], ["train"], "1 across splits."),
        # Nothing is evaluated on another slice of the training split.
        (["train[:4]", "train[4:]"], ["train[:4]", "train[4:]"], "1 across splits."),
    ],
)
def test_only_images_of_the_training_split_leak(splits, training, line):
    group = [duplicates.Place(split, 0) for split in splits]
    names = {split: ["a.jpg"] for split in ["train", *splits]}
    figures = duplicates.figures({"exact": [group], "near": []}, names, training)
    first, second = text.duplicates(figures)
    assert first == f"2 images in 1 group of duplicates, {line}"
    assert second == "No near-duplicates among the images."


def test_leaks_are_counted_among_the_groups_across_splits():
    groups = [[duplicates.Place(s, 0) for s in pair] for pair in ("ab", "bc")]
    names = {split: ["a.jpg"] for split in "abc"}
    figures = duplicates.figures({"exact": groups, "near": []}, names, ["a"])
    assert text.duplicates(figures)[0] == (
        "4 images in 2 groups of duplicates, 2 across splits, 1 with images of the "
        f"training split{LEAK}"
    )


@pytest.mark.parametrize("side", [1, 3, 4, 9, 20])
def test_small_images_have_fingerprints(side):
    tiny = encoded(scenes(1)[0][:20, :side])
    assert duplicates.fingerprint(tiny).thumbnail.shape == (16, 17)


def test_broken_images_have_fingerprints_that_are_like_no_other():
    broken = duplicates.fingerprint(b"no image")
    assert broken.thumbnail is None
    images = [broken, *prints(encoded(scenes(1)[0]))]
    assert duplicates.find({"train": images})["near"] == []


def test_pairs_are_those_of_all_comparisons():
    rng = np.random.default_rng(0)
    base_ = scenes(12, side=64, seed=3)
    images = [
        np.clip(base_[i % 12] + rng.normal(0, noise, (64, 64, 3)), 0, 255).astype("u1")
        for i, noise in enumerate(np.linspace(0, 60, 48))
    ]
    found = duplicates.find({"train": prints(*(encoded(i, "png") for i in images))})
    thumbnails = [
        duplicates.fingerprint(encoded(i, "png")).thumbnail.astype(int) for i in images
    ]
    linked = {k: {k} for k in range(48)}
    for i in range(48):
        for j in range(i):
            a, b = thumbnails[i], thumbnails[j]
            bits = ((a[:, 1:] > a[:, :-1]) != (b[:, 1:] > b[:, :-1])).sum()
            if bits <= duplicates.MAX_BITS and np.abs(a - b).mean() <= 40:
                merged = linked[i] | linked[j]
                for k in merged:
                    linked[k] = merged
    expected = sorted({tuple(sorted(g)) for g in linked.values() if len(g) > 1})
    assert [tuple(p.image for p in group) for group in found["near"]] == expected
    assert expected
