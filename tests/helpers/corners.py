"""An explainer as a user would write one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deconvviz.cam.learned import base
from deconvviz.cam.learned.base import Batch, LearnedExplainer, Phase


class Corners(LearnedExplainer):
    """One number a class and place, whatever the image: the map that a class has on average. For the tests only."""

    name = "corners"
    fail_at: int = -1
    seen: list[tuple[list[int], list[bool], torch.dtype]] = []  # noqa: RUF012

    def __init__(self, layers: Mapping[str, tuple[int, ...]], outputs: int, *, area: float = 2.0) -> None:
        super().__init__(layers, outputs, area=area)
        ((self.layer, shape),) = layers.items()
        self.places = nn.Parameter(torch.zeros(outputs, *shape[1:]))

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        return self.places[classes]

    def terms(self, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Tensor]:
        mask = self(batch.values, batch.classes).sigmoid()
        logits = batch.after(mask[:, None] * batch.values[self.layer])
        Corners.seen.append((batch.classes.tolist(), batch.real.tolist(), logits.dtype))
        loss = nn.functional.cross_entropy(logits, batch.classes)
        if len(Corners.seen) == Corners.fail_at:
            loss = loss * math.nan
        area = self.options["area"] * base.area(mask, 0.3)
        return {"cross_entropy": loss, "area": area}, logits.argmax(1) == batch.classes

    @classmethod
    def schedule(cls) -> tuple[Phase, ...]:
        return (Phase("corners", epochs=2, batch_size=16, lr=20.0),)
