"""The page of tools.explain in a real browser, without a network.

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
import types

import numpy as np
import pytest

from borrow_det.tasks.detector import Level
from borrow_det.tools.explanation import Borrowed, Found, Source
from borrow_det.tools.explanation_files import Explained, Output

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    not PROGRAM, reason=f"none of {', '.join(NAMES)} is installed"
)
NASTY = '<script>document.title = "run"</script><img src=x onerror=alert(1)>'
CLASSES = ("puffin", NASTY, "starfish")


class Browser:
    """One headless Chromium with one page, and what happened in it."""

    def __init__(self, profile):
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        # The protocol's pipe is file descriptors 3 and 4, which these must not be.
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
        self._process.wait(timeout=20)
        os.close(self._read)
        os.close(self._write)

    def open(self, path, width, height=900, scripts=True):
        """Shows a file in a window of so many pixels."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=path.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._receive()

    def run(self, expression):
        """The value of an expression in the page."""
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

    def press(self, key):
        """Presses and releases a key, as a person does."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def mouse(self, selector, click=True):
        """Moves to the middle of an element, and clicks."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        place = dict(zip("xy", place, strict=True))
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, button="left", clickCount=1, **place,
            )  # fmt: skip

    def choose(self, selector, value):
        """Chooses in a list."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            f"e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event('change')); })()"
        )

    def picture(self, path):
        """Writes what is seen."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self):
        """Errors, messages of the console, and requests for anything but the page."""
        told = []
        for event in self.events:
            method, params = event["method"], event["params"]
            if method in ("Runtime.exceptionThrown", "Log.entryAdded"):
                told.append(params)
            elif method == "Runtime.consoleAPICalled":
                told.append(params["args"])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith("data:") and not url.endswith("index.html"):
                    told.append(url)
        return told


def _moved(descriptor):
    """The same pipe under a number of two digits."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Forty images of two detections that are explained and one that is not."""
    folder = tmp_path_factory.mktemp("page")
    detector = types.SimpleNamespace(
        class_names=CLASSES,
        category_ids=(1, 2, 3),
        input_size=(64, 64),
        levels=tuple(
            Level(n + 1, f"conv{n + 4}_3", 8 << n, (8 >> n,) * 2) for n in range(3)
        ),
    )
    output = Output(folder, detector, pictures=False, limit=0)
    rng = np.random.default_rng(0)
    for number in range(40):
        image = rng.integers(0, 256, (96, 128, 3), np.uint8)
        found = Found(
            np.array(
                [[0.1, 0.1, 0.3, 0.3], [0.4, 0.4, 1, 1], [0, 0.8, 0.2, 0.9],
                 [0.7, 0.05, 0.9, 0.2]], "f4"
            ),
            np.sort(rng.uniform(0.4, 1, 4).astype("f4"))[::-1],
            np.array([number % 2, 2, 2, 0], "i4"),
            np.array([0, 2, 1, 0], "i4"),
        )  # fmt: skip
        done = [Explained(0, borrowed(rng), ""), Explained(2, None, "no level")]
        done.append(Explained(3, borrowed(rng), ""))
        output.add(f"{number:03d}{NASTY}.png", image, found, done)
    output.close()
    return folder / "index.html"


def borrowed(rng):
    heat = {1: rng.uniform(size=(4, 4)), 2: rng.uniform(size=(2, 2))}
    total = sum(h.sum() for h in heat.values())
    heat = {m: h / total for m, h in heat.items()}
    sources = tuple(Source(1, (0.6, 0.2 * i), 0.2 / (i + 1), (1,)) for i in range(3))
    centers = np.array([[0.2, 0.2]], "f4")
    precision = float(rng.uniform())
    return Borrowed(0, centers, heat, sources, (1,), precision)


COUNT = "document.getElementById('count').textContent"
CHOSEN = (
    "[...document.querySelectorAll('#list button')].findIndex("
    "b => b.getAttribute('aria-current') === 'true')"
)
HEATED = "document.querySelector('#stage canvas').dataset.detection.split(':').pop()"
INK = "document.querySelector('#stage canvas').toDataURL()"
EMPTY = (
    "(() => { const c = document.querySelector('#stage canvas').cloneNode();"
    "return c.toDataURL(); })()"
)
PRESSED = "document.querySelector('#levels [aria-pressed=true]')?.textContent"


