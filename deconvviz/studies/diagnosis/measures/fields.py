"""How far a unit really sees: the effective receptive field by the energy of its gradient, and the objects' size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.pictures import side_that_holds
from deconvviz.data.truth import OBJECT, Truth, bounds
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name
from deconvviz.graph.reach import axes_of, data_inputs, shape_of
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Box, Floats

ENERGY = 0.95  # share of the gradient's energy that the effective field holds


@dataclass(frozen=True)
class Field:
    """What the unit in the middle of a layer's map sees.

    Attributes:
        layer: its name; side: of its theoretical receptive field, in pixels of the input (the longer one).
        effective: side of the smallest square around the unit's centre that holds ENERGY of the gradient's energy.
        centre: of the unit, (row, column) in pixels.
        energy: float64 [H, W], the mean squared gradient, of sum 1; zeros where no unit depends on the image.
    """

    layer: str
    side: int
    effective: int
    centre: tuple[int, int]
    energy: Floats

    def square(self, side: int) -> Box:
        """Return the square of that side around the unit, cut to the image."""
        top, left = (middle - side // 2 for middle in self.centre)
        height, width = self.energy.shape
        return Box(top, left, top + side, left + side).clipped(height, width)


def effective_fields(
    network: Network, batches: Iterable[Tensor], layers: Sequence[str], seed: int
) -> tuple[Field, ...]:
    """Measure the effective receptive fields of layers with rows and columns; others are left out.

    The gradient of the middle unit of every channel with respect to the image is squared and summed over channels,
    colours and images. All channels go back at once with random signs, whose squares have that sum as expectation.

    Args:
        batches: inputs [n, C, H, W] of the network, on its device; seed: of the signs.

    Source: Luo et al. 2016, arXiv 1701.04128, sections 2 and 3; they average the gradient and cut it at 4.55 % of its
    maximum, which asks for a smooth average, energy does not.
    """
    chosen = [name for name in layers if axes_of(network.layer(name).node) is not None]
    height, width = network.input_shape[1:]
    energy = {name: torch.zeros(height, width, dtype=torch.float64) for name in chosen}
    random = torch.Generator().manual_seed(seed)
    for batch in batches:
        x = batch.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = network.activations(x, chosen)
            for place, name in enumerate(chosen):
                maps = network.maps(name, values[name])
                middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
                signs = (torch.randint(0, 2, middle.shape, generator=random) * 2 - 1).to(middle)
                (gradient,) = torch.autograd.grad(middle, x, signs, retain_graph=place + 1 < len(chosen))
                energy[name] += gradient.double().square().sum((0, 1)).cpu()
    return tuple(_field(network, name, energy[name].numpy()) for name in chosen)


def _field(network: Network, name: str, energy: Floats) -> Field:
    layer, shape = network.layer(name), network.input_shape[1:]
    _, *counts = layer.units
    seen = layer.receptive_field
    middles = [
        min(max(offset + (count // 2) * stride + (size - 1) // 2, 0), room - 1)
        for offset, count, stride, size, room in zip(seen.offset, counts, seen.stride, seen.size, shape, strict=True)
    ]
    centre = (middles[0], middles[1])
    total = energy.sum()
    if total > 0:
        energy = energy / total
    return Field(name, max(seen.size), side_that_holds(energy, centre, ENERGY) if total > 0 else 0, centre, energy)


def object_boxes(subject: Subject, truth: Truth) -> dict[int, Box]:
    """Return the box around the object in each chosen image where it is known, in pixels of the network's input."""
    found = {}
    for place, image in enumerate(subject.chosen):
        whole = truth.masks(int(image)).get(OBJECT)
        mask = None if whole is None else subject.preprocess.mask(whole)
        if mask is not None and mask.any():
            found[place] = bounds(mask)
    return found


def object_side(boxes: Iterable[Box]) -> float:
    """Return the median over boxes of the longer side."""
    return float(np.median([max(box.height, box.width) for box in boxes]))


def readers_of_context(network: Network) -> list[tuple[str, int]]:
    """Return (layer, side of what its input sees) of every convolution that reads more than one position."""
    readers = []
    for node in network.graph.nodes:
        name = network.name_of(node)
        if node.op != "call_function" or op_name(node) != "conv2d" or name is None:
            continue
        source, weight = data_inputs(node)[0], node.args[1]
        if max(shape_of(weight)[2:]) > 1:
            inner = network.name_of(source)
            readers.append((name, max(network.layer(inner).receptive_field.size) if inner else 1))
    return readers
