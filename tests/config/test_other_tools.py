"""Flags of other detectors' commands, answered with ours."""

import pytest

from borrow_det.config import other_tools
from borrow_det.tools import evaluate
from borrow_det.tools.common import cli
from borrow_det.tools.predict import __main__ as predict

PREDICT = list(predict._flags())
TRAIN = ["config", "workdir", "distributed"]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--conf=0.5", "--score=S"),
        ("-conf", "--score=S"),
        ("--score-thr", "--score=S"),
        ("--confidence-threshold", "--score=S"),
        ("--source", "the images alone, without a flag"),
        ("--webcam", "0, the index of the camera"),
        ("--weights=yolo.pt", "--workdir=W, the work directory of a trained run"),
        ("--imgsz", "--tile_size=N for images that are larger than the run's input"),
        ("--slice_height", "--tile_size=N"),
        ("--iou", "--config.nms.iou=IOU in training, which the run keeps"),
        ("--save-txt", "--output=DIR: detections.json in it has all boxes"),
        ("--no-save-vis", "--nopictures"),
        ("--device", "JAX_PLATFORMS=cpu (or cuda, tpu) in front of the command"),
        ("--project", "--output=DIR"),
        ("--batch-size", "--batch=N"),
    ],
)
def test_flags_of_other_tools_are_answered_with_those_of_predict(argument, told):
    name = argument.partition("=")[0]
    sentence = other_tools.answer([argument, "a.jpg"], PREDICT)
    assert sentence == f"{name} is a flag of other tools: write {told}"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--epochs", "--config.num_epochs=N"),
        ("--max-iter", "--config.num_steps=N"),
        ("--patience", "--config.stop_after=N, in evaluations"),
        ("--weights", "--config.init_from=FOLDER"),
        ("--imgsz", "size=N in --config=folder:path=DIR,size=N"),
        ("--batch", "--config.batch_size=N"),
        ("--work-dir", "--workdir=W"),
        ("--data", "--config=folder:path=DIR"),
    ],
)
def test_the_answer_depends_on_the_command(argument, told):
    sentence = other_tools.answer([argument], TRAIN)
    assert sentence == f"{argument} is a flag of other tools: write {told}"


def test_several_flags_have_one_answer():
    argv = ["--weights=a", "--source", "b.jpg", "--conf", "0.5", "--conf-thres=1"]
    assert other_tools.answer(argv, PREDICT) == (
        "--weights, --source, --conf and --conf-thres are flags of other tools: write "
        "--workdir=W, the work directory of a trained run; the images alone, without a "
        "flag; --score=S"
    )


def test_other_arguments_have_no_answer():
    own = ["--score=0.5", "--nopictures", "--what", "a.jpg", "-1", "--epochs"]
    assert other_tools.answer(own, PREDICT) is None
    for argument in ("a.jpg", "a=b", "dir/conf=1", "epochs=3"):
        assert other_tools.answer_without_dashes(argument, PREDICT) is None


def test_commands_refuse_flags_of_other_tools_in_one_line(capsys, tmp_path):
    argv = ["p", "--workdir=W", f"--output={tmp_path}", "a.jpg"]
    end = " (--help lists the flags)\n"
    assert cli.call(predict.main, [*argv, "--conf=0.5"]) == 2
    told = "error: --conf is a flag of other tools: write --score=S"
    assert capsys.readouterr().err == told + end
    assert cli.call(predict.main, [*argv, "conf=0.5"]) == 2
    told = "error: conf=0.5 is of other tools: write --score=S"
    assert capsys.readouterr().err == told + end
    assert cli.call(predict.main, [*argv, "score=0.5"]) == 2
    told = "error: score=0.5: flags begin with dashes: write --score=0.5"
    assert capsys.readouterr().err == told + end
    assert cli.call(evaluate.main, ["e", "--workdir=W", "--data=coco.yaml"]) == 2
    told = "error: --data is a flag of other tools: write --path=DIR"
    assert capsys.readouterr().err == told + end
