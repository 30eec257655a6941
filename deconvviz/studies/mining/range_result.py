"""The whole range of a layer's filters: images from the weakest to the strongest, and whether the strongest mislead."""

from __future__ import annotations

from dataclasses import dataclass

from deconvviz.notebook import Shown
from deconvviz.types import Floats, Ints, Pixels
from deconvviz.words import counted

MISLEADING = 0.5  # of the likeness among the strongest images: below it, the images of the upper range are unlike them
UPPER = (0.6, 0.95)  # quantiles between which an image is of the upper range, and none of the strongest
STRONG = 0.5  # of the largest maximum: an image with a smaller one does not tell what the filter responds to strongly


def misleads(likeness_of_upper: float, likeness_of_top: float) -> bool:
    """Return whether a filter's strongest images mislead; see `FilterRange.misleading`.

    >>> misleads(0.1, 0.6), misleads(0.5, 0.6), misleads(float("nan"), 0.6)
    (True, False, False)
    """
    return likeness_of_upper < MISLEADING * likeness_of_top


@dataclass(frozen=True, kw_only=True)
class FilterRange:
    """The range of one filter.

    Attributes:
        channel: number of the filter's channel.
        quantiles: float64 [n], in 0..1, ascending: where the images stand among the sampled ones.
        values: float64 [n], the filter's maximum on each image.
        patches: uint8 [n, h, w, 3], what is shown of each image: the surroundings of the filter's strongest unit.
        images: names of the images.
        classes: names of their classes, "" where one is unknown.
        counts: int64 [BINS], the histogram of the filter's maxima over all images; see `spread.edges`.
        likeness_of_top: mean likeness of each of the strongest images to the others of them; NaN for a filter with
            fewer than two.
        likeness_of_upper: mean likeness of the images of the upper range to the strongest ones; NaN where there are
            none on which the filter's maximum is at least half of its largest.
    """

    channel: int
    quantiles: Floats
    values: Floats
    patches: Pixels
    images: tuple[str, ...]
    classes: tuple[str, ...]
    counts: Ints
    likeness_of_top: float
    likeness_of_upper: float

    @property
    def misleading(self) -> bool:
        """Whether the strongest images mislead: those of the upper range are less than half as like them as they are.

        False where it is not known, as for a selective filter, whose upper range has weak responses only.
        """
        return misleads(self.likeness_of_upper, self.likeness_of_top)


@dataclass(frozen=True, kw_only=True)
class LayerRange(Shown, drawn_by="draw_range"):
    """The range of some filters of a layer.

    Attributes:
        layer: name of the layer.
        filters: the filters.
        sampled: number of images from which those that are shown were taken, evenly by the filter's maximum.
        images: number of images in the histograms.
    """

    layer: str
    filters: tuple[FilterRange, ...]
    sampled: int
    images: int

    def __repr__(self) -> str:
        misleading = [each.channel for each in self.filters if each.misleading]
        told = f", strongest images mislead: {', '.join(map(str, misleading))}" if misleading else ""
        return f"LayerRange({self.layer}: {counted(len(self.filters), 'filter')}{told})"


def range_caption(layer: LayerRange, noun: str = "filter") -> str:
    """Return what the figure of a range shows; `noun` is what has a row, such as "filter" or "direction"."""
    others = "channels" if noun == "filter" else f"{noun}s"
    every = "all" if layer.sampled == layer.images else f"{layer.sampled} randomly sampled"
    shown = max((len(each.images) for each in layer.filters), default=0)
    which = f"all {shown} images" if shown == layer.images else f"{'nine' if shown == 9 else shown} of {every} images"
    low, high = (f"{100 * share:g}" for share in UPPER)
    return (
        f"For each {noun}: {which}, evenly from the one with its smallest maximum to the one with its largest, cut "
        "around its strongest unit, with that value and the class. To the right: on how many of all "
        f"{layer.images} images the maximum lies in each quarter of an octave; a grey bar beside them is of those "
        "where it is zero, or nearer to it than 0.00025.\n"
        "Below the number: how like the images of the upper range are to the strongest ones, of how like these are "
        f"among each other. Of the upper range are those between {low} and {high} % of the images whose maximum is at "
        f"least {STRONG:g} of the largest (our choice); where there are none, nothing stands there. Likeness is the "
        f"cosine between the values of all other {others} at the unit, less their means. Where it is less than "
        f"{MISLEADING:g} of the latter, the strongest images mislead: the {noun} responds strongly to other things as "
        "well."
    )
