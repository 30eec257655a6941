"""What the methods for pairs draw at random: boxes to erase, and changes of colour that move no pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as colours

from deconvviz.cam.shaping import gaussian_blur
from deconvviz.lengths import Length
from deconvviz.types import Floats

JITTER, HUE = 0.8, 0.2  # of brightness, contrast and saturation, and of the hue: SimCLR's colour jitter at strength 1
JITTERED, GREY, BLURRED, ERASED = 0.8, 0.2, 0.5, 0.5  # how often each change is made
BLUR, SIGMA = Length(21), (0.1, 2.0)  # the window of the blur, and the range of its sigma at 224 px
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def generator_of(seed: int, *address: int) -> torch.Generator:
    """Return a generator for a place: the same numbers come out wherever and whenever it is asked for.

    >>> torch.equal(torch.rand(2, generator=generator_of(0, 7)), torch.rand(2, generator=generator_of(0, 7)))
    True
    """
    number = seed
    for part in address:
        number = number * 1_000_003 + part
    return torch.Generator().manual_seed(number % 2**63)


def random_box(
    size: tuple[int, int], area: Sequence[float], ratio: Sequence[float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a box in an image.

    Args:
        size: (height, width) of the image.
        area: the lowest and the highest share of the image's area.
        ratio: the lowest and the highest height over width, of which the logarithm is uniform.
        generator: of the random numbers.

    Returns:
        (top, left, bottom, right) in pixels; bottom and right are exclusive. A box that would be higher or wider than
        the image is cut to it.

    Source: Zhong et al. 2017, random erasing, as torchvision draws it; torchvision draws again where we cut.
    """
    where, shape, y, x = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    pixels = size[0] * size[1] * (area[0] + where * (area[1] - area[0]))
    aspect = math.exp(math.log(ratio[0]) + shape * (math.log(ratio[1]) - math.log(ratio[0])))
    height = min(max(round(math.sqrt(pixels * aspect)), 1), size[0])
    width = min(max(round(math.sqrt(pixels / aspect)), 1), size[1])
    top, left = (int(share * (room + 1)) for share, room in ((y, size[0] - height), (x, size[1] - width)))
    return top, left, top + height, left + width


def covers(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return which pixels boxes cover.

    Args:
        boxes: int64 [n, 4], (top, left, bottom, right).
        size: (height, width) of the image.

    Returns:
        bool [n, height, width].

    >>> covers(torch.tensor([[0, 1, 1, 3]]), (2, 3)).int().tolist()
    [[[0, 1, 1], [0, 0, 0]]]
    """
    down, across = (torch.arange(side, device=boxes.device) for side in size)
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    return ((down >= top) & (down < bottom))[:, :, None] & ((across >= left) & (across < right))[:, None]


class Colours:
    """Changes of colour that move no pixel: draw n is the same change for every image.

    Each is a jitter of brightness, contrast, saturation and hue, sometimes grey, sometimes a blur. Saturation, hue and
    grey are for images of three channels; others have the rest.

    Source: the "no shift" transforms of the release of Sammani et al. 2022, those of SimCLR without crop and flip.
    """

    def __init__(self, x: Tensor, bounds: tuple[Tensor, Tensor] | None, seed: int) -> None:
        """Prepare images.

        Args:
            x: [N, C, H, W], as the network takes them.
            bounds: the values of black and of white, [C] each; None takes the lowest and highest value of each image.
            seed: of the draws.
        """
        self.seed, self.size = seed, (int(x.shape[2]), int(x.shape[3]))
        if bounds is None:
            low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        else:
            low, high = (bound.to(x)[None, :, None, None] for bound in bounds)
        self.low, self.span = low, (high - low).clamp(min=torch.finfo(x.dtype).tiny)
        self.pictures = ((x - low) / self.span).clamp(0, 1)  # float in 0..1

    def changed(self, draw: int, images: slice = slice(None)) -> Tensor:
        """Return some of the images after the change of a number, [n, C, H, W], as the network takes them."""
        generator = generator_of(self.seed, 1, draw)
        uniform: Floats = torch.rand(9, generator=generator, dtype=torch.float64).numpy()
        pictures = self.pictures[images]
        if uniform[0] < JITTERED:
            pictures = _jittered(pictures, uniform[1:5], torch.randperm(4, generator=generator).tolist())
        if uniform[5] < GREY and pictures.shape[1] == 3:
            pictures = colours.rgb_to_grayscale(pictures, 3)
        if uniform[6] < BLURRED:
            sigma = (SIGMA[0] + float(uniform[7]) * (SIGMA[1] - SIGMA[0])) * min(self.size) / 224
            pictures = gaussian_blur(pictures, BLUR.of(*self.size) // 2 * 2 + 1, sigma)
        low, span = (each[images] if len(each) > 1 else each for each in (self.low, self.span))
        return pictures * span + low

    def box(self, draw: int) -> tuple[int, int, int, int] | None:
        """Return the box that a draw erases, (top, left, bottom, right); None for one of the draws without."""
        generator = generator_of(self.seed, 2, draw)
        if float(torch.rand(1, generator=generator)) >= ERASED:
            return None
        return random_box(self.size, ERASED_AREA, ERASED_RATIO, generator)


def _jittered(pictures: Tensor, uniform: Floats, order: Sequence[int]) -> Tensor:
    """Return pictures in 0..1 with brightness, contrast, saturation and hue changed, in an order."""
    factors = [1 - JITTER + 2 * JITTER * float(each) for each in uniform[:3]]
    hue = HUE * (2 * float(uniform[3]) - 1)
    for change in order:
        if change == 0:
            pictures = (pictures * factors[0]).clamp(0, 1)
        elif change == 1 and pictures.shape[1] in (1, 3):
            pictures = colours.adjust_contrast(pictures, factors[1])
        elif change == 1:
            mean = pictures.mean((1, 2, 3), keepdim=True)
            pictures = (mean + factors[1] * (pictures - mean)).clamp(0, 1)
        elif pictures.shape[1] == 3:
            changed = colours.adjust_saturation(pictures, factors[2]) if change == 2 else None
            pictures = colours.adjust_hue(pictures, hue) if changed is None else changed
    return pictures
