"""A run's start: what shapes do not show, what is refused, what is recorded."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.tasks import detection
from borrow_det.workdir import checkpoints, metadata, origin_run
from borrow_det.workdir import init_from as init_from_lib


@pytest.fixture
def origin(tiny_run, tmp_path) -> pathlib.Path:
    """A copy of `tiny_run`'s work directory, to be changed."""
    return pathlib.Path(shutil.copytree(tiny_run.workdir, tmp_path / "origin"))


def start(config, origin):
    """`start_from` of a detector whose every fresh number is 7."""
    config.init_from = str(origin)
    classes = metadata.load_classes(origin)
    task = detection.DetectionTask(config, len(classes.class_names))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    fresh = jax.tree.map(lambda x: np.full(x.shape, 7, x.dtype), shapes)
    return init_from_lib.start_from(config, classes, fresh)


def heads(begun):
    """The parts of the heads that stayed fresh, of all."""
    modules = (path.split("/")[1:3] for path in begun.fresh)
    return {part for module, part in modules if module.startswith("head")}


def test_run_of_the_same_network_gives_all_parameters(origin, tiny_config):
    begun = start(tiny_config, origin)
    given = checkpoints.restore_variables(origin)
    jax.tree.map(np.testing.assert_array_equal, begun.variables, given)
    assert not begun.fresh
    assert begun.other_heads == {}


def test_logits_of_other_classes_are_not_taken(origin, tiny_config):
    classes = metadata.load_classes(origin)
    config = tiny_config
    config.init_from = str(origin)
    given = checkpoints.restore_variables(origin)
    renamed = classes._replace(class_names=classes.class_names[::-1])
    begun = init_from_lib.start_from(config, renamed, given)
    assert heads(begun) == {"class"}
    assert begun.other_heads == {"class": "other classes"}
    assert "; class heads: other classes; " in begun.describe()
    assert "params/head1/box/kernel" in begun.taken


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip", "sizes"),
        ("sizes", (7.0, 14.0, 28.0, 57.0)),
        ("aspect_ratios", ((1.0, 0.5, 2.0),) * 4),
        ("variances", (0.1, 0.1)),
    ],
)
def test_heads_for_other_anchors_are_not_taken(origin, tiny_config, field, value):
    tiny_config.anchors[field] = value
    begun = start(tiny_config, origin)
    assert heads(begun) == {"class", "box"}
    assert begun.other_heads["box"] == f"other anchors.{field}"
    assert all(path.split("/")[1].startswith("head") for path in begun.fresh)
    assert np.all(begun.variables["params"]["head1"]["box"]["kernel"] == 7)


@pytest.mark.parametrize(("enabled", "fresh"), [(True, {"box"}), (False, set())])
def test_boxes_that_did_or_do_not_see_what_is_borrowed_are_not_taken(
    origin, tiny_config, enabled, fresh
):
    # The origin is older than the field.
    config = json.loads((origin / "config.json").read_text())
    assert config["borrow"].pop("heads") == tiny_config.borrow.heads == "class"
    config["borrow"]["enabled"] = enabled
    (origin / "config.json").write_text(json.dumps(config))
    begun = start(tiny_config, origin)
    assert heads(begun) == fresh
    why = "other borrow.heads or borrow.enabled"
    assert begun.other_heads == dict.fromkeys(fresh, why)
    tiny_config.borrow.heads = "both"
    assert heads(start(tiny_config, origin)) == ({"box"} - fresh)


def test_an_input_of_another_size_may_move_the_last_anchor(origin, tiny_config):
    tiny_config.input_size = (96, 96)
    assert start(tiny_config, origin).other_heads["box"].endswith("input_size")
    # With a size of its own for what follows the last level, none depends on it.
    config = json.loads((origin / "config.json").read_text())
    for anchors in (config["anchors"], tiny_config.anchors):
        anchors["second_last"], anchors["next_size"] = "geometric", 100.0
    (origin / "config.json").write_text(json.dumps(config))
    assert start(tiny_config, origin).other_heads == {}


def test_last_layer_of_a_classifier_has_no_anchors(origin, tiny_config):
    config = json.loads((origin / "config.json").read_text())
    config["task"] = tiny_config.task = "classification"
    (origin / "config.json").write_text(json.dumps(config))
    tiny_config.anchors.clip = "sizes"
    classes = metadata.load_classes(origin)
    assert origin_run.other_heads(origin, tiny_config, classes) == {}


