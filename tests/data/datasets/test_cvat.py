import math

import numpy as np
import pytest

from borrow_det.data.datasets import cvat, formats
from borrow_det.errors import InputError
from borrow_det.io.problems import Problems

SIZE = (100, 50)
LABELS = (
    "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label>"
    "<label><name>nose</name><type>points</type></label></labels>"
    "<original_size><width>100</width><height>50</height></original_size>"
    "<source>clip.mp4</source></task></meta>"
)


def xml(*content, meta=LABELS):
    return f"<annotations><version>1.1</version>{meta}{''.join(content)}</annotations>"


def image(name, *shapes, more=""):
    size = 'width="100" height="50"'
    return f'<image id="0" name="{name}" {size} {more}>{"".join(shapes)}</image>'


def box(label="cat", sides=(10, 5, 30, 25), more="", inner=""):
    values = zip(("xtl", "ytl", "xbr", "ybr"), sides, strict=True)
    text = " ".join(f'{name}="{value}"' for name, value in values)
    return f'<box label="{label}" occluded="0" {text} {more}>{inner}</box>'


def attribute(name, value):
    return f'<attribute name="{name}">{value}</attribute>'


def read(folder, split="train", problems=None):
    problems = Problems() if problems is None else problems
    return cvat.read(cvat.splits(folder)[split], problems)


def test_boxes_and_labels_of_images(write):
    flags = attribute("Difficult", "true") + attribute("color", "red")
    folder = write(
        {
            "annotations.xml": xml(
                image("b.png", box("dog", inner=flags), box()), image("a.png")
            ),
            "images/a.png": SIZE,
            "images/b.png": SIZE,
        }
    )
    problems = Problems()
    found = read(folder, problems=problems)
    assert not len(problems)
    assert formats.recognize(folder) is formats.CVAT
    line = f"{folder}: CVAT XML (annotations.xml), split train"
    assert formats.CVAT.describe(folder) == line
    assert [tuple(category) for category in found.categories] == [
        ("cat", "cat"),
        ("dog", "dog"),
    ]
    a, b = found.images
    assert (a.id, a.file_name, a.objects) == (1, "images/a.png", ())
    assert (b.id, b.file_name, b.width, b.height) == (2, "images/b.png", 100, 50)
    dog, cat = b.objects
    assert (dog.category, dog.bbox, dog.is_difficult) == (1, (10, 5, 20, 20), True)
    assert (cat.category, cat.bbox, cat.is_difficult) == (0, (10, 5, 20, 20), False)
    assert dog.record == "image 1 (b.png), box 1"


CUBOID = " ".join(
    f'x{corner}="{10 + i}" y{corner}="{20 - i}"'
    for i, corner in enumerate(
        f"{e}{n}" for e in ("tl", "bl", "tr", "br") for n in "12"
    )
)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (box(more='rotation="90.0"', sides=(10, 10, 30, 20)), (15, 5, 10, 20)),
        (
            box(more='rotation="45"', sides=(10, 10, 20, 20)),
            (15 - math.sqrt(50), 15 - math.sqrt(50), math.sqrt(200), math.sqrt(200)),
        ),
        ('<polygon label="cat" points="9,4;2,8;5,1.5"/>', (2, 1.5, 7, 6.5)),
        ('<polyline label="cat" points="9,4;2,8"/>', (2, 4, 7, 4)),
        ('<ellipse label="cat" cx="50" cy="20" rx="10" ry="5"/>', (40, 15, 20, 10)),
        (
            '<ellipse label="cat" cx="50" cy="20" rx="10" ry="5" rotation="90"/>',
            (45, 10, 10, 20),
        ),
        (
            '<mask label="cat" rle="4" left="3" top="4" width="5" height="6"/>',
            (3, 4, 5, 6),
        ),
        (f'<cuboid label="cat" {CUBOID}/>', (10, 13, 7, 7)),
        ('<polygon label="cat" points="9,4;2"/>', None),
        ('<polygon label="cat" points="9,x;2,3"/>', None),
        ('<box label="cat" xtl="1"/>', None),
    ],
)
def test_shapes_become_the_box_around_them(write, shape, expected):
    folder = write({"annotations.xml": xml(image("a.png", shape)), "a.png": SIZE})
    (item,) = read(folder).images[0].objects
    if expected is None:
        assert item.bbox is None
    else:
        np.testing.assert_allclose(item.bbox, expected, rtol=1e-12)


