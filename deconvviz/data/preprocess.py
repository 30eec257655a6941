"""From a photo to the input of a network, and back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from deconvviz.arrays import widened
from deconvviz.choices import FITS, INTERPOLATIONS_OF_IMAGES, Fit
from deconvviz.errors import DataError, require_choice
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
        resize: length of the shorter side in pixels, or (height, width); None leaves the size as it is.
        fit: how an image meets `resize`. "cover" keeps its proportions and fills all of it, "contain" keeps them and
            stays within it, and what the crop lacks then is the mean colour; "stretch" gives it up.
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

    resize: int | tuple[int, int] | None = 256
    crop: int | tuple[int, int] | None = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    fit: Fit = "cover"

    def __post_init__(self) -> None:
        for name in ("resize", "crop", "mean", "std"):  # lists, as JSON gives them, would not compare equal
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        pairs = [
            (side, side) if isinstance(side, int) else side for side in (self.resize, self.crop) if side is not None
        ]
        if not all(
            isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(side, int) and side > 0 for side in pair)
            for pair in pairs
        ):
            raise DataError(f"resize {self.resize} and crop {self.crop} are lengths in pixels: positive, or None")
        require_choice("fit", self.fit, FITS)
        if max(self.mean) > 1 or max(self.std) > 1:
            raise DataError(
                f"mean {self.mean} and std {self.std} given; expected those of values in 0..1: divide by 255"
            )
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise DataError(f"mean {self.mean} and std {self.std} have 1 or 3 values each, and std is positive")
        if self.interpolation not in INTERPOLATIONS_OF_IMAGES:
            raise DataError(f"interpolation {self.interpolation!r} is not one of {', '.join(INTERPOLATIONS_OF_IMAGES)}")

    @classmethod
    def to_fit(cls, input_shape: Sequence[int]) -> Preprocess:
        """Return how an image becomes the input of a network whose own preprocessing is not known.

        Args:
            input_shape: (channels, height, width) of the network's input, which the image is resized to cover.

        >>> Preprocess.to_fit((3, 24, 32)).words()
        'shorter side to 32 px (bilinear), central 32 x 24 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225'
        """
        height, width = input_shape[-2:]
        return cls(resize=max(height, width), crop=(height, width))

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
        size = self.resized(height, width)
        if size != (height, width):
            if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or size[0] * size[1]):
                short, long = sorted(size)
                raise DataError(f"{width} x {height} resized to {short} x {long} exceeds PIL.Image.MAX_IMAGE_PIXELS")
            # The whole image: resizing just the box that the crop keeps differs by 1 in some pixels.
            image = np.array(Image.fromarray(image).resize(size[::-1], _INTERPOLATION[self.interpolation]))
        fill = [round(255 * value) for value in self.mean] if self.fit == "contain" else [0]
        return image if self._crop is None else np.ascontiguousarray(_centre(image, *self._crop, fill))

    def pictures(self, images: Pixels) -> list[Pixels]:
        """Resize and crop images of one size, uint8 [n, H, W, 3]; see `picture`.

        Where they are only cropped, the pictures are parts of `images` and not copies.

        >>> [picture.shape for picture in Preprocess(resize=None, crop=4).pictures(np.zeros((2, 6, 8, 3), np.uint8))]
        [(4, 4, 3), (4, 4, 3)]
        """
        height, width = images.shape[1:3]
        if self.resized(height, width) != (height, width) or images.dtype != np.uint8 or self._crop is None:
            return [self.picture(image) for image in images]
        if height < self._crop[0] or width < self._crop[1]:
            return [self.picture(image) for image in images]
        rows, columns = _middle(height, self._crop[0]), _middle(width, self._crop[1])
        return list(images[:, rows, columns])

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width in pixels that an image has after it was resized and before it is cropped.

        >>> Preprocess(resize=256).resized(600, 400), Preprocess(resize=(256, 192), fit="stretch").resized(600, 400)
        ((384, 256), (256, 192))
        """
        if self.resize is None:
            return height, width
        if isinstance(self.resize, int) and self.fit == "cover":  # rounded as torchvision does
            long = int(self.resize * max(height, width) / min(height, width))
            return (long, self.resize) if width <= height else (self.resize, long)
        pair = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.fit == "stretch":
            return pair
        ratios = height / pair[0], width / pair[1]
        ratio = max(ratios) if self.fit == "contain" else min(ratios)  # rounded as timm does
        return round(height / ratio), round(width / ratio)

    def words(self) -> str:
        """Return in a line how images are prepared.

        >>> Preprocess(resize=256, crop=224).words()
        'shorter side to 256 px (bilinear), central 224 x 224 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225'
        """
        sizes = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        to = {
            "cover": "shorter side to {0} px" if isinstance(self.resize, int) else "to cover {1} x {0} px",
            "contain": "to fit in {1} x {0} px",
            "stretch": "stretched to {1} x {0} px",
        }[self.fit].format(*sizes)
        parts = ["not resized" if self.resize is None else f"{to} ({self.interpolation})"]
        parts += [f"central {self._crop[1]} x {self._crop[0]} px"] if self._crop else []
        parts += [f"mean {' '.join(f'{v:g}' for v in self.mean)}", f"std {' '.join(f'{v:g}' for v in self.std)}"]
        return ", ".join(parts)

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
            luma = _constant(_LUMA, torch.int32, pictures.device)
            pictures = (((pictures * luma).sum(3, keepdim=True) + 0x8000) >> 16).to(torch.uint8)
        values = pictures.to(widened(dtype)).div_(255)  # normalising in half precision would round three times
        mean, std = (_constant(row, values.dtype, values.device) for row in (self.mean, self.std))
        return values.sub_(mean).div_(std).to(dtype).permute(0, 3, 1, 2)

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
        values = dataclasses.asdict(self)
        if self.fit == "cover":  # which files of earlier versions do not mention
            del values["fit"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

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


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a row of numbers on a device, sent there once: sending it anew would wait for the device each time."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def _centre(image: Pixels, height: int, width: int, fill: Sequence[int]) -> Pixels:
    """Cut the centre out of an image [H, W, 3], rounded as in torchvision's CenterCrop; `fill` where it is smaller."""
    down, across = max(height - image.shape[0], 0), max(width - image.shape[1], 0)
    if down or across:
        framed = np.empty((image.shape[0] + down, image.shape[1] + across, image.shape[2]), np.uint8)
        framed[:] = np.array(fill, np.uint8)
        framed[down // 2 : down // 2 + image.shape[0], across // 2 : across // 2 + image.shape[1]] = image
        image = framed
    return image[_middle(image.shape[0], height), _middle(image.shape[1], width)]


def _middle(room: int, length: int) -> slice:
    """Return the middle `length` of `room` pixels."""
    start = round((room - length) / 2)
    return slice(start, start + length)
