"""What every method asks of a network, in one place: values, gradients, and scores after a change.

A method is given a `View` of a batch of images at one layer and reads like its equation. The view runs the part of the
network before the layer once; what follows a changed value runs from the layer on; masked images run whole, in
batches over (image, mask) with masks that are made when they are needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.shaping import resized
from deconvviz.cam.targets import Scorer, Target, scorer_of
from deconvviz.cam.tokens import Layout
from deconvviz.deconv.rules import BackwardRule

IN_CACHE = 8  # whole images at once on a CPU: their maps stay in its cache, which is faster than 32 and takes less

Tail = Callable[[Tensor, Tensor | None], Any]
Make = Callable[[Tensor, Tensor], Tensor]
Read = Callable[[Any, Tensor], Tensor]


class Backend(Protocol):
    """A network as the engine sees it: captured, or a module with hooks."""

    def __call__(self, x: Tensor) -> Any:
        """Return the output for images [N, ...]."""

    def split(self, layer: str, x: Tensor) -> tuple[Tensor, Tail]:
        """Return the layer's value for images x, and a function from values of that layer to the output.

        The function takes values [M, ...] and int64 [M], the image each belongs to (None: the images in order).
        """

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Return the values of layers for images x, and the output, from one pass."""

    def layout(self, layer: str, value: Tensor, image: tuple[int, int], tokens: tuple[int, int] | None) -> Layout:
        """Return how the layer's value becomes maps."""

    def back(self, x: Tensor, seed: Callable[[Any], Tensor], policy: BackwardRule) -> Tensor:
        """Send a signal from the output back to the images by a policy; `seed` makes it from the output."""


