"""A convolution with its bias, a sum and the rectifier after it as one call of cuDNN, where only a forward pass runs.

On a GPU each of these ops reads and writes the whole map; cuDNN's fused kernels write it once. Their rectifiers may
make zero of NaN, so that a filter with a weight that is not finite would look dead; it stays as it is. On a CPU oneDNN
has such calls too, and they do make zero of NaN: they are not used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from deconvviz.graph.ops import has_to_stay, op_name

if TYPE_CHECKING:
    from deconvviz.graph.network import Network

DEFAULTS = (None, [1, 1], [0, 0], [1, 1], 1)  # bias, stride, padding, dilation, groups of a conv2d
RELUS = ("relu", "relu_")


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    addend: Tensor | None = None,
) -> Tensor:
    """Return relu(conv2d(x, weight, bias, stride, padding, dilation) + addend).

    >>> x, weight = torch.tensor([[[[2.0]]]]), torch.tensor([[[[3.0]]]])
    >>> conv_relu(x, weight, torch.ones(1), [1, 1], [0, 0], [1, 1], addend=torch.tensor([[[[-4.0]]]])).item()
    3.0
    """
    if not x.is_cuda or torch.is_grad_enabled():
        value = functional.conv2d(x, weight, bias, stride, padding, dilation)
        return (value if addend is None else value + addend).relu_()
    if addend is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, 1)
    return torch.cudnn_convolution_add_relu(x, weight, addend, 1.0, bias, stride, padding, dilation, 1)


def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether cuDNN computes on a device, and has the fused call for a dtype.

    >>> fuses(torch.device("cpu"), torch.float32)
    False
    """
    switched_on: bool = torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cuda" and torch.version.hip is None and switched_on and dtype != torch.float64


def with_fused_rectifiers(network: Network, keep: frozenset[str]) -> Network:
    """Return an equal network in which convolutions take their rectifier along, and the sum before it.

    Args:
        network: a network that only runs forward.
        keep: names of the nodes whose values are read.
    """
    out = network.replaced(network.graph, dict(network.tensors))
    for node in list(out.graph.nodes):
        parts = _parts(node, keep)
        if parts is None or not _finite(network, parts[0]):
            continue
        convolution, addend = parts
        x, weight, bias, stride, padding, dilation, _ = _arguments(convolution)
        node.target, node.kwargs = conv_relu, {}  # the rectifier's name stays
        node.args = (x, weight, bias, stride, padding, dilation, addend)
    out.graph.eliminate_dead_code(is_impure_node=has_to_stay)
    fresh = out.replaced(out.graph, out.tensors)
    fresh.folded = dict(network.folded)
    return fresh


def _parts(node: fx.Node, keep: frozenset[str]) -> tuple[fx.Node, fx.Node | None] | None:
    """Return the convolution whose rectifier a node is, and what is added before; None where it is something else."""
    if node.op != "call_function" or op_name(node) not in RELUS:
        return None
    before: Any = node.args[0]
    if _fusable(before, keep):
        return before, None
    if not _alone(before, keep) or op_name(before) not in ("add", "add_") or len(before.args) != 2 or before.kwargs:
        return None
    for convolution, addend in (before.args, before.args[::-1]):
        whole = isinstance(addend, fx.Node) and addend.meta.get("shape") == before.meta.get("shape")
        if whole and addend.meta["data"] and _fusable(convolution, keep):
            return (convolution, addend) if addend not in (convolution, convolution.args[0]) else None
    return None


def _finite(network: Network, convolution: fx.Node) -> bool:
    """Return whether the weights and biases of a convolution are finite."""
    return all(bool(network.tensors[str(part.target)].isfinite().all()) for part in _arguments(convolution)[1:3])


def _alone(node: Any, keep: frozenset[str]) -> bool:
    """Return whether a node is an op whose value is read by one other op only."""
    return isinstance(node, fx.Node) and node.op == "call_function" and len(node.users) == 1 and node.name not in keep


def _fusable(node: Any, keep: frozenset[str]) -> bool:
    """Return whether a node is a plain convolution with a bias that is read by one other op only."""
    if not _alone(node, keep) or node.target is not torch.ops.aten.conv2d.default or node.kwargs:
        return False
    _, weight, bias, *_, groups = _arguments(node)
    return bias is not None and groups == 1 and weight.op == bias.op == "get_attr"


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return all seven arguments of a conv2d, with pairs in the place of single lengths."""
    given: list[Any] = [*node.args, *DEFAULTS[len(node.args) - 2 :]]
    return (*given[:3], *([each] * 2 if isinstance(each, int) else list(each) for each in given[3:6]), given[6])
