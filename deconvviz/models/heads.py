"""Heads: what turns a network's last maps or features into scores of classes, and a network with another one."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor, nn

from deconvviz.choices import HEADS
from deconvviz.errors import ModelError, require
from deconvviz.registry import Registry

PLACE = "class_head"  # where a head that pools maps stands in its network
START = 0.01  # standard deviation of a new head's weights: those of the layers of Zeiler and Fergus, section 3
SHARPNESS = 10.0  # r of the LSE head
PER_CLASS = 5  # maps of a class of the WILDCAT head
BELOW = 0.6  # weight of the lower half of the positions in the WILDCAT head
Build = Callable[[int, int], nn.Module]
"""Numbers of maps and of classes -> a module that takes maps [N, K, h, w] to scores [N, classes]."""
POOLED: Registry[Build] = Registry("head")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A new head and its place: what a file keeps, so that the network can be built again.

    Attributes:
        kind: "new", another last layer of the same kind; or "gap", "max", "lse", "wildcat", which pool the last maps.
        classes: number of scores.
        layer: name of the layer that is replaced; of a head that pools, the layer whose maps it takes.
        features: number of values, or of maps, that the head takes.
        call: which call of that layer in a forward pass gives the maps, from 1.
        removed: names of modules that only came after these maps, and that the network no longer has, each with the
            shape of what it returned for an image.
        rectifier: name of the rectifier that followed the replaced last layer, as in SqueezeNet, and that the network
            no longer has; "" for none. Behind it, scores that begin at random could not learn: those below zero have
            no gradient.

    Raises:
        ModelError: a value out of its range.

    >>> Head.from_dict(Head(kind="gap", classes=10, layer="features", features=512).as_dict()).place
    'class_head'
    """

    kind: str
    classes: int
    layer: str
    features: int
    call: int = 1
    removed: Mapping[str, Sequence[int]] = field(default_factory=dict)
    rectifier: str = ""

    def __post_init__(self) -> None:
        shapes = {name: tuple(shape) for name, shape in self.removed.items()}  # JSON and files have lists
        object.__setattr__(self, "removed", shapes)
        require(
            self,
            ModelError,
            kind=(self.kind in HEADS, f"one of {', '.join(HEADS)}"),
            classes=(self.classes >= 1, "at least 1"),
            features=(self.features >= 1, "at least 1"),
            call=(self.call >= 1, "a number from 1"),
        )

    @property
    def pools(self) -> bool:
        """Whether the head takes maps and pools them."""
        return self.kind != "new"

    @property
    def place(self) -> str:
        """The name of the head among the network's modules."""
        return PLACE if self.pools else self.layer

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        return {**asdict(self), "removed": {name: list(shape) for name, shape in self.removed.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Head:
        """Return what `as_dict` wrote; raises ModelError where it is something else."""
        known = {entry.name for entry in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except (TypeError, AttributeError) as error:
            raise ModelError(f"{values!r} describes no head of a network; train it again") from error

    def put_on(self, model: nn.Module, seed: int = 0) -> None:
        """Give a network this head, with new weights, in place.

        Weights are normal with a standard deviation of 0.01, as the layers of Zeiler and Fergus 2013, section 3, begin;
        biases are zero. A head that pools makes the network's class a subclass of it, of the same name, whose forward
        pass hands the layer's maps to the head: all names of layers and weights stay as they are.

        Args:
            model: the network, as its source builds it.
            seed: of the weights.

        Raises:
            ModelError: the network has no such layer.

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
        >>> Head(kind="max", classes=4, layer="1", features=8, removed={"2": (288,), "3": (2,)}).put_on(model)
        >>> model(torch.zeros(5, 3, 8, 8)).shape, [name for name, _ in model.named_children()]
        (torch.Size([5, 4]), ['0', '1', '2', '3', 'class_head'])
        """
        try:
            layer = model.get_submodule(self.layer)
            for name, shape in self.removed.items():
                model.set_submodule(name, Removed(shape))
            if self.rectifier:
                model.set_submodule(self.rectifier, nn.Identity())
        except AttributeError:
            raise ModelError(
                f"{type(model).__name__} has no layer {self.layer!r}, where its head was; choose the model that the "
                "file belongs to"
            ) from None
        weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = POOLED[self.kind](self.features, self.classes) if self.pools else _like(layer, self)
            _begin(head)
        head.to(weight.device, weight.dtype).train(model.training)
        if not self.pools:
            model.set_submodule(self.layer, head)
            return
        if not isinstance(model, PooledMaps):
            model.__class__ = _with_pooled_maps(type(model))  # type: ignore[arg-type]  # classes have hashes
        pooled = cast("PooledMaps", model)
        pooled.pooled = self
        pooled.add_module(PLACE, head)


class Removed(nn.Module):
    """Stands where a module was whose result no one reads any more: zeros of the same shape, so that code goes on.

    >>> Removed((10, 1))(torch.ones(2, 5)).shape
    torch.Size([2, 10, 1])
    """

    def __init__(self, shape: Sequence[int]) -> None:
        """Take the shape of what the module returned for an image."""
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, *others: Any, **options: Any) -> Tensor:
        """Return zeros for as many images as there are in `x`."""
        return x.new_zeros((x.shape[0], *self.shape))


class PooledMaps(nn.Module):
    """A network of which a head takes a layer's maps; what comes after that layer counts no more. See `Head.put_on`.

    Attributes:
        pooled: the head, and which layer's maps it takes.
    """

    pooled: Head

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores [N, classes] of images [N, C, H, W]."""
        maps: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            maps.append(output)

        hook = self.get_submodule(self.pooled.layer).register_forward_hook(keep)
        try:
            super().forward(images)
        finally:
            hook.remove()
        scores: Tensor = self.get_submodule(PLACE)(maps[self.pooled.call - 1])
        return scores


class PooledSequence(PooledMaps):
    """The same of an nn.Sequential, which calls the modules that it iterates over: the head is not one of them."""

    def __iter__(self) -> Iterator[nn.Module]:
        """Iterate over the modules but for the head."""
        return iter([module for name, module in self.named_children() if name != PLACE])


@functools.cache
def _with_pooled_maps(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a network's class that hands a layer's maps to a head, with its name."""
    own = PooledSequence if issubclass(kind, nn.Sequential) else PooledMaps
    return type(kind.__name__, (own, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def is_last_layer(module: nn.Module) -> bool:
    """Return whether a module may give the scores of classes: a linear layer or a plain 1x1 convolution.

    >>> is_last_layer(nn.Conv2d(8, 2, 1)), is_last_layer(nn.Conv2d(8, 2, 3))
    (True, False)
    """
    if isinstance(module, nn.Conv2d):
        plain = module.stride == (1, 1) and module.padding in ((0, 0), "valid", "same") and module.groups == 1
        return module.kernel_size == (1, 1) and plain
    return isinstance(module, nn.Linear)


def _like(layer: nn.Module, head: Head) -> nn.Module:
    """Return a layer of the kind of another one, with as many outputs as a head has classes."""
    if not is_last_layer(layer):
        raise ModelError(
            f"layer {head.layer!r} is a {type(layer).__name__}; a new one takes the place of a linear layer or a 1x1 "
            "convolution"
        )
    return (
        nn.Conv2d(head.features, head.classes, 1)
        if isinstance(layer, nn.Conv2d)
        else nn.Linear(head.features, head.classes)
    )


def _begin(head: nn.Module) -> None:
    """Draw the first weights of a head; `Head.put_on` says how."""
    for module in head.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=START)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


# --- heads that pool -------------------------------------------------------------------------------------------------


class LogMeanExp(nn.Module):
    """Pools maps s [N, C, h, w] to (1/r) log mean exp(r s), [N, C]: between their mean (r to 0) and maximum (r large).

    Source: Pinheiro and Collobert 2015, arXiv 1411.6228; r as in Rony et al. 2023, arXiv 1909.03354.

    >>> LogMeanExp(1.0)(torch.tensor([[[[0.0, math.log(3)]]]])).exp()
    tensor([[2.]])
    """

    def __init__(self, sharpness: float = SHARPNESS) -> None:
        """Take r."""
        super().__init__()
        self.sharpness = sharpness

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        values = self.sharpness * maps.flatten(2)
        return (values.logsumexp(2) - math.log(values.shape[2])) / self.sharpness


class BestAndWorst(nn.Module):
    """Pools maps [N, C, h, w] to half of the sum of their upper half's mean and 0.6 times their lower half's, [N, C].

    Of an odd number of positions the middle one belongs to neither half, which is our choice; a single one is both.

    Source: Durand et al. 2017 (WILDCAT), as Rony et al. 2023, arXiv 1909.03354, use it. Their release adds the lower
    half with an `add` that is not in place, so that it is lost; it is added here.

    >>> BestAndWorst()(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    tensor([[2.2000]])
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        values = maps.flatten(2)
        half = max(1, values.shape[2] // 2)
        best, worst = values.topk(half, 2).values, values.topk(half, 2, largest=False).values
        return (best.mean(2) + BELOW * worst.mean(2)) / 2


class ClassMean(nn.Module):
    """Averages the maps that each class has: [N, count * C, h, w] to [N, C, h, w], those of a class side by side.

    >>> ClassMean(2)(torch.tensor([[[[1.0]], [[3.0]], [[5.0]], [[9.0]]]])).flatten()
    tensor([2., 7.])
    """

    def __init__(self, count: int = PER_CLASS) -> None:
        """Take the number of maps of a class."""
        super().__init__()
        self.count = count

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps of the classes."""
        return torch.unflatten(maps, 1, (-1, self.count)).mean(2)


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def _gap(maps: int, classes: int) -> nn.Module:
    """CAM's own architecture: the mean of each map, then one linear layer. Zhou et al. 2016, arXiv 1512.04150."""
    return _named(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=nn.Linear(maps, classes))


def _max(maps: int, classes: int) -> nn.Module:
    """A map for each class, and its maximum. Oquab et al. 2015."""
    return _named(maps=nn.Conv2d(maps, classes, 1), pool=nn.AdaptiveMaxPool2d(1), flatten=nn.Flatten())


def _lse(maps: int, classes: int) -> nn.Module:
    """A map for each class, and `LogMeanExp` of it."""
    return _named(maps=nn.Conv2d(maps, classes, 1), pool=LogMeanExp())


def _wildcat(maps: int, classes: int) -> nn.Module:
    """Five maps for each class, their mean, and `BestAndWorst` of it."""
    return _named(maps=nn.Conv2d(maps, classes * PER_CLASS, 1), classes=ClassMean(), pool=BestAndWorst())


POOLED.add("gap", _gap)
POOLED.add("max", _max)
POOLED.add("lse", _lse)
POOLED.add("wildcat", _wildcat)
