"""OcclusionOptions: the square that is moved over an image, and the map that is watched meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.choices import BORDERS, OCCLUDER_FILLS, RULE_CHOICES, STRONGEST
from deconvviz.errors import DataError, require, require_choice
from deconvviz.lengths import SQUARE, STRIDE
from deconvviz.run.options import RunKeywords, RunOptions

Lengths = int | tuple[int, int]


class OcclusionKeywords(RunKeywords, total=False):
    """The fields of `OcclusionOptions`, as the keyword arguments of `occlude`."""

    square: Lengths | None
    stride: Lengths | None
    fill: str
    border: str
    channel: int | None
    strongest: str
    rule: str


@dataclass(frozen=True, kw_only=True)
class OcclusionOptions(RunOptions):
    """What `occlude` does, and how it runs: the attributes of `RunOptions` are options too.

    Attributes:
        square: side of the square in pixels, or (height, width); None takes 1/7 of the image's shorter side (32 px of
            224).
        stride: pixels between two places of the square, or (rows, columns); None takes 1/14 of the image's shorter side
            (16 px of 224).
        fill: what stands in the square: "grey", the "mean" colour of the preprocessing, "black", the image's own
            "blur", or "noise".
        border: "flush", windows end with the image; "beyond", they reach over its edge.
        channel: the map that is watched; None takes the strongest one in the unoccluded image.
        strongest: which map that is: the one with the largest maximum ("max") or with the largest sum ("sum").
        rule: of the map's projection, one of `choices.RULES`; "auto" measures which rule shows the layer best on the
            image.

    Raises:
        DataError: a value out of its range.

    >>> OcclusionOptions(square=8).pair("square", (64, 64)), OcclusionOptions(stride=(4, 6)).pair("stride", (64, 64))
    ((8, 8), (4, 6))
    >>> OcclusionOptions().pair("square", (64, 96)), OcclusionOptions().pair("stride", (64, 96))
    ((9, 9), (5, 5))
    """

    square: Lengths | None = None
    stride: Lengths | None = None
    fill: str = "grey"
    border: str = "flush"
    channel: int | None = None
    strongest: str = "max"
    rule: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("fill", self.fill, OCCLUDER_FILLS)
        require_choice("border", self.border, BORDERS)
        require_choice("strongest", self.strongest, STRONGEST)
        require_choice("rule", self.rule, RULE_CHOICES)
        require(self, DataError, channel=(self.channel is None or self.channel >= 0, "0 or more"))

    def pair(self, name: str, size: tuple[int, int]) -> tuple[int, int]:
        """Return `square` or `stride` as (height, width) in pixels, for images of a (height, width)."""
        lengths: Lengths | None = getattr(self, name)
        if lengths is None:
            lengths = {"square": SQUARE, "stride": STRIDE}[name].of(*size)
        return (lengths, lengths) if isinstance(lengths, int) else lengths
