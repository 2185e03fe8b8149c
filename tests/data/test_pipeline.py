import contextlib
import dataclasses
import itertools
import logging
import multiprocessing
import threading
import weakref

import cv2
import numpy as np
import pytest

from borrow_det.data import pipeline, sources
from borrow_det.data.datasets import records
from borrow_det.data.images import decode
from borrow_det.errors import InputError


@dataclasses.dataclass(frozen=True)
class Made:
    """Records of images of one color."""

    sizes: tuple[tuple[int, int], ...]
    boxes: int = 1
    bad_boxes: int = 0

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        height, width = self.sizes[i]
        image = np.full((height, width, 3), (i, 100 + i, 200 + i), np.uint8)
        sides = np.linspace(0.1, 0.9, self.boxes, dtype=np.float32)
        record = records.make_record(
            image=cv2.imencode(".png", image[..., ::-1])[1].tobytes(),
            file_name=f"{i}.png",
            image_id=1000 + i,
            size=(height, width),
            # Sizes increase.
            boxes=np.stack([0 * sides, 0 * sides, sides, sides], axis=-1),
            labels=np.arange(self.boxes, dtype=np.int32),
            is_crowd=np.arange(self.boxes) == 1,
            is_difficult=np.arange(self.boxes) == 2,
        )
        return {**record, "bad_boxes": self.bad_boxes}


def same(record, index):
    return record


