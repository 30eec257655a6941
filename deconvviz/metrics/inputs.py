"""What every metric shares: the checks of what it was given, the ranking of pixels, and scoring by batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.errors import DataError

Scores = Callable[[Tensor], Tensor]
"""Normalised images [N,C,H,W] -> class probabilities [N,K], each image on its own (a model in eval mode)."""

SLACK = 1e-3  # what half precision may add to a probability of 1


def check_maps(maps: Tensor, unit: bool = True, name: str = "maps") -> None:
    """Raise DataError unless `maps` is a floating [N,H,W] with N, H, W >= 1, finite, and in 0..1 where `unit`."""
    if not isinstance(maps, Tensor) or not maps.is_floating_point() or maps.ndim != 3 or not maps.numel():
        shape = f"{maps.dtype} {list(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        raise DataError(f"{name}: {shape} given; expected a floating point Tensor [N, H, W], none of them 0")
    low, high = maps.aminmax()  # a NaN anywhere makes both NaN
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise DataError(f"{name}: values that are NaN or infinite given; expected finite numbers")
    if unit and (low < 0 or high > 1):
        raise DataError(f"{name}: values from {low:g} to {high:g} given; expected 0 to 1, min-max normalised per map")


def check_pair(a: Tensor, b: Tensor, unit: bool = True, names: tuple[str, str] = ("a", "b")) -> None:
    """Raise DataError unless both are maps of the same shape, see `check_maps`."""
    check_maps(a, unit, names[0])
    check_maps(b, unit, names[1])
    if a.shape != b.shape:
        raise DataError(f"{names[1]}: {list(b.shape)} given; expected {list(a.shape)}, the shape of {names[0]}")


def check_scored(images: Tensor, maps: Tensor, classes: Tensor, batch_size: int, unit: bool = True) -> None:
    """Raise DataError unless the images [N,C,H,W], maps [N,H,W] and classes int64 [N] go together."""
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
    if int(classes.min()) < 0:
        raise DataError(f"classes: {int(classes.min())} given; expected 0 or more")
    if batch_size < 1:
        raise DataError(f"batch_size {batch_size} given; expected 1 or more")


def fill_like(images: Tensor, fill: Tensor | float) -> Tensor:
    """Return `fill` as [1,C,1,1] beside `images` [N,C,H,W]; raises DataError unless it is a number or a [C]."""
    channels = images.shape[1]
    values = torch.as_tensor(fill).to(images)
    if values.shape not in [(), (channels,)] or not torch.isfinite(values).all():
        given = values.tolist() if values.numel() < 10 else list(values.shape)
        raise DataError(f"fill {given} given; expected a finite number or a Tensor [{channels}], one a channel")
    return values.expand(channels).reshape(1, channels, 1, 1)


def ranks(maps: Tensor, descending: bool = True) -> Tensor:
    """Return the rank of each pixel in its map, int64 [N,H,W]: 0 is the largest (the smallest where not
    `descending`), and of equal pixels the first in row-major order comes first."""
    flat = maps.flatten(1)
    order = flat.sort(dim=1, descending=descending, stable=True).indices
    places = torch.arange(flat.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(maps.shape)


def probabilities(scores: Scores, images: Tensor) -> Tensor:
    """Score one batch [n,C,H,W]: float64 [n,K] on the CPU; raises DataError where these are no probabilities."""
    with torch.inference_mode():
        found = scores(images)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"scores: {shape} returned for {len(images)} images; expected a Tensor [{len(images)}, K]")
    found = found.to("cpu", torch.float64)
    if not ((found >= -SLACK) & (found <= 1 + SLACK)).all():  # NaN fails too
        raise DataError(
            f"scores: values from {found.min():g} to {found.max():g} returned; expected probabilities, "
            "as softmax gives them"
        )
    return found.clamp(0, 1)


def of_classes(found: Tensor, classes: Tensor) -> Tensor:
    """Pick each image's class from [n,K] (or from [1,K] for all): float64 [n]; raises DataError where K is less."""
    classes = classes.cpu()
    if int(classes.max()) >= found.shape[1]:
        raise DataError(f"classes: {int(classes.max())} given; expected less than {found.shape[1]}, as scores returns")
    return found.expand(len(classes), -1).gather(1, classes[:, None])[:, 0]


def scored(scores: Scores, make: Callable[[Tensor], Tensor], classes: Tensor, batch_size: int) -> Tensor:
    """Score images that are made by the batch, so that no more than one batch of them exists.

    Args:
        scores: see Scores.
        make: int64 [n] ascending indices into `classes` -> the images [n,C,H,W].
        classes: int64 [M], the class that counts for each.
        batch_size: the largest n.

    Returns:
        float64 [M] on the CPU, each one's probability of its class.
    """
    found = torch.empty(len(classes), dtype=torch.float64)
    for start in range(0, len(classes), batch_size):
        at = torch.arange(start, min(start + batch_size, len(classes)))
        with torch.inference_mode():
            images = make(at)
        part = of_classes(probabilities(scores, images), classes[at.to(classes.device)])
        found[start : start + len(at)] = part
    return found


def as_array(maps: Tensor) -> NDArray[np.float64]:
    """Return maps as float64 [N,H,W] on the CPU."""
    return np.asarray(maps.detach().to("cpu", torch.float64).numpy())


def as_values(values: NDArray[np.float64] | list[float]) -> Tensor:
    """Return per-image values as a float64 tensor [N]."""
    return torch.as_tensor(np.asarray(values, np.float64))
