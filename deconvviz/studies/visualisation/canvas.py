"""Canvases: what an optimiser changes, and the pictures that it stands for.

A picture has values in 0..1, the share of the way from black to white. Optimising plain pixels gives high-frequency
noise; Fourier coefficients that are scaled by 1 / frequency, in colours that are not correlated, have the statistics of
photos (Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section "Preconditioning and parameterization").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from deconvviz.data.preprocess import Preprocess

START = 0.01  # deviation of the coefficients at the start (lucent, `fft_image`)
SPREAD = 4.0  # by which the picture before the colours is divided (lucent, `fft_image`)
PIXEL_START = 0.01  # deviation of pixels around grey at the start: our choice
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""Square root of the correlation of the colours of ImageNet's photos (lucid and lucent, `color.py`)."""
DARKEST = 0.02  # pixels of photos are clipped to DARKEST .. 1 - DARKEST before their logarithm is taken: our choice


class Canvas(ABC):
    """Parameters of N pictures. An optimiser changes `parameters`; `pictures` makes pictures of them.

    Attributes:
        parameters: the tensor that the optimiser changes, its first axis counts pictures.
        algorithm: the optimiser that suits it, "adam" or "nadam".
        rate: the optimiser's learning rate by default.
    """

    algorithm = "adam"
    rate = 0.05

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters.requires_grad_()

    @abstractmethod
    def pictures(self) -> Tensor:
        """Return the pictures, [N, C, h, w] in 0..1, so that gradients reach the parameters."""

    def keep_in_range(self) -> None:
        """Bring the parameters back where pictures are between black and white, after a step; most always are."""
        return


class PixelCanvas(Canvas):
    """Plain pixels, clipped to 0..1 after each step: a projected gradient."""

    @classmethod
    def grey(cls, noise: Tensor) -> PixelCanvas:
        """Begin with grey pictures and a little noise; `noise` is standard normal, [N, C, h, w]."""
        return cls(0.5 + PIXEL_START * noise)

    def pictures(self) -> Tensor:
        """Return the parameters, which are pictures."""
        return self.parameters

    def keep_in_range(self) -> None:
        """Clip the pixels to 0..1."""
        with torch.no_grad():
            self.parameters.clamp_(0, 1)


class SpectralCanvas(Canvas):
    """Fourier coefficients in decorrelated colours: p = sigmoid(C irfft2(s z) / 4), s = 1 / max(f, 1 / max(h, w)).

    z are the parameters, complex [N, C, h, w / 2 + 1] as real pairs. Source: lucid and lucent, `fft_image` and
    `to_valid_rgb` (released code). Images of other than three channels have no known correlation of colours: C is 1.

    Attributes:
        size: (height, width) of the pictures in pixels.
    """

    def __init__(self, parameters: Tensor, size: tuple[int, int]) -> None:
        super().__init__(parameters)
        self.size = size
        self.scale = SPREAD**-1 / frequencies(size, parameters)[..., None]

    @classmethod
    def grey(cls, noise: Tensor, size: tuple[int, int]) -> SpectralCanvas:
        """Begin with nearly grey pictures; `noise` is standard normal, [N, C, *spectrum_of(size), 2]."""
        return cls(START * noise, size)

    @classmethod
    def of(cls, pictures: Tensor) -> SpectralCanvas:
        """Begin with given pictures, [N, C, h, w] in 0..1."""
        size = pictures.shape[-2], pictures.shape[-1]
        canvas = cls(torch.view_as_real(torch.fft.rfft2(unmixed(pictures), norm="ortho")), size)
        with torch.no_grad():
            canvas.parameters /= canvas.scale
        return canvas

    def pictures(self) -> Tensor:
        """Return the pictures of the coefficients."""
        spectrum = torch.view_as_complex((self.parameters * self.scale).contiguous())
        return mixed(torch.fft.irfft2(spectrum, s=self.size, norm="ortho"))


