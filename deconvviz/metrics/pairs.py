"""How well two maps explain why a network takes two images for alike: everything is measured with the cosine.

The metrics of one image with the cosine of the embeddings in the place of the probability. "Simultaneous" changes both
images by their own maps; "conditional" changes one of them and leaves the other, and is the mean over both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deconvviz.arrays import cosine
from deconvviz.errors import DataError
from deconvviz.halving import AtOnce
from deconvviz.metrics.curves import Blur, gaussian_blur
from deconvviz.metrics.inputs import check_maps, fill_like, ranks
from deconvviz.words import counted

Embed = Callable[[Tensor], Tensor]
"""Normalised images [N, C, H, W] -> embeddings [N, D], each image by itself."""
Explain = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Two batches of images [N, C, H, W] -> the maps of both, [N, H, W]."""


@dataclass(frozen=True)
class PairCurves:
    """The cosine as both images are changed, step by step.

    Attributes:
        fractions: float64 [S + 1], the share of the pixels that is deleted or inserted, 0 to 1.
        simultaneous: float64 [N, S + 1], the cosine of the two changed images.
        conditional: float64 [N, S + 1], the mean of the cosines of one changed and one whole image.
    """

    fractions: Tensor
    simultaneous: Tensor
    conditional: Tensor

    @property
    def areas(self) -> tuple[Tensor, Tensor]:
        """The areas under both curves by the trapezoid rule, float64 [N] each: simultaneous and conditional.

        All steps count as equally long, as in `Curves.auc`, though they differ by a pixel where S does not divide H W.
        """
        steps = len(self.fractions) - 1
        sums = [(c.sum(1) - c[:, 0] / 2 - c[:, -1] / 2) / steps for c in (self.simultaneous, self.conditional)]
        return sums[0], sums[1]


@dataclass(frozen=True)
class PairChange:
    """What is left of the cosine when images are masked by their maps.

    Attributes:
        drop_simultaneous: float64 [N], max(0, s - s') / s, where both images are masked; lower is better. NaN where s
            is not above 0: there is no likeness that could be lost.
        increase_simultaneous: float64 [N], 1 where s' > s, strictly, else 0; higher is better.
        drop_conditional: float64 [N], the same where one image is masked, mean over both.
        increase_conditional: float64 [N], likewise.
    """

    drop_simultaneous: Tensor
    increase_simultaneous: Tensor
    drop_conditional: Tensor
    increase_conditional: Tensor


def pair_deletion(
    embed: Embed,
    images: tuple[Tensor, Tensor],
    maps: tuple[Tensor, Tensor],
    steps: int | None = None,
    fill: Tensor | float = 0.0,
    batch_size: int = 32,
) -> PairCurves:
    """Replace the pixels of each image by `fill`, those first that its map ranks highest. A low area is better.

    Args:
        embed: see Embed; it is called under inference_mode.
        images: the first and the second images, [N, C, H, W] each, normalised.
        maps: theirs, [N, H, W]; only the order of their values counts, and equal pixels go in row-major order.
        steps: S, at most H * W; after step s, round(s * H * W / S) pixels are deleted. By default as many as the
            shorter side has pixels: at 224 px this is the release's 224 pixels a step.
        fill: the fill for deleted pixels, a number or [C] in normalised space; 0 is the dataset's mean.
        batch_size: images in one pass; halved where so many do not fit in memory.

    Raises:
        DataError: the inputs do not belong together, or embeddings are not finite [N, D].

    Source: Sammani et al. 2022, SD and CD, from the release (`evaluation.py`).

    >>> embed = lambda images: images.flatten(1)  # the pixels themselves
    >>> image = torch.tensor([[[[3.0, 4.0]]]])
    >>> curves = pair_deletion(embed, (image, image), (image[:, 0], image[:, 0]), steps=2)
    >>> curves.simultaneous.tolist(), [round(value, 2) for value in curves.conditional[0].tolist()]
    ([[1.0, 1.0, 0.0]], [1.0, 0.6, 0.0])
    """
    _check(images, maps, unit=False)
    blank = fill_like(images[0], fill)
    ends = blank.expand_as(images[0]), blank.expand_as(images[1])
    return _curves(embed, images, images, ends, maps, steps, batch_size)


