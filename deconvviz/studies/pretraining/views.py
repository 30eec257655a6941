"""Two views of each image: random crops, mirrored, recoloured and blurred, each drawn from an address.

All images of a batch are changed at once on the device, each in its own way. What is drawn depends on the address alone
and never on earlier draws, so that a training that was killed and resumed sees the same views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deconvviz.errors import TrainingError, require
from deconvviz.types import Floats

RATIO = (3 / 4, 4 / 3)  # width over height of a crop, of which the logarithm is uniform: those of torchvision
CHANGE, HUE = 0.8, 0.2  # of brightness, contrast and saturation, and of the circle of hues: SimCLR's at strength 1
SIGMA, OF_SIDE = (0.1, 2.0), 224  # of the blur in pixels, and the side of the images that it is meant for
DEVIATIONS = 3  # of the Gaussian to each side
# Luma and two colour differences (YIQ) of red, green and blue: a turn of the last two is a change of hue
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
DRAWS = 8  # uniform numbers for the colours of a view


@dataclass(frozen=True, kw_only=True)
class Views:
    """How the views of an image are drawn.

    Attributes:
        crop: smallest share of the image's area that a crop has, above 0 and up to 1; 1 takes the whole image.
        colour: strength of the changes of brightness, contrast, saturation and hue: 1 is SimCLR's on ImageNet.
        jitter: share of the views whose colours are changed.
        grey: share of the views that become grey.
        blur: share of the views that are blurred.
        flip: share of the views that are mirrored.

    Raises:
        TrainingError: a value out of its range.

    Source: Chen et al. 2020, appendix A, from memory, with crops of at least 0.2 of the area (0.08 there) and strength
    0.5, as on CIFAR-10. Our choice: hue is turned in YIQ; brightness, contrast, saturation and hue are changed in this
    order; the blur goes with the side of the image, so that views of 32 px are hardly blurred.

    >>> Views(colour=0).blur
    0.5
    """

    crop: float = 0.2
    colour: float = 0.5
    jitter: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    flip: float = 0.5

    def __post_init__(self) -> None:
        expectations = {field.name: (0 <= getattr(self, field.name) <= 1, "0 to 1") for field in fields(self)}
        require(self, TrainingError, **{**expectations, "crop": (0 < self.crop <= 1, "a share above 0 and up to 1")})

    def of(self, pictures: Tensor, side: int, rng: np.random.Generator) -> Tensor:
        """Return one view of each picture.

        Args:
            pictures: floating [N, C, H, W]; 0 is black and 1 is white.
            side: of the views, in pixels.
            rng: what they are drawn from.

        Returns:
            [N, C, side, side] in 0..1.

        >>> Views().of(torch.rand(4, 3, 36, 36), 32, np.random.default_rng(0)).shape
        torch.Size([4, 3, 32, 32])
        """
        height, width = pictures.shape[2:]
        boxes = torch.from_numpy(draw_crops(len(pictures), (height, width), self, rng)).to(pictures)
        uniform = torch.from_numpy(rng.random((len(pictures), DRAWS))).to(pictures)
        views = self._recoloured(cropped(pictures, boxes, side), uniform)
        low, high = (limit * side / OF_SIDE for limit in SIGMA)
        return blurred(views, (uniform[:, 6] < self.blur) * (low + uniform[:, 7] * (high - low)), high)

    def _recoloured(self, views: Tensor, uniform: Tensor) -> Tensor:
        """Change brightness and contrast, and, of images of three channels, saturation and hue; perhaps make grey."""
        strength = self.colour * (uniform[:, 0] < self.jitter)
        brightness, contrast, saturation = (1 + CHANGE * strength * (2 * uniform[:, n] - 1) for n in (1, 2, 3))
        turn = 2 * math.pi * HUE * strength * (2 * uniform[:, 4] - 1)
        views = (views * brightness[:, None, None, None]).clamp(0, 1)
        colours = views.shape[1] == 3
        weights = torch.tensor(YIQ[0]).to(views) if colours else views.new_full((views.shape[1],), 1 / views.shape[1])
        middle = torch.einsum("nchw,c->n", views, weights)[:, None, None, None] / views[0, 0].numel()
        views = (middle + contrast[:, None, None, None] * (views - middle)).clamp(0, 1)
        if not colours:
            return views
        matrices = colour_matrices(saturation * (uniform[:, 5] >= self.grey), turn)
        return torch.einsum("nij,njhw->nihw", matrices, views).clamp(0, 1)


def draw_crops(count: int, size: tuple[int, int], views: Views, rng: np.random.Generator) -> Floats:
    """Draw a crop of each image, and whether it is mirrored.

    Args:
        count: number of images.
        size: (height, width) of the images.
        views: smallest share of the area, and share that is mirrored.
        rng: what they are drawn from.

    Returns:
        float64 [count, 4], (left, top, right, bottom) in pixels, not rounded; left is above right where the crop is
        mirrored. A crop that would be higher or wider than the image is cut to it.

    >>> draw_crops(1, (20, 30), Views(crop=1, flip=0), np.random.default_rng(0)).shape
    (1, 4)
    """
    height, width = size
    area = height * width * rng.uniform(views.crop, 1, count)
    ratio = (
        np.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]), count))
        if views.crop < 1
        else np.full(count, width / height)
    )
    across, down = np.minimum(np.sqrt(area * ratio), width), np.minimum(np.sqrt(area / ratio), height)
    left, top = rng.random(count) * (width - across), rng.random(count) * (height - down)
    mirrored = rng.random(count) < views.flip
    right = left + across
    return np.stack([np.where(mirrored, right, left), top, np.where(mirrored, left, right), top + down], 1)


def cropped(pictures: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Cut a box out of each picture and resize it to a square, bilinearly.

    Args:
        pictures: floating [N, C, H, W].
        boxes: [N, 4], (left, top, right, bottom) in pixels; one whose left is above its right is mirrored.
        side: of the squares in pixels.

    Returns:
        [N, C, side, side].

    >>> picture = torch.arange(4.0).view(1, 1, 2, 2)
    >>> cropped(picture, torch.tensor([[2.0, 0.0, 0.0, 2.0]]), 2).flatten().tolist()
    [1.0, 0.0, 3.0, 2.0]
    """
    height, width = pictures.shape[2:]
    size = pictures.new_tensor([width, height])
    first, last = 2 * boxes[:, :2] / size - 1, 2 * boxes[:, 2:] / size - 1  # -1 and 1 are the borders
    theta = pictures.new_zeros(len(pictures), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = ((last - first) / 2).unbind(1)
    theta[:, :, 2] = (first + last) / 2
    grid = functional.affine_grid(theta, [len(pictures), pictures.shape[1], side, side], align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def colour_matrices(saturation: Tensor, turn: Tensor) -> Tensor:
    """Return the matrices that change saturation and hue of red, green and blue, and keep the luma.

    Args:
        saturation: floating [N], the factor; 0 gives grey.
        turn: floating [N], of the hue, in radians.

    Returns:
        [N, 3, 3].

    >>> torch.allclose(colour_matrices(torch.ones(1), torch.zeros(1)), torch.eye(3), atol=1e-6)
    True
    """
    to = torch.tensor(YIQ, dtype=torch.float64)
    back = torch.linalg.inv(to).to(saturation)
    cosine, sine = saturation * turn.cos(), saturation * turn.sin()
    one, zero = torch.ones_like(turn), torch.zeros_like(turn)
    rows = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], 1)
    matrices: Tensor = back @ rows.view(-1, 3, 3) @ to.to(saturation)
    return matrices


def blurred(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur each image with a Gaussian of its own; what is outside of the image repeats its border.

    Args:
        images: floating [N, C, H, W].
        sigma: [N], standard deviations in pixels; an image with 0 stays as it is.
        largest: the largest that sigma may be, which says how many pixels are looked at.

    >>> torch.allclose(blurred(torch.ones(1, 1, 4, 4), torch.tensor([1.0]), 1.0), torch.ones(1, 1, 4, 4))
    True
    """
    reach = math.ceil(DEVIATIONS * largest)
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernels = torch.exp(-(places**2) / (2 * sigma[:, None] ** 2).clamp(min=1e-12))  # [N, k]: one pixel where sigma is 0
    kernels = kernels / kernels.sum(1, keepdim=True)
    count, channels = images.shape[:2]
    weights = kernels.repeat_interleave(channels, 0)
    padded = functional.pad(images, (reach,) * 4, mode="replicate").view(
        1, count * channels, -1, images.shape[3] + 2 * reach
    )
    down = functional.conv2d(padded, weights[:, None, :, None], groups=count * channels)
    across = functional.conv2d(down, weights[:, None, None, :], groups=count * channels)
    return across.view(images.shape)
