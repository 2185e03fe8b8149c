"""The anchor design tool: its answer without data, and its figures recounted."""

import json
import math
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from borrow_det.tools.common import cli
from borrow_det.tools.design_anchors import __main__ as design_anchors

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "folder.py"


def run(*arguments):
    return cli.call(design_anchors.main, ["design_anchors", *arguments])


def on_folder(tmp_path, folder, *arguments, size=512, split="train"):
    """Runs the tool on a folder; returns what it wrote to design.json."""
    status = run(
        f"--config={CONFIG}:path={folder},train={split},size={size}",
        f"--config.dataset.data_dir={tmp_path / 'prepared'}",
        f"--output={tmp_path / 'out'}",
        *arguments,
    )
    assert status == 0
    return json.loads((tmp_path / "out" / "design.json").read_text())


def write_folder(folder, boxes, size=(100, 200)):
    """One blank image of (height, width) for each list of [x, y, width, height]."""
    folder.mkdir()
    images, annotations = [], []
    for i, of_image in enumerate(boxes):
        PIL.Image.new("RGB", size[::-1]).save(folder / f"{i}.png")
        images.append(
            {"id": i, "file_name": f"{i}.png", "width": size[1], "height": size[0]}
        )
        for box in of_image:
            annotations.append(
                {"id": len(annotations), "image_id": i, "category_id": 1, "bbox": box}
            )
    categories = [{"id": 1, "name": "thing"}]
    text = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(text))
    # Otherwise an image would be held out for validation.
    (folder / "val.json").write_text(json.dumps(text))
    return folder


def recount(coco, size, anchors, theta):
    """Returns the share of COCO annotations that anchors cover, computed by loops."""
    sizes_of = {i["id"]: (i["width"], i["height"]) for i in coco["images"]}
    last = math.sqrt(anchors["sizes"][-1] * size)
    seconds = [
        math.sqrt(a * b)
        for a, b in zip(anchors["sizes"], anchors["sizes"][1:], strict=False)
    ] + [size if anchors["second_last"] == "side" else last]
    placed = []
    for level, stride in enumerate((8, 16, 32, 64)):
        shapes = [(anchors["sizes"][level], r) for r in anchors["aspect_ratios"][level]]
        shapes += [(seconds[level], r) for r in anchors["second_aspect_ratios"]]
        places = [(i + 0.5) * stride for i in range(math.ceil(size / stride))]
        for side, ratio in shapes:
            width, height = side * ratio**0.5, side / ratio**0.5
            placed += [(x, y, width, height) for x in places for y in places]
    x, y, width, height = np.array(placed).T
    hits = 0
    for annotation in coco["annotations"]:
        scale = np.array(sizes_of[annotation["image_id"]] * 2)
        box = np.array(annotation["bbox"]) / scale * size
        center_x, center_y = box[0] + box[2] / 2, box[1] + box[3] / 2
        across = np.minimum(
            np.minimum(box[2], width), (box[2] + width) / 2 - abs(x - center_x)
        )
        down = np.minimum(
            np.minimum(box[3], height), (box[3] + height) / 2 - abs(y - center_y)
        )
        common = np.maximum(across, 0) * np.maximum(down, 0)
        iou = common / (box[2] * box[3] + width * height - common)
        hits += iou.max() >= theta
    return hits / len(coco["annotations"])


