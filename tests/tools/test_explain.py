"""The explaining tool on a tiny run, its files, and its usage."""

import base64
import html.parser
import json
import re
import types

import numpy as np
import PIL.Image
import pytest

from borrow_det.data import images, pipeline
from borrow_det.tasks.detector import Detector, Level
from borrow_det.tools import command, explain, explanation_picture
from borrow_det.tools.explanation import Borrowed, Found, Source
from borrow_det.tools.explanation_files import Explained, Output

NASTY = '<script>alert("1")</script>&\'"</title>'


def run(workdir, output, *arguments):
    argv = ["explain", f"--workdir={workdir}", f"--output={output}", *arguments]
    return command.call(explain.main, argv)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def explanations(output):
    return json.loads((output / "explanations.json").read_text())


# --- a real run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of every kind, and two files that are none."""
    folder = tmp_path_factory.mktemp("images")
    PIL.Image.fromarray(noise(64, 64)).save(folder / "a.png")
    PIL.Image.fromarray(noise(150, 90, seed=1)).save(folder / "large.png")
    PIL.Image.fromarray(noise(20, 30, 1)).save(folder / "grey.png")
    PIL.Image.fromarray(noise(40, 30, 4)).save(folder / "rgba.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be shown turned by 90 degrees clockwise.
    PIL.Image.fromarray(noise(50, 70)).save(folder / "turned.jpg", exif=exif)
    (folder / "broken.jpg").write_bytes(b"junk")
    (folder / "clip.mp4").write_bytes(b"a video is not looked at")
    return folder


@pytest.fixture(scope="module")
def explained(tiny_run, folder, tmp_path_factory):
    """What the tool leaves of `folder`: (output, status)."""
    output = tmp_path_factory.mktemp("explained") / "out"
    arguments = ("--score=0", "--small=1e9", "--limit=1", "--sources=4")
    return output, run(tiny_run.workdir, output, *arguments, str(folder))


def test_images_of_every_kind_are_explained(explained):
    output, status = explained
    assert status == 1  # The broken one and the video.
    written = explanations(output)
    assert written["levels"][0] == {
        "number": 1, "name": "conv4_3", "stride": 8, "shape": [8, 8],
    }  # fmt: skip
    sizes = {
        image["file_name"].rpartition("/")[2]: (image["height"], image["width"])
        for image in written["images"]
    }
    assert sizes == {
        "a.png": (64, 64),
        "grey.png": (20, 30),
        "large.png": (150, 90),
        "rgba.png": (40, 30),
        "turned.jpg": (70, 50),
    }
    counts = {True: 0, False: 0}
    for image in written["images"]:
        assert [d["index"] for d in image["detections"]] == list(
            range(len(image["detections"]))
        )
        scores = [d["score"] for d in image["detections"]]
        assert scores == sorted(scores, reverse=True)
        for detection in image["detections"]:
            borrows = detection["level"] == 1
            counts[borrows] += 1
            assert (detection["borrowed"] is not None) == borrows
            assert ("does not borrow" in detection["note"]) != borrows
            if borrows:
                shares = detection["borrowed"]["shares"]
                assert list(shares) == ["2", "3", "4"]
                assert sum(shares.values()) == pytest.approx(1)
    assert min(counts.values()) > 0


def test_pictures_are_limited_by_image(explained):
    output, _ = explained
    written = explanations(output)["images"]
    named = [
        [d["picture"] for d in image["detections"] if d["borrowed"]]
        for image in written
    ]
    assert max(map(len, named)) > 1
    assert all(p is None for pictures in named for p in pictures[1:])
    drawn = [pictures[0] for pictures in named if pictures]
    assert sorted(str(p.relative_to(output)) for p in output.rglob("*.jpg")) == sorted(
        drawn
    )
    for name in drawn:
        picture = PIL.Image.open(output / name)
        assert picture.width >= 700
        assert picture.height == 660
    assert not list(output.rglob("*.part"))


def test_numbers_are_those_of_the_network(explained, tiny_run, folder):
    # Larger than the canvas: centres are pixels of the image, not of the canvas.
    output, _ = explained
    (written,) = (
        image
        for image in explanations(output)["images"]
        if image["file_name"].endswith("large.png")
    )
    detector = Detector.load(tiny_run.workdir)
    image = images.read_upright(folder / "large.png")
    canvas, size = pipeline.to_canvas(image, detector.canvas)
    attended = detector.attend(canvas[None], np.array([size], np.int32))
    found = attended.detections
    assert len(written["detections"]) == found.mask[0].sum()
    own = np.stack(
        np.meshgrid(np.arange(4, 64, 8), np.arange(4, 64, 8), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    checked = 0
    for k, detection in enumerate(written["detections"]):
        y0, x0, y1, x1 = found.boxes[0, k].astype(float)
        assert detection["bbox"] == pytest.approx(
            [x0 * 90, y0 * 150, (x1 - x0) * 90, (y1 - y0) * 150], abs=1e-3
        )
        assert detection["class"] == detector.class_names[found.labels[0, k]]
        inside = np.all((own / 64 >= [y0, x0]) & (own / 64 <= [y1, x1]), axis=1)
        if detection["level"] != 1 or not inside.any():
            continue
        checked += 1
        weights = attended.P[0][0][inside].astype(float).mean(axis=0)
        best = weights.argmax()
        top = detection["borrowed"]["sources"][0]
        assert top["weight"] == pytest.approx(weights[best], rel=1e-5)
        assert detection["borrowed"]["descriptors"] == inside.sum()
        level, first, stride, columns = next(
            v for v in ((4, 20, 64, 1), (3, 16, 32, 2), (2, 0, 16, 4)) if best >= v[1]
        )
        row, column = divmod(best - first, columns)
        assert top["level"] == level
        assert top["center"] == pytest.approx(
            [(column + 0.5) * stride / 64 * 90, (row + 0.5) * stride / 64 * 150],
            abs=1e-3,
        )
    assert checked > 0


def test_failures_notes_and_what_was_left_out_are_told(
    tiny_run, folder, tmp_path, capsys
):
    paths = [str(folder / name) for name in ("a.png", "broken.jpg", "clip.mp4")]
    arguments = ("--score=0", "--small=1e9", "--limit=2")
    assert run(tiny_run.workdir, tmp_path / "out", *arguments, *paths) == 1
    output = capsys.readouterr()
    detections = explanations(tmp_path / "out")["images"][0]["detections"]
    done = [d for d in detections if d["borrowed"]]
    others = [d for d in detections if not d["borrowed"]]
    assert output.out == (
        f"1 images, {len(detections)} detections with a score of 0.0 or more; "
        f"{len(done)} explained, {len(others)} on levels that do not borrow, 2 "
        f"pictures, {len(done) - 2} more left out by --limit=2: "
        f"{tmp_path}/out/index.html\n"
    )
    errors = output.err.splitlines()
    assert sum(line.startswith("skipped: ") for line in errors) == 2
    assert any("clip.mp4: a video; explain looks at images" in e for e in errors)
    notes = [line for line in errors if line.startswith("note: ")]
    assert len(notes) == len(others)
    assert f"detection {others[0]['index']} ({others[0]['class']} " in notes[0]
    assert f"comes from level {others[0]['level']}, conv" in notes[0]


def test_one_detection_on_a_chosen_level_of_the_runs_own_images(
    tiny_run, tmp_path, capsys
):
    common = ("--score=0", "--nopictures", "--split=val[2:3]")
    assert run(tiny_run.workdir, tmp_path / "all", *common, "--small=1e9") == 0
    (image,) = explanations(tmp_path / "all")["images"]
    assert image["file_name"] == "val_2.jpg"
    k = next(d["index"] for d in image["detections"] if d["level"] != 1)
    arguments = (*common, f"--detection={k}", "--level=1")
    assert run(tiny_run.workdir, tmp_path / "one", *arguments) == 0
    (image,) = explanations(tmp_path / "one")["images"]
    (one,) = (d for d in image["detections"] if "borrowed" in d)
    assert (one["index"], one["borrowed"]["level"]) == (k, 1)
    assert one["level"] != 1
    assert not (tmp_path / "one" / "pictures").exists()

    capsys.readouterr()
    assert run(tiny_run.workdir, tmp_path / "o", *common, "--detection=99") == 2
    told = capsys.readouterr().err
    assert "--detection=99: val_2.jpg has" in told
    assert told.count("\n") == 1


# --- usage


def stand_in(**borrow):
    config = types.SimpleNamespace(
        borrow=types.SimpleNamespace(**{"enabled": True, "levels": (0, 2)} | borrow)
    )
    return types.SimpleNamespace(config=config)


@pytest.mark.parametrize(
    ("borrow", "arguments", "message"),
    [
        ({}, [], "name images or folders, or a --split"),
        ({}, ["IMAGE", "--split=val"], "name images or folders, or a --split"),
        ({"enabled": False}, ["IMAGE"], "this run does not borrow"),
        ({"levels": ()}, ["IMAGE"], "this run does not borrow"),
        ({}, ["IMAGE", "--level=2"], "--level=2 does not borrow; of this run, these "
         "do: 1, 3"),
        ({}, ["IMAGE", "IMAGE2", "--detection=0"], "name one image"),
        ({}, ["nowhere.png"], "nowhere.png: there is no such file or folder"),
        ({}, ["--sources=0", "IMAGE"], "not a positive integer"),
    ],
)  # fmt: skip
def test_usage_errors_are_one_line(
    tmp_path, monkeypatch, capsys, borrow, arguments, message
):
    monkeypatch.setattr(
        Detector, "load", staticmethod(lambda workdir, step: stand_in(**borrow))
    )
    for name in ("IMAGE", "IMAGE2"):
        PIL.Image.fromarray(noise(9, 9)).save(tmp_path / f"{name}.png")
    arguments = [
        str(tmp_path / f"{a}.png") if a.startswith("IMAGE") else a for a in arguments
    ]
    assert run("W", tmp_path / "out", *arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert not (tmp_path / "out").exists()


# --- the page


HEAT = {
    1: np.array([[0.5, 0.0], [0.125, 0.125]]),
    2: np.array([[0.25]]),
}


def write_page(folder):
    """A page of one hand-made image, whose names are as bad as can be."""
    detector = types.SimpleNamespace(
        class_names=("puffin", NASTY),
        category_ids=(4, 9),
        input_size=(32, 32),
        levels=(
            Level(1, "conv4_3", 8, (4, 4)),
            Level(2, "conv5_3", 16, (2, 2)),
            Level(3, "conv_fc7", 32, (1, 1)),
        ),
    )
    found = Found(
        np.array([[0.1, 0.1, 0.3, 0.3], [0.4, 0.4, 1, 1], [0, 0.8, 0.1, 0.9]], "f4"),
        np.array([0.9, 0.8, 0.7], "f4"),
        np.array([1, 1, 0], "i4"),
        np.array([0, 2, 1], "i4"),
    )
    strongest = Source(1, (0.25, 0.25), 0.5, (1,))
    centers = np.array([[0.125, 0.125]], "f4")
    borrowed = Borrowed(0, centers, HEAT, (strongest,), (1,), 0.125)
    output = Output(folder, detector, pictures=False, limit=0)
    done = [Explained(0, borrowed, ""), Explained(2, None, NASTY)]
    output.add(f"{NASTY}.png", noise(100, 80), found, done)
    output.close()
    return (folder / "index.html").read_text()


class Elements(html.parser.HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_names_of_files_and_classes_stay_text(tmp_path):
    page = write_page(tmp_path)
    assert "<script>alert" not in page
    scripts = [attrs for tag, attrs in Elements(page).tags if tag == "script"]
    assert scripts == [{"type": "application/json"}, {}]
    alts = [a["alt"] for t, a in Elements(page).tags if t == "img"]
    assert alts == [f"{NASTY}.png: 3 detections", NASTY, "puffin"]


def test_the_page_needs_no_other_file_and_no_network(tmp_path):
    page = write_page(tmp_path)
    tags = Elements(page).tags
    assert not {"link", "iframe", "object", "embed", "base"} & {t for t, _ in tags}
    for tag, attrs in tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            if attrs.get(name) is not None:
                assert tag == "img"
                assert attrs[name].startswith("data:image/")
    # SVG's namespace is a name and no address.
    addresses = set(re.findall(r"[a-z]+://[^\s\"']+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", page)
    policy = next(a["content"] for t, a in tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_carries_the_heat(tmp_path):
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", write_page(tmp_path), re.S)
    data, script = scripts
    detection = json.loads(data)["detections"][0]
    borrowed = detection["borrowed"]
    # Five positions: an even spread times five is the whole.
    assert borrowed["scale"] == 1.0
    for level, heat in HEAT.items():
        packed = borrowed["heat"][str(level + 1)]
        values = np.frombuffer(base64.b64decode(packed["values"]), np.uint8)
        assert packed["shape"] == list(heat.shape)
        assert packed["cell"] == [(16, 32)[level - 1] / 32] * 2
        np.testing.assert_allclose(
            values.reshape(heat.shape) / 255, heat, atol=0.5 / 255
        )
    assert borrowed["shares"] == {"2": 0.75, "3": 0.25}
    assert borrowed["sources"][0] == {
        "level": 2, "center": [20.0, 25.0], "weight": 0.5, "detections": [1],
    }  # fmt: skip
    assert '"conv_fc7"' in script


def test_without_a_script_the_page_is_a_list(tmp_path):
    page = write_page(tmp_path)
    rows = re.findall(r"<tr><td>.*</tr>", page)
    assert len(rows) == 2
    assert "<td>0.900</td><td>level 2: 75 %, level 3: 25 %</td><td>12 %</td>" in rows[0]
    assert "<td>50.0 %, level 2 at (20, 25)</td>" in rows[0]
    assert "<td>puffin</td><td>0.700</td><td>&lt;script&gt;" in rows[1]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"), (0.004, "< 1 %"), (0.01, "1 %"), (0.126, "13 %"),
        (0.99, "99 %"), (0.996, "> 99 %"), (1.0, "100 %"), (1 - 1e-9, "100 %"),
    ],
)  # fmt: skip
def test_shares_in_words(share, text):
    assert explanation_picture.percent(share) == text


# --- the picture


def test_the_hottest_cell_is_where_the_attention_is(make_tiny_config):
    # 2 x 2 cells of level 3 of 64 pixels, in an image of 200 x 100.
    found = Found(
        np.array([[0.1, 0.1, 0.2, 0.2]], "f4"),
        np.ones(1, "f4"),
        np.zeros(1, "i4"),
        np.zeros(1, "i4"),
    )
    heat = {2: np.array([[0.0, 0.0], [1.0, 0.0]])}
    borrowed = Borrowed(0, np.array([[0.1, 0.1]]), heat, (), (), None)
    levels = tuple(Level(n + 1, f"l{n}", 8 << n, (8 >> n,) * 2) for n in range(4))
    picture = explanation_picture.draw(
        np.full((200, 100, 3), 128, np.uint8), found, 0, borrowed, levels, (64, 64),
        ["puffin"],
    ).astype(int)  # fmt: skip
    # The colour scale ends in the same red; only the panel's cell is a block of it.
    right = picture[:345, 450:755]
    red = (right[..., 0] - right[..., 2] > 50) & (right[..., 1] < 110)
    columns = np.flatnonzero(red.sum(axis=0) > 60)
    rows = np.flatnonzero(red[:, columns].sum(axis=1) > 40)
    assert len(columns) > 40
    assert len(rows) == pytest.approx(2 * len(columns), rel=0.1)
    # The other cells, above it and to its right, show the lightened image alone.
    light = 155 + 128 // 5 * 2
    assert (right[rows[0] - 30, columns[5:-5]] == light).all()
    assert (right[rows[-1] - 30, columns[5:-5] + len(columns)] == light).all()
    assert borrowed.scale == 1.0
