"""The filters behind a layer's channels: their weights, and which spatial frequencies those hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma  # type: ignore[import-untyped]
from torch import Tensor, fx

from deconvviz.graph.network import Network
from deconvviz.graph.ops import batch_norm_scale, op_name, op_of
from deconvviz.graph.reach import data_inputs, pair

GRID = 128  # samples of a spectrum in each direction: cycles per pixel in steps of 1/128; kernels are smaller
# In units of what Gaussian noise has. Measured: of 4000 noisy 5x5 filters of colour pictures 99 % have a flatness above
# 0.83 and a spread above 0.73; the flatness of SqueezeNet's first filters, edges and blobs, is 0.03 to 0.54.
NOISE_FLATNESS, NOISE_SPREAD = 0.6, 0.55
COLOUR = 0.4  # of a filter's energy in its mean colour: with more it is a filter of that colour, however noisy the rest
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Filters:
    """The filters of one layer, one for each of its channels.

    Attributes:
        weights: float64 [channels, inputs, rows, columns]; of a linear layer rows and columns are 1.
        scale: float64 [channels], what BatchNorm multiplies each one with; ones where there is none.
        stride: pixels or positions between neighbouring units, (rows, columns).
        groups: each channel reads one group of inputs only; filters of different groups do not compare.
        first: whether it is the network's first convolution.
    """

    weights: Weights
    scale: NDArray[np.float64]
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    first: bool = False

    @property
    def effective(self) -> Weights:
        """The weights with BatchNorm's factor: what the channel computes."""
        return self.weights * self.scale[:, None, None, None]

    @property
    def of_image(self) -> bool:
        """Whether the filters read an image and are large enough to be looked at."""
        return self.first and self.weights.shape[1] in (1, 3) and min(self.weights.shape[2:]) > 1

    @property
    def rms(self) -> NDArray[np.float64]:
        """The root mean square of each filter's effective weights, float64 [channels]."""
        return np.asarray(np.sqrt((self.effective**2).mean((1, 2, 3))))

    @property
    def cosines(self) -> NDArray[np.float64]:
        """Cosine between effective filters, float64 [channels, channels]; 0 across groups and for empty filters."""
        flat = self.effective.reshape(len(self.weights), -1)
        lengths = np.linalg.norm(flat, axis=1, keepdims=True)
        unit = np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)
        group = np.arange(len(flat)) * self.groups // len(flat)
        return np.where(group[:, None] == group, unit @ unit.T, 0.0)


def filters_of(network: Network, layer: str) -> Filters | None:
    """Return the filters whose responses a layer holds, possibly rectified, normalised or pooled since.

    None where there is no convolution or linear layer right behind it, or its weights are themselves computed.
    Raises LayerNotFound where there is no such layer.
    """
    node, scale = network.layer(layer).node, None
    while op_of(node).passes_channels:
        below = data_inputs(node)
        if len(below) != 1:
            return None
        if op_name(node) == "batch_norm":
            scale = batch_norm_scale([_tensor(network, a) if isinstance(a, fx.Node) else a for a in _arguments(node)])
        elif op_of(node).kind != "linear":  # a normalisation of what was rectified is no factor of the filter
            scale = None
        node = below[0]
    if op_name(node) not in ("conv2d", "linear") or not isinstance(node.args[1], fx.Node):
        return None
    weight = _tensor(network, node.args[1])
    if weight is None:
        return None
    weights = weight.detach().double().cpu().numpy().reshape(*weight.shape, *[1] * (4 - weight.dim()))
    factors = np.ones(len(weights)) if scale is None else scale.detach().double().cpu().numpy()
    if op_name(node) == "linear":
        return Filters(weights, factors)
    convolutions = (n for n in network.graph.nodes if n.op == "call_function" and op_name(n) == "conv2d")
    stride, groups = _arguments(node)[3], _arguments(node)[6]
    return Filters(weights, factors, pair(stride), groups, node is next(convolutions))


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _tensor(network: Network, node: Any) -> Tensor | None:
    return network.tensors.get(str(node.target)) if node.op == "get_attr" else None


