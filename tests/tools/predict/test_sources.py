"""Inputs of the predict tool: lists, URLs of a local server, and cameras."""

import functools
import http.server
import json
import pathlib
import signal
import threading

import cv2
import pytest

from borrow_det.errors import InputError
from borrow_det.inference import video
from borrow_det.io import web
from borrow_det.tools.predict import sources
from borrow_det.tools.predict.sources import Source
from tests.tools.predict.blobs import boxes, results, run, save, scene, write_video


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and what real servers do."""

    def do_GET(self):
        if self.path == "/live":
            return self.live()
        if self.path == "/short.png":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b"\x89PNG\r\n\x1a\n" + bytes(92))
            return None
        if self.path == "/secret" and self.headers.get("Authorization") != (
            "Basic YW5uOnBAc3M="  # ann:p@ss
        ):
            return self.send_error(401)
        return super().do_GET()

    def live(self):
        """Sends the frames of a camera until the reader has gone."""
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        picture = cv2.imencode(".jpg", scene(48, 64, green=[4, 16, 16, 16])[..., ::-1])
        content = picture[1].tobytes()
        head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}"
        try:
            while True:
                self.wfile.write(head.encode() + b"\r\n\r\n" + content + b"\r\n")
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of the folder tmp_path / "web"."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "web").mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as opened:
        opened.daemon_threads = True
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_port}"
        opened.shutdown()


# --- URLs


def test_an_image_of_a_url_gives_the_results_of_the_file(tmp_path, detector, server):
    image = scene(40, 60, red=[10, 11, 12, 13])
    save(tmp_path / "web" / "a b.png", image)
    save(tmp_path / "web" / "c.png", image)
    (tmp_path / "web" / "c.png").rename(tmp_path / "web" / "secret")
    urls = [
        f"{server}/a%20b.png?size=full",
        server.replace("//", "//ann:p%40ss@") + "/secret",
    ]
    assert run(tmp_path / "out", *urls) == 0
    assert boxes(tmp_path / "out") == [[10, 11, 12, 13]] * 2
    names = [r["file_name"] for r in results(tmp_path / "out")]
    assert names == [urls[0], f"{server}/secret"]
    pictures = sorted(path.name for path in (tmp_path / "out/pictures").iterdir())
    assert pictures == ["a b.jpg", "secret.jpg"]


def test_urls_without_a_picture_are_skipped_with_the_reason(
    tmp_path, detector, server, capsys
):
    (tmp_path / "web" / "page.html").write_text("<html></html>")
    (tmp_path / "web" / "junk.png").write_bytes(b"\x89PNG\r\n\x1a\njunk")
    (tmp_path / "web" / "junk.mp4").write_bytes(b"junk")
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    (tmp_path / "web" / "no.jpg").touch()
    names = ("none.jpg", "secret", "page.html", "short.png", "junk.png", "junk.mp4")
    urls = [f"{server}/{name}" for name in (*names, "no.jpg")]
    closed = "http://127.0.0.1:1/a.png"
    assert run(tmp_path / "out", *urls, closed, still) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"skipped: {urls[0]}: the server answers 404 File not found",
        f"skipped: {urls[1]}: the server answers 401 Unauthorized",
        f"skipped: {urls[2]} is a page, not an image or a video; open it, and copy the "
        "address of the image",
        f"skipped: {urls[3]}: the server closed the connection after 100 of 5000 "
        "bytes; try again",
        f"skipped: {urls[4]} is not an image that Pillow can read: replace it, or "
        "leave it out",
        f"skipped: {urls[5]} cannot be opened as a video; check the address, and that "
        "the camera or the server is running",
        f"skipped: {urls[6]}: the server sends an empty file",
        f"skipped: {closed} cannot be reached: Connection refused",
    ]
    assert [r["file_name"] for r in results(tmp_path / "out")] == [still]


def test_a_download_has_a_limit(tmp_path, server):
    (tmp_path / "web" / "a").write_bytes(bytes(100_000))
    with web.opened(f"{server}/a") as answer:
        answer.save(tmp_path / "b", 100_000)
    assert (tmp_path / "b").read_bytes() == bytes(100_000)
    with (
        pytest.raises(InputError, match="is larger than 0 MiB; download it"),
        web.opened(f"{server}/a") as answer,
    ):
        answer.save(tmp_path / "c", 99_999)


def test_a_video_of_a_url_gives_the_results_of_the_file(tmp_path, detector, server):
    detector.tolerance = 90
    frames = [scene(48, 64, green=[4 + 3 * i, 16, 16, 16]) for i in range(6)]
    write_video(tmp_path / "web" / "clip.avi", frames)
    assert run(tmp_path / "out", f"{server}/clip.avi") == 0
    assert run(tmp_path / "file", str(tmp_path / "web/clip.avi")) == 0
    assert boxes(tmp_path / "out") == boxes(tmp_path / "file")
    assert [r["frame"] for r in results(tmp_path / "out")] == list(range(6))


def test_ctrl_c_ends_a_stream_with_complete_results_and_the_next_input_follows(
    tmp_path, detector, server, capsys, monkeypatch
):
    detector.tolerance = 90
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    detect = detector.detect_canvases

    def detect_canvases(*arguments):
        if len(detector.shapes) == 2:
            signal.raise_signal(signal.SIGINT)
        return detect(*arguments)

    monkeypatch.setattr(detector, "detect_canvases", detect_canvases)
    before = signal.getsignal(signal.SIGINT)
    assert run(tmp_path / "out", "--batch=3", f"{server}/live", still) == 0
    assert signal.getsignal(signal.SIGINT) is before
    told = capsys.readouterr()
    assert f"{server}/live: ended by Ctrl-C; once more ends the call\n" in told.err
    # The frame that was being read when the signal came belongs to it.
    frames = [r.get("frame") for r in results(tmp_path / "out")]
    assert frames == [*range(9), None] or frames == [*range(10), None]
    listed = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image.get("frame") for image in listed] == frames
    capture = cv2.VideoCapture(str(tmp_path / "out" / "pictures" / "live.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames) - 1


def test_the_second_ctrl_c_ends_the_call(tmp_path, detector, server, monkeypatch):
    detect = detector.detect_canvases

    def detect_canvases(*arguments):
        if len(detector.shapes) == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return detect(*arguments)

    monkeypatch.setattr(detector, "detect_canvases", detect_canvases)
    assert run(tmp_path / "out", "--batch=3", f"{server}/live") == 130
    assert len(json.loads((tmp_path / "out/images.json").read_text())["images"]) == 6


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://a.b/c.png", "ftp://a.b/c.png: URLs of ftp:// are not read"),
        ("gs://a/c.png", "URLs of gs:// are not read; name the path of a file"),
        ("file:///a/c.png", "URLs of file:// are not read; name the path of a file"),
        ("https:///c.png", "names no server: write https://SERVER/PATH"),
        ("http://[a/c.png", "is not a valid URL"),
    ],
)
def test_urls_that_cannot_be_read_are_refused(tmp_path, detector, capsys, url, message):
    assert run(tmp_path / "out", url) == 2
    assert message in capsys.readouterr().err


def test_records_and_messages_have_no_password():
    source = Source("rtsp://ann:secret@camera.local:554/live/main?x=1")
    assert source.name == "rtsp://camera.local:554/live/main?x=1"
    assert source.stem == "main"
    assert Source("https://ann:secret@a.b/").stem == "a"


# --- cameras


def test_a_number_is_a_camera_and_a_path_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "0.png", scene(20, 20))
    (tmp_path / "0.png").rename(tmp_path / "0")
    found, others = sources.find(["0", "./0", "12", "0"], tmp_path / "out")
    assert found == [Source(0), Source(pathlib.Path("0")), Source(12)]
    assert [source.name for source in found] == ["camera 0", "0", "camera 12"]
    assert others == {}


@pytest.mark.skipif(
    pathlib.Path("/dev/video63").exists() or not pathlib.Path("/dev").exists(),
    reason="there is a camera 63, or this is not Linux",
)
def test_a_camera_that_is_absent_is_skipped_in_one_line(tmp_path, detector, capsys):
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", "63", still) == 1
    told = capsys.readouterr().err
    assert told.startswith("skipped: camera 63: there is no /dev/video63, ")
    assert told.endswith("; connect it, or write ./63 for a file of that name\n")
    assert told.count("\n") == 1


def test_a_camera_is_read_until_ctrl_c(tmp_path, detector, monkeypatch, capsys):
    """A stand-in for OpenCV's capture: no machine of the tests has a camera."""
    detector.tolerance = 90
    opened = []

    class Camera:
        def __init__(self, *arguments):
            opened.append(arguments)

        def read(self):
            if len(detector.shapes) == 3:
                signal.raise_signal(signal.SIGINT)
            return True, scene(48, 64, green=[4, 16, 16, 16])[..., ::-1].copy()

        def get(self, what):
            return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

        def release(self):
            opened.append("released")

    monkeypatch.setattr(video.sys, "platform", "darwin")
    monkeypatch.setattr(video.cv2, "VideoCapture", Camera)
    assert run(tmp_path / "out", "--batch=2", "7") == 0
    assert opened == [(7,), "released"]
    assert "camera 7: ended by Ctrl-C" in capsys.readouterr().err
    found = results(tmp_path / "out")
    assert [(r["file_name"], r["frame"]) for r in found] == [
        ("camera 7", frame) for frame in range(7)
    ]
    monkeypatch.undo()
    copy = tmp_path / "out" / "pictures" / "camera_7.mp4"
    assert len(list(video.read_frames(copy))) == 7