@pytest.mark.parametrize("width", [1280, 390])
def test_looking_through_the_page(browser, page, width, tmp_path_factory):
    browser.open(page, width)
    assert browser.run(COUNT) == "120 of 120 detections in 40 images"
    assert browser.run(CHOSEN) == 0
    browser.until("document.querySelector('#stage img').complete")
    assert browser.run("document.querySelector('#stage img').naturalWidth") == 128
    # Nothing sticks out to the side.
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.picture(tmp_path_factory.getbasetemp() / f"page_{width}.png")

    browser.press("ArrowDown")
    browser.press("ArrowDown")
    assert browser.run(CHOSEN) == 2
    browser.press("ArrowUp")
    assert browser.run(CHOSEN) == 1
    assert "no level" in browser.run("document.getElementById('detail').textContent")
    browser.press("End")
    assert browser.run(CHOSEN) == 119
    assert browser.run("document.querySelector('h2:not(section *)').textContent") == (
        f"039{NASTY}.png"
    )
    browser.press("Home")
    first = browser.run(PRESSED)
    browser.press("ArrowRight")
    assert browser.run(PRESSED) != first
    assert browser.run(PRESSED).startswith("level ")

    browser.mouse("#list li:nth-child(3) button")
    assert browser.run(CHOSEN) == 2
    assert browser.run(HEATED) == "3"
    before = browser.run(INK)
    assert before != browser.run(EMPTY)
    # Boxes by falling area: of detections 1, 0, 3 and 2.
    browser.mouse("#stage g:nth-of-type(2) rect:last-child", click=False)
    assert browser.run(HEATED) == "0"
    assert browser.run(CHOSEN) == 2
    assert browser.run(INK) != before
    browser.mouse("#count", click=False)
    assert browser.run(HEATED) == "3"
    browser.mouse("#heat")
    assert browser.run(INK) == browser.run(EMPTY)
    assert browser.complaints() == []


def test_filters_and_orders(browser, page):
    browser.open(page, 1280)
    browser.choose("#classes", NASTY)
    assert browser.run(COUNT) == "20 of 120 detections in 40 images"
    browser.choose("#classes", "")
    facts = "[...document.querySelectorAll('#list button')].map(b => b.textContent)"
    numbers = {
        "score": lambda text: -float(text.partition("precision")[0].split()[-1]),
        "wrong": lambda text: int(
            text.partition("precision ")[2].partition("\u00a0")[0]
        ),
    }
    for order, number in numbers.items():
        browser.choose("#order", order)
        rows = [text for text in browser.run(facts) if "precision" in text]
        assert len(rows) == 80
        values = [number(text) for text in rows]
        assert values == sorted(values)
    orders = browser.run("[...document.querySelector('#order').options].map(o=>o.text)")
    assert orders[-2:] == [
        "share of level 2, high to low",
        "share of level 3, high to low",
    ]
    browser.choose("#order", "3")
    first = browser.run("document.querySelector('#levels').textContent")
    browser.press("End")
    browser.run("document.querySelector('#order').blur()")
    assert "level 3" in first
    assert browser.complaints() == []


def test_names_do_not_run(browser, page):
    browser.open(page, 1280)
    assert browser.run("document.title") == "Where small objects borrowed from"
    assert browser.run("document.querySelectorAll('body script').length") == 41
    assert browser.run("document.querySelectorAll('[onerror]').length") == 0
    assert browser.complaints() == []


def test_without_scripts_there_is_a_list(browser, page):
    browser.open(page, 1280, scripts=False)
    assert browser.run("document.querySelectorAll('section table').length") == 40
    shown = "document.querySelector('section > img').getBoundingClientRect().width"
    assert browser.run(shown) >= 128
    browser.open(page, 1280)
    assert browser.complaints() == []
