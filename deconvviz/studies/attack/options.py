"""AttackOptions: what is attacked, how far a pixel may go, and how the job runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deconvviz.choices import ATTACK_LOSSES, EXPLAINED
from deconvviz.errors import DataError, require, require_choice
from deconvviz.run.options import RunKeywords, RunOptions
from deconvviz.types import Ints


class AttackKeywords(RunKeywords, total=False):
    """The fields of `AttackOptions`, as the keyword arguments of `attack`."""

    epsilons: Sequence[float] | None
    away_from: str
    outputs: Sequence[int] | Ints | None
    target: int | None
    loss: str
    method_options: Mapping[str, Any]
    limit: int | None
    keep: int | None
    commit_every: int


@dataclass(frozen=True, kw_only=True)
class AttackOptions(RunOptions):
    """What is attacked and how: the attributes of `RunOptions` are options too. An attack is computed in fp32.

    Attributes:
        epsilons: how far a pixel may go, as shares of the way from black to white, 0 to 1; None takes the method's own.
        away_from: the class that the network shall not find any more: the image's "label", or the class that it finds
            in the unchanged image, "top".
        outputs: int64 [classes], the network's output that stands for each class of the images; "label" needs it.
        target: the class that the network shall find; None lets it be any other.
        loss: what the attack raises, one of `choices.ATTACK_LOSSES`; an attack may have its own.
        method_options: options of the method.
        limit: take only so many images, spread over the classes and over the dataset; None takes all.
        keep: of so many of them, evenly spread, the changed pixels are kept; None keeps all.
        commit_every: batches between two commits to the file.

    Raises:
        DataError: a value out of its range.

    >>> AttackOptions(epsilons=(2 / 255,)).epsilons_or(0.5), AttackOptions().epsilons_or(0.5)
    ((0.00784313725490196,), (0.5,))
    """

    epsilons: Sequence[float] | None = None
    away_from: str = "label"
    outputs: Sequence[int] | Ints | None = None
    target: int | None = None
    loss: str = "cross-entropy"
    method_options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    keep: int | None = None
    commit_every: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("away from", self.away_from, EXPLAINED)
        require_choice("loss", self.loss, ATTACK_LOSSES)
        require(
            self,
            DataError,
            precision=(self.precision == "fp32", "fp32: attacks need exact gradients"),
            target=(self.target is None or self.target >= 0, "0 or more"),
            limit=(self.limit is None or self.limit >= 1, "at least 1"),
            keep=(self.keep is None or self.keep >= 0, "0 or more"),
            commit_every=(self.commit_every >= 1, "at least 1"),
        )
        for epsilon in self.epsilons or ():
            if not (math.isfinite(epsilon) and 0 <= epsilon <= 1):
                raise DataError(
                    f"epsilon {epsilon:g} given; expected a share of the way from black to white, from 0 to 1, such as "
                    "0.03 or 8/255"
                )
        if self.epsilons is not None and (not len(self.epsilons) or sorted(set(self.epsilons)) != list(self.epsilons)):
            raise DataError(f"epsilons {list(self.epsilons)} given; expected one or more, rising")

    def epsilons_or(self, own: float) -> tuple[float, ...]:
        """Return the epsilons, or the method's own where none are given."""
        return (own,) if self.epsilons is None else tuple(map(float, self.epsilons))