def test_points_skeletons_and_tags_are_not_objects(write):
    points = '<points label="nose" points="1,2"/>'
    skeleton = f'<skeleton label="cat">{points}</skeleton><tag label="cat"/>'
    folder = write(
        {"annotations.xml": xml(image("a.png", points, skeleton)), "a.png": SIZE}
    )
    found = read(folder)
    assert found.images[0].objects == ()
    assert [category.name for category in found.categories] == ["cat", "dog"]


def test_subsets_of_a_project_are_splits(write):
    folder = write(
        {
            "annotations.xml": xml(
                image("a.png", box(), more='subset="Train"'),
                image("a.png", more='subset="Val set"'),
            ),
            "images/Train/a.png": SIZE,
            "images/Val set/a.png": SIZE,
        }
    )
    assert list(cvat.splits(folder)) == ["Train", "Val_set"]
    (train,) = read(folder, "Train").images
    assert (train.file_name, len(train.objects)) == ("images/Train/a.png", 1)


@pytest.mark.parametrize(
    ("annotation", "picture", "split"),
    [
        ("annotations.xml", "images/a.png", "train"),
        ("annotations.xml", "a.png", "train"),
        ("val/annotations.xml", "val/images/a.png", "val"),
        ("annotations/val.xml", "images/a.png", "val"),
        ("val.xml", "val/a.png", "val"),
    ],
)
def test_files_and_images_are_found_in_the_usual_layouts(
    write, annotation, picture, split
):
    folder = write({annotation: xml(image("a.png", box())), picture: SIZE})
    assert formats.recognize(folder) is formats.CVAT
    assert list(cvat.splits(folder)) == [split]
    (found,) = read(folder, split).images
    assert found.file_name == picture


def test_tracks_of_a_video_are_read_with_its_frames(write):
    track = "".join(
        [
            '<track id="0" label="cat">',
            box(sides=(0, 0, 10, 10), more='frame="0" outside="0" keyframe="1"'),
            box(sides=(1, 1, 11, 11), more='frame="1" outside="0" keyframe="0"'),
            box(sides=(1, 1, 11, 11), more='frame="2" outside="1" keyframe="1"'),
            box(sides=(1, 1, 11, 11), more='frame="9" outside="0"'),
            "</track>",
        ]
    )
    frames = {f"images/frame_{i:06d}.png": SIZE for i in range(3)}
    folder = write({"annotations.xml": xml(track), **frames})
    problems = Problems()
    images = read(folder, problems=problems).images
    assert [image.file_name for image in images] == list(frames)
    assert [[item.bbox for item in image.objects] for image in images] == [
        [(0, 0, 10, 10)],
        [(1, 1, 10, 10)],
        [],
    ]
    assert images[1].fields == {"video": "clip.mp4", "frame": 1}
    assert (images[1].width, images[1].height) == (100, 50)
    (problem,) = problems
    assert (problem.kind, problem.record) == ("missing image", "track 1, frame 9")


def test_video_without_frames_is_an_error(write):
    track = f'<track id="0" label="cat">{box(more="frame=" + chr(34) * 2)}</track>'
    folder = write({"annotations.xml": xml(track)})
    with pytest.raises(InputError, match="no images of its frames: export with 'Save"):
        read(folder)


def frames_of(numbers):
    shapes = [box(more=f'frame="{number}" outside="0"') for number in numbers]
    return f'<track id="0" label="cat">{"".join(shapes)}</track>'


def task(start, stop, step=""):
    ends = f"<start_frame>{start}</start_frame><stop_frame>{stop}</stop_frame>"
    return f"<task>{ends}<frame_filter>{step}</frame_filter></task>"


