"""From counts to names: which concept each channel detects best, how well, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom  # type: ignore[import-untyped]

from deconvviz.errors import DataError, require
from deconvviz.types import Floats, Ints

if TYPE_CHECKING:
    from deconvviz.studies.dissection.result import DissectedLayer, Dissection

Counts = NDArray[np.integer[Any]]
PART, OBJECT, CLASS = "part", "object", "class"
KINDS = (PART, OBJECT, "colour", "texture", CLASS)  # of concepts, in the order in which they name a channel
CHANNELS, PICTURES = 9, 4  # named channels of a layer that have examples, and pictures of each


class Concept(NamedTuple):
    """What a filter may detect.

    Attributes:
        kind: "part", "object", "colour" or "texture".
        name: such as "wheel".
    """

    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class NamingRule:
    """When a channel is named after a concept.

    Attributes:
        iou: a part names a channel from this intersection over union on.
        share: a concept of any kind but a class names a channel from this share of the channel's pixels on. A concept
            that fills much of the pictures, such as a colour, the whole object or all windows of a bus, has a small
            intersection over union with a channel that fires at half a per cent of the pixels, however well the channel
            detects it. Of parts with such a share the one with the largest is the name.
        times: iou or share must be so many times what chance gives.
        alpha: a class names a channel below this p value, after the correction.

    Raises:
        DataError: a value out of its range.

    Source: 0.04 of Bau et al. 2017, section 2.3; the other values are our choice.
    """

    iou: float = 0.04
    share: float = 0.5
    times: float = 2.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        require(
            self,
            DataError,
            iou=(0 < self.iou <= 1, "above 0 and at most 1"),
            share=(0 < self.share <= 1, "above 0 and at most 1"),
            times=(self.times >= 1, "at least 1"),
            alpha=(0 < self.alpha < 1, "between 0 and 1"),
        )


class Detection(NamedTuple):
    """The best concept of one kind for one channel.

    Attributes:
        channel: its number.
        kind: "part", "object", "colour", "texture" or "class".
        name: of the concept.
        named: whether the rule names the channel after it.
        iou: intersection over union with the concept's pixels; NaN for a class.
        iou_chance: the same with the masks of other pictures.
        share: of the pixels at which the channel is above its threshold, those in the concept; for a class, the share
            of the channel's strongest images that are of the class.
        share_chance: the same with the masks of other pictures; for a class, its share of all images.
        p: of the class among the strongest images, corrected; NaN for the other kinds.
    """

    channel: int
    kind: str
    name: str
    named: bool
    iou: float
    iou_chance: float
    share: float
    share_chance: float
    p: float


class Overlaps(NamedTuple):
    """How channels and concepts overlap; float64 [C, K], NaN where neither has a pixel.

    Attributes:
        iou: intersection over union.
        iou_chance: the intersection that is expected, over its union.
        share: of the channel's pixels that are in the concept.
        share_chance: the one that is expected.
    """

    iou: Floats
    iou_chance: Floats
    share: Floats
    share_chance: Floats


def overlaps(fires: Counts, shown: Counts, both: Ints, images: int) -> Overlaps:
    """Return how channels and concepts overlap, and how they would if each map met the masks of any picture.

    What is expected by chance is exact, and drawn from no random numbers: over all pairs of a map and the masks of a
    picture, the mean number of common pixels is the sum over the places of (pictures in which the channel is above its
    threshold there) times (pictures that have the concept there), divided by the number of pictures. It knows that
    skies are above and objects in the middle.

    Args:
        fires: int [C, P], pictures in which a channel is above its threshold at each of P places.
        shown: int [K, P], pictures that have a concept there.
        both: int64 [C, K], common pixels of all pictures.
        images: number of pictures.

    >>> fires, shown = np.array([[1, 0]]), np.array([[1, 0]])  # two pictures, in one of them the left pixel
    >>> found = overlaps(fires, shown, np.array([[1]]), 2)
    >>> found.iou.tolist(), found.iou_chance.tolist()
    ([[1.0]], [[0.3333333333333333]])
    """
    area, extent = fires.sum(1, dtype=np.int64)[:, None], shown.sum(1, dtype=np.int64)[None]
    expected = fires.astype(np.float64) @ shown.astype(np.float64).T / max(images, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Overlaps(
            both / (area + extent - both), expected / (area + extent - expected), both / area, expected / area
        )


def enrichment(labels: Ints, class_counts: Ints) -> tuple[Ints, Floats, Floats]:
    """Return the class that is over-represented most among each channel's strongest images.

    Args:
        labels: int64 [C, k], classes of the strongest images; -1 where it is unknown, or the channel does not fire.
        class_counts: int64 [classes], images of each class in all that were looked at.

    Returns:
        int64 [C], the class, -1 where no image is of a known one; float64 [C], its share of the strongest images;
        float64 [C], the p value, Fisher's exact test to one side (hypergeometric: at least so many of the class among
        as many images drawn without their order), times channels times classes (Bonferroni), at most 1.

    >>> labels = np.array([[0, 0, 0, 0, 0], [0, 1, 2, 3, 4]])
    >>> classes, share, p = enrichment(labels, np.full(5, 20))
    >>> classes[:1].tolist(), share[:1].tolist(), bool(p[0] < 0.01), float(p[1])
    ([0], [1.0], True, 1.0)
    """
    channels, known = len(labels), int(class_counts.sum())
    best, share, p = np.full(channels, -1), np.zeros(channels), np.ones(channels)
    tests = channels * max(int(np.count_nonzero(class_counts)), 1)
    for channel, of_channel in enumerate(labels):
        classes, counts = np.unique(of_channel[of_channel >= 0], return_counts=True)
        if not len(classes):
            continue
        drawn = counts.sum()
        tails = hypergeom.sf(counts - 1, known, class_counts[classes], drawn)
        first = np.lexsort((classes, -counts, tails))[0]
        best[channel], share[channel] = classes[first], counts[first] / drawn
        p[channel] = min(tails[first] * tests, 1)
    return best, share, p


def detections(dissection: Dissection, layer: DissectedLayer, rule: NamingRule) -> Iterator[Detection]:
    """Yield the best concept of each kind for each channel of a layer that is ever above its threshold.

    The whole object names no channel that a part names.
    """
    measured = overlaps(layer.fires, dissection.shown, layer.both, dissection.images)
    kinds = np.array([concept.kind for concept in dissection.concepts])
    names = [concept.name for concept in dissection.concepts]
    # Images of equal value, such as 0, stand in the order of the store: where a channel does not fire, none is strong.
    labels = np.where(layer.top.values > 0, layer.labels, -1)
    classes, class_shares, p = enrichment(labels, dissection.class_counts)
    for channel in np.flatnonzero(layer.fires.any(1)).tolist():
        has_part = False
        for kind in KINDS:
            numbers = np.flatnonzero(kinds == kind)
            if len(numbers):
                best = _of_pixels(channel, kind, numbers, names, measured, rule)
                has_part |= best.named and kind == PART
                yield best._replace(named=best.named and not (kind == OBJECT and has_part))
        label = int(classes[channel])
        if label >= 0 and dissection.classes:
            share = dissection.class_counts[label] / dissection.class_counts.sum()
            yield Detection(
                channel=channel,
                kind=CLASS,
                name=dissection.classes[label],
                named=bool(p[channel] < rule.alpha),
                iou=np.nan,
                iou_chance=np.nan,
                share=float(class_shares[channel]),
                share_chance=float(share),
                p=float(p[channel]),
            )


def _of_pixels(
    channel: int, kind: str, numbers: Ints, names: Sequence[str], measured: Overlaps, rule: NamingRule
) -> Detection:
    """Return the best of the concepts with these numbers, which are of one kind."""
    iou, iou_chance, share, share_chance = (values[channel, numbers] for values in measured)
    by_share = (share >= rule.share) & (share >= rule.times * share_chance)
    if by_share.any() or kind != PART:
        best = int(np.where(by_share, share + 1, share - share_chance).argmax())
        named = by_share[best]
    else:
        best = int(np.nan_to_num(iou).argmax())
        named = iou[best] >= rule.iou and iou[best] >= rule.times * iou_chance[best]
    return Detection(
        channel=channel,
        kind=kind,
        name=names[numbers[best]],
        named=bool(named),
        iou=float(iou[best]),
        iou_chance=float(iou_chance[best]),
        share=float(share[best]),
        share_chance=float(share_chance[best]),
        p=np.nan,
    )


def strongest(found: Sequence[Detection]) -> list[Detection]:
    """Return for each concept that names a channel the channel that it names best, the best concepts first.

    Parts come first, then the other concepts of pixels, both by their share, then classes by their p value. A channel
    is taken once, with the first of its concepts.
    """
    order = {PART: 0, CLASS: 2}

    def rank(detection: Detection) -> tuple[int, float, int]:
        score = detection.p if detection.kind == CLASS else -detection.share
        return order.get(detection.kind, 1), score, detection.channel

    best: dict[Concept, Detection] = {}
    channels: set[int] = set()
    for detection in sorted((each for each in found if each.named), key=rank):
        concept = Concept(detection.kind, detection.name)
        if concept not in best and detection.channel not in channels:
            best[concept] = detection
            channels.add(detection.channel)
    return list(best.values())
