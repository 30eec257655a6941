"""Weights with a switch for each connection: what runs forwards, and how the switches learn."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

START, BOUND = 0.5, 1.0  # of the mask variables: all on; an off one comes back in as many steps as it took to go
PROXIES = ("identity", "relu")
GATED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class _Gate(torch.autograd.Function):
    """w H(m); backwards the step H is taken for the identity, so that a connection that is off can come back."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weight: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(weight, mask)
        return torch.where(mask > 0, weight, 0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        weight, mask = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.where(mask > 0, gradients[0], 0), weight * gradients[0]


class Connections(nn.Module):
    """The mask variable of each connection of a layer, as a parametrisation of its weights: w becomes w H(m).

    H(m) is 1 where m > 0, else 0. Backwards, with g the gradient with respect to w H(m): that of w is H(m) g, and that
    of m is w g.

    Attributes:
        mask: m, the shape of the weights, float.

    Source: Tang et al. 2022, arXiv 2201.05020 (the abstract); the two gradients follow from it.

    >>> layer = nn.Linear(3, 1, bias=False)
    >>> connections = with_connections(layer)
    >>> with torch.no_grad():
    ...     _ = connections.mask[0, 1].fill_(-0.1)
    >>> layer.weight[0, 1].item(), int((layer.weight != 0).sum())
    (0.0, 2)
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.full_like(weight, START, memory_format=torch.contiguous_format))

    def forward(self, weight: Tensor) -> Tensor:
        """Return w H(m)."""
        gated: Tensor = _Gate.apply(weight, self.mask)
        return gated

    @torch.no_grad()
    def learn(self, rate: float, price: float, proxy: str = "identity") -> None:
        """Take a step of SGD on the mask variables, from the gradient w g that they have; it is forgotten then.

        The gradient of each filter is divided by its root mean square, so that `price` is in units of a filter's
        typical gradient, whatever the layer. m stays within -1 and 1.

        Args:
            rate: learning rate.
            price: lambda, what a connection costs.
            proxy: what stands for H backwards: "identity", whose derivative is 1 everywhere, or "relu", whose
                derivative is 0 where a connection is off: it then never comes back.
        """
        if self.mask.grad is None:
            return
        change = per_filter(self.mask.grad) + price
        if proxy == "relu":
            change = torch.where(self.mask > 0, change, 0)
        self.mask.sub_(rate * change).clamp_(-BOUND, BOUND)
        self.mask.grad = None


def per_filter(gradient: Tensor) -> Tensor:
    """Return a gradient [filters, ...], that of each filter divided by its root mean square; a zero one stays zero.

    Source: Tang et al. 2022 normalise for each feature; that a feature is an output filter and that the root mean
    square divides is our choice.

    >>> per_filter(torch.tensor([[3e-9, 4e-9], [0.0, 0.0]]))
    tensor([[0.8485, 1.1314],
            [0.0000, 0.0000]])
    """
    size = torch.linalg.vector_norm(gradient.flatten(1), dim=1) / gradient[0].numel() ** 0.5
    size = size.reshape(-1, *[1] * (gradient.dim() - 1))
    return torch.where(size > 0, gradient / torch.where(size > 0, size, 1), 0)


def with_connections(layer: nn.Module) -> Connections:
    """Give a layer's weights a mask variable for each connection; all are on."""
    assert isinstance(layer.weight, Tensor)
    connections = Connections(layer.weight)
    parametrize.register_parametrization(layer, "weight", connections)
    return connections


def without_connections(layer: nn.Module) -> None:
    """Leave w H(m) in the place of a layer's weights, which are the same parameter as before, in the same order."""
    parametrize.remove_parametrizations(layer, "weight")
    bias = layer.bias
    if isinstance(bias, nn.Parameter):  # it has come to stand before the weights; files and optimisers tell by order
        del layer.bias
        layer.register_parameter("bias", bias)


def gated_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the convolutions and linear layers of a model with their names, in the model's order."""
    for name, module in model.named_modules():
        if isinstance(module, GATED):
            yield name, module
