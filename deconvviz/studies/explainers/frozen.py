"""A network whose weights stay: gradients go through it to a mask, and to nothing that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deconvviz.cam.captured import Captured
from deconvviz.cam.learned import files  # noqa: F401, the explainers register
from deconvviz.cam.learned.base import LEARNED, Batch, LearnedExplainer
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CaptureError, DataError
from deconvviz.graph.network import Network


class Frozen:
    """What an explainer learns from: a captured network in eval mode, its weights without gradients.

    Args:
        network: to be explained. layers: that the explainer reads. precision: "fp32" or "bf16"; maps and logits are
            handed out in float32 at least.

    Attributes:
        shapes: layer -> (K, h, w) of its maps.

    Raises:
        CamError: a layer without rows and columns. CaptureError: the preprocessing does not fit the network, or it
        returns something else than one score for each class.
    """

    def __init__(self, network: Network, layers: Sequence[str], preprocess: Preprocess, precision: str) -> None:
        if preprocess.shape != network.input_shape:
            raise CaptureError(f"preprocessing gives {preprocess.shape}; the network takes {network.input_shape}")
        order = list(network.layers)
        places = [order.index(network.layer(name).name) for name in layers]
        if places != sorted(set(places)):
            raise DataError(f"layers {', '.join(layers)} given; name each once, in the order of depth")
        self.original, self.layers, self.outputs = network, tuple(layers), network.outputs
        if network.dtype == torch.float32:
            network = network.fast(precision, keep=layers)
        self.network = network.replaced(network.graph, {name: t.detach() for name, t in network.tensors.items()})
        self.exact = torch.promote_types(self.network.dtype, torch.float32)
        backend, size = Captured(network), (preprocess.shape[1], preprocess.shape[2])
        found = {name: torch.zeros(1, *network.layer(name).shape) for name in self.layers}
        self.layouts = {name: backend.layout(name, value, size, None) for name, value in found.items()}
        self.shapes = {name: tuple(self.layouts[name].maps(value).shape[1:]) for name, value in found.items()}
        black, white = (preprocess.level(share).to(network.device, self.exact)[:, None, None] for share in (0, 1))
        self.black, self.full = black, white - black

    def logits(self, x: Tensor) -> Tensor:
        """Return the scores [N, outputs] of images."""
        out: Tensor = self.network(x.to(self.network.dtype)).to(self.exact)
        return out

    def batch(self, x: Tensor, classes: Tensor | None, generator: torch.Generator) -> Batch:
        """Return what a step needs, from one pass over images x [N, C, H, W]; classes: None for the network's own."""
        given = x.to(self.network.dtype)
        with torch.no_grad():
            if len(self.layers) == 1:
                value, tail = self.network.split(self.layers[0], given)
                values, output = {self.layers[0]: value}, tail(value)
            else:
                values, output = self.network.observed(given, self.layers)
                tail = None
            classes = output.argmax(1) if classes is None else classes.to(output.device)
            maps = {name: self.layouts[name].maps(value).to(self.exact) for name, value in values.items()}

        def after(changed: Tensor) -> Tensor:
            assert tail is not None
            first = self.layers[0]
            full = self.layouts[first].value(changed.to(values[first].dtype), values[first])
            scores: Tensor = tail(full).to(self.exact)
            return scores

        def noise(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(x.device, self.exact)

        real = torch.ones(len(x), dtype=torch.bool, device=x.device)
        return Batch(x, maps, classes, real, self.black, self.full, after, self.logits, noise)

    def inputs(self, preprocess: Preprocess, pictures: Any) -> Tensor:
        """Return uint8 pictures [N, H, W, 3] as the network takes them."""
        return preprocess.tensor(pictures, self.network.device, self.exact)


def new_explainer(method: str, frozen: Frozen, options: Mapping[str, Any], seed: int) -> LearnedExplainer:
    """Return an explainer with the weights that the seed gives; raises DataError for an option that is none of its."""
    kind = LEARNED[method]
    unknown = sorted(set(options) - set(kind.defaults()))
    if unknown:
        known = ", ".join(f"{name}={value!r}" for name, value in kind.defaults().items())
        raise DataError(f"{method} has no option {unknown[0]!r}; its options are: {known}")
    if not frozen.layers or (len(frozen.layers) > 1 and not kind.many):
        raise DataError(
            f"{method} reads {'two to four layers' if kind.many else 'one layer'}, {len(frozen.layers)} given"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        explainer = kind(frozen.shapes, frozen.outputs, **options).to(frozen.exact)
    explainer.begin(frozen.original)
    return explainer
