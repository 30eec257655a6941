"""`cam`: a method, a network and a layer become a function from images to maps."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import Backend, View
from deconvviz.cam.hooks import HookedModel
from deconvviz.cam.learned.base import LearnedExplainer
from deconvviz.cam.learned.files import fitting
from deconvviz.cam.methods import (  # noqa: F401, they register
    activation,
    gradient,
    images,
    perturbation,
    pixels,
    scales,
)
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.registry import METHODS
from deconvviz.cam.shaping import min_max, shaped
from deconvviz.cam.targets import Target
from deconvviz.choices import Precision
from deconvviz.errors import CamError
from deconvviz.graph.network import Network


class ConstantMapWarning(UserWarning):
    """A map was the same everywhere, and zeros were returned for it."""


@contextlib.contextmanager
def constant_maps_allowed() -> Iterator[None]:
    """Give no `ConstantMapWarning` within a `with` block, where constant maps are counted or mean nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)
        yield


class Explainer:
    """A method on a layer: `explainer(x, target=None)` returns maps [N, H, W] in 0..1.

    Attributes:
        method: its entry in the registry.
        layers: names of the layers that it explains.
        how: how it runs and how maps are finished.
        options: the method's own.
        passes: after a call, what it ran, in passes over one image: "forward", "tail" (from the layer on) and their
            "backward".
        extras: after a call, what the method has to tell besides its map, such as a standard error.
        output: after a call, what the network returned for the images, as it was computed for the maps.
    """

    def __init__(
        self,
        name: str,
        network: Network | nn.Module,
        layers: Sequence[str],
        how: ExplainOptions,
        options: dict[str, Any],
        call: Callable[[Tensor], Any] | None = None,
    ) -> None:
        """Make an explainer; the arguments are those of `cam`."""
        self.method, self.layers, self.how = METHODS[name], tuple(layers), how
        if self.method.needs == "trained":
            options["explainer"] = self._trained(options.get("explainer"), network)
        inner = options.pop("method", "grad-cam") if self.method.needs == "inner" else None
        self.options = self.method.checked(options)
        self.fuse = how.fuse or self.method.fuse
        self.passes: Counter[str] = Counter()
        self.extras: dict[str, Tensor] = {}
        self.output: Any = None
        if self.method.needs in ("layer", "layers") and not self.layers:
            raise CamError(f"{self.method.name} explains a layer; name one, such as the last one with rows and columns")
        if inner is not None:
            self._wrapped = Explainer(inner, network, layers, how, {}, call)
        self.backend: Backend = Captured(network) if isinstance(network, Network) else HookedModel(network, call)
        self.forward = self.backend
        if isinstance(network, Network):
            for layer in self.layers:
                network.layer(layer)
            self.forward = Captured(network.forward_only(how.precision, keep=self.layers))
        elif how.lower:
            raise CamError("a model that is not captured runs in its own precision; move it with .bfloat16() instead")

    def _trained(self, given: Any, network: Network | nn.Module) -> LearnedExplainer:
        """Return the trained explainer; the layers are those that it was trained on."""
        explainer = fitting(given, self.method.name, network)
        if self.layers and self.layers != tuple(explainer.layers):
            raise CamError(
                f"the explainer was trained on {', '.join(explainer.layers)}, {', '.join(self.layers)} given; leave "
                "the layer out, or train one on it"
            )
        self.layers = tuple(explainer.layers)
        return explainer

    def __call__(self, x: Tensor, target: Target = None, *, raw: bool = False) -> Tensor:
        """Explain images.

        Args:
            x: [N, C, H, W], as the network takes them.
            target: a class, one for each image, None for each image's own top class, or a function of the network's
                output that returns one number for each image [N].
            raw: return the map as the equation gives it, perhaps signed and at the layer's size [N, h, w].

        Returns:
            [N, H, W] in 0..1 on the device of x; zeros, with a ConstantMapWarning, where a map is the same everywhere.

        Raises:
            TargetError: a target that is out of range or of another number. CaptureError: images of another shape.
            CamError: a layer without rows and columns, or a network without the structure that the method needs.
        """
        self.passes, self.extras = Counter(), {}
        with torch.no_grad():
            layers = self.layers if self.method.needs in ("layer", "layers") else ()
            watched = self.layers if self.method.needs == "trained" else ()
            views = [self._view(x, layer, target, watched) for layer in layers or (None,)]
            if self.method.needs == "inner":
                found = [self.method.formula(views[0], self._inner, **self.options)]
            elif self.method.needs == "layers":
                found = [self.method.formula(views, **self.options)]
            else:
                found = [self.method.formula(view, **self.options) for view in views]
            self.output = views[0].output
            for view in views:
                self.extras |= view.extras
            if raw:
                return found[0] if len(found) == 1 else torch.stack([views[0].up(one) for one in found]).mean(0)
            return self._finished(found, views[0].size)

    def _inner(self, x: Tensor, target: Target) -> Tensor:
        """The wrapped method's maps; a window without the target has none, which is no cause for a warning."""
        with constant_maps_allowed():
            maps = self._wrapped(x, target)
        self.passes.update(self._wrapped.passes)
        return maps

    def _view(self, x: Tensor, layer: str | None, target: Target, watched: Sequence[str] = ()) -> View:
        return View(self.backend, self.forward, x, layer, target, self.how, self.passes, watched)

    def _finished(self, found: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        exact = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in found]
        varied = torch.stack([_varies(one) for one in exact])  # [layers, N]
        exact = [one * here[:, None, None] for one, here in zip(exact, varied, strict=True)]
        constant = ~varied.any(0)
        for image in constant.nonzero().flatten().tolist():
            warnings.warn(
                f"{self.method.name} gave a constant map for image {image}; zeros are returned", ConstantMapWarning, 3
            )
        convention = self.how.convention
        order = self.method.order if convention == "paper" else convention
        maps = [shaped(one, size, order, self.how.align_corners) for one in exact]
        if len(maps) == 1:
            return maps[0]
        if self.fuse == "max":  # LayerCAM, equation 9: shallow layers are faint
            return min_max(torch.stack([torch.tanh(2 * one) for one in maps]).amax(0))
        return min_max(torch.stack(maps).mean(0))

    def __repr__(self) -> str:
        where = f" of {', '.join(self.layers)}" if self.layers else ""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"Explainer({self.method.name}{where}{options}, convention {self.how.convention!r})"


