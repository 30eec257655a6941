"""Hide-and-seek: parts of each image are hidden, so that the network has to find others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.errors import TrainingError, require
from deconvviz.studies.training.additions.base import Addition, Course, Step
from deconvviz.studies.training.additions.registry import registered


@registered
@dataclass
class HideAndSeek(Addition):
    """Each cell of a grid over the image is hidden with a probability of its own draw: it gets the mean colour.

    A network that has to name the object with its most telling part hidden learns further parts; its maps are meant to
    cover more of the object.

    Options: cells, the number of cells along a side (4; not more than the input has pixels); hidden, the probability
    with which a cell is hidden (0.5).

    Source: Singh and Lee 2017, Hide-and-Seek; the probability as in the survey of Rony et al. (arXiv 1909.03354), the
    number of cells and the fill from memory. Validation images are not touched. What it cannot show: whether a map
    covers more because the filters know more parts, or because they know each one worse.
    """

    name = "hide-and-seek"
    of_one_class = False
    cells: int = 4
    hidden: float = 0.5

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            cells=(self.cells >= 1, "at least 1"),
            hidden=(0 <= self.hidden < 1, "a share from 0 to below 1"),
        )

    def begin(self, course: Course) -> None:
        """Refuse a grid that is finer than the input."""
        side = course.preprocess.shape[1]
        if self.cells > side:
            raise TrainingError(f"hide-and-seek cells={self.cells} given; the input has {side} pixels along a side")

    def inputs(self, x: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Multiply by M, a grid of zeros (with the probability `hidden`) and ones; 0 is the mean colour."""
        drawn = step.numbers(self.name).random((len(x), 1, self.cells, self.cells))
        shown = torch.from_numpy((drawn >= self.hidden).astype("float32")).to(x.device, x.dtype)
        return x * functional.interpolate(shown, x.shape[-2:], mode="nearest"), targets
