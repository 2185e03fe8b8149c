"""pictures/ holds the pictures of one call, and no other files are removed."""

import json

import pytest

from tests.tools.predict.blobs import results, run, save, scene, write_video


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "a.png", scene(20, 20, red=[1, 1, 4, 4]))


def names(output):
    return sorted(path.name for path in (output / "pictures").iterdir())


def test_pictures_of_an_earlier_call_are_removed(tmp_path, detector, image):
    output = tmp_path / "out"
    write_video(tmp_path / "clip.avi", [scene(20, 20)] * 2)
    other = save(tmp_path / "b.png", scene(20, 20))
    assert run(output, image, other, str(tmp_path / "clip.avi")) == 0
    assert names(output) == ["a.jpg", "b.jpg", "clip.mp4"]
    assert run(output, other) == 0
    assert names(output) == ["b.jpg"]
    assert run(output, "--nopictures", image) == 0
    assert not (output / "pictures").exists()


def test_pictures_stay_until_the_next_call_has_a_result(
    tmp_path, detector, image, monkeypatch
):
    output = tmp_path / "out"
    assert run(output, image) == 0

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(detector, "detect_canvases", interrupted)
        assert run(output, save(tmp_path / "b.png", scene(20, 20))) == 130
    assert names(output) == ["a.jpg"]
    (tmp_path / "junk.png").write_bytes(b"junk")
    assert run(output, str(tmp_path / "junk.png")) == 1
    assert results(output) == []
    assert not (output / "pictures").exists()


@pytest.mark.parametrize("kind", ["other", "changed", "folder", "older"])
def test_a_folder_with_files_of_others_is_refused_and_kept(
    tmp_path, detector, image, capsys, kind
):
    output = tmp_path / "out"
    assert run(output, image) == 0
    before = results(output)
    if kind == "other":
        (output / "pictures" / "mine.jpg").write_bytes(b"mine")
    elif kind == "changed":
        (output / "pictures" / "a.jpg").write_bytes(b"mine")
    elif kind == "folder":
        (output / "pictures" / "a.jpg").unlink()
        (output / "pictures" / "a.jpg").mkdir()
    else:  # Of a version without the list.
        (output / ".pictures.jsonl").unlink()
    kept = names(output)
    capsys.readouterr()
    assert run(output, image) == 2
    name = "mine.jpg" if kind == "other" else "a.jpg"
    assert f"not written or not listed: 1 ({name}); move" in capsys.readouterr().err
    assert (names(output), results(output)) == (kept, before)


def test_a_picture_that_was_changed_since_is_not_removed(tmp_path, detector, image):
    output = tmp_path / "out"
    assert run(output, image, save(tmp_path / "b.png", scene(20, 20))) == 0
    (output / "pictures" / "a.jpg").write_bytes(b"mine")
    assert run(output, "--nopictures", image) == 0
    assert names(output) == ["a.jpg"]
    assert (output / "pictures" / "a.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("line", ['["../a.png", 1]', '["', "7", '["..", null]', "é"])
def test_a_list_that_was_changed_removes_nothing_else(tmp_path, detector, image, line):
    output = tmp_path / "out"
    output.mkdir()
    (output / ".pictures.jsonl").write_text(line, encoding="utf-8")
    assert run(output, image) == 0
    assert names(output) == ["a.jpg"]
    assert (tmp_path / "a.png").exists()


def test_an_unfinished_picture_of_a_killed_call_is_removed(tmp_path, detector, image):
    output = tmp_path / "out"
    (output / "pictures").mkdir(parents=True)
    (output / "pictures" / "clip.mp4").write_bytes(b"half")
    (output / ".pictures.jsonl").write_text('["clip.mp4", null]\n["cl')
    assert run(output, image) == 0
    assert names(output) == ["a.jpg"]


def test_each_image_names_its_picture(tmp_path, detector, image):
    write_video(tmp_path / "clip.avi", [scene(20, 20)] * 2)
    other = save(tmp_path / "deep" / "a.png", scene(20, 20))
    assert run(tmp_path / "out", image, other, str(tmp_path / "clip.avi")) == 0
    listed = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [i["picture"] for i in listed] == [
        "pictures/a.jpg",
        "pictures/a_2.jpg",
        "pictures/clip.mp4",
        "pictures/clip.mp4",
    ]
    assert run(tmp_path / "none", "--nopictures", image) == 0
    listed = json.loads((tmp_path / "none" / "images.json").read_text())["images"]
    assert "picture" not in listed[0]
