"""How strongly a network's score depends on what is not the object, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.arrays import evenly
from deconvviz.data.truth import OBJECT
from deconvviz.graph.computing import computing
from deconvviz.graph.reach import axes_of
from deconvviz.studies.diagnosis.subject import Subject, remembered
from deconvviz.types import Floats, Ints, Mask

IMAGES, SHOWN = 100, 6  # images whose gradient is measured, and images in the figure
MOST_TIMES = 1000.0  # a larger ratio means that there is no gradient on the object at all
FLAT = 1e-4  # standard deviation over the places / mean: the gradient of maps that are averaged is everywhere the same


@dataclass(frozen=True, kw_only=True, eq=False)
class Outside:
    """The gradient of a score at a layer, outside the object against on it.

    Attributes:
        layer: name of the layer.
        ratios: float64 [n], of each image how many times as large the gradient is at a place outside the object as at
            one on it, on the average; at most MOST_TIMES. NaN where nothing of the image is, or all of it is, object.
        shares: float64 [n], the part of the gradient that is outside, in 0..1.
        flat: whether the gradient is the same at every place, as of maps that are averaged right away.
        maps: float32 [m, h, w], the size of the gradient at each place of the images that are shown.
    """

    layer: str
    ratios: Floats
    shares: Floats
    flat: bool
    maps: NDArray[np.float32]

    @property
    def ratio(self) -> float:
        """The median of the ratios; NaN where there is none."""
        ratios = self.ratios[~np.isnan(self.ratios)]
        return float(np.median(ratios)) if len(ratios) else float("nan")


@remembered
def object_masks(subject: Subject) -> tuple[Ints, Mask]:
    """Return at most IMAGES images whose object is known: their places int64 [n], and the masks bool [n, H, W].

    The masks are of the network's input. Images that are all object, or show nothing of it, are left out.
    """
    assert subject.options.truth is not None
    places, masks = [], []
    for place, image in enumerate(subject.indices):
        stored = subject.options.truth.masks(int(image)).get(OBJECT)
        mask = None if stored is None else subject.preprocess.mask(stored)
        if mask is not None and mask.any() and not mask.all():
            places.append(place)
            masks.append(mask)
    chosen = evenly(len(places), IMAGES)
    height, width = subject.network.input_shape[1:]
    return (
        np.array([places[n] for n in chosen], np.int64),
        np.array([masks[n] for n in chosen], bool).reshape(-1, height, width),
    )


def shown(count: int) -> Ints:
    """Return which of so many images the figure shows, evenly chosen, int64."""
    return evenly(count, SHOWN)


@remembered
def outside_object(subject: Subject) -> tuple[Outside, ...]:
    """Measure the gradient of each image's score at every layer with rows and columns that is looked at.

    The score is that of the image's class, or that of the decision where the class is not known. The size of a gradient
    at a place is the sum of its absolute values over the channels. The subject must have a truth and scores.
    """
    assert subject.logits is not None
    places, masks = object_masks(subject)
    layers = [name for name in subject.layers if axes_of(subject.network.layer(name).node) is not None]
    layers = [name for name in layers if max(subject.network.layer(name).units[1:]) > 1]
    if not len(places) or not layers:
        return ()
    targets = subject.targets[places]
    classes = np.where(targets >= 0, targets, subject.logits[places].argmax(1))
    outside = 1 - torch.from_numpy(masks).to(subject.network.device, torch.float32)
    numbers: list[list[Tensor]] = [[] for _ in layers]
    pictures: list[list[Tensor]] = [[] for _ in layers]
    start = 0
    for batch, x in subject.watched("gradient outside the object", places):
        stop = start + len(batch)
        chosen = torch.from_numpy(classes[start:stop]).to(x.device)
        within = shown(len(places))
        within = within[(within >= start) & (within < stop)] - start
        for n, size in enumerate(_sizes(subject, layers, x, chosen)):
            numbers[n].append(_against(size, outside[start:stop]))
            pictures[n].append(size[torch.from_numpy(within).to(size.device)])
        start = stop
    return tuple(
        _outside(layer, torch.cat(values).cpu(), torch.cat(sizes).cpu())
        for layer, values, sizes in zip(layers, numbers, pictures, strict=True)
    )


def _sizes(subject: Subject, layers: Sequence[str], x: Tensor, classes: Tensor) -> list[Tensor]:
    """Return the size of the gradient at each place of each layer, [n, h, w]."""
    network = subject.network
    with torch.enable_grad(), computing("fp32"):
        values, output = network.observed(x.detach().requires_grad_(), layers)
        score = network.readout.scores(output).gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(score, list(values.values()), allow_unused=True)
    return [
        network.maps(name, torch.zeros_like(value) if gradient is None else gradient).detach().abs().sum(1)
        for (name, value), gradient in zip(values.items(), gradients, strict=True)
    ]


def _against(size: Tensor, outside: Tensor) -> Tensor:
    """Return (ratio, share outside, spread over the places / mean) of each image, float64 [n, 3].

    Args:
        size: [n, h, w], of the gradient.
        outside: [n, H, W] in the network's input, 1 outside the object; each place of the map has the share of it that
            lies below, as if the map covered the input evenly.
    """
    size = size.double()
    part = torch.nn.functional.adaptive_avg_pool2d(outside[:, None], (size.shape[1], size.shape[2]))[:, 0].double()
    there, here = ((size * each).flatten(1).sum(1) for each in (part, 1 - part))
    density_there, density_here = there / part.flatten(1).sum(1), here / (1 - part).flatten(1).sum(1)
    ratio = density_there / torch.maximum(density_here, density_there / MOST_TIMES)
    flat = size.flatten(1)
    return torch.stack([ratio, there / (there + here), flat.std(1) / flat.mean(1)], 1)


def _outside(layer: str, values: Tensor, sizes: Tensor) -> Outside:
    ratios, shares, spreads = values.T.numpy()
    spreads = spreads[~np.isnan(spreads)]  # an image whose score has no gradient here has none, and tells nothing
    flat = bool(len(spreads) and (spreads < FLAT).all())
    return Outside(layer=layer, ratios=ratios, shares=shares, flat=flat, maps=sizes.float().numpy())
