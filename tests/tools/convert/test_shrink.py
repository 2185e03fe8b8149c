"""Images are shrunk, and boxes stay on their objects."""

import json

import numpy as np
import PIL.Image
import pytest

from borrow_det.data.datasets import folder_files
from borrow_det.tools.common import cli
from borrow_det.tools.convert import __main__ as convert

ORIENTATION = 0x0112
# The bright object in an upright image of 120 x 60: [x, y, width, height].
BBOX = [80.0, 36.0, 24.0, 12.0]
HALF = [value / 2 for value in BBOX]


def upright_pixels():
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[36:48, 80:104] = 255
    return pixels


def make_folder(tmp_path, image, name="a.jpg", exif=None, bbox=BBOX, **fields):
    """Writes a folder with one image, given as upright pixels or as stored."""
    folder = tmp_path / "in"
    folder.mkdir()
    options = {"exif": exif} if exif is not None else {}
    image.save(folder / name, **options)
    record = {"id": 7, "file_name": name, "width": image.width, "height": image.height}
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": bbox}
    coco = {
        "images": [{**record, "video": "v", **fields}],
        "annotations": [{**annotation, "area": 200, "iscrowd": 0}],
        "categories": [{"id": 2, "name": "cat"}],
    }
    (folder / "train.json").write_text(json.dumps(coco))
    return folder


def convert_to(tmp_path, folder, *flags):
    output = tmp_path / "out"
    arguments = [f"--input={folder}", f"--output={output}", *flags]
    status = cli.call(convert.main, ["convert", *arguments])
    return status, output


def read(output):
    coco = json.loads((output / "annotations" / "train.json").read_text())
    (image,), (annotation,) = coco["images"], coco["annotations"]
    path = output / "images" / "train" / image["file_name"]
    assert folder_files.image_sizes(path).upright == (image["height"], image["width"])
    return image, annotation, np.asarray(PIL.Image.open(path))


def assert_box_holds_the_object(pixels, bbox):
    x, y, width, height = (round(value) for value in bbox)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[y : y + height, x : x + width] = True
    assert pixels[inside].mean() > 230
    assert pixels[~inside].mean() < 5


def test_a_larger_image_is_shrunk_with_its_box_and_area(tmp_path, capsys):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()))
    status, output = convert_to(tmp_path, folder, "--largest_side=60")
    assert status == 0
    assert "train: 1 image shrunk" in capsys.readouterr().out
    image, annotation, pixels = read(output)
    assert (image["width"], image["height"], image["video"]) == (60, 30, "v")
    assert annotation["bbox"] == pytest.approx(HALF)
    assert annotation["area"] == pytest.approx(50)
    assert_box_holds_the_object(pixels, annotation["bbox"])


def test_a_smaller_image_is_copied(tmp_path):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()))
    _, output = convert_to(tmp_path, folder, "--largest_side=120")
    image, annotation, _ = read(output)
    assert (image["width"], annotation["bbox"]) == (120, BBOX)
    copied = (output / "images" / "train" / "a.jpg").read_bytes()
    assert copied == (folder / "a.jpg").read_bytes()


@pytest.mark.parametrize("annotated", ["upright", "stored"])
def test_an_image_that_exif_rotates_becomes_upright(tmp_path, annotated):
    # Orientation 6: columns of the upright image, from right to left, are rows.
    stored = PIL.Image.fromarray(np.ascontiguousarray(np.rot90(upright_pixels(), 1)))
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    of_upright = {"bbox": BBOX, "width": 120, "height": 60}
    of_stored = {"bbox": [36.0, 16.0, 12.0, 24.0]}
    fields = of_upright if annotated == "upright" else of_stored
    folder = make_folder(tmp_path, stored, exif=exif, **fields)
    status, output = convert_to(tmp_path, folder, "--largest_side=60")
    assert status == 0
    image, annotation, pixels = read(output)
    assert (image["width"], image["height"]) == (60, 30)
    assert annotation["bbox"] == pytest.approx(HALF)
    assert_box_holds_the_object(pixels, annotation["bbox"])


@pytest.mark.parametrize(("name", "made"), [("a.png", "a.png"), ("a.bmp", "a.bmp.png")])
def test_other_formats_become_png(tmp_path, name, made):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()), name)
    _, output = convert_to(tmp_path, folder, "--largest_side=60")
    image, *_ = read(output)
    assert image["file_name"] == made
    with PIL.Image.open(output / "images" / "train" / made) as shrunk:
        assert shrunk.format == "PNG"


def test_a_new_suffix_makes_no_name_that_another_image_has(tmp_path):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()), "a.bmp")
    coco = json.loads((folder / "train.json").read_text())
    other = {"id": 8, "file_name": "a.bmp.png", "width": 40, "height": 40}
    PIL.Image.new("RGB", (40, 40)).save(folder / "a.bmp.png")
    coco["images"].append(other)
    (folder / "train.json").write_text(json.dumps(coco))
    _, output = convert_to(tmp_path, folder, "--largest_side=60")
    coco = json.loads((output / "annotations" / "train.json").read_text())
    sizes = {image["file_name"]: image["width"] for image in coco["images"]}
    assert sizes == {"a.bmp-2.png": 60, "a.bmp.png": 40}
    for name, width in sizes.items():
        with PIL.Image.open(output / "images" / "train" / name) as image:
            assert image.width == width


def test_an_image_without_objects_is_shrunk(tmp_path):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()))
    coco = json.loads((folder / "train.json").read_text())
    empty = {**coco["images"][0], "id": 8, "file_name": "b.jpg"}
    PIL.Image.new("RGB", (120, 60)).save(folder / "b.jpg")
    coco["images"].append(empty)
    (folder / "train.json").write_text(json.dumps(coco))
    status, output = convert_to(tmp_path, folder, "--largest_side=60")
    assert status == 0
    with PIL.Image.open(output / "images" / "train" / "b.jpg") as shrunk:
        assert shrunk.size == (60, 30)


def test_a_damaged_image_is_named(tmp_path, capsys):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()), "a.png")
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content[: len(content) // 2])
    status, output = convert_to(tmp_path, folder, "--largest_side=60")
    assert status == 2
    error = capsys.readouterr().err
    assert "a.png" in error
    assert error.count("\n") == 1
    assert not output.exists()
    flags = ("--largest_side=60", "--bad_images=skip")
    assert convert_to(tmp_path, folder, *flags)[0] == 0
    coco = json.loads((output / "annotations" / "train.json").read_text())
    assert (coco["images"], coco["annotations"]) == ([], [])
    assert "train: left out: " in capsys.readouterr().out


def test_only_copies_can_be_shrunk(tmp_path, capsys):
    folder = make_folder(tmp_path, PIL.Image.fromarray(upright_pixels()))
    for images in ("link", "none"):
        flags = ("--largest_side=60", f"--images={images}")
        assert convert_to(tmp_path, folder, *flags)[0] == 2
        assert "it needs --images=copy" in capsys.readouterr().err
