"""What a projection is, for the pages that show some: the numbers of a small example of switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.types import Ints

MAP = ((1, 3, 0, 2), (0, 2, 6, 1), (4, 1, 2, 0), (2, 0, 1, 5))  # values of a small feature map after the rectifier
SIGNAL = ((2, 3), (-1, 4))  # what comes back from the layer above, one number for each pooled value
SIDE = 2  # rows and columns of a pooling window, which do not overlap


@dataclass(frozen=True)
class SwitchesExample:
    """A feature map on its way through max pooling, and a signal on its way back.

    Attributes:
        values: int64 [4, 4], the map.
        pooled: int64 [2, 2], the largest value of each window of SIDE x SIDE.
        switches: bool [4, 4], true where these largest values were.
        signal: int64 [2, 2], what comes back.
        unpooled: int64 [4, 4], the signal at the switches, 0 elsewhere.
        rectified: int64 [4, 4], of that, what is positive.

    >>> example = switches_example()
    >>> example.pooled.tolist()
    [[3, 6], [4, 5]]
    >>> example.rectified.tolist()
    [[0, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 4]]
    """

    values: Ints
    pooled: Ints
    switches: NDArray[np.bool_]
    signal: Ints
    unpooled: Ints
    rectified: Ints


def switches_example() -> SwitchesExample:
    """Pool MAP, and carry SIGNAL back to its switches."""
    values, signal = np.array(MAP), np.array(SIGNAL)
    rows, columns = signal.shape
    windows = values.reshape(rows, SIDE, columns, SIDE)
    pooled = windows.max((1, 3))
    switches = (windows == pooled[:, None, :, None]).reshape(values.shape)  # no window of MAP has its maximum twice
    unpooled = np.where(switches, signal.repeat(SIDE, 0).repeat(SIDE, 1), 0)
    return SwitchesExample(values, pooled, switches, signal, unpooled, np.maximum(unpooled, 0))


def lesson_values(pooled: bool = True) -> dict[str, Any]:
    """Return what the template `lesson.html` asks for.

    Args:
        pooled: whether the network has max pooling; without it, the lesson has no switches and no drawing of them.
    """
    example = switches_example()
    return {
        "pooled": pooled,
        "example": {name: getattr(example, name).tolist() for name in SwitchesExample.__dataclass_fields__},
    }
