"""ROAD: remove pixels by noisy linear imputation, which leaves no trace of their places, and score the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from scipy import sparse  # type: ignore[import-untyped]
from scipy.sparse.linalg import splu  # type: ignore[import-untyped]
from torch import Tensor

from deconvviz.choices import REMOVAL_ORDERS
from deconvviz.errors import DataError, require, require_choice
from deconvviz.metrics.inputs import Scores, check_scored, ranks, scored
from deconvviz.metrics.metric import register
from deconvviz.types import Floats, Mask

if TYPE_CHECKING:
    from typing_extensions import Unpack

register("road_most", "ROAD, most relevant first", False, "mean probability", "Rong et al. 2022, ROAD")
register("road_least", "ROAD, least relevant first", True, "mean probability", "Rong et al. 2022, ROAD")
register("road_combined", "ROAD, combined", True, "half a difference of probabilities", "Rong et al. 2022, ROAD")

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


class ImputationKeywords(TypedDict, total=False):
    """The fields of `Imputation`, as keyword arguments."""

    noise: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Imputation:
    """How removed pixels are replaced; see `impute`.

    Attributes:
        noise: standard deviation of the noise, in the images' own (normalised) units.
        seed: of the noise; every image has the same noise, wherever it is among the images.

    Raises:
        DataError: the noise is negative or not finite.
    """

    noise: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, DataError, noise=(0 <= self.noise < float("inf"), "0 or more"))


@dataclass(frozen=True)
class Road:
    """The probability of each image's class after pixels were removed in one order.

    Attributes:
        order: "most" or "least" relevant first.
        fractions: float64 [F], the share of the pixels that is removed.
        probabilities: float64 [N, F].
        before: float64 [N], on the unchanged image.
        mean: float64 [N], over the fractions; low is better for "most", high is better for "least".
    """

    order: str
    fractions: Tensor
    probabilities: Tensor
    before: Tensor
    mean: Tensor


@dataclass(frozen=True)
class RoadCombined:
    """The two orders together.

    Attributes:
        most: the most relevant pixels removed first.
        least: the least relevant pixels removed first.
        score: float64 [N] in -0.5..0.5, (least.mean - most.mean) / 2; higher is better.
    """

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
    batch_size: int = 32,
    **imputation: Unpack[ImputationKeywords],
) -> Road:
    """Remove the most (or least) relevant pixels of each image, impute them, and score the class.

    The imputation is one sparse solve for each image and fraction. A fraction that removes no pixel is not scored
    again.

    Args:
        scores: see Scores; it is called under inference_mode.
        images: [N, C, H, W], normalised.
        maps: [N, H, W]; only the order of their values counts, and equal pixels go in row-major order.
        classes: int64 [N], the class that is explained.
        fractions: in (0, 1); round(fraction * H * W) pixels are removed, and one is always left. The default is
            T-TAME's.
        order: "most" or "least" relevant first.
        batch_size: images that are scored at once.
        imputation: `noise` and `seed` of `Imputation`.

    Raises:
        DataError: the inputs do not belong together, `scores` does not return probabilities, or an option is invalid.

    Source: Rong et al. 2022.
    """
    require_choice("order", order, REMOVAL_ORDERS)
    removal = _Removal(scores, images, maps, classes, fractions, batch_size, Imputation(**imputation))
    return removal.road(order, removal.before())


def road_combined(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    fractions: Sequence[float] = FRACTIONS,
    batch_size: int = 32,
    **imputation: Unpack[ImputationKeywords],
) -> RoadCombined:
    """Measure `road` in both orders; the unchanged images are scored once for both.

    Args:
        scores: see Scores; it is called under inference_mode.
        images: [N, C, H, W], normalised.
        maps: [N, H, W].
        classes: int64 [N], the class that is explained.
        fractions: in (0, 1), the shares of the pixels that are removed.
        batch_size: images that are scored at once.
        imputation: `noise` and `seed` of `Imputation`.

    Raises:
        DataError: as for `road`.

    Source: Rong et al. 2022; half of the difference of the two orders as in their release.
    """
    removal = _Removal(scores, images, maps, classes, fractions, batch_size, Imputation(**imputation))
    before = removal.before()
    most, least = (removal.road(order, before) for order in REMOVAL_ORDERS)
    return RoadCombined(most, least, (least.mean - most.mean) / 2)


def impute(image: Floats, missing: Mask, noise: float = 0.01, seed: int = 0) -> Floats:
    """Replace missing pixels by the weighted mean of their eight neighbours, all at once, and add noise.

    The neighbours above, below and beside a pixel weigh 1/6, the diagonal ones 1/12, and those beyond the border
    nothing; the weights are scaled to a sum of 1. A neighbour may itself be missing: all of them solve one linear
    system.

    Args:
        image: float64 [C, H, W].
        missing: bool [H, W], at least one False.
        noise: standard deviation of the noise that is added to each imputed value after the solve, in the image's own
            (normalised) units.
        seed: of the noise, together with the number of missing pixels.

    Returns:
        A new float64 [C, H, W].

    Raises:
        DataError: the shapes do not belong together, or no pixel is left.

    Source: Rong et al. 2022, section 4.

    >>> image = np.array([[[1.0, 9.0, 9.0, 4.0]]])  # of the two in the middle, each becomes the mean of its neighbours
    >>> impute(image, np.array([[False, True, True, False]]), noise=0).round(6)
    array([[[1., 2., 3., 4.]]])
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


