"""torchvision's SSD300 with random weights, as the reference of the parity tests."""

import types

import numpy as np
import pytest

SIDE = 300


def _greedy_nms(torch, box_iou):
    """NMS as torchvision's operator defines it, for where that is not compiled."""

    def nms(boxes, scores, iou_threshold):
        order, kept = torch.argsort(scores, descending=True, stable=True), []
        while order.numel():
            first, order = order[0], order[1:]
            kept.append(first)
            overlap = box_iou(boxes[first][None], boxes[order])[0]
            order = order[overlap <= iou_threshold]
        return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)

    return nms


def _import_torchvision():
    """torch and torchvision; a CPU build lacks the compiled operators it declares."""
    torch = pytest.importorskip("torch", reason="requirements-parity.txt has it")
    try:
        import torchvision

        return torch, torchvision
    except RuntimeError:
        pass
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(
            f"{name}(Tensor dets, Tensor scores, float threshold) -> Tensor"
        )
    import torchvision

    torchvision.extension._has_ops = lambda: True
    nms = _greedy_nms(torch, torchvision.ops.box_iou)
    operators.impl("nms", nms, "CPU")
    torchvision.kept_alive = operators  # Its operators end with it.
    return torch, torchvision


def _draw_weights(torch, model):
    """He's deviation for every kernel, so that activations keep their size.

    The heads' kernels are divided by the size of what they get, so that scores spread
    and are neither all small nor rounded to 1.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        if parameter.ndim > 1:
            deviation = (2 / fan_in) ** 0.5
            parameter.data.normal_(0, deviation, generator=generator)
        else:
            # Biases around zero, L2Norm's scales around 20.
            shift = parameter.data.mean().round()
            parameter.data.normal_(0, 0.1, generator=generator).add_(shift)
    with torch.no_grad():
        noise = torch.rand(1, 3, SIDE, SIDE, generator=generator) * 255 - 120
        levels = model.backbone(noise).values()
        heads = (model.head.classification_head, model.head.regression_head)
        for head in heads:
            for level, layer in zip(levels, head.module_list, strict=True):
                layer.weight.div_(level.square().mean().sqrt())


@pytest.fixture(scope="session")
def reference():
    """Has `torch`, `box_iou` and `model`, torchvision's ssd300_vgg16 in evaluation."""
    torch, torchvision = _import_torchvision()
    model = torchvision.models.detection.ssd300_vgg16(
        weights=None, weights_backbone=None
    )
    _draw_weights(torch, model)
    return types.SimpleNamespace(
        torch=torch, box_iou=torchvision.ops.box_iou, model=model.eval()
    )


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 RGB [2, 300, 300, 3]: waves of colour, and noise over half of them.

    Everywhere there is some noise: where neighbours are equal, max pooling may hand its
    gradient to either.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y * x), np.sin(5 * x) * np.cos(11 * y)]
    smooth = np.stack(waves, axis=-1) * 100 + 128
    smooth += rng.uniform(-9, 9, smooth.shape)
    noisy = smooth.copy()
    noisy[:, SIDE // 2 :] = rng.uniform(0, 255, (SIDE, SIDE - SIDE // 2, 3))
    return np.stack([smooth, noisy]).clip(0, 255).astype(np.uint8)
