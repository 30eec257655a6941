"""The bump: a selector reads where a network looks, as three numbers an image: a centre and a width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.cam.learned.base import Batch, LearnedExplainer, Phase, Shape, area, learned, smoothness
from deconvviz.cam.learned.masking import Join
from deconvviz.errors import CamError, DataError, require_choice
from deconvviz.graph.classifier import is_weighted
from deconvviz.graph.network import Network
from deconvviz.words import counted

SIDE = 32.0  # the paper's images have 32 pixels a side; its lengths are shares of that here
REACH, START = 14.0, 10.0  # how far a centre may be from the middle, and the first c, of 32 pixels
DRAWN = (5.0, 11.0)  # widths of the random bumps that the predictor learns on, of 32 pixels
SHARP, SOFT = 0.1, 1.0  # temperatures of the relaxed masks of the predictor and of the selector
NEAREST = 1e-6  # d^2 / 2 sigma^2 at least, where a mask of 1 would have an infinite logit


def bump_of(numbers: Tensor, size: tuple[int, int]) -> Tensor:
    """Return centre and width, in pixels of the image, of what a selector gave.

    centre = (H, W)/2 + u 14 tanh((a, b)/14), sigma = u (softplus(c) + 1e-8), where u is a 32nd of the image's side: of
    H for rows, of W for columns, of the shorter one for sigma. Rows and columns are counted from the image's edge, so
    that the middle of the first pixel is at 0.5.

    Args:
        numbers: [N, 3], a, b and c as the selector gives them, without unit.
        size: (H, W), rows and columns of the images.

    Returns:
        [N, 3]: row and column of the centre and sigma, in pixels.

    Source: Ganjdanesh, Gao, Huang, ECCV 2022, arXiv 2209.02869, as released; lengths as shares of the side and the
    exact middle are ours.

    >>> bump_of(torch.tensor([[0.0, 100.0, 10.0]]), (64, 32)).round(decimals=2)
    tensor([[32., 30., 10.]])
    """
    units = numbers.new_tensor([size[0], size[1], min(size)]) / SIDE
    middle = numbers.new_tensor([size[0] / 2, size[1] / 2])
    centre = middle + units[:2] * REACH * torch.tanh(numbers[:, :2] / REACH)
    sigma = units[2:] * (functional.softplus(numbers[:, 2:]) + 1e-8)
    return torch.cat([centre, sigma], 1)


def exponent(bumps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return d^2 / 2 sigma^2 of each pixel, [N, H, W], of bumps [N, 3] in pixels; exp(-that) is the bump's map."""
    rows, columns = (torch.arange(n, dtype=bumps.dtype, device=bumps.device) + 0.5 for n in size)
    down = (rows - bumps[:, :1]).square()
    across = (columns - bumps[:, 1:2]).square()
    return (down[:, :, None] + across[:, None, :]) / (2 * bumps[:, 2, None, None].square())


