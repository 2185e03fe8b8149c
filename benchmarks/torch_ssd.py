"""The same detectors in PyTorch, built from this project's parameters.

The modules have the equations of borrow_det/models in PyTorch's own layers: SSD300's
trunk, the borrowing neck with the default similarity (centered cosine) and the heads,
without norm layers. A test compares outputs, loss and gradients with ours.

Maps are [B, C, H, W] in the channels-last memory format.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor, nn

from borrow_det.models.trunks.ssd import SSD300
from borrow_det.models.trunks.vgg import VGGStages

Params = Mapping[str, Any]  # Tree of our parameters, NumPy.


def tensor(array: Any) -> Tensor:
    """Returns a copy of an array as a tensor."""
    return torch.from_numpy(np.array(array))


def images(array: np.ndarray) -> Tensor:
    """Converts [B, H, W, C] to float32 [B, C, H, W], channels last in memory."""
    return tensor(array).float().permute(0, 3, 1, 2)


def _conv(layer: Params, **options: Any) -> nn.Conv2d:
    """Returns a convolution with the kernel [H, W, in, out] and bias of our layer."""
    kernel = tensor(layer["kernel"]).permute(3, 2, 0, 1)
    conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], **options)
    conv.weight = nn.Parameter(kernel.contiguous())
    conv.bias = nn.Parameter(tensor(layer["bias"]))
    return conv


class Trunk(nn.Module):
    """SSD300's trunk: image [B, 3, H, W] after pixel statistics -> six levels."""

    def __init__(self, params: Params, stages: Sequence[int]) -> None:
        """Takes our trunk's parameters and its convolutions per stage."""
        super().__init__()
        self.stages = tuple(stages)
        options: dict[str, dict[str, Any]] = {
            "conv_fc6": dict(padding=6, dilation=6),
            "conv_fc7": {},
        }
        for number, layer in enumerate(SSD300.extra_layers, start=6):
            options[f"conv{number}_1"] = {}
            options[f"conv{number}_2"] = dict(
                stride=layer.stride, padding=layer.padding
            )
        for name, layer in params.items():
            self.add_module(name, _conv(layer["conv"], **options.get(name, _SAME)))

    def _block(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(name)(x))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns conv4_3, conv_fc7, conv6_2, conv7_2, conv8_2 and conv9_2."""
        levels = []
        for stage, count in enumerate(self.stages, start=1):
            if stage > 1:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            for i in range(1, count + 1):
                x = self._block(f"conv{stage}_{i}", x)
            if stage == 4:
                levels.append(x)
        x = F.max_pool2d(x, 3, 1, padding=1)
        x = self._block("conv_fc7", self._block("conv_fc6", x))
        levels.append(x)
        for number in range(6, 6 + len(SSD300.extra_layers)):
            x = self._block(f"conv{number}_2", self._block(f"conv{number}_1", x))
            levels.append(x)
        return levels


_SAME = {"padding": 1}  # A 3x3 convolution that keeps the size.


def unit_vectors(x: Tensor, epsilon: float, dim: int) -> Tensor:
    """Divides vectors along `dim` by their length, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().sum(dim, keepdim=True) + epsilon)


def descriptors(level: Tensor) -> Tensor:
    """Converts a map [B, C, H, W] to descriptors [B, H W, C]."""
    return level.permute(0, 2, 3, 1).flatten(1, 2)


