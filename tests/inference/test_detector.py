"""A trained run that is called on images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from borrow_det.errors import InputError
from borrow_det.inference import detector
from borrow_det.inference.detector import Detector
from borrow_det.models import detector as detector_lib
from borrow_det.models import trunks
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.predict import __main__ as predict


@pytest.mark.parametrize("trunk", trunks.TRUNKS)
def test_every_trunk_has_names_for_its_levels(trunk):
    shapes = detector_lib.map_shapes(trunk, (512, 512))
    names = trunks.TRUNKS[trunk].level_names
    assert len(names) == len(set(names)) == len(shapes)


def test_levels_are_counted_from_one(tiny_config):
    levels = detector.levels_of(DetectionTask(tiny_config, 2))
    assert levels == (
        (1, "conv4_3", 8, (8, 8)),
        (2, "conv5_3", 16, (4, 4)),
        (3, "conv_fc7", 32, (2, 2)),
        (4, "conv6_2", 64, (1, 1)),
    )


@pytest.mark.parametrize("clip", ["before", "after"])
def test_levels_are_those_of_the_kept_anchors(tiny_config, clip):
    # One confident anchor a case; 4 at a position, levels of 64, 16, 4, 1 positions.
    tiny_config.nms.clip = clip
    tiny_config.nms.score = 0.5
    task = DetectionTask(tiny_config, 2)
    cases = {0: 0, 255: 0, 256: 1, 319: 1, 320: 2, 335: 2, 336: 3, 339: 3}
    logits = np.zeros((len(cases), 340, 3), np.float32)
    logits[:, :, 0] = 9
    for row, anchor in enumerate(cases):
        logits[row, anchor] = [0, 3, 9]
    offsets = np.random.default_rng(0).normal(0, 0.5, (len(cases), 340, 4))
    predictions = detector_lib.Predictions(
        jnp.asarray(logits), jnp.asarray(offsets.astype(np.float32)), {}
    )
    found = task.decode(predictions)
    assert found.mask.sum(axis=1).tolist() == [1] * len(cases)
    levels = detector.anchor_levels(task, found.anchors)
    assert levels[:, 0].tolist() == list(cases.values())


def test_a_rebuilt_run_knows_its_step(tiny_run):
    assert Detector.load(tiny_run.workdir).step == 4
    assert Detector.load(tiny_run.workdir, 2).step == 2


def test_attend_gives_the_same_detections_and_the_matching_scores(tiny_run):
    run = Detector.load(tiny_run.workdir)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    size = np.array([[64, 50]], np.int32)
    attended = run.attend(image, size)
    expected = run.detect_canvases(image, size)
    for name, values in expected.items():
        np.testing.assert_allclose(
            getattr(attended.detections, name), values, atol=1e-6, err_msg=name
        )
    variables = run.variables
    matchings = jax.jit(run.task.forward)(variables, image, size).matchings
    assert attended.P.keys() == matchings.keys() == {0}
    np.testing.assert_allclose(attended.P[0], matchings[0].scores, atol=1e-6)
    np.testing.assert_allclose(attended.P[0].sum(axis=-1), 1, rtol=1e-5)


def test_a_program_compiled_for_times_gives_the_same_detections(tiny_run):
    run = Detector.load(tiny_run.workdir)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    size = np.array([[64, 50]], np.int32)
    expected = run.detect_canvases(image, size)
    run.compile_for(1)
    for name, values in run.detect_canvases(image, size).items():
        np.testing.assert_array_equal(values, expected[name])
    # Sizes of another type take the other program.
    wide = run.detect_canvases(image, size.astype(np.int64))
    np.testing.assert_array_equal(wide["scores"], expected["scores"])
    assert len(run._programs) == 1


# --- calls


@pytest.fixture(scope="module")
def run(tiny_run):
    return Detector.load(tiny_run.workdir)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, scenes):
    """Paths: two scenes of the size of the input, and a larger picture of four."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [scenes / "val_0.jpg", scenes / "val_1.jpg", folder / "large.png"]
    parts = [np.asarray(PIL.Image.open(scenes / f"val_{i}.jpg")) for i in range(4)]
    large = np.block([[[parts[0]], [parts[1]]], [[parts[2]], [parts[3]]]])
    PIL.Image.fromarray(large[:120, :100]).save(paths[2])
    return paths


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"tiles": "auto"}, ["--tiles=auto"]),
        ({"tiles": (2, 2), "batch_size": 3}, ["--tiles=2x2", "--batch=3"]),
        (
            {"tile_size": 48, "overlap": 0.5, "whole": False},
            ["--tile_size=48", "--overlap=0.5", "--nowhole"],
        ),
    ],
)
def test_a_call_returns_what_predict_writes(
    run, tiny_run, pictures, tmp_path, options, flags
):
    arguments = [f"--workdir={tiny_run.workdir}", f"--output={tmp_path}", "--score=0.2"]
    paths = [str(path) for path in pictures]
    assert predict.main(["predict", *arguments, *flags, *paths]) == 0
    written = json.loads((tmp_path / "detections.json").read_text())
    found = run(pictures, **options)
    records = []
    for number, (path, one) in enumerate(zip(paths, found, strict=True), start=1):
        records += [{**r, "file_name": path} for r in one.to_coco(number)]
        drawn = PIL.Image.open(
            tmp_path / "pictures" / f"{path.split('/')[-1][:-4]}.jpg"
        )
        one.save(tmp_path / "mine.jpg", score=0.2)
        mine = PIL.Image.open(tmp_path / "mine.jpg")
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(mine))
    assert len(records) > 10
    assert records == written


