"""`cam`: from a method, a network and a layer to a function that takes images and returns maps."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deconvviz.arrays import widened
from deconvviz.cam.arguments import as_input, as_target, layer_names, method_named
from deconvviz.cam.backend import Backend
from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.hooks import HookedModel
from deconvviz.cam.learned.base import LearnedExplainer
from deconvviz.cam.learned.files import fitting
from deconvviz.cam.maps import Maps
from deconvviz.cam.methods import (  # noqa: F401, they register
    activation,
    attacks,
    attention,
    attribution,
    full_gradient,
    gradient,
    images,
    inhibition,
    optimised,
    perturbation,
    pixels,
    relevance,
    scales,
    surrogates,
)
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.shaping import min_max, shaped
from deconvviz.cam.targets import Scorer, Target
from deconvviz.choices import Precision
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CamError
from deconvviz.graph.calling import Call
from deconvviz.graph.computing import computing
from deconvviz.graph.evaluating import differentiable, outside_inference_mode
from deconvviz.graph.exporting import first_line
from deconvviz.graph.network import Network
from deconvviz.models.labels import class_label


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
        classes: after a call, the class explained of each image, int64 [N]; None where the target is no class.
    """

    def __init__(
        self,
        name: str,
        network: Network | nn.Module,
        layers: Sequence[str],
        how: ExplainOptions,
        options: dict[str, Any],
        call: Call | None = None,
    ) -> None:
        """Make an explainer; the arguments are those of `cam`."""
        self.method, self.layers, self.how = method_named(name), tuple(layers), how
        self.network = network
        if self.method.needs == "trained":
            options["explainer"] = self._trained(options.get("explainer"), network)
        inner = options.pop("method", "grad-cam") if self.method.needs == "inner" else None
        self.options = self.method.checked(options)
        self.fuse = how.fuse or self.method.fuse
        self.passes: Counter[str] = Counter()
        self.extras: dict[str, Tensor] = {}
        self.output: Any = None
        self.classes: Tensor | None = None
        self._scorer: Scorer | None = None
        self._images: Tensor | None = None
        if self.method.needs in ("layer", "layers") and not self.layers:
            raise CamError(f"{self.method.name} explains a layer; name one, such as the last one with rows and columns")
        if inner is not None:
            self._wrapped = Explainer(inner, network, layers, how, {}, call)
        self.backend: Backend = Captured(network) if isinstance(network, Network) else HookedModel(network, call)
        self._forward: Backend = self.backend
        self._version = -1  # of the weights that `forward` has copies of
        if isinstance(network, Network):
            for layer in self.layers:
                network.layer(layer)
            _ = self.forward
        elif how.lower:
            raise CamError("a model that is not captured runs in its own precision; move it with .bfloat16() instead")

    @contextlib.contextmanager
    def _told_with_options(self, target: Any) -> Iterator[None]:
        """Say with which options a method cannot compute; what a target of the user's own raises stays as it is."""
        try:
            yield
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            typed = {name: value for name, value in self.options.items() if isinstance(value, int | float | str)}
            if not typed or any(map(callable, target if isinstance(target, list | tuple) else [target])):
                raise
            given = ", ".join(f"{name}={value!r}" for name, value in typed.items())
            raise CamError(
                f"{self.method.name} cannot compute with {given}: {first_line(error)}; give other values"
            ) from error

    @property
    def forward(self) -> Backend:
        """What only runs forward; of a captured network, a form with copies of its weights, as they are now."""
        if isinstance(self.network, Network) and self._version != (now := self.network.version):
            self._forward = Captured(self.network.forward_only(self.how.precision, keep=self.layers))
            self._version = now
        return self._forward

    def _trained(self, explainer_or_file: Any, network: Network | nn.Module) -> LearnedExplainer:
        """Return the trained explainer; the layers are those that it was trained on."""
        explainer = fitting(explainer_or_file, self.method.name, network)
        if self.layers and self.layers != tuple(explainer.layers):
            raise CamError(
                f"the explainer was trained on {', '.join(explainer.layers)}, {', '.join(self.layers)} given; leave "
                "the layer out, or train one on it"
            )
        self.layers = tuple(explainer.layers)
        return explainer

    def __call__(self, x: Any, target: Target | str | Sequence[str] = None, *, raw: bool = False) -> Tensor:
        """Explain images.

        Args:
            x: float [N, C, H, W], as the network takes them; or pictures that are not prepared yet: PIL images, or
                arrays uint8 [H, W, 3] or [N, H, W, 3].
            target: a class by number or name, one for each image, None for each image's own top class, or a function
                of the network's output that returns one number for each image [N]; also one function for each image,
                of that image's output. Of a network with a single output, class 0 is that it is the case, 1 that it is
                not. Or a `SegmentTarget`, `BoxTarget`, `SimilarityTarget` or `OutputTarget`, or one for each image.
            raw: return the map as the equation gives it, perhaps signed and at the layer's size [N, h, w].

        Returns:
            [N, H, W] in 0..1 on the device of x; zeros, with a ConstantMapWarning, where a map is the same everywhere.
            With fuse="none" the maps of all layers, [N, layers, H, W]. A notebook shows them over the images (`Maps`).

        Raises:
            TargetError: a target is out of range, or there are not as many targets as images.
            CaptureError: the images have another shape than the network takes.
            CamError: the layer has no rows and columns, or the network lacks the structure that the method needs.
        """
        self.passes, self.extras = Counter(), {}
        with outside_inference_mode(), torch.no_grad(), computing("fp32"):
            x = differentiable(as_input(x, self.network, self.how.preprocess))
            chosen = as_target(target, self.network, self.how.classes)
            layers = self.layers if self.method.needs in ("layer", "layers") else ()
            watched = self.layers if self.method.needs == "trained" else ()
            forward = self.forward
            views = [View(self.backend, forward, x, layer, chosen, self.how, watched) for layer in layers or (None,)]
            with self._told_with_options(chosen):
                maps = self._maps(views)
            self.output, self._scorer, self._images = views[0].output, views[0].scorer, views[0].everyone
            self.classes = self._scorer.classes
            for view in views:
                self.extras |= view.extras
                self.passes.update(view.passes)
            if raw:
                return maps[0] if len(maps) == 1 else torch.stack([views[0].up(each) for each in maps]).mean(0)
            finished = self._finished(maps, views[0].size)
        return Maps.of(finished, x, self.method.name, self.layers, partial(_in_words, self._scorer, self.how.classes))

    @property
    def logits(self) -> Tensor | None:
        """After a call, the scores of the classes [N, classes]; None where the network returns none."""
        return None if self._scorer is None or self.classes is None else self._scorer.readout.scores(self.output)

    @property
    def scores(self) -> Tensor | None:
        """After a call, what masked images are measured by, of the images as they are [N].

        It is the probability of the target, its cosine, or its number.
        """
        if self._scorer is None or self._images is None:
            return None
        with torch.no_grad():
            return self._scorer.probability(self.output, self._images)

    def _maps(self, views: list[View]) -> list[Tensor]:
        """Return the maps of the method's equation: one, or one for each layer."""
        formula, options = self.method.formula, {**self.options, **self.lengths(views[0].size)}
        if self.method.needs == "inner":
            return [formula(views[0], self._inner, **options)]
        if self.method.needs == "layers":
            return [formula(views, **options)]
        return [formula(view, **options) for view in views]

    def lengths(self, size: tuple[int, int]) -> dict[str, Any]:
        """Return the method's options that are lengths, in pixels, by name, for images of a (height, width).

        >>> import deconvviz as dv
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> dv.cam("occlusion", dv.capture(model, (3, 64, 64)), square=20).lengths((64, 64))
        {'square': 20, 'stride': 5}
        """
        return self.method.lengths_of(size, self.options)

    def _inner(self, x: Tensor, target: Target) -> Tensor:
        """Return the maps of the wrapped method, where a window without the target may have a constant map."""
        with constant_maps_allowed():
            maps = self._wrapped(x, target)
        self.passes.update(self._wrapped.passes)
        return maps

    def _finished(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Resize, scale and fuse the layers' maps, [N, h, w] each -> [N, H, W] in 0..1."""
        exact = [each.to(widened(each.dtype)) for each in maps]
        varied = torch.stack([_varies(each) for each in exact])  # [layers, N]
        exact = [each * varies[:, None, None] for each, varies in zip(exact, varied, strict=True)]
        constant = ~varied.any(0)
        for image in constant.nonzero().flatten().tolist():
            warnings.warn(
                f"{self.method.name} gave a constant map for image {image}; zeros are returned", ConstantMapWarning, 3
            )
        convention = self.how.convention
        order = self.method.order if convention == "paper" else convention
        finished = [shaped(each, size, order, self.how.align_corners) for each in exact]
        if self.fuse == "none":
            return torch.stack(finished, 1)
        if len(finished) == 1:
            return finished[0]
        if self.fuse == "max":  # LayerCAM, equation 9: shallow layers are faint
            return min_max(torch.stack([torch.tanh(2 * each) for each in finished]).amax(0))
        return min_max(torch.stack(finished).mean(0))

    def __repr__(self) -> str:
        where = f" of {', '.join(self.layers)}" if self.layers else ""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"Explainer({self.method.name}{where}{options}, convention {self.how.convention!r})"


def _in_words(scorer: Scorer, names: Sequence[str]) -> list[str]:
    """Return what was explained of each image, in words; nothing where the target is a function."""
    return scorer.words if scorer.classes is None else [class_label(n, names) for n in scorer.classes.tolist()]


def _varies(maps: Tensor) -> Tensor:
    """Return which maps [N, h, w] differ over their positions by more than rounding, bool [N]."""
    low, high = maps.flatten(1).aminmax(dim=1)
    return high - low > 16 * torch.finfo(maps.dtype).eps * torch.maximum(high, -low)


def cam(
    name: str,
    network: Network | nn.Module,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    *,
    convention: str = "paper",
    align_corners: bool = False,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    tokens: tuple[int, int] | None = None,
    fuse: str | None = None,
    seed: int = 0,
    call: Call | None = None,
    preprocess: Preprocess | None = None,
    classes: Sequence[str] = (),
    **options: Any,
) -> Explainer:
    """Return an explainer.

    Args:
        name: of a method; `deconvviz cam --list` lists them, and METHODS[name].source says where each comes from. It
            may be written in other ways, such as "GradCAM".
        network: a captured network, or a module that cannot be captured, which then runs with hooks.
        layer: name of a layer, or the module itself, or several, whose maps are fused; methods on the image alone need
            none. By default the last layer with rows and columns before the classifier.
        convention: "paper", "pytorch-grad-cam" or "torch-cam": see `cam.shaping`.
        align_corners: of the resizing of the finished map.
        batch_size: changed values or masked images in one pass; by default 32 on a CPU and 256 on a GPU. Of whole
            images a CPU takes 8, which its cache holds, and a GPU no more than are expected to fit.
        precision: "fp32", or "bf16" for the masked images and changed values; gradients stay as captured.
        tokens: rows and columns of a transformer's patches, where they cannot be found.
        fuse: how the maps of several layers become one, "mean" or "max"; "none" keeps them apart.
        seed: of methods that draw masks, noise or orders.
        preprocess: how pictures become inputs, where the explainer is given PIL images or uint8 arrays; see `as_input`.
        classes: names of the network's outputs, where targets are given by name.
        call: for a module: how it takes images [N, C, H, W], such as `list` for torchvision's detectors, or a function
            that returns a tuple of arguments or a dict of keyword arguments; `capture` takes the same.
        options: the method's own.

    Returns:
        A function from images [N, C, H, W] to maps [N, H, W] in 0..1.

    Raises:
        DeconvvizError: a method, option or layer does not exist; the message lists those that do.

    >>> import deconvviz as dv
    >>> pool, head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), head).eval()
    >>> explainer = dv.cam("layercam", dv.capture(model, (3, 8, 8)), "1")
    >>> explainer(torch.rand(2, 3, 8, 8), target=[1, 4]).shape
    torch.Size([2, 8, 8])
    """
    layers = layer_names(network, layer, method_named(name).needs in ("layer", "layers"))
    how = ExplainOptions(
        convention=convention,
        align_corners=align_corners,
        batch_size=batch_size,
        precision=precision,
        tokens=tokens,
        fuse=fuse,
        seed=seed,
        preprocess=preprocess,
        classes=tuple(classes),
    )
    return Explainer(name, network, layers, how, options, call)