class TorchEmbed(nn.Module):
    """1x1 convolutions, one per level, concatenated over positions."""

    def __init__(self, params: Params) -> None:
        """Takes the parameters Conv_0, Conv_1, ..."""
        super().__init__()
        self.convs = nn.ModuleList(
            _conv(params[f"Conv_{i}"]) for i in range(len(params))
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Embeds maps into descriptors [B, sum of H_m W_m, C]."""
        pairs = zip(self.convs, levels, strict=True)
        return torch.cat([descriptors(conv(level)) for conv, level in pairs], dim=1)


class Borrow(nn.Module):
    """FMB and FRB of a level, with centered cosine and a learned temperature."""

    def __init__(self, fmb: Params, frb: Params) -> None:
        """Takes the parameters of both blocks."""
        super().__init__()
        self.theta, self.phi = TorchEmbed(fmb["theta"]), TorchEmbed(fmb["phi"])
        self.g = TorchEmbed(frb["g"])
        self.log_temperature = nn.Parameter(tensor(fmb["log_temperature"]))

    def forward(
        self, shallow: Tensor, deeper: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Returns Z [B, R, C], and in training log P [B, R, T] for its loss."""
        V = self.g(deeper)
        Q, K = (
            unit_vectors(x - x.mean(1, keepdim=True), 1e-6, 2).to(V.dtype)
            for x in (self.theta([shallow]), self.phi(deeper))
        )
        temperature = self.log_temperature.exp()
        if not self.training:
            heads = ((Q * temperature)[:, None], K[:, None], V[:, None])
            return F.scaled_dot_product_attention(*heads, scale=1.0)[:, 0], None
        log_p = torch.log_softmax(Q @ K.mT * temperature, dim=-1)
        return log_p.exp() @ V, log_p


class Neck(nn.Module):
    """Borrowing neck: maps for classes and for boxes, and log P of borrowing levels."""

    def __init__(self, params: Params, levels: Sequence[int], heads: str) -> None:
        """Takes the neck's parameters, and `levels` and `heads` of config.borrow."""
        super().__init__()
        self.heads = heads
        self.borrow = nn.ModuleDict()
        self.W = nn.ModuleDict()
        for n in levels:
            fmb, frb = params[f"fmb{n + 1}"], params[f"frb{n + 1}"]
            self.borrow[str(n)] = Borrow(fmb, frb)
            self.W[str(n)] = _conv(params[f"ffb{n + 1}"]["W"])
        contexts = sorted(name for name in params if name.startswith("context"))
        self.context = nn.ModuleList(_deconv(params[c]["deconv"]) for c in contexts)

    def forward(
        self, X: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], dict[int, Tensor]]:
        """Maps X_1..X_N to Y_1..Y_N, and to the maps that boxes are predicted from."""
        Y, boxes, log_p = [], [], {}
        for n, (x, deconv) in enumerate(zip(X[:-1], self.context, strict=True)):
            y = x
            if str(n) in self.borrow:
                Z, log_p[n] = self.borrow[str(n)](x, X[n + 1 :])
                Z = Z.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
                y = y + F.relu(self.W[str(n)](torch.cat([x, Z], dim=1)))
            D = deconv(X[n + 1])[:, :, : x.shape[2], : x.shape[3]]
            Y.append(y + D)
            boxes.append(x + D if self.heads == "class" else Y[-1])
        return [*Y, X[-1]], [*boxes, X[-1]], log_p


def _deconv(layer: Params) -> nn.ConvTranspose2d:
    """Returns a deconvolution without overlap; Flax flips its kernel spatially."""
    kernel = tensor(np.asarray(layer["kernel"])[::-1, ::-1]).permute(2, 3, 0, 1)
    shape, stride = kernel.shape[:2], kernel.shape[2:]
    deconv = nn.ConvTranspose2d(*shape, stride, stride)
    deconv.weight = nn.Parameter(kernel.contiguous())
    deconv.bias = nn.Parameter(tensor(layer["bias"]))
    return deconv


