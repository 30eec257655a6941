"""What the training of an explainer leaves."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field
from typing import Any

from deconvviz.cam.learned.base import LearnedExplainer


@dataclass
class Learned:
    """A trained explainer, its files and its history, a record for each epoch of each phase.

    history: phase, epoch, lr, each term of the loss (weighted, mean over the images), loss, right (share of images for
    which the class is still found), seconds. config: what the JSON file says.
    """

    explainer: LearnedExplainer
    path: pathlib.Path
    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        if not self.history:
            return f"Learned({self.explainer.name}, {self.path}, no epoch yet)"
        last = self.history[-1]
        terms = ", ".join(f"{name} {last[name]:.3g}" for name in ("loss", "right"))
        return f"Learned({self.explainer.name}, {self.path}, {len(self.history)} epochs, {terms})"
