"""FrozenNetwork: a network whose weights stay. Gradients pass through it to a mask, and to none of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from deconvviz.arrays import widened
from deconvviz.cam.captured import Captured
from deconvviz.cam.learned import files  # noqa: F401, the explainers register
from deconvviz.cam.learned.base import LEARNED, Batch, LearnedExplainer
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.graph.network import Network
from deconvviz.types import Picture


class FrozenNetwork:
    """What an explainer learns from: a captured network in eval mode, whose weights have no gradients.

    Attributes:
        original: the network as it was given.
        network: the same network for forward passes, with weights that are cut off from any gradient.
        layers: names of the layers that the explainer reads.
        outputs: number of outputs.
        dtype: of the maps and logits that are handed out: float32 at least.
        layouts: layer -> how its value becomes maps.
        shapes: layer -> (K, h, w), the shape of its maps.
        black: Tensor [C, 1, 1], a black pixel, normalised.
        full: Tensor [C, 1, 1], the difference of a white and a black pixel, normalised.
    """

    def __init__(self, network: Network, layers: Sequence[str], preprocess: Preprocess, precision: str) -> None:
        """Freeze a network.

        Args:
            network: the network to explain; it is left unchanged.
            layers: names of the layers that the explainer reads, in the order of depth.
            preprocess: as the network takes images.
            precision: of the network's passes, as in `RunOptions`.

        Raises:
            CamError: a layer without rows and columns.
            CaptureError: the preprocessing does not fit the network, or the network returns something else than one
                score for each class.
            DataError: a layer is named twice, or the layers are not in the order of depth.
        """
        network.check_input(preprocess.shape)
        order = list(network.layers)
        places = [order.index(network.layer(name).name) for name in layers]
        if places != sorted(set(places)):
            raise DataError(f"layers {', '.join(layers)} given; name each once, in the order of depth")
        self.original, self.layers, self.outputs = network, tuple(layers), network.outputs
        forward = network.forward_only(precision, keep=layers)
        self.network = forward.replaced(forward.graph, {name: t.detach() for name, t in forward.tensors.items()})
        self.dtype = widened(self.network.dtype)
        backend, size = Captured(network), (preprocess.shape[1], preprocess.shape[2])
        values = {name: torch.zeros(1, *network.layer(name).shape) for name in self.layers}
        self.layouts = {name: backend.layout(name, value, size, None) for name, value in values.items()}
        self.shapes = {name: tuple(self.layouts[name].maps(value).shape[1:]) for name, value in values.items()}
        self.black, white = (preprocess.level(share).to(network.device, self.dtype)[:, None, None] for share in (0, 1))
        self.full = white - self.black

    def logits(self, images: Tensor) -> Tensor:
        """Return the scores [N, outputs] of images [N, C, H, W]; gradients pass through to the images."""
        scores: Tensor = self.network.scores(images.to(self.network.dtype)).to(self.dtype)
        return scores

    def reweighted(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return the scores [N, outputs] of images by the network with some weights in place of its own.

        It computes in the network's own precision, as weights that are folded or rounded could not be replaced.

        Args:
            weights: names in the original network's `tensors` -> other weights; gradients pass through to them.
            images: [N, C, H, W], normalised.
        """
        self.twin.tensors = {**self._own_tensors, **weights}
        scores: Tensor = self.twin.scores(images.to(self.original.dtype)).to(self.dtype)
        return scores

    @cached_property
    def twin(self) -> Network:
        """The original network once more, in whose place other weights can stand."""
        return self.original.replaced(self.original.graph, self._own_tensors)

    @cached_property
    def _own_tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.original.tensors.items()}

    def batch(self, images: Tensor, classes: Tensor | None, generator: torch.Generator) -> Batch:
        """Return what a training step needs, from one pass over images.

        Args:
            images: Tensor [N, C, H, W], normalised.
            classes: int64 Tensor [N], the classes to explain; None takes the network's own decisions.
            generator: of the step's noise.
        """
        inputs = images.to(self.network.dtype)
        with torch.no_grad():
            if len(self.layers) == 1:
                value, tail = self.network.split(self.layers[0], inputs)
                values, output = {self.layers[0]: value}, tail(value)
            else:
                values, output = self.network.observed(inputs, self.layers)
                tail = None
            logits = self.network.readout.scores(output).to(self.dtype)
            classes = logits.argmax(1) if classes is None else classes.to(images.device)
            maps = {name: self.layouts[name].maps(value).to(self.dtype) for name, value in values.items()}

        def after(changed_maps: Tensor) -> Tensor:
            assert tail is not None
            layer = self.layers[0]
            changed = self.layouts[layer].value(changed_maps.to(values[layer].dtype), values[layer])
            scores: Tensor = self.network.readout.scores(tail(changed)).to(self.dtype)
            return scores

        def noise(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(images.device, self.dtype)

        real = torch.ones(len(images), dtype=torch.bool, device=images.device)
        return Batch(
            images, maps, classes, real, self.black, self.full, logits, after, self.logits, self.reweighted, noise
        )

    def inputs(self, preprocess: Preprocess, pictures: Picture) -> Tensor:
        """Return pictures, [N, H, W, C], as the network takes them."""
        return preprocess.tensor(pictures, self.network.device, self.dtype)


def new_explainer(method: str, frozen: FrozenNetwork, options: Mapping[str, Any], seed: int) -> LearnedExplainer:
    """Return an untrained explainer, whose weights are drawn from the seed.

    Args:
        method: "l-cam-fm", "l-cam-img", "real-time-masking", "bump" or another name in LEARNED.
        frozen: the network and the layers that the explainer reads.
        options: the method's own.
        seed: of the first weights.

    Raises:
        DataError: an option that the method does not have, or another number of layers than it reads.
    """
    kind = LEARNED[method]
    unknown = sorted(set(options) - set(kind.defaults()))
    if unknown:
        known = ", ".join(f"{name}={value!r}" for name, value in kind.defaults().items())
        raise DataError(f"{method} has no option {unknown[0]!r}; its options are: {known}")
    if not frozen.layers or (len(frozen.layers) > 1 and not kind.many):
        raise DataError(
            f"{method} reads {f'up to {kind.most} layers' if kind.many else 'one layer'}, {len(frozen.layers)} given"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        explainer = kind(frozen.shapes, frozen.outputs, **options).to(frozen.dtype)
    explainer.input_shape = tuple(frozen.original.input_shape)
    explainer.begin(frozen.original)
    return explainer
