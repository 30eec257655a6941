"""The colour scale of the maps: viridis, which also colour-blind readers and grey printers see in order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Pixels

# The colours of viridis at 0, 1/16 ... 1. Straight lines between them differ from viridis by at most 6 of 255.
ANCHORS = np.array(
    [
        (68, 1, 84),
        (72, 24, 106),
        (71, 45, 123),
        (66, 64, 134),
        (59, 82, 139),
        (51, 99, 141),
        (44, 114, 142),
        (38, 130, 142),
        (33, 145, 140),
        (31, 160, 136),
        (40, 174, 128),
        (63, 188, 115),
        (94, 201, 98),
        (132, 212, 75),
        (173, 220, 48),
        (216, 226, 25),
        (253, 231, 37),
    ],
    np.float64,
)


def coloured(values: NDArray[np.floating[Any]]) -> Pixels:
    """Return values as colours: 0 is dark violet, 1 is yellow.

    Args:
        values: of any shape [...], in 0..1; values beyond are clipped.

    Returns:
        uint8 [..., 3], red, green and blue.

    >>> coloured(np.array([0.0, 0.5, 1.0])).tolist()
    [[68, 1, 84], [33, 145, 140], [253, 231, 37]]
    """
    places = np.clip(values, 0, 1) * (len(ANCHORS) - 1)
    channels = [np.interp(places, np.arange(len(ANCHORS)), ANCHORS[:, channel]) for channel in range(3)]
    return np.asarray(np.stack(channels, -1).round(), np.uint8)
