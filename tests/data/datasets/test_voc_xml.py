import pytest

from borrow_det.data.datasets import formats, voc_xml
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Category
from borrow_det.io.problems import Problems

SIZE = (100, 50)


def xml(name="a.png", *objects, size="<width>100</width><height>50</height>"):
    """Returns an annotation file; objects are XML texts."""
    return (
        f"<annotation><folder>images</folder><filename>{name}</filename>"
        f"<size>{size}<depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def thing(name="cat", box=(10, 5, 30, 25), more=""):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{inner}</bndbox></object>"


def read(folder, split="train", problems=None):
    problems = Problems() if problems is None else problems
    return voc_xml.read(voc_xml.splits(folder)[split], problems)


def test_corners_are_taken_as_they_are_written(write):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    folder = write(
        {
            "b.png": SIZE,
            "b.xml": xml(
                "b.png",
                thing("dog", (1, 1, 100, 50), "<truncated>1</truncated>"),
                thing("cat", ("10.5", "5", "30", "25.25"), "<difficult>1</difficult>"),
                f"<object><name>dog</name>{part}</object>",
            ),
            "a.png": SIZE,
            "a.xml": xml(),
        }
    )
    problems = Problems()
    found = read(folder, problems=problems)
    assert not len(problems)
    assert formats.recognize(folder) is formats.VOC
    assert found.categories == (Category("cat", "cat"), Category("dog", "dog"))
    a, b = found.images
    assert (a.id, a.file_name, a.objects) == (1, "a.png", ())
    assert (b.id, b.file_name, b.width, b.height) == (2, "b.png", 100, 50)
    dog, cat, outline = b.objects
    assert (dog.category, dog.bbox, dog.is_difficult) == (1, (1, 1, 99, 49), False)
    assert (cat.category, cat.bbox) == (0, (10.5, 5, 19.5, 20.25))
    assert cat.is_difficult
    assert cat.record == "b.xml, object 2 (cat)"
    assert outline.bbox is None


@pytest.mark.parametrize(
    ("annotation", "image", "split"),
    [
        ("a.xml", "a.png", "train"),
        ("Annotations/a.xml", "JPEGImages/a.png", "train"),
        ("annotations/xmls/a.xml", "images/a.png", "train"),
        ("images/a.xml", "images/a.png", "train"),
        ("valid/a.xml", "valid/a.png", "valid"),
        ("my set/Annotations/a.xml", "my set/JPEGImages/a.png", "my_set"),
        ("annotations/val/a.xml", "images/val/a.png", "val"),
        ("Annotations/val/a.xml", "JPEGImages/val/a.png", "val"),
    ],
)
def test_images_are_found_in_the_usual_layouts(write, annotation, image, split):
    folder = write({annotation: xml("a.png", thing()), image: SIZE})
    write({"other/a.png": SIZE})
    assert formats.recognize(folder) is formats.VOC
    assert list(voc_xml.splits(folder)) == [split]
    (found,) = read(folder, split).images
    assert found.file_name == image


def test_lists_of_images_define_the_splits(write):
    files = {f"Annotations/{stem}.xml": xml(f"{stem}.png", thing()) for stem in "abc"}
    images = {f"JPEGImages/{stem}.png": SIZE for stem in "abc"}
    lists = {
        "ImageSets/Main/train.txt": "b\na\n",
        "ImageSets/Main/val.txt": "c\nd\n",
        "ImageSets/Main/cat_train.txt": "a  1\nb -1\n",
        "ImageSets/Main/test.txt": "",
    }
    folder = write(files | images | lists)
    assert list(voc_xml.splits(folder)) == ["train", "val"]
    names = [image.file_name for image in read(folder, "train").images]
    assert names == ["JPEGImages/a.png", "JPEGImages/b.png"]
    problems = Problems()
    assert len(read(folder, "val", problems).images) == 1
    (problem,) = problems
    assert problem.kind == "damaged annotation file"
    assert problem.file == str(folder / "Annotations/d.xml")
    assert problem.reason == "No such file or directory"


@pytest.mark.parametrize(
    "name",
    ["a.png", "a", "a.jpg", r"C:\photos\a.png", "/home/x/a.png", "renamed.png", ""],
)
def test_image_is_found_by_its_name_or_that_of_the_xml_file(write, name):
    folder = write({"Annotations/a.xml": xml(name), "JPEGImages/a.png": SIZE})
    (image,) = read(folder).images
    assert image.file_name == "JPEGImages/a.png"


def test_renamed_images_keep_the_xml_files_with_their_names(write):
    # Both name 2.png, the name of another image since they were renamed.
    folder = write(
        {
            "1.png": SIZE,
            "2.png": SIZE,
            "1.xml": xml("2.png", thing("cat")),
            "2.xml": xml("3.png", thing("dog")),
        }
    )
    found = read(folder)
    names = [category.name for category in found.categories]
    assert [(i.file_name, names[i.objects[0].category]) for i in found.images] == [
        ("1.png", "cat"),
        ("2.png", "dog"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "photo 1",
        '"photo 1"',
        "photo 1.png",
        "JPEGImages/photo 1.png",
        r"C:\d\JPEGImages\photo 1.png",
    ],
)
def test_lists_of_images_may_have_spaces_quotes_and_paths(write, line):
    folder = write(
        {
            "Annotations/photo 1.xml": xml("photo 1.png", thing()),
            "JPEGImages/photo 1.png": SIZE,
            "ImageSets/Main/train.txt": f"{line}\n",
            "ImageSets/Main/cat_train.txt": "photo +1\n",
            "ImageSets/Main/dog_train.txt": "photo 0\n",
        }
    )
    assert list(voc_xml.splits(folder)) == ["train"]
    (image,) = read(folder).images
    assert image.file_name == "JPEGImages/photo 1.png"


@pytest.mark.parametrize("place", ["images/{}", "{}", "{}/images", "JPEGImages/{}"])
def test_files_in_one_folder_are_divided_by_the_folders_of_their_images(write, place):
    pictures = {"a": "Train", "b": "val", "c": "Train"}
    folder = write(
        {f"{place.format(s)}/{name}.png": SIZE for name, s in pictures.items()}
        | {f"annotations/{name}.xml": xml(f"{name}.png", thing()) for name in "abcd"}
    )
    splits = voc_xml.splits(folder)
    found = {name: read(folder, name).images for name in splits}
    assert {n: {i.file_name for i in images} for n, images in found.items()} == {
        # Missing images are problems of the training split.
        "Train": {*(f"{place.format('Train')}/{n}.png" for n in "ac"), "d.png"},
        "val": {f"{place.format('val')}/b.png"},
    }


def test_files_are_not_divided_by_folders_without_their_images(write):
    folder = write(
        {"a.xml": xml("a.png"), "images/a.png": SIZE, "test/b.png": SIZE}
        | {"images/train/c.png": SIZE}
    )
    assert list(voc_xml.splits(folder)) == ["train"]
    assert voc_xml.splits(folder)["train"].files == (folder,)


def test_folders_with_their_own_lists_are_not_splits(write):
    of_a_year = {"Annotations/a.xml": xml(), "ImageSets/Main/train.txt": "a\n"}
    folder = write(
        {
            f"{y}/{name}": s
            for y in ("VOC2007", "VOC2012")
            for name, s in of_a_year.items()
        }
    )
    message = f"did you mean {folder / 'VOC2007'} or {folder / 'VOC2012'}"
    with pytest.raises(InputError) as error:
        formats.recognize(folder)
    assert message in str(error.value)
    assert list(voc_xml.splits(folder / "VOC2007")) == ["train"]


def test_two_files_of_one_image_are_a_problem(write):
    folder = write(
        {"a.png": SIZE, "a.xml": xml("a.png", thing()), "old a.xml": xml("a.png")}
    )
    problems = Problems()
    (image,) = read(folder, problems=problems).images
    assert (image.record, len(image.objects)) == ("a.xml", 1)
    ((kind, _, record, reason),) = problems
    assert (kind, record) == ("repeated image", "old a.xml")
    assert reason == "a.png is the image of a.xml, too"


def test_missing_image_keeps_its_recorded_name(write):
    folder = write({"a.xml": xml("b.png")})
    (image,) = read(folder).images
    assert image.file_name == "b.png"


def test_size_of_zero_counts_as_absent(write):
    text = xml("a.png", size="<width>0</width><height>0</height>")
    (image,) = read(write({"a.xml": text, "a.png": SIZE})).images
    assert (image.width, image.height) == (None, None)


def test_polygon_of_roboflow_becomes_the_box_around_it(write):
    polygon = "<polygon><x1>9</x1><y1>4</y1><x2>2</x2><y2>8</y2><x3>5</x3><y3>1</y3>"
    text = f"<object><name>cat</name>{polygon}</polygon></object>"
    (image,) = read(write({"a.xml": xml("a.png", text), "a.png": SIZE})).images
    assert image.objects[0].bbox == (2, 1, 7, 7)


def test_damaged_files_and_objects_are_problems(write):
    folder = write(
        {
            "a.png": SIZE,
            "a.xml": xml(
                "a.png",
                thing(more="<difficult>maybe</difficult>"),
                thing(name=" "),
                thing(box=("x", 1, 2, 3)),
            ),
            "b.xml": "<annotation><object>",
            "c.xml": "<note/>",
        }
    )
    problems = Problems()
    (image,) = read(folder, problems=problems).images
    assert [item.bbox for item in image.objects] == [None]
    assert image.objects[0].bbox_text == "xmin x, ymin 1, xmax 2, ymax 3"
    assert [(p.kind, p.file, p.record) for p in problems] == [
        ("wrong flag", str(folder / "a.xml"), "object 1 (cat)"),
        ("object without class", str(folder / "a.xml"), "object 2"),
        ("damaged annotation file", str(folder / "b.xml"), ""),
        ("damaged annotation file", str(folder / "c.xml"), ""),
    ]
    reasons = [problem.reason for problem in problems]
    assert reasons[0] == "difficult is 'maybe', not 0, 1, true or false"
    assert reasons[2].startswith("is not XML: no element found")
    assert reasons[3] == "its root is <note>, not <annotation>"


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE annotation [<!ENTITY a "cat">]>',
        '<!DOCTYPE annotation [<!ENTITY a SYSTEM "secret.txt">]>',
        '<!DOCTYPE annotation SYSTEM "http://localhost/x.dtd">',
        '<!DOCTYPE annotation [<!ENTITY % a SYSTEM "file:///etc/passwd"> %a;]>',
    ],
)
def test_entities_are_refused(write, doctype):
    text = doctype + xml("a.png", thing("&a;"))
    folder = write({"a.xml": text, "a.png": SIZE, "secret.txt": "secret"})
    problems = Problems()
    with pytest.raises(InputError, match="lists no images of the split train"):
        read(folder, problems=problems)
    (problem,) = problems
    assert problem.reason == (
        "has a document type (<!DOCTYPE ...>), which could define entities: remove it"
    )


def test_expanding_entities_are_refused_before_they_expand(write):
    entities = ['<!ENTITY a0 "catcatcatcat">']
    for i in range(1, 20):
        entities.append(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">')
    text = f"<!DOCTYPE annotation [{''.join(entities)}]>" + xml("a", thing("&a19;"))
    folder = write({"a.xml": text, "b.xml": xml("b"), "b.png": SIZE})
    problems = Problems()
    assert len(read(folder, problems=problems).images) == 1
    assert [problem.file for problem in problems] == [str(folder / "a.xml")]
