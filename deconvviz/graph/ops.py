"""What an op is: how far it reaches, how it runs on a window, and how it transposes. The ops are in `table`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx

from deconvviz.graph.evaluating import differentiable
from deconvviz.graph.functions import own_name
from deconvviz.graph.reach import Geometry, data_inputs, whole_map
from deconvviz.registry import Registry

Kind = Literal["linear", "rectifier", "max_pool", "lrn", "stop", "other"]
Channels = Literal["", "same", "filters", "joined", "picked", "cut"]


@dataclass
class Call:
    """One execution of an op.

    Attributes:
        target: what is called.
        args: positional arguments, with tensors in the place of nodes.
        kwargs: keyword arguments.
        inputs: the data inputs among the arguments, in order; they may be windows of their maps.
        node: the op's node in the graph.
        extra: what the op recorded besides its value, such as "switches".
        out: the value that it returned, where the caller keeps it.
        later: where the caller does not keep it, makes it of what is kept; None where the op has to run again.
        inside: for an op that reads pixels: which positions of its input are pixels, a mask, or None where all are.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Tensor]
    node: fx.Node
    extra: dict[str, Tensor] = field(default_factory=dict)
    out: Tensor | None = None
    later: Callable[[], Tensor] | None = None
    inside: Callable[[], Tensor | None] | None = None

    def run(self) -> Any:
        """Call the target and return what it returns."""
        return self.target(*self.args, **self.kwargs)

    def value(self) -> Tensor:
        """Return the value that the call returned; it runs again only where nobody kept it."""
        if self.out is not None:
            return self.out
        out: Tensor = self.run() if self.later is None else self.later()
        return out


Transpose = Callable[[Call, Tensor], Sequence[Tensor | None]]
OnWindow = Callable[[fx.Node, tuple[Any, ...], tuple[int, int]], tuple[Any, ...]]


@dataclass(frozen=True)
class Op:
    """The record of one op: everything that deconvviz knows about it.

    Attributes:
        name: its name in ATen, without the overload.
        kind: which policy of a projection rule it takes; "other" is not linear and is named when it is linearised, and
            "stop" hands its input on but no gradient back.
        reach: its geometry, from a node of the graph.
        on_window: its arguments (node, arguments, output rows and columns) for a window that brings its own padding.
        fill: what padding means for it.
        counts: for a mean, how many values each output row and each output column is the mean of.
        transpose: the signal for each data input, from the signal at its output; None: vector-Jacobian product.

    Traits, which say what an op is for those who look through a graph:
        weighted: it has a weight that is learned: a convolution or a linear map.
        identity: it hands its input on as it is (in eval mode).
        reshapes: it gives the same values in the same order, in another shape.
        reorders: it gives the same values with its dimensions in another order, which follows from a node of the graph:
            dimension i of its output is dimension order[i] of its input.
        channels_first: what it gives has its channels first, also with one dimension of positions: [N, C, L].
        averages: it takes means over positions.
        normalises: it scales and shifts each channel by itself, with learned numbers.
        standardises: it was trained to bring its input to a mean of 0 and a deviation of 1, as BatchNorm and its kin.
        may_alias: its result may be its input itself, not a copy.
        fresh: its result never shares memory with another value.
        pads: it puts a border around the rows and columns.
        stride_argument: the position of the stride among its arguments; None where it has no stride.
        channels: what becomes of single channels: "same" where element meets element of the same number, by the rules
            of broadcasting; "filters" where each is made by a filter of its own, from channels before it; "joined",
            "picked" and "cut" where they are put one behind another, chosen by number, or a part of them is taken; ""
            where the other traits say it, or where all may mix.
    """

    name: str
    kind: Kind = "linear"
    reach: Callable[[fx.Node], Geometry] = whole_map
    on_window: OnWindow | None = None
    transpose: Transpose | None = None
    fill: float = 0.0
    counts: Callable[[fx.Node], tuple[list[int], list[int]]] | None = None
    weighted: bool = False
    identity: bool = False
    reshapes: bool = False
    reorders: Callable[[fx.Node], list[int]] | None = None
    channels_first: bool = False
    averages: bool = False
    normalises: bool = False
    standardises: bool = False
    may_alias: bool = False
    fresh: bool = False
    pads: bool = False
    stride_argument: int | None = None
    channels: Channels = ""

    @property
    def passes_channels(self) -> bool:
        """Whether each channel of its result comes from the channel of the same number, at much the same place.

        True of rectifiers, max pooling, normalisations and ops that change nothing.
        """
        return self.identity or self.normalises or self.kind in ("rectifier", "max_pool", "lrn")


OPS: Registry[Op] = Registry("op")
UNKNOWN = Op("unknown", kind="other")


def op_of(node: fx.Node) -> Op:
    """Return the record of a node's op; `UNKNOWN` where there is none. A rectifier by another name is one."""
    name = op_name(node)
    if name in ("clamp", "clip", "threshold") and _cuts_at_zero(node):
        return OPS["relu"]
    return OPS[name] if name in OPS else UNKNOWN


def _cuts_at_zero(node: fx.Node) -> bool:
    """Whether what is below zero becomes zero, and what is above stays, perhaps up to a limit: x.clamp(min=0)."""
    limits: tuple[Any, ...] = (*node.args[1:3], None)
    least, other = limits[:2]
    if not isinstance(least, int | float) or least != 0:
        return False
    if op_name(node) == "threshold":
        return bool(other == 0)
    return other is None or (isinstance(other, int | float) and other > 0)


