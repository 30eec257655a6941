"""What is known of the maps of attacked images, and of countermeasures: arrays, and the statistics of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata  # type: ignore[import-untyped]

from deconvviz.results.results import of_group
from deconvviz.types import Array, Floats, Ints

MEASURES = ("l1", "l2", "iou", "ssim")
"""What maps are compared by: see `explaining.similarities`."""


@dataclass(frozen=True, kw_only=True)
class FooledMaps:
    """The maps of I interpreters before and after an attack, and after one that does not care for them.

    The map before is that of the class that the network finds in the unchanged image; after, of the class that it finds
    then. What does not care for maps is PGD towards the same class for the goal "both", and uniform noise otherwise.

    Attributes:
        before: float16 [I, K, h, w] in 0..1, of the images that are kept, at their size.
        after: float16 [E, I, K, h, w].
        plain: float16 [E, I, K, h, w], of the attack that does not care for maps.
        similarity: float64 [E, I, 4, N], of the map after to the one before, by MEASURES.
        plain_similarity: float64 [E, I, 4, N], the same of the attack that does not care for maps.
        plain_after: int64 [E, N], the class that the network finds after it.
        flat_energy: float64 [E, N], the share of the squared change that is where the edge's weight is below 0.1.
        plain_flat_energy: float64 [E, N], the same of the attack that does not care for maps.
        edges: float16 [S, h, w], the edges' weights of the images of the figure.
    """

    before: NDArray[np.float16]
    after: NDArray[np.float16]
    plain: NDArray[np.float16]
    similarity: Floats
    plain_similarity: Floats
    plain_after: Ints
    flat_energy: Floats
    plain_flat_energy: Floats
    edges: NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Countered:
    """What the network finds behind D countermeasures, and how far P pairs of methods agree.

    Attributes:
        before: int64 [D, N], the class that it finds in the unchanged image behind a countermeasure.
        after: int64 [E, D, N], in the attacked one.
        agreement_before: float64 [P, N], Spearman's correlation of the maps of two methods for the class that is found.
        agreement_after: float64 [E, P, N], of the attacked image.
    """

    before: Ints
    after: Ints
    agreement_before: Floats
    agreement_after: Floats


def arrays_of(part: FooledMaps | Countered | None, group: str) -> dict[str, Array]:
    """Return the arrays by their names in a file; none where there is no such part."""
    return {} if part is None else {f"{group}/{each.name}": getattr(part, each.name) for each in fields(part)}


def split(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the arguments of an `AttackStudy` of the arrays of a file: those with a "/" become parts."""
    plain: dict[str, Any] = {name: array for name, array in arrays.items() if "/" not in name}
    kinds: dict[str, type[FooledMaps | Countered]] = {"maps": FooledMaps, "countered": Countered}
    for group, kind in kinds.items():
        if own := of_group(arrays, group):
            plain[group] = kind(**own)
    return plain


def empty_maps(
    epsilons: int, interpreters: int, images: int, kept: int, size: tuple[int, int], shown: int
) -> FooledMaps:
    """Return maps of which none is there yet."""
    of_maps, of_images = (epsilons, interpreters, kept, *size), (epsilons, interpreters, len(MEASURES), images)
    return FooledMaps(
        before=np.zeros(of_maps[1:], np.float16),
        after=np.zeros(of_maps, np.float16),
        plain=np.zeros(of_maps, np.float16),
        similarity=np.zeros(of_images),
        plain_similarity=np.zeros(of_images),
        plain_after=np.full((epsilons, images), -1, np.int64),
        flat_energy=np.zeros((epsilons, images)),
        plain_flat_energy=np.zeros((epsilons, images)),
        edges=np.zeros((shown, *size), np.float16),
    )


def empty_countered(epsilons: int, countermeasures: int, pairs: int, images: int) -> Countered:
    """Return what is found behind countermeasures where no image was looked at yet."""
    return Countered(
        before=np.full((countermeasures, images), -1, np.int64),
        after=np.full((epsilons, countermeasures, images), -1, np.int64),
        agreement_before=np.zeros((pairs, images)),
        agreement_after=np.zeros((epsilons, pairs, images)),
    )


def detection(before: Floats, after: Floats) -> float:
    """Return the area under the ROC curve of "attacked" told by a low value; NaN where one of them is empty.

    Args:
        before: float64 [N], of unchanged images.
        after: float64 [M], of attacked ones.

    >>> detection(np.array([0.9, 0.5]), np.array([0.4, 0.5]))
    0.875
    """
    if not len(before) or not len(after):
        return float("nan")
    ranks = rankdata(np.concatenate([before, after]))[: len(before)]
    return float((ranks.sum() - len(before) * (len(before) + 1) / 2) / (len(before) * len(after)))