def test_every_kind_of_image_gives_the_same_detections(run, pictures):
    array = np.asarray(PIL.Image.open(pictures[2]))
    expected = run(str(pictures[2]))
    assert expected.image_size == (120, 100)
    assert len(expected) > 3
    with PIL.Image.open(pictures[2]) as image:
        for kind in (pictures[2], array, image):
            found = run(kind)
            np.testing.assert_array_equal(found.boxes, expected.boxes)
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.image, array)


def test_boxes_are_pixels_of_the_image(run, pictures):
    array = np.asarray(PIL.Image.open(pictures[0]))
    found = run(array)
    canvases = run.detect_canvases(array[None], np.array([[64, 64]], np.int32))
    mask = canvases["mask"][0]
    y0, x0, y1, x1 = 64 * canvases["boxes"][0][mask].T
    np.testing.assert_allclose(found.boxes.T, [x0, y0, x1, y1], atol=1e-4)
    assert found.scores.tolist() == canvases["scores"][0][mask].tolist()
    assert found.scores.tolist() == sorted(found.scores, reverse=True)


@pytest.mark.parametrize("collect", [list, tuple, iter])
def test_a_collection_gives_a_list_in_its_order(run, pictures, collect):
    found = run(collect(pictures))
    assert isinstance(found, list)
    assert [one.image_size for one in found] == [(64, 64), (64, 64), (120, 100)]
    single = [run(path) for path in pictures]
    for one, alone in zip(found, single, strict=True):
        assert one.labels.tolist() == alone.labels.tolist()
        np.testing.assert_allclose(one.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-5)
    (only,) = run(collect(pictures[:1]))
    assert only.boxes.tolist() == single[0].boxes.tolist()


def test_the_score_option_keeps_the_best(run, pictures):
    found = run(pictures[0])
    least = float(found.scores[2])
    kept = run(pictures[0], score=least)
    assert kept.scores.tolist() == found.scores[found.scores >= least].tolist()


def test_one_program_is_compiled_for_each_batch_size(tiny_run, pictures, monkeypatch):
    traces = []
    forward = DetectionTask.forward

    def counted(task, variables, image, *others):
        traces.append(len(image))
        return forward(task, variables, image, *others)

    monkeypatch.setattr(DetectionTask, "forward", counted)
    run = Detector.load(tiny_run.workdir)
    run(pictures[:2])
    run(pictures)
    run(pictures, tiles=(2, 3))
    assert traces == [8]
    run(pictures, batch_size=2)
    run(pictures * 2, batch_size=2)
    assert traces == [8, 2]
    # A single image is not padded to a batch.
    for path in pictures:
        run(path)
    assert traces == [8, 2, 1]


def test_a_stream_is_read_as_its_batches_need_it(run):
    rng = np.random.default_rng(0)
    read = []

    def frames():
        for number in range(5):
            read.append(number)
            yield rng.integers(0, 256, (64, 64, 3), np.uint8)

    stream = run.stream(frames(), batch_size=2)
    assert read == []
    next(stream)
    assert read == [0, 1]
    next(stream)
    next(stream)
    assert read == [0, 1, 2, 3]
    assert len(list(stream)) == 2


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "there are no images: pass at least one"),
        (iter(()), {}, "there are no images"),
        (None, {}, "the images are of type NoneType: pass a path"),
        (b"a.png", {}, "the images are of type bytes: pass a path"),
        ("nowhere.png", {}, "nowhere.png: there is no such file"),
        (["nowhere.png"], {}, "nowhere.png: there is no such file"),
        (np.zeros((4, 4)), {}, "the image has values of type float64"),
        ([np.zeros((4, 4), np.uint8), 3], {}, "images[1] is of type int"),
        ([], {"tiles": "2"}, "tiles=2 is not ROWSxCOLUMNS or auto"),
        ([], {"tiles": (2, 0)}, "tiles=(2, 0) is not ROWSxCOLUMNS or auto"),
        ([], {"tile_size": 0}, "tile_size=0 is not N or HEIGHTxWIDTH"),
        ([], {"tile_size": 9, "tiles": "2x2"}, "give tiles or tile_size, not both"),
        ([], {"overlap": 1}, "overlap=1 is not a number from 0 to 0.9"),
        ([], {"batch_size": 0}, "batch_size=0 is not a positive integer"),
        ([], {"max_pixels": -1}, "max_pixels=-1 is not a number of pixels or 0"),
        ([], {"score": 40}, "score=40 is not a number from 0 to 1"),
    ],
)
def test_wrong_calls_give_one_sentence(run, images, options, message):
    with pytest.raises(InputError) as caught:
        run(images, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_text_form_names_step_and_classes(run):
    assert repr(run) == (
        "Detector(step 4, 64 x 64 pixels: stripes_0, stripes_45, stripes_90, "
        "stripes_135)"
    )
