"""The detectors of benchmarks/torch_ssd.py compute what ours compute.

Otherwise the times that benchmarks compare would be those of other work. All weights
are drawn, biases included: nothing is zero that could hide a mistake. Both sides
compute in float32 and sum in other orders; the bounds are some 1e-5 of the largest
value, as in test_ssd300.py.
"""

import re
import types

import jax
import numpy as np
import pytest
from flax import traverse_util

from benchmarks import ours
from borrow_det.tasks.detection import DetectionTask

pytestmark = pytest.mark.parity

OF_LARGEST = 1e-4
BATCH = 2


@pytest.fixture(scope="module")
def torch_ssd():
    pytest.importorskip("torch", reason="requirements-parity.txt has it")
    from benchmarks import torch_ssd

    return torch_ssd


@pytest.fixture(scope="module", params=["", "class", "both"])
def both(request, torch_ssd):
    """Our task (plain, or with these heads), its variables, examples; their model."""
    borrow = bool(request.param)
    config = ours.make_config(borrow, batch=BATCH, size=257, width=1 / 16)
    if borrow:
        config.borrow.heads = request.param
    task = DetectionTask(config, ours.CLASSES)
    variables = ours.draw_variables(task)
    spread = ours.find_spread(task, variables, candidates=0)
    variables = ours.apply_spread(variables, spread)
    examples, totals = ours.make_examples(task, ours.make_batch(config))
    examples = examples._replace(image=examples.image.astype(np.float32))
    return types.SimpleNamespace(
        config=config,
        task=task,
        variables=variables,
        examples=examples,
        totals=totals,
        model=torch_ssd.SSD(config, variables["params"]),
    )


def assert_close(theirs, our, name=""):
    our, theirs = np.asarray(our), theirs.detach().numpy()
    assert our.shape == theirs.shape, name
    largest = np.abs(our).max()
    # At the last level no anchor is chosen.
    assert largest > 0 or name.startswith(("head", "trunk/conv9")), name
    np.testing.assert_allclose(theirs, our, atol=OF_LARGEST * largest, err_msg=name)


# Their names, and ours: levels and stages are counted from 0 there.
NAMES = (
    (r"trunk\.(\w+)\.", r"trunk/\1/conv/"),
    (r"scales\.(\d)", r"l2_<\1>/scale"),
    (r"neck\.borrow\.(\d)\.(theta|phi)\.convs\.(\d)\.", r"neck/fmb<\1>/\2/Conv_\3/"),
    (r"neck\.borrow\.(\d)\.g\.convs\.(\d)\.", r"neck/frb<\1>/g/Conv_\2/"),
    (r"neck\.borrow\.(\d)\.log_temperature", r"neck/fmb<\1>/log_temperature"),
    (r"neck\.W\.(\d)\.", r"neck/ffb<\1>/W/"),
    (r"neck\.context\.(\d)\.", r"neck/context<\1>/deconv/"),
    (r"classes\.(\d)\.", r"head<\1>/class/"),
    (r"boxes\.(\d)\.", r"head<\1>/box/"),
)


def our_gradient(name, parameter):
    """Our name of one of their parameters, and its gradient in our shape."""
    for theirs, our in NAMES:
        name = re.sub(f"^{theirs}", our, name)
    name = re.sub("<(.)>", lambda match: str(1 + int(match[1])), name)
    gradient = parameter.grad
    if name.endswith("/deconv/weight"):
        gradient = gradient.permute(2, 3, 0, 1).flip(0, 1)
    elif name.endswith("weight"):
        gradient = gradient.permute(2, 3, 1, 0)
    return name.replace("weight", "kernel"), gradient


def test_outputs_in_evaluation(both, torch_ssd):
    logits, offsets, _ = both.model.eval()(torch_ssd.images(both.examples.image))
    said = ours.forward(both.task, both.variables, both.examples.image)()
    assert_close(logits, said[0], "logits")
    assert_close(offsets, said[1], "offsets")


def test_loss_and_gradients(both, torch_ssd):
    def loss(params):
        return both.task.loss(params, {}, both.examples, both.totals)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(both.variables["params"])
    model = both.model.train()
    targets = torch_ssd.make_targets(both.examples, both.totals)
    said = model(torch_ssd.images(both.examples.image))
    theirs = torch_ssd.loss(both.config.loss, *said, targets)
    theirs.backward()
    assert theirs.item() == pytest.approx(float(value), rel=1e-4)
    if both.config.borrow.enabled:  # Its loss takes part.
        assert any(bool(counts.any()) for *_, counts in targets.borrow.values())
    found = dict(our_gradient(*item) for item in model.named_parameters())
    expected = traverse_util.flatten_dict(gradient, sep="/")
    assert found.keys() == expected.keys()
    for name, our in expected.items():
        if not name.endswith("theta/Conv_0/bias"):  # Centring takes its gradient away.
            assert_close(found[name], our, name)


def test_a_step_moves_weights_alike(both, torch_ssd):
    config = both.config.copy_and_resolve_references()
    config.optimizer.learning_rate = 1e-7
    task = DetectionTask(config, ours.CLASSES)
    trainer = ours.PreparedTrainer(task, both.variables, both.examples, both.totals)
    model = torch_ssd.SSD(config, both.variables["params"])
    image = torch_ssd.images(both.examples.image)
    targets = torch_ssd.make_targets(both.examples, both.totals)
    theirs = torch_ssd.TorchTrainer(model, config, image, targets, compiled=False)
    losses = [(float(trainer()), theirs()) for _ in range(3)]
    # The third has a momentum, and sees what the others did.
    assert losses[2][0] < 0.98 * losses[0][0]
    for our, their in losses:
        assert their == pytest.approx(our, rel=1e-3)
