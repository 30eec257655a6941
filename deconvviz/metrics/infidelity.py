"""Infidelity: does a map foretell how much the probability falls when squares of the image are removed?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.lengths import Length
from deconvviz.metrics.inputs import Scores, as_array, as_values, check_maps, check_scored, fill_like, scored
from deconvviz.metrics.metric import register
from deconvviz.types import Box, Floats

register("infidelity", "Infidelity", False, "squared probability", "Yeh et al. 2019, (In)fidelity and Sensitivity")

SIDES = tuple(Length(8 * side) for side in range(1, 11))  # 1 to 10 px of MNIST's 28, as in the authors' release
SQUARES = 100


def random_squares(height: int, width: int, count: int = SQUARES, seed: int = 0) -> list[Box]:
    """Draw squares: each of ten sides is equally likely, and so is each place where the square fits.

    The sides are 1/28 to 10/28 of the image's shorter side, those of the authors' release on MNIST. It takes all
    places of each side, which are thousands; to draw some is our choice.

    >>> [(box.height, box.width) for box in random_squares(28, 28, 3)]
    [(9, 9), (3, 3), (1, 1)]
    """
    rng, boxes = np.random.default_rng(seed), []
    for _ in range(count):
        side = SIDES[rng.integers(len(SIDES))].of(height, width)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        boxes.append(Box(top, left, top + side, left + side))
    return boxes


def effects_of_squares(
    scores: Scores,
    images: Tensor,
    classes: Tensor,
    squares: list[Box],
    fill: Tensor | float = 0.0,
    batch_size: int = 32,
) -> Floats:
    """Return f(x) - f(x without a square) for each image and square: what `infidelity` compares maps with.

    It does not depend on the map, so that several methods share it.

    Args:
        scores: see Scores; f is the probability of the class.
        images: [N, C, H, W], normalised.
        classes: int64 [N].
        squares: at least one.
        fill: of the removed pixels, a number or [C] in normalised space.
        batch_size: images that are scored at once.

    Returns:
        float64 [N, squares].

    Raises:
        DataError: the inputs do not belong together, or `scores` does not return probabilities.
    """
    check_scored(images, images[:, 0] * 0, classes, batch_size)
    blank, count = fill_like(images, fill), len(squares)

    def without(indices: Tensor) -> Tensor:
        changed = images[(indices // (count + 1)).to(images.device)].clone()
        for image, square in zip(changed, (indices % (count + 1)).tolist(), strict=True):
            if square < count:  # the last of each image's is the whole one
                box = squares[square]
                image[:, box.top : box.bottom, box.left : box.right] = blank[0]
        return changed

    probability = scored(scores, without, classes.repeat_interleave(count + 1), batch_size)
    table = probability.reshape(len(images), count + 1).numpy()
    return np.asarray(table[:, -1:] - table[:, :-1])


def infidelity(maps: Tensor, effects: Floats, squares: list[Box], scaled: bool = True) -> Tensor:
    """Return the mean over squares of (b s - e)^2: s is the map's sum in the square, e the square's effect.

    Lower is better.

    Args:
        maps: [N, H, W], finite; signed ones, such as gradient x input summed over the colours, are not scaled before.
        effects: float64 [N, squares], from `effects_of_squares`.
        squares: the same squares.
        scaled: b is the scale that is best for each map, sum(s e) / sum(s^2), as in the authors' release: maps in 0..1
            have no unit. Otherwise b is 1. A map that is zero in all squares has b s = 0.

    Returns:
        float64 [N], in squared probabilities; at most the mean of e^2 where it is scaled.

    Raises:
        DataError: the maps, effects and squares do not belong together.

    Source: Yeh et al. 2019, arXiv 1901.09392, definition 1 and the square perturbation; scale and sides from the
    authors' released code (get_exp_infid, "Square"). Quantus's metric of this name removes the tiles of a grid one
    after the other and puts none back: another expectation, and no peer.

    >>> import torch
    >>> squares = [Box(0, 0, 1, 1), Box(0, 1, 1, 2)]
    >>> infidelity(torch.tensor([[[0.5, 1.0]]]), np.array([[0.2, 0.4]]), squares).item()  # the map is 2.5 e
    0.0
    """
    check_maps(maps, unit=False)
    if effects.shape != (len(maps), len(squares)) or not squares:
        raise DataError(f"effects: {list(effects.shape)} given; expected {[len(maps), len(squares)]}, one a square")
    values = as_array(maps)
    sums = np.stack([values[:, box.top : box.bottom, box.left : box.right].sum((1, 2)) for box in squares], 1)
    scale = np.ones(len(maps))
    if scaled:
        squared = (sums**2).sum(1)
        scale = (sums * effects).sum(1) / np.where(squared > 0, squared, 1)
    return as_values(((scale[:, None] * sums - effects) ** 2).mean(1))
