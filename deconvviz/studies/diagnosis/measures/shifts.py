"""What a strided layer makes of a shift by one pixel, beside the same layer with an anti-aliased stride."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn.functional import conv2d

from deconvviz.graph.network import Network
from deconvviz.graph.ops import final_value, op_of
from deconvviz.graph.reach import axes_of, data_inputs, pair

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Strided:
    """An op that steps over its input: its layer's name, its node, the last of what follows it point by point."""

    layer: str
    node: fx.Node
    end: fx.Node
    stride: tuple[int, int]


@dataclass(frozen=True)
class ShiftChange:
    """How a strided layer's response changes when its input moves by one pixel, in parts of its own spread.

    Attributes:
        layer, stride: which layer, and its steps in rows and columns.
        strided: root of the mean square of the change over that of the response about each channel's mean.
        reference: the change of the layer evaluated at every position and blurred before it is subsampled, in parts of
            the same spread: what is left of the change once nothing aliases.
        channels: float64 [C], strided / reference of each channel by itself; NaN where a channel does not vary.
    """

    layer: str
    stride: tuple[int, int]
    strided: float
    reference: float
    channels: Floats

    @property
    def ratio(self) -> float:
        """How many times as much the response changes as the anti-aliased one; 1 where nothing aliases."""
        return self.strided / self.reference if self.reference > 0 else float("nan")


def strided_ops(network: Network) -> tuple[Strided, ...]:
    """Return every convolution and pooling whose stride is more than 1, in the order of computation."""
    found = []
    for node in network.graph.nodes:
        place = op_of(node).stride_argument if node.op == "call_function" and node.meta["data"] else None
        if place is None or len(data_inputs(node)) != 1 or axes_of(data_inputs(node)[0]) != (2, 3):
            continue
        arguments: tuple[Any, ...] = node.args
        stride = pair(arguments[place] or arguments[1])  # of a pooling without one: its window
        if max(stride) > 1 and (name := network.name_of(node)):
            found.append(Strided(name, node, final_value(node), stride))
    return tuple(found)


def dense_response(network: Network, op: Strided, x: Tensor) -> Tensor:
    """Return the op's response at every position of its input, after BatchNorm and rectifier where they follow it.

    x: images [N, C, H, W]. Positions that read padding are left out: [N, channels, rows, columns].
    """
    known = network.run({network.image: x}, op.node.all_input_nodes, len(x))
    place = op_of(op.node).stride_argument
    assert place is not None
    arguments, keywords = network.arguments(op.node, known)
    changed = [*arguments[:place], [1, 1], *arguments[place + 1 :]]
    target: Any = op.node.target
    response: Tensor = target(*changed, **keywords)
    if op.end is not op.node:
        response = network.run({op.node: response}, [op.end], len(x))[op.end]
    rows, columns = (0, 0) if isinstance(changed[place + 1], str) else pair(changed[place + 1])
    return response[..., rows : response.shape[2] - rows, columns : response.shape[3] - columns]


def blurred(maps: Tensor, stride: tuple[int, int]) -> Tensor:
    """Blur maps [N, C, h, w] for subsampling by `stride`, and leave out the borders: [N, C, h - 2(s-1), w - 2(s-1)].

    The kernel is a triangle of 2 s - 1 positions in each direction, a box of s convolved with itself: its spectrum is
    zero at every multiple of the new sampling rate, which would alias to a constant. For s = 2 it is [1, 2, 1] / 4.

    Source: Zhang 2019, arXiv 1904.11486, section 3.2 and its "Triangle-3" filter; the other sizes are this package's.
    """
    channels = maps.shape[1]
    for axis, step in enumerate(stride):
        offsets = torch.arange(1 - step, step, device=maps.device, dtype=maps.dtype)
        weights = (step - offsets.abs()) / step**2
        shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
        maps = conv2d(maps, weights.reshape(shape).expand(channels, 1, *_sizes(weights, axis)), groups=channels)
    return maps


