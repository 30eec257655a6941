"""The class's probability as pixels are deleted or inserted, the most important ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from deconvviz.errors import DataError
from deconvviz.lengths import BlurWindow
from deconvviz.metrics.inputs import Scores, check_scored, fill_like, of_classes, probabilities, ranks, scored
from deconvviz.metrics.metric import register
from deconvviz.words import counted

register("deletion", "Deletion AUC", False, "mean probability", "Petsiuk et al. 2018, RISE")
register("insertion", "Insertion AUC", True, "mean probability", "Petsiuk et al. 2018, RISE")

INSERTION_BLUR = BlurWindow(11, 5.0)  # of RISE's release, for 224 px

Blur = Callable[[Tensor], Tensor]
"""Images [n, C, H, W] -> blurred images of the same shape, each image by itself."""


@dataclass(frozen=True)
class Curve:
    """The probability of each image's class, step by step.

    Attributes:
        fractions: float64 [S + 1], the share of the pixels that is deleted or inserted, 0 to 1.
        probabilities: float64 [N, S + 1], after each step.
        auc: float64 [N], the area under the curve by the trapezoid rule: (sum - first / 2 - last / 2) / S.
    """

    fractions: Tensor
    probabilities: Tensor
    auc: Tensor


def deletion(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    steps: int | None = None,
    fill: Tensor | float = 0.0,
    batch_size: int = 32,
) -> Curve:
    """Replace the pixels of each image by `fill`, those first that its map ranks highest. A low AUC is better.

    Args:
        scores: see Scores; it is called under inference_mode.
        images: [N, C, H, W], normalised.
        maps: [N, H, W]; only the order of their values counts, and equal pixels go in row-major order.
        classes: int64 [N], the class that is explained.
        steps: S, at most H * W; after step s, round(s * H * W / S) pixels are deleted. By default as many as the
            shorter side has pixels: RISE has 224 on 224 x 224 in its notebook, and 28 for its table.
        fill: the fill for deleted pixels, a number or [C] in normalised space; 0 is the dataset's mean.
        batch_size: images that are scored at once. The last step is the same picture for all and is scored once.

    Raises:
        DataError: the inputs do not belong together, or `scores` does not return probabilities.

    Source: Petsiuk et al. 2018, section 4.2.

    >>> def scores(images):  # class 0 is as probable as the image is bright
    ...     brightness = images.mean((1, 2, 3))
    ...     return torch.stack([brightness, 1 - brightness], 1)
    >>> image = torch.tensor([[[[0.8, 0.0], [0.4, 0.0]]]])
    >>> curve = deletion(scores, image, image[:, 0], torch.tensor([0]), steps=4)
    >>> curve.probabilities.numpy().round(3), round(curve.auc.item(), 4)
    (array([[0.3, 0.1, 0. , 0. , 0. ]]), 0.0625)
    """
    check_scored(images, maps, classes, batch_size, unit=False)
    counts, blank = _counts(maps, steps), fill_like(images, fill)

    def blend(originals: Tensor, rows: Tensor, deleted: Tensor) -> Tensor:
        return torch.where(deleted, blank, originals[rows])

    values = _walk(scores, images, maps, classes, counts[:-1], batch_size, blend)
    last = of_classes(probabilities(scores, blank.expand(1, *images.shape[1:]).contiguous()), classes)
    return _curve(counts, torch.cat([values, last[:, None]], 1), maps)


def insertion(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    steps: int | None = None,
    blur: Blur | None = None,
    batch_size: int = 32,
) -> Curve:
    """Insert the pixels of each image into its blurred copy, those first that its map ranks highest.

    A high AUC is better.

    Args:
        scores: see Scores; it is called under inference_mode.
        images: [N, C, H, W], normalised.
        maps: [N, H, W]; only the order of their values counts, and equal pixels go in row-major order.
        classes: int64 [N], the class that is explained.
        steps: S, at most H * W; after step s, round(s * H * W / S) pixels are inserted. By default as many as the
            shorter side has pixels.
        blur: returns the images from which the insertion begins; by default `gaussian_blur`.
        batch_size: images that are scored at once.

    Raises:
        DataError: the inputs do not belong together, `scores` does not return probabilities, or the blur changes the
            shape.

    Source: Petsiuk et al. 2018, section 4.2.
    """
    check_scored(images, maps, classes, batch_size, unit=False)
    counts, blurring = _counts(maps, steps), blur or gaussian_blur

    def blend(originals: Tensor, rows: Tensor, inserted: Tensor) -> Tensor:
        blurred = blurring(originals)
        if blurred.shape != originals.shape:
            raise DataError(f"blur: {list(blurred.shape)} returned for {list(originals.shape)}; expected the same")
        return torch.where(inserted, originals[rows], blurred[rows])

    return _curve(counts, _walk(scores, images, maps, classes, counts, batch_size, blend), maps)


def gaussian_blur(images: Tensor, size: int | None = None, sigma: float | None = None) -> Tensor:
    """Blur images with a Gaussian window; the image is surrounded by zeros.

    The window is that of RISE's release: the tails beyond its edge are folded back, so that it sums to 1 but is flatter
    than a Gaussian that is cut off.

    Args:
        images: [N, C, H, W].
        size: of the window in pixels, odd; by default that of RISE's release, 11 px of 224, as a share of the images'
            shorter side, at least 3.
        sigma: of the Gaussian in pixels; by default 5/11 of the window's default.

    Returns:
        [N, C, H, W].

    Raises:
        DataError: the size is even, or sigma is not positive.

    >>> image = torch.zeros(1, 1, 32, 32)
    >>> image[0, 0, 9, 9] = 1
    >>> int((gaussian_blur(image) > 0).sum())  # 3 x 3 pixels
    9
    """
    default_size, default_sigma = INSERTION_BLUR.of(*images.shape[-2:])
    size, sigma = default_size if size is None else size, default_sigma if sigma is None else sigma
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


def _counts(maps: Tensor, steps: int | None) -> Tensor:
    """Return how many pixels are deleted or inserted after each step, int64 [steps + 1]; None: a step for each row."""
    pixels = maps[0].numel()
    steps = min(maps.shape[1:]) if steps is None else steps
    if not 1 <= steps <= pixels:
        raise DataError(f"{counted(steps, 'step')} given; expected 1 to {pixels}, the pixels of a map")
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
    """Score every image with its highest pixels changed, counts[s] of them at step s; batches cross images.

    Args:
        scores: see Scores.
        images: [N, C, H, W].
        maps: [N, H, W].
        classes: int64 [N].
        counts: int64 [S].
        batch_size: images that are scored at once.
        blend: makes a batch [n, C, H, W] from some of the images, [m, C, H, W], from which of these each picture of the
            batch is made, int64 [n], and from its changed pixels, bool [n, 1, H, W].

    Returns:
        float64 [N, S].
    """
    steps, device = len(counts), images.device

    def make(indices: Tensor) -> Tensor:
        image, step = indices // steps, indices % steps
        first, last = int(image[0]), int(image[-1]) + 1
        order = ranks(maps[first:last]).to(device)
        rows = (image - first).to(device)
        changed = order[rows] < counts[step].to(device)[:, None, None]
        return blend(images[first:last], rows, changed[:, None])

    return scored(scores, make, classes.repeat_interleave(steps), batch_size).reshape(-1, steps)


def _curve(counts: Tensor, values: Tensor, maps: Tensor) -> Curve:
    """Return the curve of probabilities [N, S + 1] after so many changed pixels, int64 [S + 1]."""
    auc = (values.sum(1) - values[:, 0] / 2 - values[:, -1] / 2) / (len(counts) - 1)
    return Curve(counts.double() / maps[0].numel(), values, auc)