def made_split(*sizes, **fields):
    return sources.Split(
        dataset="made",
        name="train",
        class_names=("a",),
        category_ids=(1,),
        records=Made(tuple(sizes), **fields),
        convert=same,
    )


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_equal_batches(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def concatenate(batches):
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def test_every_epoch_shows_every_image_once_in_a_new_order(drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    batches = take(pipeline.train_batches(split, drawn_config), 15)
    ids = concatenate(batches)["image_id"].reshape(3, 40)
    for epoch in ids:
        assert sorted(epoch) == list(range(40))
    for a, b in itertools.combinations([*ids, np.arange(40)], 2):
        assert (a != b).any()
    assert all(b["mask"].all() for b in batches)


def test_a_batch_holds_its_records(drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    batch = next(pipeline.train_batches(split, drawn_config))
    dtypes = {name: (value.dtype.name, value.shape) for name, value in batch.items()}
    assert dtypes == {
        "image": ("uint8", (8, 64, 64, 3)),
        "image_size": ("int32", (8, 2)),
        "boxes": ("float32", (8, 10, 4)),
        "labels": ("int32", (8, 10)),
        "box_mask": ("bool", (8, 10)),
        "ignore": ("bool", (8, 10)),
        "image_id": ("int64", (8,)),
        "mask": ("bool", (8,)),
    }
    for i, image_id in enumerate(batch["image_id"]):
        record = split[int(image_id)]
        n = len(record["boxes"])
        decoded = decode.decode_image(record, "image")
        np.testing.assert_array_equal(batch["image"][i], decoded)
        np.testing.assert_array_equal(batch["boxes"][i][:n], record["boxes"])
        np.testing.assert_array_equal(batch["labels"][i][:n], record["labels"])
        np.testing.assert_array_equal(batch["box_mask"][i], np.arange(10) < n)


def test_batches_depend_on_seed_and_step_alone(drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    first = take(pipeline.train_batches(split, drawn_config), 9)
    # Resumed at a later epoch, by random access, and without threads.
    resumed = take(pipeline.train_batches(split, drawn_config, start_step=7), 2)
    dataset = pipeline.train_dataset(split, drawn_config)
    drawn_config.dataset.num_threads = 0
    unthreaded = take(pipeline.train_batches(split, drawn_config), 9)
    for step in (7, 8):
        assert_equal_batches(resumed[step - 7], first[step])
    for step in range(9):
        assert_equal_batches(unthreaded[step], first[step])
    np.testing.assert_array_equal(dataset[5]["image"], first[5]["image"])
    drawn_config.seed = 1
    other = next(pipeline.train_batches(split, drawn_config))
    assert (other["image_id"] != first[0]["image_id"]).any()


@pytest.mark.parametrize("num_workers", [2, 4])
def test_batches_do_not_depend_on_workers(drawn_config, num_workers):
    split = sources.load(drawn_config.dataset, "train")
    expected = take(pipeline.train_batches(split, drawn_config, start_step=3), 6)
    drawn_config.dataset.num_workers = num_workers
    batches = pipeline.train_batches(split, drawn_config, start_step=3)
    found = take(batches, 6)
    batches.close()
    for a, b in zip(found, expected, strict=True):
        assert_equal_batches(a, b)


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_the_same_global_batch(process_count, drawn_config):
    split = sources.load(drawn_config.dataset, "train")
    whole = take(pipeline.train_batches(split, drawn_config, 4), 3)
    shares = [
        take(pipeline.train_batches(split, drawn_config, 4, p, process_count), 3)
        for p in range(process_count)
    ]
    for step in range(3):
        rows = concatenate([share[step] for share in shares])
        assert_equal_batches(rows, whole[step])


@pytest.mark.parametrize("number", [1, 4, 5, 12])
@pytest.mark.parametrize(
    ("batch_size", "process_count"), [(1, 1), (4, 1), (6, 1), (2, 2), (4, 2), (6, 3)]
)
def test_evaluation_covers_each_image_once(
    number, batch_size, process_count, drawn_config
):
    split = sources.load(drawn_config.dataset, f"validation[:{number}]")
    drawn_config.eval_batch_size = batch_size
    shares = [
        list(pipeline.eval_batches(split, drawn_config, p, process_count))
        for p in range(process_count)
    ]
    assert {len(share) for share in shares} == {-(-number // batch_size)}
    rows = concatenate([concatenate(step) for step in zip(*shares, strict=True)])
    assert len(rows["mask"]) % batch_size == 0
    # Images are in order, followed by padding.
    np.testing.assert_array_equal(rows["mask"], np.arange(len(rows["mask"])) < number)
    np.testing.assert_array_equal(rows["image_id"][rows["mask"]], np.arange(number))
    assert set(rows) == {"image", "image_size", "image_id", "mask"}
    padding = {name: value[~rows["mask"]] for name, value in rows.items()}
    assert not padding["image"].any()
    assert (padding["image_size"] == 64).all()


def test_larger_images_are_averaged_down_and_smaller_ones_padded(drawn_config):
    drawn_config.dataset.canvas = (30, 40)
    drawn_config.eval_batch_size = 4
    split = made_split((30, 40), (60, 120), (300, 20), (8, 9))
    (batch,) = pipeline.eval_batches(split, drawn_config)
    expected = [(30, 40), (20, 40), (30, 2), (8, 9)]
    np.testing.assert_array_equal(batch["image_size"], expected)
    for i, (height, width) in enumerate(expected):
        image = batch["image"][i]
        assert (image[:height, :width] == (i, 100 + i, 200 + i)).all()
        image[:height, :width] = 0
        assert not image.any()


def test_shrinking_averages_over_areas():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    canvas, size = decode.to_canvas(image, (10, 20))
    assert size == (10, 15)
    blocks = image.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(canvas[:10, :15], blocks, atol=0.51)


def test_crowd_and_difficult_boxes_are_ignored(drawn_config):
    drawn_config.batch_size = 1
    # The image is larger than the canvas; boxes are normalized to the image.
    batch = next(pipeline.train_batches(made_split((60, 160), boxes=4), drawn_config))
    np.testing.assert_array_equal(batch["image_size"], [[24, 64]])
    np.testing.assert_array_equal(batch["ignore"][0], [False, True, True, *[False] * 7])
    sides = np.float32([0.1, 0.1 + 0.8 / 3, 0.9 - 0.8 / 3, 0.9])
    np.testing.assert_allclose(batch["boxes"][0, :4, 2:], np.stack([sides] * 2, -1))
    assert not batch["boxes"][0, 4:].any()
    assert not batch["boxes"][0, :, :2].any()


@pytest.mark.parametrize(
    ("overflow", "labels"), [("keep_first", [0, 1, 2]), ("keep_largest", [2, 3, 4])]
)
def test_boxes_beyond_max_boxes_are_cut_and_counted(
    overflow, labels, drawn_config, caplog
):
    caplog.set_level(logging.WARNING)
    drawn_config.dataset.max_boxes = 3
    drawn_config.dataset.overflow = overflow
    drawn_config.batch_size = 2
    split = made_split((8, 8), (8, 8), (8, 8), (8, 8), boxes=5)
    batches = pipeline.train_batches(split, drawn_config)
    for batch in take(batches, 2):
        np.testing.assert_array_equal(batch["labels"], [labels] * 2)
    # The check before training returns the counts of an epoch.
    assert batches.counts == {"cut_boxes": 8, "bad_boxes": 0}
    assert pipeline.check_training_data(split, drawn_config) == batches.counts
    assert "cut_boxes so far: 4" in caplog.text


def test_too_many_boxes_are_an_error_before_training(drawn_config):
    drawn_config.dataset.max_boxes = 3
    drawn_config.batch_size = 1
    whole, crowded = Made(((8, 8),) * 3, boxes=3), Made(((8, 8),) * 3, boxes=4)
    split = dataclasses.replace(
        made_split(),
        # These images do not decode; the check does not decode images.
        records=[record | {"image": b""} for record in (whole[0], whole[1])],
    )
    assert pipeline.check_training_data(split, drawn_config)["cut_boxes"] == 0
    split = dataclasses.replace(split, records=[*split.records, crowded[2]])
    message = (
        r"2\.png of made has 4 boxes, more than dataset\.max_boxes = 3: increase that "
        r"\(0 makes room for all\), or set dataset\.overflow to keep_largest or "
        r"keep_first"
    )
    with pytest.raises(InputError, match=message):
        pipeline.check_training_data(split, drawn_config)
    split = dataclasses.replace(split, records=[crowded[2]])
    with pytest.raises(InputError, match=message):
        next(pipeline.train_batches(split, drawn_config))


def test_evaluation_does_not_count_boxes(drawn_config):
    drawn_config.dataset.max_boxes = 3
    batches = pipeline.eval_batches(made_split((8, 8), boxes=9), drawn_config)
    (batch,) = batches
    assert batch["mask"].sum() == 1
    assert not batches.counts


@pytest.mark.parametrize("num_workers", [0, 1])
def test_closing_ends_threads_and_workers(num_workers, drawn_config):
    drawn_config.dataset.num_workers = num_workers
    for name, make in (
        ("train", pipeline.train_batches),
        ("validation", pipeline.eval_batches),
    ):
        split = sources.load(drawn_config.dataset, name)
        # The first workers start threads of Grain that free shared memory, and which
        # are kept.
        with contextlib.closing(make(split, drawn_config)) as batches:
            next(batches)
        before = set(threading.enumerate())
        with contextlib.closing(make(split, drawn_config)) as batches:
            next(batches)
            assert len(multiprocessing.active_children()) == num_workers
            started = set(threading.enumerate()) - before
            assert started
        assert not multiprocessing.active_children()
        for thread in started:
            thread.join(timeout=120)  # It may finish its current image.
            assert not thread.is_alive(), thread


def test_bad_boxes_are_counted(drawn_config, caplog):
    caplog.set_level(logging.WARNING)
    drawn_config.batch_size = 2
    batches = pipeline.train_batches(
        made_split((8, 8), (8, 8), bad_boxes=1), drawn_config
    )
    take(batches, 5)
    assert batches.counts["bad_boxes"] == 10
    # Logged at 2, 4 and 8, not in every step.
    logged = [r.getMessage() for r in caplog.records if "bad_boxes" in r.getMessage()]
    assert [m.rsplit(" ", 1)[1] for m in logged] == ["2", "4", "8"]


def test_errors_of_damaged_records_name_them(drawn_config):
    split = made_split((8, 8))
    record = split[0]
    for change, message in (
        ({"image": b""}, "x does not decode"),
        ({"image": b"hello"}, "x does not decode"),
        ({"height": 9}, "x decodes to 8 x 8 pixels, but its record has 8 x 9"),
    ):
        with pytest.raises(InputError, match=message):
            decode.decode_image(record | change, "x")


def test_closing_frees_the_shared_memory_of_the_last_batch(drawn_config):
    drawn_config.dataset.num_workers = 1
    split = sources.load(drawn_config.dataset, "validation")
    with contextlib.closing(pipeline.eval_batches(split, drawn_config)) as batches:
        images = [weakref.ref(batch["image"]) for batch in batches]
    assert [image() for image in images] == [None, None]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dataset.overflow", "cut", "'cut'; it must be one of "),
        ("dataset.num_threads", -1, "dataset.num_threads is negative"),
        ("dataset.num_workers", -1, "dataset.num_workers is negative"),
        ("batch_size", 7, "batch_size is 7: set it to a positive multiple of .* 2"),
        ("eval_batch_size", 7, "eval_batch_size is 7: set it to a positive multiple"),
        ("batch_size", 0, "batch_size is 0"),
    ],
)
def test_invalid_fields_are_errors(field, value, message, drawn_config):
    drawn_config.update_from_flattened_dict({field: value})
    start = (
        pipeline.eval_batches if field == "eval_batch_size" else pipeline.train_batches
    )
    with pytest.raises(InputError, match=message):
        start(made_split((8, 8)), drawn_config, process_index=0, process_count=2)
    if field.startswith("dataset."):
        with pytest.raises(InputError, match=message):
            pipeline.check_training_data(made_split((8, 8)), drawn_config)


@pytest.mark.parametrize(
    "function",
    [
        pipeline.check_split,
        pipeline.check_training_data,
        pipeline.train_batches,
        pipeline.eval_batches,
    ],
)
def test_empty_splits_are_refused(function, drawn_config):
    with pytest.raises(InputError, match="made train has no images"):
        function(made_split(), drawn_config)
