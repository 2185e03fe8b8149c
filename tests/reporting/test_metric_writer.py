"""metrics.jsonl over crashes and resumes, and TensorBoard events."""

import io
import json
import pathlib

import numpy as np
import PIL.Image
import pytest
from tensorboardX.proto import event_pb2

from borrow_det.reporting import metric_writer
from borrow_det.reporting.metric_writer import MetricWriter


def lines(workdir):
    content = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in content.splitlines()]


def events(workdir):
    """Yields every TensorBoard event; a record is length, crc, payload, crc."""
    for path in sorted(pathlib.Path(workdir).glob("events.out.tfevents*")):
        content, position = path.read_bytes(), 0
        while position < len(content):
            size = int.from_bytes(content[position : position + 8], "little")
            payload = content[position + 12 : position + 12 + size]
            yield event_pb2.Event.FromString(payload)
            position += size + 16


def test_lines_have_the_values_that_were_written(tmp_path):
    writer = MetricWriter(tmp_path / "new" / "run")
    writer.write_scalars(1, {"loss": np.float32(0.5), "count": 3})
    writer.write_scalars(
        2, {"loss": np.nan, "rate": np.inf, "low": -np.inf, "zero": np.array(0.0)}
    )
    # Before close: users follow running runs.
    assert lines(tmp_path / "new" / "run") == [
        {"step": 1, "loss": 0.5, "count": 3.0},
        {"step": 2, "loss": None, "rate": None, "low": None, "zero": 0.0},
    ]
    writer.close()


def test_a_resumed_run_replaces_the_lines_of_steps_that_it_repeats(tmp_path):
    writer = MetricWriter(tmp_path, resume_step=0)
    for step in (10, 20, 30):
        writer.write_scalars(step, {"loss": step})
    writer.close()
    writer = MetricWriter(tmp_path, resume_step=20)
    writer.write_scalars(30, {"loss": -1})
    writer.close()
    assert lines(tmp_path) == [
        {"step": 10, "loss": 10.0},
        {"step": 20, "loss": 20.0},
        {"step": 30, "loss": -1.0},
    ]
    purges = [
        event.step
        for event in events(tmp_path)
        if event.session_log.status == event_pb2.SessionLog.START
    ]
    assert purges == [1, 21]


def test_a_partial_last_line_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    writer = MetricWriter(tmp_path)
    writer.write_scalars(3, {"loss": 1.0})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 3, "loss": 1.0}]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_single_partial_line_leaves_an_empty_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1')
    MetricWriter(tmp_path).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("bad", ["not json", "[1, 2]", '{"loss": 1}', '{"step": null}'])
def test_a_line_that_is_not_a_metric_is_named(tmp_path, bad):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{bad}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 "):
        MetricWriter(tmp_path)


def test_tensorboard_events_hold_scalars_images_and_settings(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write_hparams(
        {
            "seed": 7,
            "loss": {"matching": 1.5, "on": True},
            "s": (1, 2),
            "path": "a\udcff",  # A folder's name that is not UTF-8.
        }
    )
    writer.write_scalars(4, {"loss": 0.25})
    writer.write_images(4, {"scenes": np.full((6, 5, 3), 9, np.uint8)})
    writer.close()
    # A second writer within the same second gets another file.
    second = MetricWriter(tmp_path)
    second.write_scalars(5, {"loss": 0.125})
    second.close()
    values = [(e.step, v) for e in events(tmp_path) for v in e.summary.value]
    scalars = [(step, v.simple_value) for step, v in values if v.tag == "loss"]
    # Files of one second are sorted by name: the tenth before the ninth.
    assert sorted(scalars) == [(4, 0.25), (5, 0.125)]
    (image,) = [v.image for _, v in values if v.tag == "scenes"]
    assert (image.height, image.width) == (6, 5)
    with PIL.Image.open(io.BytesIO(image.encoded_image_string)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (5, 6))
    (settings,) = [
        v.metadata.plugin_data.content
        for _, v in values
        if v.tag == "_hparams_/session_start_info"
    ]
    for name in (b"seed", b"loss.matching", b"loss.on", b"(1, 2)", rb"a\xff"):
        assert name in settings


def test_tags_group_scalars_in_tensorboard_and_leave_the_names_of_lines(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.write_scalars(1, {"loss/class": 0.5}, lambda name: f"training/{name}")
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "loss/class": 0.5}]
    tags = [v.tag for e in events(tmp_path) for v in e.summary.value]
    assert tags == ["training/loss/class"]


def test_the_pictures_of_an_evaluation_take_little_room(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 700, 3), np.uint8)  # Hard to compress.
    writer = MetricWriter(tmp_path)
    writer.write_images(1, {f"val/{i}": noise for i in range(12)})
    writer.close()
    values = [v for e in events(tmp_path) for v in e.summary.value]
    assert [v.tag for v in values] == [f"val/{i}" for i in range(6)]
    sizes = [len(v.image.encoded_image_string) for v in values]
    assert max(sizes) <= metric_writer.IMAGE_BYTES
    # The six evaluations of the quickstart stay under 4 MB.
    (file,) = tmp_path.glob("events.out.tfevents*")
    assert file.stat().st_size < 620_000