class PhaseCanvas(Canvas):
    """The phase alone; how strong each frequency is, is fixed: p = sigmoid(C irfft2(m exp(i phase))).

    The magnitudes m are those of real photos. The phases are standardised, so that no step can collapse them.

    Source: Fel et al. 2023, "Unlocking feature visualization for deeper networks with magnitude constrained
    optimization" (MACO), and the released code Horama: NAdam with rate 1.0. That m is measured of logit(p), in which
    it comes back exactly, is our choice.

    Attributes:
        magnitude: [C, *spectrum_of(size)].
        size: (height, width) of the pictures in pixels.
    """

    algorithm = "nadam"
    rate = 1.0

    def __init__(self, parameters: Tensor, magnitude: Tensor, size: tuple[int, int]) -> None:
        super().__init__(parameters)
        self.magnitude, self.size = magnitude.to(parameters), size

    def pictures(self) -> Tensor:
        """Return the pictures of the standardised phases."""
        axes = (1, 2, 3)
        deviation = self.parameters.std(axes, keepdim=True) + 1e-5
        phase = (self.parameters - self.parameters.mean(axes, keepdim=True)) / deviation
        return of_spectrum(self.magnitude, phase, self.size)


def of_spectrum(magnitude: Tensor, phase: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pictures [N, C, h, w] in 0..1 of magnitudes [C, *spectrum_of(size)] and phases [N, C, ...]."""
    spectrum = torch.polar(magnitude.expand_as(phase), phase)
    return mixed(torch.fft.irfft2(spectrum, s=size, norm="ortho"))


def frequencies(size: tuple[int, int], like: Tensor) -> Tensor:
    """Return max(f, 1 / longer side) of each coefficient in cycles a pixel, [*spectrum_of(size)].

    >>> frequencies((4, 4), torch.zeros(1))[:2]
    tensor([[0.2500, 0.2500, 0.5000],
            [0.2500, 0.3536, 0.5590]])
    """
    rows, columns = torch.fft.fftfreq(size[0]), torch.fft.rfftfreq(size[1])
    return torch.hypot(*torch.meshgrid(rows, columns, indexing="ij")).clamp(min=1 / max(size)).to(like)


def spectrum_of(size: tuple[int, int]) -> tuple[int, int]:
    """Return how many coefficients a real picture of (height, width) pixels has, in rows and columns."""
    return size[0], size[1] // 2 + 1


def colours(channels: int, like: Tensor) -> Tensor:
    """Return the matrix [C, C] from independent colours to those of a picture: C over its longest column."""
    if channels != len(COLOURS):
        return torch.eye(channels).to(like)
    matrix = torch.tensor(COLOURS, dtype=torch.float64)
    scaled: Tensor = matrix / matrix.norm(dim=0).max()
    return scaled.to(like)


def mixed(values: Tensor) -> Tensor:
    """Return pictures [N, C, h, w] in 0..1 of values in independent colours without a range."""
    pictures: Tensor = torch.einsum("kc,nchw->nkhw", colours(values.shape[1], values), values).sigmoid()
    return pictures


def unmixed(pictures: Tensor) -> Tensor:
    """Undo `mixed`; pixels darker than DARKEST or lighter than 1 - DARKEST are clipped, for they have no finite value.

    >>> pictures = torch.tensor([0.3, 0.5, 0.9]).reshape(1, 3, 1, 1)
    >>> torch.allclose(mixed(unmixed(pictures)), pictures)
    True
    """
    back = colours(pictures.shape[1], pictures).inverse()
    values: Tensor = torch.einsum("kc,nchw->nkhw", back, pictures.clamp(DARKEST, 1 - DARKEST).logit())
    return values


class Inputs:
    """Pictures as a network's inputs: p in 0..1 becomes black + p (white - black), each normalised as the network does.

    Attributes:
        black: [C, 1, 1], a black pixel as the network sees it; see `Preprocess.bounds`.
        range: [C, 1, 1], the way from black to white.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device, dtype: torch.dtype) -> None:
        black, white = (bound.to(device, dtype)[:, None, None] for bound in preprocess.bounds())
        self.black, self.range = black, white - black

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return inputs of the network, channels-last in memory, in which convolutions are faster."""
        return (self.black + pictures * self.range).contiguous(memory_format=torch.channels_last)

    def pictures(self, x: Tensor) -> Tensor:
        """Undo it: inputs of the network [N, C, h, w] -> pictures in 0..1."""
        return (x - self.black) / self.range


def stacked(noise: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the noise of several pictures as one tensor of a network's dtype, on its device."""
    return torch.stack(list(noise)).to(like)
