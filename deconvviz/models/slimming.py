"""Slim networks: the same module with smaller tensors, made by taking channels out or for the tensors of a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from deconvviz.types import Ints

LOOKUP = "lookup"  # the buffer by which a file tells that a normalisation has places


class PlacedResponseNorm(nn.Module):
    """Contrast normalisation across maps of which some were taken out: the others keep their places.

    `nn.LocalResponseNorm` reads the neighbours of a map by their numbers. Were the maps that are left to move together,
    they would get other neighbours. They are therefore put at their old places among zeros, normalised, and taken from
    there again.

    Attributes:
        size: number of neighbouring places, and likewise `alpha`, `beta` and `k`, as `nn.LocalResponseNorm` has them.
        lookup: int64 [places], which of the maps stands at a place; their number where none does.
        places: int64 [maps], the place of each map.

    Source: ours.

    >>> norm = PlacedResponseNorm(nn.LocalResponseNorm(3), torch.tensor([0, 2, 1]))  # the middle one of three is gone
    >>> x = torch.rand(1, 2, 4, 4)
    >>> whole = torch.stack([x[:, 0], torch.zeros(1, 4, 4), x[:, 1]], 1)
    >>> torch.equal(norm(x), nn.LocalResponseNorm(3)(whole)[:, [0, 2]])
    True
    """

    size: int
    alpha: float
    beta: float
    k: float
    lookup: Tensor
    places: Tensor

    def __init__(self, norm: nn.LocalResponseNorm | PlacedResponseNorm, lookup: Tensor) -> None:
        """Take the numbers of a normalisation, and which map stands at which place."""
        super().__init__()
        self.size, self.alpha, self.beta, self.k = norm.size, norm.alpha, norm.beta, norm.k
        self.register_buffer(LOOKUP, lookup)
        self.register_buffer("places", torch.nonzero(lookup < lookup.max())[:, 0], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise maps [N, C, h, w] among the zeros of those that are gone."""
        placed = F.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.lookup)
        return F.local_response_norm(placed, self.size, self.alpha, self.beta, self.k).index_select(1, self.places)

    def extra_repr(self) -> str:
        """Return what `repr` tells."""
        return (
            f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}, {len(self.places)} of {len(self.lookup)}"
        )


def slimmed(
    model: nn.Module, numbers: Mapping[str, Mapping[int, Ints]], places: Mapping[str, tuple[int, Ints]]
) -> nn.Module:
    """Return a copy of a module with smaller tensors; it can be trained, saved and exported as any other.

    Args:
        model: the module, which stays as it is.
        numbers: name of a tensor -> dimension -> int64, the numbers along it that stay.
        places: name of a contrast normalisation -> (number of places, int64, the places that stay).
    """
    model = copy.deepcopy(model)
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    smaller: dict[str, Tensor] = {}
    for name, kept in numbers.items():
        value = tensors[name].detach()
        for axis, which in kept.items():
            value = value.index_select(axis, torch.from_numpy(which).to(value.device))
        smaller[name] = value
    for name, (count, stays) in places.items():
        lookup = np.full(count, len(stays), np.int64)
        lookup[stays] = np.arange(len(stays))
        device = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        smaller[f"{name}.{LOOKUP}"] = torch.from_numpy(lookup).to(device)
    fit_to(model, smaller)
    return model


def fit_to(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module tensors of other sizes, in place: those of a state dict whose shapes differ from the module's.

    Convolutions, linear layers and BatchNorm are told their new sizes. A tensor with another number of dimensions, and
    one that the module does not have, are left out.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    >>> smaller = {"0.weight": torch.zeros(2, 3, 3, 3), "0.bias": torch.zeros(2), "2.weight": torch.ones(4, 2, 1, 1)}
    >>> fit_to(model, smaller)
    >>> model[0].out_channels, model[2].in_channels, model(torch.zeros(1, 3, 4, 4)).shape
    (2, 2, torch.Size([1, 4, 2, 2]))
    """
    for place, module in list(model.named_modules(remove_duplicate=False)):
        lookup = state.get(f"{place}.{LOOKUP}")
        if lookup is not None and isinstance(module, nn.LocalResponseNorm | PlacedResponseNorm):
            model.set_submodule(place, PlacedResponseNorm(module, lookup.clone()).train(module.training))
    made: dict[int, Tensor] = {}
    for place, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, PlacedResponseNorm):
            continue
        before = {name: value.shape for name, value in _own(module).items()}
        for name, value in _own(module).items():
            other = state.get(f"{place}.{name}".lstrip("."))
            if other is not None and other.dim() == value.dim() and other.shape != value.shape:
                _put(module, name, made.setdefault(id(value), _like(value, other)))
        if "weight" in before and module.weight.shape != before["weight"]:
            _tell_sizes(module, before["weight"][0])


def _own(module: nn.Module) -> dict[str, Tensor]:
    tensors = {**module._parameters, **module._buffers}
    return {name: value for name, value in tensors.items() if value is not None}


def _like(value: Tensor, other: Tensor) -> Tensor:
    """Return another tensor as a parameter or a buffer, as `value` is one."""
    other = other.detach().to(value.device, value.dtype).clone()
    return nn.Parameter(other, value.requires_grad) if isinstance(value, nn.Parameter) else other


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    (module._parameters if name in module._parameters else module._buffers)[name] = value  # type: ignore[assignment]


def _tell_sizes(module: nn.Module, outputs: int) -> None:
    """Tell a module the sizes of its weight, of which it had so many outputs before."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, _ConvNd):
        if module.groups > 1:  # whole groups are gone
            module.groups = max(len(weight) * module.groups // outputs, 1)
        module.out_channels, module.in_channels = len(weight), weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _NormBase):
        module.num_features = len(weight)
