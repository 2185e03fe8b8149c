r"""Compares the input pipeline with tf.data, which makes the same batches.

  python -m benchmarks.input_pipeline --path=DIR [--split=train] [--canvas=512] \
      [--batch_size=32] [--batches=16] [--threads=1,2] [--rounds=7]

DIR is a folder of JPEG images with COCO annotation files, as for
configs/folder.py. Both pipelines read records, decode, shrink images larger than
the canvas by area averaging, pad images and boxes, and batch. tf.data reads records
sequentially in the order that ours draws at random, so it does not shuffle. The batches
are compared first: they must be equal, except for pixels of shrunk images, which may
differ by one in 255.

Each round makes --batches batches with new threads, all pipelines in turns. Prints one
JSON object. For each number of threads it has the medians of images per second, by the
clock and per processor time (of one core), and the quartiles of the ratio of ours to
tf.data by round.

Needs requirements-tf.txt, but no accelerator.
"""

import contextlib
import functools
import gc
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
from absl import flags

from borrow_det.configs import base
from borrow_det.data import pipeline, sources
from borrow_det.tools.common import cli, timing

Batch = dict[str, np.ndarray]
# Calls by pipeline ("ours" or "tf.data") and number of threads.
Calls = Mapping[tuple[str, int], Callable[[], Iterator[Batch]]]


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark and returns the exit status."""
    options = _flags()
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    config = _config(options)
    threads = sorted({int(n) for n in options.threads})
    split = sources.load(config.dataset, options.split)
    pipeline.check_training_data(split, config)
    with tempfile.TemporaryDirectory() as folder:
        records = pathlib.Path(folder) / "records.tfrecord"
        write_records(records, split, config, options.batches)
        calls: dict[tuple[str, int], Callable[[], Iterator[Batch]]] = {}
        for n in threads:
            calls["ours", n] = functools.partial(
                our_batches, split, config, n, options.batches
            )
            calls["tf.data", n] = tf_batches(records, config, n)
        differing = compare(calls["ours", threads[-1]], calls["tf.data", threads[-1]])
        seconds = measure(calls, options.rounds)
    images = options.batches * config.batch_size
    report = {
        "images": images,
        "canvas": list(config.dataset.canvas),
        "cores": os.cpu_count(),
        "tensorflow": tf.__version__,
        "pixels_that_differ_by_one": differing,
        "threads": {n: summary(seconds, n, images) for n in threads},
    }
    print(json.dumps(report, indent=1))
    return 0


def our_batches(
    split: sources.Split,
    config: ml_collections.ConfigDict,
    threads: int,
    count: int,
) -> Iterator[Batch]:
    """Yields the first `count` training batches of a run."""
    config = config.copy_and_resolve_references()
    config.dataset.num_threads = threads
    # A slice of the dataset, so that no further batch is decoded ahead.
    dataset = pipeline.train_dataset(split, config)[:count]
    batches = pipeline.Batches(dataset, config.dataset)
    with contextlib.closing(batches):
        yield from batches


def tf_batches(
    records: pathlib.Path, config: ml_collections.ConfigDict, threads: int
) -> Callable[[], Iterator[Batch]]:
    """Returns a function that makes the batches of a record file with tf.data."""
    make_row = functools.partial(
        tf_row,
        canvas=tuple(config.dataset.canvas),
        max_boxes=config.dataset.max_boxes,
    )
    options = tf.data.Options()
    options.deterministic = True
    # The same number of threads as ours in total.
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    dataset = (
        tf.data.TFRecordDataset(str(records))
        .map(make_row, num_parallel_calls=threads)
        .batch(config.batch_size, drop_remainder=True)
        .prefetch(2)
        .with_options(options)
    )
    return lambda: iter(dataset.as_numpy_iterator())


def write_records(
    path: pathlib.Path,
    split: sources.Split,
    config: ml_collections.ConfigDict,
    batches: int,
) -> None:
    """Writes the examples of the first batches, in their order, for tf.data."""

    def image_id(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {"image_id": np.array(record["image_id"], np.int64)}

    places = {split[i]["image_id"]: i for i in range(len(split))}
    order = pipeline.train_dataset(split, config, make_row=image_id)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in order[:batches]:
            for wanted in batch["image_id"].tolist():
                writer.write(_example(split[places[wanted]]))


def _example(record: Mapping[str, Any]) -> bytes:
    """Serializes a record of data/datasets/records.py as tf.train.Example."""

    def integers(values: Any) -> tf.train.Feature:
        values = np.ravel(values).astype(np.int64)
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    image = tf.train.BytesList(value=[record["image"]])
    boxes = tf.train.FloatList(value=record["boxes"].ravel())
    features = {
        "image": tf.train.Feature(bytes_list=image),
        "image_id": integers(record["image_id"]),
        "boxes": tf.train.Feature(float_list=boxes),
        "labels": integers(record["labels"]),
        "ignore": integers(record["is_crowd"] | record["is_difficult"]),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()


def tf_row(
    serialized: tf.Tensor, canvas: tuple[int, int], max_boxes: int
) -> dict[str, tf.Tensor]:
    """Makes a row of `pipeline.train_batches` from an example of `write_records`."""
    lists = {"boxes": tf.float32, "labels": tf.int64, "ignore": tf.int64}
    features = {name: tf.io.RaggedFeature(dtype) for name, dtype in lists.items()} | {
        "image": tf.io.FixedLenFeature([], tf.string),
        "image_id": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(serialized, features)
    image, size = _tf_canvas(example["image"], canvas)
    count = tf.size(example["labels"])
    padding = max_boxes - count
    return {
        "image": image,
        "image_size": size,
        "image_id": example["image_id"],
        "mask": tf.constant(True),
        "boxes": tf.pad(tf.reshape(example["boxes"], (-1, 4)), [[0, padding], [0, 0]]),
        "labels": tf.cast(tf.pad(example["labels"], [[0, padding]]), tf.int32),
        "box_mask": tf.range(max_boxes) < count,
        "ignore": tf.cast(tf.pad(example["ignore"], [[0, padding]]), tf.bool),
    }


def _tf_canvas(
    encoded: tf.Tensor, canvas: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes JPEG bytes to a canvas and the size of the image on it."""
    image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    size = tf.shape(image)[:2]
    scale = tf.reduce_min(tf.constant(canvas, tf.float64) / tf.cast(size, tf.float64))

    def shrunk() -> tf.Tensor:
        wanted = tf.cast(tf.round(tf.cast(size, tf.float64) * scale), tf.int32)
        wanted = tf.clip_by_value(wanted, 1, canvas)
        areas = tf.image.resize(image, wanted, tf.image.ResizeMethod.AREA)
        return tf.cast(tf.round(areas), tf.uint8)

    image = tf.cond(scale < 1, shrunk, lambda: image)
    size = tf.shape(image)[:2]
    padded = tf.image.pad_to_bounding_box(image, 0, 0, *canvas)
    return tf.ensure_shape(padded, (*canvas, 3)), size


