"""`pair`: from a method, a network and an embedding to a function that takes two images and returns maps of both."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deconvviz.arrays import cosine, widened
from deconvviz.cam.arguments import as_input
from deconvviz.cam.explain import ConstantMapWarning
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.pairs import matching, methods, transforms  # noqa: F401, they register
from deconvviz.cam.pairs.catalogue import own_pair_name
from deconvviz.cam.pairs.maps import PairMaps
from deconvviz.cam.pairs.registry import PAIR_METHODS
from deconvviz.cam.pairs.similarity import CapturedEmbedding, EmbeddingView
from deconvviz.cam.shaping import shaped
from deconvviz.choices import Precision
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CamError, CaptureError, DataError
from deconvviz.graph.choose import maps_behind
from deconvviz.graph.computing import computing
from deconvviz.graph.embedding import default_embedding, embedding_network
from deconvviz.graph.evaluating import differentiable, outside_inference_mode
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce

PAIRS_AT_ONCE = 16
LESS = "take smaller images, or use another --device"


class _Part(NamedTuple):
    """What some pairs gave.

    Attributes:
        maps: of both images, [n, h, w] each, as the equation gives them.
        similarity: [n].
        passes: what was run.
        extras: of the method, for both images by name, [n, 2, ...].
    """

    maps: tuple[Tensor, Tensor]
    similarity: Tensor
    passes: Counter[str]
    extras: dict[str, Tensor]


class PairExplainer:
    """A method on an embedding: `explainer(a, b)` returns maps of both images.

    Attributes:
        method: its entry in the registry.
        embedding: name of the layer whose value is the embedding, averaged over rows and columns where it has any.
        layer: name of the layer that the method explains; None for one on the images alone.
        network: the part of the network that ends with the embedding: it returns [N, D].
        how: how it runs.
        options: the method's own.
        passes: after a call, what it ran, in passes over one image: "forward", "tail" (from the layer to the
            embedding) and their "backward".
        extras: after a call, what the method has to tell besides its maps, by name: [N, 2], for both images.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        embedding: str | None,
        maps: str | None,
        how: ExplainOptions,
        options: dict[str, Any],
    ) -> None:
        """Make an explainer; the arguments are those of `pair`."""
        if not isinstance(network, Network):
            kind = type(network).__name__
            raise CamError(
                f"a {kind} given; pairs need a captured network: dv.capture(model, (channels, height, width))"
            )
        self.method = PAIR_METHODS[own_pair_name(name, PAIR_METHODS)]
        self.options = self.method.checked(options)
        self.embedding = default_embedding(network) if embedding is None else embedding
        self.network = embedding_network(network, self.embedding)
        self.layer = self._layer(maps) if self.method.needs == "layer" else None
        self.how, self.passes, self.extras = how, Counter[str](), dict[str, Tensor]()
        keep = [] if self.layer is None else [self.layer]
        self._backend = CapturedEmbedding(self.network)
        self._forward = CapturedEmbedding(self.network.forward_only(how.precision, keep=keep))

    def _layer(self, maps: str | None) -> str:
        """Return the layer whose maps are explained: the one that is named, or the last one before the embedding."""
        if maps is not None:
            shape = self.network.layer(maps).shape
            if len(shape) != 3 or shape[1] * shape[2] < 2:
                raise CamError(f"layer {maps!r} has the shape {list(shape)}, without rows and columns; choose another")
            return maps
        name = maps_behind(self.network, self.network.output_nodes()[0])
        if name is None:
            raise CamError(f"no layer before {self.embedding!r} has rows and columns; {self.method.name} needs one")
        return name

    def __call__(self, a: Any, b: Any, *, raw: bool = False) -> PairMaps:
        """Explain pairs of images.

        Args:
            a: the first images, float [N, C, H, W], as the network takes them; or pictures that are not prepared yet:
                a PIL image, uint8 [H, W, 3], or several of them.
            b: the second images, as many.
            raw: return the maps as the equation gives them, perhaps signed and at a layer's size [N, h, w].

        Returns:
            The maps of both images, [N, H, W] in 0..1; zeros, with a ConstantMapWarning, where a map is the same
            everywhere.

        Raises:
            DataError: there are not as many second images as first ones, or they are of another kind.
            CaptureError: the images have another shape than the network takes, or do not fit in memory.
            CamError: the method cannot explain the network.
        """
        with outside_inference_mode(), torch.no_grad(), computing("fp32"):
            x = tuple(differentiable(as_input(images, self.network, self.how.preprocess)) for images in (a, b))
            if x[0].shape != x[1].shape or x[0].dim() != 4 or not len(x[0]):
                shapes = " and ".join(str(list(images.shape)) for images in x)
                raise DataError(
                    f"images {shapes} given; expected two batches of one shape, [N, channels, height, width]"
                )
            self.network.check_input(tuple(x[0].shape[1:]))
            at_once = AtOnce(PAIRS_AT_ONCE, "pairs", LESS)
            parts = [*at_once.parts(len(x[0]), lambda start, stop: self._part(x[0][start:stop], x[1][start:stop]))]
            self.passes = sum((part.passes for part in parts), Counter())
            self.extras = {key: torch.cat([part.extras[key] for part in parts]) for key in parts[0].extras}
            maps = tuple(torch.cat(stacks) for stacks in zip(*(part.maps for part in parts), strict=True))
            similarity = torch.cat([part.similarity for part in parts])
            if not raw:
                maps = tuple(
                    self._finished(each, image, x[0].shape[-2:]) for each, image in zip(maps, "ab", strict=True)
                )
        return PairMaps.of((maps[0], maps[1]), (x[0], x[1]), similarity, (self.method.name, self.embedding))

    def _part(self, a: Tensor, b: Tensor) -> _Part:
        """Explain some pairs."""
        views = [EmbeddingView(self._backend, self._forward, x, self.layer, self.how) for x in (a, b)]
        views[0].facing(views[1])
        views[1].facing(views[0])
        options = self.method.options_for(views[0].size, self.options)
        if self.method.reads == "each":
            first, second = (self.method.formula(view, **options) for view in views)
        else:
            first, second = self.method.formula(*views, **options)
        passes = views[0].passes + views[1].passes
        extras = {key: torch.stack([view.extras[key] for view in views], 1) for key in views[0].extras}
        return _Part((first, second), cosine(views[0].output, views[1].output), passes, extras)

    def _finished(self, maps: Tensor, image: str, size: Sequence[int]) -> Tensor:
        """Resize and scale maps [N, h, w] to [N, H, W] in 0..1; a constant one becomes zeros."""
        exact = maps.to(widened(maps.dtype))
        span, largest = exact.amax((1, 2)) - exact.amin((1, 2)), exact.abs().amax((1, 2))
        varies = span > 16 * torch.finfo(exact.dtype).eps * largest
        for number in (~varies).nonzero().flatten().tolist():
            text = f"{self.method.name} gave a constant map for image {image} of pair {number}; zeros are returned"
            warnings.warn(text, ConstantMapWarning, 4)
        return shaped(exact * varies[:, None, None], (int(size[0]), int(size[1])), self.how.convention, False)

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        at = f" at {self.layer}" if self.layer else ""
        return f"PairExplainer({self.method.name} of {self.embedding}{at}{options})"


