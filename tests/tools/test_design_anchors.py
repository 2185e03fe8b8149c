"""The design tool: its one object without data, and its figures counted again."""

import json
import math
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from borrow_det.ops import anchor_coverage
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools import anchor_proposal, command, design_anchors
from configs import base

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "configs" / "coco_folder.py"


def run(*arguments):
    return command.call(design_anchors.main, ["design_anchors", *arguments])


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
    return folder


def recount(coco, size, anchors, theta):
    """The share of COCO annotations that an anchor of a fragment covers, by loops."""
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


def test_program_answers_without_data():
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


def test_theta_and_step_reach_the_answer(capsys):
    assert run("--object_aspect_ratio=5", "--theta=0.6", "--scale_step=1.5") == 0
    answer = json.loads(capsys.readouterr().out)
    # [m (1 + theta) / (theta (1 + m^2))]^2 with m^2 = 1.5.
    quotient = 1.5 * (1.6 / (0.6 * 2.5)) ** 2
    assert answer["max_aspect_ratio"] == pytest.approx(5 / quotient)


def test_sizes_and_ratios_are_those_after_resizing(tmp_path, capsys):
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
    assert ("no set that was tried covers 1 " in text) == (
        design["sets"]["proposal"]["share_measured"] < 1
    )
    # Square after resizing: squares suffice.
    assert all(r == 1 for r in design["fragment"]["aspect_ratios"][0])


def test_crowds_are_no_objects(tmp_path):
    folder = write_folder(tmp_path / "set", [[[20, 10, 50, 25], [0, 0, 200, 100]]])
    coco = json.loads((folder / "train.json").read_text())
    coco["annotations"][1]["iscrowd"] = 1
    (folder / "train.json").write_text(json.dumps(coco))
    design = on_folder(tmp_path, folder, size=64)
    assert (design["objects"], design["left_out"]) == (1, 1)
    assert design["size_range"] == pytest.approx([16, 16])


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
def test_real_sets_counted_again(shared, tmp_path, name, capsys):
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
    # Two roundings of an IoU of exactly 1/2 may differ.
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
        missed = figures["missed_shape"]["objects"] + figures["missed_place"]["objects"]
        assert missed / count == pytest.approx(1 - figures["share_measured"])
    assert proposal["share_measured"] > own["share_measured"]
    # The printed fragment, taken as it stands, is the proposal.
    text = capsys.readouterr().out.split("or for the command line:")[1]
    fields = shlex.split(text.split("Figures and plot")[0].replace("\\\n", " "))
    again = on_folder(tmp_path, folder, *fields, size=256, split="val")
    assert again["sets"]["config"] == proposal


def objects_of(sizes, ratios, size):
    """Objects of all sizes and aspect ratios, evenly over the image."""
    generator = np.random.default_rng(0)
    side, ratio = (a.ravel() for a in np.meshgrid(sizes, ratios))
    half = np.stack([side / ratio**0.5, side * ratio**0.5], axis=1) / 2 / size
    centers = half + generator.uniform(0, 1, half.shape) * (1 - 2 * half)
    boxes = np.concatenate([centers - half, centers + half], axis=1)
    return anchor_proposal.measure(boxes.astype(np.float32), (size, size))


def test_the_wanted_region_holds_the_share_and_no_more_than_it_must():
    generator = np.random.default_rng(0)
    sides = np.exp(generator.normal(0, 0.4, (4000, 2))) * 0.1
    boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
    objects = anchor_proposal.measure(boxes, (512, 512))
    spans = []
    for share in (0.5, 0.9, 0.99, 1.0):
        region = anchor_proposal.wanted_region(objects, share)
        inside = np.ones(4000, bool)
        for values, (low, high) in zip(objects[1:], region, strict=True):
            inside &= (values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9))
        assert share <= inside.mean() <= share + 0.01
        spans.append(math.log(region.ratios[1] / region.ratios[0]))
    assert spans == sorted(spans)
    assert spans[-1] == pytest.approx(np.ptp(np.log(objects.ratios)))


