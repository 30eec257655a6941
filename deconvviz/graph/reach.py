"""Receptive-field intervals: which rows (or columns) of an op's input one position of its output reads.

Everything is one affine map. `Interval(jump, low, size)` says: output position `a` reads the input positions
`low + a * jump` up to `low + a * jump + size - 1`. A convolution of kernel k, stride s, padding p and dilation d
is `Interval(s, -p, d * (k - 1) + 1)`, an element-wise op `Interval(1, 0, 1)`, and two ops in a row are `then`.
`jump == 0` means that every output position reads the same interval: the whole map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

Axes = tuple[int, int]  # which two dimensions of a value are rows and columns


@dataclass(frozen=True)
class Interval:
    """The input positions that an output position reads.

    Output position `a` reads the positions `low + a * jump` to `low + a * jump + size - 1`.

    Attributes:
        jump: how far the interval moves from one output position to the next; 0 for an op that reads the same
            positions everywhere.
        low: first position that output position 0 reads; negative in the padding.
        size: number of positions.

    >>> convolution = Interval(jump=2, low=-1, size=3)  # kernel 3, stride 2, padding 1
    >>> convolution.then(convolution)  # what a unit of a second such convolution reads of the first one's input
    Interval(jump=4, low=-3, size=7)
    """

    jump: int
    low: int
    size: int

    def then(self, inner: Interval) -> Interval:
        """Return what this interval's positions read through one more op: `inner` is that op's own interval."""
        return Interval(
            self.jump * inner.jump, self.low * inner.jump + inner.low, (self.size - 1) * inner.jump + inner.size
        )

    def union(self, other: Interval, length: int) -> Interval:
        """Return the smallest interval that holds both, the whole map of `length` where no affine one does."""
        if self.jump != other.jump:
            return whole(length)
        low = min(self.low, other.low)
        return Interval(self.jump, low, max(self.low + self.size, other.low + other.size) - low)


SAME = Interval(1, 0, 1)
ONE = Interval(0, 0, 1)
Reach = tuple[Interval, Interval]  # rows, columns


def whole(length: int) -> Interval:
    """Return the interval of an op whose every output position reads all `length` positions."""
    return Interval(0, 0, length)


@dataclass(frozen=True)
class Geometry:
    """Where the rows and columns of a node's value lie, and what it reads of each of its data inputs.

    Attributes:
        axes: the dimensions of the value that hold rows and columns; None where it has no map.
        reach: for each of `data_inputs(node)` the rows and columns that are read; None where the input is needed as a
            whole.
    """

    axes: Axes | None
    reach: tuple[Reach | None, ...]

    @property
    def local(self) -> bool:
        """Whether the op can be computed on windows of its inputs."""
        return self.axes is not None and all(entry is not None for entry in self.reach)


def data_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the node's inputs that depend on the image, in the order of the arguments, twice where used twice."""
    inputs: list[fx.Node] = []

    def visit(argument: fx.Node) -> fx.Node:
        if argument.meta["data"]:
            inputs.append(argument)
        return argument

    fx.node.map_arg((node.args, node.kwargs), visit)
    return inputs


def pair(value: Any) -> tuple[int, int]:
    """Return an argument of an op, `int`, `[int]` or `[int, int]`, as two integers.

    >>> pair(3), pair([2]), pair([1, 2])
    ((3, 3), (2, 2), (1, 2))
    """
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value; -1 stands for a dimension that grows with the batch."""
    shape: tuple[int, ...] = node.meta["shape"]
    return shape


def axes_of(node: fx.Node) -> Axes | None:
    """Return the dimensions that hold rows and columns in this node's value, None where it has no map."""
    geometry: Geometry = node.meta["geometry"]
    return geometry.axes


def map_axes(node: fx.Node) -> Axes:
    """Return the dimensions that hold rows and columns in the value of a node that has a map."""
    axes = axes_of(node)
    assert axes is not None
    return axes


def edges(node: fx.Node) -> list[tuple[fx.Node, Reach | None]]:
    """Return the inputs of a node that depend on the image, and the rows and columns that it reads of each."""
    geometry: Geometry = node.meta["geometry"]
    return list(zip(data_inputs(node), geometry.reach, strict=True))


def lengths(node: fx.Node) -> tuple[int, int]:
    """Return the number of rows and columns of a node that has a map."""
    axes, shape = map_axes(node), shape_of(node)
    return shape[axes[0]], shape[axes[1]]


def whole_map(node: fx.Node) -> Geometry:
    """Return the geometry of an op of which nothing is known: every output position may depend on every input."""
    shape = node.meta.get("shape", ())
    return Geometry(_likely_axes(node) if len(shape) == 4 else None, (None,) * len(data_inputs(node)))


def _likely_axes(node: fx.Node) -> Axes:
    """Rows and columns of a value whose history tells nothing: they keep the image's aspect, and stand last or first.

    Swin's blocks hand on N, H, W, C through rolls and windows.
    """
    images = (n for n in node.graph.nodes if n.op == "placeholder" and len(n.meta.get("shape", ())) == 4)
    image = next(images, None)  # it stands first: no walk over the graph for every op
    height, width = shape_of(image)[2:] if image is not None else (1, 1)
    _, first, second, third = shape_of(node)
    return (1, 2) if second * width != third * height and first * width == second * height else (2, 3)


