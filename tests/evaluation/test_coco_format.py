"""The reader of COCO's annotation files, on the forms that tools write."""

import json
import math

import pytest

from borrow_det.errors import InputError
from borrow_det.evaluation import coco_format
from borrow_det.evaluation.annotations import Category
from borrow_det.io.problems import Problems

BOX = [1.5, 2, 3, 4]


def content(notes, images=({"id": 1},), categories=({"id": 1, "name": "cat"},)):
    notes = [{"id": 9, "image_id": 1, "category_id": 1, **note} for note in notes]
    return {
        "images": list(images),
        "annotations": notes,
        "categories": list(categories),
    }


def read(data, annotated=True):
    """Returns (annotations, problems) of a content without problems in its form."""
    problems = Problems()
    data = json.loads(json.dumps(data))
    return coco_format.parse_annotations(data, "f.json", problems, annotated), problems


def objects(*notes):
    annotations, problems = read(content(notes))
    assert not list(problems)
    return annotations.images[0].objects


def reasons(problems):
    return [(p.kind, p.record, p.reason) for p in problems]


@pytest.mark.parametrize("key", ["iscrowd", "difficult", "ignore"])
def test_flags_are_numbers_booleans_or_texts(key):
    for value in (1, 1.0, True, "1", "true", "True", "TRUE"):
        (found,) = objects({"bbox": BOX, key: value})
        assert found.is_crowd == (key == "iscrowd")
        assert found.is_difficult == (key != "iscrowd")
    for value in (0, 0.0, False, "0", "false", "False", None):
        (found,) = objects({"bbox": BOX, key: value})
        assert (found.is_crowd, found.is_difficult) == (False, False)


@pytest.mark.parametrize(
    "value", [2, -1, 0.5, math.nan, "no", "", " 1", "2", [], [1], {}, 10**400]
)
def test_other_flags_are_problems_of_their_records(value):
    annotations, problems = read(
        content([{"bbox": BOX, "difficult": value}, {"bbox": BOX}])
    )
    assert len(annotations.images[0].objects) == 1
    ((kind, record, reason),) = reasons(problems)
    assert (kind, record) == ("wrong flag", "annotations[0] (id 9)")
    assert reason.startswith("difficult is ")
    assert reason.endswith(", not 0, 1, true or false")


def test_ids_are_integers_whole_floats_or_texts():
    images = [{"id": 7}, {"id": 8.0}, {"id": "img_9"}, {"id": "10"}]
    categories = [{"id": "b", "name": "x"}, {"id": 3.0, "name": "y"}]
    notes = [
        {"image_id": image_id, "category_id": category_id, "bbox": BOX}
        for image_id, category_id in (
            (7, "b"),
            ("7", 3),
            (7.0, "3"),
            ("8", 3.0),
            ("img_9", "b"),
            (10, "b"),
            ("10", "b"),
        )
    ]
    annotations, problems = read(content(notes, images, categories))
    assert not list(problems)
    assert [image.id for image in annotations.images] == [7, 8, "img_9", "10"]
    assert type(annotations.images[1].id) is int
    assert annotations.categories == (Category(3, "y"), Category("b", "x"))
    labels = [[o.category for o in image.objects] for image in annotations.images]
    assert labels == [[1, 0, 0], [0], [1], [1, 1]]


def test_categories_are_in_the_order_of_their_ids():
    ids = ["10", "b", 3, "2", "a", -1]
    categories = [{"id": i, "name": f"n{i}"} for i in ids]
    annotations, _ = read(content([], categories=categories))
    assert [c.id for c in annotations.categories] == [-1, "2", 3, "10", "a", "b"]


@pytest.mark.parametrize(
    "value", [None, True, 1.5, math.nan, math.inf, [], {}, [1], "\ud800"]
)
def test_other_ids_are_problems(value):
    data = content(
        [{"bbox": BOX, "image_id": value}, {"bbox": BOX, "category_id": value}],
        [{"id": 1}, {"id": value}],
        [{"id": 1, "name": "cat"}, {"id": value, "name": "dog"}],
    )
    annotations, problems = read(data)
    assert [image.id for image in annotations.images] == [1]
    assert annotations.images[0].objects == ()
    assert [(p.kind, p.record) for p in problems] == [
        ("wrong id", "categories[1]"),
        ("wrong id", "images[1]"),
        ("unknown image", "annotations[0] (id 9)"),
        ("unknown category", "annotations[1] (id 9)"),
    ]


