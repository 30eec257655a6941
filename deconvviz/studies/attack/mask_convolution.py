"""MaskConvolution: masks by a convolution as large as the image, one for each image, trained without a copy of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.studies.attack.victims import Victims

RATE, MOMENTUM, SHRINKAGE = 0.01, 0.9, 5e-4  # of SGD on the weights, as in the release of IPF-RDA
STREAM = 1  # of random numbers: those of stream 0 are where an attack starts
MOST_NUMBERS = 2**29  # that the convolutions of a group of images hold together: 2.1 GB in float32


def weights_of(shape: Sequence[int]) -> int:
    """Return how many weights the convolution of an image [C, H, W] has: a row of C H W and a bias for each pixel.

    >>> weights_of((3, 32, 32)), round(weights_of((3, 224, 224)) / 1e9, 2)
    (3146752, 7.55)
    """
    pixels = math.prod(shape[1:])
    return pixels * (shape[0] * pixels + 1)


def largest_side(channels: int) -> int:
    """Return the side of the largest square image whose convolution is taken.

    >>> largest_side(3), largest_side(1)
    (115, 152)
    """
    side = math.isqrt(math.isqrt(MOST_NUMBERS // channels))
    return side if weights_of((channels, side, side)) <= MOST_NUMBERS else side - 1


def require_room(shape: Sequence[int]) -> None:
    """Raise DataError where the convolution of an image [C, H, W] has more than 2^29 weights.

    >>> require_room((3, 224, 224))
    Traceback (most recent call last):
    deconvviz.errors.DataError: sparse-convolution has 7,552,943,104 weights for an image of 224 x 224 px, and takes \
536,870,912 at most: images of up to 115 x 115 px; take sparse, which has one logit a pixel
    """
    if (count := weights_of(shape)) > MOST_NUMBERS:
        side = largest_side(shape[0])
        raise DataError(
            f"sparse-convolution has {count:,} weights for an image of {shape[1]} x {shape[2]} px, and takes "
            f"{MOST_NUMBERS:,} at most: images of up to {side} x {side} px; take sparse, which has one logit a pixel"
        )


def together(shape: Sequence[int], steps: int) -> int:
    """Return how many images [C, H, W] are attacked together: their weights and steps are 2^29 numbers, or one image.

    >>> together((3, 32, 32), 360), together((3, 64, 64), 360), together((3, 112, 112), 360)
    (116, 9, 1)
    """
    numbers = weights_of(shape) + steps * (math.prod(shape) + 1 + math.prod(shape[1:]))
    return max(MOST_NUMBERS // numbers, 1)


def responses(steps: int) -> tuple[list[float], list[float]]:
    """Return what is left of the first weights after 0 to `steps` steps of SGD, and of a gradient after as many.

    SGD is linear in both: v <- 0.9 v + g + 0.0005 w, w <- w - 0.01 v.

    >>> kept, taken = responses(2)
    >>> [round(value, 9) for value in kept], [round(value, 9) for value in taken]
    ([1.0, 0.999995, 0.9999855], [0.0, -0.01, -0.01899995])
    """
    rows = []
    for start, gradient in ((1.0, 0.0), (0.0, 1.0)):
        weight, speed, row = start, 0.0, [start]
        for step in range(steps):
            speed = MOMENTUM * speed + (gradient if step == 0 else 0.0) + SHRINKAGE * weight
            weight -= RATE * speed
            row.append(weight)
        rows.append(row)
    return rows[0], rows[1]


class MaskConvolution:
    """s = W n + b of each image, s a number for each pixel and n its change, and SGD on the image's own W and b.

    The gradient of W is the product of two vectors, ds and n. What SGD makes of W is therefore the first W times a
    number, and such products times numbers, which depend on the step alone (`responses`). Kept are the first W and the
    vectors of each step: no second and third copy of W, for its gradient and its momentum, is written in each step. To
    rounding it is the same. Each image is computed by itself, so that its numbers do not depend on the others.

    Weights and biases begin uniform in -1 / sqrt(C H W) to 1 / sqrt(C H W), torch's default for a convolution.
    """

    def __init__(self, v: Victims, steps: int) -> None:
        """Draw the first weights.

        Args:
            v: the images, [N, C, H, W].
            steps: of SGD, at most.
        """
        count, values, pixels = len(v.x), v.x[0].numel(), v.x[0, 0].numel()
        self.first = v.draw(range(count), (pixels, values + 1), STREAM).div_(math.sqrt(values))
        self.points = v.x.new_zeros(count, steps, values + 1)
        self.slopes = v.x.new_zeros(count, steps, pixels)
        self.kept, taken = responses(steps)
        self.taken = v.x.new_tensor(taken[1:]).flip(0)
        self.steps, self.done = steps, 0

    def __call__(self, change: Tensor) -> Tensor:
        """Return s, [N, H, W], of changes n [N, C, H, W]."""
        rows = []
        for number, point in enumerate(_with_one(change)):
            points, slopes, taken = self._past(number)
            row = self.kept[self.done] * torch.mv(self.first[number], point)
            rows.append(row + torch.mv(slopes.T, taken * torch.mv(points, point)))
        return torch.stack(rows).view_as(change[:, 0])

    def back(self, gradient: Tensor, change: Tensor) -> Tensor:
        """Return the gradient with respect to the changes, [N, C, H, W], of that with respect to s, [N, H, W]."""
        rows = []
        for number, slope in enumerate(gradient.flatten(1)):
            points, slopes, taken = self._past(number)
            row = self.kept[self.done] * torch.mv(self.first[number].T, slope)
            rows.append((row + torch.mv(points.T, taken * torch.mv(slopes, slope)))[:-1])
        return torch.stack(rows).view_as(change)

    def learn(self, gradient: Tensor, change: Tensor) -> None:
        """Take a step of SGD, of the gradient with respect to s, [N, H, W], at changes [N, C, H, W]."""
        self.points[:, self.done], self.slopes[:, self.done] = _with_one(change), gradient.flatten(1)
        self.done += 1

    def _past(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return of an image the changes and gradients of the steps so far, and what is left of their products."""
        return (
            self.points[number, : self.done],
            self.slopes[number, : self.done],
            self.taken[self.steps - self.done :],
        )


def _with_one(change: Tensor) -> Tensor:
    """Return changes [N, C, H, W] as rows [N, C H W + 1] that end in 1, which the bias is multiplied by."""
    rows = change.flatten(1)
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
