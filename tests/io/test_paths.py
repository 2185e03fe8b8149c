"""Which paths are taken, how a file is written whole, and what is said of buckets."""

import contextlib
import http.server
import importlib.util
import pathlib
import threading

import pytest

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tools.ablate import __main__ as ablate
from borrow_det.tools.common import cli


@pytest.fixture(autouse=True)
def forgetful():
    """Every test looks at its buckets itself."""
    paths._check_bucket.cache_clear()
    yield
    paths._check_bucket.cache_clear()


def test_a_path_on_a_disk_stays_pathlibs(tmp_path):
    (tmp_path / "train[:16]").mkdir()
    (tmp_path / "train[:16]" / "a").touch()
    path = paths.as_path(str(tmp_path / "train[:16]"))
    assert type(path) is type(tmp_path)
    # epath's would take the brackets for a pattern.
    assert [found.name for found in path.glob("*")] == ["a"]
    assert not paths.is_remote(path)


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs:/bucket/run", "http://a/b"])
def test_what_would_become_a_folder_of_that_name_is_refused(place):
    with pytest.raises(InputError, match="neither a local path nor gs://BUCKET/FOLDER"):
        paths.as_path(place)


@pytest.mark.parametrize("place", ["gs://", "gs://bucket", "gs://bucket/", "gs:///run"])
def test_a_bucket_alone_is_no_folder(place):
    with pytest.raises(InputError, match="names no folder in a bucket"):
        paths.as_path(place)


def test_what_is_not_installed_is_named(monkeypatch):
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
    """The address of a server that gives one answer to everything."""

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
        (404, "bucket gs://scenes does not exist: create it or mend the name"),
        (403, "bucket gs://scenes is not permitted: these credentials need storage."),
        (401, "bucket gs://scenes: Google credentials are missing or have expired: "),
        (400, "bucket gs://scenes cannot be reached: 400 GET http"),
        (503, "bucket gs://scenes cannot be reached: Timeout of 0.1s exceeded"),
    ],
)
def test_a_bucket_that_is_of_no_use_is_named(monkeypatch, status, message):
    pytest.importorskip("google.cloud.storage", reason="needs requirements-gcs.txt")
    monkeypatch.setattr(paths, "_SECONDS_TO_REACH", 0.1)
    with answering(status) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        with pytest.raises(InputError) as error:
            paths.as_path("gs://scenes/run")
    assert str(error.value).startswith(message)


def test_without_credentials_the_way_to_them_is_named(monkeypatch, tmp_path):
    pytest.importorskip("google.cloud.storage", reason="needs requirements-gcs.txt")
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(InputError, match="gcloud auth application-default login"):
        paths.as_path("gs://scenes/run")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
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


def test_tools_write_to_disks_only():
    with pytest.raises(InputError, match="--output=gs://b/out must be a local folder"):
        cli.output_folder("gs://b/out")
    sweep = [
        "--config=configs/quickstart.py",
        "--sweep=configs/sweeps/components.py",
        "--seeds=1",
    ]
    with pytest.raises(InputError, match="--workdir=gs://b/out must be a local folder"):
        ablate.main(["ablate", "--workdir=gs://b/out", *sweep])
