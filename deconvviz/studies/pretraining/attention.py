"""The spatial cross-attention add-on: an image's maps are masked by where they match those of a partner."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deconvviz.cam.pairs.matching import place_cosines
from deconvviz.errors import DataError, require, require_choice

FORMS, PARTNERS = ("plain", "module"), ("view", "neighbour")
GAMMA = 5.0


class SpatialAttention(nn.Module):
    """Masks the last maps of an image by where they match those of a partner, while a network is trained.

    F [C, h, w] are the maps of an image, G those of its partner. The masked maps m F go through the rest of the network
    beside F, and the loss of their projections is added to that of the plain ones. After the training nothing of it is
    left: the network's own weights are used as they are.

    plain: m(u) is max over v of cos(F(u), G(v)), scaled from its lowest value over u (0) to its highest (1). It has no
    weights.
    module: m(u) = sigmoid(gamma max over v of cos(Q F(u), K G(v)) + beta); Q and K are 1x1 convolutions to C / 4 maps,
    gamma is 5, and beta is learned from 0.

    Source: Seyfi, Banitalebi-Dehkordi and Zhang 2022, arXiv 2206.05028, of which we know the abstract: an add-on that
    brings spatial cross-correlations between samples into a training and is removed afterwards. The equations are ours.

    >>> attention = SpatialAttention(8)
    >>> attention.masks(torch.rand(4, 8, 3, 3)).shape  # of two images, both views
    torch.Size([4, 3, 3])
    """

    def __init__(self, channels: int, form: str = "plain", partner: str = "view", weight: float = 1.0) -> None:
        """Build the add-on.

        Args:
            channels: C.
            form: "plain" or "module".
            partner: "view", the other view of the same image; or "neighbour", the other image of the batch whose mean
                maps are most alike by the cosine.
            weight: of the masked maps' loss.

        Raises:
            DataError: a value out of its range.
        """
        super().__init__()
        require_choice("form", form, FORMS)
        require_choice("partner", partner, PARTNERS)
        require(locals(), DataError, weight=(weight > 0, "a positive number; leave the add-on out for none"))
        self.form, self.partner, self.weight = form, partner, weight
        if form == "module":
            fewer = max(1, channels // 4)
            self.query, self.key = (nn.Conv2d(channels, fewer, 1, bias=False) for _ in range(2))
            self.beta = nn.Parameter(torch.zeros(()))

    def masks(self, maps: Tensor) -> Tensor:
        """Return the mask of each image.

        Args:
            maps: floating [2 N, C, h, w], those of N first views and then of the N second ones.

        Returns:
            [2 N, h, w] in 0..1.
        """
        partners = maps[self.partners(maps)]
        if self.form == "module":
            matched = place_cosines(self.query(maps), self.key(partners)).amax(2)
            return torch.sigmoid(GAMMA * matched + self.beta).view(len(maps), *maps.shape[2:])
        matched = place_cosines(maps, partners).amax(2)
        low, high = matched.amin(1, keepdim=True), matched.amax(1, keepdim=True)
        scaled = (matched - low) / (high - low).clamp(min=torch.finfo(matched.dtype).eps)
        return scaled.view(len(maps), *maps.shape[2:])

    def partners(self, maps: Tensor) -> Tensor:
        """Return which image each one is compared with, int64 [2 N]; `maps` as in `masks`."""
        count = len(maps) // 2
        if self.partner == "view":
            return torch.arange(2 * count, device=maps.device).roll(count)
        with torch.no_grad():
            means = nn.functional.normalize(maps.mean((2, 3)), dim=1)
            image = torch.arange(2 * count, device=maps.device) % count
            alike = (means @ means.T).masked_fill(image[:, None] == image, -torch.inf)
            return alike.argmax(1)

    def beside(self, maps: Tensor) -> Tensor:
        """Return the maps [2 N, C, h, w] and below them the masked ones, [4 N, C, h, w]."""
        return torch.cat([maps, self.masks(maps)[:, None] * maps])
