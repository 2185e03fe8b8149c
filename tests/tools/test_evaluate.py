"""The evaluation of a trained run on other splits and folders."""

import hashlib
import json
import shutil

import pytest

from borrow_det.tools import evaluate
from borrow_det.tools.common import cli
from borrow_det.visualization import tables


def run(*arguments):
    return cli.call(evaluate.main, ["evaluate", *arguments])


def digests(folder):
    """A hash of every file in a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def workdir(tiny_run, tmp_path):
    """A copy of a finished run; its evaluation split is val."""
    shutil.copytree(tiny_run.workdir, tmp_path / "W")
    return tmp_path / "W"


def test_the_split_of_training_gives_the_metrics_of_training(
    tiny_run, workdir, tmp_path, capsys
):
    output = tmp_path / "out"
    before = digests(workdir)
    assert run(f"--workdir={workdir}", "--split=val", f"--output={output}") == 0
    assert digests(workdir) == before
    (expected,) = (workdir / "evaluations" / "val").glob("4.json")
    found = json.loads((output / "4.json").read_text())
    assert found == json.loads(expected.read_text())
    out = capsys.readouterr().out
    assert "evaluating folder val, 7 images ..." in out
    assert f"| val   | {tiny_run.metrics['val']['AP']:.3f} |" in out
    errors = json.loads((output / "4.analysis.json").read_text())["errors"]
    assert f"\n\n{tables.error_tables(errors)}\n\n" in out
    assert out.endswith(
        f"all metrics: {output / '4.json'}\nresults page: {output / '4.html'}\n"
    )
    assert "Results of val at step 4" in (output / "4.html").read_text()
    assert (output / "4.detections.json").exists()


def test_a_wanted_recall_is_printed_and_stored(workdir, capsys):
    flags = [f"--workdir={workdir}", "--split=val"]
    assert run(*flags, "--recall=0.001") == 0
    steps = json.loads((workdir / "operating_points.json").read_text())["steps"]
    point = steps["4"]["recall_0.001"]
    out = capsys.readouterr().out
    assert f"recall_0.001: score {point['score']:.3f}, precision " in out
    assert "--score=recall_0.001 of predict uses it" in out
    before = digests(workdir)
    assert run(*flags, "--recall=0.001", "--precision=1", "--recall=1") == 1
    assert "recall_1: no score reaches it" in capsys.readouterr().out
    assert digests(workdir).keys() == before.keys()


def test_a_point_of_another_split_that_predict_uses_is_named(workdir, capsys):
    path = workdir / "operating_points.json"
    content = json.loads(path.read_text())
    content["steps"]["4"]["best_f1"]["score"] = 0.125
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    assert run(f"--workdir={workdir}", "--split=train[:5]") == 0
    assert path.read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("best_f1: score "))
    assert line.endswith("; --score=best_f1 of predict uses 0.125, that of val")


def test_another_split_gets_a_folder_among_the_runs_evaluations(workdir):
    before = digests(workdir)
    assert run(f"--workdir={workdir}", "--split=train[:5]", "--step=2") == 0
    after = digests(workdir)
    new = set(after) - set(before)
    assert {path.split("/")[0] for path in new} == {"evaluations"}
    assert {name: after[name] for name in before} == before
    (folder,) = {path.split("/")[1] for path in new}
    plots = {"precision_recall.png", "scores.png", "confusion_matrix.png"}
    # Those of the run's last step are there, too.
    for place in (f"{folder}/2.plots", "val/4.plots"):
        found = (workdir / "evaluations" / place).iterdir()
        assert {path.name for path in found} == plots
    images = json.loads(
        (workdir / "evaluations" / folder / "2.detections.json").read_text()
    )
    assert {d["image_id"] for d in images} <= {10, 11, 12, 13, 14}


def test_a_folder_is_evaluated_with_the_runs_classes(scenes, workdir, tmp_path):
    other = tmp_path / "others"
    shutil.copytree(scenes, other, ignore=shutil.ignore_patterns("prepared"))
    coco = json.loads((other / "annotations" / "val.json").read_text())
    (other / "annotations" / "train.json").unlink()
    coco["images"] = coco["images"][:3]
    ids = [image["id"] for image in coco["images"]]
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    (other / "annotations" / "val.json").write_text(json.dumps(coco))
    output = tmp_path / "out"
    arguments = ["--split=val", f"--path={other}", f"--output={output}"]
    assert run(f"--workdir={workdir}", *arguments) == 0
    detections = json.loads((output / "4.detections.json").read_text())
    assert {d["image_id"] for d in detections} <= set(ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split=test"], "test"),
        ([], "split"),
        (["--split=val", "--step=3"], "3"),
        (["--split=val"], "exists"),
        (["--split=val", "more"], "unexpected argument 'more'"),
        (["--split=val", "--path=absent"], "absent"),
        (["--split=val", "--group=site"], "group is for another folder"),
    ],
)
def test_wrong_input_gets_one_line(tiny_run, capsys, arguments, message):
    before = digests(tiny_run.workdir)
    assert run(f"--workdir={tiny_run.workdir}", *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert digests(tiny_run.workdir) == before


def test_an_evaluation_without_a_page_gets_one(tiny_run, workdir, capsys):
    page = workdir / "evaluations" / "val" / "4.html"
    before = digests(workdir)
    page.unlink()
    assert run(f"--workdir={workdir}", "--split=val") == 0
    assert capsys.readouterr().out.endswith(f"results page: {page}\n")
    assert digests(workdir).keys() == before.keys()
    changed = [name for name, now in digests(workdir).items() if now != before[name]]
    assert changed in ([], ["evaluations/val/4.html"])  # It names the work directory.
    assert run(f"--workdir={workdir}", "--split=val") == 2
    assert "exists" in capsys.readouterr().err


def test_tiles_get_a_folder_of_their_own(tiny_run, workdir, capsys):
    before = digests(workdir)
    flags = [f"--workdir={workdir}", "--split=val", "--tiles=2x2", "--overlap=0.5"]
    assert run(*flags) == 0
    after = digests(workdir)
    assert {name: after[name] for name in before} == before
    folder = workdir / "evaluations" / "val_tiles_2x2_overlap_0.5"
    for name in ("4.json", "4.detections.json", "4.analysis.json", "4.html"):
        assert (folder / name).exists()
    assert capsys.readouterr().out.endswith(f"results page: {folder / '4.html'}\n")
    found = json.loads((folder / "4.json").read_text())
    # Other detections than those in entire images, of the same objects.
    own = json.loads((workdir / "evaluations" / "val" / "4.json").read_text())
    assert found.keys() == own.keys()
    assert found["AP"] != own["AP"]
    for name in ("objects_small_with_lender", "objects_small_without_lender"):
        assert found[name] == own[name]


def test_entire_images_have_the_figures_of_the_run(workdir, tmp_path):
    flags = [f"--workdir={workdir}", "--split=val", "--tiles=none"]
    assert run(*flags) == 0
    found = (workdir / "evaluations" / "val_tiles_none" / "4.json").read_text()
    own = (workdir / "evaluations" / "val" / "4.json").read_text()
    assert json.loads(found) == json.loads(own)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tiles=2"], "tiles=2 is not ROWSxCOLUMNS or auto"),
        (["--overlap=0.3"], "overlap is for tiles: give tiles, too"),
        (["--tiles=auto", "--overlap=0.95"], "overlap"),
    ],
)
def test_wrong_tiles_get_one_line(tiny_run, capsys, flags, message):
    before = digests(tiny_run.workdir)
    assert run(f"--workdir={tiny_run.workdir}", "--split=val", *flags) == 2
    assert message in capsys.readouterr().err
    assert digests(tiny_run.workdir) == before
