"""InvarianceOptions: which transforms are applied to the images, and how their pictures are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deconvviz.choices import INTERPOLATIONS, PADDINGS, TRANSFORMS
from deconvviz.errors import require_choice
from deconvviz.run.options import RunKeywords, RunOptions


class InvarianceKeywords(RunKeywords, total=False):
    """The fields of `InvarianceOptions`, as the keyword arguments of `invariance`."""

    kinds: Sequence[str]
    steps: Mapping[str, Sequence[float]] | None
    padding: str
    interpolation: str


@dataclass(frozen=True, kw_only=True)
class InvarianceOptions(RunOptions):
    """What `invariance` does, and how it runs: the attributes of `RunOptions` are options too.

    Attributes:
        kinds: of transforms: "translate-y", "translate-x", "scale" and "rotation".
        steps: kind -> its steps in pixels (down, right), as factors, or in degrees counter-clockwise; a kind without
            steps here takes the paper's range, see `default_steps`.
        padding: what comes into view: "reflect" mirrors the picture, "mean" shows the mean colour, "border" the image
            beyond the crop.
        interpolation: how pixels are made: "bilinear" or "bicubic".

    Raises:
        DataError: a value out of its range.
    """

    kinds: Sequence[str] = TRANSFORMS
    steps: Mapping[str, Sequence[float]] | None = None
    padding: str = "reflect"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("padding", self.padding, PADDINGS)
        require_choice("interpolation", self.interpolation, INTERPOLATIONS)
