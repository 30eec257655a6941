"""How much of the image a unit really uses: its effective receptive field, compared with the size of the objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deconvviz.data.pictures import side_that_holds
from deconvviz.data.truth import OBJECT, Truth, bounds
from deconvviz.graph.computing import computing
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name
from deconvviz.graph.reach import axes_of, data_inputs, shape_of
from deconvviz.studies.diagnosis.subject import Subject
from deconvviz.types import Box, Floats

ENERGY = 0.95  # share of the gradient's energy that the effective field holds


@dataclass(frozen=True, kw_only=True)
class Field:
    """The receptive field of the unit in the middle of a layer's map, by the layers' geometry and by its gradient.

    Attributes:
        layer: name of the layer.
        side: longer side of the theoretical receptive field, in pixels of the network's input.
        effective: side of the smallest square around the unit's centre that holds ENERGY of the gradient's energy, in
            pixels; 0 where no unit depends on the image.
        centre: centre of the unit's receptive field, (row, column) in pixels.
        energy: float64 [H, W], the mean squared gradient at each pixel, scaled to the sum 1; zeros where no unit
            depends on the image.
    """

    layer: str
    side: int
    effective: int
    centre: tuple[int, int]
    energy: Floats

    def square(self, side: int) -> Box:
        """Return the square of that side around the unit, clipped to the image."""
        top, left = (middle - side // 2 for middle in self.centre)
        height, width = self.energy.shape
        return Box(top, left, top + side, left + side).clipped(height, width)


def effective_fields(
    network: Network, batches: Iterable[Tensor], layers: Sequence[str], seed: int
) -> tuple[Field, ...]:
    """Measure the effective receptive fields of layers; those without rows and columns are left out.

    The gradient of the middle unit of every channel with respect to the image is squared and summed over channels,
    colours and images. All channels are sent back at once, each multiplied by a random sign: the expectation of the
    squared sum is then the sum of the squares.

    Args:
        network: a captured network.
        batches: its inputs [n, C, H, W], on its device.
        layers: names from `network.layers`.
        seed: of the signs.

    Returns:
        A `Field` for each layer with rows and columns, in the order of `layers`.

    Source: Luo et al. 2016, arXiv 1701.04128, sections 2 and 3. They average the gradient and cut it at 4.55 % of its
    maximum, which needs a smooth average; the energy does not.
    """
    with_maps = [name for name in layers if axes_of(network.layer(name).node) is not None]
    height, width = network.input_shape[1:]
    energy = {name: torch.zeros(height, width, dtype=torch.float64) for name in with_maps}
    random = torch.Generator().manual_seed(seed)
    for batch in batches:
        x = batch.detach().clone().requires_grad_()
        with torch.enable_grad(), computing("fp32"):
            values = network.activations(x, with_maps)
            for place, name in enumerate(with_maps):
                maps = network.maps(name, values[name])
                middle = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
                signs = (torch.randint(0, 2, middle.shape, generator=random) * 2 - 1).to(middle)
                (gradient,) = torch.autograd.grad(middle, x, signs, retain_graph=place + 1 < len(with_maps))
                energy[name] += gradient.double().square().sum((0, 1)).cpu()
    return tuple(_field(network, name, energy[name].numpy()) for name in with_maps)


def _field(network: Network, name: str, energy: Floats) -> Field:
    layer, shape = network.layer(name), network.input_shape[1:]
    _, *counts = layer.units
    theory = layer.receptive_field
    middles = [
        min(max(offset + (count // 2) * stride + (size - 1) // 2, 0), room - 1)
        for offset, count, stride, size, room in zip(
            theory.offset, counts, theory.stride, theory.size, shape, strict=True
        )
    ]
    centre = (middles[0], middles[1])
    total = energy.sum()
    if total > 0:
        energy = energy / total
    effective = side_that_holds(energy, centre, ENERGY) if total > 0 else 0
    return Field(layer=name, side=max(theory.size), effective=effective, centre=centre, energy=energy)


def object_boxes(subject: Subject, truth: Truth) -> dict[int, Box]:
    """Return the box around the object in each image where it is known: place -> box in pixels of the input."""
    boxes = {}
    for place, image in enumerate(subject.indices):
        stored = truth.masks(int(image)).get(OBJECT)
        mask = None if stored is None else subject.preprocess.mask(stored)
        if mask is not None and mask.any():
            boxes[place] = bounds(mask)
    return boxes


def object_side(boxes: Iterable[Box]) -> float:
    """Return the median over boxes of the longer side, in pixels."""
    return float(np.median([max(box.height, box.width) for box in boxes]))


def readers_of_context(network: Network) -> list[tuple[str, int]]:
    """Return each convolution that reads more than one position, and how much of the image its input sees.

    Returns:
        (name of the layer, longer side of the receptive field of the layer's input in pixels), in the order of
        computation.
    """
    readers = []
    for node in network.graph.nodes:
        name = network.name_of(node)
        if node.op != "call_function" or op_name(node) != "conv2d" or name is None:
            continue
        source, weight = data_inputs(node)[0], node.args[1]
        if max(shape_of(weight)[2:]) > 1:
            layer_read = network.name_of(source)
            readers.append((name, max(network.layer(layer_read).receptive_field.size) if layer_read else 1))
    return readers