@pytest.mark.parametrize("damage", ["model", "anchors", "task", "everything"])
def test_an_origin_of_damaged_files_is_named(origin, tiny_config, damage):
    config = json.loads((origin / "config.json").read_text())
    config = {} if damage == "everything" else {**config, damage: 3}
    (origin / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json is not a run's: "):
        start(tiny_config, origin)
    if damage in ("model", "everything"):
        with pytest.raises(InputError, match="does not say what channel_order"):
            init_from_lib.pixel_statistics(origin)


def test_fresh_parameters_are_not_evaluated(origin, tiny_config):
    tiny_config.num_steps = 0
    assert not start(tiny_config, origin).fresh
    tiny_config.anchors.clip = "sizes"
    with pytest.raises(InputError, match="num_steps=0 would evaluate fresh parameters"):
        start(tiny_config, origin)


@pytest.mark.parametrize("scope", init_from_lib.SCOPES)
def test_trunk_with_another_group_size_is_refused(origin, tiny_config, scope):
    tiny_config.init_scope = scope
    tiny_config.model.group_size = 2
    with pytest.raises(InputError, match=r"model\.group_size=4, this config says 2"):
        start(tiny_config, origin)


def test_trunk_with_another_normalization_is_refused(origin, tiny_config):
    tiny_config.model.norm = "batch"
    with pytest.raises(
        InputError, match="batch_stats/trunk/conv1_1/norm/mean is absent there and 2"
    ):
        start(tiny_config, origin)


def test_a_damaged_checkpoint_is_named(origin, tiny_config):
    for path in origin.glob("checkpoints/4/model/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(InputError, match=r"init_from: the checkpoint of step 4 in .*"):
        start(tiny_config, origin)


def test_unfinished_checkpoint_of_the_origin_is_ignored(origin, tiny_config):
    for step in ("2", "4"):
        folder = origin / "checkpoints" / step
        folder.rename(folder.with_name(f"{step}.orbax-checkpoint-tmp"))
    with pytest.raises(InputError, match="origin holds no finished checkpoint"):
        start(tiny_config, origin)


@pytest.mark.parametrize("trouble", ["width", "nothing"])
def test_a_start_that_is_refused_leaves_no_work_directory(
    origin, tiny_config, tmp_path, trouble
):
    tiny_config.init_from = str(origin)
    if trouble == "width":
        tiny_config.model.width = 1 / 16
    else:
        shutil.rmtree(origin / "checkpoints")
    with pytest.raises(InputError, match="init_from: "):
        train.train_and_evaluate(tiny_config, tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_initialization_record_survives_a_resume(origin, tiny_config, tmp_path):
    workdir, config = tmp_path / "W", tiny_config
    config.init_from, config.init_scope = str(origin), "trunk"
    config.num_steps = config.eval_every = 2
    with jax.numpy_dtype_promotion("standard"):
        train.train_and_evaluate(config, workdir)
        record = json.loads((workdir / "initialization.json").read_text())
        config.init_from = ""
        shutil.rmtree(origin)
        train.train_and_evaluate(config, workdir)
        # Begun anew: a checkpoint that is being written is none.
        again = tmp_path / "again"
        (again / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
        shutil.copy(workdir / "initialization.json", again)
        train.train_and_evaluate(config, again)
    assert not (again / "initialization.json").exists()
    assert json.loads((workdir / "initialization.json").read_text()) == record
    assert (record["origin"], record["scope"]) == (str(origin), "trunk")
    assert "params/trunk/conv1_1/conv/kernel" in record["taken"]
    assert "params/head1/box/bias" in record["fresh"]
    assert record["normalization"]["channel_order"] == "RGB"


def test_frozen_batch_statistics_must_come_from_the_origin(origin, tiny_config):
    with pytest.raises(InputError, match="init_from is empty, so that nothing would"):
        init_from_lib.check_statistics(None, "frozen_batch")
    begun = start(tiny_config, origin)
    init_from_lib.check_statistics(begun, "frozen_batch")
    fresh = "batch_stats/trunk/stem/norm/mean"
    lacking = begun._replace(fresh=[*begun.fresh, fresh])
    with pytest.raises(InputError, match=f"gives no {fresh}: set model.norm=batch"):
        init_from_lib.check_statistics(lacking, "frozen_batch")
    init_from_lib.check_statistics(lacking, "batch")