class SSD(nn.Module):
    """Detector of a config: image -> class logits and box offsets."""

    def __init__(self, config: Any, params: Params) -> None:
        """Takes our parameters of `config`.

        Raises:
          ValueError: this module does not implement the config.
        """
        super().__init__()
        borrow = config.borrow
        supported = (config.model.trunk, config.model.norm) == ("ssd300", "none")
        supported &= config.model.channel_order == "RGB"
        supported &= (config.head.depth, config.head.shared) == (0, False)
        supported &= config.loss.classification == "softmax"
        supported &= config.loss.box == "smooth_l1"
        supported &= not borrow.enabled or (
            (borrow.similarity, borrow.center) == ("cosine", True)
            and (borrow.source, borrow.from_levels) == ("deeper", ())
            and (borrow.context, borrow.context_from) == (True, "X")
            and not (borrow.normalize or borrow.after_context)
        )
        if not supported:
            raise ValueError("this module does not implement the config in PyTorch")
        for name in ("mean", "std"):
            value = torch.tensor(config.model[f"pixel_{name}"])
            self.register_buffer(name, value.reshape(1, 3, 1, 1))
        stages = config.model.stages or VGGStages.stages
        self.trunk = Trunk(params["trunk"], stages)
        self.scales = nn.ParameterDict(
            {
                str(n): nn.Parameter(tensor(params[f"l2_{n + 1}"]["scale"]))
                for n, scale in enumerate(config.model.l2_scales)
                if scale
            }
        )
        self.neck = None
        if borrow.enabled:
            self.neck = Neck(params["neck"], borrow.levels, borrow.heads)
        count = len(config.model.l2_scales)
        heads = [params[f"head{n}"] for n in range(1, count + 1)]
        self.classes = nn.ModuleList(_conv(head["class"], **_SAME) for head in heads)
        self.boxes = nn.ModuleList(_conv(head["box"], **_SAME) for head in heads)
        self.channels = 1 + params_classes(params, config)
        self.to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Maps RGB [B, 3, H, W] in 0..255 to logits [B, A, 1+C], offsets [B, A, 4]."""
        levels = self.trunk((image - self.mean) / self.std)
        X = [
            _l2_normalize(x, self.scales[str(n)]) if str(n) in self.scales else x
            for n, x in enumerate(levels)
        ]
        Y, boxes, log_p = (X, X, {}) if self.neck is None else self.neck(X)
        logits, offsets = (
            torch.cat(
                [
                    descriptors(layer(y)).reshape(len(y), -1, channels).float()
                    for layer, y in zip(layers, maps, strict=True)
                ],
                dim=1,
            )
            for layers, maps, channels in (
                (self.classes, Y, self.channels),
                (self.boxes, boxes, 4),
            )
        )
        return logits, offsets, log_p


def params_classes(params: Params, config: Any) -> int:
    """Returns the number of classes of our parameters, without background."""
    per_position = params["head1"]["box"]["bias"].size // 4
    return params["head1"]["class"]["bias"].size // per_position - 1


def _l2_normalize(x: Tensor, scale: Tensor) -> Tensor:
    return (unit_vectors(x, 1e-12, 1) * scale[None, :, None, None]).to(x.dtype)


# Training.


class Targets(NamedTuple):
    """Targets of a batch, as in `tasks.detection.DetectionExamples`."""

    target: Tensor  # int64 [B, A]
    offsets: Tensor  # [B, A, 4]
    positive: Tensor  # bool [B, A]
    ignored: Tensor  # bool [B, A]
    borrow: dict[int, tuple[Tensor, Tensor, Tensor]]  # sources, index, counts.
    totals: dict[str, Tensor]


def make_targets(examples: Any, totals: Mapping[str, Any]) -> Targets:
    """Converts the targets of our examples."""
    return Targets(
        tensor(examples.target).long(),
        *(tensor(x) for x in (examples.offsets, examples.positive, examples.ignored)),
        {
            n: (tensor(t.sources), tensor(t.box_index).long(), tensor(t.counts))
            for n, t in examples.borrow.items()
        },
        {name: tensor(total) for name, total in totals.items()},
    )


def loss(
    config: Any, logits: Tensor, offsets: Tensor, log_p: dict, targets: Targets
) -> Tensor:
    """Computes SSD's loss with mined negatives and the matching loss, as our task."""
    entropy = F.cross_entropy(logits.mT, targets.target, reduction="none")
    chosen = targets.positive | _mined(config, entropy.detach(), targets)
    error = torch.where(targets.positive[..., None], offsets - targets.offsets, 0.0)
    localization = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="sum")
    total = torch.where(chosen, entropy, 0.0).sum()
    total = total + config.localization * localization
    total = total / targets.totals["positives"]
    for n, (sources, index, counts) in targets.borrow.items():
        right = sources.gather(1, index[..., None].expand(-1, -1, sources.shape[2]))
        kept = log_p[n].masked_fill(~(right | ~counts[..., None]), -torch.inf)
        missed = torch.where(counts, -torch.logsumexp(kept, dim=2), 0.0).sum()
        total = total + config.matching * missed / targets.totals["descriptors"]
    return total


def _mined(config: Any, entropy: Tensor, targets: Targets) -> Tensor:
    """Selects the negatives of largest loss, bool [B, A]."""
    negative = ~targets.positive & ~targets.ignored
    candidates = entropy.masked_fill(~negative, -torch.inf)
    rank = candidates.sort(dim=1, descending=True, stable=True)[1].argsort(dim=1)
    count = targets.positive.sum(1, keepdim=True) * config.negatives_per_positive
    return negative & (rank < count.clamp(min=config.min_negatives).long())


class TorchTrainer:
    """Training steps on prepared targets: loss, gradient, SGD with momentum."""

    def __init__(
        self, model: SSD, config: Any, image: Tensor, targets: Targets, compiled: bool
    ) -> None:
        """Makes the optimizer; `compiled` passes model and loss to torch.compile."""
        self.model, self._image, self._targets = model.train(), image, targets
        optimizer = config.optimizer
        parameters = list(model.parameters())
        kernels = [p for p in parameters if p.ndim == 4]
        others = [p for p in parameters if p.ndim != 4]
        self._optimizer = torch.optim.SGD(
            [
                {"params": kernels, "weight_decay": optimizer.weight_decay},
                {"params": others},
            ],
            lr=optimizer.learning_rate,
            momentum=optimizer.momentum,
        )
        weights = config.loss

        def loss_of(image: Tensor, targets: Targets) -> Tensor:
            return loss(weights, *model(image), targets)

        # All steps have the same shapes.
        self.loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def __call__(self) -> float:
        """Runs one step and returns its loss after the update."""
        self._optimizer.zero_grad(set_to_none=True)
        total = self.loss(self._image, self._targets)
        total.backward()
        self._optimizer.step()
        return total.item()
