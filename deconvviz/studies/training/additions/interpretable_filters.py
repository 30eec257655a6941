"""Interpretable filters: each filter is asked to stand for one place of one thing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deconvviz.errors import TrainingError, nearest, require
from deconvviz.studies.training.additions import templates
from deconvviz.studies.training.additions.base import Addition, Course, Part
from deconvviz.studies.training.additions.branches import branches
from deconvviz.studies.training.additions.registry import registered
from deconvviz.studies.training.additions.shapes import RECTIFIERS, output_shapes

FORMS = ("information", "spread")


@registered
@dataclass
class InterpretableFilters(Addition):
    """A loss that asks each filter of a layer for maps with one peak, so that it stands for one part of one thing.

    form=information: minus the mutual information of a filter's maps X and templates T, of a single peak at each place
    or of silence: sum_T p(T) sum_X p(X|T) log(p(X|T) / p(X)), p(X|T) = exp(sum X T / t) / Z_T, Z_T over the batch, t
    half of the mean sum of X.
    form=spread: the distance of a filter's activity from its peak on images of its class, plus the share of its mean
    activity that is on other classes. A filter's class is the one in which its largest values were highest on average
    in the epoch before; in the first epoch there is none, and the distance counts on all images.

    Options: layer, whose values are rectified (last: the last rectifier that gives maps); form (information); weight
    of the loss (0.1); at_most, the length of its gradient at a filter's maps in lengths of the task's, at most (0.02);
    slope, how fast a template falls from its peak (2); mask, whether the maps are also multiplied by the template at
    their peak while training (false: the file's network has no such layer).

    Neither form depends on the size of the values, so that its gradient grows as they shrink, and could silence a
    filter for good. Therefore it is shortened, at each filter's maps, to at_most times the length of the task's: a
    filter that the task does not ask for is left alone. The limit is low because the task's gradient of a batch is
    mostly noise, which this loss's is not: with 1, a network may learn nothing but places.

    In the history: "information" or "distance" and "elsewhere", the weighted terms of the loss; "spread", the mean
    distance of all activity from the peak (coordinates from -1 to 1), by which both forms can be compared.

    Source: Zhang, Wu, Zhu 2018, "Interpretable Convolutional Neural Networks": templates, masks and the information;
    the rectified product is from memory. They let a filter's class choose between peaks and silence in an approximate
    gradient, and their T shrinks with the number of positions; ours is the gradient of the equation, and t makes it the
    same for values of any size. The other form, and at_most, are ours. What it cannot show: that a part which people
    have a name for is what a filter stands for.
    """

    name = "interpretable-filters"
    layer: str = "last"
    form: str = "information"
    weight: float = 0.1
    at_most: float = 0.02
    slope: float = templates.SLOPE
    mask: bool = False

    def __post_init__(self) -> None:
        require(
            self,
            TrainingError,
            form=(self.form in FORMS, " or ".join(FORMS)),
            weight=(self.weight >= 0, "0 or more"),
            at_most=(0 <= self.at_most < math.inf, "0 or more, and finite"),
            slope=(self.slope > 0, "a number above 0"),
        )
        self._handle: RemovableHandle | None = None
        self._maps: Tensor | None = None

    def begin(self, course: Course) -> None:
        """Look at the layer's maps."""
        shapes = output_shapes(course.model, course.preprocess, course.device)
        fitting = [name for name, (_, given) in shapes.items() if len(given[-1]) == 4 and min(given[-1][2:]) > 1]
        rectified = [name for name in fitting if isinstance(shapes[name][0], RECTIFIERS)]
        layer = self.layer if self.layer != "last" else (rectified or fitting or ["last"])[-1]
        if layer not in fitting:
            raise TrainingError(f"interpretable-filters: no layer {layer!r} that gives maps; {nearest(layer, fitting)}")
        module, given = shapes[layer]
        self._handle = module.register_forward_hook(self._after)
        filters, like = given[-1][1], torch.zeros((), dtype=torch.float64, device=course.device)
        self._maxima = like.new_zeros(len(course.classes), filters)  # sums over the epoch's images of a class
        self._counts = like.new_zeros(len(course.classes), 1)
        self._spread = like.new_zeros(2)  # sum over parts of a batch, weighed by their images; and these
        self._own: Tensor | None = None  # int64 [filters], the class of each

    def _after(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        onwards, looked_at = branches(output, self.at_most)
        self._maps = looked_at.relu()
        return templates.masked(onwards.relu(), self.slope) if self.mask else onwards

    def terms(self, outputs: Tensor, part: Part) -> Mapping[str, Tensor]:
        """Return the terms of the loss, and note what the classes of the filters and the figures are made of."""
        assert self._maps is not None
        maps, self._maps = self._maps.float(), None
        labels = part.step.labels[part.start : part.stop]
        everywhere = torch.ones(maps.shape[:2], dtype=torch.bool, device=maps.device)
        with torch.no_grad():
            self._maxima.index_add_(0, labels, maps.amax((2, 3)).double())
            self._counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64)[:, None])
            spread = templates.own_spread(maps, everywhere).double() * len(maps)
            self._spread += torch.stack([spread, torch.full_like(spread, len(maps))])
        if self.form == "information":
            return {"information": -self.weight * templates.information(maps, self.slope)}
        if self._own is None:
            return {"distance": self.weight * templates.own_spread(maps, everywhere)}
        of_own = labels[:, None] == self._own
        return {
            "distance": self.weight * templates.own_spread(maps, of_own),
            "elsewhere": self.weight * templates.activity_elsewhere(maps, of_own),
        }

    def end_epoch(self, epoch: int) -> Mapping[str, float]:
        """Give each filter the class in which its largest values were highest on average."""
        self._own = (self._maxima / self._counts.clamp(min=1)).argmax(0)
        spread, images = self._spread.tolist()
        for total in (self._maxima, self._counts, self._spread):
            total.zero_()
        return {"spread": spread / images} if images else {}

    def state(self) -> dict[str, Any]:
        """Return the classes of the filters, and what the next ones are made of."""
        sums = {"maxima": self._maxima, "counts": self._counts, "spread": self._spread}
        return {**sums, "own": self._own}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the classes of the filters."""
        for name in ("maxima", "counts", "spread"):
            getattr(self, f"_{name}").copy_(state[name])
        self._own = None if state["own"] is None else state["own"].to(self._maxima.device)

    def end(self) -> None:
        """Take the hook away."""
        if self._handle is not None:
            self._handle.remove()
