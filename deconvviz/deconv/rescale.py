"""DeepLIFT's rescale rule: one more policy for a signal that goes back through the graph.

The signal is a multiplier: the difference of the score over the difference of a value, between an image and a baseline.
Both run as one batch, image by image, each image before its baseline; both rows of a pair carry the same multiplier.

    linear ops                 their transpose, as for a gradient
    elementwise functions f    (f(x) - f(b)) / (x - b); the derivative at x where x and b are nearer than `NEAR`
    max pooling                the difference goes to the winner of the image where it is above the baseline's maximum,
                               else to the winner of the baseline
    any other op               its vector-Jacobian product, averaged over the straight line from b to x

Shrikumar et al. 2017, arXiv 1704.02685, section 3.5.1; max pooling as in the authors' released code (from memory of it
and as captum has it). The last line is our choice: the differences then add up for products, softmax and LayerNorm too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, fx

from deconvviz.deconv.switches import unpool
from deconvviz.graph.ops import Call, is_linear, op_name, op_of, vector_jacobian, with_inputs
from deconvviz.graph.reach import data_inputs, shape_of

NEAR = 1e-10  # differences below it have a derivative in their place, as in captum
POINTS = 32  # of the line from the baseline to the image
ELEMENTWISE = ("sigmoid", "hardsigmoid", "tanh", "exp", "sqrt", "rsqrt", "pow", "clamp", "abs", "log", "square")


@dataclass(frozen=True)
class Rescale:
    """The rescale rule, for a batch of pairs.

    Attributes:
        pairs: number of pairs; a batch has twice as many images.
    """

    pairs: int

    def reads_values(self, node: fx.Node) -> bool:
        """Return whether a multiplier depends on the values: at every op that is not linear."""
        return not is_linear(node) or op_of(node).kind in ("rectifier", "max_pool", "lrn")

    def transpose(self, call: Call, signal: Tensor) -> Sequence[Tensor | None]:
        """Return the multipliers of each data input of one call, from those of its output."""
        op = op_of(call.node)
        if op.kind == "max_pool":
            return [self._pooled(call, signal)]
        one_input = len(data_inputs(call.node)) == 1
        if op.kind == "rectifier" or (op_name(call.node) in ELEMENTWISE and one_input):
            return [self._elementwise(call, signal)]
        if op.transpose:
            return op.transpose(call, signal)
        return vector_jacobian(call, signal) if is_linear(call.node) and op.kind != "lrn" else self._line(call, signal)

    def _elementwise(self, call: Call, signal: Tensor) -> Tensor:
        x, baseline = self._pair(call.inputs[0], data_inputs(call.node)[0])
        out, out_baseline = self._pair(call.value(), call.node)
        step = x - baseline
        near = step.abs() < NEAR
        slope = (out - out_baseline) / torch.where(near, 1.0, step)
        if bool(near.any()):
            derivative = vector_jacobian(call, torch.ones_like(call.value()))[0]
            assert derivative is not None
            slope = torch.where(near, self._pair(derivative, call.node)[0], slope)
        return signal * self._both(slope, call.node)

    def _pooled(self, call: Call, signal: Tensor) -> Tensor:
        source = data_inputs(call.node)[0]
        x, baseline = self._pair(call.inputs[0], source)
        out, out_baseline = self._pair(call.value(), call.node)
        multiplier = self._pair(signal, call.node)[0]
        larger = torch.maximum(out, out_baseline)
        shares = torch.stack([multiplier * (larger - out_baseline), multiplier * (out - larger)], 1).flatten(0, 2)
        height, width = call.inputs[0].shape[2:]
        sent = torch.unflatten(unpool(shares, call.extra["switches"], height, width), 0, (self.pairs, 2, -1)).sum(1)
        gradient = self._pair(unpool(signal, call.extra["switches"], height, width), source)[0]
        step = x - baseline
        near = step.abs() < NEAR
        return self._both(torch.where(near, gradient, sent / torch.where(near, 1.0, step)), source)

    def _line(self, call: Call, signal: Tensor) -> list[Tensor | None]:
        """Return the op's vector-Jacobian product, averaged over the line, by Gauss and Legendre's rule."""
        total: list[Tensor | None] = [None] * len(call.inputs)
        sources = data_inputs(call.node)
        for place, weight in line_rule(POINTS):
            between = []
            for value, source in zip(call.inputs, sources, strict=True):
                if not value.is_floating_point():
                    between.append(value)
                    continue
                x, baseline = self._pair(value, source)
                between.append(self._both(torch.lerp(baseline, x, place), source))
            for number, part in enumerate(vector_jacobian(with_inputs(call, between), signal)):
                if part is not None:
                    before = total[number]
                    total[number] = part * weight if before is None else before + part * weight
        return total

    def _pair(self, value: Tensor, node: fx.Node) -> tuple[Tensor, Tensor]:
        """Return the values of the images and of their baselines, each with an axis for the pairs.

        A value that is the same for all images, such as a mask of an attention, is that of both.
        """
        axis = _axis(node)
        if axis is None:
            return value, value
        split = torch.unflatten(value, axis, (self.pairs, 2, -1))
        return split.select(axis + 1, 0), split.select(axis + 1, 1)

    def _both(self, value: Tensor, node: fx.Node) -> Tensor:
        """Return a batch in which both of a pair have the same value."""
        axis = _axis(node)
        return value if axis is None else torch.stack([value, value], axis + 1).flatten(axis, axis + 2)


def _axis(node: fx.Node) -> int | None:
    """Return the axis of a node's value that counts images, None where there is none."""
    shape = shape_of(node)
    return shape.index(-1) if -1 in shape else None


@cache
def line_rule(points: int) -> tuple[tuple[float, float], ...]:
    """Return the places in 0..1 of Gauss and Legendre's rule, and their weights, which add up to 1.

    >>> line_rule(1)
    ((0.5, 1.0),)
    """
    places, weights = np.polynomial.legendre.leggauss(points)
    return tuple((float(place + 1) / 2, float(weight) / 2) for place, weight in zip(places, weights, strict=True))
