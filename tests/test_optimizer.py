"""Schedules and updates against the formulas, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from borrow_det import optimizer
from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.tasks import TASKS

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture
def config():
    config = base.get_config()
    config.num_steps = 1000
    config.optimizer.learning_rate = 0.1
    config.schedule.warmup_steps = 0
    return config


PARAMS = {
    "conv": {"kernel": np.float32([1.0, -2.0]), "bias": np.float32([3.0])},
    "norm": {"scale": np.float32([0.5]), "bias": np.float32([-1.0])},
    "fmb": {"log_temperature": np.float32(2.0)},
}
GRADIENT = {
    "conv": {"kernel": np.float32([0.3, 0.4]), "bias": np.float32([-1.2])},
    "norm": {"scale": np.float32([0.0]), "bias": np.float32([0.0])},
    "fmb": {"log_temperature": np.float32(0.0)},
}


STAGES = (("conv",), ("norm",))  # The trunk; `fmb` is not part of it.


def updated(config, steps=1, gradient=GRADIENT):
    """The parameters after some steps with the same gradient."""
    rule = optimizer.make_optimizer(config, STAGES)
    params, state = PARAMS, rule.init(PARAMS)
    for _ in range(steps):
        updates, state = rule.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_step_schedule_by_hand(config):
    config.schedule.warmup_steps = 100
    config.schedule.boundaries = (0.5, 0.8)
    rate = optimizer.make_schedule(config)
    expected = {
        **{0: 0.001, 1: 0.002, 49: 0.05, 98: 0.099, 99: 0.1, 100: 0.1, 499: 0.1},
        **{500: 0.01, 799: 0.01, 800: 0.001, 999: 0.001},
    }
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, err_msg=str(step))


def test_a_boundary_within_the_warmup_counts_at_once(config):
    config.schedule.warmup_steps = 600
    config.schedule.boundaries = (0.3, 0.9)
    rate = optimizer.make_schedule(config)
    expected = {298: 299 / 6000, 300: 301 / 60000, 599: 0.01, 899: 0.01, 900: 0.001}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, err_msg=str(step))


def test_equal_boundaries_count_each(config):
    config.schedule.boundaries = (0.5, 0.5, 0.5003)  # The last rounds to 500, too.
    rate = optimizer.make_schedule(config)
    np.testing.assert_allclose([rate(499), rate(500)], [0.1, 1e-4], rtol=1e-5)


def test_no_boundary_is_a_constant_rate(config):
    config.schedule.boundaries = ()
    rate = optimizer.make_schedule(config)
    np.testing.assert_allclose([rate(0), rate(999)], [0.1, 0.1], rtol=1e-6)


def test_cosine_schedule_by_hand(config):
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 200
    rate = optimizer.make_schedule(config)
    expected = {0: 5e-4, 99: 0.05, 199: 0.1, 200: 0.1, 600: 0.05, 1000: 0.0, 1001: 0.0}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, atol=1e-6, err_msg=str(step))
    # A quarter of the way down the cosine.
    quarter = 0.1 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(rate(400), quarter, rtol=1e-5)


@pytest.mark.parametrize("name", ["step", "cosine"])
def test_a_restarted_schedule_is_that_of_a_run_of_the_steps_between(config, name):
    config.schedule.name = name
    config.schedule.boundaries = (0.5,)
    config.num_steps, config.schedule.warmup_steps = 30, 4
    config.schedule.restarts = (10, 24, 30)  # The last is beyond the last step.
    rate = jax.jit(optimizer.make_schedule(config))
    expected = []
    config.schedule.restarts = ()
    for length in (10, 14, 6):
        config.num_steps = length
        alone = optimizer.make_schedule(config)
        expected += [float(alone(step)) for step in range(length)]
    np.testing.assert_allclose([rate(step) for step in range(30)], expected, rtol=1e-5)
    assert expected[10] == pytest.approx(0.025)  # The first of four steps of warm-up.


@pytest.mark.parametrize("name", ["step", "cosine"])
def test_a_run_shorter_than_its_warmup_rises_to_its_end(config, name):
    config.schedule.name = name
    config.schedule.boundaries = (1.0,)
    config.num_steps, config.schedule.warmup_steps = 10, 500
    rate = optimizer.make_schedule(config)
    rates = [float(rate(step)) for step in range(10)]
    np.testing.assert_allclose(rates, np.arange(1, 11) * 0.01, atol=1e-6)


def test_the_rate_of_a_traced_step_is_that_of_the_number(config):
    config.schedule.warmup_steps = 100
    rate = optimizer.make_schedule(config)
    steps = (0, 60, 670, 830)
    traced = [jax.jit(rate)(jnp.int32(step)) for step in steps]
    np.testing.assert_allclose(traced, [rate(step) for step in steps], rtol=1e-6)


def test_weight_decay_acts_only_on_kernels():
    assert optimizer.decay_mask(PARAMS) == {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "fmb": {"log_temperature": False},
    }


def test_sgd_is_momentum_on_gradient_plus_decay(config):
    config.optimizer.weight_decay = 0.5
    params = updated(config, steps=2)
    # L2 enters the gradient, and so the momentum.
    kernel, velocity = PARAMS["conv"]["kernel"], 0.0
    for _ in range(2):
        gradient = GRADIENT["conv"]["kernel"] + 0.5 * kernel
        velocity = 0.9 * velocity + gradient
        kernel = kernel - 0.1 * velocity
    np.testing.assert_allclose(params["conv"]["kernel"], kernel, rtol=1e-6)
    bias = 3.0 + 0.1 * 1.2 * (1 + 1.9)
    np.testing.assert_allclose(params["conv"]["bias"], [bias], rtol=1e-6)
    for group, name in (("norm", "scale"), ("fmb", "log_temperature")):
        np.testing.assert_array_equal(params[group][name], PARAMS[group][name])


def test_adamw_weight_decay_is_decoupled(config):
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.5
    params = updated(config)
    # The first step is the gradient's sign, whatever its size.
    kernel = PARAMS["conv"]["kernel"]
    expected = kernel - 0.1 * (np.sign(GRADIENT["conv"]["kernel"]) + 0.5 * kernel)
    np.testing.assert_allclose(params["conv"]["kernel"], expected, rtol=1e-5)
    np.testing.assert_allclose(params["conv"]["bias"], [3.1], rtol=1e-5)


def test_adamw_uses_the_configured_second_moment(config):
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.0
    config.optimizer.b1, config.optimizer.b2 = 0.5, 0.8
    rule = optimizer.make_optimizer(config, STAGES)
    state = rule.init(PARAMS)
    params, m, v = PARAMS["conv"]["bias"], 0.0, 0.0
    current = PARAMS
    for t, g in enumerate((1.0, -3.0), start=1):
        gradient = jax.tree.map(lambda x, g=g: jnp.full_like(x, g), PARAMS)
        updates, state = rule.update(gradient, state, current)
        current = optax.apply_updates(current, updates)
        m, v = 0.5 * m + 0.5 * g, 0.8 * v + 0.2 * g * g
        step = (m / (1 - 0.5**t)) / (np.sqrt(v / (1 - 0.8**t)) + 1e-8)
        params = params - 0.1 * step
    np.testing.assert_allclose(current["conv"]["bias"], params, rtol=1e-5)


def test_clipping_is_by_the_norm_of_the_whole_gradient(config):
    config.optimizer.weight_decay = 0.0
    # The norm of GRADIENT is sqrt(0.09 + 0.16 + 1.44) = 1.3.
    for clip, factor in ((0.65, 0.5), (2.0, 1.0), (0.0, 1.0)):
        config.optimizer.clip_norm = clip
        params = updated(config)
        expected = PARAMS["conv"]["kernel"] - 0.1 * factor * np.float32([0.3, 0.4])
        np.testing.assert_allclose(params["conv"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_trunk_has_its_own_factor_of_the_rate_and_of_the_decay(config, name):
    config.optimizer.name, config.optimizer.trunk_rate = name, 0.25
    config.optimizer.weight_decay = 0.5
    gradient = jax.tree.map(lambda x: x + np.float32(0.5), GRADIENT)
    found = updated(config, steps=2, gradient=gradient)

    def by_hand(value, g, rate, decay):
        velocity, m, v = 0.0, 0.0, 0.0
        for t in (1, 2):
            if name == "sgd":  # Decay enters the gradient.
                velocity = 0.9 * velocity + g + decay * value
                value = value - rate * velocity
            else:
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
                value = value - rate * (step + decay * value)
        return value

    for group, rate in (("conv", 0.025), ("norm", 0.025), ("fmb", 0.1)):
        for leaf, value in PARAMS[group].items():
            decay = 0.5 if leaf == "kernel" else 0.0
            expected = by_hand(value, gradient[group][leaf], rate, decay)
            np.testing.assert_allclose(found[group][leaf], expected, rtol=1e-5)


def test_the_factor_of_the_trunk_leaves_the_schedule_and_the_state_alone(config):
    states, rates = [], []
    for config.optimizer.trunk_rate in (1.0, 0.25):
        rule = optimizer.make_optimizer(config, STAGES)
        states.append(rule.update(GRADIENT, rule.init(PARAMS), PARAMS)[1])
        rates.append(float(optimizer.make_schedule(config)(700)))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert rates[0] == rates[1]


def test_clipping_comes_before_the_factor_of_the_trunk(config):
    config.optimizer.weight_decay, config.optimizer.trunk_rate = 0.0, 0.25
    config.optimizer.clip_norm = 0.65  # Half of the norm.
    kernel = updated(config)["conv"]["kernel"]
    expected = PARAMS["conv"]["kernel"] - 0.025 * 0.5 * np.float32([0.3, 0.4])
    np.testing.assert_allclose(kernel, expected, rtol=1e-6)


def test_unknown_names_are_named(config):
    config.optimizer.name = "lion"
    with pytest.raises(InputError, match=r"optimizer\.name is 'lion'"):
        optimizer.make_optimizer(config, STAGES)
    config.schedule.name = "linear"
    with pytest.raises(InputError, match=r"schedule\.name is 'linear'"):
        optimizer.make_schedule(config)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("warmup_steps", -1, "warmup_steps is -1; it must be 0 or more"),
        ("factor", 0.0, "factor is 0.0; it must be positive"),
        ("factor", float("nan"), "factor is nan; it must be positive"),
        ("boundaries", (0.8, 0.5), r"boundaries is \(0.8, 0.5\); .* ascending order"),
        ("boundaries", (0.0,), r"boundaries is \(0.0,\); .* above 0"),
        ("boundaries", (0.5, 1.1), r"boundaries is \(0.5, 1.1\); .* up to 1"),
        ("boundaries", (float("nan"),), "boundaries is"),
        ("restarts", (5, 5), r"restarts is \(5, 5\); it must hold numbers of steps"),
        ("restarts", (0,), "restarts is"),
        ("restarts", (1.5,), "restarts is"),
    ],
)
def test_schedules_out_of_range_are_named(config, field, value, message):
    config.schedule[field] = value
    with pytest.raises(InputError, match=rf"^schedule\.{message}"):
        optimizer.make_schedule(config)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_layer_decay_is_a_factor_for_every_deeper_stage(config, name):
    """The last stage keeps the rate of the trunk, the one before it decays once."""
    config.optimizer.name, config.optimizer.trunk_rate = name, 0.5
    config.optimizer.weight_decay = 0.0
    one = updated(config)
    config.optimizer.layer_decay = 0.7
    decayed = updated(config)
    for group, factor in (("conv", 0.7), ("norm", 1.0), ("fmb", 1.0)):
        for leaf, value in PARAMS[group].items():
            step, slower = one[group][leaf] - value, decayed[group][leaf] - value
            np.testing.assert_allclose(slower, factor * step, rtol=1e-4, atol=1e-8)


def test_layer_decay_of_vitdet_by_its_formula():
    """decay ** (12 + 1 - layer), where patches are layer 0 and block i is layer i."""
    config = base.get_config()
    config.model.trunk, config.model.norm = "vit_base", "layer"
    config.optimizer.layer_decay = 0.7
    stages = TASKS["detection"](config, 3).stages
    rates = optimizer._stage_rates(config.optimizer, stages)
    assert rates["trunk/pos_embed"] == rates["trunk/patch_embed"]
    for layer, module in ((0, "pos_embed"), (1, "block1"), (12, "block12")):
        np.testing.assert_allclose(rates[f"trunk/{module}"], 0.7 ** (13 - layer))
    assert rates["trunk/pyramid1"] == rates["trunk/conv6_2"] == 1.0
