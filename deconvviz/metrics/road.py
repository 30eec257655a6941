"""ROAD: remove pixels so that the gap says nothing, by noisy linear imputation, and score what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]
from scipy.sparse.linalg import splu  # type: ignore[import-untyped]
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import Scores, check_scored, ranks, scored
from deconvviz.metrics.metric import register

register("road_most", "ROAD, most relevant first", False, "mean probability", "Rong et al. 2022, ROAD")
register("road_least", "ROAD, least relevant first", True, "mean probability", "Rong et al. 2022, ROAD")
register("road_combined", "ROAD, combined", True, "half a difference of probabilities", "Rong et al. 2022, ROAD")

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
ORDERS = ("most", "least")
AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Road:
    """What is left after removing pixels in one order.

    Attributes:
        order: "most" or "least" relevant first.
        fractions: float64 [F], the share that is removed.
        probabilities: float64 [N,F].
        before: float64 [N], on the unchanged image.
        mean: float64 [N] over the fractions; low is better for "most", high for "least".
    """

    order: str
    fractions: Tensor
    probabilities: Tensor
    before: Tensor
    mean: Tensor


@dataclass(frozen=True)
class RoadCombined:
    """Both orders, and (least.mean - most.mean) / 2 in `score`, float64 [N] in -.5..+.5; higher is better."""

    most: Road
    least: Road
    score: Tensor


def road(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    fractions: Sequence[float] = FRACTIONS,
    order: str = "most",
    noise: float = 0.01,
    seed: int = 0,
    batch_size: int = 32,
) -> Road:
    """Remove the most (or least) relevant pixels of each image, impute them, and score the class.

    Args:
        scores: see Scores; called under inference_mode.
        images: [N,C,H,W], normalised.
        maps: [N,H,W]; only their order counts, equal pixels go in row-major order.
        classes: int64 [N], the class explained.
        fractions: in (0, 1); round(fraction * H * W) pixels are removed, one is always left. T-TAME's by default.
        order: "most" or "least" relevant first.
        noise, seed: see `impute`; every image has the same noise, wherever it stands among the images.
        batch_size: images scored at once.

    An image that no fraction changes is scored once. The imputation is one sparse solve an image and fraction.

    Raises:
        DataError: inputs that do not go together, or scores that are no probabilities.

    Source: Rong et al. 2022; half of the orders' difference as in their release.
    """
    _check(images, maps, classes, batch_size, fractions, noise)
    if order not in ORDERS:
        raise DataError(f"order {order!r} given; expected one of {', '.join(ORDERS)}")
    before = scored(scores, lambda at: images[at.to(images.device)], classes, batch_size)
    return _road(scores, images, maps, classes, fractions, order, noise, seed, batch_size, before)


def road_combined(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    fractions: Sequence[float] = FRACTIONS,
    noise: float = 0.01,
    seed: int = 0,
    batch_size: int = 32,
) -> RoadCombined:
    """Do `road` in both orders; the unchanged images are scored once for both. Arguments and errors as there."""
    _check(images, maps, classes, batch_size, fractions, noise)
    before = scored(scores, lambda at: images[at.to(images.device)], classes, batch_size)
    most, least = (
        _road(scores, images, maps, classes, fractions, order, noise, seed, batch_size, before) for order in ORDERS
    )
    return RoadCombined(most, least, (least.mean - most.mean) / 2)


def impute(image: Floats, missing: NDArray[np.bool_], noise: float = 0.01, seed: int = 0) -> Floats:
    """Replace missing pixels by the weighted mean of their eight neighbours, all at once, and add noise.

    Args:
        image: float64 [C,H,W].
        missing: bool [H,W], at least one False; neighbours weigh 1/6, diagonal ones 1/12, those beyond the border
            nothing, and what is left is scaled to 1.
        noise: standard deviation of the noise that is added to each imputed value, after the solve, in the image's
            own (normalised) units.
        seed: of the noise, with the number of missing pixels.

    Returns:
        A new float64 [C,H,W].

    Raises:
        DataError: shapes that do not go together, or no pixel left.

    Source: Rong et al. 2022, section 4.
    """
    if image.ndim != 3 or missing.dtype != bool or missing.shape != image.shape[1:]:
        raise DataError(
            f"image {image.shape} and missing {missing.dtype} {missing.shape} given; expected [C,H,W], [H,W]"
        )
    if missing.all():
        raise DataError(f"all {missing.size} pixels are missing; expected one to be left")
    count, filled = int(missing.sum()), np.array(image)
    if count:
        matrix, right = _system(image, missing)
        # symmetric and diagonally dominant: no pivoting, and an ordering that keeps the factors sparse
        factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        rng = np.random.default_rng([seed, count])
        filled[:, missing] = factors.solve(right).T + noise * rng.standard_normal((len(image), count))
    return filled


def _system(image: Floats, missing: NDArray[np.bool_]) -> tuple[sparse.csc_matrix, Floats]:
    """Return the matrix [m,m] and right side [m,C] of sum_j w_j (x_i - x_j) = 0 at each missing pixel i."""
    height, width = missing.shape
    count = int(missing.sum())
    numbers = np.full(missing.shape, -1)
    numbers[missing] = np.arange(count)
    numbers = np.pad(numbers, 1, constant_values=-2)  # -1: known, -2: beyond the border
    values = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    diagonal, right = np.zeros(count), np.zeros((count, len(image)))
    rows, columns, weights = [np.arange(count)], [np.arange(count)], [diagonal]
    for dy, dx in AROUND:
        window = slice(1 + dy, 1 + dy + height), slice(1 + dx, 1 + dx + width)
        neighbour, weight = numbers[window][missing], 1 / 12 if dy and dx else 1 / 6
        diagonal += weight * (neighbour > -2)
        known, unknown = neighbour == -1, np.flatnonzero(neighbour >= 0)
        right += weight * (values[:, window[0], window[1]][:, missing] * known).T
        rows.append(unknown)
        columns.append(neighbour[unknown])
        weights.append(np.full(len(unknown), -weight))
    entries = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    return sparse.csc_matrix(entries, shape=(count, count)), right


def _check(
    images: Tensor, maps: Tensor, classes: Tensor, batch_size: int, fractions: Sequence[float], noise: float
) -> None:
    check_scored(images, maps, classes, batch_size, unit=False)
    if not len(fractions) or not all(0 < fraction < 1 for fraction in fractions):
        raise DataError(f"fractions {tuple(fractions)} given; expected one or more between 0 and 1, both excluded")
    if not 0 <= noise < float("inf"):
        raise DataError(f"noise {noise:g} given; expected 0 or more")


def _road(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    fractions: Sequence[float],
    order: str,
    noise: float,
    seed: int,
    batch_size: int,
    before: Tensor,
) -> Road:
    pixels = maps[0].numel()
    counts = [min(round(fraction * pixels), pixels - 1) for fraction in fractions]
    distinct = [count for count in sorted(set(counts)) if count]

    def make(at: Tensor) -> Tensor:
        made = []
        for image, step in zip((at // len(distinct)).tolist(), (at % len(distinct)).tolist(), strict=True):
            rank = ranks(maps[image : image + 1], order == "most")[0]
            missing = (rank < distinct[step]).cpu().numpy()
            whole = images[image].detach().to("cpu", torch.float64).numpy()
            made.append(torch.from_numpy(impute(whole, missing, noise, seed)))
        return torch.stack(made).to(images)

    own = classes.repeat_interleave(len(distinct))
    found = scored(scores, make, own, batch_size).reshape(len(images), len(distinct))
    table = dict(zip(distinct, found.unbind(1), strict=True)) | {0: before}
    values = torch.stack([table[count] for count in counts], 1)
    return Road(order, torch.tensor(fractions, dtype=torch.float64), values, before, values.mean(1))