def test_without_data_it_prints_the_aspect_ratios_that_are_needed():
    process = subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.tools.design_anchors"),
            *("--object_aspect_ratio=6", "--theta=0.5"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(process.stdout)
    assert process.stderr == ""
    assert '"max_aspect_ratio": 3,' in process.stdout
    assert answer["aspect_ratios"] == pytest.approx([1 / 3, 1, 3])
    assert answer["worst_mismatch"] == pytest.approx(2**0.5)
    assert (answer["scale_step"], answer["max_quotient"]) == (2, 2)


def test_the_answer_depends_on_theta_and_the_scale_step(capsys):
    assert run("--object_aspect_ratio=5", "--theta=0.6", "--scale_step=1.5") == 0
    answer = json.loads(capsys.readouterr().out)
    # [m (1 + theta) / (theta (1 + m^2))]^2 with m^2 = 1.5.
    quotient = 1.5 * (1.6 / (0.6 * 2.5)) ** 2
    assert answer["max_aspect_ratio"] == pytest.approx(5 / quotient)


def test_images_that_are_held_out_for_validation_are_left_out_and_named(
    tmp_path, capsys
):
    folder = write_folder(tmp_path / "set", [[[20, 10, 60, 30]]] * 5)
    (folder / "val.json").unlink()
    design = on_folder(tmp_path, folder, "--share=1", size=64)
    assert design["objects"] == 4
    notice = "1 of the 5 images of train are held out for validation"
    assert notice in capsys.readouterr().out


def test_objects_are_measured_after_resizing(tmp_path, capsys):
    """100 x 200 pixels become 64 x 64: heights times 0.64, widths times 0.32."""
    boxes = [[[20, 10, 60, 30]], [[30, 40, 120, 60], [0, 0, 60, 30]]]
    folder = write_folder(tmp_path / "set", boxes)
    design = on_folder(tmp_path, folder, "--share=1", size=64)
    assert design["objects"] == 3
    assert design["size_range"] == pytest.approx([19.2, 38.4])
    assert design["aspect_ratio_range"] == pytest.approx([1, 1])
    assert design["input_size"] == [64, 64]
    bins = {b["size"]: b["objects"] for b in design["bins"]}
    assert (bins["16-32"], bins["32-64"]) == (2, 1)
    assert (bins["small"], bins["medium"], bins["large"]) == (2, 1, 0)
    assert (tmp_path / "out" / "design.png").stat().st_size > 10_000
    text = capsys.readouterr().out
    assert "3 objects at 64 x 64 pixels" in text
    # The objects are square after resizing, so square anchors suffice.
    assert all(r == 1 for r in design["fragment"]["aspect_ratios"][0])
    assert design["equation_1"]["aspect_ratios"] == pytest.approx([1])
    assert "these objects need a single aspect ratio, 1. " in text


def test_the_report_says_that_objects_are_larger_in_tiles(tmp_path, capsys):
    folder = write_folder(tmp_path / "set", [[[20, 10, 60, 30]]])
    notice = "set augment.tile=False and input_size=(100, 200) (dataset.canvas)"
    for tile in (False, True):
        on_folder(
            tmp_path,
            folder,
            f"--config.augment.tile={tile}",
            "--config.dataset.canvas=(100, 200)",
            size=64,
        )
        assert (notice in capsys.readouterr().out) == tile


def test_equation_1_covers_only_the_aspect_ratios_of_the_objects(tmp_path, capsys):
    """All objects are wide. An aspect ratio of 1 after resizing is 2 before."""
    wide = [[10, 10 + 20 * i, 10 * ratio * 2, 10] for i, ratio in enumerate((2, 4, 9))]
    folder = write_folder(tmp_path / "set", [wide], size=(200, 400))
    design = on_folder(tmp_path, folder, "--share=1", size=256)
    assert design["aspect_ratio_range"] == pytest.approx([2, 9])
    equation = design["equation_1"]
    quotient = equation["max_quotient"]
    step, theta = equation["scale_step"], 0.5
    assert quotient == pytest.approx(step * ((1 + theta) / (theta * (1 + step))) ** 2)
    # The smallest number of intervals of quotient squared that tile 2 to 9.
    count = math.ceil(math.log(9 / 2) / (2 * math.log(quotient)))
    ratios = equation["aspect_ratios"]
    assert len(ratios) == count
    ends = [math.sqrt(18)] if count == 1 else [2 * quotient, 9 / quotient]
    assert sorted({min(ratios), max(ratios)}) == pytest.approx(sorted(ends))
    listed = ", ".join(f"{ratio:.3g}" for ratio in ratios)
    assert listed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ignored", "objects", "sizes"),
    [("ignored", 1, [16, 16]), ("negative", 1, [16, 16]), ("positive", 2, [16, 64])],
)
def test_crowds_are_included_if_training_learns_them(tmp_path, ignored, objects, sizes):
    folder = write_folder(tmp_path / "set", [[[20, 10, 50, 25], [0, 0, 200, 100]]])
    coco = json.loads((folder / "train.json").read_text())
    coco["annotations"][1]["iscrowd"] = 1
    (folder / "train.json").write_text(json.dumps(coco))
    design = on_folder(tmp_path, folder, f"--config.loss.ignored={ignored}", size=64)
    assert (design["objects"], design["left_out"]) == (objects, 2 - objects)
    assert design["size_range"] == pytest.approx(sizes)


def test_boxes_without_an_area_are_excluded_and_counted(tmp_path, capsys):
    boxes = [[[20, 10, 50, 25], [60, 60, 1e-9, 20]], [[30, 30, 9, 1e-9]]]
    folder = write_folder(tmp_path / "set", boxes)
    design = on_folder(tmp_path, folder, size=64)
    assert (design["objects"], design["left_out"], design["without_area"]) == (1, 0, 2)
    output = capsys.readouterr()
    assert "and 2 boxes without an area left out" in output.out
    assert "RuntimeWarning" not in output.err


