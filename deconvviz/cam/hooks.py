"""Networks that cannot be captured, such as detectors: the same service through module hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from deconvviz.cam.tokens import Layout, layout_of
from deconvviz.deconv.rules import BackwardRule
from deconvviz.errors import CamError, LayerNotFound, nearest
from deconvviz.graph.evaluating import evaluating


class HookedModel:
    """A module as the engine uses it. Hooks live as long as one call, and the module is left as it was.

    Args:
        model: the module; it computes in eval mode and is given back in the mode it was in.
        call: how it takes images [N, C, H, W]; `list` for torchvision's detectors.
    """

    def __init__(self, model: nn.Module, call: Callable[[Tensor], Any] | None = None) -> None:
        self.model, self.call = model, call or (lambda x: x)
        self.name = type(model).__name__
        self.modules = {name: module for name, module in model.named_modules() if name}

    def __call__(self, x: Tensor) -> Any:
        """Return the model's output for images x."""
        with evaluating(self.model):
            return self.model(self.call(x))

    def split(self, layer: str, x: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor | None], Any]]:
        """Return the layer's value, and the output as a function of it; what comes before the layer runs each time."""
        values: list[Any] = []
        with self._hooked(layer, lambda *hook_arguments: values.append(hook_arguments[-1])):
            self(x)
        if len(values) != 1 or not isinstance(values[0], Tensor) or len(values[0]) != len(x):
            what = type(values[0]).__name__ if len(values) == 1 else f"{len(values)} values"
            raise CamError(
                f"layer {layer!r} returned {what} for {len(x)} images; choose one that returns a tensor [N, ...] once"
            )

        def tail(value: Tensor, images: Tensor | None = None) -> Any:
            with self._hooked(layer, lambda *hook_arguments: value):
                return self(x if images is None else x[images])

        return values[0].detach().clone(), tail

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Raise CamError: a trained explainer belongs to a captured network, which has a fingerprint."""
        raise CamError(f"{self.name} is not captured, and an explainer is trained for a captured network; capture it")

    def layout(self, layer: str, value: Tensor, image: tuple[int, int], tokens: tuple[int, int] | None) -> Layout:
        """Return how the layer's value becomes maps; one with rows and columns is taken as [N, K, h, w]."""
        return layout_of(layer, tuple(value.shape[1:]), 1, image, tokens)

    def back(self, x: Tensor, seed: Callable[[Any], Tensor], policy: BackwardRule) -> Tensor:
        """Raise CamError: hooks cannot change how a signal goes back through an op."""
        raise CamError(f"{self.name} is not captured, and maps on pixels need its graph; take a method on a layer")

    @contextlib.contextmanager
    def _hooked(self, layer: str, hook: Callable[..., Any]) -> Iterator[None]:
        if layer not in self.modules:
            raise LayerNotFound(f"no layer {layer!r} in {self.name}; {nearest(layer, self.modules)}")
        handle = self.modules[layer].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
