"""The table of ops, one entry each: its reach, its form on a window, its transpose (the deconvnet step).

An entry is found by the name of the ATen op, whatever its overload. Arguments are complete and positional, because
capture fills in the defaults, so an entry unpacks them like a signature. An op without an entry still runs. It counts
as reading the whole map and goes back as its vector-Jacobian product; `Projection.linearised` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.graph import reach
from deconvviz.graph.ops import OPS, Call, OnWindow, Op, batch_norm_scale, op_name, vector_jacobian
from deconvviz.graph.reach import Geometry, Interval

aten = torch.ops.aten

# --- how far an op reaches -------------------------------------------------------------------------------------------


def _conv_reach(node: fx.Node) -> Geometry:
    _, weight, _, stride, padding, dilation, *_ = node.args
    kernel = reach.shape_of(weight)[2:]  # type: ignore[arg-type]
    if padding == "same":  # of an even kernel: one more behind than before
        return reach.whole_map(node)
    return reach.sliding(node, kernel, stride, padding, dilation)


def _conv_relu_reach(node: fx.Node) -> Geometry:
    """The geometry of `fused.conv_relu`: a convolution of its first input, and a sum with the second one, if any."""
    _, weight, _, stride, padding, dilation, _, addend, _ = node.args
    slid = reach.window_reach(reach.shape_of(weight)[2:], stride, padding, dilation)  # type: ignore[arg-type]
    return Geometry((2, 3), (slid,) if addend is None else (slid, (reach.SAME, reach.SAME)))


def _max_pool_reach(node: fx.Node) -> Geometry:
    _, kernel, stride, padding, dilation, _ = node.args
    return reach.sliding(node, reach.pair(kernel), stride or kernel, padding, dilation)


def _avg_pool_reach(node: fx.Node) -> Geometry:
    _, kernel, stride, padding, *_ = node.args
    return reach.sliding(node, reach.pair(kernel), stride or kernel, padding, 1)


def _avg_pool_counts(node: fx.Node) -> tuple[list[int], list[int]]:
    """Return the divisor of average pooling as a factor per output row and one per output column."""
    arguments: Any = node.args
    _, kernel, stride, padding, _, include_pad, override = arguments
    kernels, pads = reach.pair(kernel), reach.pair(padding)
    strides = reach.pair(stride or kernel)
    factors: list[list[int]] = []
    lengths = zip(reach.lengths(reach.data_inputs(node)[0]), reach.lengths(node), strict=True)
    for (length, positions), k, s, p in zip(lengths, kernels, strides, pads, strict=True):
        starts = [a * s - p for a in range(positions)]
        inside = [(start, min(start + k, length + p)) for start in starts]  # ceil_mode may run past the padding
        if not include_pad:
            inside = [(max(start, 0), min(end, length)) for start, end in inside]
        factors.append([end - start for start, end in inside])
    if override:
        factors = [[override] * len(factors[0]), [1] * len(factors[1])]
    return factors[0], factors[1]


def _adaptive_reach(node: fx.Node) -> Geometry:
    """Adaptive pooling slides where its output divides its input; to one position it reads the whole map."""
    source = reach.data_inputs(node)[0]
    if reach.axes_of(source) != (2, 3):
        return reach.whole_map(node)
    intervals = []
    for length, parts in zip(reach.shape_of(source)[2:], reach.shape_of(node)[2:], strict=True):
        step = length // parts
        if length % parts:
            return reach.whole_map(node)
        intervals.append(reach.whole(length) if parts == 1 else Interval(step, 0, step))
    return Geometry((2, 3), ((intervals[0], intervals[1]),))


def _along(*positions: int) -> Callable[[fx.Node], Geometry]:
    """Point-wise but for the dimensions that stand in the arguments at `positions`."""

    def geometry(node: fx.Node) -> Geometry:
        dims: list[int] = []
        for position in positions:
            value: Any = node.args[position]
            dims += [value] if isinstance(value, int) else list(value)
        return reach.elementwise(node, dims)

    return geometry


def _picked_reach(node: fx.Node) -> Geometry:
    """Picking along a dimension mixes that one alone; the numbers of what is picked meet no rows and columns."""
    return reach.pointwise(node, [node.args[1]])  # type: ignore[list-item]


def _layer_norm_reach(node: fx.Node) -> Geometry:
    normalised: Any = node.args[1]
    return reach.pointwise(node, range(-len(normalised), 0))


def _linear_reach(node: fx.Node) -> Geometry:
    return reach.pointwise(node, [-1])


def _pad_reach(node: fx.Node) -> Geometry:
    """Constant zero padding of trailing rows and columns shifts them; reflection reads where it likes."""
    _, amounts, *rest = node.args
    pads: Any = amounts
    source = reach.data_inputs(node)[0]
    constant = op_name(node) == "constant_pad_nd" or rest[0] == "constant"
    if not constant or (rest[-1] or 0) != 0 or len(pads) > 6 or reach.axes_of(source) != (2, 3):
        return reach.whole_map(node)
    left, top = pads[0], (pads[2] if len(pads) > 2 else 0)
    return reach.shifted(node, (-top, -left))


def _slice_reach(node: fx.Node) -> Geometry:
    """A slice of channels keeps rows and columns as they are; of rows or columns it shifts them."""
    arguments: Any = node.args
    source, dim, start, end, step = arguments
    shape, axes = reach.shape_of(source), reach.axes_of(source)
    axis, low = dim % len(shape), start or 0
    everything = low == 0 and step == 1 and end in (None, 2**63 - 1)
    if axes is None or (axis == 0 and not everything):
        return reach.whole_map(node)
    if everything or axis not in axes:
        return reach.shifted(node, (0, 0))
    low = max(low + shape[axis], 0) if low < 0 else min(low, shape[axis])
    along, across = Interval(step, low, 1), reach.SAME
    return Geometry(axes, ((along, across) if axis == axes[0] else (across, along),))


def _unshuffle_reach(node: fx.Node) -> Geometry:
    """Each output position is a block of input positions, which becomes channels."""
    if reach.axes_of(reach.data_inputs(node)[0]) != (2, 3):
        return reach.whole_map(node)
    factor: Any = node.args[1]
    block = Interval(factor, 0, factor)
    return Geometry((2, 3), ((block, block),))


def _subsampled_reach(node: fx.Node) -> Geometry:
    if reach.axes_of(reach.data_inputs(node)[0]) != (2, 3):
        return reach.whole_map(node)
    steps: Any = node.args[1:]
    rows, columns = (Interval(step, 0, 1) for step in steps)
    return Geometry((2, 3), ((rows, columns),))


def _split_reach(node: fx.Node) -> Geometry:
    """One part of a split: of channels, it keeps rows and columns as they are."""
    axes, arguments = reach.axes_of(reach.data_inputs(node)[0]), tuple[Any, ...](node.args)
    if axes is None or arguments[2] % len(reach.shape_of(node)) in (0, *axes):
        return reach.whole_map(node)
    return reach.shifted(node, (0, 0))


def _permuted(node: fx.Node) -> list[int]:
    dims: Any = node.args[1]
    return [dim % len(dims) for dim in dims]


def _transposed(node: fx.Node) -> list[int]:
    order = list(range(len(reach.shape_of(node))))
    dims: Any = node.args[1:3]
    first, second = (dim % len(order) for dim in dims)
    order[first], order[second] = order[second], order[first]
    return order


def _reordered_reach(order: Callable[[fx.Node], list[int]]) -> Callable[[fx.Node], Geometry]:
    return lambda node: reach.moved(node, order(node))


# --- how an op transposes --------------------------------------------------------------------------------------------


def _conv_transpose(call: Call, signal: Tensor) -> Sequence[Tensor | None]:
    """The same filters, flipped, over the signal; the bias takes no part (paper, section 2.1, "Filtering")."""
    x, weight, _, stride, padding, dilation, groups = call.args
    if padding == "same" or len(call.inputs) > 1:  # filters may follow from the image
        return vector_jacobian(call, signal)
    arguments = (list(reach.pair(stride)), list(reach.pair(padding)), list(reach.pair(dilation)), False, [0, 0], groups)
    return [aten.convolution_backward(signal, x, weight, None, *arguments, [True, False, False])[0]]


def _linear_transpose(call: Call, signal: Tensor) -> Sequence[Tensor | None]:
    if len(call.inputs) > 1:
        return vector_jacobian(call, signal)
    return [signal @ call.args[1]]


def _batch_norm_transpose(call: Call, signal: Tensor) -> Sequence[Tensor | None]:
    scale = batch_norm_scale(call.args)
    return [signal * scale.reshape(1, -1, *[1] * (signal.dim() - 2))]


def _add_transpose(call: Call, signal: Tensor) -> Sequence[Tensor | None]:
    """Addition hands the signal to each branch, summed where the branch was broadcast."""
    first, second = call.args[:2]
    factors = (1, call.kwargs.get("alpha", 1) * (-1 if op_name(call.node) == "sub" else 1))
    data = {id(value) for value in call.inputs}
    pairs = [(v, f) for v, f in zip((first, second), factors, strict=True) if id(v) in data]
    scaled = ((signal if factor == 1 else signal * factor, value) for value, factor in pairs)
    return [part.sum_to_size(value.shape).to(value.dtype) for part, value in scaled]


def _cat_transpose(call: Call, signal: Tensor) -> Sequence[Tensor | None]:
    tensors, dim = call.args
    parts = torch.split(signal, [value.shape[dim] for value in tensors], dim)
    data = {id(value) for value in call.inputs}
    return [part.to(value.dtype) for part, value in zip(parts, tensors, strict=True) if id(value) in data]


def _identity_transpose(call: Call, signal: Tensor) -> Sequence[Tensor | None]:
    return [signal]


# --- the table -------------------------------------------------------------------------------------------------------


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """Contrast normalisation across maps, one op in the graph: capture finds it among the ops it decomposes into."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # a CPU pools no channels in half precision
    return torch.nn.functional.local_response_norm(exact, size, alpha, beta, k).to(x.dtype)