def relaxed(exponents: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """Return relaxed Bernoulli numbers in 0..1, sigmoid((logit m + logistic noise) / temperature), of maps m = exp(-e).

    Args:
        exponents: [N, H, W], e as `exponent` returns it.
        noise: [N, H, W], standard normal numbers, which become logistic ones: logit of their normal distribution.
        temperature: above 0; the lower, the nearer to 0 or 1 are the numbers.

    Source: Maddison, Mnih, Teh 2017, arXiv 1611.00712, and Jang, Gu, Poole 2017, arXiv 1611.01144.
    """
    e = exponents.clamp(min=NEAREST)
    logit = -e - torch.log(-torch.expm1(-e))
    logistic = torch.special.log_ndtr(noise) - torch.special.log_ndtr(-noise)
    return torch.sigmoid((logit + logistic) / temperature)


def divergence(scores: Tensor, masked: Tensor) -> Tensor:
    """Return KL(softmax(scores) || softmax(masked)), the mean over images [N, outputs]; natural logarithms."""
    return functional.kl_div(masked.log_softmax(1), scores.log_softmax(1), reduction="batchmean", log_target=True)


class Selector(nn.Module):
    """Read the maps of one to three layers and a class, and give three numbers.

    The deepest maps are gated by sigmoid(sum_k F_k e_ck), brought to the size of the shallower ones step by step, and
    read by one convolution over all of the map. Ours: resizing with GroupNorm (as for real-time-masking) for the
    released pixel shuffle with BatchNorm, and maps of more than 32 rows or columns are averaged to 32 before the last
    convolution, so that its weights stay few.
    """

    def __init__(self, layers: Mapping[str, Shape], outputs: int, width: int) -> None:
        super().__init__()
        self.names = list(layers)
        channels = [layers[name][0] for name in self.names]
        self.embedding = nn.Embedding(outputs, channels[-1])
        nn.init.normal_(self.embedding.weight, std=channels[-1] ** -0.5)
        self.entry = nn.Conv2d(channels[-1], width, 3, padding=1)
        self.joins = nn.ModuleList(Join(width, shallow, width) for shallow in channels[-2::-1])
        _, height, columns = layers[self.names[0]]
        self.pooled = min(height, int(SIDE)), min(columns, int(SIDE))
        self.head = nn.Linear(width * self.pooled[0] * self.pooled[1], 3)
        nn.init.constant_(self.head.bias, 0.0)
        with torch.no_grad():
            self.head.bias[2] = START

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return a, b and c of each image, [N, 3]."""
        deepest = values[self.names[-1]]
        gate = torch.einsum("nkhw,nk->nhw", deepest, self.embedding(classes)).sigmoid()
        signal = self.entry(deepest * gate[:, None]).relu()
        for join, name in zip(self.joins, self.names[-2::-1], strict=True):
            signal = join(signal, values[name])
        numbers: Tensor = self.head(functional.adaptive_avg_pool2d(signal, self.pooled).flatten(1))
        return numbers


@learned
class Bump(LearnedExplainer):
    """exp(-d^2 / 2 sigma^2), one Gaussian bump an image: a selector over one to three layers gives centre and sigma.

    Ganjdanesh, Gao, Huang, ECCV 2022, arXiv 2209.02869, after the authors' release: loss KL(f(x) || q(x s)) + area +
    smoothness. Theirs: s is a relaxed Bernoulli mask of the bump and q a copy that learnt to read such images (options
    relaxed and predictor; area 0.2, power 0.3). Ours by default: s is the bump and q the network itself.
    `extras["bump"]` has row, column and sigma in pixels. One bump cannot tell two objects: it lies on one or over both.
    """

    name = "bump"
    order = "mask"
    many = True
    most = 3
    passing = ("predictor",)

    def __init__(
        self,
        layers: Mapping[str, Shape],
        outputs: int,
        *,
        agreement: float = 1.0,
        area: float = 2.0,
        smoothness: float = 0.001,
        power: float = 0.5,
        fill: str = "black",
        relaxed: bool = False,
        predictor: bool = False,
        width: int = 32,
    ) -> None:
        """Make an explainer.

        Args:
            layers: name -> shape of the maps of the one to three layers that it reads, in the order of depth.
            outputs: number of outputs of the network.
            agreement: weight of the divergence of the masked image's probabilities from the image's own.
            area: weight of the mask's area.
            smoothness: weight of the mask's total variation.
            power: of the area.
            fill: what masked pixels become: "black", or "mean", which is zero once normalised.
            relaxed: mask with relaxed Bernoulli numbers of the bump, pixel by pixel, instead of the bump itself. A
                network that never saw such speckled images fails on them, and the bump then grows over all of the
                image: give predictor too.
            predictor: first train q, a copy of the network that learns to read randomly masked images, so that they
                are in its distribution. By default q is the network itself: what is explained are its own answers,
                and the training is the selector's alone; but the network never saw masked images.
            width: number of maps of the selector, a multiple of 4.

        Raises:
            DataError: a negative weight, another fill, or a width that 4 does not divide.
            CamError: more than three layers.
        """
        weights = {"agreement": agreement, "area": area, "smoothness": smoothness, "power": power}
        super().__init__(layers, outputs, **weights, fill=fill, relaxed=relaxed, predictor=predictor, width=width)
        require_choice("fill", fill, ("black", "mean"))
        wrong = [f"{name} {value}" for name, value in weights.items() if not value >= 0]
        if wrong or width < 4 or width % 4 or outputs < 2:
            complaint = wrong[0] if wrong else f"width {width} and {counted(outputs, 'class')}"
            raise DataError(
                f"{complaint} given; expected weights of 0 or more, a width that 4 divides, two classes or more"
            )
        for name, value in (("relaxed", relaxed), ("predictor", predictor)):
            if not isinstance(value, bool):
                raise DataError(f"{name} {value!r} given; expected true or false")
        if len(layers) > self.most:
            raise CamError(f"{self.name} reads one to three layers, {len(layers)} given; name at most three with -l")
        self.selector = Selector(layers, outputs, width)

    @classmethod
    def schedule(cls) -> tuple[Phase, ...]:
        """Return two phases: the predictor's and the selector's.

        Batches and the predictor's rate are the authors'; the selector's rate (theirs 1e-4) and the numbers of steps,
        which theirs for 50,000 images exceed, are ours.
        """
        adam: dict[str, Any] = {"optimiser": "adam", "lr": 1e-4, "bias_lr": 1.0, "decay": 1.0, "weight_decay": 1e-4}
        predictor = Phase("predictor", steps=3000, batch_size=128, parameters=("predictor",), **adam)
        adam["lr"] = 1e-3
        return predictor, Phase("selector", steps=1500, batch_size=16, parameters=("selector",), **adam)

    @classmethod
    def needed(cls, options: Mapping[str, Any]) -> tuple[Phase, ...]:
        """Return both phases where the options ask for a predictor, else the selector's alone."""
        return cls.schedule() if options.get("predictor") else cls.schedule()[1:]

    def begin(self, network: Network) -> None:
        """Copy the network's convolutions and linear maps, which the predictor learns from there on, if there is one.

        What normalises stays as it is in the network.
        """
        if not self.options["predictor"]:
            return
        read = [n for node in network.graph.nodes if is_weighted(node) for n in node.all_input_nodes]
        names = dict.fromkeys(str(node.target) for node in read if node.op == "get_attr")
        copies = {_key(name): nn.Parameter(network.tensors[name].detach().clone()) for name in names}
        self.predictor = nn.ParameterDict(copies)

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the images; raises CamError where the explainer was made by hand and not told."""
        if len(self.input_shape) != 3:
            raise CamError("this bump does not know the size of its images; make it by train_explainer or load it")
        return self.input_shape[1], self.input_shape[2]

    def bumps(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return row, column and sigma of each image's bump, in pixels, [N, 3]."""
        return bump_of(self.selector(values, classes), self.size)

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return the bumps' maps [N, H, W], at the size of the images, largest at 1."""
        return self.told(values, classes)[0]

    def told(self, values: Mapping[str, Tensor], classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the maps, and "bump": row, column and sigma in pixels, [N, 3]."""
        bumps = self.bumps(values, classes)
        return torch.exp(-exponent(bumps, self.size)), {"bump": bumps}

    def terms(self, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of the phase, and for which masked images q still finds the class."""
        if phase == "predictor":
            bumps, temperature = self.drawn(batch), SHARP
        else:
            bumps, temperature = self.bumps(batch.values, batch.classes), SOFT
        e = exponent(bumps, self.size)
        noisy = phase == "predictor" or self.options["relaxed"]
        mask = relaxed(e, batch.noise(tuple(e.shape)), temperature) if noisy else torch.exp(-e)
        logits = self.answers(batch, mask, learning=phase == "predictor")
        terms = {"agreement": divergence(batch.logits, logits)}
        if phase != "predictor":
            options = self.options
            terms["agreement"] = options["agreement"] * terms["agreement"]
            terms["area"] = options["area"] * area(mask, options["power"])
            terms["smoothness"] = options["smoothness"] * smoothness(mask)
        return terms, logits.argmax(1) == batch.classes

    def drawn(self, batch: Batch) -> Tensor:
        """Return random bumps [N, 3] in pixels: the centre within 14 of 32 pixels of the middle, sigma from 5 to 11."""
        share = torch.special.ndtr(batch.noise((len(batch.x), 3)))  # uniform in 0..1
        height, columns = self.size
        units = share.new_tensor([height, columns, min(self.size)]) / SIDE
        least = share.new_tensor([SIDE / 2 - REACH, SIDE / 2 - REACH, DRAWN[0]])
        span = share.new_tensor([2 * REACH, 2 * REACH, DRAWN[1] - DRAWN[0]])
        bumps: Tensor = units * (least + span * share)
        return bumps

    def answers(self, batch: Batch, mask: Tensor, learning: bool) -> Tensor:
        """Return what q says to masked images, [N, outputs]; masks [N, H, W]."""
        kept = mask[:, None]
        other = batch.black if self.options["fill"] == "black" else torch.zeros_like(batch.black)
        images = batch.x * kept + other * (1 - kept)
        if not self.options["predictor"]:
            return batch.whole(images)
        weights = {_name(key): value if learning else value.detach() for key, value in self.predictor.items()}
        return batch.reweighted(weights, images)


def _key(name: str) -> str:
    """Return a tensor's name as a `ParameterDict` allows it, which no dots may be in."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
