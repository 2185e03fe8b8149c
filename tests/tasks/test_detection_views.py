"""An evaluation by tiles finds what inference by tiles finds in the same images."""

import json

import jax
import numpy as np
import PIL.Image
import pytest

from borrow_det import evaluate
from borrow_det.data import sources
from borrow_det.data.augmentation.resampling import move_boxes, resize_batch
from borrow_det.data.datasets import scale_pairs
from borrow_det.data.images.decode import decode_image
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.errors import InputError
from borrow_det.evaluation import borrowing
from borrow_det.evaluation.borrowing import ImageObjects
from borrow_det.inference.detector import Detector
from borrow_det.models.references import ReferenceImages
from borrow_det.ops.nms import NmsOutput
from borrow_det.tasks import detection_views
from borrow_det.tasks.detection import DetectionPrediction, DetectionTask
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tasks.evaluation_tiles import EvaluationTiles
from borrow_det.workdir import metadata

CATEGORY_IDS = (3, 5, 9, 11)
# (height, width) of images: of one view, of 3 x 2, 3 x 1 and 1 x 2 tiles of 64 pixels
# and the entire image; and one that the canvas shrinks, with 3 x 3 tiles.
SIZES = ((64, 64), (120, 100), (150, 60), (40, 100), (300, 220))
CANVAS = (150, 110)