class View:
    """A batch of images, one layer, and a target: what a method computes with.

    Attributes:
        x: images [N, C, H, W].
        value: the layer's value, as the model returned it.
        A: the layer's value as maps [N, K, h, w].
        stages: the maps of watched layers, by name.
        scorer: reads the target's score off an output.
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
        target: Target,
        options: ExplainOptions,
        passes: Counter[str],
        watched: Sequence[str] = (),
    ) -> None:
        """Look at a batch of images.

        Args:
            backend: the network, for gradients.
            forward: the same network for masked images, which may be faster and of lower precision; it then also serves
                for changed values.
            x: images [N, C, H, W].
            layer: the layer that is explained, or None.
            target: what is explained, see `targets`.
            options: batch size, precision, seed and tokens.
            passes: counts what is run.
            watched: without a layer, those whose maps are kept.
        """
        self.backend, self.forward, self.x, self.layer = backend, forward, x, layer
        self.batch_size, self.seed, self.passes = options.batch_size, options.seed, passes
        self.at_once = whole_images(options.batch_size, x.device)
        self.extras: dict[str, Tensor] = {}
        self.lower = options.lower
        self._lower_tail: tuple[Tail, torch.dtype] | None = None
        with torch.no_grad():
            if watched:
                values, self.output = forward.observed(x, watched)
                layouts = {
                    name: backend.layout(name, value, self.size, options.tokens) for name, value in values.items()
                }
                self.stages = {name: layouts[name].maps(value) for name, value in values.items()}
            elif layer is None:
                self.output = backend(x)
            else:
                self.value, self.tail = backend.split(layer, x)
                self.output = self.tail(self.value, None)
                self.layout = backend.layout(layer, self.value, self.size, options.tokens)
        self.passes["forward"] += len(x)
        self.scorer: Scorer = scorer_of(target, self.output, len(x))

    @cached_property
    def everyone(self) -> Tensor:
        """int64 [N], the images in order."""
        return torch.arange(len(self.x), device=self.x.device)

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
        """The gradient of the targets' scores with respect to the layer's maps alone, [N, K, h, w].

        Nothing before the layer is differentiated, and nothing accumulates on parameters.
        """
        with torch.enable_grad():
            value = self.value.detach().clone().requires_grad_()
            output = self.tail(value, None)
            (gradient,) = torch.autograd.grad(self.scorer.logit(output, self.everyone).sum(), value)
        self.passes["tail"] += len(self.x)
        self.passes["tail backward"] += len(self.x)
        return self.layout.maps(gradient)

    def after(self, count: int, make: Make, read: Read | None = None) -> Tensor:
        """Return the target's scores for changed values of the layer, [N, count].

        make: given images int64 [m] and variants int64 [m] (0 .. count - 1), the changed maps [m, K, h, w].
        read: what to read off the output, given it and the images; the target's logits by default.
        """
        read, (tail, dtype) = read or self.scorer.logit, self._fast_tail()

        def scored(images: Tensor, variants: Tensor) -> Tensor:
            value = self.layout.value(make(images, variants), self.value[images]).to(dtype)
            self.passes["tail"] += len(images)
            return read(tail(value, images), images)

        return self._over_pairs(count, scored, None, self.batch_size)

    def masked(
        self,
        count: int,
        make: Make,
        read: Read | None = None,
        fill: Tensor | float = 0.0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Return the target's probabilities on masked images, [N, count].

        make: given images and variants as in `after`, masks [m, H, W] in 0..1; a pixel becomes x * m + fill * (1 - m).
        read: what to read off the output; the target's probability by default. fill: a number, or images [N, C, H, W].
        keep: bool [N, count]; where it is false nothing runs, and the score is zero.
        """
        read = read or self.scorer.probability

        def scored(images: Tensor, variants: Tensor) -> Tensor:
            masks, given = make(images, variants)[:, None].to(self.x.dtype), self.x[images]
            changed = given * masks
            if isinstance(fill, Tensor):
                changed = changed + fill[images] * (1 - masks)
            elif fill:
                changed = changed + fill * (1 - masks)
            self.passes["forward"] += len(images)
            return read(self.forward(changed), images)

        return self._over_pairs(count, scored, keep, self.at_once)

    def scored(self, x: Tensor, images: Tensor) -> Tensor:
        """Return the target's probability on other images [m, C, H, W]; images: int64 [m], whose target each has."""
        self.passes["forward"] += len(x)
        with torch.no_grad():
            parts = zip(torch.split(x, self.at_once), torch.split(images, self.at_once), strict=True)
            return torch.cat([self.scorer.probability(self.forward(part), of) for part, of in parts]).to(self.x.dtype)

    def combined(self, weights: Tensor, make: Make) -> Tensor:
        """Return sum_i w_i M_i over masks that are made again, [N, H, W]; weights [N, count]; zeros are free."""
        total = self.x.new_zeros(len(self.x), *self.size, dtype=weights.dtype)
        for images, variants in self._pairs(weights.shape[1], weights != 0, self.at_once):
            masks = make(images, variants).to(weights.dtype)
            total.index_add_(0, images, weights[images, variants, None, None] * masks)
        return total

    def back(self, policy: BackwardRule, x: Tensor | None = None, relevance: bool = False) -> Tensor:
        """Send the target's score back to the images by a policy, [N, C, H, W].

        x: other images than the view's. relevance: start with the score itself instead of its gradient.
        """
        x = self.x if x is None else x

        def seed(output: Any) -> Tensor:
            with torch.enable_grad():
                leaf = output.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.scorer.logit(leaf, self.everyone).sum(), leaf)
            start: Tensor = gradient * output if relevance else gradient
            return start

        self.passes["forward"] += len(x)
        self.passes["backward"] += len(x)
        return self.backend.back(x, seed, policy)

    def up(self, maps: Tensor) -> Tensor:
        """Resize maps [..., h, w] to the images' size, bilinear."""
        return resized(maps, self.size)

    def noise(self, variants: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise [m, *shape], the same for a variant whatever the batch it comes in."""
        drawn = []
        for variant in variants.tolist():
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + variant)
            drawn.append(torch.randn(shape, generator=generator, dtype=torch.float32))
        return torch.stack(drawn).to(self.x.device, self.x.dtype)

    def _fast_tail(self) -> tuple[Tail, torch.dtype]:
        """Return the tail for changed values and its dtype. Of another precision what passes the layer by is computed
        once more; else the gradient's tail serves, and nothing before the layer runs again."""
        if not self.lower:
            return self.tail, self.value.dtype
        if self._lower_tail is None:
            value, tail = self.forward.split(str(self.layer), self.x)
            self._lower_tail = tail, value.dtype
            self.passes["forward"] += len(self.x)
        return self._lower_tail

    def _over_pairs(self, count: int, scored: Make, keep: Tensor | None, at_once: int) -> Tensor:
        """Score every pair of an image and a variant, a batch at a time, in order; those not kept get zero."""
        found: Tensor | None = None
        with torch.no_grad():
            for images, variants in self._pairs(count, keep, at_once):
                scores = scored(images, variants).to(self.x.dtype)
                if found is None:
                    found = scores.new_zeros(len(self.x), count, *scores.shape[1:])
                found[images, variants] = scores
        return self.x.new_zeros(len(self.x), count) if found is None else found

    def _pairs(self, count: int, keep: Tensor | None, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, variants), int64 each, of the pairs in order, a batch at a time."""
        if keep is None:
            every = len(self.x) * count
            for start in range(0, every, at_once):
                pairs = torch.arange(start, min(start + at_once, every), device=self.x.device)
                yield pairs // count, pairs % count
        else:
            images, variants = keep.nonzero(as_tuple=True)
            for start in range(0, len(images), at_once):
                yield images[start : start + at_once], variants[start : start + at_once]


def whole_images(batch_size: int, device: torch.device) -> int:
    """Return how many whole images run at once where up to `batch_size` may."""
    return min(batch_size, IN_CACHE) if device.type == "cpu" else batch_size