def sliding(node: fx.Node, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Geometry:
    """Return the geometry of a window that slides over rows and columns: of convolution and pooling."""
    inputs = data_inputs(node)
    if len(inputs) != 1 or axes_of(inputs[0]) != (2, 3):
        return whole_map(node)
    return Geometry((2, 3), (window_reach(kernel, stride, padding, dilation),))


def window_reach(kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Reach:
    """Return the rows and columns that one position of a sliding window reads."""
    rows, columns = (
        Interval(s, -p, d * (k - 1) + 1)
        for k, s, p, d in zip(kernel, pair(stride), pair(padding), pair(dilation), strict=True)
    )
    return rows, columns


def _pointwise_reach(source: fx.Node, node: fx.Node, axes: Axes) -> Reach | None:
    shift = len(shape_of(node)) - len(shape_of(source))
    if axes_of(source) != (axes[0] - shift, axes[1] - shift):
        return None
    inner, outer = lengths(source), [shape_of(node)[axis] for axis in axes]
    rows, columns = (SAME if a == b else ONE for a, b in zip(inner, outer, strict=True))
    return rows, columns


def pointwise(node: fx.Node, blocked: Sequence[int] = ()) -> Geometry:
    """Return the geometry of an op that mixes no rows and columns.

    `blocked` are the dimensions that it does mix, as softmax and layer norm do.
    """
    inputs, shape = data_inputs(node), shape_of(node)
    candidates = [axes_of(i) for i in inputs if len(shape_of(i)) == len(shape)]
    axes = next((a for a in candidates if a is not None), None)
    if axes is None or any(b % len(shape) in axes for b in blocked):
        return whole_map(node)
    reach = tuple(_pointwise_reach(source, node, axes) for source in inputs)
    return Geometry(axes, reach) if all(r is not None for r in reach) else whole_map(node)


def elementwise(node: fx.Node, blocked: Sequence[int] = ()) -> Geometry:
    """Return the geometry of a point-wise op of several operands, any of which may be a constant."""
    geometry = pointwise(node, blocked)
    if geometry.axes is not None and not _constants_broadcast(node, geometry.axes):
        return whole_map(node)
    return geometry


def _constants_broadcast(node: fx.Node, axes: Axes) -> bool:
    """Return whether all constants broadcast over rows and columns.

    A constant with rows and columns of its own would have to be cropped with the window: the op is then not local.
    """
    for arg in node.all_input_nodes:
        if arg.meta["data"] or "shape" not in arg.meta:
            continue
        shift = len(shape_of(node)) - len(shape_of(arg))
        if any(axis >= shift and shape_of(arg)[axis - shift] != 1 for axis in axes):
            return False
    return True


def moved(node: fx.Node, order: Sequence[int]) -> Geometry:
    """Return the geometry of permuted dimensions: output dimension i is input dimension `order[i]`."""
    axes = axes_of(data_inputs(node)[0])
    if axes is None:
        return whole_map(node)
    return Geometry((order.index(axes[0]), order.index(axes[1])), ((SAME, SAME),))


def reshaped(node: fx.Node) -> Geometry:
    """Return the geometry of a view.

    One that leaves trailing rows and columns alone (channel shuffle) is local; any other mixes the whole map.
    """
    source = data_inputs(node)[0]
    before, after, axes = shape_of(source), shape_of(node), axes_of(source)
    trailing = axes == (len(before) - 2, len(before) - 1)
    if trailing and len(after) > 2 and before[-2:] == after[-2:]:
        return Geometry((len(after) - 2, len(after) - 1), ((SAME, SAME),))
    return whole_map(node)


def shifted(node: fx.Node, low: tuple[int, int]) -> Geometry:
    """Return the geometry of padding or slicing: output row a is input row `a + low[0]`, and columns alike."""
    axes = axes_of(data_inputs(node)[0])
    return Geometry(axes, ((Interval(1, low[0], 1), Interval(1, low[1], 1)),))


def receptive_interval(node: fx.Node, below: dict[fx.Node, Reach], image: tuple[int, int]) -> Reach:
    """Return the image rows and columns that one position of `node` reads, from those of its inputs.

    Args:
        node: a node that depends on the image.
        below: the same for every node before it.
        image: height and width of the image, in pixels.

    Source: Zeiler and Fergus 2013, section 2 (the patch of a projection); intervals as in the module's docstring.
    """
    geometry: Geometry = node.meta["geometry"]
    result: Reach | None = None
    for source, reach in zip(data_inputs(node), geometry.reach, strict=True):
        if reach is None or not axes_of(source):
            through = tuple(
                _anywhere(interval, source, axis, image[axis]) for axis, interval in enumerate(below[source])
            )
        else:
            through = tuple(
                outer.then(inner) if outer.jump else _cut(outer.then(inner), image[axis])
                for axis, (outer, inner) in enumerate(zip(reach, below[source], strict=True))
            )
        if result is not None:
            through = tuple(a.union(b, length) for a, b, length in zip(result, through, image, strict=True))
        result = (through[0], through[1])
    assert result is not None
    return result


def _anywhere(interval: Interval, source: fx.Node, axis: int, image: int) -> Interval:
    """Return the union of an input's intervals over all its positions, clipped to the image."""
    count = lengths(source)[axis] if axes_of(source) else 1
    return _cut(Interval(0, interval.low, (count - 1) * interval.jump + interval.size), image)


def _cut(interval: Interval, image: int) -> Interval:
    low, high = max(interval.low, 0), min(interval.low + interval.size, image)
    return Interval(0, low, high - low)
