"""URLs, and downloads from web servers."""

import base64
import contextlib
import http.client
import pathlib
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from borrow_det.errors import InputError
from borrow_det.io import paths

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_WEB = ("http", "https")
# Protocols of cameras and media servers, all of which FFmpeg reads.
_STREAMS = ("rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp")
_MOST_BYTES = 2**28  # Size of a download, by default.
_SECONDS_OF_SILENCE = 20.0  # A server that sends nothing for longer is an error.
_SECONDS = 300.0  # Longest time of a download.
_START = 64  # First bytes of an answer, which show the kind of a file.
_BLOCK = 2**18
# The header Content-Range: position of the first byte, and size of the entire file.
_PART = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
# Characters with a meaning in a URL, and those that are quoted already.
_KEPT = "%/:=&?~#+!$,;'@()*[]"


def is_url(text: str) -> bool:
    """Returns whether a text begins as a URL of any protocol."""
    return _URL.match(text) is not None


def is_stream(url: str) -> bool:
    """Returns whether a URL has a protocol that transmits video only, such as rtsp."""
    return _split(url).scheme in _STREAMS


def shown(url: str) -> str:
    """Returns a URL without user name and password, for records and messages."""
    parts = _split(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def name_in(url: str) -> str:
    """Returns the name of the file that a URL leads to, or of the server."""
    parts = _split(url)
    name = urllib.parse.unquote(parts.path).rstrip("/").rpartition("/")[2]
    return name or parts.netloc.rpartition("@")[2]


def check(url: str) -> None:
    """Refuses a URL that can be neither downloaded nor opened as a stream.

    Raises:
      InputError: its protocol is another one, or it names no server.
    """
    parts = _split(url)
    if parts.scheme not in (*_WEB, *_STREAMS):
        raise InputError(
            f"{url}: URLs of {parts.scheme}:// are not read; name the path of a file "
            f"on a disk, or use one of {', '.join((*_WEB, *_STREAMS))}"
        )
    if not parts.netloc:
        raise InputError(f"{url} names no server: write {parts.scheme}://SERVER/PATH")


class RefusedError(InputError):
    """The answer of a server that sends no file; `code` is the status of HTTP."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Answer:
    """The answer of a web server.

    Attributes:
      start: the first bytes of the file, or of the part that was asked for.
      content_type: kind of the file as the server states it, such as "image/png".
      offset: position of `start` in the file; 0 from a server that sends no parts.
      size: bytes of the entire file; None if the server does not state it.
    """

    def __init__(self, url: str, response: http.client.HTTPResponse):
        """Reads the first bytes; `opened` handles errors."""
        self._url, self._response = shown(url), response
        self.start = response.read(_START)
        self.content_type = response.headers.get_content_type()
        stated = response.headers.get("Content-Length", "")
        self.offset, self.size = 0, int(stated) if stated.isdecimal() else None
        part = _PART.fullmatch(response.headers.get("Content-Range", ""))
        if part and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            self.offset = int(part[1])
            self.size = int(part[2]) if part[2].isdecimal() else None

    def blocks(self) -> Iterator[bytes]:
        """Yields the content.

        Raises:
          InputError: it ends before the end of the file.
        """
        done, block = self.offset, self.start
        while block:
            done += len(block)
            yield block
            block = self._response.read1(_BLOCK)
        if self.size is not None and done < self.size:
            raise InputError(
                f"{self._url}: the server closed the connection after {done} of "
                f"{self.size} bytes; try again"
            )

    def save(self, path: pathlib.Path, most_bytes: int = _MOST_BYTES) -> None:
        """Downloads the file.

        Raises:
          InputError: the file has more than `most_bytes`, takes longer than five
            minutes, or ends early.
        """
        deadline = time.monotonic() + _SECONDS
        done = 0
        with path.open("wb") as file:
            for block in self.blocks():
                done += len(block)
                if max(done, self.size or 0) > most_bytes:
                    raise InputError(
                        f"{self._url}: the file is larger than "
                        f"{most_bytes / 2**20:.0f} MiB; download it, and pass its path"
                    )
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{self._url}: the download takes longer than {_SECONDS:.0f} "
                        "seconds; download it, and pass its path"
                    )
                file.write(block)


@contextlib.contextmanager
def opened(url: str, offset: int = 0) -> Iterator[Answer]:
    """Requests a file by http or https.

    User name and password of the URL are sent as HTTP's basic authentication.

    Args:
      url: address of the file.
      offset: position of the first byte to ask for; a server may send the entire file
        nevertheless.

    Raises:
      RefusedError: the server sends no file.
      InputError: the server cannot be reached, or is silent for 20 seconds, also while
        its answer is read.
    """
    name = shown(url)
    try:
        # The protocol has been checked: file:// does not get here.
        with urllib.request.urlopen(
            _request(url, offset), timeout=_SECONDS_OF_SILENCE
        ) as got:
            yield Answer(url, got)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        error.close()  # It is the answer, too.
        raise RefusedError(
            f"{name}: the server answers {error.code} {error.reason}", error.code
        ) from error
    except urllib.error.URLError as error:
        reason = error.reason
        text = paths.reason(reason) if isinstance(reason, OSError) else str(reason)
        raise InputError(f"{name} cannot be reached: {text}") from error
    except (OSError, http.client.HTTPException) as error:
        text = paths.reason(error) if isinstance(error, OSError) else repr(error)
        raise InputError(f"{name} cannot be downloaded: {text}") from error


def _request(url: str, offset: int) -> urllib.request.Request:
    parts = _split(url)
    who, _, server = parts.netloc.rpartition("@")
    plain = urllib.parse.quote(parts._replace(netloc=server).geturl(), safe=_KEPT)
    headers = {"User-Agent": "borrow_det"}
    if who:
        token = base64.b64encode(urllib.parse.unquote(who).encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    if offset:
        headers["Range"] = f"bytes={offset}-"
    return urllib.request.Request(plain, headers=headers)


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url)
    except ValueError as error:
        raise InputError(f"{url} is not a valid URL: {error}") from error
