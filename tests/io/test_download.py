"""Downloads into a folder: resumed, checked, and complete or absent."""

import concurrent.futures
import hashlib
import platform

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.io import download
from tests import file_server

CONTENT = np.random.default_rng(0).bytes(500_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PART = f"a.bin.{platform.node()}.part"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server.serve() as server:
        server.files["/a.bin"] = CONTENT
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    """Downloads to new/a.bin in a folder, and checks that nothing else is visible."""

    def fetch(checksum=SHA256[:8], file="a.bin"):
        folder = tmp_path / "new"
        found = download.fetch(f"{server.address}/{file}", folder / file, checksum)
        assert (folder / file).read_bytes() == CONTENT
        assert [p.name for p in sorted(folder.iterdir())] == [f".{file}.lock", file]
        return found

    return fetch


def test_a_file_is_downloaded_once(fetch, server, capsys):
    assert fetch() == SHA256
    assert fetch() == SHA256
    assert server.requests == [("GET", "/a.bin", None)]
    line = f"downloading {server.address}/a.bin (0.5 MB)\n"
    assert capsys.readouterr().err == line


def test_a_broken_connection_is_resumed(fetch, server):
    server.cuts["/a.bin"] = [100_000, 250_000]
    assert fetch() == SHA256
    ranges = [None, "bytes=99999-", "bytes=349998-"]
    assert server.asked("GET", "/a.bin") == ranges


def test_a_later_call_resumes(fetch, server, tmp_path):
    # The second answer has no new byte, so that the call ends.
    server.cuts["/a.bin"] = [100_000, 1]
    with pytest.raises(
        InputError, match="closed the connection after 100000 of 500000"
    ):
        fetch()
    assert not (tmp_path / "new" / "a.bin").exists()
    assert (tmp_path / "new" / PART).read_bytes() == CONTENT[:100_000]
    server.requests.clear()
    assert fetch() == SHA256
    assert server.asked("GET", "/a.bin") == ["bytes=99999-"]


def test_a_server_without_parts_sends_the_file_again(fetch, server):
    server.sends_parts = False
    server.cuts["/a.bin"] = [100_000]
    assert fetch() == SHA256
    assert server.asked("GET", "/a.bin") == [None, "bytes=99999-"]


@pytest.mark.parametrize("surplus", [b"", b"more"])
def test_a_complete_or_longer_part_is_no_obstacle(fetch, tmp_path, surplus):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / PART).write_bytes(CONTENT + surplus)
    assert fetch() == SHA256


def test_a_damaged_download_is_not_kept(fetch, server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / PART).write_bytes(b"0" * 1000)
    message = (
        f"{server.address}/a.bin: the SHA-256 .*, not {SHA256[:8]}, .*; try again$"
    )
    with pytest.raises(InputError, match=message):
        fetch()
    assert [p.name for p in (tmp_path / "new").iterdir()] == [".a.bin.lock"]
    assert fetch() == SHA256


def test_a_wrong_file_in_its_place_is_refused(fetch, server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.bin").write_bytes(b"another")
    with pytest.raises(
        InputError, match=f"a.bin is not the file of .*, not {SHA256}; "
    ):
        fetch(SHA256)
    assert server.requests == []


def test_a_server_that_refuses_or_is_absent_is_named(fetch, server):
    with pytest.raises(InputError, match=r"b\.bin: the server answers 404"):
        fetch(file="b.bin")
    server.address = "http://127.0.0.1:1"
    with pytest.raises(
        InputError, match=r"http://127\.0\.0\.1:1/a\.bin cannot be reached: "
    ):
        fetch()


def test_a_folder_that_cannot_be_made_is_named(fetch, tmp_path):
    (tmp_path / "new").write_text("a file")
    with pytest.raises(InputError, match=r"new/a\.bin: "):
        fetch()


def test_one_of_several_callers_downloads(fetch, server):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert {each.result() for each in [pool.submit(fetch) for _ in "1234"]} == {
            SHA256
        }
    assert server.asked("GET", "/a.bin") == [None]


def test_without_locks_each_caller_has_a_part(fetch, server, monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(download.fcntl, "flock", refuse)
    server.cuts["/a.bin"] = [100_000, 200_000, 300_000]
    path = tmp_path / "new" / "a.bin"

    def attempt(_):
        return download.fetch(f"{server.address}/a.bin", path, SHA256)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert set(pool.map(attempt, range(4))) == {SHA256}
    assert fetch() == SHA256


def test_a_host_leaves_the_part_of_another(server, tmp_path):
    (tmp_path / "new").mkdir()
    other = tmp_path / "new" / "a.bin.other-host.part"
    other.write_bytes(b"0" * 1000)
    path = tmp_path / "new" / "a.bin"
    assert download.fetch(f"{server.address}/a.bin", path, SHA256) == SHA256
    assert path.read_bytes() == CONTENT
    assert other.read_bytes() == b"0" * 1000
