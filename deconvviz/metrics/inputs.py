"""What every metric shares: the checks of its inputs, the ranking of pixels, and scoring batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.halving import AtOnce
from deconvviz.types import Floats
from deconvviz.words import counted

Scores = Callable[[Tensor], Tensor]
"""Normalised images [N, C, H, W] -> class probabilities [N, K], each image by itself (a model in eval mode)."""

SLACK = 1e-3  # what half precision may add to a probability of 1


def check_maps(maps: Tensor, unit: bool = True, name: str = "maps") -> None:
    """Check that a metric can measure some maps.

    Args:
        maps: floating point [N, H, W] with N, H, W >= 1, all values finite.
        unit: whether the values must be in 0..1.
        name: what the maps are called in the message.

    Raises:
        DataError: one of these does not hold.
    """
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or maps.ndim != 3 or not maps.numel():
        shape = f"{maps.dtype} {list(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise DataError(f"{name}: {shape} given; expected a floating point Tensor [N, H, W], none of them 0")
    low, high = torch.stack(maps.aminmax()).tolist()  # in one copy from the device; a NaN anywhere makes both NaN
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{name}: values that are NaN or infinite given; expected finite numbers")
    if unit and (low < 0 or high > 1):
        raise DataError(f"{name}: values from {low:g} to {high:g} given; expected 0 to 1, min-max normalised per map")


def check_pair(a: Tensor, b: Tensor, unit: bool = True, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise DataError unless both are maps (see `check_maps`) of the same shape; `names` are theirs in the message."""
    check_maps(a, unit, names[0])
    check_maps(b, unit, names[1])
    if a.shape != b.shape:
        raise DataError(f"{names[1]}: {list(b.shape)} given; expected {list(a.shape)}, the shape of {names[0]}")


def check_scored(images: Tensor, maps: Tensor, classes: Tensor, batch_size: int, unit: bool = True) -> None:
    """Check that images, their maps and their classes belong together.

    Args:
        images: floating point [N, C, H, W].
        maps: floating point [N, H, W], all values finite.
        classes: int64 [N], 0 or more.
        batch_size: at least 1.
        unit: whether the values of the maps must be in 0..1.

    Raises:
        DataError: one of these does not hold.
    """
    check_maps(maps, unit)
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
        shape = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise DataError(f"images: {shape} given; expected a floating point Tensor [N, C, H, W]")
    count, _, height, width = images.shape
    if maps.shape != (count, height, width):
        raise DataError(f"maps: {list(maps.shape)} given; expected {[count, height, width]}, as the images have")
    if not isinstance(classes, Tensor) or classes.dtype != torch.int64 or classes.shape != (count,):
        shape = f"{classes.dtype} {list(classes.shape)}" if isinstance(classes, Tensor) else type(classes).__name__
        raise DataError(f"classes: {shape} given; expected an int64 Tensor [{count}], one class an image")
    if (lowest := int(classes.min())) < 0:
        raise DataError(f"classes: {lowest} given; expected 0 or more")
    if batch_size < 1:
        raise DataError(f"batch_size {batch_size} given; expected 1 or more")


def fill_like(images: Tensor, fill: Tensor | float) -> Tensor:
    """Return the fill for masked pixels as [1, C, 1, 1], of the dtype and on the device of images [N, C, H, W].

    Args:
        images: [N, C, H, W].
        fill: a number, or [C].

    Raises:
        DataError: the fill has another shape, or is not finite.

    >>> fill_like(torch.zeros(1, 2, 3, 3), 0.5).flatten()
    tensor([0.5000, 0.5000])
    """
    channels = images.shape[1]
    values = torch.as_tensor(fill).to(images)
    if values.shape not in [(), (channels,)] or not torch.isfinite(values).all():
        text = values.tolist() if values.numel() < 10 else list(values.shape)
        raise DataError(f"fill {text} given; expected a finite number or a Tensor [{channels}], one a channel")
    return values.expand(channels).reshape(1, channels, 1, 1)