def test_one_aspect_ratio_where_objects_have_one():
    objects = objects_of(np.geomspace(40, 250, 40), [0.5] * 20, 512)
    region = anchor_proposal.wanted_region(objects, 0.99)
    own = base.get_config().anchors
    proposal, step = anchor_proposal.propose(
        objects, region, own, (512, 512), 0.5, 0.99
    )
    assert proposal.aspect_ratios == ((0.5,),) * 4
    # Boxes of one aspect ratio need no second set: one anchor a position.
    assert anchor_ops.anchors_per_position(proposal) == (1, 1, 1, 1)
    assert step <= 2
    _, worst = anchor_proposal.closed_form(proposal, region, (512, 512))
    assert worst.min() >= 0.5 - 1e-3
    assert own.sizes == (32.0, 64.0, 128.0, 256.0)


def test_the_share_decides_how_many_anchors_there_are():
    """First sizes alone, second sizes with one aspect ratio, and with all."""
    objects = objects_of(np.geomspace(18, 200, 24), np.geomspace(1 / 3, 3, 15), 256)
    region = anchor_proposal.wanted_region(objects, 0.99)
    own = base.get_config().anchors
    for share, per_position in ((0.7, 2), (0.9, 3), (0.95, 4)):
        proposal, _ = anchor_proposal.propose(
            objects, region, own, (256, 256), 0.5, share
        )
        assert anchor_ops.anchors_per_position(proposal) == (per_position,) * 4
        placed = anchor_ops.make_anchors(proposal, (256, 256))
        covered = anchor_coverage.best_iou(objects.boxes, placed) >= 0.5
        assert covered.mean() >= share


def test_deep_levels_have_no_anchors_larger_than_the_image():
    objects = objects_of(np.geomspace(16, 120, 40), np.geomspace(0.7, 1.4, 9), 128)
    region = anchor_proposal.wanted_region(objects, 0.99)
    own = base.get_config().anchors
    own.strides, own.sizes = (8, 16, 32, 64, 128, 128), (1.0,) * 6
    proposal, _ = anchor_proposal.propose(objects, region, own, (128, 128), 0.5, 0.99)
    assert max(proposal.sizes) <= 128
    assert len(proposal.sizes) == len(proposal.aspect_ratios) == 6
    assert np.allclose(np.diff(np.log(proposal.sizes[:3]), 2), 0, atol=1e-3)


def test_objects_as_wide_as_the_papers_need_three_aspect_ratios():
    objects = objects_of(np.geomspace(60, 200, 30), np.geomspace(1 / 6, 6, 31), 1024)
    region = anchor_proposal.wanted_region(objects, 1.0)
    own = base.get_config().anchors
    proposal, step = anchor_proposal.propose(
        objects, region, own, (1024, 1024), 0.5, 0.97
    )
    ratios = proposal.aspect_ratios[0]
    assert len(ratios) == 3
    assert ratios[1] == pytest.approx(1, abs=1e-3)
    equation = design_anchors.from_ratio(6, 0.5, step)["max_aspect_ratio"]
    assert max(ratios) == pytest.approx(equation, rel=1e-3)


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
        (["--object_aspect_ratio=6", "--theta=0.6"], "the largest step for 0.6 is"),
        (["--object_aspect_ratio=6", "--share=0.9"], "--share goes with --config"),
        (["--object_aspect_ratio=6", "more"], "unexpected argument 'more'"),
        (["--object_aspect_ratio=six"], "six"),
        (["--what"], "what"),
        ([f"--config={CONFIG}"], "the config needs the arguments path"),
        ([f"--config={CONFIG}:pth=x"], "config argument 'pth=x' is unknown"),
        ([f"--config={CONFIG}:path=x", "--config.anchors.size=1"], "no field"),
        ([f"--config={CONFIG}:path=x", "--share=0"], "--share=0 must lie above 0"),
        ([f"--config={CONFIG}:path=x", "--share=1.1"], "--share=1.1 must lie above"),
        ([f"--config={CONFIG}:path=x", "--scale_step=2"], "--scale_step goes with"),
        ([f"--config={CONFIG}:path=/nowhere"], "/nowhere"),
        (["--config=absent.py"], "absent.py"),
        (
            [f"--config={CONFIG}:path=x", "--config.anchors.sizes=(1.0,2.0)"],
            "anchors.sizes has 2 levels, anchors.strides has 4",
        ),
    ],
)
def test_wrong_input_is_named_in_one_line(capsys, arguments, message):
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)


def test_what_a_split_may_lack(tmp_path, capsys):
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
