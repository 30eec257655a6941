"""LatentOptions: what is measured of a generator, and how the job runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deconvviz.errors import DataError, require
from deconvviz.run.options import RunKeywords, RunOptions


class LatentKeywords(RunKeywords, total=False):
    """The fields of `LatentOptions`, as the keyword arguments of `latent`."""

    samples: int
    share: float
    attributes: Sequence[str]
    layer: str | None
    axes_layer: str | None
    axes: int
    units: int
    masked: int
    reach: float
    steps: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class LatentOptions(RunOptions):
    """What is measured of a generator.

    Attributes:
        samples: of z that are drawn, generated and scored.
        share: of the samples with the highest and with the lowest score, between which a direction is found.
        attributes: names or numbers of the scorer's outputs; none for the four that vary most.
        layer: whose units are looked at; None for a layer in the middle.
        axes_layer: whose principal axes are found; None for the first layer.
        axes: how many axes at most.
        units: how many units are switched off and on.
        masked: samples on which units are compared with masks and switched; half of them choose thresholds.
        reach: how far directions and codes are followed, from -reach to reach.
        steps: images of each walk.
        rows: samples that each direction is followed from.

    Raises:
        DataError: a value out of its range.
    """

    samples: int = 2000
    share: float = 0.1
    attributes: Sequence[str] = ()
    layer: str | None = None
    axes_layer: str | None = None
    axes: int = 6
    units: int = 6
    masked: int = 100
    reach: float = 3.0
    steps: int = 9
    rows: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self,
            DataError,
            samples=(self.samples >= 20, "at least 20"),
            share=(0 < self.share <= 0.5, "more than 0, 0.5 at most"),
            axes=(self.axes >= 1, "at least 1"),
            units=(self.units >= 1, "at least 1"),
            masked=(4 <= self.masked <= self.samples, "at least 4, and no more than the samples"),
            reach=(self.reach > 0, "more than 0"),
            steps=(self.steps >= 2, "at least 2"),
            rows=(self.rows >= 1, "at least 1"),
        )