def test_the_report_says_when_the_share_cannot_be_reached(tmp_path, capsys):
    """Boxes of 3 pixels between anchors 8 pixels apart, and boxes of 20 at anchors."""
    far = [[8 * i + 6.5, 8 * i + 6.5, 3, 3] for i in range(1, 7)]
    near = [[2 + 16 * i, 2 + 16 * i, 20, 20] for i in range(3)]
    folder = write_folder(tmp_path / "far", [far, near], size=(64, 64))
    line = (
        "no set was found that covers a weighted share of 0.9 on these strides; the "
        "proposal covers 0.333"
    )
    on_folder(tmp_path, folder, "--share=0.9", size=64)
    assert line in capsys.readouterr().out
    on_folder(tmp_path, folder, "--share=0.33", size=64)
    assert "no set was found" not in capsys.readouterr().out


# Anchors of configs/folder_narrow.py.
NARROW = (
    "--config.anchors.sizes=(16.0, 32.0, 64.0, 128.0)",
    f"--config.anchors.aspect_ratios={((1.0, 2.0, 0.5),) * 4}",
)


def test_on_bccd_small_objects_do_not_get_worse_unless_that_is_allowed(
    shared, tmp_path, capsys
):
    """Fewer anchors reach the wanted share if small objects may get worse."""
    folder = shared / "data" / "bccd"
    found = {}
    for flag in ("", "--allow_worse"):
        design = on_folder(
            tmp_path,
            folder,
            *NARROW,
            "--share=0.9",
            *filter(None, [flag]),
            size=256,
        )
        text = capsys.readouterr().out
        found[flag] = {b["size"]: b for b in design["bins"]}
        assert design["allow_worse"] == bool(flag)
        assert not design["config_kept"]
        assert (
            "--allow_worse: the proposal lowers the share of small" in text
        ) == bool(flag)
        assert ("covers as many small, medium and large" in text) != bool(flag)
    strict, free = found[""]["small"], found["--allow_worse"]["small"]
    assert strict["objects"] == 221
    assert strict["config"] == free["config"] == pytest.approx(0.937, abs=5e-4)
    assert strict["proposal"] >= strict["config"] > free["proposal"]