def ranks(maps: Tensor, descending: bool = True) -> Tensor:
    """Return the rank of each pixel in its map; of equal pixels the first in row-major order has the lower rank.

    Args:
        maps: [N, H, W].
        descending: whether the largest pixel has rank 0; otherwise it is the smallest one.

    Returns:
        int64 [N, H, W], 0 to H * W - 1.

    >>> ranks(torch.tensor([[[0.2, 0.9], [0.9, 0.4]]]))
    tensor([[[3, 0],
             [1, 2]]])
    """
    flat = maps.flatten(1)
    order = flat.sort(dim=1, descending=descending, stable=True).indices
    numbers = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers).reshape(maps.shape)


def probabilities(scores: Scores, images: Tensor) -> Tensor:
    """Score one batch of images.

    Args:
        scores: see Scores; it is called under inference_mode.
        images: [n, C, H, W].

    Returns:
        float64 [n, K] on the CPU, in 0..1.

    Raises:
        DataError: `scores` returned another shape, or values that are not probabilities.
    """
    with torch.inference_mode():
        returned = scores(images)
    if not isinstance(returned, Tensor) or returned.ndim != 2 or len(returned) != len(images):
        shape = list(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
        raise DataError(
            f"scores: {shape} returned for {counted(len(images), 'image')}; expected a Tensor [{len(images)}, K]"
        )
    returned = returned.to("cpu", torch.float64)
    if not ((returned >= -SLACK) & (returned <= 1 + SLACK)).all():  # NaN fails too
        raise DataError(
            f"scores: values from {returned.min():g} to {returned.max():g} returned; expected probabilities, "
            "as softmax gives them"
        )
    return returned.clamp(0, 1)


def of_classes(class_probabilities: Tensor, classes: Tensor) -> Tensor:
    """Return the probability of each image's class.

    Args:
        class_probabilities: float64 [n, K], or [1, K] where it is the same for all images.
        classes: int64 [n].

    Returns:
        float64 [n].

    Raises:
        DataError: a class is not below K.
    """
    classes, count = classes.cpu(), class_probabilities.shape[1]
    if int(classes.max()) >= count:
        raise DataError(f"classes: {int(classes.max())} given; expected less than {count}, as scores returns")
    return class_probabilities.expand(len(classes), -1).gather(1, classes[:, None])[:, 0]


def scored(scores: Scores, make: Callable[[Tensor], Tensor], classes: Tensor, batch_size: int) -> Tensor:
    """Score images that are made batch by batch, so that no more than one batch of them exists.

    Args:
        scores: see Scores.
        make: int64 [n], ascending indices into `classes` -> the images [n, C, H, W].
        classes: int64 [M], the class that counts for each image.
        batch_size: the largest n; halved where so many do not fit in memory.

    Returns:
        float64 [M] on the CPU, the probability of each image's class.
    """

    classes = classes.cpu()  # once, not for each batch

    def part(start: int, stop: int) -> Tensor:
        with torch.inference_mode():
            images = make(torch.arange(start, stop))
        return of_classes(probabilities(scores, images), classes[start:stop])

    parts = [*AtOnce(batch_size, "images").parts(len(classes), part)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def pairwise(a: Tensor, b: Tensor, similarity: Callable[[Floats, Floats], float]) -> Tensor:
    """Compare maps pair by pair.

    Args:
        a: [N, H, W].
        b: [N, H, W].
        similarity: two maps, float64 [H, W] each, of which neither is constant -> a number.

    Returns:
        float64 [N]; 0 where either map is constant, before any library divides by its spread.
    """
    pairs = zip(as_array(a), as_array(b), strict=True)
    return as_values([0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else similarity(x, y) for x, y in pairs])


def as_array(maps: Tensor) -> Floats:
    """Return maps as a float64 array [N, H, W]."""
    return np.asarray(maps.detach().to("cpu", torch.float64).numpy())


def as_values(values: Floats | list[float]) -> Tensor:
    """Return a value for each image as a float64 tensor [N]."""
    return torch.as_tensor(np.asarray(values, np.float64))
