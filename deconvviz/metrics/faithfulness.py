"""How masking an image by its map changes the class's probability: drop, increase and gain; and ADCC."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import Scores, check_maps, check_pair, check_scored, fill_like, pairwise, ranks, scored
from deconvviz.metrics.intervals import correlation
from deconvviz.metrics.metric import register

register("average_drop", "Average Drop", False, "fraction", "Chattopadhay et al. 2018, Grad-CAM++")
register("increase", "Increase in Confidence", True, "0 or 1", "Chattopadhay et al. 2018, Grad-CAM++")
register("average_gain", "Average Gain", True, "fraction", "Zhang et al. 2024, Opti-CAM")
register("coherency", "Coherency", True, "fraction", "Poppi et al. 2021, ADCC")
register("complexity", "Complexity", False, "fraction", "Poppi et al. 2021, ADCC")
register("adcc", "ADCC", True, "fraction", "Poppi et al. 2021, ADCC")


@dataclass(frozen=True)
class Faithfulness:
    """How the mask changed the probability of each image's class.

    Attributes:
        drop: float64 [N], max(0, p - o) / p; 0 where p = 0, which has nothing to lose. Lower is better.
        increase: float64 [N], 1 where o > p, strictly, else 0. Higher is better.
        gain: float64 [N], max(0, o - p) / (1 - p); 0 where p = 1, which has nothing to gain. Higher is better.
        before: float64 [N], p, the class's probability on the image.
        after: float64 [N], o, the class's probability on the masked image.
    """

    drop: Tensor
    increase: Tensor
    gain: Tensor
    before: Tensor
    after: Tensor


def strongest_pixels(maps: Tensor, share: float) -> Tensor:
    """Return maps of which only the largest pixels are left, with their values; the others are 0.

    Args:
        maps: floating point [N, H, W].
        share: in (0, 1]; round(share * H * W) pixels are left, of equal ones the first in row-major order.

    Returns:
        [N, H, W] of the dtype and on the device of `maps`; zeros where the share rounds to no pixel.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor, or the share is not in (0, 1].

    Source: Ntrougkas et al. 2022, L-CAM (AD and IC at 100, 50 and 15 %).

    >>> strongest_pixels(torch.tensor([[[0.25, 0.75], [1.0, 0.5]]]), 0.5)
    tensor([[[0.0000, 0.7500],
             [1.0000, 0.0000]]])
    """
    check_maps(maps, unit=False)
    if not 0 < share <= 1:
        raise DataError(f"share {share:g} given; expected more than 0 and at most 1")
    count = round(share * maps[0].numel())
    if count == maps[0].numel():
        return maps.clone()
    return torch.where(ranks(maps) < count, maps, torch.zeros_like(maps))


def faithfulness(
    scores: Scores,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    share: float = 1.0,
    fill: Tensor | float = 0.0,
    batch_size: int = 32,
    before: Tensor | None = None,
) -> Faithfulness:
    """Compare each image x with the image that is masked by its map m, which is x * m + fill * (1 - m).

    A map that is 1 everywhere changes nothing: its image is scored once, and o = p exactly.

    Args:
        scores: see Scores; it is called under inference_mode.
        images: [N, C, H, W], normalised.
        maps: [N, H, W] in 0..1.
        classes: int64 [N], the class that is explained; in the papers it is the one predicted on the whole image.
        share: of the map's pixels that are used; see `strongest_pixels`.
        fill: the fill for masked pixels, a number or [C] in normalised space: 0 is the dataset's mean (ADCC, RISE),
            (0 - mean) / std is black (L-CAM).
        batch_size: images that are scored at once.
        before: float64 [N], the classes' probabilities on the images; by default the images are scored.

    Raises:
        DataError: the inputs do not belong together, or `scores` does not return probabilities.

    Source: Chattopadhay et al. 2018 (drop, increase); Zhang et al. 2024, Opti-CAM (gain).

    >>> def scores(images):  # class 0 is as probable as the image is bright
    ...     brightness = images.mean((1, 2, 3))
    ...     return torch.stack([brightness, 1 - brightness], 1)
    >>> images, left_half = torch.full((1, 1, 2, 2), 0.8), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    >>> result = faithfulness(scores, images, left_half, torch.tensor([0]))
    >>> [round(value.item(), 3) for value in (result.before, result.after, result.drop)]
    [0.8, 0.4, 0.5]
    """
    check_scored(images, maps, classes, batch_size)
    strongest_pixels(maps[:1], share)  # so that a wrong share is refused before the scoring
    blank = fill_like(images, fill)

    def masked(indices: Tensor) -> Tensor:
        mask = strongest_pixels(maps[indices.to(maps.device)], share).to(images)[:, None]
        return images[indices.to(images.device)] * mask + blank * (1 - mask)

    if before is None:
        before = scored(scores, lambda indices: images[indices.to(images.device)], classes, batch_size)
    before = before.to("cpu", torch.float64)
    after = before.clone()
    removes_pixels = round(share * maps[0].numel()) < maps[0].numel()
    changed = torch.arange(len(maps)) if removes_pixels else (maps < 1).flatten(1).any(1).nonzero()[:, 0].cpu()
    changed_classes = classes[changed.to(classes.device)]
    after[changed] = scored(scores, lambda indices: masked(changed[indices]), changed_classes, batch_size)
    drop = torch.where(before > 0, (before - after).clamp(min=0) / before, 0.0)
    gain = torch.where(before < 1, (after - before).clamp(min=0) / (1 - before), 0.0)
    return Faithfulness(drop, (after > before).double(), gain, before, after)


def complexity(maps: Tensor) -> Tensor:
    """Return the mean of each map, float64 [N]; lower is better.

    Args:
        maps: [N, H, W] in 0..1.

    Raises:
        DataError: `maps` is not a finite [N, H, W] tensor in 0..1.

    Source: Poppi et al. 2021, the L1 norm of the map over its size.

    >>> complexity(torch.tensor([[[0.0, 1.0], [0.5, 0.5]]]))
    tensor([0.5000], dtype=torch.float64)
    """
    check_maps(maps)
    return maps.detach().to("cpu", torch.float64).flatten(1).mean(1)


def coherency(maps: Tensor, maps_of_masked: Tensor) -> Tensor:
    """Return (r + 1) / 2, where r is Pearson's correlation of each map with the map of the masked image.

    Args:
        maps: [N, H, W]; min-max normalising them changes nothing.
        maps_of_masked: [N, H, W], the maps of the same classes on the images that are masked by `maps`.

    Returns:
        float64 [N] in 0..1; 0 where a map is constant, which has no correlation. Higher is better.

    Raises:
        DataError: one of them is not a finite [N, H, W] tensor, or their shapes differ.

    Source: Poppi et al. 2021.

    >>> maps = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    >>> coherency(maps, maps).item(), coherency(maps, 1 - maps).item()
    (1.0, 0.0)
    """
    check_pair(maps, maps_of_masked, False, ("maps", "maps_of_masked"))
    return pairwise(maps, maps_of_masked, lambda x, y: (correlation(x, y) + 1) / 2)


def adcc(drop: Tensor, coherency: Tensor, complexity: Tensor) -> Tensor:
    """Return 3 / (1/coherency + 1/(1 - complexity) + 1/(1 - drop)) for each image: the harmonic mean of the three.

    Args:
        drop: [N], fractions; see `faithfulness`.
        coherency: [N], fractions.
        complexity: [N], fractions.

    Returns:
        float64 [N] in 0..1; 0 where a term is 0, which is the mean's limit. Higher is better. The authors report the
        mean of this over a dataset; the harmonic mean of the dataset's means (Recipro-CAM) is larger.

    Raises:
        DataError: the shapes differ, or a value is outside of 0..1.

    Source: Poppi et al. 2021.

    >>> adcc(torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([0.5]))  # 3 / (1 + 2 + 2)
    tensor([0.6000], dtype=torch.float64)
    """
    for name, values in {"drop": drop, "coherency": coherency, "complexity": complexity}.items():
        if values.ndim != 1 or values.shape != drop.shape:
            raise DataError(f"{name}: {list(values.shape)} given; expected {[len(drop.flatten())]}, one an image")
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError(f"{name}: {values.min():g} to {values.max():g} given; expected fractions, 0 to 1")
    terms = torch.stack([t.detach().to("cpu", torch.float64) for t in (coherency, 1 - complexity, 1 - drop)])
    positive = (terms > 0).all(0)
    return torch.where(positive, 3 / torch.where(positive, terms, 1.0).reciprocal().sum(0), 0.0)
