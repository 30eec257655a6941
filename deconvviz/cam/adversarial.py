"""What attacks share: how far a pixel may go, steps by the sign of a gradient, and the search for the fewest pixels.

An attack changes an image a little, so that a network takes it for something else. Nothing here waits for the device:
an image that is done is kept as it is by a mask, and every loop has a fixed number of rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images [N, C, H, W] -> the loss of each, [N], and its gradient. The margin is above 0 where the network is fooled."""

DECAY = 0.9  # of the sum of gradients, from step to step
PULL = 10.0  # of a pixel of mean effect while the network is not fooled, in units of the penalty of a changed pixel
RATE = 0.3  # of the logits, in units of that penalty


class Ball(NamedTuple):
    """The images that differ from given ones by no more than a radius in any pixel, between black and white.

    Attributes:
        low: [N, C, H, W], the least value of each pixel.
        high: [N, C, H, W], the largest value of each pixel.
    """

    low: Tensor
    high: Tensor

    def nearest(self, x: Tensor) -> Tensor:
        """Return the image of the ball that is nearest to each of x."""
        return torch.clamp(x, self.low, self.high)


class Changes(NamedTuple):
    """How images are attacked, and where.

    Attributes:
        full: [N, C, H, W], the images with every pixel changed.
        logits: [N, H, W], of the mask: the higher, the sooner a pixel belongs to the few that are changed.
    """

    full: Tensor
    logits: Tensor


def ball_around(x: Tensor, radius: Tensor | float, black: Tensor | float = 0.0, white: Tensor | float = 1.0) -> Ball:
    """Return the ball around images, rounded inwards: what is in it keeps to the radius exactly, not just to rounding.

    A pixel that is darker than black, or lighter than white, may stay as it is.

    Args:
        x: floating [N, C, H, W].
        radius: the largest change of a pixel, a number or a tensor that broadcasts to x.
        black: the least value of a pixel, likewise.
        white: the largest value of a pixel, likewise.

    >>> x = torch.tensor([[[[0.0, 0.3, 1.0]]]])
    >>> low, high = ball_around(x, 0.1)
    >>> low.round(decimals=6).tolist(), bool((high.double() - x.double()).max() <= 0.1)
    ([[[[0.0, 0.20000000298023224, 0.8999999761581421]]]], True)
    """
    exact = x.double()
    black, white, far = (torch.as_tensor(each, dtype=exact.dtype, device=x.device) for each in (black, white, radius))
    far = (far - torch.finfo(far.dtype).eps).clamp(min=0)  # float64's own rounding
    darkest = torch.minimum(torch.maximum(exact - far, black), exact)
    lightest = torch.maximum(torch.minimum(exact + far, white), exact)
    low, high = darkest.to(x.dtype), lightest.to(x.dtype)
    low = torch.where(low.double() < darkest, low.nextafter(x), low)
    high = torch.where(high.double() > lightest, high.nextafter(x), high)
    return Ball(low, high)


