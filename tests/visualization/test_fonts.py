"""Text in pictures: fonts by script, and names that no font can draw."""

import io
import json
import warnings

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from matplotlib import font_manager
from PIL import features

from borrow_det.visualization import annotate, curves, fonts

CAR, WHEEL, KA, VIRAMA = "汽", "车", "क", "\u094d"
NAMES = {
    "Latin": "Fußgänger",
    "Cyrillic": "кошка",
    "Greek": "γάτα",
    "Arabic": "قطة",
    "Chinese": "汽车",
    "Hindi": "हिन्दी",
    "Thai": "รถยนต์",
    "emoji": "😀🚗",
}
MISSING = "\U0010ffff"  # No character: every font shows its missing-glyph box.


def outline(*rectangles):
    pen = TTGlyphPen(None)
    for left, bottom, right, top in rectangles:
        pen.moveTo((left, bottom))
        for point in ((left, top), (right, top), (right, bottom)):
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()


def font_bytes(glyphs, name="Tiny"):
    """A font of 1000 units an em: character -> rectangles; .notdef is a full box."""
    order = [".notdef", *(f"g{ord(c):x}" for c in glyphs)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap({ord(c): f"g{ord(c):x}" for c in glyphs})
    shapes = [outline((100, 0, 900, 800)), *(outline(*r) for r in glyphs.values())]
    builder.setupGlyf(dict(zip(order, shapes, strict=True)))
    builder.setupHorizontalMetrics({glyph: (1000, 100) for glyph in order})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    with io.BytesIO() as stream:
        builder.save(stream)
        return stream.getvalue()


TINY = font_bytes(
    {
        CAR: [(100, 0, 300, 800), (700, 0, 900, 800)],
        WHEEL: [(100, 300, 900, 500)],
        KA: [(400, 0, 600, 800)],
        VIRAMA: [(100, -200, 200, -100)],
        "a": [(100, 0, 200, 400)],
    }
)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of fonts; those of the system are not found."""
    find = font_manager.findSystemFonts
    monkeypatch.setattr(
        font_manager, "findSystemFonts", lambda paths=None: find(paths) if paths else []
    )
    monkeypatch.setenv(fonts.FOLDER_VARIABLE, str(tmp_path))
    fonts._library.cache_clear()
    yield tmp_path
    fonts._library.cache_clear()


def render(line):
    picture = PIL.Image.new("RGB", (400, 60))
    line.draw(PIL.ImageDraw.Draw(picture), (10, 10), (255, 255, 255))
    return np.asarray(picture)


def drawn_label(name, **options):
    """The picture of one box with a name."""
    image = np.full((1000, 1000, 3), 90, np.uint8)
    box = np.array([[0.4, 0.4, 0.6, 0.6]])
    return annotate.draw_boxes(image, box, [0], [name], **options)


def parts(line):
    return [(font.path, text) for font, text, _ in line.runs]


@pytest.mark.parametrize("script", NAMES)
def test_a_name_is_drawn_with_glyphs_or_replaced_by_the_id_of_its_category(script):
    name = NAMES[script]
    text = fonts.class_text(0, [name], [7])
    if text == "class 7":
        assert script in ("Chinese", "Hindi", "Thai", "emoji")  # DejaVu has the others.
        assert (drawn_label(name, category_ids=[7]) == drawn_label("class 7")).all()
        return
    assert text == name
    line = fonts.lay_out(text, 20)
    assert "".join(part for _, part, _ in line.runs) == name
    assert render(line).any()
    for font, part, _ in line.runs:
        for character in part:
            glyph, box = font.getmask(character), font.getmask(MISSING)
            assert glyph.getbbox() is not None, (script, character)
            assert (glyph.size, bytes(glyph)) != (box.size, bytes(box)), script


def test_a_font_of_the_folder_draws_what_dejavu_lacks(folder):
    assert fonts.class_text(0, [CAR + WHEEL]) == "class 0"
    (folder / "tiny.ttf").write_bytes(TINY)
    fonts._library.cache_clear()
    assert fonts.class_text(0, [CAR + WHEEL]) == CAR + WHEEL
    line = fonts.lay_out(CAR + WHEEL, 50)
    assert parts(line) == [(str(folder / "tiny.ttf"), CAR + WHEEL)]
    # Two bars of 10 x 40 pixels, then one of 40 x 10.
    columns = (render(line)[:, :, 0] > 128).sum(axis=0)
    assert (columns[15:25] == 40).all()
    assert (columns[45:55] == 40).all()
    assert (columns[65:105] == 10).all()
    assert columns.sum() == 3 * 400
    assert (drawn_label(CAR) != drawn_label(WHEEL)).any()


def test_a_word_has_one_font_if_one_draws_all_of_it(folder):
    (folder / "tiny.ttf").write_bytes(TINY)
    tiny, dejavu = str(folder / "tiny.ttf"), str(fonts._DEJAVU)
    assert parts(fonts.lay_out(f"{CAR}a 0.95", 20)) == [
        (tiny, f"{CAR}a"),
        (dejavu, " 0.95"),
    ]
    assert parts(fonts.lay_out(f"car {CAR}b", 20)) == [
        (dejavu, "car "),
        (tiny, CAR),
        (dejavu, "b"),
    ]
    # Marks stay with their letter.
    assert parts(fonts.lay_out(f"{KA}{VIRAMA}b", 20)) == [
        (tiny, KA + VIRAMA),
        (dejavu, "b"),
    ]


def test_runs_share_a_baseline_and_follow_each_other(folder):
    (folder / "tiny.ttf").write_bytes(TINY)
    line = fonts.lay_out(f"H{CAR}H", 50)
    pixels = render(line)[:, :, 0] > 128
    starts = [start for _, _, start in line.runs]
    own = PIL.ImageFont.truetype(str(fonts._DEJAVU), 50)
    assert starts == [0, round(own.getlength("H")), round(own.getlength("H")) + 50]
    bottoms = [
        np.flatnonzero(pixels[:, 10 + start : 10 + start + 30].any(axis=1))[-1]
        for start in starts
    ]
    assert len(set(bottoms)) == 1
    assert line.box[2] == pytest.approx(2 * own.getlength("H") + 50, abs=2)


def test_a_collection_counts_by_its_first_font(folder):
    collection = TTCollection()
    collection.fonts = [
        TTFont(io.BytesIO(font_bytes({c: [(0, 0, 500, 500)]}))) for c in (CAR, WHEEL)
    ]
    collection.save(str(folder / "two.ttc"))
    assert fonts.drawable(CAR, "") == CAR
    assert fonts.drawable(WHEEL, "none") == "none"


@pytest.mark.parametrize(
    "content",
    [b"", b"no font", TINY[:100], TINY[:-400]],
    # Ids made of the content would differ between processes: it has the time.
    ids=["empty", "no font", "start", "without the end"],
)
def test_damaged_fonts_are_skipped(folder, content):
    (folder / "a.ttf").write_bytes(content)
    (folder / "tiny.ttf").write_bytes(TINY)
    line = fonts.lay_out(CAR, 50)
    assert parts(line) == [(str(folder / "tiny.ttf"), CAR)]
    assert (render(line)[:, :, 0] > 128).sum() == 800


def test_glyphs_without_ink_do_not_count(folder):
    # As in color fonts, whose glyphs have no outlines.
    (folder / "a.ttf").write_bytes(font_bytes({CAR: []}))
    assert fonts.class_text(0, [CAR]) == "class 0"
    (folder / "tiny.ttf").write_bytes(TINY)
    fonts._library.cache_clear()
    assert parts(fonts.lay_out(CAR, 20)) == [(str(folder / "tiny.ttf"), CAR)]


def test_plain_styles_are_preferred_to_bold_serif_and_symbols():
    paths = [
        "Symbola.ttf",
        "NotoSerifX-Regular.ttf",
        "NotoSansX-Bold.ttf",
        "NotoSansX-Regular.ttf",
        "NotoSerifX-BoldItalic.ttf",
    ]
    assert sorted(paths, key=fonts._preference) == [
        "NotoSansX-Regular.ttf",
        "NotoSansX-Bold.ttf",
        "NotoSerifX-Regular.ttf",
        "NotoSerifX-BoldItalic.ttf",
        "Symbola.ttf",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("traffic light", "traffic light"),
        ("two\nlines\tand\u3000more", "two lines and more"),
        ("zero\u200bwidth\ufeff \u202eorder", "zerowidth order"),
        ("bell\x07 \x1b[31mred", "bell [31mred"),
        ("heart \u2665\ufe0f", "heart \u2665"),
        ("e\u0301tage", "\u00e9tage"),
        ("lone \ud83d surrogate", "lone surrogate"),
        ("joined a\u200d 1", "joined a 1"),
        ("x" * 65, "x" * 63 + "…"),
        ("x" * 64, "x" * 64),
        ("", "class 3"),
        (" \n\u200b", "class 3"),
        ("\U0010fffe", "class 3"),
        (f"cat {MISSING}", "class 3"),
    ],
)
def test_drawn_names_are_one_line_of_visible_characters(name, text):
    assert fonts.drawable(name, "class 3") == text


def test_ids_of_categories_replace_names_that_no_font_draws():
    names = ["cat", MISSING]
    assert fonts.class_text(0, names, [5, 9]) == "cat"
    assert fonts.class_text(1, names, [5, 9]) == "class 9"
    assert fonts.class_text(1, names, ["a", "b-9"]) == "class b-9"
    assert fonts.class_text(1, names, ["a", MISSING]) == "class 1"
    assert fonts.class_text(1, names) == "class 1"


def test_characters_that_no_font_draws_become_question_marks():
    assert fonts.readable(f"Run /data/{MISSING * 2}/é\n1") == "Run /data/??/é 1"


@pytest.mark.parametrize("name", ["cat", "Fußgänger, vélo", "Ångström (3)", "fi AV"])
def test_latin_labels_are_those_of_dejavu_alone(name):
    picture = drawn_label(name, scores=np.array([0.5]))
    expected = drawn_label("", scores=np.array([0.5])).copy()
    text, color = f"{name} 0.50", annotate.class_color(0)
    font = PIL.ImageFont.truetype(str(fonts._DEJAVU), 12)
    image = PIL.Image.new("RGB", (1000, 1000), (90, 90, 90))
    draw = PIL.ImageDraw.Draw(image)
    right, bottom = map(int, draw.textbbox((0, 0), text, font=font, anchor="la")[2:])
    left, top = 397, 397 - 3 - bottom  # Above the box, with a gap of 3.
    draw.rectangle((left, top, left + right + 3, top + bottom + 2), fill=color)
    draw.text((left + 2, top + 1), text, annotate.text_color(color), font, anchor="la")
    assert (picture[:397] == np.asarray(image)[:397]).all()
    assert (picture[400:] == expected[400:]).all()


def test_letters_are_joined_and_ordered_where_pillow_can():
    if not features.check("raqm"):
        pytest.skip("Pillow without Raqm or FriBidi")
    line = fonts.lay_out("قطة", 40)
    assert line.direction == "rtl"
    plain = PIL.ImageFont.truetype(
        str(fonts._DEJAVU), 40, layout_engine=PIL.ImageFont.Layout.BASIC
    )
    # Joined letters are narrower than isolated ones.
    assert line.box[2] < 0.95 * plain.getlength("قطة")
    assert fonts.lay_out("cat قطة", 40).direction == "ltr"


def test_right_to_left_words_are_reversed_where_pillow_cannot(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    line = fonts.lay_out("a קט לב 0.5", 20)
    assert [text for _, text, _ in line.runs] == ["a בל טק 0.5"]
    assert line.direction is None
    assert render(line).any()
    assert fonts.drawable("ab\u200dc", "") == "abc"


def test_figures_draw_names_without_missing_glyphs(folder, tmp_path):
    (folder / "tiny.ttf").write_bytes(TINY)
    metrics = [{"step": s, f"{CAR}$x$/AP50": 0.1 * s} for s in range(3)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, metrics)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # A missing glyph is a warning.
        titles = curves.learning_curves(path, tmp_path / "a.png")
    assert titles == ["AP50"]
    path.write_text(path.read_text().replace(json.dumps(CAR)[1:-1], "?"))
    curves.learning_curves(path, tmp_path / "b.png")
    drawn, other = (np.asarray(PIL.Image.open(tmp_path / f"{n}.png")) for n in "ab")
    assert drawn.shape == other.shape
    assert (drawn != other).any()


def test_figures_show_question_marks_without_a_font(folder, tmp_path):
    pictures = []
    for name in (CAR, "?"):
        path = tmp_path / "metrics.jsonl"
        path.write_text(json.dumps({"step": 1, f"{name}/AP50": 0.5}))
        curves.learning_curves(path, tmp_path / "a.png")
        pictures.append(np.asarray(PIL.Image.open(tmp_path / "a.png")))
    assert (pictures[0] == pictures[1]).all()
