import numpy as np
import PIL.Image
import pytest

from borrow_det.data.datasets import formats, yolo
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Category
from borrow_det.io.problems import Problems

SIZE = (100, 50)  # Width and height of the images.


def read(folder, split, problems=None):
    problems = Problems() if problems is None else problems
    return yolo.read(yolo.splits(folder)[split], problems)


def boxes(image):
    return [(item.category, *np.round(item.bbox, 9).tolist()) for item in image.objects]


def test_label_lines_become_boxes_in_pixels(write):
    folder = write(
        {
            "data.yaml": "train: images\nnames: [cat, dog]\n",
            "images/b.png": SIZE,
            "images/a.png": SIZE,
            "labels/b.txt": "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.2 0.4\n",
        }
    )
    problems = Problems()
    found = read(folder, "train", problems)
    assert not len(problems)
    assert found.path == folder / "data.yaml"
    assert found.categories == (Category(1, "cat"), Category(2, "dog"))
    a, b = found.images
    assert (a.id, a.file_name, a.width, a.height) == (1, "images/a.png", 100, 50)
    assert a.objects == ()  # No label file: no objects.
    assert (b.id, b.file_name) == (2, "images/b.png")
    assert boxes(b) == [(1, 40, 15, 20, 20), (0, 0, 0, 20, 20)]
    assert b.objects[1].record == "labels/b.txt, line 3"


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.1 0.2 0.5 0.2 0.3 0.8", (10, 10, 40, 30)),  # A polygon of a segmentation.
        ("0 0.3 0.1 0.5 0.3 0.3 0.5 0.1 0.3", (10, 5, 40, 20)),  # An oriented box.
        ("0 0.5 0.5 0.2 0.4 0.9", (40, 15, 20, 20)),  # A confidence at the end.
        ("0.0 0.5 0.5 0.2 0.4", (40, 15, 20, 20)),  # Written by numpy.savetxt.
    ],
)
def test_other_forms_of_lines_become_boxes(write, line, box):
    folder = write(
        {
            "data.yaml": "train: images\nnames: [cat]",
            "images/a.png": SIZE,
            "labels/a.txt": line,
        }
    )
    (image,) = read(folder, "train").images
    assert boxes(image) == [(0, *box)]


def test_keypoints_of_a_pose_label_are_not_a_polygon(write):
    folder = write(
        {
            "data.yaml": "train: images\nnames: [cat]\nkpt_shape: [2, 3]",
            "images/a.png": SIZE,
            "labels/a.txt": "0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.9 0.9 2",
        }
    )
    (image,) = read(folder, "train").images
    assert boxes(image) == [(0, 40, 15, 20, 20)]