def _system(image: Floats, missing: Mask) -> tuple[sparse.csc_matrix, Floats]:
    """Return the matrix [m, m] and right side [m, C] of sum_j w_j (x_i - x_j) = 0 at each missing pixel i."""
    height, width = missing.shape
    count = int(missing.sum())
    numbers = np.full(missing.shape, -1)
    numbers[missing] = np.arange(count)
    numbers = np.pad(numbers, 1, constant_values=-2)  # -1: known, -2: beyond the border
    values = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    diagonal, right = np.zeros(count), np.zeros((count, len(image)))
    rows, columns, weights = [np.arange(count)], [np.arange(count)], [diagonal]
    for dy, dx in NEIGHBOURS:
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


@dataclass(frozen=True)
class _Removal:
    """The inputs of ROAD, checked; see `road` for what they are.

    Raises:
        DataError: the inputs do not belong together, or a fraction is not between 0 and 1.
    """

    scores: Scores
    images: Tensor
    maps: Tensor
    classes: Tensor
    fractions: Sequence[float]
    batch_size: int
    imputation: Imputation

    def __post_init__(self) -> None:
        check_scored(self.images, self.maps, self.classes, self.batch_size, unit=False)
        if not len(self.fractions) or not all(0 < fraction < 1 for fraction in self.fractions):
            raise DataError(
                f"fractions {tuple(self.fractions)} given; expected one or more between 0 and 1, both excluded"
            )

    def before(self) -> Tensor:
        """Return the probabilities on the unchanged images, float64 [N]."""
        device = self.images.device
        return scored(self.scores, lambda indices: self.images[indices.to(device)], self.classes, self.batch_size)

    def road(self, order: str, before: Tensor) -> Road:
        """Remove pixels in one order; `before` are the probabilities on the unchanged images, float64 [N]."""
        pixels = self.maps[0].numel()
        counts = [min(round(fraction * pixels), pixels - 1) for fraction in self.fractions]
        distinct = [count for count in sorted(set(counts)) if count]

        def make(indices: Tensor) -> Tensor:
            images, steps = (indices // len(distinct)).tolist(), (indices % len(distinct)).tolist()
            pairs = zip(images, steps, strict=True)
            return torch.stack([self._imputed(image, order, distinct[step]) for image, step in pairs]).to(self.images)

        classes = self.classes.repeat_interleave(len(distinct))
        removed = scored(self.scores, make, classes, self.batch_size).reshape(len(self.images), len(distinct))
        by_count = dict(zip(distinct, removed.unbind(1), strict=True)) | {0: before}
        values = torch.stack([by_count[count] for count in counts], 1)
        return Road(order, torch.tensor(self.fractions, dtype=torch.float64), values, before, values.mean(1))

    def _imputed(self, image: int, order: str, count: int) -> Tensor:
        """Return one image with its `count` first pixels of an order imputed, float64 [C, H, W]."""
        rank = ranks(self.maps[image : image + 1], order == "most")[0]
        missing = (rank < count).cpu().numpy()
        values = self.images[image].detach().to("cpu", torch.float64).numpy()
        return torch.from_numpy(impute(values, missing, self.imputation.noise, self.imputation.seed))
