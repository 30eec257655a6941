"""PruningOptions: what is taken out, how that is measured, and how the job runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deconvviz.choices import PRUNED_RESULTS
from deconvviz.errors import DataError, PruningError, require, require_choice
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints

TENTHS = tuple(number / 10 for number in range(1, 10))


class PruningKeywords(RunKeywords, total=False):
    """The fields of `PruningOptions`, as the keyword arguments of `prune`."""

    keep: float | None
    layers: Mapping[str, float]
    result: str
    criterion_options: Mapping[str, Any]
    outputs: Sequence[int] | Ints | None
    sensitivity: bool
    shares: Sequence[float]
    finetune: int
    lr: float
    held_out: float
    limit: int | None
    repeats: int
    shown: int


@dataclass(frozen=True, kw_only=True)
class PruningOptions(RunOptions):
    """What is taken out and how it is measured: the attributes of `RunOptions` are options too.

    Attributes:
        keep: share of the filters of each convolution that stays; the number is cut off to a whole one, and at least
            one stays. None takes 0.5, or only the layers that `layers` names where there are such.
        layers: name of a layer -> share of its filters that stays, instead of `keep`; linear layers too.
        result: "slim", a network with smaller tensors; or "masked", of the same shapes, with zeros.
        criterion_options: options of the criterion.
        outputs: int64 [classes], the network's output that stands for each class of the images; None where it is not
            known: then it is measured in how many images the network decides as before.
        sensitivity: whether each group of layers is also pruned alone, by each of `shares`.
        shares: of the filters that go then, each above 0 and below 1.
        finetune: epochs of training after the pruning.
        lr: learning rate of it.
        held_out: share of the images of each class that the accuracy is measured on, where others are trained on or
            looked at by the criterion; of all images together where each class has too few. Otherwise it is measured
            on all images.
        limit: measure on so many images at most, spread over the classes; None takes all.
        repeats: how often a forward pass is timed; 0 does not time it.
        shown: filters of the figure that went, and as many that stayed, of each of up to three layers; 0 draws none.

    Raises:
        PruningError: a share that keeps nothing, or more than all.
        DataError: another value out of its range.

    >>> PruningOptions(keep=0.5).share_of("conv1", prunable=True), PruningOptions(layers={"fc6": 0.1}).share_of("conv1")
    (0.5, None)
    """

    keep: float | None = None
    layers: Mapping[str, float] = field(default_factory=dict)
    result: str = "slim"
    criterion_options: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[int] | Ints | None = None
    sensitivity: bool = False
    shares: Sequence[float] = TENTHS
    finetune: int = 0
    lr: float = 1e-3
    held_out: float = 0.2
    limit: int | None = None
    repeats: int = 11
    shown: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("result", self.result, PRUNED_RESULTS)
        for name, share in {"keep": self.keep, **self.layers}.items():
            if share is not None and not 0 < share <= 1:
                raise PruningError(
                    f"{name} {share:g} given; expected a share of the filters that stays, above 0 and at most 1"
                )
        require(
            self,
            DataError,
            shares=(all(0 < share < 1 for share in self.shares), "shares above 0 and below 1"),
            finetune=(self.finetune >= 0, "0 or more epochs"),
            lr=(self.lr > 0, "a positive number"),
            held_out=(0 < self.held_out < 1, "a share above 0 and below 1"),
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            repeats=(self.repeats >= 0, "0 or more"),
            shown=(self.shown >= 0, "0 or more"),
        )

    def share_of(self, layer: str, prunable: bool = False) -> float | None:
        """Return which share of a layer's filters stays; None where the layer is not pruned."""
        if layer in self.layers:
            return self.layers[layer]
        if not prunable or (self.keep is None and self.layers):
            return None
        return 0.5 if self.keep is None else self.keep
