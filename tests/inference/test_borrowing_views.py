"""Detection with references, compared with direct calls of the network."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from borrow_det.data.augmentation import resampling
from borrow_det.data.images import decode
from borrow_det.inference import borrowing_views
from borrow_det.inference.detector import Detector
from borrow_det.models.detector import build_borrow_net
from borrow_det.models.references import ReferenceImages
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tiling import merging
from borrow_det.tiling.views import windows

# The run was trained without references; another test checks the warning.
pytestmark = pytest.mark.filterwarnings("ignore:this run was trained without")


@pytest.fixture(scope="module")
def run(tiny_run):
    return Detector.load(tiny_run.workdir)


@pytest.fixture(scope="module")
def frames(scenes):
    """Seven scenes of the size of the input and of the canvas."""
    return [np.asarray(PIL.Image.open(scenes / f"val_{i}.jpg")) for i in range(7)]


@pytest.fixture(scope="module")
def large(scenes):
    """Two pictures of four scenes each, larger than the canvas."""
    parts = [np.asarray(PIL.Image.open(scenes / f"train_{i}.jpg")) for i in range(8)]
    return [
        np.block([[[a], [b]], [[c], [d]]])[:110, :100]
        for a, b, c, d in (parts[:4], parts[4:])
    ]


@pytest.fixture(scope="module")
def direct(run):
    """A function: the network's detections in one image, borrowing from others.

    No mask, no gathering, no ready-made maps: the others alone, as pixels.
    """
    task = run.task

    def resized(images):
        padded = [decode.to_canvas(image, run.canvas) for image in images]
        canvases, sizes = zip(*padded, strict=True)
        sizes = np.array(sizes, np.int32)
        return resampling.resize_batch(np.stack(canvases), sizes, run.input_size)

    @jax.jit
    def detect(variables, image, others):
        references = None
        if others is not None:
            mask = jnp.ones(others.shape[:2], bool)
            references = ReferenceImages(others, mask)
        predictions = task.model.apply(variables, image, False, references)
        return task.decode(predictions)

    def found(image, others=()):
        others = resized(others)[None] if len(others) else None
        return borrowing_views.fetch(detect(run.variables, resized([image]), others))

    return found


def in_image(found, window):
    """Returns the detections of one view in pixels of its image."""
    mask = found["mask"][0]
    sides = np.tile(window[2:] - window[:2], 2)
    return merging.ViewDetections(
        found["boxes"][0][mask].astype(float) * sides + np.tile(window[:2], 2),
        found["scores"][0][mask],
        found["labels"][0][mask],
    )


def assert_found(found, expected):
    """Checks public detections against those of `direct`, merged in pixels."""
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    np.testing.assert_allclose(
        found.boxes[:, [1, 0, 3, 2]], expected.boxes, atol=1e-5 * 110
    )
    np.testing.assert_array_equal(found.labels, expected.labels)


def whole(image):
    return np.array((0, 0, *image.shape[:2]))


@pytest.mark.parametrize(
    ("count", "stride", "batch_size"),
    [(3, 1, 1), (3, 1, 3), (3, 1, 8), (1, 1, 3), (2, 2, 3), (9, 1, 3)],
)
def test_frames_borrow_from_the_last_ones(
    run, direct, frames, count, stride, batch_size
):
    found = run(
        frames, references=count, reference_stride=stride, batch_size=batch_size
    )
    plain = run(frames, batch_size=batch_size)
    assert len(found) == 7
    for number, (image, one) in enumerate(zip(frames, found, strict=True)):
        others = [frames[i] for i in range(0, number, stride)][-count:]
        expected = in_image(direct(image, others), whole(image))
        assert len(one) > 3
        assert_found(one, expected)
        # References matter to this network, so that the test can fail.
        if number:
            assert np.abs(one.scores - plain[number].scores).max() > 1e-4


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_first_frame_equals_detection_without_references(run, frames, batch_size):
    first = next(run.stream(frames, references=4, batch_size=batch_size))
    plain = next(run.stream(frames, batch_size=batch_size))
    np.testing.assert_array_equal(first.scores, plain.scores)
    np.testing.assert_array_equal(first.boxes, plain.boxes)
    np.testing.assert_array_equal(first.labels, plain.labels)


def test_a_cut_begins_anew(run, frames):
    bright = [frame // 3 + np.uint8(170) for frame in frames[3:6]]
    dark = [frame // 3 for frame in frames[:3]]
    options = {"references": 2, "batch_size": 4}
    found = run([*dark, *bright], reference_cuts=True, **options)
    expected = [*run(dark, **options), *run(bright, **options)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    # Without the option, the fourth frame borrows from the other shot.
    across = run([*dark, *bright], **options)
    assert np.abs(across[3].scores - expected[3].scores).max() > 1e-4


@pytest.mark.parametrize("with_whole", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_tiles_borrow_from_the_overview(run, direct, large, batch_size, with_whole):
    found = run(
        large,
        tile_size=50,
        whole=with_whole,
        references="overview",
        batch_size=batch_size,
    )
    for image, one in zip(large, found, strict=True):
        shown = windows(image.shape[:2], (50, 50), 0.2, with_whole)
        views = [
            in_image(direct(image[y0:y1, x0:x1], [image]), window)
            for window in shown
            for y0, x0, y1, x1 in [window]
        ]
        size = image.shape[:2]
        assert_found(one, merging.merge(views, shown, size, run.config.nms.iou))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_tiles_borrow_from_the_last_entire_images(run, direct, large, batch_size):
    images = [*large, large[0][::-1]]
    found = run(images, tiles=(1, 2), references=1, batch_size=batch_size)
    for number, (image, one) in enumerate(zip(images, found, strict=True)):
        size = image.shape[:2]
        shown = windows(size, (110, 56), 0.2)
        assert len(shown) == 3
        views = [
            in_image(direct(image[y0:y1, x0:x1], images[:number][-1:]), window)
            for window in shown
            for y0, x0, y1, x1 in [window]
        ]
        assert_found(one, merging.merge(views, shown, size, run.config.nms.iou))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_image_borrows_from_the_exemplars(
    run, direct, frames, large, tmp_path, batch_size
):
    exemplars = [frames[5], large[0]]
    for number, image in enumerate(exemplars):
        PIL.Image.fromarray(image).save(tmp_path / f"{number}.png")
    images = [*frames[:4], large[1]]
    found = run(images, references=tmp_path, batch_size=batch_size)
    for image, one in zip(images, found, strict=True):
        assert_found(one, in_image(direct(image, exemplars), whole(image)))
    again = run(images, references=exemplars, batch_size=batch_size)
    for one, other in zip(again, found, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_none_is_the_program_without_references(run, frames):
    before = len(run._borrowing._programs)
    expected = run(frames[:3])
    for value in (None, "none"):
        for one, other in zip(run(frames[:3], references=value), expected, strict=True):
            np.testing.assert_array_equal(one.scores, other.scores)
            np.testing.assert_array_equal(one.boxes, other.boxes)
    assert len(run._borrowing._programs) == before


def test_one_program_is_compiled_for_each_batch_size_and_number(
    tiny_run, frames, large, monkeypatch
):
    traces, maps = [], DetectionTask.maps

    def counted(task, variables, inputs):
        traces.append(len(inputs))
        return maps(task, variables, inputs)

    monkeypatch.setattr(DetectionTask, "maps", counted)
    run = Detector.load(tiny_run.workdir)
    run(frames, references=2, batch_size=3)
    assert traces == [1, 3]  # The shape of the maps, and the program.
    run(frames, references=2, batch_size=3, reference_stride=2)
    run(large, references=2, batch_size=3, tiles=(2, 2))
    list(run.stream(frames[:5], references=2, batch_size=3, reference_cuts=True))
    assert traces == [1, 3]
    for _ in range(2):
        run(large, references="overview", batch_size=3, tiles=(2, 2))
    assert traces == [1, 3, 3]
    for _ in range(2):
        run(frames, references=frames[:2], batch_size=3)
    assert traces == [1, 3, 3, 1]  # Maps of exemplars, one after the other.


def test_a_slot_of_the_full_network_has_the_stated_size(make_tiny_config):
    config = make_tiny_config()
    config.input_size = (512, 512)
    config.model.width = 1.0
    config.model.stages = (2, 2, 3, 3, 3)
    config.model.norm = "none"
    model = build_borrow_net(config, 4)
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    levels = jax.eval_shape(
        lambda v, x: model.apply(v, x, method="maps"), variables, image
    )
    values = sum(level.size for level in levels[1:])
    assert values == 32 * 32 * 512 + 16 * 16 * 1024 + 8 * 8 * 512 == 819_200
    assert levels[0].dtype == jnp.float32
    assert "819,200 values, 3.3 MB in float32" in borrowing_views.__doc__
