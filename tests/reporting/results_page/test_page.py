"""The results page as text: its sections, names, links and size."""

import base64
import html
import io
import json
import re

import PIL.Image
import pytest

from borrow_det.evaluation.pairing import pair
from borrow_det.reporting.results_page import page as results_page
from borrow_det.reporting.results_page import pictures
from tests.html_elements import Elements
from tests.reporting.results_page.made_evaluation import (
    CLASSES,
    HOSTILE,
    STEP,
    make_evaluation,
)

SECTIONS = ["Figures", "Curves", "Confusion matrix", "Errors", "Pictures"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("W")


@pytest.fixture(scope="module")
def done(workdir):
    return make_evaluation(workdir)[0]


@pytest.fixture(scope="module")
def page(done, workdir):
    file = results_page.write(done, workdir)
    assert file == done.path.with_suffix(".html")
    return file.read_text()


def records(page):
    found = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return [json.loads(record) for record in found]


def constants(page):
    return json.loads(re.search(r"^<?.*const RESULTS = (.*);$", page, re.M)[1])


def test_names_of_files_and_classes_stay_text(page):
    assert "<img src=x" not in page
    tags = Elements(page).tags
    scripts = [attrs for tag, attrs in tags if tag == "script"]
    assert scripts == [{"type": "application/json"}] * 12 + [{}]
    alts = [attrs["alt"] for tag, attrs in tags if tag == "img"]
    assert all(re.fullmatch(rf"\d\d {re.escape(HOSTILE)}\.png", alt) for alt in alts)
    assert f"<h3>{html.escape(HOSTILE)}</h3>" in page
    assert constants(page)["classes"] == list(CLASSES)


def test_the_page_of_an_evaluation_by_tiles_says_so(page, tmp_path):
    assert "tiles" not in page
    done = make_evaluation(tmp_path, images=4)[0]
    done.evaluator.config.evaluation.tiles = "3x2"
    text = results_page.write(done, tmp_path).read_text()
    assert (
        "Detections are those of tiles (3x2, with an overlap of 0.2 of their sides) "
        "and of the entire image, merged." in text
    )


def test_the_page_forbids_other_scripts_and_addresses(page):
    tags = Elements(page).tags
    for tag, attrs in tags:
        for name in ("src", "srcset", "poster", "data", "action", "style"):
            if attrs.get(name) is not None:
                assert tag == "img"
                assert attrs[name].startswith("data:image/")
        if tag == "a":
            assert attrs["href"].startswith("#")
        assert not any(name.startswith("on") for name in attrs)
    addresses = set(re.findall(r"[a-z]+://[^\s\"']+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}
    (policy,) = [a["content"] for _, a in tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_all_sections_are_readable_without_a_script(page, done):
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    anchors = re.findall(r'<a href="#(.*?)">', page)
    assert [f'<section id="{anchor}">' in page for anchor in anchors] == [True] * 5
    assert f'<th scope="row">AP50</th><td>{done.metrics["AP50"]:.3f}</td>' in page
    analysis = json.loads(done.path.with_suffix(".analysis.json").read_text())
    best = analysis["operating_points"]["best_f1"].values()
    cells = "".join(f"<td>{value:.3f}</td>" for value in best)
    assert f'<th scope="row">best_f1</th>{cells}' in page
    # The curves of all classes together and of each class with objects, by size.
    assert page.count('<svg class="chart"') == 4 * 3
    assert "No curves: there is no detection or no object." in page


def test_the_confusion_matrix_has_counts_and_shares_of_rows(page, done):
    analysis = json.loads(done.path.with_suffix(".analysis.json").read_text())
    counts = analysis["confusion"]["counts"]
    row = re.search(r'<th scope="row">cat</th>(<td><span.*?)</tr>', page)[1]
    cells = re.findall(r">(\d+)(?: <small>(\d+)%</small>)?<", row)
    assert [int(count) for count, _ in cells] == [*counts[0], sum(counts[0])]
    shares = [int(share or 0) for _, share in cells[:-1]]
    assert shares == [round(100 * n / sum(counts[0])) for n in counts[0]]


def test_each_picture_has_its_detections_and_objects(page, done, workdir):
    truth = done.evaluator.truth
    detections = json.loads(done.path.with_suffix(".detections.json").read_text())
    pairs = pair(truth, detections)
    for record in records(page):
        (image,) = [i for i in truth["images"] if i["file_name"] == record["name"]]
        counted = [
            d
            for d, counts, ignored in zip(
                detections, pairs.counted, pairs.ignored, strict=True
            )
            if d["image_id"] == image["id"]
            and counts
            and not ignored
            and d["score"] >= pictures.LEAST_SCORE
        ]
        expected = sorted(
            [d["category_id"] - 1, round(d["score"], 3), *d["bbox"]] for d in counted
        )
        found = [[row[0], *row[4:]] for row in record["detections"]]
        assert sorted(found) == expected
        boxes = [
            a["bbox"] for a in truth["annotations"] if a["image_id"] == image["id"]
        ]
        assert [row[4:] for row in record["objects"]] == boxes


def test_errors_are_counted_at_the_best_f1_and_cost_ap50(page, done):
    errors = json.loads(done.path.with_suffix(".analysis.json").read_text())["errors"]
    section = page[page.index("<h2>Errors") : page.index("<h2>Pictures")]
    sizes = ("all", "small", "medium", "large")
    for kind in errors["kinds"]:
        row = re.search(rf'<th scope="row">{kind}</th>(<td>.*?)</tr>', section)[1]
        counts = [errors["at_score"]["counts"][kind][size] for size in sizes]
        costs = [errors["AP50_cost"][kind][size] for size in sizes]
        expected = [
            *map(str, counts),
            *("-" if c is None else f"{c:.3f}" for c in costs),
        ]
        assert re.findall("<td>(.*?)</td>", row) == expected


def test_the_words_of_a_picture_count_its_marks(page):
    start = constants(page)["start"]
    words = re.findall(r"<p>Hits: (\d+); false positives: (\d+).*found: (\d+)\. ", page)
    for record, (hits, wrong, missed) in zip(records(page), words, strict=True):
        kinds = [row[2] for row in record["detections"] if row[3] >= start]
        assert (kinds.count(0), len(kinds) - kinds.count(0)) == (int(hits), int(wrong))
        found = [row[2] for row in record["objects"] if row[2] is not None]
        assert sum(highest < start for highest in found) == int(missed)


def write_run(done, workdir, best=STEP):
    metrics = {done.evaluator.split.name: done.metrics}
    compared = {"swapped/consistency": 0.125, "val/small_recall": 1.0}
    results_page.write_run([done.evaluator], workdir, STEP, metrics, compared, best)


def links_to_files(page):
    links = [attrs["href"] for tag, attrs in Elements(page).tags if tag == "a"]
    return [link for link in links if not link.startswith("#")]


def test_a_run_has_a_page_with_links_to_its_evaluations(tmp_path):
    done = make_evaluation(tmp_path, images=3)[0]
    make_evaluation(tmp_path, images=3, step=4)
    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "index.html").touch()
    write_run(done, tmp_path, best=4)
    overview = (tmp_path / "results.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", overview) == ["Evaluations", *SECTIONS]
    assert "<caption>The last step and the best one</caption>" in overview
    row = '<th scope="row">swapped</th><td>0.125</td><td>-</td>'
    assert row in overview
    assert row not in done.path.with_suffix(".html").read_text()
    folder = "evaluations/val_40"
    assert links_to_files(overview) == [
        *("explain/index.html", f"{folder}/{STEP}.html", f"{folder}/4.html"),
    ]
    for step in (STEP, 4):
        page = done.path.with_name(f"{step}.html").read_text()
        assert f"<title>Results of val[:40] at step {step}</title>" in page
        links = links_to_files(page)
        assert links == ["../../explain/index.html", "../../results.html"]
        assert all((done.path.parent / link).exists() for link in links)
    write_run(done, tmp_path)
    overview = (tmp_path / "results.html").read_text()
    assert "<caption>The last step</caption>" in overview
    assert links_to_files(overview)[1:] == [f"{folder}/{STEP}.html"]


def test_other_pages_link_to_that_of_the_run(tmp_path):
    assert results_page.link_to_run(tmp_path, tmp_path / "a") == ""
    (tmp_path / "results.html").touch()
    link = results_page.link_to_run(tmp_path, tmp_path / "a" / 'b"')
    assert link == '<a href="../../results.html">results of the run</a>'
    assert results_page.link_to_run(tmp_path, tmp_path / "a").count("../") == 1


def test_without_a_page_of_explain_its_command_is_shown(page, workdir):
    words = html.unescape(re.search(r"<code>(.*?)</code>", page)[1])
    assert words == (
        f"borrow-det explain --workdir={workdir} --output={workdir}/explain "
        "'--split=val[:40]'"
    )


@pytest.mark.parametrize("lacks", ["pages", "analysis"])
def test_some_evaluations_have_no_page(tmp_path, lacks):
    done, _ = make_evaluation(tmp_path, images=3, page_images=lacks != "pages")
    if lacks == "analysis":
        done.path.with_suffix(".analysis.json").unlink()
    assert results_page.write(done, tmp_path) is None
    write_run(done, tmp_path)
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("lacks", ["detections", "objects"])
def test_empty_evaluations_have_a_page(tmp_path, lacks):
    done, detections = make_evaluation(tmp_path, images=3)
    truth = done.evaluator.truth
    if lacks == "objects":
        truth["annotations"] = []
    else:
        detections = []
    done.path.with_suffix(".detections.json").write_text(json.dumps(detections))
    analysis = json.dumps(done.evaluator.analyze(detections))
    done.path.with_suffix(".analysis.json").write_text(analysis)
    metrics = done.evaluator.score(detections)
    page = results_page.write(done._replace(metrics=metrics), tmp_path).read_text()
    assert constants(page)["start"] == 0
    assert len(records(page)) == 3
    assert "The threshold starts at zero, as there is no best F1, and moves" in page
    assert "IoU of 0.5; no detection is counted, as there is no best F1<" in page


def test_images_that_need_too_much_room_are_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_BYTES", 1200)
    done, _ = make_evaluation(tmp_path, images=3)
    page = results_page.write(done, tmp_path).read_text()
    images = re.findall(r'src="data:image/\w+;base64,(.*?)"', page)
    sides = [PIL.Image.open(io.BytesIO(base64.b64decode(i))).width for i in images]
    assert sides == [240] * 3
