"""Gradient mask: what of a gradient does not stand out from its neighbourhood goes no further down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deconvviz.arrays import widened
from deconvviz.cam.inhibition import LEAST, laplacian_of_gaussian, lateral_response
from deconvviz.errors import TrainingError, require
from deconvviz.studies.training.additions.base import Addition, Course, Step
from deconvviz.studies.training.additions.gradient_quality import gradient_quality
from deconvviz.studies.training.additions.registry import registered
from deconvviz.studies.training.additions.shapes import RECTIFIERS, output_shapes
from deconvviz.types import Floats


def lateral_mask(gradient: Tensor, kernel: Floats, soft: bool = False) -> Tensor:
    """Return the mask of a gradient: M = 1[R > 0], R = -(LoG * G), G its norm over channels.

    Args:
        gradient: floating [N, K, h, w], at least 3 x 3.
        kernel: LoG, float64 [5, 5], see `laplacian_of_gaussian`.
        soft: return max(R, 0) divided by its largest value of each image.

    Returns:
        [N, 1, h, w] in 0..1, one mask for each image, the same for all channels; no gradient goes through it.

    Source: of R, Jiang et al. 2022 (released code); that the mask is 1 where R is positive is our choice.
    """
    strength = torch.linalg.vector_norm(gradient.detach().to(widened(gradient.dtype)), dim=1)
    response, rounding = lateral_response(strength, kernel)
    stands_out = response > rounding
    if not soft:
        return stands_out[:, None].to(gradient.dtype)
    largest = response.amax((1, 2), keepdim=True)
    return torch.where(stands_out, response / torch.where(largest > 0, largest, 1), 0)[:, None].to(gradient.dtype)


def renormalised(kept: Tensor, gradient: Tensor) -> Tensor:
    """Return masked gradients [N, ...] with the L2 norm that those of each image had before; zero ones stay zero."""
    before, after = (torch.linalg.vector_norm(each.flatten(1), dim=1) for each in (gradient, kept))
    factor = torch.where(after > 0, before / torch.where(after > 0, after, 1), 1)
    return kept * factor.reshape(-1, *[1] * (kept.dim() - 1))


@registered
@dataclass
class GradientMask(Addition):
    """Lateral inhibition of the gradient: at each rectifier, what does not stand out from its neighbours is masked.

    On the way back, g <- M g at the input of each rectifier with maps of at least 3 x 3, with M = 1[R > 0] and
    R = -(LoG * |g|), |g| the norm over channels, LoG a 5 x 5 Laplacian of a Gaussian; one mask for each image, the
    same for all channels. What the network computes is unchanged, and so are the fully connected layers. Gradients that
    another addition makes its loss of are left as they are; that of its loss is masked with the others.

    Options: sigma of the Gaussian in positions of the map (1); soft, M = max(R, 0) / max R (false); renormalise, which
    gives g of each image its former norm back, so that the learning rate means the same (false); from_epoch, the first
    epoch with masks (1); images, on which the quality of the gradients is measured after each epoch (32; 0: none).

    In the history, for each layer: "kept_energy", |M g|^2 / |g|^2 over the epoch; "signal_to_noise", the mean over
    those of the layer's weights whose gradient varies of (E g)^2 / Var g over images (pure noise has about 1 /
    images); "cosine", of the gradient of these images and that of as many held-out ones.

    Source: Jiang et al. 2022, arXiv 2208.06918. Their abstract and the code of their map were available, not their rule
    of training and not their criterion of quality: the mask, its options and the three figures are ours. Their kernel
    (sigma 11) is a blur, which inhibits nothing; ours is centred. Rectifiers that are functions, not modules
    (functional.relu), are not masked. What it cannot show: that a gradient is better because less of it is kept.
    """

    name = "gradient-mask"
    sigma: float = 1.0
    soft: bool = False
    renormalise: bool = False
    from_epoch: int = 1
    images: int = 32

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            sigma=(self.sigma > 0, "a number above 0"),
            from_epoch=(isinstance(self.from_epoch, int) and self.from_epoch >= 1, "a whole number of at least 1"),
            images=(isinstance(self.images, int) and self.images >= 0 and self.images != 1, "0, or at least 2"),
        )
        self._kernel = laplacian_of_gaussian(self.sigma)
        self._handles: list[RemovableHandle] = []
        self._energies: dict[str, Tensor] = {}  # layer -> float64 [2], kept and all, over the epoch
        self._masking = self._counting = False

    def begin(self, course: Course) -> None:
        """Look at the gradient at each rectifier, and choose the images on which its quality is measured."""
        self._course = course
        for name, (module, shapes) in output_shapes(course.model, course.preprocess, course.device, RECTIFIERS).items():
            if any(_has_maps(shape) for shape in shapes):
                self._energies[name] = torch.zeros(2, dtype=torch.float64, device=course.device)
                self._handles.append(module.register_forward_pre_hook(partial(self._before, name)))
        if not self._handles:
            raise TrainingError(
                f"gradient-mask: the network has no rectifier module with maps of at least {LEAST} x {LEAST}"
            )
        rng = np.random.default_rng([course.recipe.seed, *self.name.encode()])
        self._places = [
            np.sort(rng.permutation(len(feed))[: self.images]) for feed in (course.training, course.held_out)
        ]

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Note whether the epoch is one with masks."""
        self._masking = self._counting = step.epoch + 1 >= self.from_epoch
        return x, targets

    def _before(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Hand a rectifier its input as it is, and look at the gradient that it alone sends back to it."""
        x, *rest = inputs
        of_the_training = module.training or not self._counting  # others measure in eval mode between two steps
        if not (self._masking and of_the_training and x.requires_grad and _has_maps(x.shape)):
            return None
        own_x = x.clone() if getattr(module, "inplace", False) else x.view_as(x)  # others may read x too
        own_x.register_hook(partial(self._masked, name))  # type: ignore[no-untyped-call]
        return own_x, *rest

    def _masked(self, name: str, gradient: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # it will be differentiated again: a part of another addition's loss, no update
            return gradient
        mask = lateral_mask(gradient, self._kernel, self.soft)
        masked = mask * gradient
        if self._counting:
            norms = [torch.linalg.vector_norm(each.detach(), dtype=torch.float64) for each in (masked, gradient)]
            self._energies[name] += torch.stack(norms).square()
        return renormalised(masked, gradient) if self.renormalise else masked

    def end_epoch(self, epoch: int) -> Mapping[str, float]:
        """Return the figures of the epoch's gradients, and those measured now, with masks where the epoch had them."""
        energies = torch.stack(list(self._energies.values())).tolist()
        figures = {
            f"kept energy/{name}": kept_energy / whole
            for name, (kept_energy, whole) in zip(self._energies, energies, strict=True)
            if whole > 0
        }
        for total in self._energies.values():
            total.zero_()
        figures |= self._quality() if self.images else {}
        self._masking = False  # whoever looks at the network between two epochs sees plain gradients
        return figures

    def _quality(self) -> dict[str, float]:
        course, (training, held_out) = self._course, self._places
        pictures = np.stack([course.preprocess.picture(picture) for picture in course.training.pictures(training)])
        x = course.preprocess.tensor(pictures, course.device)
        others = None
        if len(held_out):
            others = (
                course.preprocess.tensor(course.held_out.pictures(held_out), course.device),
                torch.from_numpy(course.held_out.labels[held_out]).to(course.device),
            )
        labels, self._counting = torch.from_numpy(course.training.labels[training]).to(course.device), False
        qualities = gradient_quality(course.model, x, labels, others)
        ratios = {f"signal to noise/{name}": quality.signal_to_noise for name, quality in qualities.items()}
        cosines = {f"cosine/{name}": quality.cosine for name, quality in qualities.items()}
        return {name: value for name, value in {**ratios, **cosines}.items() if value is not None}

    def state(self) -> dict[str, Any]:
        """Return the energies of the epoch under way."""
        return {"energies": dict(self._energies)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the energies of the epoch under way."""
        for name, total in state["energies"].items():
            self._energies[name].copy_(total)

    def end(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _has_maps(shape: tuple[int, ...]) -> bool:
    """Return whether a value of a shape is maps that are large enough for the kernel."""
    return len(shape) == 4 and min(shape[2:]) >= LEAST
