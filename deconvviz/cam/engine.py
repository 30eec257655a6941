"""What every method needs of a network, in one place: values, gradients, and scores after a change.

A method is given a `View` of a batch of images at one layer and reads like its equation. The view runs the part of the
network before the layer once; what follows a changed value runs from the layer on; masked images run whole, in
batches over (image, mask) with masks that are made when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from deconvviz.cam.backend import Form, Make, Read, Tail
from deconvviz.cam.observation import LESS, Observation
from deconvviz.cam.shaping import resized
from deconvviz.deconv.rules import BackwardRule
from deconvviz.graph.memory import fitting
from deconvviz.halving import AtOnce

ON_A_CPU, ON_A_GPU = 32, 256  # changed values or masked images at once, where no number is given
IN_CACHE = 8  # whole images at once on a CPU: their maps stay in its cache, which is faster than 32 at once


class View(Observation):
    """What a method computes with: an observation, and scores after a change."""

    @property
    def batch_size(self) -> int:
        """How many changed values or masked images run at once, where they fit."""
        return self.options.batch_size or (ON_A_CPU if self.x.device.type == "cpu" else ON_A_GPU)

    @cached_property
    def whole_at_once(self) -> AtOnce:
        """How many masked images run at once: fewer than `batch_size` on a CPU, or where more would not fit."""
        size, network = whole_images(self.batch_size, self.x.device), getattr(self.forward, "network", None)
        return AtOnce(size if network is None else fitting(network, size), "masked images", LESS)

    @cached_property
    def values_at_once(self) -> AtOnce:
        """How many changed values of the layer run at once."""
        return AtOnce(self.batch_size, "changed values", LESS)

    @cached_property
    def base(self) -> Tensor:
        """The images as the network for masked images takes them, [N, C, H, W]."""
        return self.forward.prepared(self.x)

    def slopes(self, x: Tensor, images: Tensor, read: Read | None = None) -> tuple[Tensor, Tensor]:
        """Return the scores of other images, and the gradients of each with respect to its image.

        Args:
            x: [m, C, H, W].
            images: int64 [m], the image of this view whose target counts for each.
            read: what is read off the output; by default the logit of the target.

        Returns:
            [m] and [m, C, H, W].
        """
        read = read or self.scorer.logit

        def part(start: int, stop: int) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = x[start:stop].detach().clone().requires_grad_()
                scores = read(self.backend(leaf), images[start:stop])
                (gradient,) = torch.autograd.grad(scores.sum(), leaf)
            return scores.detach(), gradient

        scores, gradients = zip(*self.whole_at_once.parts(len(x), part), strict=True)
        self.passes.update(forward=len(x), backward=len(x))
        return torch.cat(scores), torch.cat(gradients)

    def after(self, count: int, make: Make, read: Read | None = None) -> Tensor:
        """Score changed values of the layer.

        Args:
            count: variants of each image.
            make: takes images int64 [m] and variants int64 [m] (0 .. count - 1), returns the changed maps
                [m, K, h, w].
            read: takes an output and the images that its rows belong to, returns what is read off it; by default the
                logits of the targets.

        Returns:
            [N, count], or [N, count, ...] where `read` returns more than one number.
        """
        read, (tail, dtype) = read or self.scorer.logit, self._fast_tail

        def scored(images: Tensor, variants: Tensor) -> Tensor:
            value = self.layout.value(make(images, variants), self.value[images]).to(dtype)
            scores = read(tail(value, images), images)
            self.passes["tail"] += len(images)
            return scores

        return self._over_pairs(count, scored, None, self.values_at_once)

    def masked(
        self,
        count: int,
        make: Make,
        read: Read | None = None,
        fill: Tensor | float = 0.0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Score masked images.

        Args:
            count: masks for each image.
            make: takes images and variants as in `after`, returns masks [m, H, W] in 0..1; a pixel becomes
                x * m + fill * (1 - m).
            read: what is read off the output; by default the probability of the target.
            fill: a number, or images [N, C, H, W].
            keep: bool [N, count]; where it is false nothing runs, and the score is zero.

        Returns:
            [N, count], or [N, count, ...] where `read` returns more than one number.
        """
        read, base = read or self.scorer.probability, self.base
        filled = self.forward.prepared(fill) if isinstance(fill, Tensor) else fill
        rows_last = base.is_contiguous(memory_format=torch.channels_last) and base.shape[1] > 1
        layout = torch.channels_last if rows_last else torch.contiguous_format

        def scored(images: Tensor, variants: Tensor) -> Tensor:
            masks = make(images, variants)[:, None].to(base.dtype)
            # Written in the order in memory that the network takes: no pass over the images rearranges them.
            changed = base.new_empty(len(images), *base.shape[1:]).contiguous(memory_format=layout)
            torch.mul(base if len(base) == 1 else base[images], masks, out=changed)
            if isinstance(filled, Tensor):
                changed += (filled if len(filled) == 1 else filled[images]) * (1 - masks)
            elif filled:
                changed += filled * (1 - masks)
            scores = read(self.forward(changed), images)
            self.passes["forward"] += len(images)
            return scores

        return self._over_pairs(count, scored, keep, self.whole_at_once)

    def scored(self, x: Tensor, images: Tensor) -> Tensor:
        """Return the probability of the target on other images.

        Args:
            x: [m, C, H, W].
            images: int64 [m], the image of this view whose target counts for each.

        Returns:
            [m].
        """
        with torch.no_grad():

            def probabilities(start: int, stop: int) -> Tensor:
                return self.scorer.probability(self.forward(x[start:stop]), images[start:stop])

            scores = torch.cat([*self.whole_at_once.parts(len(x), probabilities)]).to(self.x.dtype)
        self.passes["forward"] += len(x)
        return scores

    def combined(self, weights: Tensor, make: Make) -> Tensor:
        """Return the weighted sum of masks, sum_i w_i M_i.

        Args:
            weights: [N, count]; masks of weight zero are not made.
            make: makes the masks, as in `masked`; they are made once more.

        Returns:
            [N, H, W].
        """
        total = self.x.new_zeros(len(self.x), *self.size, dtype=weights.dtype)
        number, pairs = self._pairs(weights != 0)

        def weighed(start: int, stop: int) -> tuple[Tensor, Tensor]:
            images, variants = pairs(start, stop)
            return images, weights[images, variants, None, None] * make(images, variants).to(weights.dtype)

        for images, masks in self.whole_at_once.parts(number, weighed):
            total.index_add_(0, images, masks)
        return total

    def back(
        self,
        policy: BackwardRule,
        x: Tensor | None = None,
        relevance: bool = False,
        images: Tensor | None = None,
        layer: str | None = None,
        form: Form | None = None,
    ) -> Tensor:
        """Send the score of the target back to the images, or to a layer.

        Args:
            policy: what each kind of op does to the signal.
            x: other images than the view's.
            relevance: start with the score itself instead of its gradient.
            images: int64 [m], the image of this view whose target counts for each of x.
            layer: the layer where the signal ends.
            form: the form of the captured network that runs; see `Backend.back`.

        Returns:
            [N, C, H, W], or of the layer's shape.
        """
        x, images = self.x if x is None else x, self.everyone if images is None else images
        self.passes["forward"] += len(x)
        self.passes["backward"] += len(x)
        return self.backend.back(x, self.scorer.seed(images, relevance), policy, layer, form)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest value of a pixel, [N, C] each; of each image where they are not known."""
        if self.preprocess is None:
            return self.x.amin((2, 3)), self.x.amax((2, 3))
        bounds = [bound.to(self.x).expand(len(self.x), -1) for bound in self.preprocess.bounds()]
        return bounds[0], bounds[1]

    def up(self, maps: Tensor) -> Tensor:
        """Resize maps [..., h, w] to the images' size, bilinear."""
        return resized(maps, self.size)

    def noise(self, variants: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal noise [m, *shape]; a variant has the same noise in whatever batch it comes."""
        drawn = []
        for variant in variants.tolist():
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + variant)
            drawn.append(torch.randn(shape, generator=generator, dtype=torch.float32))
        return torch.stack(drawn).to(self.x.device, self.x.dtype)

    @cached_property
    def _fast_tail(self) -> tuple[Tail, torch.dtype]:
        """The function from changed values to the output, and the dtype of the values.

        In a lower precision the values that bypass the layer are computed once more. Otherwise the function that
        gradients use serves, and nothing before the layer runs again.
        """
        if not self.options.lower:
            return self.tail, self.value.dtype
        value, tail = self.forward.split(str(self.layer), self.x)
        self.passes["forward"] += len(self.x)
        return tail, value.dtype

    def _over_pairs(self, count: int, scored: Make, keep: Tensor | None, at_once: AtOnce) -> Tensor:
        """Score every pair of an image and a variant, a batch at a time, in order; those not kept get zero."""
        if keep is None:
            return self.each(len(self.x), count, scored, at_once)
        table: Tensor | None = None
        number, pairs = self._pairs(keep)

        def part(start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
            images, variants = pairs(start, stop)
            return images, variants, scored(images, variants).to(self.x.dtype)

        with torch.no_grad():
            for images, variants, scores in at_once.parts(number, part):
                if table is None:
                    table = scores.new_zeros(len(self.x), count, *scores.shape[1:])
                table[images, variants] = scores
        return self.x.new_zeros(len(self.x), count) if table is None else table

    def each(self, images: int, count: int, scored: Make, at_once: AtOnce) -> Tensor:
        """Score `count` variants of each of some images, a batch at a time, in order.

        Args:
            images: how many images.
            count: how many variants of each.
            scored: takes images int64 [m] (0 .. images - 1) and variants int64 [m], returns their scores [m, ...].
            at_once: how many pairs of them run at once.

        Returns:
            [images, count, ...].
        """

        def part(start: int, stop: int) -> Tensor:
            numbers = torch.arange(start, stop, device=self.x.device)
            return scored(numbers // count, numbers % count).to(self.x.dtype)

        with torch.no_grad():
            scores = torch.cat([*at_once.parts(images * count, part)]) if images * count else self.x.new_zeros(0)
        return scores.reshape(images, count, *scores.shape[1:])

    def _pairs(self, keep: Tensor) -> tuple[int, Callable[[int, int], tuple[Tensor, Tensor]]]:
        """Return how many pairs of a mask [N, count] are kept, and a function from start and stop to some of them.

        They are (images, variants), int64 each, in order.
        """
        images, variants = keep.nonzero(as_tuple=True)  # waits for the device once, before the batches
        return len(images), lambda start, stop: (images[start:stop], variants[start:stop])


def whole_images(batch_size: int, device: torch.device) -> int:
    """Return how many whole images run at once where up to `batch_size` may."""
    return min(batch_size, IN_CACHE) if device.type == "cpu" else batch_size
