"""How a strided layer responds to a shift of its input by one pixel, compared with the same layer without aliasing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn.functional import conv2d

from deconvviz.arrays import widened
from deconvviz.graph.network import Network
from deconvviz.graph.ops import final_value, op_of
from deconvviz.graph.reach import axes_of, data_inputs, pair
from deconvviz.studies.diagnosis.measures.build import stride_of
from deconvviz.types import Floats

MOST = 1000.0  # a ratio that is larger says no more: the response is aliased altogether


@dataclass(frozen=True, kw_only=True)
class Strided:
    """A convolution or pooling with a stride of more than 1.

    Attributes:
        layer: name of its layer.
        node: the op in the graph.
        end: the value after the BatchNorm and the rectifier that follow it; the op itself where none do.
        stride: distance between neighbouring units in positions of its input, (rows, columns).
    """

    layer: str
    node: fx.Node
    end: fx.Node
    stride: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ShiftChange:
    """How much the response of a strided layer changes when its input moves by one pixel.

    Attributes:
        layer: name of the layer.
        stride: its stride, (rows, columns).
        strided: root mean square of the change, divided by the standard deviation of the response about each channel's
            mean.
        reference: the same of the anti-aliased layer, whose response at every position is blurred before it is
            subsampled; divided by the same standard deviation.
        channels: float64 [C], the change of each channel divided by the change of its anti-aliased response; NaN where
            a channel does not vary.
    """

    layer: str
    stride: tuple[int, int]
    strided: float
    reference: float
    channels: Floats

    @property
    def ratio(self) -> float:
        """How many times as much the response changes as the anti-aliased one; 1 where nothing aliases.

        It is at most MOST, as where the anti-aliased response does not change at all; NaN where the response does not.
        """
        if not self.strided > 0:
            return float("nan")
        return min(self.strided / self.reference, MOST) if self.reference > 0 else MOST


def strided_ops(network: Network) -> tuple[Strided, ...]:
    """Return every convolution and pooling whose stride is more than 1, in the order of computation."""
    ops = []
    for node in network.graph.nodes:
        if node.op != "call_function" or not node.meta["data"] or op_of(node).stride_argument is None:
            continue
        if len(data_inputs(node)) != 1 or axes_of(data_inputs(node)[0]) != (2, 3):
            continue
        stride = stride_of(node)
        if max(stride) > 1 and (name := network.name_of(node)):
            ops.append(Strided(layer=name, node=node, end=final_value(node), stride=stride))
    return tuple(ops)


def dense_response(network: Network, op: Strided, x: Tensor) -> Tensor:
    """Return the response of a strided op at every position, after the BatchNorm and rectifier that follow it.

    Args:
        network: the network of the op.
        op: from `strided_ops`.
        x: images [N, C, H, W].

    Returns:
        [N, channels, rows, columns], without the positions that read padding.
    """
    inputs = network.run({network.image: x}, op.node.all_input_nodes, len(x))
    place = op_of(op.node).stride_argument
    assert place is not None
    arguments, keywords = network.arguments(op.node, inputs)
    unstrided = [*arguments[:place], [1, 1], *arguments[place + 1 :]]
    target: Any = op.node.target
    response: Tensor = target(*unstrided, **keywords)
    if op.end is not op.node:
        response = network.run({op.node: response}, [op.end], len(x))[op.end]
    rows, columns = (0, 0) if isinstance(unstrided[place + 1], str) else pair(unstrided[place + 1])
    return response[..., rows : response.shape[2] - rows, columns : response.shape[3] - columns]


def blurred(maps: Tensor, stride: tuple[int, int]) -> Tensor:
    """Blur maps for subsampling by a stride, without the borders.

    The kernel is a triangle of 2 s - 1 positions in each direction, which is a box of s convolved with itself. Its
    spectrum is zero at every multiple of the new sampling rate: frequencies that subsampling would turn into a
    constant. For s = 2 it is [1, 2, 1] / 4.

    Args:
        maps: [N, C, h, w].
        stride: s of rows and of columns.

    Returns:
        [N, C, h - 2 (s - 1), w - 2 (s - 1)].

    Source: Zhang 2019, arXiv 1904.11486, section 3.2 and its "Triangle-3" filter; the other sizes are this package's.

    >>> blurred(torch.tensor([[[[0.0, 0.0, 1.0, 0.0, 0.0]]]]), (1, 2)).tolist()
    [[[[0.25, 0.5, 0.25]]]]
    """
    channels = maps.shape[1]
    for axis, step in enumerate(stride):
        offsets = torch.arange(1 - step, step, device=maps.device, dtype=maps.dtype)
        weights = (step - offsets.abs()) / step**2
        kernel = weights.reshape(1, 1, -1, 1) if axis == 0 else weights.reshape(1, 1, 1, -1)
        maps = conv2d(maps, kernel.expand(channels, -1, -1, -1), groups=channels)
    return maps


def shift_changes(
    network: Network, batches: Iterable[Tensor], ops: Iterable[Strided] | None = None
) -> tuple[ShiftChange, ...]:
    """Measure how much the response of strided layers changes when their input moves by one pixel.

    When its input moves by one pixel, a strided layer reads another phase of its dense response, which is its response
    with a stride of 1. Averaged over all phases, the change is therefore the difference between neighbours in the dense
    response, along the axes with a stride; that of the anti-aliased layer is the same in the blurred dense response.
    Both are divided by the spread of the unblurred response. So a response of nothing but fine stripes, of which the
    blur leaves nothing, counts as aliased altogether.

    Args:
        network: a captured network.
        batches: its inputs [n, C, H, W], on its device.
        ops: which of its strided ops; by default all.

    Returns:
        A `ShiftChange` for each op, except for those whose maps are too small to have neighbours after the blur.

    Source: Zhang 2019, arXiv 1904.11486, sections 3.1 and 3.2; this measure of the change is this package's.
    """
    measured = tuple(strided_ops(network) if ops is None else ops)
    sums = {op.layer: _Sums() for op in measured}
    with torch.inference_mode():
        for x in batches:
            for op in measured:
                for part in torch.split(x, max(1, 8 // max(op.stride))):  # a dense response is stride squared as large
                    sums[op.layer].add(dense_response(network, op, part), op.stride)
    return tuple(sums[op.layer].change(op) for op in measured if sums[op.layer].positions)


class _Sums:
    """Sums over images and positions of one layer: of the dense response, and of the blurred one.

    Attributes:
        positions: number of positions that were summed.
        total: float64 [2, C], sums of the values: of the dense response, then of the blurred one.
        squares: float64 [2, C], sums of the squared values.
        changes: float64 [2, C], sums of the squared differences between neighbours.
    """

    def __init__(self) -> None:
        self.positions = 0
        self.total: Floats = np.zeros(0)
        self.squares: Floats = np.zeros(0)
        self.changes: Floats = np.zeros(0)

    def add(self, dense: Tensor, stride: tuple[int, int]) -> None:
        """Add a dense response [n, C, rows, columns]; one that is too small to be blurred is left out."""
        margins = [step - 1 for step in stride]
        inner = [size - 2 * margin for size, margin in zip(dense.shape[2:], margins, strict=True)]
        if min(inner) < 2:
            return
        (top, left), (height, width) = margins, inner
        pairs = (dense[..., top : top + height, left : left + width], blurred(dense, stride))
        sums = torch.stack([torch.stack([_summed(part) for part in _parts(maps, stride)]) for maps in pairs])
        total, squares, changes = sums.cpu().numpy().swapaxes(0, 1)
        if not self.positions:
            self.total, self.squares, self.changes = (np.zeros_like(total) for _ in range(3))
        self.positions += dense.shape[0] * height * width
        self.total += total
        self.squares += squares
        self.changes += changes

    def change(self, op: Strided) -> ShiftChange:
        """Divide the mean squared changes by the variances; both means are over positions and images."""
        spread = np.maximum(self.squares - self.total**2 / self.positions, 0)
        spread[spread <= 1e-6 * self.squares] = 0  # what rounding leaves of a constant channel
        with np.errstate(invalid="ignore", divide="ignore"):
            strided, reference = np.sqrt(self.changes.sum(1) / spread[0].sum()).tolist()
            channels = np.where(spread[0] > 0, np.sqrt(self.changes[0] / self.changes[1]), np.nan)
        return ShiftChange(layer=op.layer, stride=op.stride, strided=strided, reference=reference, channels=channels)


def _parts(maps: Tensor, stride: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the values, their squares, and the squared differences between neighbours along the axes with a stride.

    Along an axis there is one difference fewer than values; the differences are scaled, so that the sums compare.
    """
    yield maps
    yield maps.square()
    axes = [axis for axis, step in zip((2, 3), stride, strict=True) if step > 1]
    squared = [maps.diff(dim=axis).square() for axis in axes]
    scale = [maps.shape[axis] / (maps.shape[axis] - 1) / len(axes) for axis in axes]
    yield torch.stack([(s * f).sum((2, 3)) for s, f in zip(squared, scale, strict=True)]).sum(0)[..., None, None]


def _summed(values: Tensor) -> Tensor:
    """Return the sum over images and positions of values [n, C, rows, columns], float64 [C]."""
    return values.sum((2, 3), dtype=widened(values.dtype)).double().sum(0)