def shift_changes(
    network: Network, batches: Iterable[Tensor], ops: Iterable[Strided] | None = None
) -> tuple[ShiftChange, ...]:
    """Measure how strided layers answer to a shift of their own input by one pixel.

    A shift of the input by one pixel makes the layer read another phase of its dense response. Averaged over all
    phases the change is therefore the difference between neighbours in the dense response, along the strided axes;
    and that of the anti-aliased layer is the same in the blurred one. Both are parts of the unblurred one's spread, so
    that a response of nothing but fine stripes, of which the blur leaves nothing, counts as aliasing all of it.

    Args:
        batches: inputs [n, C, H, W] of the network, on its device.
        ops: which; by default all. Layers whose maps are too small to blur and still have neighbours are left out.

    Source: Zhang 2019, arXiv 1904.11486, sections 3.1 and 3.2; this measure of the change is this package's.
    """
    chosen = tuple(strided_ops(network) if ops is None else ops)
    sums = {op.layer: _Sums() for op in chosen}
    with torch.inference_mode():
        for x in batches:
            for op in chosen:
                for part in torch.split(x, max(1, 8 // max(op.stride))):  # dense takes stride squared
                    sums[op.layer].add(dense_response(network, op, part), op.stride)
    return tuple(sums[op.layer].result(op) for op in chosen if sums[op.layer].positions)


class _Sums:
    """Sums over images of one layer: float64 [2, C] each, first of the dense response, then of the blurred one."""

    def __init__(self) -> None:
        self.positions = 0
        self.total: Floats = np.zeros(0)
        self.squares: Floats = np.zeros(0)
        self.changes: Floats = np.zeros(0)

    def add(self, dense: Tensor, stride: tuple[int, int]) -> None:
        margins = [step - 1 for step in stride]
        inner = [size - 2 * margin for size, margin in zip(dense.shape[2:], margins, strict=True)]
        if min(inner) < 2:
            return
        (top, left), (height, width) = margins, inner
        pairs = (dense[..., top : top + height, left : left + width], blurred(dense, stride))
        rows = [[_summed(part) for part in _parts(maps, stride)] for maps in pairs]
        total, squares, changes = (np.stack([row[n] for row in rows]) for n in range(3))
        if not self.positions:
            self.total, self.squares, self.changes = (np.zeros_like(total) for _ in range(3))
        self.positions += dense.shape[0] * height * width
        self.total += total
        self.squares += squares
        self.changes += changes

    def result(self, op: Strided) -> ShiftChange:
        """Divide the mean square changes by the variances; both means are over positions and images."""
        spread = np.maximum(self.squares - self.total**2 / self.positions, 0)
        spread[spread <= 1e-6 * self.squares] = 0  # what rounding leaves of a constant channel
        with np.errstate(invalid="ignore", divide="ignore"):
            layer = np.sqrt(self.changes.sum(1) / spread[0].sum())
            ratio = np.where(spread[0] > 0, np.sqrt(self.changes[0] / self.changes[1]), np.nan)
        return ShiftChange(op.layer, op.stride, float(layer[0]), float(layer[1]), ratio)


def _parts(maps: Tensor, stride: tuple[int, int]) -> Iterator[Tensor]:
    """Yield values, squares, and the squared difference between neighbours along the strided axes.

    The differences are one fewer than the values along an axis; they are scaled, so that sums compare.
    """
    yield maps
    yield maps.square()
    axes = [axis for axis, step in zip((2, 3), stride, strict=True) if step > 1]
    squared = [maps.diff(dim=axis).square() for axis in axes]
    scale = [maps.shape[axis] / (maps.shape[axis] - 1) / len(axes) for axis in axes]
    yield torch.stack([(s * f).sum((2, 3)) for s, f in zip(squared, scale, strict=True)]).sum(0)[..., None, None]


def _summed(values: Tensor) -> Floats:
    exact = torch.promote_types(values.dtype, torch.float32)
    return np.asarray(values.sum((2, 3), dtype=exact).double().sum(0).cpu().numpy(), np.float64)


def _sizes(weights: Tensor, axis: int) -> tuple[int, int]:
    return (len(weights), 1) if axis == 0 else (1, len(weights))