def subsampled(x: Tensor, rows: int, columns: int) -> Tensor:
    """Every so-many-th row and column: what interpolation of the nearest is, where it reduces by whole factors."""
    return x[:, :, ::rows, ::columns]


def overwritten(x: Tensor, values: Tensor) -> Tensor:
    """What a tensor holds after values were written into all of it: these, in its shape and of its dtype."""
    return values.to(x.dtype).expand_as(x)


def norm_of_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """BatchNorm without running statistics: it takes those of its batch, whatever the mode."""
    return torch.nn.functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def _entries(names: str, **options: Any) -> None:
    for name in names.split():
        OPS.add(name, Op(name, **options))


def _with_arguments(values: dict[int, Any]) -> OnWindow:
    """Return an `on_window` that replaces single arguments: position -> value."""
    return lambda node, args, size: tuple(values.get(position, arg) for position, arg in enumerate(args))


def _window_view(node: fx.Node, args: tuple[Any, ...], size: tuple[int, int]) -> tuple[Any, ...]:
    return args[0], [*args[1][:-2], *size]


def _window_slice(node: fx.Node, args: tuple[Any, ...], size: tuple[int, int]) -> tuple[Any, ...]:
    """The window of a slice of rows begins with it, and has its steps; channels are still to be cut."""
    inside = args[1] % len(reach.shape_of(node)) in reach.map_axes(node)
    return (args[0], args[1], 0, None, args[4]) if inside else args


