"""Parameters that a run takes from another run or an import."""

import json
import shutil

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.tasks import classification, detection
from borrow_det.tools import import_weights
from borrow_det.workdir import checkpoints, metadata, trunk_conversion
from borrow_det.workdir import init_from as init_from_lib

CAFFE = {
    "channel_order": "BGR",
    "pixel_mean": (103.939, 116.779, 123.68),
    "pixel_std": (1.0, 1.0, 2.0),
}


def full(config, value, num_classes=2, task=detection.DetectionTask):
    """Variables of a network whose every entry is `value`."""
    shapes = jax.eval_shape(task(config, num_classes).init, jax.random.key(0))
    return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes)


def flatten(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


@pytest.fixture
def plain_config(tiny_config):
    """A detector without normalisation layers, as published weights want it."""
    tiny_config.model.norm = "none"
    return tiny_config


@pytest.fixture
def tiny_import(plain_config, tmp_path):
    """An import of a tiny trunk that wants CAFFE's images; all its numbers are 0.5."""
    folder = tmp_path / "imported"
    source = tmp_path / "file.h5"
    source.write_bytes(b"anything")
    trunk = {
        path.removeprefix("params/"): array
        for path, array in flatten(full(plain_config, 0.5)).items()
        if path.startswith("params/trunk/")
    }
    imported = import_weights.Imported("keras_vgg16", trunk, CAFFE, [])
    import_weights.write(folder, source, imported)
    return folder


# What is taken.


def test_heads_and_neck_of_other_shapes_stay_fresh(tiny_run, tiny_config):
    tiny_config.borrow.channels = 4
    given = checkpoints.restore_variables(tiny_run.workdir)
    variables, taken, fresh = init_from_lib.take(given, full(tiny_config, 7), "all")
    params = variables["params"]
    jax.tree.map(
        np.testing.assert_array_equal, params["trunk"], given["params"]["trunk"]
    )
    np.testing.assert_array_equal(
        params["head2"]["box"]["kernel"], given["params"]["head2"]["box"]["kernel"]
    )
    assert "params/trunk/conv1_1/conv/kernel" in taken
    for path in ("neck/fmb1/theta/Conv_0/kernel", "head1/class/kernel"):
        assert f"params/{path}" in fresh
    assert np.all(params["head1"]["class"]["kernel"] == 7)
    assert np.all(params["neck"]["ffb1"]["W"]["kernel"] == 7)


@pytest.mark.parametrize(
    ("scope", "modules"),
    [
        ("all", {"trunk", "neck", "head1", "head2", "head3", "head4"}),
        ("no_heads", {"trunk", "neck"}),
        ("trunk", {"trunk"}),
    ],
)
def test_a_scope_decides_which_modules_are_taken(tiny_config, scope, modules):
    tiny_config.model.norm = "batch"
    given, old = full(tiny_config, 1), full(tiny_config, 7)
    variables, taken, fresh = init_from_lib.take(given, old, scope)
    values = {path: float(x.ravel()[0]) for path, x in flatten(variables).items()}
    assert set(values) == set(flatten(old)) == {*taken, *fresh}
    for path, value in values.items():
        inside = path.split("/")[1] in modules
        assert value == (1 if inside else 7)
        assert (path in taken) == inside
        assert (path in fresh) != inside
    # BatchNorm's averages go with their layers.
    assert "batch_stats/trunk/conv1_1/norm/mean" in taken


def test_an_unknown_scope_is_named(tiny_config, tmp_path):
    message = "init_scope is 'neck'; it must be one of"
    with pytest.raises(InputError, match=message):
        init_from_lib.take(full(tiny_config, 1), full(tiny_config, 7), "neck")
    tiny_config.init_scope = "neck"
    with pytest.raises(InputError, match=message):
        init_from_lib.resolve_pixel_statistics(tiny_config, tmp_path / "W")


def test_trunk_without_normalization_starts_one_with_it(plain_config):
    given = full(plain_config, 1)
    plain_config.model.norm = "batch"
    variables, taken, fresh = init_from_lib.take(given, full(plain_config, 7), "trunk")
    layer = variables["params"]["trunk"]["conv3_1"]
    assert np.all(layer["conv"]["kernel"] == 1)
    assert np.all(layer["norm"]["scale"] == 7)
    assert "params/trunk/conv3_1/conv/kernel" in taken
    assert "params/trunk/conv3_1/norm/scale" in fresh
    assert not any(path.endswith("conv3_1/conv/bias") for path in [*taken, *fresh])


@pytest.mark.parametrize(
    ("field", "value", "problems"),
    [
        (
            "width",
            1 / 16,
            [
                "params/trunk/conv1_1/conv/kernel is 3x3x3x2 there and 3x3x3x4 here",
                "params/trunk/conv6_2/conv/kernel is 3x3x8x16 there and 3x3x16x32 here",
            ],
        ),
        (
            "stages",
            (1, 2, 1, 1, 1),
            ["params/trunk/conv2_2/conv/kernel is absent there and 3x3x4x4 here"],
        ),
        ("norm", "none", ["params/trunk/conv1_1/norm/bias is 2 there and absent here"]),
        (
            "norm",
            "group",
            ["batch_stats/trunk/conv1_1/norm/mean is 2 there and absent here"],
        ),
    ],
)
def test_trunk_that_fits_in_part_is_refused_with_a_list(
    tiny_config, field, value, problems
):
    tiny_config.model.norm = "batch"
    given = full(tiny_config, 1)
    tiny_config.model[field] = value
    with pytest.raises(InputError, match="trunk does not fit") as error:
        init_from_lib.take(given, full(tiny_config, 7), "trunk")
    for problem in problems:
        assert problem in str(error.value)


# From a classifier to a detector.


def test_decimation_index_by_index():
    rng = np.random.default_rng(0)
    layers = {
        "fc6": {"kernel": rng.normal(size=(7, 7, 3, 16)), "bias": rng.normal(size=16)},
        "fc7": {"kernel": rng.normal(size=(1, 1, 16, 16)), "bias": rng.normal(size=16)},
    }
    made = trunk_conversion.decimate(layers)
    fc6, fc7 = made["conv_fc6"]["conv"], made["conv_fc7"]["conv"]
    assert fc6["kernel"].shape == (3, 3, 3, 4)
    assert fc7["kernel"].shape == (1, 1, 4, 4)
    kept = (0, 4, 8, 12)  # Outputs of fc6 and of fc7.
    for k, output in enumerate(kept):
        assert fc6["bias"][k] == layers["fc6"]["bias"][output]
        assert fc7["bias"][k] == layers["fc7"]["bias"][output]
        for i, row in enumerate((0, 3, 6)):
            for j, column in enumerate((0, 3, 6)):
                for channel in range(3):
                    assert (
                        fc6["kernel"][i, j, channel, k]
                        == layers["fc6"]["kernel"][row, column, channel, output]
                    )
        for j, source in enumerate(kept):
            assert (
                fc7["kernel"][0, 0, j, k]
                == layers["fc7"]["kernel"][0, 0, source, output]
            )


def test_fc7_reads_the_outputs_that_fc6_kept():
    """With fc6 zero but for the taps and outputs kept, decimation changes nothing.

    What fc7 then gives, at the outputs kept, is the same before and after.
    """
    rng = np.random.default_rng(1)
    fc6 = np.zeros((7, 7, 2, 8))
    fc6[::3, ::3, :, ::4] = rng.normal(size=(3, 3, 2, 2))
    fc7 = rng.normal(size=(1, 1, 8, 8))
    zeros = np.zeros(8)
    made = trunk_conversion.decimate(
        {"fc6": {"kernel": fc6, "bias": zeros}, "fc7": {"kernel": fc7, "bias": zeros}}
    )
    patch = rng.normal(size=(7, 7, 2))
    before = np.tensordot(patch, fc6, 3) @ fc7[0, 0]
    first = np.tensordot(patch[::3, ::3], made["conv_fc6"]["conv"]["kernel"], 3)
    after = first @ made["conv_fc7"]["conv"]["kernel"][0, 0]
    np.testing.assert_allclose(after, before[::4], rtol=1e-12)


@pytest.mark.parametrize("scope", init_from_lib.SCOPES)
def test_a_classifier_gives_the_trunk_with_its_fc_layers_decimated(plain_config, scope):
    old = full(plain_config, 7)
    plain_config.input_size = (224, 224)
    given = full(plain_config, 1, task=classification.ClassificationTask)
    rng = np.random.default_rng(0)
    params = given["params"]
    for name in ("fc6", "fc7"):
        params[name] = jax.tree.map(
            lambda x: rng.normal(size=x.shape).astype(x.dtype), params[name]
        )
    variables, taken, fresh = init_from_lib.take(given, old, scope)
    trunk = variables["params"]["trunk"]
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: trunk[name] for name in ("conv_fc6", "conv_fc7")},
        trunk_conversion.decimate({name: params[name] for name in ("fc6", "fc7")}),
    )
    assert np.all(trunk["conv5_1"]["conv"]["kernel"] == 1)
    # conv6, neck and heads are no part of a classifier.
    assert {path.split("/")[2] for path in taken} == {
        *(f"conv{stage}_1" for stage in range(1, 6)),
        *("conv_fc6", "conv_fc7"),
    }
    assert {path.split("/")[1] for path in fresh} >= {"trunk", "neck", "head1"}
    assert np.all(trunk["conv6_1"]["conv"]["kernel"] == 7)


