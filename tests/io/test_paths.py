"""Paths that are accepted, atomic writing, and messages about buckets."""

import contextlib
import http.server
import importlib.util
import os
import pathlib
import pwd
import threading

import pytest

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tools.ablate import __main__ as ablate
from borrow_det.tools.common import cli


@pytest.fixture(autouse=True)
def forgetful():
    """Lets every test check its bucket anew."""
    paths._check_bucket.cache_clear()
    yield
    paths._check_bucket.cache_clear()


def test_a_local_path_is_a_pathlib_path(tmp_path):
    (tmp_path / "train[:16]").mkdir()
    (tmp_path / "train[:16]" / "a").touch()
    path = paths.as_path(str(tmp_path / "train[:16]"))
    assert type(path) is type(tmp_path)
    # epath would treat the brackets as a pattern.
    assert [found.name for found in path.glob("*")] == ["a"]
    assert not paths.is_remote(path)


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs:/bucket/run", "http://a/b"])
def test_other_schemes_are_refused(place):
    with pytest.raises(InputError, match="neither a local path nor gs://BUCKET/FOLDER"):
        paths.as_path(place)


@pytest.mark.parametrize("place", ["gs://", "gs://bucket", "gs://bucket/", "gs:///run"])
def test_a_bucket_without_a_folder_is_refused(place):
    with pytest.raises(InputError, match="names no folder in a bucket"):
        paths.as_path(place)


def test_a_missing_library_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m: None if m == "gcsfs" else find(m)
    )
    with pytest.raises(InputError) as error:
        paths.as_path("gs://bucket/run")
    assert "gs://bucket needs gcsfs" in str(error.value)
    assert "pip install -r requirements-gcs.txt" in str(error.value)


@contextlib.contextmanager
def answering(status):
    """Yields the address of a server that answers every request with one status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "bucket gs://scenes does not exist: create it or correct the name"),
        (403, "bucket gs://scenes: access is denied; these credentials need storage."),
        (401, "bucket gs://scenes: Google credentials are missing or have expired: "),
        (400, "bucket gs://scenes cannot be reached: 400 GET http"),
        (503, "bucket gs://scenes cannot be reached: Timeout of 0.1s exceeded"),
    ],
)
def test_a_bucket_that_cannot_be_used_is_named(monkeypatch, status, message):
    pytest.importorskip("google.cloud.storage", reason="needs requirements-gcs.txt")
    monkeypatch.setattr(paths, "_SECONDS_TO_REACH", 0.1)
    with answering(status) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        with pytest.raises(InputError) as error:
            paths.as_path("gs://scenes/run")
    assert str(error.value).startswith(message)


def test_missing_credentials_are_named_with_the_command_that_gets_them(
    monkeypatch, tmp_path
):
    pytest.importorskip("google.cloud.storage", reason="needs requirements-gcs.txt")
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(InputError, match="gcloud auth application-default login"):
        paths.as_path("gs://scenes/run")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    paths.write_whole(path, "å")
    assert path.read_bytes() == "å".encode()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        paths.write_whole(path, b"other")
    assert path.read_bytes() == "å".encode()


def test_tools_write_to_local_folders_only():
    with pytest.raises(InputError, match="--output=gs://b/out must be a local folder"):
        cli.output_folder("gs://b/out")
    sweep = [
        "--config=configs/quickstart.py",
        "--sweep=configs/sweeps/components.py",
        "--seeds=1",
    ]
    with pytest.raises(InputError, match="--workdir=gs://b/out must be a local folder"):
        ablate.main(["ablate", "--workdir=gs://b/out", *sweep])


# --- the home folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder; the current folder is another one."""
    home = tmp_path / "home"
    here = tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    return home


def test_a_tilde_is_the_home_folder(home):
    assert paths.as_path("~/run") == home / "run"
    assert paths.as_path("~") == home
    assert paths.as_path(pathlib.Path("~/run")) == home / "run"
    assert paths.local_path("~/run", "--output") == home / "run"
    assert paths.as_path("a/~/run") == pathlib.Path("a/~/run")
    user = pwd.getpwuid(0)
    assert paths.as_path(f"~{user.pw_name}/x") == pathlib.Path(user.pw_dir) / "x"


def test_an_unknown_user_is_refused_unless_a_file_has_that_name(home):
    message = "~nobody_here/run: there is no user nobody_here, .* ./~nobody_here/run"
    with pytest.raises(InputError, match=message):
        paths.as_path("~nobody_here/run")
    pathlib.Path("~draft.jpg").touch()
    assert paths.as_path("~draft.jpg") == pathlib.Path("~draft.jpg")
    assert paths.as_path("./~nobody_here") == pathlib.Path("~nobody_here")


# --- names that are not UTF-8

BYTES = os.fsdecode(b"a\xff\xe7\x8c\xab.avi")  # A byte 0xff and a Chinese letter.


def test_the_text_of_a_path_is_valid_in_every_file():
    assert paths.as_text(pathlib.Path("a") / BYTES) == "a/a\\xff猫.avi"
    assert paths.as_text("å.jpg") == "å.jpg"
    assert paths.as_text("\ud800") == "\\ud800"  # JSON can hold it, no disk.


def test_a_name_is_cut_to_the_length_that_a_disk_takes(tmp_path):
    assert paths.fitting_name("a", ".png") == "a.png"
    assert paths.fitting_name(251 * "a", ".png") == 251 * "a" + ".png"
    assert paths.fitting_name(300 * "a", "_2.png") == 249 * "a" + "_2.png"
    assert paths.fitting_name(84 * "猫", ".png") == 83 * "猫" + ".png"
    (tmp_path / paths.fitting_name(300 * BYTES, ".png")).touch()


def test_folders_for_cpp_libraries_must_be_utf8(tmp_path, monkeypatch):
    paths.check_utf8(tmp_path / "猫")
    paths.check_utf8("gs://bucket/猫")
    with pytest.raises(InputError, match=r"a\\xff猫.avi: .* not valid UTF-8"):
        paths.check_utf8(tmp_path / BYTES)
    (tmp_path / BYTES).mkdir()
    monkeypatch.chdir(tmp_path / BYTES)
    with pytest.raises(InputError, match="not valid UTF-8: rename the folder"):
        paths.check_utf8("run")


@pytest.mark.parametrize("name", ["a.avi", BYTES, "x%03d.avi", "cam:1.avi", "a.\udcff"])
def test_a_plain_name_reads_and_writes_the_file(tmp_path, name):
    path = tmp_path / name
    with paths.plain_name(path) as plain:
        pathlib.Path(plain).write_text("written")  # It makes the file.
        assert plain.isascii()
        assert pathlib.Path(plain).suffix == (".avi" if "avi" in name else "")
    assert path.read_text() == "written"
    with paths.plain_name(path) as plain:
        assert pathlib.Path(plain).read_text() == "written"
    assert not pathlib.Path(plain).parent.exists()


def test_a_plain_name_needs_a_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(paths.tempfile, "tempdir", str(tmp_path / "absent"))
    with (
        pytest.raises(InputError, match=r"a\.avi: a temporary link .* TMPDIR"),
        paths.plain_name(tmp_path / "a.avi"),
    ):
        pass


def test_text_with_surrogates_is_written_escaped(tmp_path):
    path = tmp_path / "file"
    paths.write_whole(path, "a\udcff")
    assert path.read_bytes() == rb"a\udcff"