def pair(
    name: str,
    network: Network,
    layer: str | None = None,
    *,
    maps: str | None = None,
    batch_size: int | None = None,
    precision: Precision = "fp32",
    seed: int = 0,
    preprocess: Preprocess | None = None,
    **options: Any,
) -> PairExplainer:
    """Return a function that explains why a network takes two images for alike.

    Two images are alike where the cosine of their embeddings is near 1. What is explained is that cosine.

    Args:
        name: of a method; `deconvviz pair --list` lists them, and PAIR_METHODS[name].source says where each comes from.
        network: a captured network.
        layer: name of the layer whose value is the embedding; by default the one that the classifier reads. A layer
            with rows and columns is averaged over them.
        maps: for interaction-cam, name of the layer whose maps are weighted; by default the last one with rows and
            columns before the embedding.
        batch_size: masked images in one pass, as in `cam`.
        precision: of masked images; gradients stay as captured.
        seed: of the methods that draw boxes or colours.
        preprocess: how pictures become inputs, where the explainer is given PIL images or uint8 arrays. It also says
            what is black and white for the methods that change colours; without it, an image's lowest and highest
            value count as such.
        options: the method's own.

    Returns:
        A function from two batches of images [N, C, H, W] to the maps of both, `PairMaps`. Batches of pairs that do
        not fit in memory are halved.

    Raises:
        DeconvvizError: a method, an option or a layer does not exist, or the layer is no embedding.

    Source: Sammani et al. 2022, arXiv 2206.09753.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> model = nn.Sequential(*body, nn.Linear(4, 5)).eval()
    >>> explainer = dv.pair("interaction-cam", dv.capture(model, (3, 8, 8)))
    >>> map_a, map_b = explainer(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    >>> map_a.shape, explainer.layer
    (torch.Size([2, 8, 8]), '1')
    """
    how = ExplainOptions(batch_size=batch_size, precision=precision, seed=seed, preprocess=preprocess)
    try:
        return PairExplainer(name, network, layer, maps, how, options)
    except CaptureError as error:
        raise CamError(str(error)) from error