def test_classifier_starts_from_a_classifier_except_its_last_layer(plain_config):
    plain_config.input_size = (224, 224)
    task = classification.ClassificationTask
    given, old = (full(plain_config, v, n, task) for v, n in ((1, 2), (7, 3)))
    _, _, fresh = init_from_lib.take(given, old, "all")
    assert fresh == ["params/fc8/bias", "params/fc8/kernel"]
    same = full(plain_config, 7, 2, task)
    assert init_from_lib.take(given, same, "all").fresh == []
    assert init_from_lib.take(given, same, "no_heads").fresh == fresh


def test_origin_without_checkpoint_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoints"):
        checkpoints.restore_variables(tmp_path / "none")


# Normalisation.


def test_pixel_statistics_are_those_of_the_import_or_run(
    tiny_import, tiny_run, plain_config, tmp_path
):
    own = {name: plain_config.model[name] for name in init_from_lib.PIXEL_STATISTICS}
    assert own["channel_order"] == "RGB"
    for origin, expected in ((tiny_import, CAFFE), (tiny_run.workdir, own)):
        assert init_from_lib.pixel_statistics(origin) == expected
        plain_config.init_from = str(origin)
        config = init_from_lib.resolve_pixel_statistics(plain_config, tmp_path / "W")
        assert {name: config.model[name] for name in CAFFE} == expected
    assert {name: plain_config.model[name] for name in CAFFE} == own


