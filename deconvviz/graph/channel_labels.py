"""Numbers for channels, followed through a graph: what ties them, what belongs to them, and what stops them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from deconvviz.graph.network import Network
from deconvviz.graph.ops import Op, op_name, op_of
from deconvviz.graph.reach import data_inputs, shape_of
from deconvviz.types import Ints

NOTHING = -1  # the label of a channel of zeros that a padding has added


Labelled = tuple[Ints, tuple[int, ...]]  # labels, and the shape of their value without the batch


class Unfollowed(Exception):
    """Raised within this module where an op mixes channels or counts them; its text says why."""


def follow(network: Network) -> Follower:
    """Follow the channels of a network from its images to its output."""
    follower = Follower(network)
    for node in network.graph.nodes:
        if node.op == "call_function" and node.meta["data"]:
            follower.visit(node)
    for node in network.output_nodes():
        follower.stop([node], "the network returns its channels")
    return follower


class Follower:
    """The labels of each value. A label stands for a channel; labels that are united go together.

    The labels of a value are int64 with a dimension for each of its own but the batch's; along a dimension that does
    not tell channels apart the length is 1.

    Attributes:
        layers: name of a layer whose filters make channels -> int64 [channels], their labels.
        convolutions: those of them that are convolutions.
        weights: such a layer -> the name of its weight.
        nodes: node whose channels have numbers of their own, of filters or normalisations, or which is read by filters
            and need not be zero where they are -> their labels.
        tensors: (name of a tensor, dimension) -> int64, the label of each number along it.
        norms: name of a module that normalises contrast across channels -> int64, the label at each place.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers: dict[str, Ints] = {}
        self.convolutions: set[str] = set()
        self.weights: dict[str, str] = {}
        self.nodes: dict[fx.Node, Ints] = {}
        self.tensors: dict[tuple[str, int], Ints] = {}
        self.norms: dict[str, Ints] = {}
        self._parent: list[int] = []
        self._stops: dict[int, str] = {}
        self._labels: dict[fx.Node, Ints] = {}
        self._zero: dict[fx.Node, bool] = {}  # whether a channel whose numbers are all zero is zero here
        image = self.new(network.input_shape[0], "it is a channel of the images")
        self._labels[network.image] = image.reshape(-1, *[1] * (len(network.input_shape) - 1))
        self._zero[network.image] = False

    # --- labels ---

    def new(self, count: int, stopped: str = "") -> Ints:
        """Return new labels, int64 [count]; `stopped` says why their channels have to stay."""
        labels = np.arange(len(self._parent), len(self._parent) + count)
        self._parent += labels.tolist()
        self._stops |= dict.fromkeys(labels.tolist(), stopped) if stopped else {}
        return labels

    def root(self, label: int) -> int:
        """Return the label that stands for all that are united with this one."""
        while label >= 0 and self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label

    def all_roots(self) -> Ints:
        """Return the same for every label, int64 [labels + 1]; the last one is NOTHING's."""
        return np.array([*map(self.root, range(len(self._parent))), NOTHING], np.int64)

    def unite(self, first: Ints, second: Ints) -> None:
        """Unite labels pair by pair; the arrays are broadcast against each other."""
        for a, b in zip(*(each.ravel().tolist() for each in np.broadcast_arrays(first, second)), strict=True):
            if NOTHING in (a, b) and a != b:
                self._stops.setdefault(max(a, b), "it is added to channels of zeros that a padding has made")
            elif a != b:
                self._parent[self.root(b)] = self.root(a)

    def reasons(self) -> dict[int, str]:
        """Return the label that stands for what cannot be taken out -> why, in words."""
        return {self.root(label): why for label, why in reversed(self._stops.items())}

    def stop(self, nodes: Sequence[fx.Node], why: str) -> None:
        """Note that the channels of some values have to stay."""
        for node in nodes:
            for label in np.unique(self._labels[node]).tolist():
                if label >= 0:
                    self._stops.setdefault(label, why)

    def belongs(self, tensor: Any, axis: int, labels: Ints) -> None:
        """Note the labels of the numbers of a tensor along a dimension; raise Unfollowed where it has no name."""
        if not (isinstance(tensor, fx.Node) and tensor.op == "get_attr"):
            raise Unfollowed("its numbers are computed from others")
        key = str(tensor.target), axis
        if key in self.tensors:
            self.unite(self.tensors[key], labels)
        self.tensors[key] = labels

    # --- ops ---

    def visit(self, node: fx.Node) -> None:
        """Find the labels of a node's value; channels that cannot be followed through it have to stay."""
        op, inputs = op_of(node), data_inputs(node)
        try:
            if any(shape_of(each)[:1] != (-1,) or -1 in shape_of(each)[1:] for each in (node, *inputs)):
                raise Unfollowed("it moves the batch")
            labels, zero = self._handler(op)(node, op, inputs)
        except Unfollowed as error:
            layer = self.network.name_of(node) or node.name
            why = f"{op_name(node)} ({layer}) reads its channels, {error}"
            self.stop(inputs, why)
            labels, zero = self._unknown(node, why), False
        self._labels[node], self._zero[node] = labels, zero

    def _unknown(self, node: fx.Node, why: str) -> Ints:
        """Return labels of which none can be taken out."""
        shape = shape_of(node)[1:] if "shape" in node.meta else ()
        return self.new(1, why).reshape([1] * len(shape))

    def _handler(self, op: Op) -> Callable[[fx.Node, Op, list[fx.Node]], tuple[Ints, bool]]:
        by_trait: list[tuple[bool, Callable[[fx.Node, Op, list[fx.Node]], tuple[Ints, bool]]]] = [
            (op.channels == "filters", self._filters),
            (op.channels == "joined", self._joined),
            (op.channels == "picked", self._picked),
            (op.channels == "cut", self._cut),
            (op.kind == "lrn", self._contrast),
            (op.channels == "same", self._same),
            (op.reshapes, self._reshaped),
            (op.reorders is not None, self._reordered),
            (op.averages, self._averaged),
            (op.pads, self._padded),
            (op.passes_channels, self._passed),
        ]
        return next((handler for fits, handler in by_trait if fits), self._mixed)

    def _mixed(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        raise Unfollowed("and may mix or count them")

    def _along(self, node: fx.Node, axis: int) -> Ints:
        """Return the labels of a value along one dimension, the only one that tells channels apart."""
        labels, length = self._labels[node], shape_of(node)[axis]
        axis = axis - 1 if axis > 0 else labels.ndim + axis
        if any(size > 1 for place, size in enumerate(labels.shape) if place != axis):
            raise Unfollowed("along another dimension")
        return np.repeat(labels.reshape(-1), length) if labels.size == 1 else labels.reshape(-1)

    def _filters(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """A convolution or linear layer: new channels; its weights belong to them and to those that it reads."""
        weight, bias = node.args[1], node.args[2]
        if len(inputs) != 1 or not isinstance(weight, fx.Node):
            raise Unfollowed("with weights that are not its own")
        outputs, dims = shape_of(weight)[0], len(shape_of(weight))
        axis = -1 if dims == 2 else 1
        read = self._along(inputs[0], axis)
        if not self._zero[inputs[0]]:  # factors have to stand here, too
            self.nodes[inputs[0]] = self._labels[inputs[0]]
        groups: Any = 1 if dims == 2 else node.args[6]
        new_labels = self.new(outputs)
        self.belongs(weight, 0, new_labels)
        if bias is not None:
            self.belongs(bias, 0, new_labels)
        if groups == 1:
            self.belongs(weight, 1, read)
        else:  # a group goes as a whole, with what it reads
            for labels in zip(read.reshape(groups, -1), new_labels.reshape(groups, -1), strict=True):
                joined = np.concatenate(labels)
                self.unite(joined[0], joined)
        name = self.network.name_of(node) or node.name
        self.layers[name], self.weights[name] = new_labels, str(weight.target)
        self.convolutions |= {name} if dims > 2 else set()
        shape = [1] * (len(shape_of(node)) - 1)
        shape[axis if axis < 0 else axis - 1] = outputs
        self.nodes[node] = new_labels.reshape(shape)
        return new_labels.reshape(shape), True

    def _passed(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """Rectifiers, poolings and normalisations of single channels, whose numbers belong to the channels."""
        (source,) = inputs
        owned = [each for each in node.all_input_nodes if each is not source]
        for tensor in owned:
            if shape_of(tensor) not in ((), (1,)):
                self.belongs(tensor, 0, self._along(source, 1))
        affine = op.normalises and len(owned) > 2
        if affine:
            self.nodes[node] = self._labels[source]
        return self._labels[source], affine or (self._zero[source] and (op.normalises or _keeps_zero(node, source)))

    def _same(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """Element by element: what meets is united."""
        dims = len(shape_of(node)) - 1
        values = list(dict.fromkeys(inputs))
        labels, shape = self._labels[values[0]], shape_of(values[0])[1:]
        for other in values[1:]:
            labels = self._met((labels, shape), (self._labels[other], shape_of(other)[1:]), dims)
            shape = shape_of(node)[1:]
        for tensor in (each for each in node.all_input_nodes if each not in values):
            self._of_constant(tensor, labels)
        zeros = [self._zero[value] for value in values]
        if len(values) == 1:
            return labels, zeros[0] and _keeps_zero(node, values[0])
        return labels, any(zeros) if op.kind == "other" else all(zeros)

    def _met(self, first: Labelled, second: Labelled, dims: int) -> Ints:
        """Unite the labels of two values that meet, with their shapes; return those of the result."""
        one, two = ((_led(labels, dims), (*[1] * (dims - len(shape)), *shape)) for labels, shape in (first, second))
        for (small, shape), (large, _) in ((one, two), (two, one)):
            if small.size == 1 and large.size > 1:
                axis = int(np.argmax(large.shape))
                if shape[axis] > 1:
                    raise Unfollowed("which meet positions of another value")
                if small.flat[0] >= 0:  # one channel for all of them: it stays
                    self._stops.setdefault(int(small.flat[0]), "it alone meets all channels of another value")
                return large
        if one[0].shape != two[0].shape:
            raise Unfollowed("which meet positions of another value")
        self.unite(one[0], two[0])
        return one[0]

    def _of_constant(self, tensor: fx.Node, labels: Ints) -> None:
        """Note that numbers of a tensor that meets channels belong to them."""
        shape = shape_of(tensor) if "shape" in tensor.meta else ()
        if labels.size == 1 or not shape:
            return
        axis = int(np.argmax(labels.shape)) - labels.ndim  # from behind, as broadcasting counts
        if len(shape) >= -axis and shape[axis] > 1:
            self.belongs(tensor, len(shape) + axis, labels.reshape(-1))

    def _joined(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        dim: Any = node.args[1] if len(node.args) > 1 else 0
        parts: Any = node.args[0]
        axis = dim % len(shape_of(node)) - 1
        if axis < 0 or len(parts) != len(inputs):
            raise Unfollowed("and joins them with something else")
        labels = [self._labels[part] for part in inputs]
        if any(each.shape[axis] > 1 for each in labels):
            labels = [self._widened(part, axis) for part in inputs]
            shapes = {tuple(size for place, size in enumerate(each.shape) if place != axis) for each in labels}
            if len(shapes) > 1:
                raise Unfollowed("and joins them with something else")
            return np.concatenate(labels, axis), all(self._zero[part] for part in inputs)
        for each in labels[1:]:
            self.unite(labels[0], each)
        return labels[0], all(self._zero[part] for part in inputs)

    def _widened(self, node: fx.Node, axis: int) -> Ints:
        labels, length = self._labels[node], shape_of(node)[axis + 1]
        return np.repeat(labels, length, axis) if labels.shape[axis] == 1 and length > 1 else labels

    def _picked(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """Channels put at their places for a contrast normalisation, or taken from them again."""
        index: Any = node.args[2]
        positions = self.network.constant(index)
        around = [*node.users, *inputs]
        if node.args[1] != 1 or positions is None or not any(op_of(each).kind == "lrn" for each in around):
            raise Unfollowed("and picks them by their numbers")
        line = self._along(inputs[0], 1)[positions.cpu().numpy()]
        return line.reshape(-1, *[1] * (len(shape_of(node)) - 2)), self._zero[inputs[0]]

    def _cut(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """A part of the positions, or everything: a part of the channels is counted in the code of the module."""
        labels = self._labels[inputs[0]]
        lengths = zip(labels.shape, shape_of(inputs[0])[1:], shape_of(node)[1:], strict=True)
        if any(size > 1 and before != after for size, before, after in lengths):
            raise Unfollowed("and cuts a part of them off")
        return labels, self._zero[inputs[0]]

    def _contrast(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """A contrast normalisation across channels: a channel of zeros adds nothing to its neighbours."""
        labels = self._along(inputs[0], 1)
        modules = [name for name, _, _ in node.meta.get("modules", [])]
        if not self._zero[inputs[0]]:
            raise Unfollowed("which are not zero where their filters are, and normalises across them")
        if not modules or sum(op_of(each).kind == "lrn" for each in self._within(modules[-1])) != 1:
            raise Unfollowed("and normalises across them outside of a module of its own")
        self.norms[modules[-1]] = labels
        return self._labels[inputs[0]], True

    def _within(self, module: str) -> list[fx.Node]:
        nodes = (each for each in self.network.graph.nodes if each.op == "call_function")
        return [each for each in nodes if module in (name for name, _, _ in each.meta.get("modules", []))]

    def _averaged(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """A mean over positions: none over channels, which are followed to where they are then."""
        (source,) = inputs
        labels, before, after = self._labels[source], shape_of(source)[1:], shape_of(node)[1:]
        if len(before) == len(after):
            if any(size not in (1, now) for size, now in zip(labels.shape, after, strict=True)):
                raise Unfollowed("and averages over them")
            return labels, self._zero[source]
        dims: Any = node.args[1]
        gone = {dim % (len(before) + 1) - 1 for dim in ([dims] if isinstance(dims, int) else dims)}
        if any(labels.shape[place] > 1 for place in gone):
            raise Unfollowed("and averages over them")
        return labels.squeeze(tuple(gone)), self._zero[source]

    def _padded(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        (source,) = inputs
        amounts: Any = node.args[1]
        labels, constants = self._labels[source], [each for each in node.args[2:] if not isinstance(each, str)]
        zeros = all(not each for each in constants)
        for place, (before, behind) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
            axis = labels.ndim - 1 - place
            if labels.shape[axis] > 1 and (before or behind):
                if not zeros or min(before, behind) < 0:
                    raise Unfollowed("and pads them")
                width = [(before, behind) if each == axis else (0, 0) for each in range(labels.ndim)]
                labels = np.pad(labels, width, constant_values=NOTHING)
        return labels, self._zero[source] and zeros

    def _reordered(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        assert op.reorders is not None
        order = op.reorders(node)
        if order[0] != 0:
            raise Unfollowed("and moves the batch")
        return self._labels[inputs[0]].transpose([dim - 1 for dim in order[1:]]), self._zero[inputs[0]]

    def _reshaped(self, node: fx.Node, op: Op, inputs: list[fx.Node]) -> tuple[Ints, bool]:
        """The same values in another shape: along one dimension of it the channels have to be told apart."""
        source = inputs[0]
        before, after = shape_of(source)[1:], shape_of(node)[1:]
        if math.prod(before) != math.prod(after):
            raise Unfollowed("and moves the batch")
        whole = np.broadcast_to(self._labels[source], before).reshape(after)
        varying = []
        for axis in range(len(after)):
            first = whole.take([0], axis)
            if (whole == first).all():
                whole = first
            else:
                varying.append(axis)
        if len(varying) > 1:
            raise Unfollowed("and divides them into groups")
        return whole, self._zero[source]


def _led(labels: Ints, dims: int) -> Ints:
    """Return labels with so many dimensions, the new ones first, as broadcasting adds them."""
    return labels.reshape([1] * (dims - labels.ndim) + [*labels.shape])


def _keeps_zero(node: fx.Node, source: fx.Node) -> bool:
    """Whether an op of one value gives zeros for zeros."""
    others = [each for each in node.all_input_nodes if each is not source]
    if others:
        return op_of(node).kind == "rectifier"  # PReLU, with a slope of its own for each channel
    if op_of(node).kind in ("max_pool", "lrn") or op_of(node).identity:
        return True
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: torch.zeros(1))
    value: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
    return bool((value == 0).all())
