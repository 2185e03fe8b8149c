"""A real browser for tests, without a network.

Chromium is driven over a pipe by its own protocol, which needs no package:
https://chromedevtools.github.io/devtools-protocol.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(not PROGRAM, reason=f"none of {', '.join(NAMES)} is installed"),
]


class Browser:
    """One headless Chromium with one page, and a record of its events."""

    def __init__(self, profile):
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        # The protocol uses file descriptors 3 and 4, which these must not be.
        reads, writes = map(_moved, (reads, writes))
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$0" "$@" 3<&{reads} 4>&{writes}', PROGRAM),
                *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}"),
            ],
            pass_fds=(reads, writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._rest, self._last, self._session = b"", 0, None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Sends a command and returns its result; events on the way are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._receive()
            if reply.get("id") == self._last:
                assert "error" not in reply, reply
                return reply["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            self._rest += os.read(self._read, 1 << 20)
        message, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(message)
        if "method" in message:
            self.events.append(message)
        return message

    def close(self):
        """Ends the browser."""
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=120)
        os.close(self._read)
        os.close(self._write)

    def open(self, path, width, height=900, scripts=True):
        """Opens a file in a window of this size in pixels."""
        self.events.clear()
        self._page = path.as_uri()
        self.size(width, height)
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=path.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._receive()

    def size(self, width, height=900):
        """Resizes the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip

    def settle(self):
        """Waits until the page has been painted twice."""
        self.call(
            "Runtime.evaluate",
            expression="new Promise(done => requestAnimationFrame("
            "() => requestAnimationFrame(done)))",
            awaitPromise=True,
        )

    def run(self, expression):
        """Returns the value of an expression in the page."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression):
        """Waits for an expression to become true."""
        for _ in range(100):
            if self.run(expression):
                return
            time.sleep(0.05)
        pytest.fail(f"never true: {expression}")

    def press(self, key, shift=False):
        """Presses and releases a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                modifiers=8 * shift,
            )

    def mouse(self, selector, click=True):
        """Moves the pointer to the middle of an element, and clicks."""
        element = f"document.querySelector({json.dumps(selector)})"
        # A page may scroll again when rows that come into sight get their height.
        self.settle()
        self.run(f"{element}.scrollIntoView({{block: 'nearest'}})")
        self.settle()
        place = self.run(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"({element}.getBoundingClientRect())"
        )
        place = dict(zip("xy", place, strict=True))
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, button="left", clickCount=1, **place,
            )  # fmt: skip

    def choose(self, selector, value):
        """Chooses an option of a list."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            f"e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event('change')); })()"
        )

    def picture(self, path):
        """Writes a screenshot."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self):
        """Returns errors, console messages, and requests beyond the page."""
        told = []
        for event in self.events:
            method, params = event["method"], event["params"]
            if method in ("Runtime.exceptionThrown", "Log.entryAdded"):
                told.append(params)
            elif method == "Runtime.consoleAPICalled":
                told.append(params["args"])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith("data:") and url != self._page:
                    told.append(url)
        return told


def _moved(descriptor):
    """Duplicates a pipe under a number of two digits."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved
