"""The comparison on photographs: its commands, and the shrunk images."""

import json
import os
import pathlib
import subprocess

import numpy as np
import PIL.Image
import pytest

from benchmarks import shrink_images
from borrow_det.tools.common import cli

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "benchmarks/photographs.sh"

# Records the calls in place of Python, and does what the script relies on.
STAND_IN = r"""#!/usr/bin/env bash
here=${0%/*}
printf '%s\x1f' "$@" >>"$here/calls"
printf '\x1e' >>"$here/calls"
for argument; do
  case $argument in
  --output=*) mkdir -p "${argument#*=}/annotations" ;;
  --workdir=*)
    mkdir -p "${argument#*=}"
    echo a table >"${argument#*=}/ablation.md"
    ;;
  esac
done
"""


@pytest.fixture
def photographs(tmp_path):
    """Function that runs the script, and returns it with the calls of Python."""
    python, vgg = tmp_path / "python", tmp_path / "vgg"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    vgg.mkdir()
    (vgg / "import.json").write_text("{}")

    def run(*arguments, **environment):
        (tmp_path / "calls").unlink(missing_ok=True)
        done = subprocess.run(
            [SCRIPT, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": str(python), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        calls = tmp_path / "calls"
        text = calls.read_text() if calls.exists() else ""
        return done, [call.split("\x1f")[:-1] for call in text.split("\x1e")[:-1]]

    return run


def test_every_set_is_shrunk_and_compared(photographs, tmp_path):
    done, calls = photographs("data", "vgg", "work", "gpu", SEEDS="3", ROWS="ssd;full")
    assert done.returncode == 0, done.stderr
    assert [call[1] for call in calls] == 3 * [
        "benchmarks.shrink_images",
        "borrow_det.tools.ablate",
    ]
    assert f"--input={tmp_path}/data/aquarium" in calls[0]
    assert "--size=512" in calls[0]
    expected = {
        f"--config=configs/folder.py:path={tmp_path}/work/images/aquarium,"
        f"weights={tmp_path}/vgg,frozen=2,size=512,steps=400,batch=32",
        "--config.anchors.sizes=(32.0, 64.0, 128.0, 256.0)",
        "--folds=5",
        "--seeds=3",
        "--row=ssd",
        "--row=full",
        f"--workdir={tmp_path}/work/aquarium",
    }
    assert expected <= set(calls[1])
    # Few videos and cameras: these have splits of their own.
    assert "--folds=5" not in calls[3]
    assert "--config.dataset.eval_splits=('val', 'test')" in calls[3]
    assert done.stdout.count("a table") == 3

    done, calls = photographs("data", "vgg", "work", "gpu", "atl_roads")
    assert [call[1] for call in calls] == ["borrow_det.tools.ablate"]  # Shrunk already.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data", "vgg", "work"), "give DATA, VGG, WORK, and cpu or gpu"),
        (("data", "vgg", "work", "tpu"), "'tpu' is neither cpu nor gpu"),
        (("data", "absent", "work", "cpu"), "absent is no folder of imported weights"),
    ],
)
def test_wrong_arguments_are_named(photographs, arguments, message):
    done, calls = photographs(*arguments)
    assert (done.returncode, calls) == (2, [])
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_shrunk_images_keep_their_fields_and_the_places_of_boxes(tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[30:, 40:80] = 255  # The box.
    PIL.Image.fromarray(pixels).save(folder / "images" / "a.jpg", quality=95)
    image = {"id": 7, "file_name": "a.jpg", "width": 120, "height": 60, "video": "v"}
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [40, 30, 40, 30]}
    coco = {
        "images": [image],
        "annotations": [{**annotation, "area": 900, "iscrowd": 0}],
        "categories": [{"id": 2, "name": "cat"}],
    }
    (folder / "annotations" / "val.json").write_text(json.dumps(coco))
    flags = [f"--input={folder}", f"--output={output}", "--size=30"]
    assert cli.call(shrink_images.main, ["shrink", *flags]) == 0
    made = json.loads((output / "annotations" / "val.json").read_text())
    assert made["images"] == [{**image, "width": 30, "height": 30}]
    assert made["categories"] == coco["categories"]
    (box,) = made["annotations"]
    assert box["bbox"] == pytest.approx([10, 15, 10, 15])
    assert box["area"] == pytest.approx(900 / 4 / 2)
    shrunk = np.asarray(PIL.Image.open(output / "images" / "a.jpg"))
    assert shrunk.shape == (30, 30, 3)
    assert shrunk[16:, 11:19].min() > 200
    assert max(shrunk[:14].max(), shrunk[:, :9].max(), shrunk[:, 21:].max()) < 60


def test_a_folder_without_annotations_is_refused(tmp_path, capsys):
    flags = [f"--input={tmp_path}", f"--output={tmp_path}/out"]
    assert cli.call(shrink_images.main, ["shrink", *flags]) == 2
    assert "annotations has no JSON file" in capsys.readouterr().err
