"""torchvision's side of the benchmarks: its ssd300_vgg16, with weights for ours.

Images are on the device as uint8 [B, 3, H, W], channels last in memory. Everything
after that is timed, including torchvision's own transform.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torchvision
from flax import traverse_util
from torch import Tensor, nn

from benchmarks import ours
from borrow_det.weights import layouts

COCO = "torchvision_ssd300_vgg16"  # Layout of its parameters.


def draw_model(seed: int = 0) -> nn.Module:
    """Draws the detector of 91 channels on the CPU; kernels have He's deviation."""
    model = torchvision.models.detection.ssd300_vgg16(
        weights=None, weights_backbone=None
    )
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim == 4:
            deviation = (2 / parameter[0].numel()) ** 0.5
            parameter.data.normal_(0, deviation, generator=generator)
    return model


def spread(model: nn.Module, score: float, candidates: int) -> nn.Module:
    """Changes the heads so that scores are as after training; see `ours.Spread`."""
    image = torch.from_numpy(ours.noise(1, 300)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        batch, _ = model.eval().transform(list(image))
        levels = list(model.backbone(batch.tensors).values())
        predictions = model.head(levels)
    counts = [
        level.shape[2] * level.shape[3] * anchors
        for level, anchors in zip(
            levels, model.anchor_generator.num_anchors_per_location(), strict=True
        )
    ]
    logits, offsets = (
        predictions[name][0].double().numpy()
        for name in ("cls_logits", "bbox_regression")
    )
    wanted = ours.spread_of(logits, offsets, counts, score, candidates)
    pairs = (
        (model.head.classification_head, wanted.class_scales),
        (model.head.regression_head, wanted.box_scales),
    )
    with torch.no_grad():
        for head, scales in pairs:
            for layer, scale in zip(head.module_list, scales, strict=True):
                layer.weight.mul_(scale)
        for layer in model.head.classification_head.module_list:
            layer.bias.reshape(-1, layouts.COCO_CHANNELS)[:, 0] += wanted.background
    return model


def to_ours(model: nn.Module) -> dict[str, Any]:
    """Returns the weights as our variables, in NumPy arrays."""
    tensors = model.state_dict()
    params = {
        tuple(entry.path.split("/")): np.ascontiguousarray(
            entry.convert(tensors[name].detach().cpu().numpy())
        )
        for name, entry in layouts.LAYOUTS[COCO].tensors.items()
    }
    return {"params": traverse_util.unflatten_dict(params), "batch_stats": {}}


def place(model: nn.Module, device: str, compiled: bool) -> nn.Module:
    """Copies a model to the device, channels last, optionally with torch.compile.

    Only the network is compiled. The rest (transform, targets, loss, suppression) loops
    over lists of images and classes, whose sizes depend on the data.
    """
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)
    if compiled:
        model.backbone = torch.compile(model.backbone, dynamic=False)
        model.head = torch.compile(model.head, dynamic=False)
    return model


def images(batch: Mapping[str, np.ndarray], device: str) -> Tensor:
    """Returns the images of one of our batches as uint8 [B, 3, H, W], channels last."""
    return torch.from_numpy(batch["image"]).to(device).permute(0, 3, 1, 2)


def precision(device: str) -> Any:
    """Returns AMP in bfloat16 on a GPU, and float32 on a CPU, as on our side."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def synchronize(device: str) -> None:
    """Waits until the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()


def detect(model: nn.Module, batch: dict, device: str) -> Callable[[], list[dict]]:
    """Returns a call of the detector from uint8 images to detections."""
    model, image = model.eval(), images(batch, device)

    def call() -> list[dict]:
        with torch.inference_mode(), precision(device):
            found = model(list(image.float() / 255))
        synchronize(device)
        return found

    return call


def train(model: nn.Module, config: Any, batch: dict, device: str) -> Callable:
    """Returns training steps like those of `ours.RunTrainer`; they return the loss."""
    model, image = model.train(), images(batch, device)
    targets = _targets(batch, device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.optimizer.learning_rate,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )

    def call() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with precision(device):
            losses = model(list(image.float() / 255), targets)
        loss = sum(losses.values())
        loss.backward()
        optimizer.step()
        synchronize(device)
        return loss.detach()

    return call


def _targets(batch: Mapping[str, np.ndarray], device: str) -> list[dict[str, Tensor]]:
    """Converts boxes [y0, x0, y1, x1] in [0, 1] to [x0, y0, x1, y1] in pixels."""
    side = batch["image"].shape[1]
    boxes = torch.from_numpy(batch["boxes"][..., [1, 0, 3, 2]] * side).to(device)
    labels = torch.from_numpy(1 + batch["labels"].astype(np.int64)).to(device)
    return [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]


def suppress(
    boxes: Tensor, scores: Tensor, options: Any, device: str
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Class-wise NMS of a batch by torchvision.ops.batched_nms.

    It runs image by image on the best scores of each class above the threshold, as in
    torchvision's detector. (The detector's own loop over classes is slower.)

    Args:
      boxes: boxes, [B, A, 4].
      scores: scores, [B, A, C].
      options: fields of config.nms.
      device: cuda or cpu.

    Returns:
      Kept boxes, scores and labels of each image.
    """

    def one_image(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        best, anchor = scores.mT.topk(min(options.max_per_class, len(scores)), dim=1)
        labels, place = torch.where(best > options.score)
        best, these = best[labels, place], boxes[anchor[labels, place]]
        kept = torchvision.ops.batched_nms(these, best, labels, options.iou)
        kept = kept[: options.max_total]
        return these[kept], best[kept], labels[kept]

    with torch.inference_mode():
        found = [one_image(*pair) for pair in zip(boxes, scores, strict=True)]
    synchronize(device)
    return found
