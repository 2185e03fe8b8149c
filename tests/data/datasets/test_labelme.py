import json
import math

import numpy as np
import pytest

from borrow_det.data.datasets import formats, labelme
from borrow_det.errors import InputError
from borrow_det.io.problems import Problems

SIZE = (100, 50)


def text(*shapes, name="a.png", **more):
    """Returns a file of LabelMe with shapes."""
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": name,
        "imageData": None,
        "imageHeight": 50,
        "imageWidth": 100,
    }
    return json.dumps(content | more)


def shape(points=((10, 5), (30, 25)), label="cat", kind="rectangle", **more):
    return {"label": label, "points": points, "shape_type": kind, **more}


def read(folder, split="train", problems=None):
    problems = Problems() if problems is None else problems
    return labelme.read(labelme.splits(folder)[split], problems)


def test_shapes_and_labels_of_images(write):
    folder = write(
        {
            "b.json": text(
                shape(label="dog", flags={"difficult": True}),
                shape(((30, 25), (10, 5))),
                name="b.png",
            ),
            "b.png": SIZE,
            "a.json": text(imageData="A" * 100_000),
            "a.png": SIZE,
            "config.json": "{}",
        }
    )
    problems = Problems()
    found = read(folder, problems=problems)
    assert not len(problems)
    assert formats.recognize(folder) is formats.LABELME
    line = f"{folder}: LabelMe (*.json), split train"
    assert formats.LABELME.describe(folder) == line
    assert [tuple(category) for category in found.categories] == [
        ("cat", "cat"),
        ("dog", "dog"),
    ]
    a, b = found.images
    assert (a.id, a.file_name, a.objects) == (1, "a.png", ())
    assert (b.id, b.file_name, b.width, b.height) == (2, "b.png", 100, 50)
    dog, cat = b.objects
    assert (dog.category, dog.bbox, dog.is_difficult) == (1, (10, 5, 20, 20), True)
    assert (cat.category, cat.bbox, cat.is_difficult) == (0, (10, 5, 20, 20), False)
    assert dog.record == "b.json, shapes[0]"


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[10, 5], [30, 5], [30, 25], [10, 25]], (10, 5, 20, 20)),
        ("polygon", [[9, 4], [2, 8], [5, 1.5]], (2, 1.5, 7, 6.5)),
        (None, [[9, 4], [2, 8], [5, 1.5]], (2, 1.5, 7, 6.5)),
        ("mask", [[9, 4], [12, 8]], (9, 4, 3, 4)),
        (
            "circle",
            [[20, 20], [23, 24]],
            (15, 15, 10, 10),
        ),
        ("polygon", [[9, 4], [2, None]], None),
        ("polygon", [[9, 4], [2]], None),
        ("polygon", "9,4", None),
        ("polygon", [], None),
    ],
)
def test_shapes_become_the_box_around_them(write, kind, points, box):
    folder = write({"a.json": text(shape(points, kind=kind)), "a.png": SIZE})
    (item,) = read(folder).images[0].objects
    if box is None:
        assert item.bbox is None
    else:
        np.testing.assert_allclose(item.bbox, box, rtol=1e-12)


def test_shapes_of_a_group_and_label_are_one_object(write):
    shapes = [
        shape(((0, 0), (4, 4)), group_id=3),
        shape(((50, 0), (60, 9)), label="dog", group_id=3),
        shape(((10, 10), (20, 12)), group_id=3),
        shape(((1, 1), (2, 2)), group_id=None),
        shape(((1, 1), (2, 2)), group_id=None),
    ]
    folder = write({"a.json": text(*shapes), "a.png": SIZE})
    objects = read(folder).images[0].objects
    assert [(item.category, item.bbox) for item in objects] == [
        (0, (0, 0, 20, 12)),
        (1, (50, 0, 10, 9)),
        (0, (1, 1, 1, 1)),
        (0, (1, 1, 1, 1)),
    ]