def compare(
    ours: Callable[[], Iterator[Batch]], theirs: Callable[[], Iterator[Batch]]
) -> float:
    """Returns the share of pixel values that differ, by one in 255.

    Raises:
      AssertionError: pixels differ by more, or other fields differ.
    """
    differing = values = 0
    for batch, other in zip(ours(), theirs(), strict=True):
        assert batch.keys() == other.keys(), (batch.keys(), other.keys())
        for name in batch.keys() - {"image"}:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)
        image, other_image = (b["image"].astype(np.int16) for b in (batch, other))
        apart = np.abs(image - other_image)
        assert apart.max() <= 1, f"pixels are {apart.max()} apart"
        differing += int(np.count_nonzero(apart))
        values += apart.size
    return differing / values


def measure(calls: Calls, rounds: int) -> dict[str, dict[tuple[str, int], np.ndarray]]:
    """Measures seconds by the "clock" and of "processor" time, [rounds] each."""
    processor: dict[tuple[str, int], list[float]] = {name: [] for name in calls}
    # Ours collects garbage when it ends; keep TensorFlow's modules out of that.
    gc.freeze()

    def consume(name: tuple[str, int]) -> None:
        start = time.process_time()
        for _ in calls[name]():
            pass
        processor[name].append(time.process_time() - start)

    clock = timing.in_turns(
        {name: functools.partial(consume, name) for name in calls}, rounds
    )
    # The first call is not timed.
    return {
        "clock": clock,
        "processor": {name: np.array(taken[1:]) for name, taken in processor.items()},
    }


def summary(
    seconds: Mapping[str, Mapping[tuple[str, int], np.ndarray]],
    threads: int,
    images: int,
) -> dict[str, dict[str, Any]]:
    """Returns rates and ratios of both pipelines for a number of threads."""
    report: dict[str, dict[str, Any]] = {}
    for kind, taken in seconds.items():
        ours, theirs = taken["ours", threads], taken["tf.data", threads]
        report[kind] = {
            "ours": round(images / float(np.median(ours)), 1),
            "tf.data": round(images / float(np.median(theirs)), 1),
            # The ratio of rates is the inverse ratio of seconds.
            "ratio": [round(r, 3) for r in timing.ratio(theirs, ours)],
        }
    return report


def _config(options: flags.FlagValues) -> ml_collections.ConfigDict:
    config = base.get_config()
    config.batch_size = options.batch_size
    config.dataset.name = "folder"
    config.dataset.path = options.path
    config.dataset.canvas = (options.canvas, options.canvas)
    return config


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()
    text: Any = {"flag_values": values}
    flags.DEFINE_string(
        "path",
        None,
        "Folder of JPEG images with COCO annotation files.",
        required=True,
        **text,
    )
    flags.DEFINE_string("split", "train", "Split of the folder.", **text)
    flags.DEFINE_integer(
        "canvas", 512, "Side of the canvas in pixels.", lower_bound=1, **text
    )
    flags.DEFINE_integer(
        "batch_size", 32, "Number of images per batch.", lower_bound=1, **text
    )
    flags.DEFINE_integer(
        "batches", 16, "Number of batches per round.", lower_bound=1, **text
    )
    flags.DEFINE_integer(
        "rounds", 7, "Number of timings of each pipeline.", lower_bound=1, **text
    )
    threads = sorted({1, 2, os.cpu_count() or 1})
    flags.DEFINE_list(
        "threads", [str(n) for n in threads], "Numbers of decoding threads.", **text
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