def test_wrong_records_are_left_out_and_the_rest_is_read():
    data = {
        "images": [{"id": 1}, {"id": 1, "file_name": "second.jpg"}, 7, {}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": BOX},
            {"image_id": 2, "category_id": 1, "bbox": BOX},
            {"image_id": 1, "category_id": 2, "bbox": BOX},
            {"category_id": 1, "bbox": BOX},
            {"image_id": 1, "bbox": BOX},
            [1],
            {"image_id": 5, "category_id": 5, "bbox": BOX},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}, None],
    }
    annotations, problems = read(data)
    assert annotations.categories == (Category(1, "cat"),)
    assert len(annotations.images) == 1
    assert annotations.images[0].file_name == ""
    assert len(annotations.images[0].objects) == 1
    assert reasons(problems) == [
        ("duplicate category id", "categories[1]", "id 1 is not unique"),
        ("invalid record", "categories[2]", "must be a JSON object, not None"),
        ("duplicate image id", "images[1]", "id 1 is not unique"),
        ("invalid record", "images[2]", "must be a JSON object, not 7"),
        ("wrong id", "images[3]", "the key 'id' is missing"),
        ("unknown image", "annotations[1]", "image_id 2 is not in 'images'"),
        ("unknown category", "annotations[2]", "category_id 2 is not in 'categories'"),
        ("unknown image", "annotations[3]", "the key 'image_id' is missing"),
        ("unknown category", "annotations[4]", "the key 'category_id' is missing"),
        ("invalid record", "annotations[5]", "must be a JSON object, not [1]"),
        ("unknown image", "annotations[6]", "image_id 5 is not in 'images'"),
        ("unknown category", "annotations[6]", "category_id 5 is not in 'categories'"),
    ]
    assert all(p.file == "f.json" for p in problems)


def test_annotations_of_a_record_with_a_problem_are_left_out_without_another():
    annotations, problems = read(
        content(
            [{"bbox": BOX, "image_id": 2}, {"bbox": BOX, "category_id": 2}],
            [{"id": 1}, {"id": 2, "width": 0, "file_name": "a.jpg"}],
            [{"id": 1, "name": "cat"}, {"id": 2, "name": None}],
        )
    )
    assert annotations.images[0].objects == ()
    assert reasons(problems) == [
        (
            "wrong category name",
            "categories[1]",
            "the name None is missing or not a text",
        ),
        (
            "wrong image size",
            "images[1]",
            "width of 'a.jpg' is 0, not a positive whole number",
        ),
    ]


def test_ids_of_annotations_may_be_equal():
    assert len(objects({"bbox": BOX}, {"bbox": BOX})) == 2


@pytest.mark.parametrize("value", [None, 0, -4, math.nan, math.inf, "5", True, [5]])
def test_an_area_that_is_not_positive_is_unknown(value):
    assert objects({"bbox": BOX, "area": value})[0].area is None
    assert objects({"bbox": BOX})[0].area is None
    assert objects({"bbox": BOX, "area": 7})[0].area == 7.0


@pytest.mark.parametrize(
    "value", [None, [], [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, True], "box", {}, 5, [[]]]
)
def test_polygons_give_the_box_if_bbox_is_not_four_numbers(value):
    polygons = [[10, 5, 14, 5.5, 12, 9], [8, 6, 9, 7]]
    with_outline, without = objects(
        {"bbox": value, "segmentation": polygons}, {"bbox": value}
    )
    assert with_outline.bbox == (8.0, 5.0, 6.0, 4.0)
    assert with_outline.bbox_text == "[8, 5, 6, 4] around its segmentation"
    assert without.bbox is None
    assert without.bbox_text == repr(value)


def test_boxes_of_four_numbers_stay_as_they_are():
    for box in (
        [1.5, 2, 3, 4],
        [0, 0, 0, 0],
        [-5, 1e9, -1, 2],
        [1, 2, math.inf, 4],
        [1, 2, 3, 10**400],
    ):
        (found,) = objects({"bbox": box, "segmentation": [[0, 0, 9, 9]]})
        expected = [math.inf if value == 10**400 else value for value in box]
        assert list(found.bbox) == expected
        assert found.bbox_text == ""


def test_sizes_of_images_may_be_absent():
    images = [
        {"id": 1, "width": 640.0, "height": 480},
        {"id": 2, "width": None},
        {"id": 3, "height": 7},
    ]
    annotations, problems = read(content([], images))
    sizes = [(image.width, image.height) for image in annotations.images]
    assert sizes == [(640, 480), (None, None), (None, 7)]
    assert not list(problems)
    for value in (0, -1, 1.5, "640", True, [], math.nan, 2**31, 10**400):
        _, problems = read(content([], [{"id": 1, "width": value}]))
        assert problems.counts() == {"wrong image size": 1}


