"""What a correspondence study found, and its statistics: Hamming distances of signs, and a permutation test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deconvviz.results.files import Pathlike
from deconvviz.results.tables import write_csv

SIGN_ZERO = ("three-valued", "drop", "positive")
NORMALISATIONS = ("mean", "sum")
CHANCE = 0.5  # what independent signs give, for a pair of images of which no dimension is left to compare
COLUMNS = ("part", "layer", "mean", "standard_error", "random_mean", "random_standard_error", "p", "images", "sets")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """How alike the changes of one layer are when one part is masked.

    Attributes:
        images: int64 [S, n], the images of each of the S sets.
        distances: float64 [S, n (n - 1) / 2, 1 + R], for each pair of images of a set: the Hamming distance of the
            signs where both lack the part, then where both have their r-th random mask. Their mean is the score.
        p: the chance that masks at random places score as low as the part's, see `permutation_test`; of this row alone,
            not corrected for the number of rows.
    """

    part: str
    layer: str
    images: NDArray[np.int64]
    distances: Floats
    p: float

    @property
    def mean(self) -> float:
        """The part's score; lower is tighter."""
        return float(self.distances[..., 0].mean())

    @property
    def error(self) -> float:
        """Its standard error over the sets; over the pairs, which share images, where there is one set only."""
        return _standard_error(self.distances[..., 0])

    @property
    def random_mean(self) -> float:
        """The score of the random masks."""
        return float(self.distances[..., 1:].mean())

    @property
    def random_error(self) -> float:
        """Its standard error, as `error`, of each set's or pair's mean over its random masks."""
        return _standard_error(self.distances[..., 1:].mean(2))


@dataclass(frozen=True)
class Correspondence:
    """The paper's table 1, with a random level for each part.

    Attributes:
        rows: by part, then by layer.
        examples: part -> uint8 [m + 1, H, W, 3]: up to five images of its first set without it, and the first image
            with a random mask instead.
        config: what was asked.
    """

    rows: tuple[Row, ...]
    examples: Mapping[str, NDArray[np.uint8]]
    config: Mapping[str, Any]

    def save_csv(self, path: Pathlike) -> None:
        """Write a row for each part and layer."""
        write_csv(
            path,
            COLUMNS,
            [
                (
                    row.part,
                    row.layer,
                    row.mean,
                    row.error,
                    row.random_mean,
                    row.random_error,
                    row.p,
                    row.images.size,
                    len(row.images),
                )
                for row in self.rows
            ],
        )

    def __repr__(self) -> str:
        layers = list(dict.fromkeys(row.layer for row in self.rows))
        wide = max(len(row.part) for row in self.rows)
        lines = [
            "sign Hamming distance ± standard error, lower is tighter; random masks of equal area; p by permutation",
            " " * wide + "  images" + "".join(f"  {layer:34s}" for layer in layers),
            " " * wide + "        " + f"  {'masked part':13s} {'random':13s} {'p':6s}" * len(layers),
        ]
        for first in self.rows[:: len(layers)]:
            cells = [
                f"  {_shown(row.mean, row.error):13s} {_shown(row.random_mean, row.random_error):13s} {row.p:<6.3f}"
                for row in self.rows
                if row.part == first.part
            ]
            lines.append(f"{first.part:{wide}s}  {first.images.size:6d}" + "".join(cells))
        return "\n".join(line.rstrip() for line in lines)


def hamming(signs: NDArray[np.int8], sign_zero: str = "three-valued", normalisation: str = "mean") -> Floats:
    """Return the Hamming distance of each pair of sign vectors, [..., D] of -1, 0 and 1 -> float64 [..., ...].

    sign_zero and normalisation: as of `correspondence`; a "sum" counts dimensions, "mean" takes their share.
    """
    flat = signs.reshape(-1, signs.shape[-1])
    up, still, down = (flat == value for value in (1, 0, -1))
    values = {"three-valued": (up, still, down), "drop": (up, down), "positive": (up | still, down)}[sign_zero]
    # Products of zeros and ones count dimensions, exactly below 2 ** 24 of them.
    alike = sum(_common(value) for value in values)
    compared = _common(np.any(values, 0))
    differing = compared - alike
    if normalisation == "mean":
        differing = np.where(compared > 0, differing / np.maximum(compared, 1), CHANCE)
    return np.asarray(differing, np.float64).reshape(*signs.shape[:-1], *signs.shape[:-1])


def permutation_test(tables: Floats, permutations: int, rng: np.random.Generator) -> float:
    """Return how probable a score as low as the part's is if the part is a place like any other; one-sided.

    Under that hypothesis each image's part and random masks are exchangeable: a permutation picks, in each image of
    each set independently, one of the 1 + R masks as the part. p = (1 + hits) / (1 + permutations), a hit being a
    score not above the observed one.

    tables: float64 [S, n, 1 + R, n, 1 + R], the distances between images i, j under their masks a, b; mask 0 is the
        part's.
    """
    observed = _score(tables, np.zeros((1, *tables.shape[:2]), np.int64))[0]
    hits = 0
    for start in range(0, permutations, 1000):
        size = (min(1000, permutations - start), *tables.shape[:2])
        scores = _score(tables, rng.integers(0, tables.shape[2], size))
        hits += int((scores <= observed * (1 + 1e-9)).sum())  # sums in another order are equal too
    return (1 + hits) / (1 + permutations)


def _score(tables: Floats, picks: NDArray[np.int64]) -> Floats:
    """Return the mean distance of the pairs of each set under the masks picked, int [P, S, n] -> float64 [P]."""
    sets, (first, second) = np.arange(len(tables))[:, None], np.triu_indices(tables.shape[1], 1)
    found: Floats = tables[sets, first, picks[..., first], second, picks[..., second]].mean((1, 2))
    return found


def _common(chosen: NDArray[np.bool_]) -> Floats:
    """Count the dimensions that are chosen in both rows, bool [R, D] -> [R, R]."""
    values = chosen.astype(np.float32)
    return np.asarray(values @ values.T, np.float64)


def _standard_error(distances: Floats) -> float:
    """Return the standard error of the mean of [S, pairs]: over the sets, over the pairs of a single one."""
    values = distances.mean(1) if len(distances) > 1 else distances[0]
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _shown(mean: float, error: float) -> str:
    return f"{mean:.3f}±{error:.3f}" if mean < 10 else f"{mean:.4g}±{error:.2g}"
