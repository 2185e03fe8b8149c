"""The option `references` of a call, and the rules that name the references."""

import ml_collections
import numpy as np
import PIL.Image
import pytest

from borrow_det.errors import InputError
from borrow_det.inference import references
from borrow_det.tiling.views import windows

IMAGE = np.zeros((60, 80, 3), np.uint8)
ALONE = windows((60, 80), (60, 80), 0.2)
TILES = windows((60, 80), (40, 40), 0.2)  # Six tiles and the entire image.


def run_config(kind="none", enabled=True, source="deeper", levels=(0,)):
    return ml_collections.ConfigDict(
        {
            "references": {"kind": kind},
            "borrow": {"enabled": enabled, "source": source, "levels": levels},
        }
    )


def choose(value, config=None, tiled=False, **options):
    return references.choose_rule(value, config or run_config(), tiled=tiled, **options)


def known(views):
    """Returns (number, key, references) of each view."""
    return [view[1:] for view in views]


# --- rules


@pytest.mark.parametrize("shown", [ALONE, TILES, TILES[:-1]])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_images_borrow_from_the_last_ones_that_entered(shown, count, stride):
    rule = references.LastImages(count, stride)
    assert rule.count == count
    entered = {}  # By number of the image.
    for number in range(11):
        views = rule.views(IMAGE, shown)
        earlier = [entered[i] for i in range(number) if i % stride == 0]
        assert {view.references for view in views} == {tuple(earlier[-count:])}
        keys = [view.key for view in views if view.key is not None]
        assert len(keys) == (number % stride == 0)
        if keys:
            # It replaces the oldest only when all views of its image are computed.
            assert views[-1].key == keys[0]
            assert views[-1].window.tolist() == [0, 0, 60, 80]
            entered[number] = keys[0]
        numbers = [view.number for view in views if view.number is not None]
        assert sorted(numbers) == list(range(len(shown)))
        for view in views:
            if view.number is not None:
                assert view.window.tolist() == shown[view.number].tolist()
        # The entire image is a further view only where its maps are needed.
        assert len(views) == len(shown) + (len(shown) == 6 and bool(keys))
    assert len(set(entered.values())) == len(entered)


def test_a_cut_empties_the_ring_and_its_next_image_enters():
    dark, bright = (np.full((60, 80, 3), level, np.uint8) for level in (20, 200))
    film = [dark, dark, dark, bright, bright, dark]
    rule = references.LastImages(4, stride=2, cuts=True)
    found = [known(rule.views(image, ALONE)) for image in film]
    assert found == [
        [(0, 0, ())],
        [(0, None, (0,))],
        [(0, 1, (0,))],
        [(0, 2, ())],
        [(0, None, (2,))],
        [(0, 3, ())],
    ]
    without = references.LastImages(4, stride=2)
    last = [without.views(image, ALONE) for image in film][-1]
    assert known(last) == [(0, None, (0, 1, 2))]


def test_the_overview_is_computed_first_and_lends_to_all_views_of_its_image():
    rule = references.Overview()
    assert rule.count == 1
    for key in range(3):
        views = rule.views(IMAGE, TILES)
        assert known(views) == [
            (6, key, (key,)),
            *((number, None, (key,)) for number in range(6)),
        ]
        assert views[0].window.tolist() == [0, 0, 60, 80]
        np.testing.assert_array_equal([v.window for v in views[1:]], TILES[:6])
    # Without it among the views, its detections are dropped.
    assert known(rule.views(IMAGE, TILES[:6]))[0] == (None, 3, (3,))
    assert known(rule.views(IMAGE, ALONE)) == [(0, 4, (4,))]


def test_exemplars_lend_to_every_view():
    rule = references.Exemplars([IMAGE, IMAGE, IMAGE])
    assert rule.count == 3
    for _ in range(2):
        views = rule.views(IMAGE, TILES)
        assert known(views) == [(number, None, (0, 1, 2)) for number in range(7)]
        np.testing.assert_array_equal([view.window for view in views], TILES)


# --- the option


@pytest.fixture
def folder(tmp_path):
    """A folder of two images (one in a folder below), a video and a text."""
    for level, name in enumerate(("a.png", "below/b.png")):
        path = tmp_path / "exemplars" / name
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(path)
    (tmp_path / "exemplars/c.mp4").write_bytes(b"not read")
    (tmp_path / "exemplars/d.txt").write_text("neither")
    return tmp_path / "exemplars"


def test_texts_and_numbers_are_read(folder):
    assert references.parse(None) is None
    assert references.parse("none") == "none"
    assert references.parse("overview") == "overview"
    for value in (8, "8", np.int64(8)):
        parsed = references.parse(value)
        assert type(parsed) is int
        assert parsed == 8