def _varies(maps: Tensor) -> Tensor:
    """bool [N], true where a map [N, h, w] differs over its positions by more than rounding."""
    span, largest = maps.amax((1, 2)) - maps.amin((1, 2)), maps.abs().amax((1, 2))
    return span > 16 * torch.finfo(maps.dtype).eps * largest


def cam(
    name: str,
    network: Network | nn.Module,
    layer: str | Sequence[str] | None = None,
    *,
    convention: str = "paper",
    align_corners: bool = False,
    batch_size: int = 32,
    precision: Precision = "fp32",
    tokens: tuple[int, int] | None = None,
    fuse: str | None = None,
    seed: int = 0,
    call: Callable[[Tensor], Any] | None = None,
    **options: Any,
) -> Explainer:
    """Return an explainer.

    Args:
        name: a method; `deconvviz cam --list` tells them, and METHODS[name].source where each comes from.
        network: a captured network, or a module that cannot be captured, which then runs with hooks.
        layer: its name, or several, whose maps are fused; methods on the image alone need none.
        convention: "paper", "pytorch-grad-cam" or "torch-cam": see `cam.shaping`.
        align_corners: of the resizing of the finished map.
        batch_size: changed values or masked images at once; of whole images a CPU takes 8, which its cache holds.
        precision: "fp32", or "bf16" for the masked images and changed values; gradients stay as captured.
        tokens: rows and columns of a transformer's patches, where they cannot be found.
        fuse: how several layers' maps become one, "mean" or "max".
        seed: of methods that draw masks, noise or orders.
        call: for a module: how it takes images [N, C, H, W], such as `list` for torchvision's detectors.
        options: the method's own.

    Raises:
        DeconvvizError: no such method, option or layer; the message lists those there are.
    """
    layers = [layer] if isinstance(layer, str) else list(layer or ())
    how = ExplainOptions(
        convention=convention,
        align_corners=align_corners,
        batch_size=batch_size,
        precision=precision,
        tokens=tokens,
        fuse=fuse,
        seed=seed,
    )
    return Explainer(name, network, layers, how, options, call)
