"""How good the gradients of a layer's weights are: what of them is common to the images, and holds for others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from deconvviz.graph.evaluating import evaluating


@dataclass(frozen=True)
class GradientQuality:
    """What is measured of the gradient of one layer's weights.

    Attributes:
        signal_to_noise: mean of (E g)^2 / Var g over images, over those of the weights whose gradient varies; about 1 /
            images for pure noise; None where no gradient varies.
        cosine: of the mean gradient and that of other images, from -1 to 1; None without other images.
    """

    signal_to_noise: float | None
    cosine: float | None


def gradient_quality(
    model: nn.Module, x: Tensor, labels: Tensor, others: tuple[Tensor, Tensor] | None = None
) -> dict[str, GradientQuality]:
    """Measure the gradients of the cross-entropy with respect to the weights of each convolution.

    The model runs in eval mode and is left in the mode it was in; no gradient is left on its parameters. Whatever hooks
    of the model do to a gradient is part of what is measured.

    Args:
        model: a network with one output for each class.
        x: images [N, C, H, W], at least 2.
        labels: int64 [N].
        others: images and labels that were not trained on.

    Returns:
        Name of a convolution -> what was measured.

    Source: our choice of quality; none is claimed to be that of Jiang et al. 2022, whose criterion was not available.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2))
    >>> same = torch.rand(1, 1, 3, 3).expand(4, -1, -1, -1), torch.zeros(4, dtype=torch.int64)
    >>> round(gradient_quality(model, *same, others=same)["0"].cosine, 4)
    1.0
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    weights = [_stored_weight(module) for module in layers.values()]
    with torch.enable_grad(), evaluating(model):
        means, spreads = _moments(_by_image(model, x, labels, weights), weights)
        gradients = None if others is None else _gradients(model, *others, weights)
    measured = {}
    for number, name in enumerate(layers):
        mean, variance = means[number], spreads[number]
        ratios = (mean.square() / variance)[variance > 0]
        cosine = None
        if gradients is not None:
            cosine = float(functional.cosine_similarity(mean.flatten(), gradients[number].flatten(), 0))
        measured[name] = GradientQuality(float(ratios.mean()) if len(ratios) else None, cosine)
    return measured


def _stored_weight(module: nn.Module) -> Tensor:
    """Return the weights that are learned; a parametrised layer makes those that it computes with anew each time."""
    if parametrize.is_parametrized(module, "weight"):
        stored: Tensor = module.parametrizations["weight"].original  # type: ignore[index, union-attr]
        return stored
    assert isinstance(module.weight, Tensor)
    return module.weight


def _by_image(model: nn.Module, x: Tensor, labels: Tensor, weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    for image in range(len(x)):
        # Twice the same image, whose mean gradient is the image's: torch 2.14's BatchNorm misreads that of one alone.
        pair = torch.tensor([image, image], device=x.device)
        yield _gradients(model, x[pair], labels[pair], weights)


def _gradients(model: nn.Module, x: Tensor, labels: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    loss = functional.cross_entropy(model(x), labels)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        torch.zeros_like(weight, dtype=torch.float64) if gradient is None else gradient.double()
        for weight, gradient in zip(weights, gradients, strict=True)
    ]


def _moments(samples: Iterator[list[Tensor]], weights: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the mean and the variance over samples of each tensor, the variance over N - 1."""
    means = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    squares, count = [torch.zeros_like(mean) for mean in means], 0
    for count, sample in enumerate(samples, 1):
        for mean, square, value in zip(means, squares, sample, strict=True):
            step = value - mean
            mean += step / count
            square += step * (value - mean)
    return means, [square / (count - 1) for square in squares]