def test_fractions_are_those_of_the_upright_image(write, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    folder = write({"data.yaml": "train: images\nnames: [cat]", "images/b.png": SIZE})
    PIL.Image.new("RGB", SIZE).save(tmp_path / "images/a.jpg", exif=exif)
    write({"labels/a.txt": "0 0.5 0.5 0.2 0.4"})
    image = read(folder, "train").images[0]
    assert (image.width, image.height) == (50, 100)
    assert boxes(image) == [(0, 20, 30, 10, 40)]


def test_damaged_lines_and_images_are_problems(write):
    folder = write(
        {
            "data.yaml": "train: train.txt\nnames: {0: cat, 2: dog}",
            "train.txt": "./images/a.png\nimages/b.png\nimages/c.png\n",
            "images/a.png": SIZE,
            "images/b.png": "no image",
            "labels/a.txt": "0 0.5 0.5\n0 x 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n"
            "0.5 0.5 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1\n0 .1 .2 .3 .4 .5 .6 .7",
        }
    )
    problems = Problems()
    found = read(folder, "train", problems)
    assert [(category.id, category.name) for category in found.categories] == [
        (1, "cat"),
        (3, "dog"),
    ]
    (image,) = found.images
    assert [item.category for item in image.objects] == [1]
    labels = str(folder / "labels/a.txt")
    assert [tuple(p)[:3] for p in problems] == [
        ("damaged line", labels, "line 1"),
        ("damaged line", labels, "line 2"),
        ("unknown class", labels, "line 3"),
        ("damaged line", labels, "line 4"),
        ("damaged line", labels, "line 6"),
        ("damaged image", str(folder / "images/b.png"), ""),
        ("missing image", str(folder / "images/c.png"), ""),
    ]
    reasons = [problem.reason for problem in problems]
    assert reasons[1] == "'0 x 0.5 0.1 0.1' has a text that is no number"
    assert reasons[2] == "class 1 is not in data.yaml, which has 2 classes from 0"


@pytest.mark.parametrize(
    ("yaml", "image", "label"),
    [
        ("train: images/train", "images/train/a.png", "labels/train/a.txt"),
        ("train: train/images", "train/images/a.png", "train/labels/a.txt"),
        ("train: ../train/images", "train/images/a.png", "train/labels/a.txt"),
        ("train: /content/d/train/images", "train/images/a.png", "train/labels/a.txt"),
        (r"train: D:\d\train\images", "train/images/a.png", "train/labels/a.txt"),
        ("path: data\ntrain: images", "data/images/a.png", "data/labels/a.txt"),
        ("path: ../d\ntrain: images", "images/a.png", "labels/a.txt"),
        ("train: [none, images/a]", "images/a/a.png", "labels/a/a.txt"),
        ("train: train", "train/a.png", "train/a.txt"),
        ("train: .", "a.png", "a.txt"),
        ("train: train", "train/a.png", "labels/train/a.txt"),
        ("train: Images/train", "Images/train/a.png", "Labels/train/a.txt"),
        ("nc: 1", "images/train/a.png", "labels/train/a.txt"),
        ("nc: 1", "train/images/a.png", "train/labels/a.txt"),
        ("nc: 1", "train/a.png", "train/a.txt"),
        ("nc: 1", "images/a.png", "labels/a.txt"),
        ("nc: 1", "a.png", "a.txt"),
    ],
)
def test_images_and_labels_are_found_in_the_usual_layouts(write, yaml, image, label):
    folder = write(
        {"data.yaml": f"{yaml}\nnames: [cat]", image: SIZE, label: "0 .5 .5 .2 .4"}
    )
    assert formats.recognize(folder) is formats.YOLO
    assert list(yolo.splits(folder)) == ["train"]
    (found,) = read(folder, "train").images
    assert found.file_name == image
    assert boxes(found) == [(0, 40, 15, 20, 20)]


@pytest.mark.parametrize("path", ["../original", "{above}/original"])
def test_images_of_a_copy_come_before_those_of_its_original(write, path):
    files = {"images/a.png": SIZE, "labels/a.txt": "0 .5 .5 .2 .4"}
    above = write({f"original/{name}": content for name, content in files.items()})
    yaml = f"path: {path.format(above=above)}\ntrain: images\nnames: [cat]"
    write({f"copy/{name}": c for name, c in (files | {"data.yaml": yaml}).items()})
    assert read(above / "copy", "train").images[0].file_name == "images/a.png"
    # Without images in the folder, those of `path` are read.
    write({"yaml/data.yaml": yaml})
    (image,) = read(above / "yaml", "train").images
    assert image.file_name == str(above / "original/images/a.png")
    assert boxes(image) == [(0, 40, 15, 20, 20)]


def test_links_to_folders_of_images_are_followed(write):
    folder = write(
        {
            "data.yaml": "train: images\nnames: [cat]",
            "images/a.png": SIZE,
            "elsewhere/b.png": SIZE,
            "labels/link/b.txt": "0 .5 .5 .2 .4",
        }
    )
    (folder / "images/link").symlink_to("../elsewhere")
    (folder / "images/circle").symlink_to(".")
    a, b = read(folder, "train").images
    assert (a.file_name, b.file_name) == ("images/a.png", "images/link/b.png")
    assert boxes(b) == [(0, 40, 15, 20, 20)]


def test_links_bring_no_images_of_another_split_and_none_twice(write):
    folder = write(
        {
            "data.yaml": "train: images/train\nval: images/val\nnames: [cat]\n",
            "images/train/a/a.png": SIZE,
            "images/val/b.png": SIZE,
        }
    )
    (folder / "images/train/up").symlink_to("..")
    (folder / "images/train/again").symlink_to("a")
    (folder / "images/train/gone.png").symlink_to("gone.png")
    found = read(folder, "train")
    assert [image.file_name for image in found.images] == ["images/train/a/a.png"]


def test_folder_that_macos_adds_to_zip_files_is_not_a_split(write):
    folder = write(
        {
            "classes.txt": "cat",
            "images/a.png": SIZE,
            "labels/a.txt": "0 .5 .5 .2 .4",
            "__MACOSX/images/._a.png": "",
        }
    )
    assert list(yolo.splits(folder)) == ["train"]


def test_roboflow_export_has_the_splits_of_its_data_yaml(write):
    folder = write(
        {
            "data.yaml": "train: ../train/images\nval: ../valid/images\n"
            "test: ../test/images\nnc: 1\nnames: ['0']\nroboflow:\n  version: 1\n",
            "train/images/a.png": SIZE,
            "train/labels/a.txt": "",
            "valid/images/b.png": SIZE,
            "valid/labels/b.txt": "0 .5 .5 .2 .4",
        }
    )
    assert list(yolo.splits(folder)) == ["train", "val"]
    (image,) = read(folder, "val").images
    assert (image.file_name, len(image.objects)) == ("valid/images/b.png", 1)
    line = f"{folder}: YOLO (data.yaml), splits train, val, without the images of test"
    assert formats.YOLO.describe(folder) == line


def test_darknet_folder_of_cvat_is_read_without_yaml(write):
    folder = write(
        {
            "obj.data": "classes = 1\nnames = data/obj.names\n",
            "obj.names": "cat\ndog\n",
            "train.txt": "data/obj_train_data/frames/a.png\n",
            "obj_train_data/frames/a.png": SIZE,
            "obj_train_data/frames/a.txt": "1 .5 .5 .2 .4",
        }
    )
    assert formats.recognize(folder) is formats.YOLO
    found = read(folder, "train")
    assert [category.name for category in found.categories] == ["cat", "dog"]
    assert boxes(found.images[0]) == [(1, 40, 15, 20, 20)]


def test_lists_and_names_of_darknet_may_have_any_names(write):
    folder = write(
        {
            "obj.data": "train  = data/a.txt\nvalid=data/b.txt\nnames = x/my.names\n",
            "my.names": "cat\n\ndog\n",
            "a.txt": "data/obj/a.png\n",
            "b.txt": "data/obj/b.png\n",
            "obj/a.png": SIZE,
            "obj/b.png": SIZE,
            "obj/b.txt": "2 .5 .5 .2 .4",
        }
    )
    assert formats.recognize(folder) is formats.YOLO
    assert list(yolo.splits(folder)) == ["train", "valid"]
    found = read(folder, "valid")
    # An empty line in the list of names is a class, too.
    assert [category.name for category in found.categories] == ["cat", "unnamed", "dog"]
    assert [image.file_name for image in found.images] == ["obj/b.png"]
    assert boxes(found.images[0]) == [(2, 40, 15, 20, 20)]


def test_classes_txt_of_labelimg_names_the_classes(write):
    folder = write(
        {
            "images/a.png": SIZE,
            "labels/a.txt": "1 .5 .5 .2 .4",
            "labels/classes.txt": "cat\ndog\n",
        }
    )
    assert formats.recognize(folder) is formats.YOLO
    (image,) = read(folder, "train").images
    assert boxes(image) == [(1, 40, 15, 20, 20)]


def test_names_are_texts_as_they_are_written(write):
    folder = write({"data.yaml": "names: [no, 007, 1.50, cat, ' cat ', '']"})
    write({"a.png": SIZE})
    categories = read(folder, "train").categories
    names = ["no", "007", "1.50", "cat", "cat (5)", "unnamed"]
    assert [category.name for category in categories] == names


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "data.yaml has no names of classes"),
        ("names: cat", "data.yaml has no names of classes"),
        ("names: {a: cat}", "names has the entry 'a': 'cat'; it must be a number"),
        ("names: [cat", "data.yaml is not YAML"),
        ("- cat", "data.yaml has no keys"),
        ("names: [cat]\nkpt_shape: 3", "kpt_shape is '3', not"),
        ("names: !!python/object/apply:os.getcwd []", "has no names of classes"),
    ],
)
def test_damaged_data_yaml_is_an_error(write, yaml, message):
    folder = write({"data.yaml": yaml, "images/a.png": SIZE})
    with pytest.raises(InputError, match=message):
        read(folder, "train")


def test_data_yaml_without_its_images_is_an_error(write):
    folder = write({"data.yaml": "names: [cat]\ntrain: ../x/images\nval: y"})
    with pytest.raises(InputError, match=r"none of the images .*train: '../x/images'"):
        yolo.splits(folder)


def test_aliases_of_aliases_are_not_expanded(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 12):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")
    folder = write({"data.yaml": "\n".join([*lines, "names: *a11", "train: *a11"])})
    write({"a.png": SIZE})
    with pytest.raises(InputError, match="names has the entry 0"):
        read(folder, "train")