def op_name(node: fx.Node) -> str:
    """Return the plain name of a node's op: "conv2d" for torch.ops.aten.conv2d.default."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace not in ("aten", "mkldnn", "deconvviz"):
        return own_name(target._opname)
    return str(getattr(target, "_opname", None) or getattr(target, "__name__", target))


def has_to_stay(node: fx.Node) -> bool:
    """Return whether a node stays in the graph although no output depends on it, as directions of a layer do."""
    return node.is_impure() or "reads" in node.meta


def is_linear(node: fx.Node) -> bool:
    """Return whether the vector-Jacobian product of an op is its transpose, whatever the values are."""
    name = op_name(node)
    if name in ("mul", "div"):  # by a constant
        return len(data_inputs(node)) == 1 and (name == "mul" or data_inputs(node)[0] is node.args[0])
    if op_of(node).weighted and len(data_inputs(node)) > 1:  # filters that follow from the image
        return False
    return op_of(node).kind != "other"


def reads_pixels(node: fx.Node) -> bool:
    """Return whether an op reads the images themselves, perhaps with a border around them."""
    source = data_inputs(node)[0]
    while source.op == "call_function" and (op_of(source).pads or op_of(source).identity):
        source = data_inputs(source)[0]
    return source.op == "placeholder"


def final_value(node: fx.Node) -> fx.Node:
    """Return the value after the BatchNorm and the rectifier that follow an op, where nothing else reads between."""
    reader = next(iter(node.users), node)
    if len(node.users) != 1 or reader.op != "call_function":
        return node
    op = op_of(reader)
    return final_value(reader) if op.normalises or op.kind == "rectifier" else node


def is_rectified(node: fx.Node) -> bool:
    """Return whether the values of a node come from rectifiers: zero or less then means that a filter is silent.

    Of a value that ends linearly, such as a BatchNorm with no rectifier behind it, the sign means nothing of the kind.
    What pools, adds, joins or reorders rectified values is rectified too.

    >>> import deconvviz as dv
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).eval()
    >>> network = dv.capture(model, (3, 16, 16))
    >>> [is_rectified(network.layer(name).node) for name in ("0", "1", "2", "3")]
    [False, False, True, True]
    """
    if node.op != "call_function":
        return False
    op = op_of(node)
    if op.kind == "rectifier":
        return True
    keeps_sign = op.identity or op.reshapes or op.reorders or op.averages or op.kind in ("max_pool", "lrn")
    if not keeps_sign and op_name(node) not in ("add", "cat"):
        return False
    sources = data_inputs(node)
    return bool(sources) and all(is_rectified(source) for source in sources)


def vector_jacobian(call: Call, signal: Tensor) -> list[Tensor | None]:
    """Return the op's vector-Jacobian product with respect to each data input: exact where the op is linear.

    It is None for an input that has no gradient: one of integers or booleans, or one that the op does not hand back to.
    """
    with torch.enable_grad():
        leaves = [_leaf(value) for value in call.inputs]
        substitute = iter(leaves)
        args, kwargs = _replace(call, lambda: next(substitute))
        out = call.target(*args, **kwargs)
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        if not wanted or not out.requires_grad:
            return [None] * len(leaves)
        gradients = iter(torch.autograd.grad(out, wanted, signal, allow_unused=True))
        return [next(gradients) if leaf.requires_grad else None for leaf in leaves]


def with_inputs(call: Call, inputs: Sequence[Tensor]) -> Call:
    """Return the same call of other data inputs, given in their order; its value is not known."""
    substitute = iter(inputs)
    args, kwargs = _replace(call, lambda: next(substitute))
    return Call(call.target, args, kwargs, list(inputs), call.node, inside=call.inside)


def _leaf(value: Tensor) -> Tensor:
    """Return a tensor of the same values that a gradient is taken of, where it can have one."""
    return differentiable(value).detach().requires_grad_(value.is_floating_point() or value.is_complex())


def _replace(call: Call, supply: Callable[[], Tensor]) -> tuple[Any, Any]:
    """Return the call's arguments with each data input replaced, in order, by what `supply` returns."""
    inputs = {id(value) for value in call.inputs}

    def swapped(value: Any) -> Any:
        return supply() if id(value) in inputs else value

    args, kwargs = fx.node.map_aggregate((call.args, call.kwargs), swapped)
    return args, kwargs


def affine_norm(x: Tensor, *call_args: Any) -> Tensor:
    """Return BatchNorm in eval mode as what it is, a factor and a shift for each channel.

    For gradients: the backward of torch 2.14's own op misreads, on a CPU, the gradient of a single image whose strides
    come from a transposed value, as where tokens follow.

    >>> norm = torch.nn.BatchNorm2d(4).eval()
    >>> x = torch.randn(2, 4, 3, 3)
    >>> torch.allclose(affine_norm(x, None, None, norm.running_mean, norm.running_var, False, 0.1, norm.eps), norm(x))
    True
    """
    _, shift, mean, *_ = call_args
    scale = batch_norm_scale([x, *call_args])
    shape = [1, -1, *[1] * (x.dim() - 2)]
    offset = -mean * scale if shift is None else shift - mean * scale
    result: Tensor = x * scale.reshape(shape) + offset.reshape(shape)
    return result


def batch_norm_scale(call_args: Sequence[Any]) -> Tensor:
    """Return the factor of BatchNorm in eval mode, weight / sqrt(running_var + eps), one for each channel.

    >>> batch_norm_scale([None, torch.tensor([2.0]), None, None, torch.tensor([3.0]), False, 0.1, 1.0, True])
    tensor([1.])
    """
    _, weight, _, _, variance, _, _, eps, *_ = call_args
    scale = torch.rsqrt(variance + eps)
    return scale if weight is None else scale * weight