# --- lists


def test_entries_of_a_list_are_in_its_folder_or_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lists/a.png", "a.png", "b.png", "lists/deep/c.png", "d e.png"):
        save(tmp_path / name, scene(20, 20))
    (tmp_path / "lists" / "some.txt").write_text(
        f"\ufeff# chosen by hand\na.png\n\n  b.png \r\ndeep/*.png\n{tmp_path}/d e.png\n"
        "https://a.b/e.png\n3\na.png\n",
        encoding="utf-8",
    )
    found, _ = sources.find(["lists/some.txt", "b.png"], tmp_path / "out")
    assert [source.place for source in found] == [
        pathlib.Path("lists/a.png"),
        pathlib.Path("b.png"),
        pathlib.Path("lists/deep/c.png"),
        tmp_path / "d e.png",
        "https://a.b/e.png",
        3,
    ]


def test_a_file_that_is_named_in_several_ways_is_one_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lists/a.png", "b.png"):
        save(tmp_path / name, scene(20, 20))
    (tmp_path / "link").symlink_to("lists")
    (tmp_path / "lists" / "some.txt").write_text(f"../b.png\na.png\n{tmp_path}/b.png\n")
    names = ["b.png", "lists/some.txt", "link/a.png", str(tmp_path / "lists")]
    found, _ = sources.find(names, tmp_path / "out")
    assert [source.name for source in found] == ["b.png", "lists/a.png"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_lists_have_any_encoding_with_a_byte_order_mark(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = tmp_path / "some.txt"
    path.write_text(f"{mark}# chosen\r\n\u00e9.png\r\n", encoding=encoding)
    save(tmp_path / "\u00e9.png", scene(20, 20))
    found, _ = sources.find([str(path)], tmp_path / "out")
    assert [source.place for source in found] == [tmp_path / "\u00e9.png"]


def test_a_list_in_a_folder_with_brackets_has_patterns(tmp_path):
    save(tmp_path / "a [1]" / "b.png", scene(20, 20))
    path = tmp_path / "a [1]" / "some.txt"
    path.write_text("*.png\n")
    found, _ = sources.find([str(path)], tmp_path / "out")
    assert [source.place for source in found] == [tmp_path / "a [1]" / "b.png"]


def test_missing_entries_of_a_list_are_counted_and_named(tmp_path):
    save(tmp_path / "a.png", scene(20, 20))
    path = tmp_path / "some.txt"
    path.write_text("a.png\nb.png\n\nno*.png\n")
    with pytest.raises(InputError) as error:
        sources.find([str(path)], tmp_path / "out")
    message = str(error.value)
    assert message.startswith("2 problems. missing input (2): ")
    assert f"{path}: line 2: b.png; line 4: no*.png. Paths in a list" in message


def test_a_list_in_a_list_is_refused(tmp_path):
    (tmp_path / "inner.txt").write_text("a.png\n")
    path = tmp_path / "some.txt"
    path.write_text("inner.txt\n")
    with pytest.raises(InputError, match=r"list in a list \(1\): .* line 1: inner.txt"):
        sources.find([str(path)], tmp_path / "out")


def test_an_empty_list_is_refused(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("# none\n")
    with pytest.raises(InputError, match="the list names no image, video, URL"):
        sources.find([str(path)], tmp_path / "out")
