"""Fine-tuning: which part of a network keeps its weights, and how fast the rest of its body learns."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from deconvviz.errors import LayerNotFound, TrainingError, nearest, require
from deconvviz.graph.module_calls import ModuleCall, module_calls
from deconvviz.models.heads import Head
from deconvviz.run.heads import last_layer

WITH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
ALL = "all"  # as a layer to freeze until: everything but the head


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What is trained of a network whose body has weights already.

    Attributes:
        head: the new head, as `new_head` gives it; None where the network keeps its own, which is its last layer.
        freeze: name of a layer: it and all that comes before it keep their weights and the statistics of their
            BatchNorm, and drop nothing; "all" trains the head alone; None trains everything.
        body_rate: factor on the learning rate of everything but the head.
        keep_statistics: whether BatchNorm outside of the head keeps its statistics while its weights learn; those of a
            few images are uncertain.

    Raises:
        TrainingError: a factor that is not positive.

    >>> FineTuning(freeze="all").plain, FineTuning().plain
    (False, True)
    """

    head: Head | None = None
    freeze: str | None = None
    body_rate: float = 1.0
    keep_statistics: bool = False

    def __post_init__(self) -> None:
        require(self, TrainingError, body_rate=(0 < self.body_rate < math.inf, "a positive factor"))

    @property
    def plain(self) -> bool:
        """Whether all layers are trained alike."""
        return self.freeze is None and self.body_rate == 1 and not self.keep_statistics

    def identity(self) -> dict[str, Any]:
        """Return what must agree when a training is resumed, JSON values: nothing of what is as usual."""
        rate = None if self.body_rate == 1 else self.body_rate
        values = {"head": self.head and self.head.as_dict(), "freeze": self.freeze, "body_rate": rate}
        values |= {"keep_statistics": self.keep_statistics or None}
        return {name: value for name, value in values.items() if value is not None}


EVERYTHING = FineTuning()


class Parts:
    """The parts of a network that a training treats differently.

    Attributes:
        model: the network.
        settings: what is trained.
        head: the layer, or the layers, that are trained at the full rate.
        frozen: the parts that keep their weights, none of which holds the head.

    Raises:
        TrainingError: no layer of the network is its head, or the head itself would be frozen.
        LayerNotFound: there is no such layer to freeze until.
        CaptureError: the network does not take such an image.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    >>> parts = Parts(model, FineTuning(freeze="1", body_rate=0.1), (3, 5, 5))
    >>> [len(group["params"]) for group in parts.groups(1.0)], [type(part).__name__ for part in parts.frozen]
    ([2], ['Conv2d', 'BatchNorm2d'])
    """

    def __init__(self, model: nn.Module, settings: FineTuning, shape: Sequence[int]) -> None:
        """Find the parts by a forward pass of an image of this shape, (channels, height, width)."""
        self.model, self.settings = model, settings
        self.frozen: list[nn.Module] = []
        self._kept: list[nn.Parameter] = []
        if settings.plain:
            return
        calls = module_calls(model, shape)
        self.head = self._head(calls)
        own_ids = {id(parameter) for parameter in self.head.parameters()}
        if settings.freeze == ALL:
            within = {id(module) for module in self.head.modules()}
            self.frozen = [m for m in model.modules() if id(m) not in within and not _holds(m, self.head)]
            self._kept = [parameter for parameter in model.parameters() if id(parameter) not in own_ids]
        elif settings.freeze is not None:
            self._freeze_until(settings.freeze, calls)
            if any(id(parameter) in own_ids for parameter in self._kept):
                raise TrainingError(
                    f"everything up to {settings.freeze!r} is frozen, and with it the head: nothing would be trained; "
                    f"give an earlier layer, or {ALL} for everything but the head"
                )

    def _head(self, calls: Sequence[ModuleCall]) -> nn.Module:
        if self.settings.head is not None:
            return self.model.get_submodule(self.settings.head.place)
        last = last_layer(self.model, calls)
        if last is None:
            raise TrainingError(
                f"no layer of {type(self.model).__name__} gives its scores, so that its head is not known; give it a "
                "new one: --head new or gap"
            )
        return self.model.get_submodule(last.name)

    def _freeze_until(self, layer: str, calls: Sequence[ModuleCall]) -> None:
        """Find what has ended when a layer ends; of what is still open then, the weights of its own are frozen too."""
        ends = [call.ended for call in calls if call.name == layer and layer]
        if not ends:
            names = [call.name for call in calls if call.name]
            raise LayerNotFound(f"no layer {layer!r} to freeze until; {nearest(layer, names)}, or {ALL}")
        modules = dict(self.model.named_modules())
        kept_by_id: dict[int, nn.Parameter] = {}
        for call in calls:
            if call.began < ends[-1]:
                ended, module = call.ended <= ends[-1], modules[call.name]
                self.frozen += [module] * ended
                kept_by_id |= {id(parameter): parameter for parameter in module.parameters(recurse=ended)}
        self._kept = list(kept_by_id.values())

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return the groups of weights for an optimiser, the head's first, each with its learning rate."""
        kept_ids = {id(parameter) for parameter in self._kept}
        trained = [parameter for parameter in self.model.parameters() if id(parameter) not in kept_ids]
        if self.settings.body_rate == 1:
            return [{"params": trained, "lr": rate}]
        head_ids = {id(parameter) for parameter in self.head.parameters()}
        head, body = ([p for p in trained if (id(p) in head_ids) == is_head] for is_head in (True, False))
        groups = [{"params": head, "lr": rate}, {"params": body, "lr": rate * self.settings.body_rate}]
        return [group for group in groups if group["params"]]

    def train_mode(self) -> None:
        """Put the network into train mode, and its frozen parts into eval mode."""
        self.model.train()
        for module in self.frozen:
            module.eval()
        if self.settings.keep_statistics:
            of_head = {id(module) for module in self.head.modules()}
            for module in self.model.modules():
                if isinstance(module, WITH_STATISTICS) and id(module) not in of_head:
                    module.eval()
        if self.settings.freeze == ALL:
            for module in self.model.modules():  # what holds the head may drop values by itself
                if _holds(module, self.head) and module is not self.head:
                    module.training = False

    @contextlib.contextmanager
    def without_gradients(self) -> Iterator[None]:
        """Let the weights that are kept take part in no gradient within a `with` block."""
        before = [(parameter, parameter.requires_grad) for parameter in self._kept]
        for parameter in self._kept:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, required in before:
                parameter.requires_grad_(required)


def _holds(module: nn.Module, part: nn.Module) -> bool:
    return any(inner is part for inner in module.modules())
