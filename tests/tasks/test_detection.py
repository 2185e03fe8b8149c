"""The task from canvases to detections, with a network that knows and a trained one."""

import json

import jax
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.models import detector as detector_lib
from borrow_det.models.matching import Matching
from borrow_det.tasks import detection, detection_evaluator

CANVAS = (96, 128)
# (height, width) of the original images, and as they lie on the canvas.
ORIGINALS = ((60, 128), (192, 200), (30, 40))
ON_CANVAS = ((60, 128), (96, 100), (30, 40))
CATEGORY_IDS = (2, 7, 9)


@pytest.fixture(scope="module")
def config():
    config = base.get_config()
    config.input_size = (96, 64)
    config.dataset.canvas = CANVAS
    config.anchors.sizes = (8.0, 16.0, 32.0, 64.0)
    config.augment.enabled = False
    return config


@pytest.fixture(scope="module")
def batch():
    """Three images of several sizes; boxes of one class do not overlap."""
    boxes = np.zeros((3, 4, 4), np.float32)
    boxes[:, 0] = [0.05, 0.1, 0.9, 0.6]
    boxes[:, 1] = [0.3, 0.72, 0.45, 0.88]
    boxes[:, 2] = [0.4, 0.2, 0.55, 0.3]  # In the first box, of another class.
    boxes[:, 3] = [0.7, 0.65, 1.0, 1.0]
    labels = np.array([[0, 0, 1, 2], [1, 1, 2, 1], [2, 0, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
    return {
        "image": np.zeros((3, *CANVAS, 3), np.uint8),
        "image_size": np.array(ON_CANVAS, np.int32),
        "boxes": boxes,
        "labels": labels,
        "box_mask": mask,
        "ignore": np.zeros_like(mask),
    }


class Oracle:
    """Stands for a network that has learnt the examples perfectly."""

    def __init__(self, examples, num_classes, certainty=20.0):
        right = jax.nn.one_hot(examples.target, 1 + num_classes)
        self.predictions = detector_lib.Predictions(
            certainty * right, examples.offsets, {}
        )

    def apply(self, variables, image, train, references=None, mutable=()):
        del variables, image
        return (self.predictions, {}) if train else self.predictions


@pytest.fixture(scope="module")
def knowing_task(config, batch):
    """(task, examples, totals)."""
    config = config.copy_and_resolve_references()
    config.borrow.enabled = False
    task = detection.DetectionTask(config, len(CATEGORY_IDS))
    examples, totals = jax.jit(task.prepare)(jax.random.key(0), batch)
    task.model = Oracle(examples, len(CATEGORY_IDS))
    return task, examples, totals


def test_perfect_prediction_has_zero_loss(knowing_task):
    task, examples, totals = knowing_task
    loss, (terms, _) = jax.jit(task.loss)({}, {}, examples, totals)
    assert set(terms) == {"loss", "classification", "localization"}
    assert 0 <= loss < 1e-5


def test_perfect_prediction_has_ap_one(knowing_task, config, batch):
    task, *_ = knowing_task
    found = jax.jit(task.detect)({}, batch["image"], batch["image_size"])
    found = jax.tree.map(np.asarray, found)
    truth = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": str(i)} for i in CATEGORY_IDS],
    }
    detections = []
    for i, (height, width) in enumerate(ORIGINALS):
        truth["images"].append({"id": i, "height": height, "width": width})
        for g in np.flatnonzero(batch["box_mask"][i]):
            y, x, y_max, x_max = batch["boxes"][i, g] * [height, width, height, width]
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": i,
                    "category_id": CATEGORY_IDS[batch["labels"][i, g]],
                    "bbox": [x, y, x_max - x, y_max - y],
                    "area": (x_max - x) * (y_max - y),
                    "iscrowd": 0,
                    "difficult": 0,
                }
            )
        kept = found.mask[i]
        detections += detection_evaluator.coco_results(
            i,
            np.array([height, width]),
            found.boxes[i][kept],
            found.scores[i][kept],
            found.labels[i][kept],
            CATEGORY_IDS,
        )
    metrics = detection_evaluator.score(truth, detections, config)
    assert metrics["AP"] == metrics["AP50"] == metrics["AR_100"] == 1.0
    assert min(found.scores[found.mask]) > 0.99
    # Every box of the truth is found to a hundredth of a pixel.
    for annotation in truth["annotations"]:
        errors = [
            np.abs(np.subtract(d["bbox"], annotation["bbox"])).max()
            for d in detections
            if (d["image_id"], d["category_id"])
            == (annotation["image_id"], annotation["category_id"])
        ]
        assert min(errors) < 0.01


