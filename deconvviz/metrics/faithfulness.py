"""What masking an image by its map does to the class's probability: drop, increase, gain; and ADCC."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deconvviz.errors import DataError
from deconvviz.metrics.inputs import Scores, check_maps, check_pair, check_scored, fill_like, ranks, scored
from deconvviz.metrics.metric import register

register("average_drop", "Average Drop", False, "fraction", "Chattopadhay et al. 2018, Grad-CAM++")
register("increase", "Increase in Confidence", True, "0 or 1", "Chattopadhay et al. 2018, Grad-CAM++")
register("average_gain", "Average Gain", True, "fraction", "Zhang et al. 2024, Opti-CAM")
register("coherency", "Coherency", True, "fraction", "Poppi et al. 2021, ADCC")
register("complexity", "Complexity", False, "fraction", "Poppi et al. 2021, ADCC")
register("adcc", "ADCC", True, "fraction", "Poppi et al. 2021, ADCC")


@dataclass(frozen=True)
class Faithfulness:
    """What the mask did to each image, float64 [N] each.

    Attributes:
        drop: max(0, p - o) / p; 0 where p = 0, which has nothing to lose. Lower is better.
        increase: 1 where o > p, strictly, else 0. Higher is better.
        gain: max(0, o - p) / (1 - p); 0 where p = 1, which has nothing to gain. Higher is better.
        before: p, the class's probability on the image.
        after: o, its probability on the masked image.
    """

    drop: Tensor
    increase: Tensor
    gain: Tensor
    before: Tensor
    after: Tensor


def kept(maps: Tensor, share: float) -> Tensor:
    """Keep the largest pixels of each map and set the others to 0; what is kept stays soft.

    Args:
        maps: floating [N,H,W].
        share: in (0, 1]; round(share * H * W) pixels are kept, of equal ones the first in row-major order.

    Returns:
        As `maps`, same dtype and device. A share that rounds to no pixel gives zeros.

    Raises:
        DataError: maps that are no maps, or a share outside (0, 1].

    Source: Ntrougkas et al. 2022, L-CAM (AD and IC at 100, 50 and 15 %).
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
    """Compare each image with the image masked by its map, x * m + fill * (1 - m).

    Args:
        scores: see Scores; called under inference_mode.
        images: [N,C,H,W], normalised.
        maps: [N,H,W] in 0..1.
        classes: int64 [N], the class explained: the one predicted on the whole image in the papers.
        share: see `kept`.
        fill: what masked pixels become, a number or [C] in normalised space: 0 is the dataset's mean (ADCC, RISE),
            (0 - mean) / std is black (L-CAM).
        batch_size: images scored at once.
        before: float64 [N], the classes' probabilities on the images where they are known; else these are scored too.

    A map that is 1 everywhere changes nothing: its image is scored once, o = p exactly.

    Raises:
        DataError: inputs that do not go together, or scores that are no probabilities.

    Source: Chattopadhay et al. 2018 (drop, increase); Zhang et al. 2024, Opti-CAM (gain).
    """
    check_scored(images, maps, classes, batch_size)
    kept(maps[:1], share)  # a wrong share is told before the scoring
    blank = fill_like(images, fill)

    def masked(at: Tensor) -> Tensor:
        mask = kept(maps[at.to(maps.device)], share).to(images)[:, None]
        return images[at.to(images.device)] * mask + blank * (1 - mask)

    if before is None:
        before = scored(scores, lambda at: images[at.to(images.device)], classes, batch_size)
    before = before.to("cpu", torch.float64)
    after = before.clone()
    some = round(share * maps[0].numel()) < maps[0].numel()
    changed = torch.arange(len(maps)) if some else (maps < 1).flatten(1).any(1).nonzero()[:, 0].cpu()
    own = classes[changed.to(classes.device)]
    after[changed] = scored(scores, lambda at: masked(changed[at]), own, batch_size)
    drop = torch.where(before > 0, (before - after).clamp(min=0) / before, 0.0)
    gain = torch.where(before < 1, (after - before).clamp(min=0) / (1 - before), 0.0)
    return Faithfulness(drop, (after > before).double(), gain, before, after)


def complexity(maps: Tensor) -> Tensor:
    """Return the mean of each map [N,H,W] in 0..1, float64 [N]; lower is better.

    Raises:
        DataError: maps that are no maps, or leave 0..1.

    Source: Poppi et al. 2021, the L1 norm of the map over its size.
    """
    check_maps(maps)
    return maps.detach().to("cpu", torch.float64).flatten(1).mean(1)


def coherency(maps: Tensor, maps_of_masked: Tensor) -> Tensor:
    """Return (r + 1) / 2 for Pearson's r of each map and the map of the same class on the image masked by it.

    Args:
        maps, maps_of_masked: [N,H,W] each; min-max normalising them changes nothing.

    Returns:
        float64 [N] in 0..1; 0 where a map is constant, which has no r. Higher is better.

    Raises:
        DataError: maps that are no maps, or of different shapes.

    Source: Poppi et al. 2021.
    """
    check_pair(maps, maps_of_masked, False, ("maps", "maps_of_masked"))
    rows = [m.detach().to("cpu", torch.float64).flatten(1) for m in (maps, maps_of_masked)]
    varied = (rows[0] != rows[0][:, :1]).any(1) & (rows[1] != rows[1][:, :1]).any(1)
    a, b = (row - row.mean(1, keepdim=True) for row in rows)
    r = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    return torch.where(varied & r.isfinite(), (r.clamp(-1, 1) + 1) / 2, 0.0)


def adcc(drop: Tensor, coherency: Tensor, complexity: Tensor) -> Tensor:
    """Return 3 / (1/coherency + 1/(1 - complexity) + 1/(1 - drop)), the harmonic mean, per image.

    Args:
        drop, coherency, complexity: [N] each, fractions.

    Returns:
        float64 [N] in 0..1; 0 where a term is 0, which is the mean's limit. Higher is better. The mean of this over
        a dataset is what the authors report; the harmonic mean of the dataset's means (Recipro-CAM) is larger.

    Raises:
        DataError: other shapes, or values outside 0..1.

    Source: Poppi et al. 2021.
    """
    given = {"drop": drop, "coherency": coherency, "complexity": complexity}
    for name, values in given.items():
        if values.ndim != 1 or values.shape != drop.shape:
            raise DataError(f"{name}: {list(values.shape)} given; expected {[len(drop.flatten())]}, one an image")
        if not ((values >= 0) & (values <= 1)).all():
            raise DataError(f"{name}: {values.min():g} to {values.max():g} given; expected fractions, 0 to 1")
    terms = torch.stack([t.detach().to("cpu", torch.float64) for t in (coherency, 1 - complexity, 1 - drop)])
    whole = (terms > 0).all(0)
    return torch.where(whole, 3 / torch.where(whole, terms, 1.0).reciprocal().sum(0), 0.0)