def unit_length(gradient: Tensor) -> Tensor:
    """Return gradients [N, ...], each divided by the sum of its absolute values; one of zeros stays as it is."""
    sizes = gradient.abs().flatten(1).sum(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / sizes.view(-1, *[1] * (gradient.dim() - 1))


def margin_of(scores: Tensor, classes: Tensor) -> Tensor:
    """Return how far the largest other score is above that of a class, [N], of scores [N, K] and classes int64 [N]."""
    own = scores.gather(1, classes[:, None])[:, 0]
    others = scores.scatter(1, classes[:, None], float("-inf"))
    return others.amax(1) - own


def full_change(slopes: Slopes, start: Tensor, ball: Ball, step: Tensor | float, steps: int) -> Tensor:
    """Return images of which every pixel is changed: `steps` steps of `step` by the sign of the summed gradients.

    Args:
        slopes: of what is to rise.
        start: [N, C, H, W], the images that the steps start from.
        ball: where the changed ones have to stay.
        step: the largest change of a pixel in a step, a number or a tensor that broadcasts to `start`.
        steps: how many.
    """
    full, momentum = start, torch.zeros_like(start)
    for _ in range(steps):
        momentum = DECAY * momentum + unit_length(slopes(full)[1])
        full = ball.nearest(full + step * momentum.sign())
    return full


def fewest_changes(slopes: Slopes, x: Tensor, ball: Ball, step: Tensor | float, steps: int, mask_steps: int) -> Changes:
    """Find how every pixel is changed best, and which pixels are enough.

    The change n comes first: `steps` steps of `step` by the sign of the summed gradients of the margin. Then a mask
    m = sigmoid(s), one logit s a pixel, all 0 at first, is found together with n, in `mask_steps` rounds: with the
    effect e = n dM/dm of each pixel on the margin M at x + m n, as a multiple of the mean over the pixels,

        s <- s + 0.3 (10 e - 1) where the network is not fooled yet, else s - 0.3,

    which is a step of mirror descent on mean(m) under the condition M > 0; and n takes one more step.

    Args:
        slopes: of the margin.
        x: [N, C, H, W], the images.
        ball: where the changed ones have to stay.
        step: the largest change of a pixel in a step, a number or a tensor that broadcasts to x.
        steps: for the change of all pixels.
        mask_steps: for the mask.

    Source: ours, after AdvMask's attack (Yang et al. 2022, arXiv 2211.16040; the released code of the authors' later
    IPF-RDA), whose mask is a convolution as large as the image, and which trades the cross-entropy for pixels: the
    attack sparse-convolution.

    >>> weights = torch.tensor([3.0, 1.0, 0.5, 2.0]).view(1, 1, 2, 2)
    >>> def slopes(x):
    ...     return (weights * x).sum((1, 2, 3)) - 5.0, weights.expand_as(x)  # two pixels are enough
    >>> x = torch.full((1, 1, 2, 2), 0.5)
    >>> changes = fewest_changes(slopes, x, ball_around(x, 0.5), 0.25, 4, 10)
    >>> fewest_pixels(lambda x: slopes(x)[0] > 0, x, changes, torch.tensor([False])).long().tolist()
    [[[1, 0], [0, 1]]]
    """
    full = full_change(slopes, x, ball, step, steps)
    logits, momentum = torch.zeros_like(x[:, 0]), torch.zeros_like(x)
    for _ in range(mask_steps):
        mask, change = torch.sigmoid(logits)[:, None], full - x
        margin, gradient = slopes(x + mask * change)
        effect = (gradient * change).sum(1)
        share = effect / effect.abs().mean((1, 2), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        logits = logits + RATE * (PULL * share * (margin <= 0)[:, None, None] - 1)
        momentum = DECAY * momentum + unit_length(mask * gradient)
        full = ball.nearest(full + step * momentum.sign())
    return Changes(full, logits)


def fewest_pixels(
    fooled: Callable[[Tensor], Tensor], x: Tensor, changes: Changes, already: Tensor, rounds: int | None = None
) -> Tensor:
    """Return the fewest pixels, in the order of the mask's logits, whose change fools the network, bool [N, H, W].

    The number is found by halving, so that fewer may be enough where the margin does not rise with each pixel; those
    that are returned are enough. An image for which not even all pixels are enough has none, and so has one that needs
    none.

    Args:
        fooled: whether the network is, bool [N], for images [N, C, H, W].
        x: [N, C, H, W], the images.
        changes: what `fewest_changes` found.
        already: bool [N], whether the network is fooled by the images as they are.
        rounds: how often the network is asked, first for all pixels; by default until the number is exact.
    """
    pixels = changes.logits[0].numel()
    order: Tensor = changes.logits.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1).view_as(changes.logits)
    least = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    most, enough = torch.full_like(least, pixels), ~already
    for number in range(1 + math.ceil(math.log2(pixels)) if rounds is None else rounds):
        middle = most if number == 0 else (least + most) // 2
        wins = fooled(torch.where((rank < middle[:, None, None])[:, None], changes.full, x))
        if number == 0:
            enough = enough & wins
        else:
            least, most = torch.where(wins, least, middle), torch.where(wins, middle, most)
    return (rank < most[:, None, None]) & enough[:, None, None]
