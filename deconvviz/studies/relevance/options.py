"""What `relevance` explains of each image, in words that are checked once."""

from __future__ import annotations

from typing import Literal

from deconvviz.errors import DataError, require_choice

TARGETS = ("predicted", "label")  # beside the number of a class
Target = int | Literal["predicted", "label"]


def checked_target(target: Target, outputs: int) -> Target:
    """Return what is explained; raises DataError where there is no such class.

    Args:
        target: "predicted", "label", or the number of a class.
        outputs: number of classes of the network.

    >>> checked_target("label", 10), checked_target(3, 10)
    ('label', 3)
    """
    if isinstance(target, str):
        require_choice("target", target, TARGETS, DataError)
    elif not 0 <= target < outputs:
        raise DataError(f"class {target} given; the network has classes 0 to {outputs - 1}")
    return target
