"""Networks that cannot be captured, such as detectors: the same service through module hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deconvviz.cam.backend import Form, Seed
from deconvviz.cam.tokens import Layout, layout_of
from deconvviz.deconv.rules import BackwardRule
from deconvviz.errors import CamError, CaptureError, LayerNotFound, nearest
from deconvviz.graph.calling import Call, called
from deconvviz.graph.evaluating import evaluating, without_inference_tensors
from deconvviz.graph.scores import Readout, readout_of
from deconvviz.words import counted


class HookedModel:
    """A module as the engine uses it. Hooks live as long as one call, and the module is left as it was.

    Args:
        model: the module; it computes in eval mode and is given back in the mode it was in.
        call: how it takes images [N, C, H, W], see `called`; `list` for torchvision's detectors.
    """

    def __init__(self, model: nn.Module, call: Call | None = None) -> None:
        if isinstance(model, torch.jit.ScriptModule):
            raise CamError(f"{type(model).__name__} given, which takes no hooks; give the module that it was made of")
        self.model, self.call = without_inference_tensors(model), call
        self.name = type(model).__name__
        self.modules = {name: module for name, module in self.model.named_modules() if name}

    def __call__(self, x: Tensor) -> Any:
        """Return the model's output for images x."""
        alone = len(x) == 1 and x.requires_grad  # as in `split`
        images = torch.cat([x, x.detach()]) if alone else x
        with evaluating(self.model):
            output = called(self.model, images, self.call)
        return _first(output) if alone else output

    def split(self, layer: str, x: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor | None], Any]]:
        """Return the layer's value, and the output as a function of it; what comes before the layer runs each time."""
        values: list[Any] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:  # a copy: an op in place may follow
            values.append(output.clone() if isinstance(output, Tensor) else output)

        with self._hooked(layer, keep):
            whole = self(x)
        if len(values) != 1 or not isinstance(values[0], Tensor) or len(values[0]) != len(x):
            what = type(values[0]).__name__ if len(values) == 1 else counted(len(values), "value")
            raise CamError(
                f"layer {layer!r} returned {what} for {counted(len(x), 'image')}; choose one "
                "that returns a tensor [N, ...] once"
            )

        unchanged = values[0].detach().clone()

        def tail(value: Tensor, images: Tensor | None = None) -> Any:
            if value is unchanged and images is None and not torch.is_grad_enabled():
                return whole
            images_of_value = x if images is None else x[images]
            # The backward of torch 2.14's BatchNorm misreads the gradient of one image on a CPU; see `affine_norm`.
            alone = len(value) == 1 and value.requires_grad
            if alone:
                value, images_of_value = torch.cat([value, value.detach()]), torch.cat([images_of_value] * 2)
            with self._hooked(layer, lambda *hook_arguments: value.clone()):
                output = self(images_of_value)
            return _first(output) if alone else output

        return unchanged, tail

    def last_of_each_size(self, x: Tensor, most: int = 4) -> dict[str, tuple[int, int]]:
        """Return the modules that return maps once: of each size (rows, columns) the last, for the `most` last sizes.

        Args:
            x: images [N, C, H, W].
            most: number of layers to return.
        """
        sizes: dict[str, list[tuple[int, int]]] = {}

        def hook_of(name: str) -> Callable[..., None]:
            def note(module: nn.Module, inputs: Any, output: Any) -> None:
                maps = isinstance(output, Tensor) and output.dim() == 4 and len(output) == len(x)
                size = (int(output.shape[2]), int(output.shape[3])) if maps else (0, 0)
                sizes.setdefault(name, []).append(size)

            return note

        handles = [module.register_forward_hook(hook_of(name)) for name, module in self.modules.items()]
        try:
            with torch.no_grad():
                self(x)
        finally:
            for handle in handles:
                handle.remove()
        once = {name: calls[0] for name, calls in sizes.items() if len(calls) == 1 and min(calls[0]) > 1}
        last = {size: name for name, size in once.items()}  # dicts keep the order of the first, so the last are sorted
        order = sorted(last.values(), key=list(once).index)
        return {name: once[name] for name in order[-most:]}

    def prepared(self, x: Tensor) -> Tensor:
        """Return the images as they are: the model computes in its own precision."""
        return x

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Raise CamError: a trained explainer belongs to a captured network, which has a fingerprint."""
        raise CamError(f"{self.name} is not captured, and an explainer is trained for a captured network; capture it")

    def layout(self, layer: str, value: Tensor, image: tuple[int, int], tokens: tuple[int, int] | None) -> Layout:
        """Return how the layer's value becomes maps; one with rows and columns is taken as [N, K, h, w]."""
        return layout_of(layer, tuple(value.shape[1:]), 1 if value.dim() == 4 else 2, image, tokens)

    def readout(self, output: Any) -> Readout | None:
        """Return how an output becomes scores of classes, told from its values; None where it has none."""
        try:
            return readout_of(output)
        except CaptureError:
            return None

    def back(
        self, x: Tensor, seed: Seed, policy: BackwardRule, layer: str | None = None, form: Form | None = None
    ) -> Tensor:
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


def _first(output: Any) -> Any:
    """Return the part of an output that belongs to the first image: of a detector's list, or of tensors."""
    if isinstance(output, list):
        return output[:1]
    return pytree.tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.dim() else leaf, output)