def _window_pad(node: fx.Node, args: tuple[Any, ...], size: tuple[int, int]) -> tuple[Any, ...]:
    pads = args[1]
    return args[0], [0] * min(len(pads), 4) + list(pads[4:]), *args[2:]  # channels are padded in a window, too


def _window_adaptive(node: fx.Node, args: tuple[Any, ...], size: tuple[int, int]) -> tuple[Any, ...]:
    return args[0], list(size)


_entries(
    "conv2d",
    reach=_conv_reach,
    on_window=_with_arguments({4: [0, 0]}),
    transpose=_conv_transpose,
    weighted=True,
    fresh=True,
    stride_argument=3,
    channels="filters",
)
_entries(
    "conv_relu",
    kind="other",
    reach=_conv_relu_reach,
    on_window=_with_arguments({4: [0, 0]}),
    weighted=True,
    fresh=True,
)
_entries("linear", reach=_linear_reach, transpose=_linear_transpose, weighted=True, fresh=True, channels="filters")
_entries(
    "batch_norm",
    reach=reach.pointwise,
    transpose=_batch_norm_transpose,
    normalises=True,
    standardises=True,
    channels_first=True,
    fresh=True,
)
_entries(
    "max_pool2d",
    kind="max_pool",
    reach=_max_pool_reach,
    on_window=_with_arguments({3: [0, 0], 5: False}),
    fill=-torch.inf,
    stride_argument=2,
)
_entries(
    "avg_pool2d",
    reach=_avg_pool_reach,
    on_window=_with_arguments({3: [0, 0], 4: False, 6: 1}),
    counts=_avg_pool_counts,
    averages=True,
    stride_argument=2,
)
_entries("adaptive_avg_pool2d", reach=_adaptive_reach, on_window=_window_adaptive, averages=True)
_entries("mean", averages=True)
_entries("add sub", reach=reach.elementwise, transpose=_add_transpose, fresh=True, channels="same")
_entries("cat", reach=_along(1), transpose=_cat_transpose, fresh=True, channels="joined")
_entries(
    "dropout feature_dropout alpha_dropout contiguous alias",
    reach=reach.pointwise,
    transpose=_identity_transpose,
    identity=True,
    may_alias=True,
)
_entries("clone lift_fresh_copy", reach=reach.pointwise, transpose=_identity_transpose, identity=True)
_entries("detach", kind="stop", reach=reach.pointwise, transpose=_identity_transpose, identity=True, may_alias=True)
_entries("mul div", kind="other", reach=reach.elementwise, channels="same")
_entries("where masked_fill", kind="other", reach=reach.elementwise, fresh=True)
_entries(
    "gt ge lt le eq ne logical_not logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor "
    "__and__ __or__ __xor__",
    kind="other",
    reach=reach.elementwise,
    fresh=True,
)
_entries("neg _to_copy", reach=reach.pointwise, channels="same")
_entries("to type_as", reach=reach.pointwise, may_alias=True, channels="same")
_entries("index_select", reach=_picked_reach, fresh=True, channels="picked")
_entries("view reshape _unsafe_view", reach=reach.reshaped, on_window=_window_view, reshapes=True, may_alias=True)
_entries("flatten unflatten", reach=reach.reshaped, reshapes=True, may_alias=True)
_entries("view_as", reshapes=True, may_alias=True)
_entries("permute", reach=_reordered_reach(_permuted), reorders=_permuted)
_entries("transpose", reach=_reordered_reach(_transposed), reorders=_transposed)
_entries("squeeze unsqueeze", reshapes=True)
_entries("slice", reach=_slice_reach, on_window=_window_slice, channels="cut")
_entries("pad constant_pad_nd", reach=_pad_reach, on_window=_window_pad, pads=True)
_entries("split chunk split_with_sizes", reach=_split_reach)
_entries("pixel_unshuffle", reach=_unshuffle_reach)
_entries("overwritten", reach=reach.elementwise)
_entries("subsampled", reach=_subsampled_reach)
_entries("conv1d conv_transpose1d", weighted=True, channels_first=True)
_entries("conv_transpose2d conv_transpose3d conv3d convolution", weighted=True)
_entries(
    "sum expand select rsub pixel_shuffle channel_shuffle roll stack "
    "avg_pool1d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool3d "
    "upsample_bilinear2d upsample_nearest2d upsample_bicubic2d im2col col2im unbind "
    "index flip repeat"
)
_entries(
    "relu relu6 hardtanh leaky_relu elu celu selu silu gelu hardswish mish softplus clamp_min rrelu prelu",
    kind="rectifier",
    reach=reach.pointwise,
)
_entries(
    "sigmoid hardsigmoid tanh exp sqrt rsqrt pow clamp abs log square",
    kind="other",
    reach=reach.elementwise,
    channels="same",
)
_entries("softmax _softmax log_softmax", kind="other", reach=_along(1))
_entries("layer_norm", kind="other", reach=_layer_norm_reach, standardises=True)
_entries("group_norm instance_norm", kind="other", channels_first=True, standardises=True)
_entries("norm_of_batch", kind="other", standardises=True)
_entries("local_response_norm", kind="lrn", reach=reach.pointwise)
