"""What a method sees before it changes anything: a layer's maps, the network's output, the target's score and gradient.

The part of the network before the layer runs once. What comes after it runs once too where a method takes the gradient
first: the output is then read off the pass that the gradient is taken of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from deconvviz.cam.backend import Backend, Read
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.targets import Scorer, Target, scorer_of
from deconvviz.errors import CamError
from deconvviz.graph.scores import Readout
from deconvviz.halving import AtOnce

LESS = "take smaller images, or use another --device"


class Observation:
    """A batch of images at one layer, and a target.

    Attributes:
        backend: the network, for gradients.
        forward: the network for masked images and changed values.
        x: images [N, C, H, W].
        value: the layer's value, as the model returned it.
        tail: the output as a function of values of the layer.
        stages: the maps of watched layers, by name.
        passes: how much was run, in passes over one image: "forward" and "backward" are whole ones, "tail" and
            "tail backward" go from the layer to the output.
        extras: what a method has to tell besides its map, by name.
    """

    def __init__(
        self,
        backend: Backend,
        forward: Backend,
        x: Tensor,
        layer: str | None,
        target: Target | Scorer,
        options: ExplainOptions,
        watched: Sequence[str] = (),
    ) -> None:
        """Look at a batch of images.

        Args:
            backend: the network, for gradients.
            forward: the same network for masked images, which may be faster and of lower precision; it then also serves
                for changed values.
            x: images [N, C, H, W].
            layer: the layer that is explained, or None.
            target: what is explained, see `targets`, or what reads its score.
            options: batch size, precision, seed and tokens.
            watched: without a layer, those whose maps are kept.
        """
        self.backend, self.forward, self.x, self.layer = backend, forward, x, layer
        self.target, self.options = target, options
        self.seed, self.preprocess, self.tokens = options.seed, options.preprocess, options.tokens
        self.passes: Counter[str] = Counter()
        self.extras: dict[str, Tensor] = {}
        with torch.no_grad():
            if watched:
                values, output = forward.observed(x, watched)
                self._note(output)
                layouts = {
                    name: backend.layout(name, value, self.size, options.tokens) for name, value in values.items()
                }
                self.stages = {name: layouts[name].maps(value) for name, value in values.items()}
            elif layer is None:
                self._note(backend(x))
            else:
                self.value, self.tail = backend.split(layer, x)
                self.layout = backend.layout(layer, self.value, self.size, options.tokens)
        self.passes["forward"] += len(x)

    def _note(self, output: Any) -> None:
        """Keep an output for the images, without the graph that led to it."""
        self.output = pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, output)

    @cached_property
    def output(self) -> Any:
        """What the network returned for the images: that of the pass that took a gradient, where one came before."""
        with torch.no_grad():
            return self.tail(self.value, None)

    @cached_property
    def scorer(self) -> Scorer:
        """What reads the target's score off an output; raises TargetError for a target that the output has not."""
        return scorer_of(self.target, self.output, len(self.x), self.backend.readout(self.output))

    @cached_property
    def everyone(self) -> Tensor:
        """int64 [N], the images in order."""
        return torch.arange(len(self.x), device=self.x.device)

    @cached_property
    def readout(self) -> Readout:
        """How the output becomes scores and probabilities of classes; raises CamError where it has none."""
        readout = self.backend.readout(self.output)
        if readout is None:
            raise CamError(
                "probabilities of classes are read, and the model returns none; only methods by gradients, such "
                "as grad-cam, explain other outputs"
            )
        return readout

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return int(self.x.shape[-2]), int(self.x.shape[-1])

    @cached_property
    def A(self) -> Tensor:
        """The layer's maps, [N, K, h, w]."""
        return self.layout.maps(self.value)

    @cached_property
    def y(self) -> Tensor:
        """The targets' scores (logits), [N]."""
        return self.scorer.logit(self.output, self.everyone)

    @cached_property
    def p(self) -> Tensor:
        """The targets' probabilities, [N]."""
        return self.scorer.probability(self.output, self.everyone)

    @cached_property
    def g(self) -> Tensor:
        """The gradient of the targets' scores with respect to the layer's maps alone, [N, K, h, w]."""
        return self.sensitivity(lambda output, images: self.scorer.logit(output, images))

    def sensitivity(self, read: Read, curved: bool = False) -> Tensor:
        """Return the gradient of what is read off the output with respect to the layer's maps alone, [N, K, h, w].

        Nothing before the layer is differentiated, and nothing accumulates on parameters.

        Args:
            read: takes an output and the images that its rows belong to, returns one number for each row.
            curved: return the Hessian times the layer's value in its place; zero where the gradient is constant.
        """
        first = "output" not in self.__dict__  # the pass that the gradient is taken of is that of the images, then

        def gradient(start: int, stop: int) -> Tensor:
            images, whole = self.everyone[start:stop], stop - start == len(self.x)
            unfused = sdpa_kernel(SDPBackend.MATH) if curved else nullcontext()  # fused, it has one derivative only
            with torch.enable_grad(), unfused:
                value = self.value[start:stop].detach().clone().requires_grad_()
                output = self.tail(value, None if whole else images)
                if first and whole:
                    self._note(output)
                score = read(output, images).sum()
                if not score.requires_grad:
                    raise CamError("the output does not follow from this layer; take a method that needs no gradient")
                (signal,) = torch.autograd.grad(score, value, create_graph=curved)
                if curved and signal.requires_grad:
                    (curvature,) = torch.autograd.grad(signal, value, value.detach(), allow_unused=True)
                    return torch.zeros_like(value) if curvature is None else curvature
            return torch.zeros_like(value) if curved else signal

        parts = [*AtOnce(len(self.x), "images", LESS).parts(len(self.x), gradient)]
        signal = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not first:
            self.passes["tail"] += len(self.x)
        self.passes["tail backward"] += len(self.x) * (1 + curved)
        return self.layout.maps(signal)
