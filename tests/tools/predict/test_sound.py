"""Annotated videos have the sound and the frame times of their sources."""

from fractions import Fraction

import numpy as np
import pytest

from borrow_det.inference import soundtrack, video
from tests.tools.predict.blobs import run, scene, write_video

VARIABLE = np.cumsum([0, 0.04, 0.1, 0.03, 0.2, 0.05, 0.04, 0.1])
STEADY = np.arange(8) / 10


@pytest.fixture
def av():
    return pytest.importorskip("av")


def write(av, path, times, codec, tone_from=0.0):
    """A video of 8 frames, and a second of a tone unless the codec is None."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        unit = Fraction(1, 10 if path.suffix == ".avi" else 1000)
        stream.codec_context.time_base = unit
        track = codec and out.add_stream(codec, rate=48000, layout="mono")
        for time in times:
            frame = av.VideoFrame.from_ndarray(scene(48, 64), format="rgb24")
            frame.pts, frame.time_base = round(time / unit), unit
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if codec:
            time = np.arange(48000) / 48000
            tone = 9000 * np.sin(2 * np.pi * 440 * time) * (time >= tone_from)
            frame = av.AudioFrame.from_ndarray(
                tone.astype(np.int16)[None], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = 48000, 0
            out.mux(track.encode(frame))
            out.mux(track.encode(None))


def times_of(av, path):
    with av.open(str(path)) as opened:
        return [float(frame.time) for frame in opened.decode(video=0)]


def sound_of(av, path):
    """(codec, loudness in each tenth of a second)."""
    with av.open(str(path)) as opened:
        codec = opened.streams.audio[0].codec_context.name
        sound = np.concatenate([f.to_ndarray()[0] for f in opened.decode(audio=0)])
    parts = sound[: len(sound) // 4800 * 4800].reshape(-1, 4800)
    return codec, np.abs(parts).max(axis=1)


@pytest.mark.parametrize(
    ("name", "codec", "written"),
    [
        ("clip.mp4", "aac", "aac"),
        ("clip.mkv", "pcm_s16le", "aac"),
        ("clip.avi", "mp3", "mp3float"),  # The name of the decoder.
        ("clip.avi", "mp2", "aac"),
        ("%03d.mp4", "aac", "aac"),
    ],
)
def test_the_sound_is_kept_in_time(tmp_path, detector, av, name, codec, written):
    times = STEADY if name == "clip.avi" else VARIABLE
    write(av, tmp_path / name, times, codec, tone_from=0.3)
    assert run(tmp_path / "out", "--quiet", str(tmp_path / name)) == 0
    copy = tmp_path / "out" / "pictures" / name.rpartition(".")[0]
    copy = copy.with_name(copy.name + ".mp4")
    codec, loud = sound_of(av, copy)
    assert codec == written
    # The frames end after 0.56 or 0.8 seconds, and so does the sound.
    assert len(loud) >= 5
    assert loud[:2].max() < 0.02 < 0.1 < loud[4]
    expected = times_of(av, tmp_path / name)
    np.testing.assert_allclose(times_of(av, copy), expected, atol=2e-3)
    assert list((tmp_path / "out" / "pictures").iterdir()) == [copy]


def test_a_variable_rate_is_kept_without_sound(tmp_path, detector, av):
    write(av, tmp_path / "clip.mp4", VARIABLE, None)
    assert run(tmp_path / "out", "--quiet", str(tmp_path / "clip.mp4")) == 0
    copy = tmp_path / "out" / "pictures" / "clip.mp4"
    np.testing.assert_allclose(times_of(av, copy), VARIABLE, atol=2e-3)


def test_a_sound_track_that_cannot_be_added_is_reported(
    tmp_path, detector, monkeypatch, capsys
):
    def broken(*_):
        raise ValueError("no such codec")

    monkeypatch.setattr(soundtrack, "is_available", lambda: True)
    monkeypatch.setattr(soundtrack, "add", broken)
    write_video(tmp_path / "clip.avi", [scene(48, 64)] * 3)
    assert run(tmp_path / "out", "--quiet", str(tmp_path / "clip.avi")) == 0
    copy = tmp_path / "out" / "pictures" / "clip.mp4"
    told = f"warning: {copy} is without sound: ValueError: no such codec\n"
    assert capsys.readouterr().err == told
    assert len(list(video.read_frames(copy))) == 3


def test_without_the_package_a_line_tells_that_sound_is_left_out(
    tmp_path, detector, monkeypatch, capsys
):
    monkeypatch.setattr(soundtrack, "is_available", lambda: False)
    write_video(tmp_path / "clip.avi", [scene(48, 64)] * 3)
    assert run(tmp_path / "out", "--quiet", str(tmp_path / "clip.avi")) == 0
    end = "; annotated videos without sound: 1 (pip install av keeps it)\n"
    assert capsys.readouterr().out.endswith(end)
