"""The colour scale of the maps: viridis, which also colour-blind readers and grey printers see in order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Viridis at 0, 1/16 ... 1; between them straight lines, at most 6 of 255 from it.
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


def coloured(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return values in 0..1, of any shape, as colours uint8 [..., 3]."""
    place = np.clip(values, 0, 1) * (len(ANCHORS) - 1)
    shown = [np.interp(place, np.arange(len(ANCHORS)), ANCHORS[:, channel]) for channel in range(3)]
    return np.asarray(np.stack(shown, -1).round(), np.uint8)
