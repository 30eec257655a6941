"""From a photo to the input of a network, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from deconvviz.arrays import widened
from deconvviz.errors import DataError
from deconvviz.types import Mask, Pixels

_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_LUMA = (19595, 38470, 7471)  # of 65536: ITU-R 601-2 as Pillow rounds it


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise images, as torchvision's Resize, CenterCrop, ToTensor and Normalize do on PIL images.

    Attributes:
        resize: length of the shorter side in pixels; None leaves the size as it is.
        crop: side of the central square that is kept, or its (height, width), in pixels. Where the image is smaller
            the rest is filled with zeros. None keeps the whole image.
        mean: mean of each channel, of values in 0..1. One value instead of three is for a network that takes grey
            images; they are the luma of the colours.
        std: standard deviation of each channel.
        interpolation: "nearest", "bilinear" or "bicubic"; the last two are antialiased.

    Raises:
        DataError: a length is not a positive integer, the numbers of means and deviations differ, or the
            interpolation is unknown.

    >>> preprocess = Preprocess(resize=32, crop=24)
    >>> preprocess.shape
    (3, 24, 24)
    >>> picture = preprocess.picture(np.zeros((40, 60, 3), np.uint8))
    >>> picture.shape, preprocess.tensor(picture[None]).shape
    ((24, 24, 3), torch.Size([1, 3, 24, 24]))
    """

    resize: int | None = 256
    crop: int | tuple[int, int] | None = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("crop", "mean", "std"):  # lists, as JSON gives them, would not compare equal
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = [side for side in (self.resize, *(self._crop or ())) if side is not None]
        if not all(isinstance(side, int) and side > 0 for side in lengths) or len(self._crop or (1, 1)) != 2:
            raise DataError(f"resize {self.resize} and crop {self.crop} are lengths in pixels: positive, or None")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise DataError(f"mean {self.mean} and std {self.std} have 1 or 3 values each, and std is positive")
        if self.interpolation not in _INTERPOLATION:
            raise DataError(f"interpolation {self.interpolation!r} is not one of {', '.join(_INTERPOLATION)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's input; raises DataError without a crop, which settles it."""
        if self._crop is None:
            raise DataError("without a crop the shape differs from image to image; give crop=SIZE")
        return len(self.mean), *self._crop

    def __call__(self, image: Pixels) -> torch.Tensor:
        """Turn an image, uint8 [H, W, 3], into an input of the network, float32 [C, h, w]."""
        return self.tensor(self.picture(image)[None])[0]

    def picture(self, image: Pixels) -> Pixels:
        """Resize and crop an image.

        Args:
            image: uint8 [H, W, 3].

        Returns:
            uint8 [h, w, 3], the pixels that the network sees.

        Raises:
            DataError: the image is of another kind, or resized it would have more than PIL.Image.MAX_IMAGE_PIXELS.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise DataError(f"expected an image as uint8 [H,W,3], got {image.dtype} {list(image.shape)}")
        height, width = image.shape[:2]
        if self.resize is not None and min(height, width) != self.resize:
            short, long = self.resize, int(self.resize * max(height, width) / min(height, width))
            if short * long > (Image.MAX_IMAGE_PIXELS or short * long):
                raise DataError(f"{width} x {height} resized to {short} x {long} exceeds PIL.Image.MAX_IMAGE_PIXELS")
            size = (short, long) if width <= height else (long, short)
            # The whole image: resizing just the box that the crop keeps differs by 1 in some pixels.
            image = np.array(Image.fromarray(image).resize(size, _INTERPOLATION[self.interpolation]))
        return image if self._crop is None else np.ascontiguousarray(_centre(image, *self._crop))

    def mask(self, mask: Mask) -> Mask:
        """Resize and crop a mask as `picture` does its image; a pixel that is half covered counts as covered.

        Args:
            mask: bool [H, W].

        Returns:
            bool [h, w].

        Raises:
            DataError: the mask is of another kind.
        """
        if mask.dtype != bool or mask.ndim != 2:
            raise DataError(f"expected a mask as bool [H,W], got {mask.dtype} {list(mask.shape)}")
        return self.picture(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2))[..., 0] >= 128

    def tensor(
        self,
        pictures: Pixels | torch.Tensor,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Normalise a batch of pictures for the network.

        Args:
            pictures: uint8 [N, H, W, 3]. They go to the device before they become floats: a quarter of the bytes.
            device: where the result is; by default where the pictures are.
            dtype: of the result.

        Returns:
            `dtype` [N, C, H, W], channels_last in memory.

        Raises:
            DataError: the pictures are of another kind.
        """
        if pictures.ndim != 4 or pictures.shape[3] != 3 or pictures.dtype not in (np.uint8, torch.uint8):
            raise DataError(f"expected pictures as uint8 [N,H,W,3], got {pictures.dtype} {list(pictures.shape)}")
        if isinstance(pictures, np.ndarray):
            pictures = torch.from_numpy(np.require(pictures, requirements=["C", "W"]))
        pictures = pictures.to(device).contiguous()
        if len(self.mean) == 1:
            luma = pictures.new_tensor(_LUMA, dtype=torch.int32)
            pictures = (((pictures * luma).sum(3, keepdim=True) + 0x8000) >> 16).to(torch.uint8)
        values = pictures.to(widened(dtype)).div_(255)  # normalising in half precision would round three times
        return values.sub_(values.new_tensor(self.mean)).div_(values.new_tensor(self.std)).to(dtype).permute(0, 3, 1, 2)

    def level(self, share: float) -> torch.Tensor:
        """Return a grey level as an input of the network, float32 [C].

        Args:
            share: of a pixel's range: 0 is black, 0.5 is grey, 1 is white.

        >>> Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).level(1.0)
        tensor([2., 2., 2.])
        """
        return (share - torch.tensor(self.mean)) / torch.tensor(self.std)

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lowest and the highest value of a pixel as the network sees it, two float32 tensors [C]."""
        return self.level(0.0), self.level(1.0)

    def inverse(self, values: torch.Tensor) -> Pixels:
        """Undo `tensor`.

        Args:
            values: inputs of the network, [C, H, W] or [N, C, H, W].

        Returns:
            uint8 [H, W, 3] or [N, H, W, 3], rounded, and clipped to 0..255.

        Raises:
            DataError: the number of channels is not that of the mean.
        """
        if values.ndim not in (3, 4) or values.shape[-3] != len(self.mean):
            raise DataError(f"expected [{len(self.mean)},H,W], with or without N, got {list(values.shape)}")
        values = values.movedim(-3, -1)
        values = values.to(widened(values.dtype))
        values = values * values.new_tensor(self.std) + values.new_tensor(self.mean)
        picture: Pixels = (values * 255).round_().clamp_(0, 255).to(torch.uint8).cpu().numpy()
        return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:-1], 3)))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON takes; `from_dict` reads them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocess:
        """Make a Preprocess from what `as_dict` returned; raises DataError for an unknown setting or a wrong value."""
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(names))
        if unknown:
            raise DataError(f"no setting named {', '.join(unknown)}; the settings are {', '.join(names)}")
        return cls(**settings)

    @property
    def _crop(self) -> tuple[int, int] | None:
        """(height, width) of what is kept, None for all."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


def _centre(image: Pixels, height: int, width: int) -> Pixels:
    """Cut the centre out of an image [H, W, 3], rounded as in torchvision's CenterCrop; zeros where it is smaller."""
    down, across = max(height - image.shape[0], 0), max(width - image.shape[1], 0)
    if down or across:
        image = np.pad(image, ((down // 2, (down + 1) // 2), (across // 2, (across + 1) // 2), (0, 0)))
    top, left = round((image.shape[0] - height) / 2), round((image.shape[1] - width) / 2)
    return image[top : top + height, left : left + width]
