import json
import re

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
        "has no annotations of a known format",
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
    "a list": (
        write("annotations/train.json", b"[]"),
        r"train\.json is not in COCO's format: it must be a JSON object .* not \[\]",
    ),
    "no images key": (
        edit(["images"], None),
        "the key 'images' is missing or not a list",
    ),
    "no annotations key": (
        edit(["annotations"], None),
        "the key 'annotations' is missing or not a list",
    ),
    "no categories key": (
        edit(["categories"], None),
        "the key 'categories' is missing or not a list",
    ),
    "images no list": (
        edit(["images"], {}),
        "the key 'images' is missing or not a list",
    ),
    "no images": (
        edit(["images"], []),
        "train.json lists no images: remove it, or add images",
    ),
    "no categories": (
        edit(["categories"], []),
        "train.json lists no categories: add them",
    ),
    "record no object": (
        edit(["images", 1], 5),
        r"images\[1\]: must be a JSON object, not 5",
    ),
    "image without id": (
        edit(["images", 1, "id"], None),
        r"images\[1\]: the key 'id' is missing",
    ),
    "image without name": (
        edit(["images", 0, "file_name"], None),
        r"images\[0\]: the image has no file_name",
    ),
    "image of no size": (
        edit(["images", 0, "height"], 0),
        r"images\[0\]: height of 'a\.png' is 0, not a positive whole number",
    ),
    "id no number": (
        edit(["images", 0, "id"], [1]),
        r"images\[0\]: id \[1\] is not an integer or a text",
    ),
    "file name no text": (
        edit(["images", 1, "file_name"], 5),
        r"images\[1\]: file_name is 5, not a text in Unicode",
    ),
    "file name too long": (
        edit(["images", 1, "file_name"], "b" * 300 + ".png"),
        r"images\[1\]: the image 'b{300}\.png' is not in .*my data",
    ),
    "file name with a null": (
        edit(["images", 1, "file_name"], "b\0.png"),
        r"images\[1\]: the image 'b\\x00\.png' is not in .*my data",
    ),
    "box missing": (
        edit(["annotations", 0, "bbox"], None),
        r"annotations\[0\] \(id 1\): the box None in a\.png is not four numbers",
    ),
    "box short": (
        edit(["annotations", 0, "bbox"], [1, 2, 3]),
        "in a.png is not four numbers",
    ),
    "box of text": (
        edit(["annotations", 0, "bbox"], ["1", 2, 3, 4]),
        "in a.png is not four numbers",
    ),
    "category without name": (
        edit(["categories", 1, "name"], None),
        r"categories\[1\]: the name None is missing or not a text",
    ),
    "category name null": (
        lambda coco, folder: coco["categories"][1].update(name=None),
        r"categories\[1\]: the name None is missing or not a text",
    ),
    "category name half a character": (
        edit(["categories", 1, "name"], "\ud83d"),
        r"categories\[1\]: the name '\\ud83d' is missing or not a text",
    ),
    "unknown image": (
        edit(["annotations", 0, "image_id"], 99),
        r"annotations\[0\] \(id 1\): image_id 99 is not in 'images'",
    ),
    "unknown category": (
        edit(["annotations", 0, "category_id"], 3),
        r"annotations\[0\] \(id 1\): category_id 3 is not in 'categories'",
    ),
    "image id twice": (
        edit(["images", 1, "id"], 10),
        r"images\[1\]: id 10 is not unique",
    ),
    "category id twice": (
        edit(["categories", 1, "id"], 1),
        r"categories\[1\]: id 1 is not unique",
    ),
    "image missing": (
        remove("images/b.png"),
        r"images\[1\]: the image 'b\.png' is not in",
    ),
    "image truncated": (
        truncate("images/b.png"),
        r"b\.png: the file is truncated or damaged",
    ),
    "not an image": (
        write("images/b.png", b"hello"),
        r"b\.png: the file is not an image",
    ),
    "size disagrees": (
        edit(["images", 1, "width"], 31),
        r"b\.png is 32 x 24 pixels, but its annotation has 31 x 24",
    ),
    "size turned": (
        lambda coco, folder: coco["images"][1].update(width=24, height=32),
        r"b\.png is 32 x 24 pixels, but its annotation has 24 x 32",
    ),
    "box empty": (edit(["annotations", 0, "bbox"], [4, 4, 0, 5]), "has no area"),
    "box negative": (edit(["annotations", 0, "bbox"], [9, 9, -5, -5]), "has no area"),
    "box infinite": (
        edit(["annotations", 0, "bbox"], [1, 1, float("inf"), 5]),
        "is not finite",
    ),
    "box beyond floats": (
        edit(["annotations", 0, "bbox"], [1, 1, 5, 10**400]),
        r"\(id 1\): the box \[1, 1, 5, inf\] in a\.png is not finite",
    ),
    "box outside": (edit(["annotations", 0, "bbox"], [4, 4, 90, 5]), "is outside"),
    "one split twice": (
        lambda coco, folder: write("train/_annotations.coco.json", b"{}")(
            coco, (folder / "train").mkdir() or folder
        ),
        "are both of the split train",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_invalid_input_is_named_and_can_be_corrected(case, folder, noise_image):
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
    del error  # Its traceback holds the copy.
    # The second run says the same, and the third succeeds after the correction.
    with pytest.raises(InputError, match=message):
        sources.load(folder.config(), "train")
    for path in folder.folder.glob("[at]*/*.json"):
        path.unlink()
    noise_image(seed=1).save(folder.folder / "images" / "b.png")
    annotations.write_text(good)
    assert len(sources.load(folder.config(), "train")) == 2
    assert len(list((folder.folder / "prepared").rglob("*.array_record"))) == 1
    assert not list((folder.folder / "prepared").rglob("problems.json"))


def test_conflicting_categories_are_an_error(folder, noise_image):
    folder.add("a.png", noise_image())
    folder.write("train.json")
    folder.coco["categories"][1]["name"] = "bird"
    folder.write("val.json")
    with pytest.raises(
        InputError, match="val calls category 7 'bird', and train calls it 'dog'"
    ):
        sources.load_splits(folder.config(), ["train", "val"])


def test_a_missing_folder_is_an_error(folder):
    config = folder.config()
    config.path = ""
    with pytest.raises(InputError, match=r"configs/folder\.py:path=DIR"):
        sources.load(config, "train")
    config.path = str(folder.folder / "nowhere")
    with pytest.raises(InputError, match="nowhere is not a folder: correct"):
        sources.load(config, "train")


def test_unknown_split_lists_the_known_ones(folder, noise_image):
    folder.add("a.png", noise_image())
    folder.write("train.json")
    folder.write("val.json")
    place = re.escape(f"{folder.folder} (read as COCO)")
    with pytest.raises(InputError, match=f"{place} has no split 'test'; known are tr"):
        sources.load(folder.config(), "test")