def test_own_pixel_statistics_are_kept_on_request(tiny_import, plain_config, tmp_path):
    plain_config.init_from = str(tiny_import)
    plain_config.init_normalization = False
    config = init_from_lib.resolve_pixel_statistics(plain_config, tmp_path / "W")
    assert config.model.channel_order == "RGB"
    assert config.model.pixel_std == (58.395, 57.12, 57.375)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.pop("pixel_mean"), "does not say what pixel_mean it wants"),
        (
            lambda n: n.update(channel_order="GRB"),
            "give RGB or BGR",
        ),
        (
            lambda n: n.update(pixel_std=[1, 0, 1]),
            "give RGB or BGR",
        ),
        (lambda n: n.update(pixel_mean=[1, 2]), "give RGB or BGR"),
        (lambda n: n.update(pixel_mean=[1, 2, float("nan")]), "no pixel statistics"),
        (lambda n: n.update(pixel_mean=1.0), "no pixel statistics"),
        (lambda n: n.update(pixel_std=["a", 1, 1]), "no pixel statistics"),
        (dict.clear, "does not say what channel_order, pixel_mean, pixel_std"),
    ],
)
def test_senseless_pixel_statistics_are_refused(tiny_import, change, message):
    path = tiny_import / init_from_lib.IMPORT_FILE
    record = json.loads(path.read_text())
    change(record["normalization"])
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        init_from_lib.pixel_statistics(tiny_import)


