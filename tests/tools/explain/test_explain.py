"""The explain tool on a tiny run: its files and its usage."""

import collections
import json
import types

import numpy as np
import PIL.Image
import pytest

from borrow_det.data.images import decode as decode_lib
from borrow_det.data.images import inputs
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.tools.common import cli
from borrow_det.tools.explain import __main__ as explain


def run(workdir, output, *arguments):
    argv = ["explain", f"--workdir={workdir}", f"--output={output}", *arguments]
    return cli.call(explain.main, argv)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def explanations(output):
    return json.loads((output / "explanations.json").read_text())


# --- a real run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images of every kind, a broken one, and a video."""
    folder = tmp_path_factory.mktemp("images")
    PIL.Image.fromarray(noise(64, 64)).save(folder / "a.png")
    PIL.Image.fromarray(noise(150, 90, seed=1)).save(folder / "large.png")
    PIL.Image.fromarray(noise(20, 30, 1)).save(folder / "gray.png")
    PIL.Image.fromarray(noise(40, 30, 4)).save(folder / "rgba.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be shown turned by 90 degrees clockwise.
    PIL.Image.fromarray(noise(50, 70)).save(folder / "turned.jpg", exif=exif)
    (folder / "broken.jpg").write_bytes(b"junk")
    (folder / "clip.mp4").write_bytes(b"a video is not looked at")
    return folder


@pytest.fixture(scope="module")
def explained(tiny_run, folder, tmp_path_factory):
    """The tool's (output, status) for `folder`."""
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
        "gray.png": (20, 30),
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
        assert picture.height == pytest.approx(660 + 45, abs=15)  # With a footer.
    assert not list(output.rglob("*.part"))


def test_numbers_match_the_network(explained, tiny_run, folder):
    # Larger than the canvas: centers are pixels of the image, not of the canvas.
    output, _ = explained
    (written,) = (
        image
        for image in explanations(output)["images"]
        if image["file_name"].endswith("large.png")
    )
    detector = Detector.load(tiny_run.workdir)
    image = inputs.read_upright(folder / "large.png")
    canvas, size = decode_lib.to_canvas(image, detector.canvas)
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


def test_failures_notes_and_omissions_are_reported(tiny_run, folder, tmp_path, capsys):
    paths = [str(folder / name) for name in ("a.png", "broken.jpg", "clip.mp4")]
    arguments = ("--score=0", "--small=1e9", "--limit=2")
    assert run(tiny_run.workdir, tmp_path / "out", *arguments, *paths) == 1
    output = capsys.readouterr()
    detections = explanations(tmp_path / "out")["images"][0]["detections"]
    done = [d for d in detections if d["borrowed"]]
    others = [d for d in detections if not d["borrowed"]]
    assert output.out == (
        f"1 images, {len(detections)} detections with a score of at least 0.0; "
        f"{len(done)} explained, {len(others)} on levels that do not borrow, 2 "
        f"pictures, {len(done) - 2} more left out by --limit=2: "
        f"{tmp_path}/out/index.html ("
        f"{(tmp_path / 'out' / 'index.html').stat().st_size / 1e6:.1f} MB)\n"
    )
    errors = output.err.splitlines()
    assert sum(line.startswith("skipped: ") for line in errors) == 2
    assert any("clip.mp4 is a video: explain reads images only" in e for e in errors)
    notes = [line for line in errors if line.startswith("note: ")]
    counts = collections.Counter(d["level"] for d in others)
    assert len(notes) == len(counts) > 1
    for level, count in counts.items():
        many = f"{count} detection{'s' * (count > 1)}"
        (note,) = (n for n in notes if f"level {level}, conv" in n)
        assert note.startswith(f"note: {folder}/a.png, {many}: level {level}, ")


def test_one_detection_on_a_chosen_level_of_a_split(tiny_run, tmp_path, capsys):
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
    assert not (tmp_path / "o").exists()


def test_a_second_call_replaces_the_output_of_the_first(tiny_run, folder, tmp_path):
    pictures = tmp_path / "out" / "pictures"
    arguments = ("--score=0", "--small=1e9", "--limit=1")
    assert (
        run(tiny_run.workdir, tmp_path / "out", *arguments, str(folder / "a.png")) == 0
    )
    (first,) = pictures.iterdir()
    (pictures / "mine.jpg").write_bytes(b"")
    paths = (str(folder / "gray.png"),)
    assert run(tiny_run.workdir, tmp_path / "out", *arguments, *paths) == 0
    left = {path.name for path in pictures.iterdir()}
    assert first.name not in left
    assert "mine.jpg" in left


def test_unusual_file_names(tiny_run, tmp_path, capsys):
    # Not UTF-8, too long for a picture's name, and with special characters.
    names = [b"caf\xe9.png", ("ä" * 120 + ".png").encode(), b"a$b#c%d e.png"]
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(names):
        path = tmp_path / "in" / name.decode(errors="surrogateescape")
        PIL.Image.fromarray(noise(32, 32, seed=seed)).save(path)
    arguments = ("--score=0", "--small=1e9", "--limit=1", str(tmp_path / "in"))
    assert run(tiny_run.workdir, tmp_path / "out", *arguments) == 0
    written = [i["file_name"] for i in explanations(tmp_path / "out")["images"]]
    assert sorted(name.rpartition("/")[2] for name in written) == sorted(
        ["caf\\udce9.png", "ä" * 120 + ".png", "a$b#c%d e.png"]
    )
    drawn = sorted(p.name for p in (tmp_path / "out" / "pictures").iterdir())
    assert [name.rpartition("_")[0] for name in drawn] == [
        "0000_a_b_c_d_e", "0001_caf_udce9", "0002_" + "ä" * 50,
    ]  # fmt: skip


def test_a_damaged_image_of_a_split_is_skipped(tiny_run, tmp_path, capsys, monkeypatch):
    decode = decode_lib.decode_image

    def damaged(record, name):
        if name == "val_1.jpg":
            raise InputError(f"{name} does not decode: prepare the set again")
        return decode(record, name)

    monkeypatch.setattr(decode_lib, "decode_image", damaged)
    arguments = ("--split=val[:3]", "--nopictures")
    assert run(tiny_run.workdir, tmp_path / "out", *arguments) == 1
    names = [i["file_name"] for i in explanations(tmp_path / "out")["images"]]
    assert names == ["val_0.jpg", "val_2.jpg"]
    assert "skipped: val_1.jpg does not decode" in capsys.readouterr().err


# --- usage


def stand_in(**borrow):
    config = types.SimpleNamespace(
        borrow=types.SimpleNamespace(**{"enabled": True, "levels": (0, 2)} | borrow),
        references=types.SimpleNamespace(kind="none"),
    )
    return types.SimpleNamespace(config=config)


@pytest.mark.parametrize(
    ("borrow", "arguments", "message"),
    [
        ({}, [], "name images or folders, or a --split"),
        ({}, ["IMAGE", "--split=val"], "name images or folders, or a --split"),
        ({"enabled": False}, ["IMAGE"], "this run does not borrow"),
        ({"levels": ()}, ["IMAGE"], "this run does not borrow"),
        ({}, ["IMAGE", "--level=2"], "--level=2 does not borrow in this run; choose "
         "one of these: 1, 3"),
        ({}, ["IMAGE", "IMAGE2", "--detection=0"], "name one image"),
        ({}, ["nowhere.png"], "nowhere.png: there is no such file or folder"),
        ({}, ["--sources=0", "IMAGE"], "not a positive integer"),
        ({}, ["--score=nan", "IMAGE"], "--score=nan is not a number"),
        ({}, ["--score=inf", "IMAGE"], "--score"),
        ({}, ["--small=nan", "IMAGE"], "--small=nan is not a number"),
        ({}, ["--small=inf", "IMAGE"], "--small=inf is not a number"),
        ({}, ["--output=", "IMAGE"], "flag --output=: the path is empty: name a file"),
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
