"""Random views of a picture: it is moved, scaled and turned a little before each pass, so that no pixel counts alone.

Each view is one affine map and is interpolated once. Without it, an optimiser finds noise that works at one place only
(Olah, Mordvintsev and Schubert 2017, section "Transformation robustness").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.types import Floats

GREY = 0.5  # what stands around a picture
DRAWS = 4  # random numbers of a view


@dataclass(frozen=True, kw_only=True)
class Views:
    """How the views of a picture are drawn.

    Attributes:
        shares: the side of a view as a share of the picture's, from .. to.
        shift: how far a view's centre is from the picture's at most, as a share of the picture's side; None puts views
            anywhere inside of the picture.
        turn: degrees by which a view is turned at most.
        noise: deviation of the noise that is added, in units of the way from black to white.
    """

    shares: tuple[float, float]
    shift: float | None
    turn: float
    noise: float

    def maps(self, draws: Floats) -> NDArray[np.float64]:
        """Return the affine map of each view, from its coordinates in -1..1 to the picture's, [n, 2, 3].

        Args:
            draws: n x DRAWS random numbers in 0..1.

        >>> views = Views(shares=(1, 1), shift=0.25, turn=0, noise=0)
        >>> (views.maps(np.array([[0.5, 1.0, 0.5, 0.5]])) + 0.0).tolist()  # -0.0 becomes 0.0
        [[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]
        """
        share = self.shares[0] + (self.shares[1] - self.shares[0]) * draws[:, 0]
        reach = 1 - share if self.shift is None else np.full(len(draws), 2 * self.shift)
        x, y = (reach * (2 * draws[:, column] - 1) for column in (1, 2))
        angle = np.radians(self.turn) * (2 * draws[:, 3] - 1)
        cosine, sine = share * np.cos(angle), share * np.sin(angle)
        return np.stack([np.stack([cosine, -sine, x], 1), np.stack([sine, cosine, y], 1)], 1)


SMALL_CHANGES = Views(shares=(1 / 1.1, 1 / 0.9), shift=6 / 128, turn=10.0, noise=0.0)
"""Zoom 0.9 to 1.1 and turns up to 10 degrees as lucent's `standard_transforms`; its two jitters of 8 and 4 px of 128
move a picture by at most 6. One affine map instead of five steps, and any angle instead of whole degrees: our choice.
"""
CROPS = Views(shares=(0.2, 0.25), shift=None, turn=0.0, noise=0.05)
"""Crops of MACO, of 20 to 25 % of the side, with noise (Horama, released code)."""
UNCHANGED = Views(shares=(1.0, 1.0), shift=0.0, turn=0.0, noise=0.0)


def viewed(pictures: Tensor, maps: Tensor, side: tuple[int, int]) -> Tensor:
    """Return views of pictures, with grey around the picture.

    Args:
        pictures: [N, C, h, w] in 0..1.
        maps: [N * views, 2, 3], the views of one picture stand together.
        side: (height, width) of a view in pixels.

    Returns:
        [N * views, C, *side].

    >>> pictures = torch.rand(1, 3, 4, 4)
    >>> torch.allclose(viewed(pictures, torch.eye(2, 3)[None], (4, 4)), pictures, atol=1e-6)
    True
    """
    many = len(maps) // len(pictures)
    pictures = pictures.repeat_interleave(many, 0) if many > 1 else pictures
    grid = torch.nn.functional.affine_grid(maps, [len(maps), pictures.shape[1], *side], align_corners=False)
    return GREY + torch.nn.functional.grid_sample(pictures - GREY, grid, align_corners=False)


def whole(pictures: Tensor, side: tuple[int, int]) -> Tensor:
    """Return pictures at another size, antialiased; as they are where they have it."""
    if tuple(pictures.shape[-2:]) == side:
        return pictures
    return torch.nn.functional.interpolate(pictures, side, mode="bilinear", antialias=True)