def test_the_configs_own_anchors_are_kept_if_nothing_is_better(tmp_path, capsys):
    """Square objects at every place of squares of their size, without a second set."""
    boxes = [
        [[4 + 8 * i - 8, 4 + 8 * j - 8, 16, 16] for i in (1, 3, 5)] for j in (1, 4)
    ]
    folder = write_folder(tmp_path / "set", boxes, size=(64, 64))
    own = (
        "--config.anchors.sizes=(16.0, 32.0, 64.0, 64.0)",
        f"--config.anchors.aspect_ratios={((1.0,),) * 4}",
        "--config.anchors.second_aspect_ratios=()",
    )
    design = on_folder(tmp_path, folder, *own, "--share=1", size=64)
    assert design["config_kept"]
    assert design["sets"]["proposal"] == design["sets"]["config"]
    assert design["fragment"]["sizes"] == [16, 32, 64, 64]
    text = capsys.readouterr().out
    assert (
        "No better set of anchors was found that is not worse for any size: the "
        "proposal is the config's own anchors"
    ) in text


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
def test_covered_shares_of_real_datasets_equal_a_recount(
    shared, tmp_path, name, capsys
):
    source = shared / "data" / name
    coco = json.loads((source / "annotations" / "val.json").read_text())
    coco["images"] = coco["images"][:24]
    ids = {image["id"] for image in coco["images"]}
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    folder = tmp_path / name
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "val.json").write_text(json.dumps(coco))
    (folder / "images").symlink_to(source / "images")
    design = on_folder(tmp_path, folder, size=256, split="val")
    assert design["split"] == "val"
    count = design["objects"]
    assert count == len(coco["annotations"]) > 100
    own, proposal = design["sets"]["config"], design["sets"]["proposal"]
    # An IoU of exactly 1/2 may be rounded differently.
    for figures in (own, proposal):
        expected = recount(coco, 256, figures, 0.5)
        assert figures["share_measured"] == pytest.approx(expected, abs=2.1 / count)
        hits = sum(
            b[key] * b["objects"]
            for b in design["bins"][:3]
            if b["objects"]
            for key in ("config" if figures is own else "proposal",)
        )
        assert hits / count == pytest.approx(figures["share_measured"])
        shares = [
            (weight, b[key])
            for b, weight in zip(design["bins"], (2, 1, 1), strict=False)
            if b["objects"]
            for key in ("config" if figures is own else "proposal",)
        ]
        assert figures["share_weighted"] == pytest.approx(
            sum(weight * share for weight, share in shares)
            / sum(weight for weight, _ in shares)
        )
        missed = figures["missed_shape"]["objects"] + figures["missed_place"]["objects"]
        assert missed / count == pytest.approx(1 - figures["share_measured"])
    assert proposal["share_weighted"] > own["share_weighted"]
    for b in design["bins"][:3]:
        assert not b["objects"] or b["proposal"] >= b["config"]
    # The printed fragment gives the proposal.
    text = capsys.readouterr().out.split("or for the command line:")[1]
    fields = shlex.split(text.split("Figures and plot")[0].replace("\\\n", " "))
    again = on_folder(tmp_path, folder, *fields, size=256, split="val")
    assert again["sets"]["config"] == proposal


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --config"),
        ([f"--config={CONFIG}:path=x", "--object_aspect_ratio=6"], "give either"),
        (["--object_aspect_ratio=0.5"], "--object_aspect_ratio=0.5 must be a number"),
        (["--object_aspect_ratio=nan"], "--object_aspect_ratio=nan must be a number"),
        (["--object_aspect_ratio=6", "--scale_step=0.9"], "--scale_step=0.9 must be"),
        (["--object_aspect_ratio=6", "--theta=1"], "--theta=1 must lie between"),
        (["--object_aspect_ratio=6", "--theta=0"], "--theta=0 must lie between"),
        (["--object_aspect_ratio=1e300"], "must be a number from 1 to 1000"),
        (["--object_aspect_ratio=6", "--theta=1e-200", "--scale_step=1"], "0.01 and"),
        (
            ["--object_aspect_ratio=6", "--theta=0.9999999999", "--scale_step=1"],
            "--theta=0.9999999999 must lie between 0.01 and 0.99",
        ),
        (["--object_aspect_ratio=6", "--theta=0.6"], "the largest step for 0.6 is"),
        (
            ["--object_aspect_ratio=6", "--share=0.9"],
            "--share can only be used with --config",
        ),
        (["--object_aspect_ratio=6", "more"], "unexpected argument 'more'"),
        (["--object_aspect_ratio=six"], "six"),
        (["--what"], "what"),
        ([f"--config={CONFIG}"], "the config needs the arguments path"),
        ([f"--config={CONFIG}:pth=x"], "config argument 'pth=x' is unknown"),
        ([f"--config={CONFIG}:path=x", "--config.anchors.size=1"], "no field"),
        ([f"--config={CONFIG}:path=x", "--share=0"], "--share=0 must be above 0"),
        ([f"--config={CONFIG}:path=x", "--share=1.1"], "--share=1.1 must be above"),
        (
            [f"--config={CONFIG}:path=x", "--weights=2,1"],
            "--weights=2,1 must be 3 numbers above 0, for small, medium, large objects",
        ),
        ([f"--config={CONFIG}:path=x", "--weights=2,0,1"], "--weights=2,0,1 must be"),
        ([f"--config={CONFIG}:path=x", "--weights=a,1,1"], "--weights=a,1,1 must be"),
        (
            ["--object_aspect_ratio=6", "--allow_worse"],
            "--allow_worse can only be used with --config",
        ),
        (
            [f"--config={CONFIG}:path=x", "--scale_step=2"],
            "--scale_step can only be used with",
        ),
        ([f"--config={CONFIG}:path=/nowhere"], "/nowhere"),
        (
            ["--config=absent.py"],
            "error: --config=absent.py is not a file; ",
        ),
        ([f"--config={CONFIG}:path=x", "--config.input_size=(512,)"], "input_size is"),
        (
            [f"--config={CONFIG}:path=x", "--config.anchors.strides=(0,16,32,64)"],
            "anchors.strides is (0, 16, 32, 64)",
        ),
        (
            [
                f"--config={CONFIG}:path=x",
                "--config.anchors.aspect_ratios=((1.0,),(1.0,),(-1.0,),(1.0,))",
            ],
            "anchors.aspect_ratios is",
        ),
        ([f"--config={CONFIG}:path=x", "--config.input_size=(0,512)"], "input_size is"),
        (
            [f"--config={CONFIG}:path=x", "--config.anchors.sizes=(1.0,2.0)"],
            "anchors.sizes has 2 levels, anchors.strides has 4",
        ),
    ],
)
def test_wrong_input_gets_one_line(capsys, arguments, message):
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)


def test_splits_without_objects_and_absent_splits_are_refused(tmp_path, capsys):
    folder = write_folder(tmp_path / "set", [[]])
    arguments = (
        f"--config={CONFIG}:path={folder}",
        f"--config.dataset.data_dir={tmp_path / 'prepared'}",
    )
    for more, message in (
        ((), "split train of"),
        (("--split=tset",), "has no split 'tset'"),
        (("--config.dataset.bad_boxes=keep",), "dataset.bad_boxes is 'keep'"),
    ):
        capsys.readouterr()
        assert run(*arguments, *more) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.splitlines()[-1].startswith("error: ")
