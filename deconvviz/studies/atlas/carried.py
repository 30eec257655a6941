"""The decisions that a filter carries most: the images in whose decisions it had the largest shares, as patches."""

from __future__ import annotations

import numpy as np

from deconvviz.data.feed import Feed
from deconvviz.results.tiles import GREY, TileWriter
from deconvviz.studies.relevance.deciding import TILE, relevant_patch
from deconvviz.studies.relevance.result import Relevance
from deconvviz.types import Array, Ints


def carried_decisions(relevance: Relevance, feed: Feed, layer: str, channels: Ints, k: int) -> dict[str, Array]:
    """Return the decisions that each of some filters carries most.

    Args:
        relevance: from `load_relevance`, with k images or more of each channel.
        feed: all images of the store.
        layer: of the relevance file.
        channels: int64 [F], the filters.
        k: images of each.

    Returns:
        "relevance/images" int64 [F, k], -1 where there are fewer; "relevance/shares" float32 [F, k], the filter's
        shares in these decisions, in 0..1, the largest first, 0 there; and the arrays of "relevance/patches" uint8
        [F, k, TILE, TILE, 3], see `relevant_patch`, grey there.
    """
    table = relevance[layer].by_relevance
    images, positions = table.images[channels, :k], table.positions[channels, :k]
    writer = TileWriter((k, TILE, TILE))
    for of_filter, places in zip(images.tolist(), positions.tolist(), strict=True):
        tiles = np.full((k, TILE, TILE, 3), GREY, np.uint8)
        for rank, (image, position) in enumerate(zip(of_filter, places, strict=True)):
            if image >= 0:
                tiles[rank] = relevant_patch(relevance, layer, position, feed.display(image))
        writer.add(tiles)
    shares = np.where(images >= 0, table.values[channels, :k], 0.0).astype(np.float32)
    return {"relevance/images": images, "relevance/shares": shares, **writer.arrays("relevance/patches")}
