"""What the figure of a relevance file shows: the channels that decide for a class or an image, and their patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deconvviz.data.datasets import Images
from deconvviz.data.feed import Feed
from deconvviz.data.pictures import resized
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError
from deconvviz.notebook import Shown
from deconvviz.studies.mining.panels import square_around
from deconvviz.studies.mining.result import Origin
from deconvviz.studies.relevance.result import ImageRelevance, Relevance
from deconvviz.types import Box, Floats, Pixels

PATCH = 0.5  # of the image's shorter side: the largest patch; the field of a deep unit is larger than what drives it
TILE = 72  # pixels of a patch's side in the figure


@dataclass(frozen=True, kw_only=True)
class DecidingChannel:
    """One channel as the figure shows it.

    Attributes:
        channel: its number.
        name: what it detects; "" where that is unknown.
        share: of the channel in the relevance of its layer, -1..1; below zero it speaks against the class.
        half: half the width of the 95 % interval of a mean share; NaN of one image.
        patches: uint8 [k, h, w, 3], of the images in whose decisions it had the largest shares, the largest first.
    """

    channel: int
    name: str
    share: float
    half: float
    patches: Pixels


@dataclass(frozen=True, kw_only=True)
class DecidingChannels(Shown, drawn_by="draw_relevance"):
    """The channels of a layer that decide for a class, or about an image.

    Attributes:
        layer: name of the layer.
        sentence: what they say in words.
        channels: those with the largest shares, then those that speak against the class.
        target: the class that is decided for.
        picture: uint8 [h, w, 3], the image, where one was explained; None for a class.
        images: decisions that the shares are means over.
        side: of a patch in pixels of the network's input.
    """

    layer: str
    sentence: str
    channels: tuple[DecidingChannel, ...]
    target: int
    picture: Pixels | None
    images: int
    side: int

    def __repr__(self) -> str:
        return f"DecidingChannels({self.layer}: {self.sentence})"


def deciding_channels(
    relevance: Relevance,
    images: Images | None = None,
    layer: str | None = None,
    target: int | None = None,
    *,
    decision: ImageRelevance | None = None,
    picture: Pixels | None = None,
    names: Mapping[int, str] | None = None,
    count: int = 6,
    against: int = 2,
) -> DecidingChannels:
    """Return what the figure shows of a layer: the channels that decide, with patches by relevance.

    A patch is centred on the unit with the largest relevance. Its side is that of the unit's receptive field, at most
    half of the image's shorter side (our choice).

    Args:
        relevance: from `relevance` or `load_relevance`.
        images: those that were explained; by default they are opened where the file says.
        layer: of the result; by default the last one.
        target: the class; None takes the one that most decisions were for.
        decision: of one image at this layer, from `image_relevance`; its shares take the place of a class's.
        picture: uint8 [h, w, 3], that image as figures show it.
        names: channel -> what it detects.
        count: channels that speak for the class, at most.
        against: channels that speak against it, at most.

    Raises:
        DataError: no such layer or class, or the decision is of another layer.
        MismatchError: the images are not those that were explained.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 5)).eval()
    >>> network, preprocess = dv.capture(model, (3, 32, 32)), dv.Preprocess(resize=32, crop=32)
    >>> found = dv.relevance(network, dv.Scenes(20), ["1"], k=3, preprocess=preprocess, progress=False)
    >>> deciding = dv.deciding_channels(found, dv.Scenes(20))
    >>> deciding.layer, deciding.channels[0].patches.shape[1:]
    ('1', (72, 72, 3))
    """
    layer = layer or list(relevance)[-1]
    images = Origin(relevance.config["store_fingerprint"], relevance.sources.get("images")).open(images)
    if decision is None:
        target = relevance.most_decided(layer) if target is None else target
        shares, halves, decided = relevance.shares_of(layer, target)
        sentence = relevance.sentence(layer, target, names)
    else:
        if decision.layer != layer:
            raise DataError(f"the decision is of layer {decision.layer!r}; expected {layer!r}")
        target = decision.target
        shares, halves, decided = decision.shares, np.full(len(decision.shares), np.nan), 1
        sentence = decision.sentence(relevance.outputs, names)
    feed = Feed(images, Preprocess.from_dict(relevance.config["preprocess"]))
    channels = tuple(
        DecidingChannel(
            channel=channel,
            name=(names or {}).get(channel, ""),
            share=float(shares[channel]),
            half=float(halves[channel]),
            patches=relevant_patches(relevance, feed, layer, channel),
        )
        for channel in _chosen(shares, count, against)
    )
    return DecidingChannels(
        layer=layer,
        sentence=sentence,
        channels=channels,
        target=target,
        picture=picture,
        images=decided,
        side=patch_side(relevance, layer),
    )


def _chosen(shares: Floats, count: int, against: int) -> list[int]:
    """Return the channels with the largest shares above zero, then those with the smallest below, smallest last."""
    order = np.argsort(-shares, kind="stable")
    best = [int(channel) for channel in order[:count] if shares[channel] > 0]
    worst = [int(channel) for channel in order[::-1][:against] if shares[channel] < 0]
    return best + worst[::-1]


def patch_side(relevance: Relevance, layer: str) -> int:
    """Return the side of a layer's patches in pixels: its receptive field, at most PATCH of the image."""
    size, stride, _ = relevance.sources["receptive_fields"][layer]
    shorter: int = min(relevance.sources["image_size"])
    return shorter if 0 in stride else max(1, min(int(max(size)), round(PATCH * shorter)))


def relevant_patches(relevance: Relevance, feed: Feed, layer: str, channel: int) -> NDArray[np.uint8]:
    """Return patches of the images in whose decisions a channel had the largest shares, uint8 [k, TILE, TILE, 3]."""
    table = relevance[layer].by_relevance
    places: dict[int, int] = {int(image): place for place, image in enumerate(feed.indices)}
    tiles = [
        relevant_patch(relevance, layer, position, feed.display(places[int(image)]))
        for image, position in zip(table.images[channel], table.positions[channel].tolist(), strict=True)
        if image >= 0
    ]
    return np.stack(tiles) if tiles else np.zeros((0, TILE, TILE, 3), np.uint8)


def relevant_patch(
    relevance: Relevance, layer: str, position: Sequence[int], picture: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the patch around the unit with the largest relevance, uint8 [TILE, TILE, 3].

    Args:
        relevance: the result that the unit is from.
        layer: its layer.
        position: (y, x) of the unit on the layer's map.
        picture: uint8 [H, W, 3], the image as figures show it.
    """
    field = relevance.sources["receptive_fields"][layer]
    box = patch_around(position, field, patch_side(relevance, layer), relevance.sources["image_size"])
    return resized(box.of(picture), (TILE, TILE))


def patch_around(position: Sequence[int], field: Sequence[Sequence[int]], side: int, image: Sequence[int]) -> Box:
    """Return the square patch around the centre of a unit's receptive field, moved into the image.

    Args:
        position: (y, x) of the unit on its map.
        field: (size, stride, offset) of the layer's receptive fields, (rows, columns) each.
        side: of the patch in pixels.
        image: height and width of the image in pixels.

    >>> patch_around((1, 9), ((5, 5), (4, 4), (0, 0)), 8, (32, 32))
    Box(top=2, left=24, bottom=10, right=32)
    """
    edges = [
        (offset + at * stride, offset + at * stride + size) if stride else (0, length)  # a unit that sees everything
        for at, size, stride, offset, length in zip(position, *field, image, strict=True)
    ]
    (top, bottom), (left, right) = edges
    height, width = image
    return square_around(Box(top, left, bottom, right), side, (height, width))
