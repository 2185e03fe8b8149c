"""The pictures of an evaluation: their images, marks and captions."""

import collections

import numpy as np
import pytest

from borrow_det.evaluation import average_precision, pairing
from borrow_det.tasks import detection_pictures
from borrow_det.visualization import outcomes
from tests.reporting.results_page.made_evaluation import make_evaluation

IMAGES = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An evaluator of random records, and their detections."""
    done, detections = make_evaluation(tmp_path_factory.mktemp("W"), images=IMAGES)
    for image in done.evaluator.truth["images"]:
        image["file_name"] = f"folder/{image['id']}.png"
    return done.evaluator, detections


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of the drawings, instead of pictures."""
    calls = []

    def draw(image, objects, detections, lines):
        calls.append((objects, detections, lines))
        return image

    monkeypatch.setattr(detection_pictures, "draw", draw)
    return calls


def draw_pictures(made, step=70, **fields):
    evaluator, detections = made
    config = evaluator.config.copy_and_resolve_references()
    config.report.update(fields)
    evaluator = type(evaluator)(evaluator.split, config, evaluator.truth)
    analysis = evaluator.analyze(detections)
    return evaluator.pictures(detections, analysis, step), analysis


def styles(marks):
    """Counts marks by style."""
    signs = collections.Counter(mark.text[0] for mark in marks)
    return {style: signs[style.sign] for style in outcomes.STYLES}


@pytest.mark.parametrize("threshold", [0.3, 0.555])
def test_marks_are_the_pairs_of_the_better_detections_alone(made, drawn, threshold):
    evaluator, detections = made
    draw_pictures(made, num_pictures=IMAGES, min_score=threshold)
    assert len(drawn) == IMAGES
    truth = evaluator.truth
    kept = [d for d in detections if d["score"] >= threshold]
    pairs = pairing.pair(truth, kept)
    by_file = {lines[0].split(" · ")[0]: call for *call, lines in drawn}
    for image in truth["images"]:
        here = np.array([d["image_id"] == image["id"] for d in kept])
        own = np.array([a["image_id"] == image["id"] for a in truth["annotations"]])
        counts = np.array(
            [not average_precision.is_ignored(a) for a in truth["annotations"]]
        )
        found = pairs.detection >= 0
        objects, marks = map(styles, by_file[f"{image['id']}.png"])
        assert objects == {
            outcomes.HIT: np.sum(own & counts & found),
            outcomes.LOST: np.sum(own & counts & ~found),
            outcomes.IGNORED: np.sum(own & ~counts),
            outcomes.WRONG: 0,
        }
        listed = here & pairs.counted
        assert marks == {
            outcomes.HIT: np.sum(listed & pairs.hit),
            outcomes.WRONG: np.sum(listed & (pairs.object < 0)),
            outcomes.IGNORED: np.sum(listed & pairs.ignored),
            outcomes.LOST: 0,
        }


def test_captions_name_image_split_step_threshold_counts_and_reason(made, drawn):
    draw_pictures(made, step=70, num_pictures=1, min_score=0.3)
    ((objects, marks, lines),) = drawn
    name, about = lines[0].split(" · ")
    assert name.endswith(".png")
    assert about == "folder val[:40], step 70, scores from 0.3"
    hits, wrong = styles(marks)[outcomes.HIT], styles(marks)[outcomes.WRONG]
    assert lines[1] == (
        f"hits: {hits}, false positives: {wrong}, objects not found: "
        f"{styles(objects)[outcomes.LOST]} · reason: most errors"
    )


def test_the_threshold_is_that_of_the_best_f1_unless_it_is_given(made, drawn):
    evaluator, _ = made
    _, analysis = draw_pictures(made, num_pictures=1, min_score=0.0)
    best = analysis["operating_points"]["best_f1"]["score"]
    words = f"scores from {best:.3f}, the best F1"
    assert words in drawn[0][2][0]
    config = evaluator.config.copy_and_resolve_references()
    assert detection_pictures.threshold(config, analysis) == (best, words)
    nothing = {"operating_points": {"best_f1": None}}
    assert detection_pictures.threshold(config, nothing) == (0.0, "all scores")
    config.report.min_score = 0.4
    fixed = (0.4, "scores from 0.4")
    assert detection_pictures.threshold(config, nothing) == fixed


def test_boxes_are_those_of_the_records(made, drawn):
    evaluator, _ = made
    draw_pictures(made, num_pictures=IMAGES, min_score=0.3)
    boxes = np.concatenate(
        [[mark.box for mark in call[0]] for call in drawn if call[0]]
    )
    expected = np.array([a["bbox"] for a in evaluator.truth["annotations"]])
    x, y, width, height = expected.T / 400
    expected = np.stack([y, x, y + height, x + width], axis=1)
    np.testing.assert_allclose(
        np.sort(boxes, axis=0), np.sort(expected, axis=0), atol=1e-12
    )


def test_pictures_have_a_caption_above_both_sides(made):
    pictures, _ = draw_pictures(made, num_pictures=3)
    assert len(pictures) == 3
    for picture in pictures.values():
        # Two sides of 400 pixels, enlarged twice, and gaps.
        assert picture.shape[1] == 2 * 800 + 24
        assert picture.shape[0] > 816


def test_no_pictures_are_drawn_if_none_are_wanted(made):
    assert draw_pictures(made, num_pictures=0)[0] == {}