@pytest.mark.parametrize(
    ("meta", "tracked", "names", "expected"),
    [
        # Numbers of frames, of a clip that starts at 7, too.
        (task(0, 9), [1, 2], ["f_1", "f_2"], ["f_1", "f_2"]),
        (task(7, 9), [7, 8], ["f_7", "f_8", "f_9"], ["f_7", "f_8"]),
        ("", [1, 2], ["f_1", "f_2", "f_3"], ["f_1", "f_2"]),
        # Numbers from 1, as those of ffmpeg, and names without numbers.
        (task(0, 2), [1, 2], ["f_1", "f_2", "f_3"], ["f_2", "f_3"]),
        (task(0, 2), [0, 2], ["a", "b", "c"], ["a", "c"]),
        (task(0, 4, "step=2"), [0, 4], ["a", "b", "c"], ["a", "c"]),
        # Frames outside of the stated ones show that those do not count.
        (task(0, 1), [7, 8], ["f_7", "f_8"], ["f_7", "f_8"]),
    ],
)
def test_frames_are_found_by_number_or_in_their_order(
    write, meta, tracked, names, expected
):
    pictures = {f"images/{name}.png": SIZE for name in names}
    folder = write({"annotations.xml": xml(frames_of(tracked), meta=meta), **pictures})
    problems = Problems()
    images = read(folder, problems=problems).images
    assert not len(problems)
    assert len(images) == len(names)
    assert [i.file_name for i in images if i.objects] == [
        f"images/{name}.png" for name in expected
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["a_0", "a_1", "b_0", "b_1"],  # Of two videos.
        ["1", "2", "3"],  # One too many.
        [*map(str, range(1, 11))],  # 10 is before 2 in the order of names.
    ],
)
def test_frames_that_cannot_be_told_apart_are_an_error(write, names):
    meta = task(0, 9 if len(names) == 10 else 1)
    pictures = {f"images/{name}.png": SIZE for name in names}
    folder = write({"annotations.xml": xml(frames_of([0]), meta=meta), **pictures})
    with pytest.raises(InputError, match=f"names of the {len(names)} images in .* not"):
        read(folder)


def test_tracks_of_several_tasks_are_an_error(write):
    track = '<track id="0" label="cat" task_id="{}" subset="default">{}</track>'
    shape = box(more='frame="0" outside="0"')
    frame = {"images/default/frame_000000.png": SIZE}
    one = xml(track.format(1, shape))
    (image,) = read(write({"annotations.xml": one, **frame})).images
    assert len(image.objects) == 1
    two = xml(track.format(1, shape), track.format(2, shape))
    with pytest.raises(InputError, match="tracks of several tasks"):
        read(write({"annotations.xml": two}))


def test_images_without_a_subset_are_of_the_subset_default(write):
    two = [image("a.png", box(), more='subset="val"'), image("b.png")]
    folder = write({"annotations.xml": xml(*two), "a.png": SIZE, "b.png": SIZE})
    assert list(cvat.splits(folder)) == ["default", "val"]
    (found,) = read(folder, "default").images
    assert found.file_name == "b.png"


def test_images_of_two_tasks_with_one_name_are_problems(write):
    two = [image("a.png", box()), image("a.png")]
    folder = write({"annotations.xml": xml(*two), "images/a.png": SIZE})
    problems = Problems()
    (found,) = read(folder, problems=problems).images
    assert len(found.objects) == 1
    ((kind, _, record, reason),) = problems
    assert (kind, record) == ("repeated image", "image 2 (a.png)")
    assert reason == "images/a.png is the image of image 1 (a.png), too"


def test_wrong_records_are_problems(write):
    folder = write(
        {
            "annotations.xml": xml(
                image("a.png", box(""), box(inner=attribute("ignore", "maybe")), box())
            ),
            "a.png": SIZE,
        }
    )
    problems = Problems()
    assert len(read(folder, problems=problems).images[0].objects) == 1
    assert [(p.kind, p.record, p.reason) for p in problems] == [
        ("object without class", "image 1 (a.png), box 1", "it has no label"),
        (
            "wrong flag",
            "image 1 (a.png), box 2",
            "ignore is 'maybe', not 0, 1, true or false",
        ),
    ]


def test_entities_are_refused(write):
    text = '<!DOCTYPE annotations [<!ENTITY a "cat">]>' + xml(
        image("a.png", box("&a;"))
    )
    folder = write({"annotations.xml": text})
    with pytest.raises(InputError, match=r"annotations\.xml has a document type"):
        cvat.splits(folder)
