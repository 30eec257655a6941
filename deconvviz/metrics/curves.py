"""The class's probability as pixels go, the most important first: deletion and insertion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import Scores, check_scored, fill_like, of_classes, probabilities, ranks, scored
from deconvviz.metrics.metric import register

register("deletion", "Deletion AUC", False, "mean probability", "Petsiuk et al. 2018, RISE")
register("insertion", "Insertion AUC", True, "mean probability", "Petsiuk et al. 2018, RISE")

Blur = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """A probability at each step, for each image.

    Attributes:
        fractions: float64 [S+1], the share of the pixels that is deleted or inserted, 0 to 1.
        probabilities: float64 [N,S+1].
        auc: float64 [N], the trapezoid rule on even steps, (sum - first/2 - last/2) / S.
    """

    fractions: Tensor
    probabilities: Tensor
    auc: Tensor


def deletion(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    steps: int = 224,
    fill: Tensor | float = 0.0,
    batch_size: int = 32,
) -> Curve:
    """Delete the pixels of each image to `fill`, those first that its map ranks highest. A low AUC is better.

    Args:
        scores: see Scores; called under inference_mode.
        images: [N,C,H,W], normalised.
        maps: [N,H,W]; only their order counts, equal pixels go in row-major order.
        classes: int64 [N], the class explained.
        steps: S, at most H * W; after step s, round(s * H * W / S) pixels are gone. RISE has 224 on 224 x 224 in its
            notebook and 28 for its table.
        fill: a number or [C], in normalised space; 0 is the dataset's mean.
        batch_size: images scored at once. The last step is the same picture for all and is scored once.

    Raises:
        DataError: inputs that do not go together, or scores that are no probabilities.

    Source: Petsiuk et al. 2018, section 4.2.
    """
    check_scored(images, maps, classes, batch_size, unit=False)
    counts, blank = _counts(maps, steps), fill_like(images, fill)

    def blend(some: Tensor, own: Tensor, gone: Tensor) -> Tensor:
        return torch.where(gone, blank, some[own])

    values = _walk(scores, images, maps, classes, counts[:-1], batch_size, blend)
    last = of_classes(probabilities(scores, blank.expand(1, *images.shape[1:]).contiguous()), classes)
    return _curve(counts, torch.cat([values, last[:, None]], 1), maps)


def insertion(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    steps: int = 224,
    blur: Blur | None = None,
    batch_size: int = 32,
) -> Curve:
    """Insert the pixels of each image into its blurred copy, the highest first. A high AUC is better.

    Args:
        scores, images, maps, classes, steps, batch_size: as for `deletion`.
        blur: images [n,C,H,W] -> the start of each, same shape, each image on its own; by default `gaussian_blur`.

    Raises:
        DataError: as `deletion`, or a blur that changes the shape.

    Source: Petsiuk et al. 2018, section 4.2.
    """
    check_scored(images, maps, classes, batch_size, unit=False)
    counts, soft = _counts(maps, steps), blur or gaussian_blur

    def blend(some: Tensor, own: Tensor, there: Tensor) -> Tensor:
        blurred = soft(some)
        if blurred.shape != some.shape:
            raise DataError(f"blur: {list(blurred.shape)} returned for {list(some.shape)}; expected the same")
        return torch.where(there, some[own], blurred[own])

    return _curve(counts, _walk(scores, images, maps, classes, counts, batch_size, blend), maps)


def gaussian_blur(images: Tensor, size: int = 11, sigma: float = 5.0) -> Tensor:
    """Blur images [N,C,H,W] with a Gaussian window of `size` pixels, zeros around the image; same shape.

    The window is that of RISE's release: the tails beyond its edge are folded back, so it sums to 1 but is flatter
    than a Gaussian that is cut off.

    Raises:
        DataError: a size that is even or a sigma that is not positive.
    """
    if size < 1 or size % 2 == 0 or not sigma > 0:
        raise DataError(f"a window of {size} pixels, sigma {sigma:g}, given; expected an odd size and a positive sigma")
    impulse = np.zeros(size)
    impulse[size // 2] = 1
    line = torch.as_tensor(gaussian_filter1d(impulse, sigma)).to(images)
    channels = images.shape[1]
    down = line.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = line.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    columns = functional.conv2d(images, down, padding=(size // 2, 0), groups=channels)
    return functional.conv2d(columns, across, padding=(0, size // 2), groups=channels)


def _counts(maps: Tensor, steps: int) -> Tensor:
    pixels = maps[0].numel()
    if not 1 <= steps <= pixels:
        raise DataError(f"{steps} steps given; expected 1 to {pixels}, the pixels of a map")
    return torch.tensor([round(step * pixels / steps) for step in range(steps + 1)])


def _walk(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    counts: Tensor,
    batch_size: int,
    blend: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Score every image with its counts[s] highest pixels touched: float64 [N,len(counts)]; batches cross images.

    `blend` makes a batch [n,C,H,W] from the images it touches [m,C,H,W], whose each one is [n], and the touched pixels
    bool [n,1,H,W].
    """
    width, device = len(counts), images.device

    def make(at: Tensor) -> Tensor:
        image, step = at // width, at % width
        first, last = int(image[0]), int(image[-1]) + 1
        order = ranks(maps[first:last]).to(device)
        own = (image - first).to(device)
        touched = order[own] < counts[step].to(device)[:, None, None]
        return blend(images[first:last], own, touched[:, None])

    return scored(scores, make, classes.repeat_interleave(width), batch_size).reshape(-1, width)


def _curve(counts: Tensor, values: Tensor, maps: Tensor) -> Curve:
    auc = (values.sum(1) - values[:, 0] / 2 - values[:, -1] / 2) / (len(counts) - 1)
    return Curve(counts.double() / maps[0].numel(), values, auc)
