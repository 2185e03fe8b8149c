"""Sound tracks: an annotated video gets the sound and the times of its source.

This takes the package av, PyAV, which is optional: OpenCV reads and writes no sound.
"""

import contextlib
import heapq
import importlib.util
import pathlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from borrow_det.io import paths

if TYPE_CHECKING:
    import av

# Codecs that players expect in an MP4; others are converted to AAC.
_COPIED = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")
_AAC_RATE = 48_000  # Samples per second.
_UNIT = Fraction(1, 90_000)  # Unit of the times of frames, in seconds.


def is_available() -> bool:
    """Returns whether av is installed."""
    return importlib.util.find_spec("av") is not None


def add(
    annotated: pathlib.Path,
    source: pathlib.Path | None,
    times: Sequence[float],
    rate: float,
    part: pathlib.Path,
) -> None:
    """Rewrites a video with the frame times and the first sound track of its source.

    The frames are copied without loss. A source without sound whose frames
    have a constant rate leaves the file as it is.

    Args:
      annotated: MP4 file without sound, as `video.VideoWriter` writes it.
      source: the video that it was made of; None for one that cannot be read again.
      times: time of each frame in seconds, from the first one on.
      rate: frames per second of the annotated video, for frames without times.
      part: file to write, which then replaces the annotated one; on the same disk.

    Raises:
      Exception: of many kinds, if the sound cannot be read or written. The annotated
        video is then unchanged.
    """
    import av

    steady = np.arange(len(times)) / rate
    increasing = len(times) > 1 and bool(np.all(np.diff(times) > 0))
    exact = np.asarray(times) if increasing else steady
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(paths.plain_name(annotated))
        new = stack.enter_context(paths.plain_name(part))
        with_sound = []
        if source is not None:
            name = stack.enter_context(paths.plain_name(source))
            original = stack.enter_context(av.open(name))
            with_sound = [original] if original.streams.audio else []
        if not with_sound and np.abs(exact - steady).max(initial=0) < 0.5 / rate:
            return
        try:
            with av.open(old) as silent, av.open(new, "w", format="mp4") as out:
                video = _video_packets(silent, out, exact, rate)
                sound = [
                    _sound_packets(original, out, exact[-1] + 1 / rate)
                    for original in with_sound
                ]
                # In the order of time: a muxer waits for packets of the other track.
                for packet in heapq.merge(video, *sound, key=_seconds):
                    out.mux(packet)
            part.replace(annotated)
        finally:
            part.unlink(missing_ok=True)


def _video_packets(
    silent: "av.container.InputContainer",
    out: "av.container.OutputContainer",
    times: np.ndarray,
    rate: float,
) -> Iterator["av.Packet"]:
    """Returns the packets of the frames, with their times."""
    source = silent.streams.video[0]
    stream = out.add_stream_from_template(source)
    stream.time_base = _UNIT

    def packets() -> Iterator["av.Packet"]:
        frames = (packet for packet in silent.demux(source) if packet.size)
        ends = np.append(times[1:], times[-1] + 1 / rate)
        for packet, time, end in zip(frames, times, ends, strict=True):
            packet.stream, packet.time_base = stream, _UNIT
            packet.pts = packet.dts = round(time / _UNIT)
            packet.duration = round(end / _UNIT) - packet.pts
            yield packet

    return packets()


def _sound_packets(
    original: "av.container.InputContainer",
    out: "av.container.OutputContainer",
    seconds: float,
) -> Iterator["av.Packet"]:
    """Returns the packets of the first sound track, from the first frame on."""
    source = original.streams.audio[0]
    codec = source.codec_context.name.removesuffix("float")  # FFmpeg's own decoders.
    copied = codec in _COPIED
    layout = "mono" if source.channels == 1 else "stereo"
    stream: Any = (
        out.add_stream_from_template(source)
        if copied
        else out.add_stream("aac", rate=_AAC_RATE, layout=layout)
    )

    begin = _start_of_video(original)

    def encoded() -> Iterator["av.Packet"]:
        count = None
        for frame in original.decode(source):
            # Samples are counted, since some containers round times, and encoders fail.
            if count is None:
                count = round((frame.time or 0.0) * frame.sample_rate)
            frame.pts, frame.time_base = count, Fraction(1, frame.sample_rate)
            count += frame.samples
            yield from stream.encode(frame)
        yield from stream.encode(None)

    def packets() -> Iterator["av.Packet"]:
        for packet in original.demux(source) if copied else encoded():
            if packet.pts is None or packet.time_base is None:
                continue  # The end of the file.
            moved = round(begin / packet.time_base)
            packet.pts -= moved
            packet.dts = packet.pts
            if _seconds(packet) >= seconds:
                return
            if packet.pts >= 0:
                packet.stream = stream
                yield packet

    return packets()


def _start_of_video(container: "av.container.InputContainer") -> float:
    """Returns the time of the first frame in seconds."""
    stream = container.streams.video[0]
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _seconds(packet: "av.Packet") -> float:
    assert packet.dts is not None
    assert packet.time_base is not None
    return float(packet.dts * packet.time_base)
