"""PretrainingRecipe: what a training without labels does, and what it counts as collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deconvviz.choices import TRAINING_PRECISIONS, Precision
from deconvviz.errors import TrainingError, require
from deconvviz.studies.pretraining.attention import SpatialAttention
from deconvviz.studies.pretraining.keywords import checked_options
from deconvviz.studies.pretraining.objectives import OBJECTIVES
from deconvviz.studies.pretraining.views import Views


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe:
    """How a network is trained without labels, by Adam at a constant rate.

    Attributes:
        objective: name in OBJECTIVES.
        options: of the objective.
        attention: options of the add-on `SpatialAttention`; None trains without it.
        epochs: number of passes over the images.
        batch_size: number of images in a step. The loss compares all of them, so that they have to fit in memory at
            once, two views each; images of an epoch that are too few for a whole batch are left out of it.
        lr: learning rate of Adam.
        weight_decay: added to the gradients, times the weights.
        views: how the two views are drawn.
        watched: number of images whose embeddings are looked at after each epoch, at most.
        least_rank: effective rank of embeddings or projections below which an epoch counts as collapsed.
        least_spread: spread of the projections below which an epoch counts as collapsed.
        precision: "fp32"; "tf32", in which a GPU is faster; or "bf16" (autocast).
        seed: what the order, the views, the dropout and the weights of the objective are drawn from.

    Raises:
        TrainingError: a value out of its range.
        DeconvvizError: the objective or an option of it does not exist.

    Source: the loss of each objective is its paper's. Adam, its rate and the batch are our choice, for small data; the
    papers use LARS with thousands of images in a batch. The limits are ours: see docs/training.md.

    >>> PretrainingRecipe(objective="swav", options={"prototypes": 300}).batch_size
    256
    """

    objective: str = "simclr"
    options: Mapping[str, Any] = field(default_factory=dict)
    attention: Mapping[str, Any] | None = None
    epochs: int = 100
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-6
    views: Views = field(default_factory=Views)
    watched: int = 512
    least_rank: float = 2.0
    least_spread: float = 0.1
    precision: Precision = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        checked_options(f"objective {self.objective}", OBJECTIVES[self.objective], self.options)
        if self.attention is not None:
            checked_options("spatial-attention", SpatialAttention, self.attention)
        require(
            self,
            TrainingError,
            epochs=(self.epochs >= 1, "at least 1"),
            batch_size=(self.batch_size >= 2, "at least 2: views are compared with those of other images"),
            lr=(0 < self.lr < math.inf, "a positive number"),
            weight_decay=(self.weight_decay >= 0, "0 or more"),
            watched=(self.watched >= 2, "at least 2"),
            least_rank=(self.least_rank >= 0, "0, for no limit, or more"),
            least_spread=(0 <= self.least_spread < 1, "0, for no limit, to below 1"),
            precision=(self.precision in TRAINING_PRECISIONS, " or ".join(TRAINING_PRECISIONS)),
            seed=(self.seed >= 0, "0 or more"),
        )

    def identity(self) -> dict[str, Any]:
        """Return what must agree when a training is resumed, JSON values: all but the number of epochs."""
        return {key: value for key, value in asdict(self).items() if key != "epochs"}

    def collapse(self, record: Mapping[str, float]) -> str:
        """Return in words how an epoch has collapsed, "" where it has not.

        The spread of the embedding is no sign: in an untrained network all embeddings point nearly the same way, and
        what differs between images is beside their mean. Its rank is, from which the mean is taken off.

        Args:
            record: of the epoch, with `embedding_rank`, `projection_rank` and `projection_spread`.

        >>> record = {"embedding_rank": 30.0, "projection_rank": 1.2, "projection_spread": 0.5}
        >>> PretrainingRecipe().collapse(record)
        'the projections use few directions: their effective rank is 1.2 (below 2)'
        """
        said = []
        if record["projection_spread"] < self.least_spread:
            low = f"{record['projection_spread']:.3g} (below {self.least_spread:g})"
            said.append(f"the projections of all images are nearly the same: their spread is {low}")
        for what in ("embedding", "projection"):
            if record[f"{what}_rank"] < self.least_rank:
                rank = f"{record[f'{what}_rank']:.2g} (below {self.least_rank:g})"
                said.append(f"the {what}s use few directions: their effective rank is {rank}")
        return "; ".join(said)
