"""Forward passes of images that differ from one image within a box: only what the box changes is computed.

An op runs on the part of its value that changes (`changed_parts`). What it reads beside the changed part of its input
is cut out of the value that the unchanged image has, which is computed once. From where the part is most of a map, or
an op reads a map as a whole, the network runs as it always does.

Source: Nakandala, Kumar and Papakonstantinou 2019, "Incremental and approximate inference for faster occlusion-based
deep CNN explanations" (SIGMOD), the incremental and exact one of their two ways; cited from memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from deconvviz.graph.changed_parts import Part, changed_parts
from deconvviz.graph.computing import computing
from deconvviz.graph.costs import work
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_of
from deconvviz.graph.program import Values
from deconvviz.graph.reach import data_inputs, edges, lengths, map_axes, shape_of, whole
from deconvviz.graph.steps import make_plan
from deconvviz.types import Ints

FAR = 2**40  # a row of memory that no table has
Spans = tuple[Tensor, Tensor]  # numbers of spans of image rows and of image columns


@dataclass(frozen=True)
class Rows:
    """Values of images as rows of memory, one for each position, and behind them two for what lies outside the map.

    Attributes:
        table: [N * rows * columns + 2, C]; the last two rows hold zero and minus infinity.
        others: the other dimensions of the value, of which C is the product.
    """

    table: Tensor
    others: tuple[int, ...]

    @staticmethod
    def of(value: Tensor, axes: tuple[int, int]) -> Rows:
        """Return the rows of a value [N, ...] whose rows and columns are in these dimensions."""
        last = value.movedim(axes, (1, 2))
        table = last.reshape(last.shape[:3].numel(), -1)
        fills = [0.0, -torch.inf] if table.is_floating_point() else [0, 0]
        outside = [torch.full_like(table[:1], fill) for fill in fills]
        return Rows(torch.cat([table, *outside]), tuple(last.shape[3:]))


class Cut:
    """Cuts windows out of changed values: the part that changed where it is, and the unchanged value beside it.

    Attributes:
        node: whose value is cut.
        size: rows and columns of the windows.
    """

    def __init__(self, node: fx.Node, part: Part, window: Part, device: torch.device) -> None:
        """Note the rows of memory for each span of image rows and columns.

        Args:
            node: whose value is cut.
            part: what changes of it.
            window: where the windows are; they may lie beside the map.
            device: where the values are.
        """
        self.node, self.size = node, window.size
        height, width = lengths(node)
        self._positions = height * width
        rows, columns = (_covered(window.starts[axis], window.size[axis]) for axis in range(2))
        self._from = _sent(rows, height, width, device), _sent(columns, width, 1, device)
        rows, columns = (_covered(part.starts[axis] - window.starts[axis], part.size[axis]) for axis in range(2))
        self._to = _sent(rows, window.size[0], window.size[1], device), _sent(columns, window.size[1], 1, device)

    def __call__(self, part: Tensor, unchanged: Rows, images: Tensor, spans: Spans, fill: float = 0.0) -> Tensor:
        """Return windows [m, ...].

        Args:
            part: what changed, [m, ...].
            unchanged: the value of N images without a change.
            images: int64 [m], the image of each window.
            spans: int64 [m] each, the span of rows of each window, and that of columns.
            fill: 0 or minus infinity: what stands outside the map.
        """
        axes, many, area = map_axes(self.node), len(images), self.size[0] * self.size[1]
        outside = len(unchanged.table) - (2 if fill == 0 else 1)
        rows, columns = (line[numbers] for line, numbers in zip(self._from, spans, strict=True))
        places = (rows + images[:, None] * self._positions)[:, :, None] + columns[:, None]
        windows = part.new_empty(many * area + 1, unchanged.table.shape[1])  # the last row takes what is cut off
        torch.index_select(unchanged.table, 0, places.clamp_(max=outside).flatten(), out=windows[:-1])
        rows, columns = (line[numbers] for line, numbers in zip(self._to, spans, strict=True))
        each = torch.arange(0, many * area, area, device=images.device)[:, None]
        places = ((rows + each)[:, :, None] + columns[:, None]).clamp_(max=many * area)
        windows.index_copy_(0, places.flatten(), part.movedim(axes, (1, 2)).reshape(places.numel(), -1))
        return windows[:-1].reshape(many, *self.size, *unchanged.others).movedim((1, 2), axes)


class Changes:
    """The passes of a network over images that differ from others within a box.

    Attributes:
        network: the network that runs.
        reads: the nodes whose values are asked for.
        parts: node -> which part of its value changes with each box.
        share: the work of a pass over the parts, of that of a whole pass.

    >>> import deconvviz as dv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten())
    >>> network, x = dv.capture(model.eval(), (3, 16, 16)), torch.ones(1, 3, 16, 16)
    >>> changes = Changes(network, network.output_nodes(), np.array([[0, 0, 4, 4], [6, 6, 10, 10]]))
    >>> image, box = torch.tensor([0]), torch.tensor([1])
    >>> values = changes.run(changes.unchanged(x), torch.zeros(1, 3, 4, 4), image, box)
    >>> x[:, :, 6:10, 6:10] = 0
    >>> torch.allclose(network.packed(values), network(x), atol=1e-6)
    True
    """

    def __init__(self, network: Network, reads: Sequence[fx.Node], boxes: Ints) -> None:
        """Plan the passes.

        Args:
            network: the network that runs.
            reads: the nodes whose values are asked for.
            boxes: int64 [W, 4]: (top, left, bottom, right) of each box in pixels, bottom and right exclusive. They may
                extend beyond the image.
        """
        self.network, self.reads = network, tuple(reads)
        rows, columns = (np.unique(boxes[:, axis::2], axis=0, return_inverse=True) for axis in range(2))
        self._spans = [torch.from_numpy(numbers.reshape(-1)).to(network.device) for _, numbers in (rows, columns)]
        given = frozenset({network.image, network.batch_size})
        steps = [node for node in make_plan(network.graph, given, self.reads).steps if node.meta["data"]]
        self.parts = changed_parts(network.image, steps, rows[0], columns[0])
        read_as_a_whole = {source for node in steps if node not in self.parts for source in data_inputs(node)}
        self._border = [node for node in self.parts if node in read_as_a_whole or node in self.reads]
        self._plan = make_plan(network.graph, given, self._border)
        self._cuts = self._make_cuts()
        self._counts = {node: self._counted(node) for node in self.parts if op_of(node).counts}
        part = self.parts[network.image]
        self._image_rows, self._image_columns = (
            _covered(part.starts[axis], part.size[axis]).to(network.device) for axis in range(2)
        )
        beside = {cut.node for cut in self._cuts.values() if cut is not None}
        self._read_beside = [node for node in self.parts if node in beside]
        done = sum(work(node) * (self.parts[node].share(node) if node in self.parts else 1) for node in steps)
        self.share = done / max(sum(map(work, steps)), 1)

    def _make_cuts(self) -> dict[tuple[fx.Node, int | None], Cut | None]:
        """Return how each op gets its inputs: (op, number of the input) -> the cut, None where it reads just the part.

        (node, None) is the cut of the whole map.
        """
        cuts: dict[tuple[fx.Node, int | None], Cut | None] = {}
        device = self.network.device
        for node in self._plan.steps:
            if node.meta["data"]:
                for number, (source, reach) in enumerate(edges(node)):
                    assert reach is not None  # the op is local
                    part, window = self.parts[source], self.parts[node].read(reach)
                    cuts[node, number] = None if window.same(part) else Cut(source, part, window, device)
        for node in self._border:
            part, (rows, columns) = self.parts[node], lengths(node)
            cuts[node, None] = Cut(node, part, part.read((whole(rows), whole(columns))), device)
        return cuts

    @property
    def bytes_of_one(self) -> int:
        """The bytes that the values of one image without a change take."""
        values = sum(math.prod(shape_of(node)[1:]) for node in self._read_beside)
        return values * self.network.dtype.itemsize

    def spans(self, boxes: Tensor) -> Spans:
        """Return the numbers of the spans of rows and columns of some boxes, int64 [m] each."""
        return self._spans[0][boxes], self._spans[1][boxes]

    def positions(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image rows [m, h] and columns [m, w] of the part that changes with some boxes, int64 [m]."""
        rows, columns = self.spans(boxes)
        return self._image_rows[rows], self._image_columns[columns]

    def unchanged(self, x: Tensor) -> dict[fx.Node, Rows]:
        """Return what is read beside the parts, of images [N, C, H, W] as the network takes them (`checked`)."""
        computed = [node for node in self._read_beside if node is not self.network.image]
        with torch.no_grad():
            values = {**self.network.run({self.network.image: x}, computed, len(x)), self.network.image: x}
            return {node: Rows.of(values[node], map_axes(node)) for node in self._read_beside}

    def run(self, unchanged: Mapping[fx.Node, Rows], patches: Tensor, images: Tensor, boxes: Tensor) -> Values:
        """Return the values of `reads` for m changed images.

        Args:
            unchanged: of N images.
            patches: [m, C, h, w], what each changed image holds at its `positions`.
            images: int64 [m], the image that each one differs from.
            boxes: int64 [m], the number of the box within which it does.

        Returns:
            node -> [m, ...].
        """
        network, plan, spans = self.network, self._plan, self.spans(boxes)
        values: Values = {node: network.tensors[str(node.target)] for node in plan.weights}
        values |= {network.image: patches, network.batch_size: len(patches)}

        def window(cut: Cut, fill: float = 0.0) -> Tensor:
            return cut(values[cut.node], unchanged[cut.node], images, spans, fill)

        with torch.no_grad(), computing(network.precision):
            for node in plan.steps:
                if node.meta["data"]:
                    sources = [(source, self._cuts[node, n]) for n, source in enumerate(data_inputs(node))]
                    fill = op_of(node).fill
                    inputs = [values[source] if cut is None else window(cut, fill) for source, cut in sources]
                    values[node] = self._on_part(node, inputs, values, spans)
                else:
                    values[node] = network.value(node, values)
                for spent in plan.release.get(node, ()):
                    del values[spent]
            whole_values = {node: window(cut) for (node, number), cut in self._cuts.items() if number is None and cut}
            return network.run(whole_values, self.reads, len(patches))

    def _on_part(self, node: fx.Node, inputs: Sequence[Tensor], values: Values, spans: Spans) -> Any:
        """Compute the part of one value."""
        op, supply = op_of(node), iter(inputs)
        bound = fx.node.map_arg((node.args, node.kwargs), lambda n: next(supply) if n.meta["data"] else values[n])
        args, kwargs = self.network.on_its_device(*bound)
        if op.on_window is not None:
            args = op.on_window(node, args, self.parts[node].size)
        out = self.network.called(node, args, kwargs)
        if op.counts is None:
            return out
        rows, columns = (line[numbers] for line, numbers in zip(self._counts[node], spans, strict=True))
        return out / (rows[:, None, :, None] * columns[:, None, None, :])

    def _counted(self, node: fx.Node) -> tuple[Tensor, ...]:
        """Return of how many values average pooling takes the mean, as factors of rows [R, h] and columns [C, w]."""
        counts, part = op_of(node).counts, self.parts[node]
        assert counts is not None
        return tuple(
            torch.tensor(numbers, dtype=self.network.dtype)
            .clamp(min=1)[_covered(part.starts[axis], part.size[axis])]
            .to(self.network.device)
            for axis, numbers in enumerate(counts(node))
        )


def patches(x: Tensor, images: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
    """Cut rows [m, h] and columns [m, w] out of images x [N, C, H, W], each from one of `images` [m]: [m, C, h, w]."""
    rows, columns = positions
    return x.movedim(1, 3)[images[:, None, None], rows[:, :, None], columns[:, None]].movedim(3, 1)


def _covered(starts: Ints, size: int) -> Tensor:
    """Return the positions from each start on, int64 [starts, size]."""
    return torch.from_numpy(starts.copy())[:, None] + torch.arange(size)


def _sent(positions: Tensor, length: int, step: int, device: torch.device) -> Tensor:
    """Return where positions along an axis are in memory, on a device; far away where they are outside of the map."""
    inside = (positions >= 0) & (positions < length)
    return torch.where(inside, positions * step, FAR).to(device)
