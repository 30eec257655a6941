"""A network while it is trained without labels: its embedding and its last maps are read by hooks, in train mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deconvviz.errors import TrainingError
from deconvviz.graph.evaluating import evaluating

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LEAST = 2  # numbers in an embedding


class Ends(NamedTuple):
    """Where in a network its embedding and its last maps are.

    Attributes:
        classifier: name of the module that reads the embedding; "" where the network returns it.
        width: numbers in an embedding.
        maps: name of the module that returns the last maps before it; "" where there are none.
        channels: of these maps; 0 where there are none.
        size: (rows, columns) of these maps.
    """

    classifier: str
    width: int
    maps: str
    channels: int
    size: tuple[int, int]


class Body:
    """A network that returns the embedding of images: what its classifier reads, averaged over rows and columns.

    The classifier is the last module with weights, where that is a linear layer or a convolution of 1 x 1 pixels; a
    network that ends with another convolution returns its embedding. That is the rule of `graph.embedding`, but the
    network is run as it is, in train mode, where BatchNorm takes the batch's own statistics and dropout drops.

    Attributes:
        model: the network.
        ends: where its embedding and maps are.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> body = Body(model, torch.zeros(2, 3, 8, 8))
    >>> body.ends.classifier, body.ends.maps, body(torch.rand(2, 3, 8, 8)).shape
    ('4', '1', torch.Size([2, 4]))
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        """Find the ends of a network.

        Args:
            model: a module that takes images.
            example: [2, C, H, W], images of the size that it takes.

        Raises:
            TrainingError: it has no embedding of two numbers or more for each image.
        """
        self.model = model
        self._masking: Callable[[Tensor], Tensor] | None = None
        with torch.no_grad(), evaluating(model):
            self.ends = _ends(model, example)

    def masking(self, change: Callable[[Tensor], Tensor] | None) -> None:
        """Change the last maps on their way through the network; None leaves them as they are.

        Args:
            change: from maps [N, C, h, w] to maps [M, C, h, w]. There are then M embeddings.
        """
        self._masking = change

    def __call__(self, x: Tensor) -> Tensor:
        """Return the embeddings [N, D] of images [N, C, H, W], in the mode that the network is in."""
        seen: list[Tensor] = []
        modules, handles = dict(self.model.named_modules()), list[RemovableHandle]()
        try:
            if self.ends.classifier:
                classifier = modules[self.ends.classifier]
                handles.append(classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])))
            if self._masking is not None:
                change = self._masking
                maps = modules[self.ends.maps]
                handles.append(maps.register_forward_hook(lambda _, __, output: change(output)))
            output = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        return _as_rows(seen[-1] if self.ends.classifier else output)


class _Run(NamedTuple):
    """What happened while a network ran: the modules that began or ended, in order, with what went in or came out."""

    name: str
    module: nn.Module
    ended: bool
    value: Any


def _ends(model: nn.Module, example: Tensor) -> Ends:
    """Run a network once and find its ends."""
    runs: list[_Run] = []
    handles: list[RemovableHandle] = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(_noting(runs, name)))
            handles.append(module.register_forward_hook(_noting_end(runs, name)))
    try:
        output = model(example)
    finally:
        for handle in handles:
            handle.remove()
    weighted = [place for place, run in enumerate(runs) if not run.ended and isinstance(run.module, WEIGHTED)]
    last = runs[weighted[-1]].module if weighted else None
    is_classifier = isinstance(last, nn.Linear) or (isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1))
    value = runs[weighted[-1]].value if is_classifier else output
    before = runs[: weighted[-1]] if is_classifier else runs
    if not isinstance(value, Tensor) or value.dim() not in (2, 4) or len(value) != len(example):
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TrainingError(
            f"the classifier of {type(model).__name__} reads {shape} for {len(example)} images; expected [N, D] or "
            "[N, D, rows, columns]: give a network of one embedding an image, in a file.py:FACTORY if need be"
        )
    width = value.shape[1]
    if width < LEAST or value is example:
        raise TrainingError(f"{type(model).__name__} has no embedding of {LEAST} numbers or more before its classifier")
    maps = next((run for run in reversed(before) if run.ended and _are_maps(run.value, len(example))), None)
    classifier = runs[weighted[-1]].name if is_classifier else ""
    if maps is None:
        return Ends(classifier, width, "", 0, (0, 0))
    _, channels, rows, columns = maps.value.shape
    return Ends(classifier, width, maps.name, channels, (rows, columns))


def _noting(runs: list[_Run], name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    return lambda module, inputs: runs.append(_Run(name, module, False, inputs[0] if inputs else None))


def _noting_end(runs: list[_Run], name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    return lambda module, _, output: runs.append(_Run(name, module, True, output))


def _are_maps(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and len(value) == count and value[0, 0].numel() > 1


def _as_rows(value: Tensor) -> Tensor:
    return value.mean((2, 3)) if value.dim() == 4 else value