def test_folder_that_is_neither_run_nor_import_is_named(plain_config, tmp_path):
    plain_config.init_from = str(tmp_path / "nothing")
    with pytest.raises(InputError, match="nothing is not a work directory"):
        init_from_lib.resolve_pixel_statistics(plain_config, tmp_path / "W")


def test_training_in_an_import_is_refused(tiny_import, plain_config):
    with pytest.raises(InputError, match="choose another --workdir"):
        init_from_lib.resolve_pixel_statistics(plain_config, tiny_import)


def test_bgr_weights_equal_flipped_weights_on_rgb(plain_config):
    """One network, and one with the first kernel and the normalisation turned round."""
    config = plain_config
    variables = detection.DetectionTask(config, 2).init(jax.random.key(0))
    for name, value in CAFFE.items():
        config.model[name] = value
    flipped = jax.tree.map(jnp.copy, variables)
    layer = flipped["params"]["trunk"]["conv1_1"]["conv"]
    layer["kernel"] = layer["kernel"][:, :, ::-1]
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)))
    image = image.astype(jnp.float32)
    bgr = detection.DetectionTask(config, 2).model.apply(variables, image)
    with config.unlocked():
        config.model.channel_order = "RGB"
        config.model.pixel_mean = CAFFE["pixel_mean"][::-1]
        config.model.pixel_std = CAFFE["pixel_std"][::-1]
    rgb = detection.DetectionTask(config, 2).model.apply(flipped, image)
    # Float32 rounds to 6e-8 of each term; what is summed here is near the largest.
    for found, expected in ((bgr.logits, rgb.logits), (bgr.offsets, rgb.offsets)):
        bound = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
    mixed_up = detection.DetectionTask(config, 2).model.apply(variables, image)
    assert np.abs(mixed_up.logits - bgr.logits).max() > 1


# A run.


@pytest.fixture
def begin():
    """A function: starts a run, saves a checkpoint of step 1, returns the state."""

    def begin(config, workdir):
        with jax.numpy_dtype_promotion("standard"):
            run = train.prepare_run(config, workdir)
        if run.checkpoints.latest_step is None:
            run.checkpoints.save(1, vars(run.state), force=True)
        run.close()
        return run.state

    return begin


def test_resumed_run_keeps_the_pixel_statistics_of_a_vanished_import(
    tiny_import, plain_config, tmp_path, capsys, begin
):
    plain_config.init_from = str(tiny_import)
    plain_config.init_scope = "trunk"
    workdir = tmp_path / "W"
    begin(plain_config, workdir)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "fresh" in line)
    for words in (
        f"from {tiny_import}: 18 parameters taken: params/trunk/conv1_1/conv/bias, ",
        "fresh: params/head1/box/bias, params/head1/box/kernel",
        "pixel statistics: {'channel_order': 'BGR'",
    ):
        assert words in line

    shutil.rmtree(tiny_import)
    state = begin(plain_config, workdir)
    stored = metadata.load_config(workdir)
    assert {name: stored.model[name] for name in CAFFE} == CAFFE
    assert all(np.all(leaf == 0.5) for leaf in jax.tree.leaves(state.params["trunk"]))
    assert not np.any(state.params["head1"]["class"]["kernel"] == 0.5)
