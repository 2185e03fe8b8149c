"""A local web server of files in memory, with parts of files and broken connections."""

import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator


class FileServer:
    """The files of a server, and the requests that it got.

    Attributes:
      address: its address, without a slash at the end.
      files: content by path, such as "/a/b.bin".
      headers: additional headers by path.
      errors: (status, headers) by path, in place of a file.
      cuts: by path, the bytes to send before the connection breaks, one for each
        request; later requests are answered completely.
      sends_parts: whether the header Range has an effect.
      requests: (method, path, value of Range or None).
    """

    def __init__(self):
        self.address = ""
        self.files, self.headers, self.errors, self.cuts = {}, {}, {}, {}
        self.sends_parts = True
        self.requests = []

    def asked(self, method, path):
        """The values of Range in the requests of a path."""
        return [part for *asked, part in self.requests if asked == [method, path]]

    def add_repository(self, name, commit, revision="main", **files):
        """Adds a repository of the Hugging Face hub; `files` has contents by name.

        Two underscores in a name become a dot.
        """
        files = {file.replace("__", "."): content for file, content in files.items()}
        for each in (revision, commit):
            for file, content in files.items():
                path = f"/{name}/resolve/{each}/{file}"
                self.files[path] = content
                tag = f'"{hashlib.sha256(content).hexdigest()}"'
                self.headers[path] = {"X-Repo-Commit": commit, "ETag": tag}
            listed = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in files.items()
            ]
            self.files[f"/api/models/{name}/tree/{each}"] = json.dumps(listed).encode()
            self.errors[f"/{name}/resolve/{each}/"] = (
                404,
                {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit},
            )
        self.errors.setdefault(
            f"/{name}/resolve/", (404, {"X-Error-Code": "RevisionNotFound"})
        )
        self.errors.setdefault("/", (401, {"X-Error-Code": "RepoNotFound"}))

    def answer(self, handler, method):
        """Answers a request."""
        path = handler.path.partition("?")[0]
        wanted = handler.headers.get("Range")
        self.requests.append((method, path, wanted))
        if path not in self.files:
            # The error of the longest folder.
            folders = [f for f in self.errors if path.startswith(f)]
            status, headers = self.errors[max(folders)] if folders else (404, {})
            return self._send(handler, method, status, headers, b"")
        content, headers, status = self.files[path], {}, 200
        size, start = len(content), 0
        if wanted and self.sends_parts:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= size:
                return self._send(handler, method, 416, {}, b"")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        content = content[start:]
        headers |= {"Content-Length": str(len(content)), **self.headers.get(path, {})}
        if method == "GET" and self.cuts.get(path):
            content = content[: self.cuts[path].pop(0)]
        return self._send(handler, method, status, headers, content)

    def _send(self, handler, method, status, headers, content):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if method == "GET":
            handler.wfile.write(content)


@contextlib.contextmanager
def serve() -> Iterator[FileServer]:
    """Runs a server without files."""
    server = FileServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self, "GET")

        def do_HEAD(self):
            server.answer(self, "HEAD")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as opened:
        opened.daemon_threads = True
        threading.Thread(target=opened.serve_forever, args=(0.01,), daemon=True).start()
        server.address = f"http://127.0.0.1:{opened.server_port}"
        yield server
        opened.shutdown()