def spectra(weights: Weights) -> NDArray[np.float64]:
    """Return the power spectra of filters, summed over their inputs, float64 [n, GRID, GRID].

    weights: float64 [n, inputs, rows, columns]. Each spectrum has the sum 1, of an empty filter 0; its entries stand in
    the order of `numpy.fft.fftfreq(GRID)`, cycles per pixel, by rows and columns.
    """
    power = (np.abs(np.fft.fft2(weights, (GRID, GRID))) ** 2).sum(1)
    total = power.sum((1, 2), keepdims=True)
    return np.asarray(np.divide(power, total, out=np.zeros_like(power), where=total > 0))


def noisy(weights: Weights) -> NDArray[np.bool_]:
    """Return which filters look like noise: their energy is spread both over the kernel and over its frequencies.

    An edge or a grating is narrow in frequency, a dot in place, a colour is neither but plain. Kernels of fewer than 5
    rows or columns hold too little to tell, and are never noisy. weights: float64 [n, inputs, rows, columns].
    """
    if min(weights.shape[2:]) < 5:
        return np.zeros(len(weights), bool)
    plain = (weights.mean((2, 3)) ** 2).sum(1) >= COLOUR * (weights**2).mean((2, 3)).sum(1)
    return np.asarray(~plain & (flatness(weights) >= NOISE_FLATNESS) & (_spread(weights) >= NOISE_SPREAD))


def flatness(weights: Weights) -> NDArray[np.float64]:
    """Return how white each filter is, float64 [n]: about 1 for noise, far below for edges, blobs and gratings.

    It is the spectral flatness, the geometric by the arithmetic mean of the power at the kernel's own frequencies but 0
    (the mean colour), in units of what Gaussian noise is expected to have; 0 for a filter of one colour.

    Source: Johnston 1988 (spectral flatness); the expectation is that of the logarithm of a chi-squared variable.
    """
    _, inputs, rows, columns = weights.shape
    power = (np.abs(np.fft.fft2(weights)) ** 2).sum(1).reshape(len(weights), -1)
    live = power[:, 1:].sum(1) > 1e-12 * power.sum(1)
    others, ratio = power[live, 1:], np.zeros(len(power))
    mean = others.mean(1, keepdims=True)
    ratio[live] = np.exp(np.log(np.maximum(others / mean, 1e-300)).mean(1))
    # A frequency that is its own mirror has a real amplitude, the others a complex one: twice the degrees of freedom.
    own = (2 - rows % 2) * (2 - columns % 2) - 1
    real, full = (float(digamma(freedom / 2)) - np.log(freedom / 2) for freedom in (inputs, 2 * inputs))
    share = own / (rows * columns - 1)
    return np.asarray(ratio / np.exp(share * real + (1 - share) * full))


def _spread(weights: Weights) -> NDArray[np.float64]:
    """How much of its kernel a filter fills, in units of what Gaussian noise does: small for a dot."""
    energy = (weights**2).sum(1).reshape(len(weights), -1)
    squares = energy.shape[1] * (energy**2).sum(1)
    filled = np.divide(energy.sum(1) ** 2, squares, out=np.zeros(len(energy)), where=squares > 0)
    return np.asarray(filled * (1 + 2 / weights.shape[1]))


def pictures(weights: Weights) -> NDArray[np.uint8]:
    """Return filters of an image as pictures, uint8 [n, rows, columns, 3]: grey is zero, each in units of its largest.

    weights: float64 [n, 3 or 1, rows, columns].
    """
    peak = np.abs(weights).max((1, 2, 3), keepdims=True)
    values = 127.5 * (1 + np.divide(weights, peak, out=np.zeros_like(weights), where=peak > 0))
    shown = np.broadcast_to(values.round().astype(np.uint8), (len(weights), 3, *weights.shape[2:]))
    return np.ascontiguousarray(shown.transpose(0, 2, 3, 1))