def test_detections_stay_in_the_image(knowing_task, batch):
    task, examples, _ = knowing_task
    far = detection.DetectionTask(task.config, len(CATEGORY_IDS))
    far.model = Oracle(examples._replace(offsets=examples.offsets * 30), 3)
    found = jax.jit(far.detect)({}, batch["image"], batch["image_size"])
    assert found.boxes.min() == 0
    assert found.boxes.max() == 1


@pytest.mark.parametrize("source", ["deeper", "deconvolved"])
def test_borrow_targets_lie_on_the_grid_of_source_positions(config, batch, source):
    config = config.copy_and_resolve_references()
    config.model.width = 1 / 64
    config.borrow.source = source
    config.borrow.levels = (0,)
    task = detection.DetectionTask(config, len(CATEGORY_IDS))
    examples, totals = jax.jit(task.prepare)(jax.random.key(0), batch)
    (targets,) = examples.borrow.values()
    grids = {"deeper": ((6, 4), (3, 2), (2, 1)), "deconvolved": ((12, 8),)}[source]
    strides = {"deeper": (16, 32, 64), "deconvolved": (8,)}[source]
    # The first image's second object may borrow from its first: same class, larger.
    expected = [
        0.05 * 96 <= (row + 0.5) * stride <= 0.9 * 96
        and 0.1 * 64 <= (column + 0.5) * stride <= 0.6 * 64
        for (rows, columns), stride in zip(grids, strides, strict=True)
        for row in range(rows)
        for column in range(columns)
    ]
    np.testing.assert_array_equal(targets.sources[0, 1], expected)
    assert any(expected)
    assert not np.any(targets.sources[0, [0, 2, 3]])
    assert int(totals["descriptors"]) == int(targets.counts.sum()) > 0

    variables = jax.eval_shape(task.init, jax.random.key(0))
    _, (terms, _) = jax.eval_shape(
        task.loss, variables["params"], variables["batch_stats"], examples, totals
    )
    assert set(terms) == {"loss", "classification", "localization", "matching"}


def test_attention_metrics_follow_the_levels_of_the_sources(config, batch):
    config = config.copy_and_resolve_references()
    config.borrow.levels = (0,)
    task = detection.DetectionTask(config, len(CATEGORY_IDS))
    examples, _ = jax.jit(task.prepare)(jax.random.key(0), batch)
    # Levels 2, 3 and 4 have 24, 6 and 2 positions. All attend to the third of level 3:
    # its second row's first, in the first object, which is the second one's source.
    P = np.zeros((3, 12 * 8, 24 + 6 + 2), np.float32)
    P[:, :, 24 + 2] = 1
    task.model = Oracle(examples, 3)
    S, K = 1000 * P, np.stack([np.eye(P.shape[2], dtype=np.float32)] * 3)
    matching = Matching(S, K, 1.0, True, P.shape[1])
    task.model.predictions = task.model.predictions._replace(matchings={0: matching})
    small = np.zeros_like(batch["box_mask"])
    small[:, 1] = True
    fields = batch | {"small": small}
    found = jax.jit(task.predict)({}, {n: fields[n] for n in task.predict_fields})
    sources = np.asarray(examples.borrow[0].sources[0, 1])
    assert sources[26]
    evaluator = detection_evaluator.DetectionEvaluator(None, config, {"images": ()})
    observed = [jax.tree.map(lambda x: np.asarray(x[0]), evaluator.observe(found))]
    metrics = evaluator.measure(observed)
    assert metrics["attention/objects"] == 1
    assert metrics["attention/precision_same"] == pytest.approx(1)
    assert metrics["attention/positions_same"] == pytest.approx(sources.mean())
    assert metrics["attention/lift_same"] == pytest.approx(1 / sources.mean(), rel=1e-5)
    assert metrics["attention/share_level3"] == pytest.approx(1)
    assert metrics["attention/share_level2"] == metrics["attention/share_level4"] == 0
    assert metrics["attention/query_dependence"] == 0

    # What is ignored is no source.
    fields["ignore"] = np.arange(4) == np.zeros((3, 1))
    found = jax.jit(task.predict)({}, {n: fields[n] for n in task.predict_fields})
    assert found.attention[0].same.objects[0] == 0
    assert found.attention[0].objects[0] == 1