def test_points_and_lines_are_not_objects(write):
    shapes = [shape(kind=kind) for kind in ("point", "line", "linestrip", "points")]
    found = read(write({"a.json": text(*shapes), "a.png": SIZE}))
    assert found.images[0].objects == ()
    assert found.categories == ()


@pytest.mark.parametrize(
    ("annotation", "name", "image", "split"),
    [
        ("a.json", "a.png", "a.png", "train"),
        ("annotations/a.json", r"..\images\a.png", "images/a.png", "train"),
        ("labels/a.json", "../images/a.png", "images/a.png", "train"),
        ("val/a.json", "/home/x/a.png", "val/a.png", "val"),
        ("val/labels/a.json", "a.png", "val/images/a.png", "val"),
        ("annotations/val/a.json", "a.png", "images/val/a.png", "val"),
        ("val/a.json", "other.png", "val/a.png", "val"),
    ],
)
def test_images_are_found_in_the_usual_layouts(write, annotation, name, image, split):
    folder = write({annotation: text(shape(), name=name), image: SIZE})
    assert formats.recognize(folder) is formats.LABELME
    assert list(labelme.splits(folder)) == [split]
    (found,) = read(folder, split).images
    assert found.file_name == image


def test_files_in_one_folder_are_divided_by_the_folders_of_their_images(write):
    folder = write(
        {
            "images/train/a.png": SIZE,
            "images/val/b.png": SIZE,
            "annotations/a.json": text(shape(), name=r"..\images\train\a.png"),
            "annotations/b.json": text(shape(), name="b.png"),
        }
    )
    assert list(labelme.splits(folder)) == ["train", "val"]
    for split, name in (("train", "a"), ("val", "b")):
        (image,) = read(folder, split).images
        assert image.file_name == f"images/{split}/{name}.png"


def test_numbers_are_labels_as_their_text(write):
    found = read(write({"a.png": SIZE, "a.json": text(shape(label=7))}))
    assert [category.name for category in found.categories] == ["7"]


def test_renamed_images_keep_the_json_files_with_their_names(write):
    folder = write(
        {
            "1.png": SIZE,
            "2.png": SIZE,
            "1.json": text(shape(label="cat"), name="2.png"),
            "2.json": text(shape(label="dog"), name="3.png"),
        }
    )
    found = read(folder)
    names = [category.name for category in found.categories]
    assert [(i.file_name, names[i.objects[0].category]) for i in found.images] == [
        ("1.png", "cat"),
        ("2.png", "dog"),
    ]


def test_damaged_files_and_shapes_are_problems(write):
    shapes = [
        shape(label=""),
        shape(label=None),
        "cat",
        shape(difficult="maybe"),
        shape(((math.inf, 1), (2, 2))),
    ]
    folder = write(
        {
            "a.json": text(*shapes),
            "a.png": SIZE,
            "b.json": '{"shapes": [',
            "c.json": '{"imagePath": "a.png"}',
        }
    )
    problems = Problems()
    (image,) = read(folder, problems=problems).images
    assert len(image.objects) == 1
    a, b, c = (str(folder / f"{name}.json") for name in "abc")
    assert [(p.kind, p.file, p.record) for p in problems] == [
        ("object without class", a, "shapes[0]"),
        ("object without class", a, "shapes[1]"),
        ("invalid record", a, "shapes[2]"),
        ("wrong flag", a, "shapes[3]"),
        ("damaged annotation file", b, ""),
        ("damaged annotation file", c, ""),
    ]
    reasons = [problem.reason for problem in problems]
    assert reasons[3] == "difficult is 'maybe', not 0, 1, true or false"
    assert reasons[5] == "it has no list of shapes"


def test_folder_with_damaged_files_only_is_an_error(write):
    folder = write({"a.json": '{"shapes": ['})
    with pytest.raises(InputError, match="lists no images of the split train"):
        read(folder)