@pytest.mark.parametrize("of", [str, lambda path: path])
def test_the_images_of_a_folder_are_exemplars(folder, of):
    images = references.parse(of(folder))
    assert [image.tolist() for image in images] == [
        np.full((4, 5, 3), level).tolist() for level in (0, 1)
    ]
    # They are read once: a list of them is taken as it is.
    again = references.parse(images)
    assert all(one is other for one, other in zip(again, images, strict=True))


def test_images_of_every_kind_are_exemplars(folder):
    path = folder / "below/b.png"
    one = np.ones((4, 5, 3), np.uint8)
    for value in (path, str(path), one, PIL.Image.open(path), [path], iter([one])):
        (image,) = references.parse(value)
        np.testing.assert_array_equal(image, one)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "references=0 is not a number of images: give a number of images from 1"),
        ("0", "references=0 is not a number of images"),
        (-3, "references=-3 is not a number of images"),
        (True, "references=True is not a number of images"),
        (1.5, "references is of type float: give a number of images from 1 on, over"),
        ("", "references=: there is no such folder; give a number of images"),
        ("nowhere", "references=nowhere: there is no such folder; give a number"),
        ("EMPTY", "references=EMPTY: there is no image in it; exemplars are images"),
        ("VIDEOS", "references=VIDEOS: there is no image in it; exemplars are images"),
        ([], "references is an empty list: give a number of images from 1 on"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        ([IMAGE, 3], "references[1] is of type int: pass a path, a NumPy array or"),
        ("BROKEN", "BROKEN/a.png is not an image that Pillow can read: replace it"),
    ],
)
def test_wrong_references_give_one_sentence(tmp_path, value, message):
    for name in ("EMPTY", "VIDEOS", "BROKEN"):
        (tmp_path / name).mkdir()
    (tmp_path / "VIDEOS/a.mp4").write_bytes(b"")
    (tmp_path / "BROKEN/a.png").write_bytes(b"junk")
    given = value
    if isinstance(value, str) and value.isupper():
        given = str(tmp_path / value)
    with pytest.raises(InputError) as caught:
        references.parse(given)
    told = str(caught.value).replace(f"{tmp_path}/", "")
    assert told.startswith(message)
    assert "\n" not in told
    if given is value and isinstance(value, (int, str)):
        with pytest.raises(InputError) as caught:
            references.parse(given, prefix="--")
        assert str(caught.value).startswith(f"--{message}")


# --- the rule of a call


@pytest.mark.parametrize(
    ("value", "kind", "tiled", "expected"),
    [
        (None, "none", True, type(None)),
        (None, "group", True, type(None)),
        (None, "overview", True, references.Overview),
        (None, "overview", False, type(None)),
        ("none", "overview", True, type(None)),
        ("overview", "overview", False, references.Overview),
        ("overview", "group", True, references.Overview),
        (2, "overview", True, references.LastImages),
        ([IMAGE], "group", False, references.Exemplars),
    ],
)
def test_the_default_is_the_overview_for_tiles_of_a_run_trained_with_it(
    value, kind, tiled, expected, recwarn
):
    assert type(choose(value, run_config(kind), tiled)) is expected
    assert not recwarn.list


def test_the_ring_has_the_options_of_the_call():
    rule = choose(3, run_config("group"), stride=2, cuts=True)
    assert (rule.count, rule._stride, rule._cuts) == (3, 2, True)


@pytest.mark.parametrize("value", ["overview", 2, [IMAGE]])
def test_a_run_without_references_takes_them_with_a_warning(value):
    with pytest.warns(UserWarning, match="trained without references") as caught:
        choose(value, run_config("none"))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize("value", ["overview", 2, [IMAGE]])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (run_config(enabled=False), "this one has borrow.enabled=False: leave"),
        (run_config(levels=()), r"this run has none \(borrow.levels is empty\): leave"),
        (
            run_config(source="same"),
            "borrow.source=deeper, and this run has same: leave",
        ),
    ],
)
def test_a_run_that_cannot_borrow_from_references_refuses_them(value, config, message):
    with pytest.raises(InputError, match=message):
        choose(value, config)
    assert choose("none", config) is None
    assert choose(None, config, tiled=True) is None


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (2, {"stride": 0}, "reference_stride=0 is not a number of images from 1 on"),
        (2, {"stride": 1.5}, "reference_stride=1.5 is not a number of images"),
        (None, {"stride": 2}, "reference_stride needs references=N, a number of last"),
        ("overview", {"cuts": True}, "reference_cuts needs references=N, a number"),
        ([IMAGE], {"cuts": True}, "reference_cuts needs references=N, a number"),
    ],
)
def test_options_of_the_ring_are_checked(value, options, message):
    with pytest.raises(InputError) as caught:
        choose(value, run_config("overview"), **options)
    assert str(caught.value).startswith(message)
