"""What the training of an explainer leaves."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconvviz.cam.learned.base import LearnedExplainer


@dataclass(kw_only=True)
class TrainedExplainer:
    """A trained explainer, its files and its history.

    Attributes:
        explainer: the trained part, in eval mode.
        path: of its state dict.
        history: a record for each epoch of each phase: phase, epoch, lr, each term of the loss (weighted, mean over the
            images), loss, right (share of the images for which the class is still found), seconds.
        config: what its JSON file says.
    """

    explainer: LearnedExplainer
    path: pathlib.Path
    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        if not self.history:
            return f"TrainedExplainer({self.explainer.name}, {self.path}, no epoch yet)"
        last = self.history[-1]
        terms = ", ".join(f"{name} {last[name]:.3g}" for name in ("loss", "right"))
        return f"TrainedExplainer({self.explainer.name}, {self.path}, {len(self.history)} epochs, {terms})"
