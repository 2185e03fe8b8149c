import json

import pytest

from borrow_det.data import sources
from borrow_det.errors import InputError


def remove(name):
    def change(coco, folder):
        (folder / name).unlink()

    return change


def write(name, content):
    def change(coco, folder):
        (folder / name).write_bytes(content)

    return change


def truncate(name):
    def change(coco, folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-100])

    return change


def edit(path, value):
    """Sets coco[path[0]][path[1]]... to value, or deletes it if value is None."""

    def change(coco, folder):
        *outer, last = path
        for key in outer:
            coco = coco[key]
        if value is None:
            del coco[last]
        else:
            coco[last] = value

    return change


BAD = {
    "no annotations": (
        remove("annotations/train.json"),
        "has no COCO annotation file: add one",
    ),
    "not JSON": (
        write("annotations/train.json", b'{"images": [}'),
        r"train\.json: not JSON: Expecting value",
    ),
    "not UTF-8": (
        write("annotations/train.json", b'{"\xff": 1}'),
        r"train\.json: not JSON: 'utf-8' codec",
    ),
    "nested without end": (
        write("annotations/train.json", b"[" * 100_000),
        r"train\.json: its JSON is nested too deeply",
    ),
    "a folder": (
        lambda coco, folder: (folder / "annotations" / "val.json").mkdir(),
        r"val\.json: Is a directory",
    ),
    "a list": (write("annotations/train.json", b"[]"), "is not a JSON object"),
    "no images key": (edit(["images"], None), "has no list 'images'"),
    "no annotations key": (edit(["annotations"], None), "has no list 'annotations'"),
    "no categories key": (edit(["categories"], None), "has no list 'categories'"),
    "images no list": (edit(["images"], {}), "has no list 'images'"),
    "no images": (edit(["images"], []), r"train\.json lists no images"),
    "no categories": (edit(["categories"], []), "lists no categories: add them"),
    "record no object": (edit(["images", 1], 5), r"images\[1\] is not a JSON object"),
    "image without id": (
        edit(["images", 1, "id"], None),
        r"images\[1\] has no key 'id'",
    ),
    "image without name": (
        edit(["images", 0, "file_name"], None),
        r"images\[0\] has no key 'file_name'",
    ),
    "image without size": (
        edit(["images", 0, "height"], None),
        r"images\[0\] has no key 'height'",
    ),
    "image of no size": (edit(["images", 0, "height"], 0), "has the size 32 x 0"),
    "id no number": (
        edit(["images", 0, "id"], "x"),
        r"id = 'x', which is not an integer",
    ),
    "id too large": (
        edit(["images", 0, "id"], 2**63),
        r"images\[0\] has id = 9223372036854775808, which is not an integer of 64",
    ),
    "id too small": (
        edit(["images", 0, "id"], -(2**63) - 1),
        r"images\[0\] has id = -9223372036854775809, which is not an integer of 64",
    ),
    "file name no text": (
        edit(["images", 1, "file_name"], 5),
        r"images\[1\] has file_name = 5, which is not a text",
    ),
    "file name too long": (
        edit(["images", 1, "file_name"], "b" * 300 + ".png"),
        r"lists the image 'b{300}\.png', which is in none of",
    ),
    "file name with a null": (
        edit(["images", 1, "file_name"], "b\0.png"),
        r"lists the image 'b\\x00\.png', which is in none of",
    ),
    "box missing": (
        edit(["annotations", 0, "bbox"], None),
        r"annotations\[0\] has no key 'bbox'",
    ),
    "box short": (edit(["annotations", 0, "bbox"], [1, 2, 3]), "not a list of four"),
    "box of text": (
        edit(["annotations", 0, "bbox"], ["1", 2, 3, 4]),
        "not a list of four",
    ),
    "category without name": (
        edit(["categories", 1, "name"], None),
        r"categories\[1\] has no key 'name'",
    ),
    "category name null": (
        lambda coco, folder: coco["categories"][1].update(name=None),
        r"categories\[1\] has name = None, which is not a text",
    ),
    "category name half a character": (
        edit(["categories", 1, "name"], "\ud83d"),
        r"categories\[1\] has name = '\\ud83d', which is not a text",
    ),
    "unknown image": (
        edit(["annotations", 0, "image_id"], 99),
        r"annotations\[0\] belongs to image id 99",
    ),
    "unknown category": (
        edit(["annotations", 0, "category_id"], 3),
        r"annotation 1 of a\.png has the category id 3, which is not in 'categories'",
    ),
    "image id twice": (edit(["images", 1, "id"], 10), r"image id 10 twice.*'b\.png'"),
    "category id twice": (edit(["categories", 1, "id"], 1), "category id 1 twice"),
    "image missing": (remove("images/b.png"), r"lists the image 'b\.png', which is in"),
    "image truncated": (truncate("images/b.png"), r"b\.png is truncated or damaged"),
    "not an image": (write("images/b.png", b"hello"), r"b\.png is not an image"),
    "size disagrees": (
        edit(["images", 1, "width"], 31),
        r"b\.png is 32 x 24 pixels, but its annotation file has 31 x 24",
    ),
    "size turned": (
        lambda coco, folder: coco["images"][1].update(width=24, height=32),
        r"b\.png is 32 x 24 pixels, but its annotation file has 24 x 32",
    ),
    "box empty": (edit(["annotations", 0, "bbox"], [4, 4, 0, 5]), "has no area"),
    "box negative": (edit(["annotations", 0, "bbox"], [9, 9, -5, -5]), "has no area"),
    "box infinite": (
        edit(["annotations", 0, "bbox"], [1, 1, float("inf"), 5]),
        "is not finite",
    ),
    "box beyond floats": (
        edit(["annotations", 0, "bbox"], [1, 1, 5, 10**400]),
        r"box \[1, 1, 5, 10+\.\.\.0+\] of annotation 1 in a\.png is not finite",
    ),
    "box outside": (edit(["annotations", 0, "bbox"], [4, 4, 90, 5]), "is outside"),
    "split called all": (
        lambda coco, folder: (folder / "annotations" / "all.json").write_text("{}"),
        "split name 'all': rename it",
    ),
    "one split twice": (
        lambda coco, folder: write("train/_annotations.coco.json", b"{}")(
            coco, (folder / "train").mkdir() or folder
        ),
        "are both of the split train",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_input_is_named_and_leaves_no_prepared_set(case, folder, noise_image):
    change, message = BAD[case]
    folder.add("a.png", noise_image(), [(1, [4, 4, 5, 5])])
    folder.add("b.png", noise_image(seed=1))
    folder.write()
    good = json.dumps(folder.coco)
    change(folder.coco, folder.folder)
    annotations = folder.folder / "annotations" / "train.json"
    if annotations.exists() and json.dumps(folder.coco) != good:
        folder.write()
    with pytest.raises(InputError, match=message) as error:
        sources.load(folder.config(), "train")
    assert "\n" not in str(error.value)
    assert not list((folder.folder / "prepared").rglob("*.array_record*"))
    assert not list((folder.folder / "prepared").rglob("dataset_info.json"))
    # The second run finds no prepared set, and succeeds after the correction.
    with pytest.raises(InputError, match=message):
        sources.load(folder.config(), "train")
    for path in folder.folder.rglob("*.json"):
        path.rmdir() if path.is_dir() else path.unlink()
    noise_image(seed=1).save(folder.folder / "images" / "b.png")
    annotations.write_text(good)
    assert len(sources.load(folder.config(), "train")) == 2


def test_conflicting_categories_are_an_error(folder, noise_image):
    folder.add("a.png", noise_image())
    folder.write("train.json")
    folder.coco["categories"][1]["name"] = "bird"
    folder.write("val.json")
    with pytest.raises(InputError, match=r"val\.json calls category 7 'bird'.*'dog'"):
        sources.load(folder.config(), "train")


def test_a_missing_folder_is_an_error(folder):
    config = folder.config()
    config.path = ""
    with pytest.raises(InputError, match=r"configs/coco_folder\.py:path=DIR"):
        sources.load(config, "train")
    config.path = str(folder.folder / "nowhere")
    with pytest.raises(InputError, match="nowhere is not a folder: correct"):
        sources.load(config, "train")


def test_unknown_split_lists_the_known_ones(folder, noise_image):
    folder.add("a.png", noise_image())
    folder.write("train.json")
    folder.write("val.json")
    with pytest.raises(InputError, match="no split 'test'; known are train, val"):
        sources.load(folder.config(), "test")