def test_loaded_run_gives_the_detections_of_its_evaluation(tiny_run):
    detector = Detector.load(tiny_run.workdir)
    assert detector.category_ids == (3, 5, 9, 11)
    assert detector.class_names[1] == "stripes_45"
    assert detector.canvas == detector.input_size == (64, 64)
    split = sources.load(tiny_run.config.dataset, "val")
    found = []
    for batch in pipeline.eval_batches(split, tiny_run.config):
        out = detector.detect_canvases(batch["image"], batch["image_size"])
        for i in np.flatnonzero(batch["mask"]):
            kept = out["mask"][i]
            arrays = [out[name][i][kept] for name in ("boxes", "scores", "labels")]
            image_id = int(batch["image_id"][i])
            found += detection_evaluator.coco_results(
                image_id, np.array([64, 64]), *arrays, detector.category_ids
            )
    path = tiny_run.workdir / "evaluations/val/4.detections.json"
    written = json.loads(path.read_text())
    assert len(found) == len(written) > 7
    for a, b in zip(found, written, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=2e-3)
        np.testing.assert_allclose(a["score"], b["score"], rtol=1e-4)


def test_a_step_can_be_chosen_and_must_exist(tiny_run, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    size = np.full((2, 2), 64, np.int32)
    last, fourth, second = (
        Detector.load(tiny_run.workdir, step).detect_canvases(image, size)["scores"]
        for step in (None, 4, 2)
    )
    np.testing.assert_array_equal(last, fourth)
    assert not np.array_equal(last, second)
    with pytest.raises(InputError, match=r"steps \[2, 4\], not 3"):
        Detector.load(tiny_run.workdir, 3)
    with pytest.raises(InputError, match="is not a work directory"):
        Detector.load(tmp_path)


@pytest.mark.parametrize(
    "norm", ["none", pytest.param("batch", marks=pytest.mark.slow)]
)
def test_image_without_objects_has_finite_gradients(config, batch, norm):
    config = config.copy_and_resolve_references()
    config.model.width, config.model.stages = 1 / 64, (1, 1, 1, 1, 1)
    config.model.norm = norm
    config.model.pixel_mean = (0.0, 0.0, 0.0)  # Black is zero, and stays so.
    config.borrow.channels = 4
    task = detection.DetectionTask(config, len(CATEGORY_IDS))
    rng = np.random.default_rng(0)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            rng.normal(0, 0.3, leaf.shape).astype(np.float32)
            if path[-1].key == "kernel"
            else np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)
        ),
        jax.eval_shape(task.init, jax.random.key(0)),
    )

    @jax.jit
    def gradient(params, batch_stats):
        examples, totals = task.prepare(jax.random.key(0), batch)
        loss = jax.value_and_grad(task.loss, has_aux=True)
        return loss(params, batch_stats, examples, totals)

    # Inside of flax's BatchNorm, ranks are promoted.
    with jax.numpy_rank_promotion("allow"):
        (value, (terms, _)), found = gradient(**variables)
    assert np.isfinite(value)
    assert terms["matching"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.any(found["head1"]["class"]["bias"] != 0)


@pytest.mark.parametrize("field", ["best_anchor", "ignored", "classification", "box"])
def test_an_unknown_rule_is_refused_before_anything_is_traced(tiny_config, field):
    tiny_config.loss[field] = "best"
    with pytest.raises(InputError, match=f"loss.{field} is 'best'; it must be one of"):
        detection.DetectionTask(tiny_config, num_classes=2)


@pytest.mark.parametrize("first_stage", ["plain", "pairs"])
@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_detection_does_not_depend_on_the_platform(tiny_config, first_stage, norm):
    """Exporters such as ONNX's do not know `lax.platform_dependent`."""
    tiny_config.model.norm, tiny_config.first_stage = norm, first_stage
    task = detection.DetectionTask(tiny_config, 2)
    with jax.numpy_rank_promotion("allow"):  # flax's norm layers need it.
        variables = jax.eval_shape(task.init, jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, *tiny_config.dataset.canvas, 3), np.uint8)
        size = jax.ShapeDtypeStruct((1, 2), np.int32)
        program = jax.make_jaxpr(task.detect)(variables, image, size)
    assert "conv_general_dilated" in str(program)
    assert "platform" not in str(program)
