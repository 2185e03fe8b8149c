import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import inputs, strips
from borrow_det.inference import batching
from borrow_det.tiling.views import windows

SIZE = (130, 90)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Two images as arrays, and the same opened by strips."""
    monkeypatch.setattr(strips, "STRIP_PIXELS", 100)
    arrays, opened = [], []
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
        path = tmp_path / f"{seed}.png"
        PIL.Image.fromarray(pixels).save(path)
        arrays.append(pixels)
        opened.append(inputs.open_image(path))
        assert isinstance(opened[-1], strips.StripImage)
    return arrays, opened


def run(images, tile, whole=True, batch_size=3):
    """Returns the batches that a network gets, and the images with their detections."""
    batches, compiled = [], []

    def detect(canvases, sizes):
        batches.append((canvases.copy(), sizes.copy()))
        rows = len(canvases)
        return {
            "boxes": np.tile(np.float32([[[0.25, 0.25, 0.5, 0.75]]]), (rows, 1, 1)),
            # The score tells views apart.
            "scores": canvases.mean(axis=(1, 2, 3))[:, None] / 255,
            "labels": np.zeros((rows, 1), np.int32),
            "mask": np.ones((rows, 1), bool),
        }

    found = list(
        batching.detect_images(
            batching.IndependentViews(detect, compiled.append),
            images,
            lambda size: windows(size, tile, 0.2, whole),
            canvas=(48, 64),
            iou=0.5,
            batch_size=batch_size,
        )
    )
    assert compiled == [len(canvases) for canvases, _ in batches]
    return batches, found


@pytest.mark.parametrize("tile", [(40, 40), (60, 50), SIZE])
@pytest.mark.parametrize("whole", [False, True])
def test_an_image_by_strips_gives_the_batches_of_an_array(tile, whole, images):
    arrays, opened = images
    expected, of_arrays = run(arrays, tile, whole)
    batches, of_strips = run(opened, tile, whole)
    assert len(batches) == len(expected)
    for one, other in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    for one, other in zip(of_strips, of_arrays, strict=True):
        for part, wanted in zip(one[1], other[1], strict=True):
            np.testing.assert_array_equal(part, wanted)
        np.testing.assert_array_equal(one[0].picture, other[0])


def test_views_are_the_tiles_and_then_the_entire_image(images):
    array = images[0][0]
    batches, found = run([array], (65, 90), batch_size=8)
    canvases, sizes = batches[0]
    # Three tiles of 65 of the 130 rows overlap by half; 90 columns shrink to 64.
    assert sizes[:3].tolist() == [[46, 64]] * 3
    assert sizes[3].tolist() == [48, 33]
    assert canvases[:4, :46, :33].any(axis=(1, 2, 3)).all()
    assert not canvases[4:].any()
    assert found[0][0] is array


def test_the_time_of_a_batch_is_shared_by_its_views(images, monkeypatch):
    clock = iter([1.0, 7.0, 20.0, 28.0])  # Two batches, of 6 and of 8 seconds.
    monkeypatch.setattr(batching.time, "perf_counter", lambda: next(clock))
    # Three tiles and the entire image of each: batches of six and of two views.
    _, found = run(images[0], (65, 90), batch_size=6)
    assert [image.seconds for image in found] == [4.0, 2.0 + 8.0]


def test_a_strip_is_freed_when_its_views_are_cut(images):
    opened = images[1]
    run(opened, (40, 40))
    assert all(image._held == [] and image._blocks is None for image in opened)
