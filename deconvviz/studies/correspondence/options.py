"""CorrespondenceOptions: which images are compared, what is masked in them, and how distances are counted."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.choices import MASK_FILLS, NORMALISATIONS, RANDOM_PLACES, SIGN_ZERO
from deconvviz.errors import DataError, require, require_choice
from deconvviz.run.options import RunKeywords, RunOptions


class CorrespondenceKeywords(RunKeywords, total=False):
    """The fields of `CorrespondenceOptions`, as the keyword arguments of `correspondence`."""

    per_class: bool
    count: int
    repeats: int
    random: int
    random_on: str
    fill: str
    sign_zero: str
    normalisation: str
    permutations: int


@dataclass(frozen=True, kw_only=True)
class CorrespondenceOptions(RunOptions):
    """What `correspondence` does, and how it runs: the attributes of `RunOptions` are options too.

    Attributes:
        per_class: whether a set consists of images of one class (images of unknown class count as one class); else of
            images of any classes.
        count: images in a set.
        repeats: the most sets of a part (and class); sets share no image.
        random: masks to compare with, for each image: they have the part's own shape, and so its area, at other places
            that are drawn uniformly.
        random_on: where these may be: anywhere within the "picture", or so that the middle of the shape is on the
            "object".
        fill: what masked pixels become, the "mean" colour of the preprocessing or "black".
        sign_zero: the sign of an unchanged feature (up to rounding): 0 ("three-valued"), or +1 ("positive"); "drop"
            leaves out features that are unchanged in either image (the distance is 1/2 where no feature is left).
        normalisation: "mean" over dimensions and pairs; "sum" adds up dimensions and ordered pairs, as the paper's
            formula is printed.
        permutations: of the test.

    Raises:
        DataError: a value out of its range, or a precision other than "fp32".
    """

    per_class: bool = True
    count: int = 5
    repeats: int = 10
    random: int = 10
    random_on: str = "picture"
    fill: str = "mean"
    sign_zero: str = "three-valued"
    normalisation: str = "mean"
    permutations: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("random_on", self.random_on, RANDOM_PLACES)
        require_choice("fill", self.fill, MASK_FILLS)
        require_choice("sign_zero", self.sign_zero, SIGN_ZERO)
        require_choice("normalisation", self.normalisation, NORMALISATIONS)
        require(
            self,
            DataError,
            count=(self.count >= 2, "2 or more"),
            repeats=(self.repeats >= 1, "1 or more"),
            random=(self.random >= 1, "1 or more"),
            permutations=(self.permutations >= 1, "1 or more"),
            precision=(self.precision == "fp32", "fp32: the rounding of bf16 would hide small changes"),
        )