def scene(index, height, width):
    """Returns a picture with discs, and their annotations."""
    side = max(height, width)
    made = scale_pairs.make_scene(3, 0, index, side)
    pixels = scale_pairs.draw(made, made.species)[:height, :width]
    annotations = []
    for disc in made.discs:
        low = np.array([disc.x - disc.radius, disc.y - disc.radius]) * side
        high = np.minimum(low + 2 * disc.radius * side, [width, height])
        if np.all(high - low > 2):
            species = CATEGORY_IDS[made.species[disc.group]]
            annotations.append((species, [*low.tolist(), *(high - low).tolist()]))
    return pixels, annotations


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of SIZES in val."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "annotations").mkdir()
    names = zip(CATEGORY_IDS, scale_pairs.SPECIES, strict=True)
    coco = {"images": [], "annotations": []}
    coco["categories"] = [{"id": i, "name": name} for i, name in names]
    for number, (height, width) in enumerate(SIZES):
        pixels, annotations = scene(number, height, width)
        name = f"val_{number}.png"
        PIL.Image.fromarray(pixels).save(folder / name)
        image = {"id": number, "file_name": name, "width": width, "height": height}
        coco["images"].append(image)
        for category, box in annotations:
            record = {"image_id": number, "category_id": category, "bbox": box}
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, **record})
    (folder / "annotations" / "val.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture
def config(tiny_run, folder):
    """The config of the run, for evaluation by tiles of `folder`."""
    config = tiny_run.config.copy_and_resolve_references()
    config.dataset.path, config.dataset.data_dir = str(folder), str(folder / "prepared")
    config.dataset.canvas = CANVAS
    config.evaluation.tiles = "auto"
    config.evaluation.tile_overlap = 0.3
    return config


def make_mesh(devices):
    return mesh_lib.make_mesh({"data": -1, "fsdp": 1}, jax.devices()[:devices])


def run_pass(config, variables, split="val", devices=1):
    """Returns the results by image id, and the metrics of the attention."""
    evaluator = DetectionEvaluator(sources.load(config.dataset, split), config)
    predictor = evaluate.Predictor(DetectionTask(config, 4), make_mesh(devices))
    found, observations = {}, []
    for image_id, one in predictor.predict(variables, evaluator.batches()):
        found[image_id] = evaluator.results(image_id, one)
        observations.append(evaluator.observe(one))
    return found, evaluator.measure(observations)


def variables_of(tiny_run):
    return Detector.load(tiny_run.workdir).variables


def boxes_of(results):
    """Returns corners [n, 4] in pixels `[x_min, y_min, x_max, y_max]`."""
    boxes = np.array([d["bbox"] for d in results]).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


@pytest.mark.parametrize(
    ("tiles", "batch", "devices", "kind"),
    [
        ("auto", 2, 1, "none"),
        ("auto", 4, 2, "none"),
        ("2x3", 2, 1, "none"),
        ("2x3", 4, 2, "none"),
        ("auto", 2, 1, "overview"),
        ("2x3", 4, 2, "overview"),
    ],
)
def test_tiles_give_the_detections_of_inference(
    tiny_run, config, tiles, batch, devices, kind
):
    config.evaluation.tiles, config.eval_batch_size = tiles, batch
    config.references.kind = kind
    variables = variables_of(tiny_run)
    found, _ = run_pass(config, variables, devices=devices)
    classes = metadata.load_classes(tiny_run.workdir)
    detector = Detector(config, classes, variables, 4)
    split = sources.load(config.dataset, "val")
    assert list(found) == list(range(len(SIZES)))
    for image_id, results in list(found.items())[:-1]:  # Those that fit the canvas.
        image = decode_image(split[image_id], "the image")
        expected = detector(image, tiles=tiles, overlap=0.3)
        count = config.nms.max_total
        assert len(results) == min(count, len(expected.scores)) > 0
        np.testing.assert_allclose(
            [d["score"] for d in results], expected.scores[:count], atol=1e-5
        )
        np.testing.assert_allclose(
            boxes_of(results), expected.boxes[:count], atol=1.5e-3
        )
        ids = [CATEGORY_IDS[label] for label in expected.labels[:count]]
        assert [d["category_id"] for d in results] == ids


def test_views_of_an_image_larger_than_the_canvas_are_those_of_the_shrunk_image(
    tiny_run, config
):
    found, _ = run_pass(config, variables_of(tiny_run))
    boxes = boxes_of(found[4])
    assert len(boxes) == config.nms.max_total
    # 300 x 220 pixels shrink to 150 x 110; boxes are those of the original.
    assert boxes.min() >= 0
    assert np.all(boxes <= [220, 300, 220, 300])
    assert boxes[:, 2].max() > 110
    rule = EvaluationTiles.of(config)
    windows, size = rule.views((300, 220))
    assert size.tolist() == [150, 110]
    assert windows.tolist() == rule.views((150, 110))[0].tolist()
    assert len(windows) == 3 * 3 + 1


def test_a_split_of_small_images_gives_what_an_evaluation_without_tiles_gives(tiny_run):
    config = tiny_run.config.copy_and_resolve_references()
    variables = variables_of(tiny_run)
    expected, measures = run_pass(config, variables)
    config.evaluation.tiles = "auto"
    found, others = run_pass(config, variables)
    assert found == expected
    np.testing.assert_equal(others, measures)


@pytest.fixture
def group_config(config):
    """All images are of one group."""
    config.references.kind, config.references.count = "group", 2
    config.references.field = "(val)_"
    return config


def expected_with_references(config, variables, tiled):
    """Predicts view by view in a loop: (results by image id, metrics)."""
    evaluator = DetectionEvaluator(sources.load(config.dataset, "val"), config)
    task = DetectionTask(config, 4)
    call = jax.jit(
        lambda pixels, images, mask: task.model.apply(
            variables, pixels, references=ReferenceImages(images, mask)
        )
    )
    rule, scale = EvaluationTiles.of(config), config.evaluation.lender_scale
    positions = borrowing.Positions(
        task.centers([0]),
        task.centers([1, 2, 3]),
        task.position_levels([1, 2, 3])[:, None] == np.arange(4),
    )
    found, observations = {}, []

    def resized(canvas, size, window=None):
        low, high = (0, 0), size
        if window is not None:
            low, high = window[:2], window[2:]
        cut = np.zeros_like(canvas)
        cut[: high[0] - low[0], : high[1] - low[1]] = canvas[
            low[0] : high[0], low[1] : high[1]
        ]
        side = np.array(high, np.int32) - np.array(low, np.int32)
        return resize_batch(cut[None], side[None], task.input_size)

    for batch in evaluator.batches():
        for row in np.flatnonzero(batch["mask"]):
            one = {name: value[row] for name, value in batch.items()}
            canvas, size = one["image"], one["image_size"]
            valid = one["box_mask"] & ~one["ignore"]
            if config.references.kind == "overview":
                images, mask = resized(canvas, size)[None], np.ones((1, 1), bool)
                lending = [x[None] for x in (one["boxes"], one["labels"], valid)]
            else:
                mask = one["reference_mask"][None]
                pairs = zip(one["reference_image"], one["reference_size"], strict=True)
                images = np.stack([resized(*pair)[0] for pair in pairs])[None]
                lending = [one[f"reference_{x}"] for x in ("boxes", "labels")]
                lending.append(one["reference_box_mask"] & ~one["reference_ignore"])
            windows = rule.views(tuple(size))[0] if tiled else [[0, 0, *size]]
            views, sums = [], []
            for window in windows:
                predictions = call(resized(canvas, size, window), images, mask)
                views.append(jax.tree.map(lambda x: x[0], task.decode(predictions)))
                share = np.float32(window) / np.float32(np.tile(size, 2))
                boxes, kept = move_boxes(one["boxes"], share, task.input_size)
                objects = ImageObjects(boxes, one["labels"], valid & kept, one["small"])
                sums.append(
                    borrowing.attention_sums(
                        predictions.matchings[0].scores[0],
                        objects,
                        positions,
                        scale,
                        borrowing.ReferenceObjects(*lending, mask[0]),
                    )
                )
            image_id = int(one["image_id"])
            stacked = jax.tree.map(lambda *x: np.stack(x), *views)
            if not tiled:
                stacked = jax.tree.map(lambda x: x[0], stacked)
            prediction = DetectionPrediction(stacked, {})
            found[image_id] = evaluator.results(image_id, prediction)
            observations.append({0: jax.tree.map(lambda *x: np.sum(x, axis=0), *sums)})
    return found, evaluator.measure(observations)


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("kind", ["overview", "group"])
@pytest.mark.parametrize("devices", [1, 2])
def test_views_borrow_from_references_as_in_a_loop(
    tiny_run, group_config, kind, tiled, devices
):
    config = group_config
    config.references.kind = kind
    if not tiled:
        config.evaluation.tiles = ""
    variables = variables_of(tiny_run)
    found, measures = run_pass(config, variables, devices=devices)
    expected, others = expected_with_references(config, variables, tiled)
    assert found.keys() == expected.keys()
    for image_id, results in found.items():
        assert len(results) == len(expected[image_id]) > 0
        np.testing.assert_allclose(
            boxes_of(results), boxes_of(expected[image_id]), atol=2e-3
        )
        scores = [[d["score"] for d in x] for x in (results, expected[image_id])]
        np.testing.assert_allclose(*scores, atol=1e-5)
    assert measures.keys() == others.keys()
    assert 0 < measures["attention/share_references"] < 1
    for name, value in measures.items():
        np.testing.assert_allclose(value, others[name], rtol=1e-4, err_msg=name)
    config.references.kind = "none"
    plain, _ = run_pass(config, variables)
    scores = [[d["score"] for d in x] for x in (found[1], plain[1])]
    # An entire image that is its own reference attends to every position twice.
    same = kind == "overview" and not tiled
    assert np.allclose(*scores, rtol=0, atol=2e-6) == same


def test_rows_have_room_for_the_views_of_every_image(config):
    config.eval_batch_size = 3
    evaluator = DetectionEvaluator(sources.load(config.dataset, "val"), config)
    first, second = evaluator.batches()
    assert first["views"].shape == second["views"].shape == (3, 10, 4)
    mask = np.concatenate([first["view_mask"], second["view_mask"]])
    assert mask.sum(axis=1).tolist() == [1, 7, 4, 3, 10, 0]  # The last is padding.
    tile = first["views"][1, 3] * np.tile([120, 100], 2)
    np.testing.assert_allclose(tile, [28, 36, 92, 100], rtol=1e-6)
    np.testing.assert_array_equal(first["views"][1, 6], [0, 0, 1, 1])
    np.testing.assert_array_equal(first["views"][1, 7:], 0)


def test_batches_of_a_split_share_one_program(tiny_run, config, monkeypatch):
    traces = []
    original = detection_views.predict_views

    def counted(*args):
        traces.append(1)
        return original(*args)

    monkeypatch.setattr(detection_views, "predict_views", counted)
    config.eval_batch_size = 2
    run_pass(config, variables_of(tiny_run))
    assert len(traces) == 1


def test_absent_views_count_nowhere():
    """A prediction that counts pixels and objects, summed by a loop over views."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (2, 40, 48, 3)).astype(np.uint8)
    size = np.array([[40, 48], [30, 20]], np.int32)
    windows = [[[0, 0, 20, 24], [20, 24, 40, 48], [0, 0, 40, 48]], [[0, 0, 30, 20]]]
    views, mask = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), bool)
    for i, listed in enumerate(windows):
        views[i, : len(listed)] = np.array(listed) / np.tile(size[i], 2)
        mask[i, : len(listed)] = True
    boxes = np.sort(generator.random((2, 5, 2, 2)), axis=2).astype(np.float32)
    boxes = boxes.reshape(2, 5, 4)
    objects = ImageObjects(
        boxes,
        np.zeros((2, 5), np.int32),
        generator.random((2, 5)) < 0.8,
        np.ones((2, 5), bool),
    )

    def predict(pixels, objects):
        count = objects.valid.sum(axis=1).astype(np.float32)
        mean = pixels.mean(axis=(1, 2, 3))
        found = NmsOutput(
            objects.boxes,
            mean[:, None] * np.ones((1, 5), np.float32),
            objects.labels,
            objects.valid | True,
            objects.labels,
        )
        return found, {0: count, 1: mean * 0 + 1}

    batch = {"image": image, "image_size": size, "views": views, "view_mask": mask}
    found, attention = jax.jit(
        lambda batch: detection_views.predict_views(predict, batch, objects, (10, 12))
    )(batch)
    counts = np.zeros(2)
    for i, listed in enumerate(windows):
        for v, (top, left, bottom, right) in enumerate(listed):
            part = image[i, top:bottom, left:right]
            # The mean survives a resize by whole factors.
            if (bottom - top) % 10 == 0 and (right - left) % 12 == 0:
                mean = part.astype(np.float32).mean()
                np.testing.assert_allclose(found.scores[i, v], mean, atol=2.0)
            moved, kept = move_boxes(boxes[i], views[i, v], (10, 12))
            np.testing.assert_array_equal(found.boxes[i, v], moved)
            counts[i] += np.sum(np.asarray(kept) & objects.valid[i])
    np.testing.assert_array_equal(attention[0], counts)
    np.testing.assert_array_equal(attention[1], [3, 1])
    np.testing.assert_array_equal(found.mask.any(axis=2), mask)


@pytest.mark.parametrize("tiles", ["2", "0x3", "x", "auto2"])
def test_wrong_tiles_are_named_when_a_run_starts(config, tiles):
    config.evaluation.tiles = tiles
    with pytest.raises(InputError, match=f"evaluation.tiles={tiles} is not ROWSxC"):
        DetectionEvaluator(sources.load(config.dataset, "val"), config)
