"""The strongest patches of some filters as small square pictures, for figures that show many."""

from __future__ import annotations

import numpy as np

from deconvviz.data.feed import Feed
from deconvviz.data.pictures import resized, tile
from deconvviz.studies.mining.panels import square_around
from deconvviz.studies.mining.result import Mined
from deconvviz.types import Box, Ints, Mask, Pixels

SIDE = 64  # pixels of a patch as it is shown
EMPTY = 225  # level of grey of a patch that there is none of
LARGEST = 0.5  # of the image's shorter side: the largest patch that is shown


def strongest_patches(feed: Feed, mined: Mined, name: str, channels: Ints, alive: Mask) -> Pixels:
    """Return the strongest patches of some filters, uint8 [n, k, SIDE, SIDE, 3]; grey where there are fewer.

    A dead filter has none: it responds to no image more than to any other.
    """
    layer, room = mined[name], feed.preprocess.shape[1:]
    tiles = np.full((len(channels), layer.top.k, SIDE, SIDE, 3), EMPTY, np.uint8)
    for row, channel in enumerate(channels.tolist()):
        for winner in layer.winners([channel]) if alive[channel] else ():
            box = mined.box(name, layer.positions[winner].tolist()) or Box(0, 0, *room)
            side = min(max(box.height, box.width), max(int(LARGEST * min(room)), 1))
            patch = square_around(box, side, (room[0], room[1])).of(feed.display(int(layer.images[winner])))
            tiles[row, winner.rank] = _square(patch)
    return tiles


def _square(patch: Pixels) -> Pixels:
    """Return a patch with SIDE x SIDE pixels: a small one is shown as its pixels, a large one is smoothed."""
    return tile(patch, SIDE) if min(patch.shape[:2]) < SIDE else resized(np.ascontiguousarray(patch), (SIDE, SIDE))