def pair_insertion(
    embed: Embed,
    images: tuple[Tensor, Tensor],
    maps: tuple[Tensor, Tensor],
    steps: int | None = None,
    blur: Blur | None = None,
    batch_size: int = 32,
) -> PairCurves:
    """Insert the pixels of each image into its blurred copy, those first that its map ranks highest.

    A high area is better.

    Args:
        embed: see Embed; it is called under inference_mode.
        images: the first and the second images, [N, C, H, W] each, normalised.
        maps: theirs, [N, H, W]; only the order of their values counts, and equal pixels go in row-major order.
        steps: S, as in `pair_deletion`.
        blur: returns the images from which the insertion begins; by default `gaussian_blur`, 11 of 224 px, sigma 5.
        batch_size: images in one pass.

    Raises:
        DataError: the inputs do not belong together, or embeddings are not finite [N, D].

    Source: Sammani et al. 2022, SI and CI, from the release (`evaluation.py`).
    """
    _check(images, maps, unit=False)
    blurring = blur or gaussian_blur
    starts = blurring(images[0]), blurring(images[1])
    return _curves(embed, images, starts, images, maps, steps, batch_size)


def pair_change(
    embed: Embed,
    images: tuple[Tensor, Tensor],
    maps: tuple[Tensor, Tensor],
    fill: Tensor | float = 0.0,
    batch_size: int = 32,
) -> PairChange:
    """Compare the cosine of two images with that of the images masked by their maps, x * m + fill * (1 - m).

    Args:
        embed: see Embed; it is called under inference_mode.
        images: the first and the second images, [N, C, H, W] each, normalised.
        maps: theirs, [N, H, W] in 0..1.
        fill: the fill for masked pixels, a number or [C] in normalised space.
        batch_size: images in one pass.

    Raises:
        DataError: the inputs do not belong together, or embeddings are not finite [N, D].

    Source: Sammani et al. 2022, drop and increase, from the release (`evaluation.py`).

    >>> embed = lambda images: images.flatten(1)
    >>> image, left = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[1.0, 0.0]]])
    >>> change = pair_change(embed, (image, image), (left, left))
    >>> change.drop_simultaneous.item(), round(change.drop_conditional.item(), 2)
    (0.0, 0.4)
    """
    _check(images, maps, unit=True)
    blank = fill_like(images[0], fill)
    masks = [each.to(images[0])[:, None] for each in maps]
    whole = [_whole(embed, x, batch_size) for x in images]
    masked = [_whole(embed, x * mask + blank * (1 - mask), batch_size) for x, mask in zip(images, masks, strict=True)]
    before, both = cosine(*whole), cosine(*masked)
    ones = [cosine(masked[0], whole[1]), cosine(whole[0], masked[1])]

    def drop(after: Tensor) -> Tensor:
        return torch.where(before > 0, (before - after).clamp(min=0) / before, torch.nan)

    return PairChange(
        drop(both),
        (both > before).double(),
        torch.stack([drop(one) for one in ones]).mean(0),
        torch.stack([(one > before).double() for one in ones]).mean(0),
    )


def pair_max_sensitivity(
    explain: Explain,
    images: tuple[Tensor, Tensor],
    maps: tuple[Tensor, Tensor],
    draws: int = 10,
    radius: float = 0.2,
    seed: int = 0,
) -> Tensor:
    """Return by how much maps change at most when the images change a little: max |e - e'| / |e|. Lower is better.

    Args:
        explain: see Explain.
        images: the first and the second images, [N, C, H, W] each, normalised.
        maps: what it returns for them, [N, H, W] each.
        draws: how often the images are changed. Both are changed by the same noise, as in the release.
        radius: of the uniform noise, in standard deviations of each first image's values: in the normalised images of
            the release, that is about its 0.2.
        seed: of the noise.

    Returns:
        float64 [N], the mean over both images of the largest share; NaN where a map is zero.

    Raises:
        DataError: the inputs do not belong together, there is no draw, or the radius is not positive.

    Source: Yeh et al. 2019, equation 2, as Sammani et al. 2022 have it for pairs, over finished maps (our choice, so
    that methods of different scales compare).
    """
    _check(images, maps, unit=False)
    if draws < 1 or not radius > 0:
        raise DataError(f"{counted(draws, 'draw')} and radius {radius:g} given; expected 1 or more, and above 0")
    generator = torch.Generator().manual_seed(seed)
    spread = radius * images[0].flatten(1).double().std(1).to(images[0])[:, None, None, None]
    largest = [torch.zeros(len(each), dtype=torch.float64) for each in maps]
    for _ in range(draws):
        uniform = torch.rand(images[0].shape[1:], generator=generator, dtype=torch.float32).to(images[0])
        noisy = [x + spread * (2 * uniform - 1) for x in images]
        for number, changed in enumerate(explain(noisy[0], noisy[1])):
            largest[number] = torch.maximum(largest[number], _share(maps[number], changed))
    return torch.stack(largest).mean(0)


