"""From a photo to the input of a network, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from deconvviz.arrays import PEAKS, displayed, shown_channels, widened
from deconvviz.choices import FITS, INTERPOLATIONS_OF_IMAGES, Fit
from deconvviz.data.framing import centre_of, channel_count, is_size, middle, resized_to
from deconvviz.data.transfer import row_of
from deconvviz.errors import DataError, require_choice
from deconvviz.types import Array, Mask, Picture, Pixels

_LUMA = (19595, 38470, 7471)  # of 65536: ITU-R 601-2 as Pillow rounds it


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise images, as torchvision's Resize, CenterCrop, ToTensor and Normalize do on PIL images.

    Images have any number of channels, and are uint8, uint16 or float32. Integers are scaled by the range of their type
    to 0..1; floats are taken as they are. Images of other than 8 bits are resized in float32, and 16-bit ones are
    rounded after it.

    Attributes:
        resize: length of the shorter side in pixels, or (height, width); None leaves the size as it is.
        fit: how an image meets `resize`. "cover" keeps its proportions and fills all of it, "contain" keeps them and
            stays within it, and what the crop lacks then is the mean colour; "stretch" gives it up.
        crop: side of the central square that is kept, or its (height, width), in pixels. Where the image is smaller
            the rest is filled with zeros. None keeps the whole image.
        mean: mean of each channel, of values in 0..1 where images hold integers. There are as many values as the
            network has input channels. One value takes 8- and 16-bit images of three channels too, by the luma of the
            colours.
        std: standard deviation of each channel.
        interpolation: "nearest", "bilinear" or "bicubic"; the last two are antialiased.
        limits: the values of black and of white, for the fills of methods that cover pixels and for figures. By default
            0 and 1; where a mean or a deviation is outside of 0..1, the mean minus and plus two deviations of each
            channel.
        shown: the channels that figures show, from 0: three as red, green and blue, or one as grey. By default the
            first three, or the first. It changes no number.

    Raises:
        DataError: a length is not a positive integer, the numbers of means and deviations differ, the limits are not
            ascending, the channels to show are neither one nor three, or the interpolation is unknown.

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
    limits: tuple[float, float] | None = None
    shown: tuple[int, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("resize", "crop", "mean", "std", "limits", "shown"):  # lists, as JSON gives them, are not equal
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if not all(side is None or is_size(side) for side in (self.resize, self.crop)):
            raise DataError(f"resize {self.resize} and crop {self.crop} are lengths in pixels: positive, or None")
        require_choice("fit", self.fit, FITS)
        if not self.mean or len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise DataError(
                f"mean {self.mean} and std {self.std} given; expected a value for each channel, and std positive"
            )
        if self.limits is not None and not (len(self.limits) == 2 and self.limits[0] < self.limits[1]):
            raise DataError(f"limits {self.limits} given; expected the values of black and of white, such as (0, 1)")
        if self.shown:
            if len(self.shown) not in (1, 3):
                raise DataError(f"channels {self.shown} to show given; expected three, or one, such as (3, 2, 1)")
            shown_channels(len(self.mean), self.shown)
        if self.interpolation not in INTERPOLATIONS_OF_IMAGES:
            raise DataError(f"interpolation {self.interpolation!r} is not one of {', '.join(INTERPOLATIONS_OF_IMAGES)}")

    @classmethod
    def to_fit(cls, input_shape: Sequence[int]) -> Preprocess:
        """Return how an image becomes the input of a network whose own preprocessing is not known.

        Args:
            input_shape: (channels, height, width) of the network's input, which the image is resized to cover. Three
                channels are normalised by the mean and deviation of ImageNet, others are not normalised.

        >>> Preprocess.to_fit((3, 24, 32)).words()
        'shorter side to 32 px (bilinear), central 32 x 24 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225'
        """
        channels, height, width = input_shape[-3:]
        to_size = cls(resize=max(height, width), crop=(height, width))
        if channels == len(to_size.mean):
            return to_size
        return dataclasses.replace(to_size, mean=(0.0,) * channels, std=(1.0,) * channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the network's input; raises DataError without a crop, which settles it."""
        if self._crop is None:
            raise DataError("without a crop the shape differs from image to image; give crop=SIZE")
        return len(self.mean), *self._crop

    def __call__(self, image: Picture) -> torch.Tensor:
        """Turn an image, uint8, uint16 or float32 [H, W, C], into an input of the network, float32 [C, h, w]."""
        return self.tensor(self.picture(image)[None])[0]

    def check_images(self, channels: int, dtype: Any) -> None:
        """Check that images fit the network's input, before any of them is read.

        Args:
            channels: number of channels of the images.
            dtype: of their values.

        Raises:
            DataError: they have another number of channels than the network takes, or another type than uint8, uint16
                and float32, or they hold integers and the mean or deviation is not one of values in 0..1.
        """
        if str(dtype) not in PEAKS:
            raise DataError(f"images of {dtype} given; expected one of {', '.join(PEAKS)}")
        integers, expected = PEAKS[str(dtype)] is not None, len(self.mean)
        if channels != expected and not (channels == 3 and expected == 1 and integers):
            raise DataError(
                f"images of {channel_count(channels)} ({dtype}) given to a network of {channel_count(expected)}; give "
                "images that fit, or with --mean and --std as many values as the network has channels"
            )
        if integers and (max(self.mean) > 1 or max(self.std) > 1):
            raise DataError(
                f"mean {self.mean} and std {self.std} given; expected those of values in 0..1: divide by "
                f"{PEAKS[str(dtype)]}"
            )

    def picture(self, image: Picture) -> Picture:
        """Resize and crop an image.

        Args:
            image: uint8, uint16 or float32 [H, W, C].

        Returns:
            [h, w, C] of the same type, the pixels that the network sees.

        Raises:
            DataError: the image is of another kind, has other channels than the network, or resized it would have more
                than PIL.Image.MAX_IMAGE_PIXELS.
        """
        if image.ndim != 3 or image.size == 0 or str(image.dtype) not in PEAKS:
            raise DataError(f"expected an image [H,W,C] of {', '.join(PEAKS)}, got {image.dtype} {list(image.shape)}")
        self.check_images(image.shape[2], image.dtype)
        return self._framed(image)

    def _framed(self, image: Picture) -> Picture:
        height, width = image.shape[:2]
        size = self.resized(height, width)
        if size != (height, width):
            if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or size[0] * size[1]):
                short, long = sorted(size)
                raise DataError(f"{width} x {height} resized to {short} x {long} exceeds PIL.Image.MAX_IMAGE_PIXELS")
            # The whole image: resizing just the box that the crop keeps differs by 1 in some pixels.
            image = resized_to(image, size, self.interpolation)
        peak = PEAKS[str(image.dtype)]
        mean = self.mean if peak is None else [round(peak * value) for value in self.mean]
        fill = mean if self.fit == "contain" else [0]
        return image if self._crop is None else np.ascontiguousarray(centre_of(image, *self._crop, fill))

    def pictures(self, images: Pixels) -> list[Pixels]:
        """Resize and crop images of one size, uint8 [n, H, W, 3]; see `picture`.

        Where they are only cropped, the pictures are parts of `images` and not copies.

        >>> [picture.shape for picture in Preprocess(resize=None, crop=4).pictures(np.zeros((2, 6, 8, 3), np.uint8))]
        [(4, 4, 3), (4, 4, 3)]
        """
        height, width = images.shape[1:3]
        as_they_are = self.resized(height, width) == (height, width) and images.dtype == np.uint8
        if not as_they_are or self._crop is None or height < self._crop[0] or width < self._crop[1]:
            return [self.picture(image) for image in images]
        rows, columns = middle(height, self._crop[0]), middle(width, self._crop[1])
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
        parts += [f"black {self.limits[0]:g} and white {self.limits[1]:g}"] if self.limits else []
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
        return np.asarray(self._framed(mask[..., None].astype(np.uint8) * np.uint8(255))[..., 0] >= 128)

    def tensor(
        self,
        pictures: Picture | torch.Tensor,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Normalise a batch of pictures for the network.

        Args:
            pictures: uint8, uint16 or float32 [N, H, W, C]. They go to the device before they become floats: a quarter
                of the bytes.
            device: where the result is; by default where the pictures are.
            dtype: of the result.

        Returns:
            `dtype` [N, C, H, W], channels_last in memory.

        Raises:
            DataError: the pictures are of another kind.
        """
        kind = str(pictures.dtype).removeprefix("torch.")
        if pictures.ndim != 4 or kind not in PEAKS:
            raise DataError(f"expected pictures [N,H,W,C] of {', '.join(PEAKS)}, got {kind} {list(pictures.shape)}")
        self.check_images(pictures.shape[3], kind)
        if isinstance(pictures, np.ndarray):
            pictures = torch.from_numpy(np.require(pictures, requirements=["C", "W"]))
        pictures = pictures.to(device).contiguous()
        peak = PEAKS[kind]
        if len(self.mean) < pictures.shape[3]:
            luma = row_of(_LUMA, torch.int64, pictures.device)  # which holds 65535 * 65536
            pictures = ((pictures.to(torch.int64) * luma).sum(3, keepdim=True) + 0x8000) >> 16
        # Half precision would round three times. A copy: floats would otherwise be changed in place.
        values = pictures.to(widened(dtype), copy=True).div_(1 if peak is None else peak)
        mean, std = (row_of(row * values.shape[2], values.dtype, values.device) for row in (self.mean, self.std))
        values.view(*values.shape[:2], -1).sub_(mean).div_(std)  # whole rows: faster than three values at a time
        return values.to(dtype).permute(0, 3, 1, 2)

    def level(self, share: float) -> torch.Tensor:
        """Return a grey level as an input of the network, float32 [C].

        Args:
            share: of the way from black to white: 0 is black, 0.5 is grey, 1 is white; see `limits`.

        >>> Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).level(1.0)
        tensor([2., 2., 2.])
        """
        black, white = (torch.tensor(values) for values in self.black_and_white)
        return (black + share * (white - black) - torch.tensor(self.mean)) / torch.tensor(self.std)

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the lowest and the highest value of a pixel as the network sees it, two float32 tensors [C]."""
        return self.level(0.0), self.level(1.0)

    def inverse(self, values: torch.Tensor) -> Pixels:
        """Undo `tensor`, as a picture to look at.

        Args:
            values: inputs of the network, [C, H, W] or [N, C, H, W].

        Returns:
            uint8 [H, W, 3] or [N, H, W, 3], as `display` makes it.

        Raises:
            DataError: the number of channels is not that of the mean.
        """
        if values.ndim not in (3, 4) or values.shape[-3] != len(self.mean):
            raise DataError(f"expected [{len(self.mean)},H,W], with or without N, got {list(values.shape)}")
        values = values.movedim(-3, -1).to(widened(values.dtype))
        values = values * values.new_tensor(self.std) + values.new_tensor(self.mean)
        return self._levels(values.detach().cpu().numpy())

    def display(self, pictures: Picture) -> Pixels:
        """Return pictures as figures show them: the channels `shown`, from black to white; see `limits`.

        Args:
            pictures: uint8, uint16 or float32 [..., H, W, C], as `picture` gives them.

        Returns:
            uint8 [..., H, W, 3], rounded, and clipped to 0..255. 8-bit colours are returned as they are.

        >>> four = np.array([[[0, 50, 100, 255]]], np.uint8)
        >>> Preprocess(mean=(0,) * 4, std=(1,) * 4, shown=(3, 2, 1)).display(four).tolist()
        [[[255, 100, 50]]]
        """
        peak = PEAKS[str(pictures.dtype)]
        if pictures.dtype == np.uint8 and self.limits is None:
            pixels = displayed(pictures, self.shown if pictures.shape[-1] == len(self.mean) else ())
            return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, -1)
        return self._levels(pictures / np.float32(peak or 1))

    def coloured(self, signed: Array) -> Array:
        """Return the channels of a projection [..., C] that figures show, [..., 3] or [..., 1]."""
        return displayed(signed, self.shown)

    def shown_words(self) -> str:
        """Return a sentence for a caption that says which channels are shown and how; "" for plain grey or colours.

        >>> Preprocess(mean=(0,) * 6, std=(1,) * 6, shown=(3, 2, 1)).shown_words()
        ' Of the 6 channels of the images, 3, 2 and 1 are shown as red, green and blue.'
        """
        count, words = len(self.mean), ""
        channels = shown_channels(count, self.shown)
        if channels not in ((0,), (0, 1, 2)) or count not in (1, 3):
            names = f"{channels[0]} is shown as grey" if len(channels) == 1 else None
            names = names or "{}, {} and {} are shown as red, green and blue".format(*channels)
            words = f" Of the {count} channels of the images, {names}."
        if self.limits is not None:
            return f"{words} Black is {self.limits[0]:g} and white {self.limits[1]:g}."
        return words + (" Black and white are two deviations from the mean of each channel." if self._beyond else "")

    @property
    def _beyond(self) -> bool:
        """Whether mean and deviation are not those of values in 0..1."""
        return max(self.mean) > 1 or min(self.mean) < 0 or max(self.std) > 1

    @property
    def black_and_white(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The values of black and of white of each channel, before they are normalised."""
        count = len(self.mean)
        if self.limits is None and self._beyond:
            pairs = list(zip(self.mean, self.std, strict=True))
            return tuple(m - 2 * s for m, s in pairs), tuple(m + 2 * s for m, s in pairs)
        black, white = self.limits or (0.0, 1.0)
        return (float(black),) * count, (float(white),) * count

    def _levels(self, values: Array) -> Pixels:
        """Return floating values [..., C] as a picture to look at."""
        channels = self.shown
        if values.shape[-1] == len(self.mean):
            limits = (displayed(np.array(values_of, values.dtype), channels) for values_of in self.black_and_white)
        else:  # colours for a network that takes grey
            channels, limits = (), (np.array(values_of[0], values.dtype) for values_of in self.black_and_white)
        black, white = limits
        levels = np.clip(np.rint(255 * (displayed(values, channels) - black) / (white - black)), 0, 255)
        pixels = levels.astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:-1], 3)))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON takes; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        del values["shown"]  # it changes no number
        if self.fit == "cover":  # which files of earlier versions do not mention
            del values["fit"]
        if self.limits is None:  # likewise
            del values["limits"]
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
