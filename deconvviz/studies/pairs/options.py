"""What of pairs is measured, beside their maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deconvviz.choices import MASK_FILLS
from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack  # noqa: F401


class PairKeywords(RunKeywords, total=False):
    """The fields of `PairOptions`, as keyword arguments."""

    metrics: bool
    steps: int | None
    fill: str
    sensitivity: int


@dataclass(frozen=True, kw_only=True)
class PairOptions(RunOptions):
    """How pairs are measured.

    Attributes:
        metrics: whether insertion, deletion, drop and increase are measured.
        steps: of insertion and deletion; None for as many as the images' shorter side has pixels.
        fill: what stands in the place of deleted and masked pixels, one of `choices.MASK_FILLS`.
        sensitivity: draws of max-sensitivity; 0 does not measure it. Each draw explains the pair once more.

    Raises:
        DataError: a value out of its range.
    """

    metrics: bool = False
    steps: int | None = None
    fill: str = "mean"
    sensitivity: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            steps=(self.steps is None or self.steps >= 1, "at least 1"),
            fill=(self.fill in MASK_FILLS, " or ".join(MASK_FILLS)),
            sensitivity=(self.sensitivity >= 0, "0 or more"),
        )