def _share(before: Tensor, after: Tensor) -> Tensor:
    """Return |before - after| / |before| of each map, float64 [N]; NaN where it was zero."""
    x, y = (each.detach().to("cpu", torch.float64).flatten(1) for each in (before, after))
    size = x.norm(dim=1)
    return torch.where(size > 0, (x - y).norm(dim=1) / size, torch.nan)


def _curves(
    embed: Embed,
    images: tuple[Tensor, Tensor],
    starts: tuple[Tensor, Tensor],
    ends: tuple[Tensor, Tensor],
    maps: tuple[Tensor, Tensor],
    steps: int | None,
    batch_size: int,
) -> PairCurves:
    """Return the cosines as pixels of `ends` replace those of `starts`, the highest of the maps first."""
    pixels = maps[0][0].numel()
    steps = min(maps[0].shape[1:]) if steps is None else steps
    if not 1 <= steps <= pixels:
        raise DataError(f"{counted(steps, 'step')} given; expected 1 to {pixels}, the pixels of a map")
    counts = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)])
    along = []
    for start, end, each in zip(starts, ends, maps, strict=True):
        order, on_device = ranks(each).to(start.device), counts.to(start.device)

        def changed(
            places: Tensor, start: Tensor = start, end: Tensor = end, order: Tensor = order, counts: Tensor = on_device
        ) -> Tensor:
            image, step = places.to(start.device) // len(counts), places.to(start.device) % len(counts)
            highest = order[image] < counts[step][:, None, None]
            return torch.where(highest[:, None], end[image], start[image])

        z = _embedded(embed, len(start) * len(counts), changed, batch_size)
        along.append(z.reshape(len(start), len(counts), -1))
    whole = [_whole(embed, x, batch_size)[:, None] for x in images]
    conditional = (cosine(along[0], whole[1]) + cosine(whole[0], along[1])) / 2
    return PairCurves(counts.double() / pixels, cosine(along[0], along[1]), conditional)


def _whole(embed: Embed, x: Tensor, batch_size: int) -> Tensor:
    return _embedded(embed, len(x), lambda places: x[places.to(x.device)], batch_size)


def _embedded(embed: Embed, count: int, make: Callable[[Tensor], Tensor], batch_size: int) -> Tensor:
    """Return the embeddings of images that are made batch by batch, float64 [count, D] on the CPU."""

    def part(start: int, stop: int) -> Tensor:
        with torch.inference_mode():
            z = embed(make(torch.arange(start, stop)))
        if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != stop - start or not torch.isfinite(z).all():
            shape = list(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise DataError(f"embed: {shape} returned for {counted(stop - start, 'image')}; expected finite [N, D]")
        return z.to("cpu", torch.float64)

    return torch.cat([*AtOnce(batch_size, "images").parts(count, part)])


def _check(images: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor], unit: bool) -> None:
    """Raise DataError unless there are two batches of images of one shape, and a map for each image."""
    a, b = images
    if a.shape != b.shape or a.ndim != 4 or not a.is_floating_point():
        raise DataError(f"images {list(a.shape)} and {list(b.shape)} given; expected two floating [N, C, H, W], alike")
    for each in maps:
        check_maps(each, unit)
        if each.shape != (len(a), *a.shape[2:]):
            raise DataError(f"maps: {list(each.shape)} given; expected {[len(a), *a.shape[2:]]}, as the images have")
