"""Model Doctor: each class is driven by its own channels alone, and where masks are known, by the object alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deconvviz.data.feed import Feed
from deconvviz.data.sampling import random_crops
from deconvviz.data.truth import OBJECT, Truth, open_truth
from deconvviz.errors import TrainingError, nearest, require
from deconvviz.graph.evaluating import evaluating
from deconvviz.metrics.class_channels import (
    channel_constraint,
    channel_strengths,
    class_masks,
    score_gradient,
    space_constraint,
    surest,
)
from deconvviz.studies.training.additions.base import Addition, Course, Part, Step
from deconvviz.studies.training.additions.registry import registered
from deconvviz.types import Ints, Picture
from deconvviz.words import counted

KEPT = 20_000  # masks of objects that are kept, a bit a pixel


@registered
@dataclass
class ModelDoctor(Addition):
    """A class is kept from channels of a layer that are not its own, and from what is not the object.

    loss + alpha L_ch + beta L_sp. Channel k drives class c by S_k(c), the sum over its map of ReLU(dz_c / dA_k). A
    class leans on the channels for which S, summed over its correctly classified training images of the greatest
    certainty and scaled to 0..1, is above a threshold: its mask M_c. For class y of an image and its rival r, the best
    of the others, L_ch = sum_k M_r S_k(r) + sum_k (1 - M_y) S_k(y); L_sp is the sum of |dz_y / dA| outside the object.
    Both are means over images. The masks are measured once, and kept.

    Options: layer, name of the module whose output is A (the last convolution whose channels are not the classes);
    alpha (10) and beta (0; above 0 it needs to know where the objects are); after, epochs of plain training before
    the masks are measured (5; 0 for a network that is trained already); images of a class for its mask (50);
    threshold (0.2); truth, a CSV file of boxes or a folder of masks (generated scenes know theirs).

    Source: Feng et al. 2022, Model Doctor (arXiv 2112.04934); S, M, 50 images, alpha and beta as in the authors' code.
    There the gradient is that of a loss, divided by the number of images in the batch, and the best epoch is chosen by
    the test images; here it is the score's own, an image at a time, and the epoch is yours to choose by validation
    images. What it cannot show: that a class with fewer channels is recognised better. The gradient is differentiated
    once more: a step took 1.3 of a plain training on a CPU, and in bf16 it is as coarse as bf16.
    """

    name = "model-doctor"
    layer: str = ""
    alpha: float = 10.0
    beta: float = 0.0
    after: int = 5
    images: int = 50
    threshold: float = 0.2
    truth: str = ""

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            alpha=(self.alpha >= 0, "0 or more"),
            beta=(self.beta >= 0, "0 or more"),
            after=(self.after >= 0, "0 or more epochs"),
            images=(self.images >= 1, "at least 1"),
            threshold=(0 <= self.threshold < 1, "a share from 0 to below 1"),
        )
        self._masks: Tensor | None = None  # bool [classes, K]
        self._maps: Tensor | None = None  # of the batch that runs
        self._outside: Tensor | None = None  # [n, side, side], of the whole batch
        self._hook: torch.utils.hooks.RemovableHandle | None = None

    @property
    def off(self) -> bool:
        """Whether both weights are zero: then nothing is done at all."""
        return self.alpha == 0 and self.beta == 0

    # --- before and after the training ---

    def begin(self, course: Course) -> None:
        """Find the layer, and keep its value of each batch."""
        if self.off:
            return
        if self.after >= course.recipe.epochs:
            raise TrainingError(
                f"model-doctor after={self.after} given; the training has {counted(course.recipe.epochs, 'epoch')}"
            )
        self._course, self._known = course, self._opened(course) if self.beta else None
        self._object = lru_cache(KEPT)(self._object_of)
        self._hook = _layer(course.model, self.layer, len(course.classes)).register_forward_hook(self._keep)

    def _opened(self, course: Course) -> Truth:
        truth = open_truth(self.truth or None, course.training.images)
        if truth is None:
            raise TrainingError(
                f"model-doctor beta={self.beta:g} given, and it is not known where the objects are; name a CSV file of "
                "boxes or a folder of masks with truth="
            )
        return truth

    def end(self) -> None:
        """Take the hook away, and the cache of objects, which holds this addition as it is held by it."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            del self._object

    def state(self) -> dict[str, Any]:
        """Return the masks, once they were measured."""
        return {} if self._masks is None else {"masks": self._masks.cpu()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take the masks that were measured before."""
        if "masks" in state and not self.off:
            self._masks = state["masks"].to(self._course.device)

    # --- a step ---

    def pictures(self, pictures: Picture, step: Step) -> Picture:
        """Cut what is not the object as the pictures are about to be cut: by the same draws."""
        if self.beta:
            self._outside = self._cut(pictures, step)
        return pictures

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Measure the masks before the first step of their epoch."""
        if not self.off and self._masks is None and step.epoch >= self.after:
            self._masks = self._measured()
        return x, targets

    def terms(self, outputs: Tensor, part: Part) -> Mapping[str, Tensor]:
        """Return alpha L_ch and beta L_sp; zeros until there are masks."""
        maps, self._maps = self._maps, None
        if self.off or maps is None:
            return {}
        terms = {"channels": outputs.new_zeros(())} if self.alpha else {}
        terms |= {"space": outputs.new_zeros(())} if self.beta else {}
        if self._masks is None:
            return terms
        labels = part.step.labels[part.start : part.stop]
        if self.alpha:
            terms["channels"] = self.alpha * channel_constraint(outputs, labels, maps, self._masks).mean()
        if self.beta and self._outside is not None:
            outside = self._outside[part.start : part.stop].to(maps)
            cells = functional.adaptive_avg_pool2d(outside[:, None], (maps.shape[2], maps.shape[3]))[:, 0]
            terms["space"] = self.beta * space_constraint(outputs, labels, maps, cells).mean()
        return terms

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """Keep the layer's value; what follows gets a copy, which an in-place rectifier may overwrite."""
        if not torch.is_grad_enabled():
            return None
        self._maps = output
        return output.clone()

    # --- the channels of classes ---

    def _measured(self) -> Tensor:
        """Return which channels each class leans on, bool [classes, K], on the training images as they are now."""
        course = self._course
        feed = Feed(course.training.images, course.preprocess, course.training.indices, workers=course.training.workers)
        with evaluating(course.model):
            places, labels = self._surest(feed)
            strengths: Tensor | None = None
            start = 0
            for batch, x in feed.tensors(course.recipe.batch_size, course.device, order=places):
                classes = labels[start : start + len(batch)]
                start += len(batch)
                with torch.enable_grad():
                    outputs = course.model(x)
                    assert self._maps is not None
                    s = channel_strengths(score_gradient(outputs, classes, self._maps)).double()
                strengths = s.new_zeros(len(course.classes), s.shape[1]) if strengths is None else strengths
                strengths.index_add_(0, classes, s)
        self._maps = None
        assert strengths is not None
        return class_masks(strengths, self.threshold)

    def _surest(self, feed: Feed) -> tuple[Ints, Tensor]:
        """Return places int64 [m] and classes int64 [m] of the images for the masks.

        Of each class those are taken that are classified correctly, the surest first; where none is, its surest ones.
        """
        course = self._course
        own, right = [], []
        labels = torch.from_numpy(feed.labels).to(course.device)
        with torch.no_grad():
            for places, x in feed.tensors(course.recipe.batch_size, course.device):
                probabilities = course.model(x).float().softmax(1)
                of_batch = labels[int(places[0]) : int(places[-1]) + 1]
                own.append(probabilities.gather(1, of_batch[:, None])[:, 0])
                right.append(probabilities.argmax(1) == of_batch)
        certainty, correct = torch.cat(own).cpu().numpy(), torch.cat(right).cpu().numpy()
        classes = np.unique(feed.labels)
        order = np.concatenate([surest(certainty, correct, feed.labels == label, self.images) for label in classes])
        return order, labels[torch.from_numpy(order).to(course.device)]

    # --- the objects ---

    def _cut(self, pictures: Picture, step: Step) -> Tensor:
        """Return what is outside the object in the crops that this step learns from, float [n, side, side]."""
        course, size = self._course, pictures.shape[1:3]
        outside = np.stack([self._outside_of(int(index), size) for index in step.indices])[..., None]
        side = course.preprocess.shape[1]
        if course.recipe.augment:
            cut = random_crops(outside, side, np.random.default_rng(step.root))[..., 0]
        else:
            cut = np.stack([course.preprocess.mask(each[..., 0].astype(bool)) for each in outside])
        return torch.from_numpy(cut.astype(np.float32)).to(course.device)

    def _outside_of(self, index: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return uint8 [h, w], 1 outside the object of an image; zeros where the object is not known."""
        packed = self._object(index)
        if packed is None:
            return np.zeros(size, np.uint8)
        return 1 - np.unpackbits(packed, count=size[0] * size[1]).reshape(size)

    def _object_of(self, index: int) -> NDArray[np.uint8] | None:
        """Return the mask of an image's object before the crop, a bit a pixel; None where it is not known."""
        assert self._known is not None
        mask = self._known.masks(index).get(OBJECT)
        return None if mask is None else np.packbits(self._course.training.preprocess.mask(mask))


def _layer(model: nn.Module, name: str, classes: int) -> nn.Module:
    """Return the module of a name; "" takes the last convolution whose channels are not the classes.

    Raises:
        TrainingError: there is none.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name:
        if name not in modules:
            raise TrainingError(f"model-doctor layer={name!r} given; {nearest(name, list(modules))}")
        named: nn.Module = modules[name]
        return named
    convolutions = [each for each in modules.values() if isinstance(each, nn.Conv2d) and each.out_channels != classes]
    if not convolutions:
        raise TrainingError("model-doctor finds no convolution; name a module whose output has channels with layer=")
    return convolutions[-1]
