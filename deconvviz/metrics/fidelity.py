"""Fidelity of a projection: do the pixels that it marks carry the unit's activation?

A projection ranks the pixels that a unit sees. Of these, the strongest n % are kept and the rest is filled: what is
left of the activation is what the marked pixels bring back. The mirror fills the strongest n % and keeps the rest. Two
controls rank the same pixels without looking at the network: the nearest to the unit first, and smooth noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.halving import AtOnce
from deconvviz.metrics.inputs import ranks
from deconvviz.metrics.intervals import area_under
from deconvviz.types import Floats, Ints

SHARES = (1.0, 2.0, 5.0, 10.0, 20.0)  # per cent of the pixels that a unit sees
# The standard deviation that a projection's energy is blurred by before its pixels are ranked: a share of the image's
# side, or of the layer's stride where that is more, because a unit hardly tells places apart within its stride.
BLUR, BLUR_STRIDES = 3 / 224, 1 / 6
NOISE = 8 / 224  # of the image's side: the standard deviation of the blur that makes smooth noise of white noise

Activations = Callable[[Tensor, Tensor], Tensor]
"""(int64 [K] units, their changed views [K, C, h, w]) -> the activations [K]."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """What the strongest pixels of maps bring back of activations.

    Attributes:
        shares: [S] per cent of the pixels that a unit sees.
        kept: float64 [N, S], the activation with only the strongest pixels, divided by that of the whole view.
        left: float64 [N, S], the same without the strongest pixels.
        activations: float64 [N], of the whole view. Units whose activation is not positive have NaN in `kept`, `left`.
    """

    shares: tuple[float, ...]
    kept: Floats
    left: Floats
    activations: Floats

    @property
    def counted(self) -> Ints:
        """The units with a positive activation, int64; medians and intervals are over these."""
        return np.flatnonzero(self.activations > 0)

    def area(self, mirror: bool = False) -> Floats:
        """Return the area under the curve of each unit, float64 [N]: its mean over the shares, by the trapezoid rule.

        >>> curve = np.array([[0.0, 0.5, 1.0]])
        >>> Fidelity(shares=(1, 2, 3), kept=curve, left=1 - curve, activations=np.array([2.0])).area()
        array([0.5])
        """
        return area_under(self.left if mirror else self.kept, self.shares)


def fidelity(
    activations: Activations,
    views: Tensor,
    maps: Tensor,
    seen: Tensor,
    fill: Tensor,
    shares: Sequence[float] = SHARES,
    batch_size: int = 64,
    mirror: bool = True,
    whole: Floats | None = None,
) -> Fidelity:
    """Measure what the strongest pixels of each map bring back of a unit's activation, and what is left without them.

    Args:
        activations: (units, changed views) -> activations; it is called under inference_mode.
        views: [N, C, h, w], the part of its image that each unit sees.
        maps: [N, h, w], what ranks the pixels; of equal ones the first in reading order is stronger.
        seen: bool [N, h, w], which places of a view are pixels of the image; the others are never changed.
        fill: broadcasts to the views: what stands in the place of pixels that are taken away.
        shares: per cent of the pixels seen, rising, in 0..100; the number of pixels is rounded, and at least one.
        batch_size: views that are scored at once.
        mirror: whether `left` is measured too; else it is NaN.
        whole: float64 [N], the activations of the views as they are, where they are known; else they are computed.

    Raises:
        DataError: the shapes differ, a map is not finite, or the shares do not rise within 0..100.

    Source: this package's own; deletion and insertion (Petsiuk et al. 2018) on the part of an image that a unit sees.

    >>> weights = torch.tensor([[[3.0, 1.0], [0.0, 0.0]]])  # a linear unit on 2 x 2 pixels
    >>> views, seen = torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    >>> linear = lambda units, changed: (weights * changed[:, 0]).sum((1, 2))
    >>> result = fidelity(linear, views, weights, seen, torch.zeros(1), shares=(25, 50))
    >>> result.kept, result.left
    (array([[0.75, 1.  ]]), array([[0.25, 0.  ]]))
    """
    shares = tuple(float(share) for share in shares)
    _check(views, maps, seen, shares)
    rank = ranks(torch.where(seen, maps.double(), -torch.inf))
    counts = (seen.flatten(1).sum(1)[:, None] * torch.tensor(shares, device=seen.device) / 100).round().clamp(min=1)
    units, filled = torch.arange(len(views), device=views.device), fill.to(views).expand_as(views)
    with torch.inference_mode():
        before = _scored(activations, units, lambda places: views[places], batch_size) if whole is None else whole
        curves = np.full((2, len(views), len(shares)), np.nan)
        for side in range(2 if mirror else 1):

            def changed(places: Tensor, side: int = side) -> Tensor:
                unit, step = places // len(shares), places % len(shares)
                strongest = rank[unit] < counts[unit, step][:, None, None]
                keep = (strongest if side == 0 else ~strongest) | ~seen[unit]
                return torch.where(keep[:, None], views[unit], filled[unit])

            many = torch.arange(len(views) * len(shares), device=views.device)
            after = _scored(activations, many, changed, batch_size, len(shares))
            with np.errstate(invalid="ignore", divide="ignore"):
                curves[side] = np.where(before > 0, after.reshape(len(views), -1).T / before, np.nan).T
    return Fidelity(shares=shares, kept=curves[0], left=curves[1], activations=before)


def _scored(
    activations: Activations, places: Tensor, changed: Callable[[Tensor], Tensor], batch_size: int, each: int = 1
) -> Floats:
    """Return the activations of changed views, float64; `each` places in turn belong to one unit."""

    def part(start: int, stop: int) -> Tensor:
        some = places[start:stop]
        return activations(some // each, changed(some))

    parts = [*AtOnce(batch_size, "views").parts(len(places), part)]
    return np.asarray(torch.cat(parts).double().cpu().numpy())


def _check(views: Tensor, maps: Tensor, seen: Tensor, shares: Sequence[float]) -> None:
    expected = (len(views), *views.shape[2:])
    for name, value in {"maps": maps, "seen": seen}.items():
        if tuple(value.shape) != expected:
            raise DataError(f"{name}: {list(value.shape)} given; expected {list(expected)}, as the views have")
    if not torch.isfinite(maps).all():
        raise DataError("maps: values that are NaN or infinite given; expected finite numbers")
    if not shares or list(shares) != sorted(set(shares)) or shares[0] <= 0 or shares[-1] > 100:
        raise DataError(f"shares {list(shares)} given; expected rising percentages, above 0 and at most 100")


def energy(projections: Tensor, sigma: float) -> Tensor:
    """Return the energy of projections at each pixel, blurred: what ranks the pixels for `fidelity`.

    Args:
        projections: [N, C, h, w].
        sigma: standard deviation of the blur in pixels; 0 does not blur.

    Returns:
        float64 [N, h, w] on the CPU, the squares summed over the colours, then blurred; beyond the border is zero.

    >>> energy(torch.tensor([[[[1.0]], [[2.0]]]]), 0).item()
    5.0
    """
    squares = projections.double().square().sum(1).cpu().numpy()
    return torch.from_numpy(gaussian_filter(squares, (0, sigma, sigma), mode="constant"))


def nearest(seen: Tensor, centres: Tensor) -> Tensor:
    """Return the control that ranks the nearest pixels first: minus the distance to a unit's centre.

    Args:
        seen: bool [N, h, w]; only its shape counts.
        centres: [N, 2], (row, column) of each unit's centre in its view.

    Returns:
        float64 [N, h, w].

    >>> nearest(torch.ones(1, 1, 3, dtype=torch.bool), torch.tensor([[0.0, 1.0]]))
    tensor([[[-1., -0., -1.]]], dtype=torch.float64)
    """
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in seen.shape[1:])
    places = centres.double().cpu()
    return -torch.hypot(rows[None, :, None] - places[:, 0, None, None], columns[None, None] - places[:, 1, None, None])


def smooth_noise(seen: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Return the control that ranks pixels by chance, in patches: white noise, blurred.

    Args:
        seen: bool [N, h, w]; only its shape counts.
        sigma: standard deviation of the blur in pixels.
        seed: of the noise; each map has its own.

    Returns:
        float64 [N, h, w].

    >>> smooth_noise(torch.ones(2, 4, 4, dtype=torch.bool), 1.0).shape
    torch.Size([2, 4, 4])
    """
    white = np.random.default_rng(seed).standard_normal(tuple(seen.shape))
    return torch.from_numpy(gaussian_filter(white, (0, sigma, sigma), mode="reflect"))
