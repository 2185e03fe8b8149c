"""The detections that a call of a detector returns."""

import dataclasses
import json
import sys
import types

import numpy as np
import PIL.Image
import pytest

from borrow_det.errors import InputError
from borrow_det.inference.detections import Detection, Detections
from borrow_det.visualization import annotate

# A wide image: x for y would show.
IMAGE = np.full((50, 100, 3), 90, np.uint8)
BOXES = [[10, 20, 30, 25], [0, 0, 100, 50], [40.1234, 5, 60, 45]]


@pytest.fixture
def found():
    return Detections(
        boxes=np.array(BOXES, np.float64),
        scores=np.array([0.9, 0.5, 0.3], np.float32),
        labels=np.array([1, 0, 1]),
        class_names=("cat", "dog"),
        category_ids=(3, 17),
        image_size=(50, 100),
        image=IMAGE,
    )


def test_counts_are_by_class_the_most_frequent_first(found):
    assert list(found.counts().items()) == [("dog", 2), ("cat", 1)]
    assert found[:0].counts() == {}


def test_length_and_iteration(found):
    assert len(found) == 3
    first, second, third = found
    assert isinstance(first, Detection)
    assert first.box.tolist() == BOXES[0]
    assert first.score == pytest.approx(0.9)
    assert (first.label, first.class_name, first.category_id) == (1, "dog", 17)
    assert (second.class_name, third.class_name) == ("cat", "dog")


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (slice(1, None), [1, 2]),
        (slice(None, None, -1), [2, 1, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, True, False], [1]),
        ([2, 0], [2, 0]),
        (np.array([], int), []),
        ([], []),
    ],
)
def test_slices_masks_and_lists_of_indices_choose_detections(found, index, kept):
    chosen = found[index]
    assert isinstance(chosen, Detections)
    assert chosen.boxes.tolist() == [BOXES[i] for i in kept]
    assert chosen.scores.tolist() == found.scores[kept].tolist()
    assert chosen.labels.tolist() == found.labels[kept].tolist()
    assert chosen.class_names == ("cat", "dog")
    assert chosen.image is IMAGE


def test_an_index_chooses_one_detection(found):
    assert found[-1].box.tolist() == BOXES[2]
    assert found[np.int64(1)].class_name == "cat"
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"score": 0.5}, [0, 1]),
        ({"score": 0.95}, []),
        ({"classes": ["dog"]}, [0, 2]),
        ({"classes": "cat"}, [1]),
        ({"classes": ("cat", "dog")}, [0, 1, 2]),
        ({"classes": []}, []),
        ({"score": 0.4, "classes": ["dog"]}, [0]),
    ],
)
def test_filtering_by_score_and_class(found, options, kept):
    assert found.filter(**options).boxes.tolist() == [BOXES[i] for i in kept]


def test_a_class_that_the_run_does_not_have_is_named(found):
    with pytest.raises(InputError, match="no class 'cow'; the run has cat, dog"):
        found.filter(classes=["cat", "cow"])


def test_coco_records_have_the_form_of_results_files(found):
    records = found.to_coco(image_id=7)
    assert records == [
        {"image_id": 7, "category_id": 17, "bbox": [10, 20, 20, 5],
         "score": pytest.approx(0.9)},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 100, 50], "score": 0.5},
        {"image_id": 7, "category_id": 17, "bbox": [40.123, 5, 19.877, 40],
         "score": pytest.approx(0.3)},
    ]  # fmt: skip
    assert json.loads(json.dumps(records)) == records
    assert found[:0].to_coco() == []


def test_plots_show_the_detections_of_the_given_score(found):
    def drawn(count):
        """The picture of the first `count` detections."""
        sides = np.array([50, 100, 50, 100])
        yxyx = np.array(BOXES)[:count, [1, 0, 3, 2]] / sides
        return annotate.draw_boxes(
            IMAGE, yxyx, found.labels[:count], ("cat", "dog"), found.scores[:count]
        )

    for options, count in (({}, 2), ({"score": 0.0}, 3), ({"score": 0.6}, 1)):
        picture = found.plot(**options)
        assert isinstance(picture, PIL.Image.Image)
        np.testing.assert_array_equal(np.asarray(picture), drawn(count))
    assert IMAGE.min() == IMAGE.max() == 90


def test_saving_by_suffix(found, tmp_path):
    found.save(tmp_path / "deep" / "a.png")
    saved = np.asarray(PIL.Image.open(tmp_path / "deep" / "a.png"))
    np.testing.assert_array_equal(saved, np.asarray(found.plot()))
    found.save(str(tmp_path / "b.JPG"), score=0.0)
    with PIL.Image.open(tmp_path / "b.JPG") as picture:
        assert picture.format == "JPEG"
        difference = np.asarray(picture).astype(int) - np.asarray(found.plot(0.0))
    assert np.abs(difference).mean() < 2
    # A JSON file holds those that are not drawn, too.
    found.save(tmp_path / "c.json", image_id=7)
    assert json.loads((tmp_path / "c.json").read_text()) == found.to_coco(7)


def test_files_that_cannot_be_written_are_named(found, tmp_path):
    with pytest.raises(InputError, match=r"a\.gif: detections are saved as \.jpg"):
        found.save(tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/a\.png: (Not a directory|File exists)"):
        found.save(tmp_path / "file" / "a.png")


def test_conversion_to_supervision(found, monkeypatch):
    module = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", module)
    fields = found.to_supervision()
    assert fields["xyxy"].dtype == np.float32
    np.testing.assert_allclose(fields["xyxy"], BOXES, rtol=1e-6)
    np.testing.assert_allclose(fields["confidence"], [0.9, 0.5, 0.3], rtol=1e-6)
    assert fields["class_id"].tolist() == [1, 0, 1]
    assert fields["data"]["class_name"].tolist() == ["dog", "cat", "dog"]


def test_the_installed_supervision_takes_the_detections(found):
    pytest.importorskip("supervision")
    converted = found.to_supervision()
    assert len(converted) == 3
    assert converted.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert len(found[:0].to_supervision()) == 0


def test_without_supervision_the_message_says_how_to_install_it(found, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        found.to_supervision()


def test_text_form_lists_the_best(found):
    assert repr(found) == (
        "Detections(3 in 100 x 50 pixels: dog 0.90, cat 0.50, dog 0.30)"
    )
    assert repr(found[:0]) == "Detections(0 in 100 x 50 pixels: nothing found)"
    many = found[[0] * 6]
    assert repr(many).endswith("dog 0.90, dog 0.90, and 2 more)")


def test_track_ids_follow_their_detections_into_records_and_labels(found, monkeypatch):
    tracked = dataclasses.replace(found, track_ids=np.array([7, -1, 2]))
    assert tracked[[2, 0]].track_ids.tolist() == [2, 7]
    assert [r.get("track_id") for r in tracked.to_coco()] == [7, None, 2]
    assert all("track_id" not in record for record in found.to_coco())
    texts = []
    monkeypatch.setattr(
        annotate, "draw_marks", lambda image, marks, side: texts.extend(marks) or image
    )
    tracked.plot(0.0)
    names = [found.class_names[label] for label in found.labels]
    expected = [
        f"{name} {note}{score:.2f}"
        for name, note, score in zip(
            names, ("#7 ", "", "#2 "), found.scores, strict=True
        )
    ]
    assert sorted(mark.text for mark in texts) == sorted(expected)