def test_other_fields_of_images_are_kept():
    image = {"id": 1, "file_name": "a.jpg", "width": 2, "height": 3, "video_id": "v"}
    annotations, _ = read(content([], [image | {"extra": [1]}]))
    (found,) = annotations.images
    assert (found.file_name, found.width, found.height) == ("a.jpg", 2, 3)
    assert found.fields == {"video_id": "v", "extra": [1]}


@pytest.mark.parametrize("value", [5, ["a.jpg"], True, "a\udcff.jpg"])
def test_file_names_are_texts(value):
    annotations, problems = read(content([], [{"id": 1, "file_name": value}]))
    assert annotations.images == ()
    assert problems.counts() == {"wrong file name": 1}


def test_names_of_categories_are_unique_texts():
    names = [7, 7, "  big \n cat ", "big cat", "", " ", 1.5, "汽车", "7 (2)"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    annotations, problems = read(content([], categories=categories))
    assert not list(problems)
    assert [category.name for category in annotations.categories] == [
        *("7", "7 (2)", "big cat", "big cat (4)", "unnamed", "unnamed (6)", "1.5"),
        *("汽车", "7 (2) (9)"),
    ]
    for name in (None, True, [], {}, "\ud800"):
        _, problems = read(content([], categories=[{"id": 1, "name": name}]))
        assert problems.counts() == {"wrong category name": 1}


ROOT = {"id": 0, "name": "cell", "supercategory": "none"}
CELLS = [
    {"id": i, "name": n, "supercategory": "cell"} for i, n in ((1, "cell"), (2, "b"))
]


def test_the_root_category_of_roboflow_is_not_a_class():
    annotations, problems = read(
        content(
            [{"bbox": BOX}, {"bbox": BOX, "category_id": 2}], categories=[ROOT, *CELLS]
        )
    )
    assert annotations.categories == (Category(1, "cell"), Category(2, "b"))
    assert annotations.root_id == 0
    assert [o.category for o in annotations.images[0].objects] == [0, 1]
    assert not list(problems)


@pytest.mark.parametrize(
    ("categories", "notes"),
    [
        ([ROOT, *CELLS], [{"bbox": BOX, "category_id": "0"}]),  # It has an object.
        ([ROOT], []),  # It is the only category.
        ([ROOT, CELLS[0], {**CELLS[1], "supercategory": "b"}], []),
        ([ROOT, {"id": 3, "name": "x", "supercategory": "none"}, *CELLS], []),
        ([ROOT, {"id": 3, "name": "x"}, *CELLS], []),
        ([{**ROOT, "name": "other"}, *CELLS], []),
        ([{**ROOT, "supercategory": "animal"}, *CELLS], []),
    ],
)
def test_other_categories_are_classes(categories, notes):
    annotations, problems = read(content(notes, categories=categories))
    assert len(annotations.categories) == len(categories)
    assert annotations.root_id is None
    assert not list(problems)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (data, "it must be a JSON object with images, annotations and categories")
        for data in ([], "x", 5, None, True, [{"images": []}])
    ]
    + [
        ({}, "the key 'images' is missing or not a list"),
        (content([]) | {"images": {}}, "the key 'images' is missing or not a list"),
        (content([]) | {"annotations": None}, "the key 'annotations' is missing"),
        (content([]) | {"categories": "cat"}, "the key 'categories' is missing"),
    ],
)
def test_files_in_another_format_are_refused(data, message):
    with pytest.raises(InputError) as error:
        read(data)
    assert str(error.value).startswith(f"f.json is not in COCO's format: {message}")


def test_a_list_of_annotations_is_required_unless_only_images_are_needed():
    data = {"images": [{"id": 3}], "categories": []}
    annotations, _ = read(data, annotated=False)
    assert [image.id for image in annotations.images] == [3]
    with pytest.raises(InputError, match="'annotations' is missing"):
        read(data)
    with pytest.raises(InputError, match="'annotations' is missing"):
        read(data | {"annotations": 3}, annotated=False)


def test_files_that_are_not_json_are_refused(tmp_path):
    path = tmp_path / "a.json"
    for text, message in (
        (b"{", "not JSON"),
        (b"\xff\xfe\xfa", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"images": 1' + b"0" * 5000 + b"}", "not JSON"),
    ):
        path.write_bytes(text)
        with pytest.raises(InputError, match=message):
            coco_format.read_annotations(path, Problems())


def test_a_file_is_read_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content([{"bbox": BOX}])).encode())
    problems = Problems()
    annotations = coco_format.read_annotations(path, problems)
    assert annotations.path == path
    assert annotations.images[0].objects[0].bbox == (1.5, 2.0, 3.0, 4.0)
    assert not list(problems)
