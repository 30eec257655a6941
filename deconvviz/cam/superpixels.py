"""Superpixels: an image cut into connected regions of much the same colour, which methods switch on and off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconvviz.cam.backend import Make


@dataclass(frozen=True)
class Superpixels:
    """The superpixels of some images.

    Attributes:
        labels: int64 [N, H, W], the number of each pixel's superpixel, from 0.
        counts: how many each image has.
    """

    labels: Tensor
    counts: tuple[int, ...]

    def masks(self, members: Tensor) -> Make:
        """Return what makes masks: 1 where a pixel's superpixel takes part, of members [N, variants, superpixels]."""

        def make(images: Tensor, variants: Tensor) -> Tensor:
            labels = self.labels[images]
            return members[images, variants].gather(1, labels.flatten(1)).reshape(labels.shape)

        return make

    def drawn(self, values: Tensor) -> Tensor:
        """Return for each pixel the value of its superpixel, [N, H, W], of values [N, superpixels]."""
        return values.gather(1, self.labels.flatten(1)).reshape(self.labels.shape)

    def means(self, images: Tensor) -> Tensor:
        """Return images [N, C, H, W] in which each pixel has the mean colour of its superpixel.

        >>> halves = Superpixels(torch.tensor([[[0, 1, 1]]]), (2,))
        >>> halves.means(torch.tensor([[[[1.0, 2.0, 4.0]]]])).tolist()
        [[[[1.0, 3.0, 3.0]]]]
        """
        places = self.labels.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        sums = images.new_zeros(*images.shape[:2], max(self.counts))
        means = sums.scatter_reduce(2, places, images.flatten(2), "mean", include_self=False)
        return means.gather(2, places).reshape(images.shape)


def superpixels(images: Tensor, count: int, compactness: float) -> Superpixels:
    """Cut images [N, C, H, W] into about `count` superpixels each, by scikit-image's `slic`.

    Each image is scaled to 0..1 by itself; colours are compared in CIELAB where there are three channels. compactness:
    how much nearness counts beside colour.
    """
    from skimage.segmentation import slic

    labels = []
    for image in images.detach().double().cpu():
        low, high = float(image.min()), float(image.max())
        picture = ((image - low) / (high - low if high > low else 1)).movedim(0, -1).numpy()
        options = {"compactness": compactness, "start_label": 0, "channel_axis": -1, "convert2lab": len(image) == 3}
        labels.append(torch.from_numpy(slic(picture, count, **options)).long())
    return Superpixels(torch.stack(labels).to(images.device), tuple(int(each.max()) + 1 for each in labels))
