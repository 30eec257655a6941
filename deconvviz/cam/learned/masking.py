"""Real-time image saliency: a decoder that draws the mask of a class in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.cam.learned.base import Batch, LearnedExplainer, Phase, Shape, area, learned, smoothness
from deconvviz.cam.shaping import gaussian_blur, resized
from deconvviz.errors import CamError, DataError
from deconvviz.words import counted

KEEP, DESTROY = 1.0, 5.0  # margins of the two hinges, in logits
BLUR, SIGMA = 55, 11.0
# Of a pixel's range; the release gives them in units of ImageNet's standard deviation, 0.225.
NOISE, COLOUR, JITTER = 0.225 * 0.11, 0.225 * 0.33, 0.225 * 0.03


class Join(nn.Module):
    """Bring a deep map to a shallower one's size and mix both: [N, D, h, w], [N, K, H, W] -> [N, width, H, W]."""

    def __init__(self, deep: int, shallow: int, width: int) -> None:
        super().__init__()
        self.deep, self.shallow = nn.Conv2d(deep, width, 3, padding=1), nn.Conv2d(shallow, width, 1)
        self.mixed, self.norm = nn.Conv2d(2 * width, width, 3, padding=1), nn.GroupNorm(4, width)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Return the mixture."""
        size = (shallow.shape[-2], shallow.shape[-1])
        both = torch.cat([resized(self.deep(deep).relu(), size), self.shallow(shallow).relu()], 1)
        out: Tensor = self.norm(self.mixed(both)).relu()
        return out


@learned
class RealTimeMasking(LearnedExplainer):
    """M = |s0| / (|s0| + |s1|) of a U-Net decoder over several layers, whose deepest one is gated by the class.

    Dabkowski and Gal 2017, arXiv 1705.07857, after the authors' release: gate sigmoid(sum_k F_k e_ck - confidence). The
    loss is D + 8 area + 0.005 smoothness + 0.3 P with hinges on the logits; the paper's own has logarithms of
    probabilities instead (10, 1e-3, 5, 0.3). Ours: GroupNorm for BatchNorm, one width for all of the decoder.
    """

    name = "real-time-masking"
    order = "mask"
    many = True

    def __init__(
        self,
        layers: Mapping[str, Shape],
        outputs: int,
        *,
        destroy: float = 1.0,
        area: float = 8.0,
        smoothness: float = 0.005,
        preserve: float = 0.3,
        power: float = 0.3,
        confidence: float = 6.0,
        width: int = 64,
    ) -> None:
        """Make an explainer.

        Args:
            layers: name -> shape of the maps of the two to four layers that it reads, in the order of depth.
            outputs: number of outputs of the network.
            destroy: weight of the hinge on the image without the mask.
            area: weight of the mask's area.
            smoothness: weight of the mask's total variation.
            preserve: weight of the hinge on the image within the mask.
            power: of the area.
            confidence: of the gate once it is trained; it is trained with 0.
            width: number of maps of the decoder, a multiple of 4.

        Raises:
            DataError: a negative weight, or a width that 4 does not divide.
            CamError: fewer than two layers.
        """
        super().__init__(
            layers,
            outputs,
            destroy=destroy,
            area=area,
            smoothness=smoothness,
            preserve=preserve,
            power=power,
            confidence=confidence,
            width=width,
        )
        wrong = [f"{name} {value}" for name, value in self.options.items() if name != "confidence" and not value >= 0]
        if wrong or width < 4 or width % 4 or outputs < 2:
            complaint = wrong[0] if wrong else f"width {width} and {counted(outputs, 'class')}"
            raise DataError(
                f"{complaint} given; expected weights of 0 or more, a width that 4 divides, two classes or more"
            )
        if len(layers) < 2:
            raise CamError(f"{self.name} reads layers of several sizes, {len(layers)} given; name two to four with -l")
        self.names = list(layers)
        channels = [layers[name][0] for name in self.names]
        self.embedding = nn.Embedding(outputs, channels[-1])
        nn.init.normal_(self.embedding.weight, std=channels[-1] ** -0.5)
        deeper = [channels[-1], *[width] * (len(channels) - 2)]
        self.joins = nn.ModuleList(
            Join(deep, shallow, width) for deep, shallow in zip(deeper, channels[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(width, 2, 3, padding=1)

    def found(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return the evidence for the class at each place of the deepest layer, sum_k F_k e_ck, [N, h, w]."""
        maps: Tensor = torch.einsum("nkhw,nk->nhw", values[self.names[-1]], self.embedding(classes))
        return maps

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return masks [N, h, w] in 0..1, at the size of the first layer."""
        return self.masks(values, classes, self.options["confidence"])

    def masks(self, values: Mapping[str, Tensor], classes: Tensor, confidence: float) -> Tensor:
        """Return the masks [N, h, w] that a gate of this confidence leads to."""
        signal = values[self.names[-1]] * (self.found(values, classes) - confidence).sigmoid()[:, None]
        for join, name in zip(self.joins, self.names[-2::-1], strict=True):
            signal = join(signal, values[name])
        scores = self.head(signal).abs()
        masks: Tensor = scores[:, 0] / (scores.sum(1) + torch.finfo(scores.dtype).tiny)
        return masks

    @classmethod
    def schedule(cls) -> tuple[Phase, ...]:
        """Return two phases: first the gate learns which classes are present, then all parameters learn the masks."""
        adam = {"optimiser": "adam", "lr": 1e-3, "bias_lr": 1.0, "decay": 0.1, "every": 4000, "weight_decay": 1e-4}
        selector = Phase("selector", steps=8500, batch_size=128, fakes=0.5, parameters=("embedding",), **adam)  # type: ignore[arg-type]
        return selector, Phase("masks", steps=3000, batch_size=64, fakes=0.3, **adam)  # type: ignore[arg-type]

    def terms(self, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of the phase, and for which images the selector, or the masked image, tells the class."""
        if phase == "selector":
            there = self.found(batch.values, batch.classes).mean((1, 2))
            loss = functional.binary_cross_entropy_with_logits(there, batch.real.to(there.dtype))
            return {"exists": loss}, (there > 0) == batch.real
        masks = self.masks(batch.values, batch.classes, 0.0)
        large = resized(masks, (batch.x.shape[-2], batch.x.shape[-1]))
        other, mask = self.instead(batch), large[:, None]
        preserved = batch.whole(
            batch.x * mask + other * (1 - mask) + JITTER * batch.full * batch.noise(tuple(batch.x.shape))
        )
        destroyed = batch.whole(
            batch.x * (1 - mask) + other * mask + JITTER * batch.full * batch.noise(tuple(batch.x.shape))
        )
        direction = torch.where(batch.real, 1.0, -1.0)
        options = self.options
        return {
            "destroy": options["destroy"] * (direction * lead(destroyed, batch.classes) + DESTROY).relu().mean(),
            "area": options["area"] * area(masks, options["power"]),
            "smoothness": options["smoothness"] * smoothness(large),
            "preserve": options["preserve"] * (KEEP - direction * lead(preserved, batch.classes)).relu().mean(),
        }, (lead(preserved, batch.classes) > 0) == batch.real

    def instead(self, batch: Batch) -> Tensor:
        """Return the fill for masked pixels: in half of the steps the blurred image, otherwise a noisy colour."""
        if float(batch.noise((1,))) > 0:
            return gaussian_blur(batch.x, BLUR, SIGMA)
        count, channels = batch.x.shape[:2]
        colour = COLOUR * (2 * torch.special.ndtr(batch.noise((count, channels, 1, 1))) - 1)  # uniform
        noisy: Tensor = batch.full * (NOISE * batch.noise(tuple(batch.x.shape)) + colour)
        return noisy


def lead(logits: Tensor, classes: Tensor) -> Tensor:
    """Return y_c - max of the other logits, [N]."""
    of_class = functional.one_hot(classes, logits.shape[1]).bool()
    return logits[of_class] - logits.masked_fill(of_class, -torch.inf).amax(1)
