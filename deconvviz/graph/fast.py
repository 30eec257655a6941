"""The same network, faster, for jobs that only run forward: BatchNorm folded, channels-last, in a precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from deconvviz.choices import PRECISIONS
from deconvviz.errors import CaptureError, require_choice
from deconvviz.graph.fused import fuses, with_fused_rectifiers
from deconvviz.graph.ops import batch_norm_scale, has_to_stay, op_name

if TYPE_CHECKING:
    from deconvviz.graph.network import Network

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


def accelerated(network: Network, precision: str, keep: Sequence[str]) -> Network:
    """Return an equal network for jobs that only run forward; see `Network.fast`.

    Args:
        network: a captured network.
        precision: one of `choices.PRECISIONS`.
        keep: names of layers whose values are read; their convolutions are not folded.

    Raises:
        CaptureError: another precision.
        LayerNotFound: a name in `keep` does not exist.
    """
    require_choice("precision", precision, PRECISIONS, CaptureError)
    out = with_folded_norms(network, keep)
    if fuses(network.device, DTYPES[precision]):
        out = with_fused_rectifiers(out, frozenset(out.layer(name).node.name for name in keep))
    out = in_channels_last(out, DTYPES[precision])
    out.precision = precision
    return out


def with_folded_norms(network: Network, keep: Sequence[str]) -> Network:
    """Return an equal network, with every BatchNorm that alone reads a convolution folded into it.

    Where there is none, it is the network itself.

    Args:
        network: a captured network.
        keep: names of layers whose values are read; their convolutions are not folded.

    Raises:
        LayerNotFound: a name in `keep` does not exist.
    """
    nodes_to_keep = {network.layer(name).node.name for name in keep}
    if not any(_foldable(node, nodes_to_keep) for node in network.graph.nodes):
        return network
    out = network.replaced(network.graph, dict(network.tensors))
    folded = [node for node in list(out.graph.nodes) if _foldable(node, nodes_to_keep)]
    names = {layer.node: name for name, layer in out.layers.items() if not layer.functional}
    folded_into = {names[n.args[0]]: names.get(n, n.name) for n in folded if n.args[0] in names}
    for node in folded:
        _fold(out, node)
    out.graph.eliminate_dead_code(is_impure_node=has_to_stay)
    used = {str(n.target) for n in out.graph.nodes if n.op == "get_attr"}
    out = out.replaced(out.graph, {name: tensor for name, tensor in out.tensors.items() if name in used})
    out.folded = {**network.folded, **folded_into}
    return out


def in_channels_last(network: Network, dtype: torch.dtype | None = None) -> Network:
    """Return the same network with weights in channels-last, in which convolutions are faster; perhaps of a dtype."""
    tensors = {}
    for name, tensor in network.tensors.items():
        cast = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        tensors[name] = cast.contiguous(memory_format=torch.channels_last) if cast.dim() == 4 else cast
    out = network.replaced(network.graph, tensors)
    out.memory_format = torch.channels_last
    return out


def in_bf16(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Compute one node of a network in bf16; what was made in float32 within it is cast where an op bears no mixture.

    Raises:
        CaptureError: the op does not compute in bf16.
    """
    target: Any = node.target
    try:
        return target(*args, **kwargs)
    except RuntimeError:
        try:
            return target(*pytree.tree_map(_bf16, args), **pytree.tree_map(_bf16, kwargs))
        except RuntimeError as error:
            raise CaptureError(
                f"{op_name(node)} does not compute in bf16: {str(error).splitlines()[0]}; take --precision fp32"
            ) from error


def _bf16(value: Any) -> Any:
    """Return a float32 tensor, or its dtype, in bfloat16; anything else as it is."""
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        return value.bfloat16()
    return torch.bfloat16 if value is torch.float32 else value


def _foldable(node: fx.Node, keep: set[str]) -> bool:
    """Whether a node is a BatchNorm that alone reads a convolution whose own value is not kept."""
    if node.op != "call_function" or op_name(node) != "batch_norm":
        return False
    conv = node.args[0]
    return (
        isinstance(conv, fx.Node)
        and conv.op == "call_function"
        and op_name(conv) == "conv2d"
        and len(conv.users) == 1
        and conv.name not in keep
        and not any(a.meta["data"] for a in (*conv.args[1:], *node.args[1:]) if isinstance(a, fx.Node))
    )


def _fold(network: Network, norm: fx.Node) -> None:
    """Replace a convolution and its BatchNorm by one convolution, whose weights are computed in float64.

    BN(W x + b) = (scale W) x + (scale (b - mean) + shift)
    """
    conv = norm.args[0]
    assert isinstance(conv, fx.Node)

    def tensor(node: object) -> Tensor | None:
        value = network.constant(node) if isinstance(node, fx.Node) else None
        return None if value is None else value.double()

    weight, bias = tensor(conv.args[1]), tensor(conv.args[2])
    arguments: list[Any] = [tensor(a) if isinstance(a, fx.Node) else a for a in norm.args[1:]]
    shift, mean, dtype = arguments[1], arguments[2], network.dtype
    scale = batch_norm_scale([None, *arguments])
    assert weight is not None and isinstance(mean, Tensor)
    new_bias = ((0 if bias is None else bias) - mean) * scale + (0 if shift is None else shift)
    names = (f"{norm.name}.folded_weight", f"{norm.name}.folded_bias")
    network.tensors[names[0]] = (weight * scale.reshape(-1, 1, 1, 1)).to(dtype)
    network.tensors[names[1]] = new_bias.to(dtype)
    with network.graph.inserting_before(conv):
        nodes = [network.graph.create_node("get_attr", name) for name in names]
    for node, name in zip(nodes, names, strict=True):
        node.meta = {"shape": tuple(network.tensors[name].shape), "modules": [], "data": False}
    with network.graph.inserting_before(norm):
        fused = network.graph.create_node(
            "call_function",
            conv.target,
            (conv.args[0], *nodes, *conv.args[3:]),
            conv.kwargs,
            name=f"{norm.name}_folded",
        )
    fused.meta = dict(norm.meta)
    norm.replace_all_uses_with(fused)
