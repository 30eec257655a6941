"""A convolution with its bias, a sum and the rectifier after it as one call, where only a forward pass runs.

Each of these ops reads and writes the whole map; the fused kernels of cuDNN, on a GPU, and of oneDNN, for bfloat16 on a
CPU, write it once. The sum is then not rounded before the rectifier. In float32 a CPU gains little by it.

Their rectifiers may make zero of NaN; oneDNN's do. A filter with a weight that is not finite would look dead: it stays
as it is. What is left is NaN of values beyond 3e38, infinity minus infinity.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from deconvviz.graph.ops import has_to_stay, op_name

if TYPE_CHECKING:
    from deconvviz.graph.network import Network

DEFAULTS = (None, [1, 1], [0, 0], [1, 1], 1)  # bias, stride, padding, dilation, groups of a conv2d
RELUS = ("relu", "relu_")
CUT_RELUS = ("relu6", "relu6_", "hardtanh", "hardtanh_")


def conv_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int = 1,
    addend: Tensor | None = None,
    highest: float = math.inf,
) -> Tensor:
    """Return relu(conv2d(x, weight, bias, stride, padding, dilation, groups) + addend), at most `highest`.

    >>> x, weight = torch.tensor([[[[2.0]]]]), torch.tensor([[[[3.0]]]])
    >>> conv_relu(x, weight, torch.ones(1), [1, 1], [0, 0], [1, 1], addend=torch.tensor([[[[-4.0]]]])).item()
    3.0
    """
    window: Any = (stride, padding, dilation, groups)
    plain = not x.is_cuda and (x.dtype != torch.bfloat16 or not _bf16_by_onednn())
    if plain or torch.is_grad_enabled() or x.dtype != weight.dtype or not x.numel():
        value = functional.conv2d(x, weight, bias, *window)
        return (value if addend is None else value + addend).clamp_(0, highest)
    if x.is_cuda:
        if addend is None:
            return torch.cudnn_convolution_relu(x, weight, bias, *window)
        return torch.cudnn_convolution_add_relu(x, weight, addend, 1.0, bias, *window)
    return _by_onednn(x, weight, bias, (padding, stride, dilation, groups), addend, highest)


def _by_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: tuple[Any, ...], addend: Tensor | None, highest: float
) -> Tensor:
    calls: Any = torch.ops.mkldnn._convolution_pointwise
    rectifier: tuple[str, list[float], str] = ("relu", [], "")
    if addend is not None:
        total: Tensor = calls.binary(x, addend, weight, bias, *window, "add", 1.0, *rectifier)
        return total
    if highest < math.inf:
        rectifier = ("hardtanh", [0.0, highest], "")
    out: Tensor = calls.default(x, weight, bias, *window, *rectifier)
    return out


def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether cuDNN or oneDNN computes on a device, and has fused calls for a dtype that pay.

    >>> fuses(torch.device("cpu"), torch.float32)
    False
    """
    if device.type == "cpu":
        return dtype == torch.bfloat16 and _bf16_by_onednn()
    switched_on: bool = torch.backends.cudnn.enabled and torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cuda" and torch.version.hip is None and switched_on and dtype != torch.float64


@cache
def _bf16_by_onednn() -> bool:
    """Return whether this processor computes bfloat16, and this PyTorch has the calls, which are not documented."""
    calls, available = torch.ops.mkldnn, torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    known = available and hasattr(calls, "_convolution_pointwise") and hasattr(calls, "_is_mkldnn_bf16_supported")
    return known and bool(calls._is_mkldnn_bf16_supported())


def with_fused_rectifiers(network: Network, keep: frozenset[str]) -> Network:
    """Return an equal network in which convolutions take their rectifier along, and the sum before it.

    Args:
        network: a network that only runs forward.
        keep: names of the nodes whose values are read.
    """
    out = network.replaced(network.graph, dict(network.tensors))
    for node in list(out.graph.nodes):
        parts = _parts(node, keep, network.device.type == "cpu")
        if parts is not None and _finite(network, parts[0]):
            convolution, addend, highest = parts
            node.target, node.kwargs = conv_relu, {}  # the rectifier's name stays
            node.args = (*_arguments(convolution), addend, highest)
    out.graph.eliminate_dead_code(is_impure_node=has_to_stay)
    fresh = out.replaced(out.graph, out.tensors)
    fresh.folded = dict(network.folded)
    return fresh


def _parts(node: fx.Node, keep: frozenset[str], on_cpu: bool) -> tuple[fx.Node, fx.Node | None, float] | None:
    """Return the convolution whose rectifier a node is, what is added before, and the rectifier's largest value.

    It is None where the node is something else, and where the fused calls do not compute it.
    """
    highest = _highest(node)
    if highest is None or (highest < math.inf and not on_cpu):
        return None
    before: Any = node.args[0]
    if _fusable(before, keep, on_cpu):
        return before, None, highest
    if not _alone(before, keep) or op_name(before) not in ("add", "add_") or len(before.args) != 2 or before.kwargs:
        return None
    for convolution, addend in (before.args, before.args[::-1]):
        whole = isinstance(addend, fx.Node) and addend.meta.get("shape") == before.meta.get("shape")
        if whole and addend.meta["data"] and _fusable(convolution, keep, on_cpu) and highest == math.inf:
            return (convolution, addend, highest) if addend not in (convolution, convolution.args[0]) else None
    return None


def _highest(node: fx.Node) -> float | None:
    """Return the largest value of a rectifier that is zero below zero; None for any other node."""
    if node.op != "call_function" or op_name(node) not in (*RELUS, *CUT_RELUS):
        return None
    if not op_name(node).startswith("hardtanh"):
        return 6.0 if op_name(node) in CUT_RELUS else math.inf
    _, lowest, highest = node.args
    return float(highest) if lowest == 0 else None  # type: ignore[arg-type]


def _finite(network: Network, convolution: fx.Node) -> bool:
    """Return whether the weights and biases of a convolution are finite."""
    weights = [network.tensors[str(part.target)] for part in _arguments(convolution)[1:3] if part is not None]
    ends = torch.cat([torch.stack(weight.aminmax()) for weight in weights])  # NaN where one weight is NaN
    return bool(ends.isfinite().all())


def _alone(node: Any, keep: frozenset[str]) -> bool:
    """Return whether a node is an op whose value is read by one other op only."""
    return isinstance(node, fx.Node) and node.op == "call_function" and len(node.users) == 1 and node.name not in keep


def _fusable(node: Any, keep: frozenset[str], on_cpu: bool) -> bool:
    """Return whether a node is a convolution that is read by one other op only; cuDNN needs a bias and one group."""
    if not _alone(node, keep) or node.target is not torch.ops.aten.conv2d.default or node.kwargs:
        return False
    _, weight, bias, *_, groups = _arguments(node)
    stored = all(part is None or part.op == "get_attr" for part in (weight, bias))
    return stored and (on_cpu or (bias is not None and groups == 1))


def _arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return all seven arguments of a conv2d, with pairs in the place of single lengths."""
    given: list[Any] = [*node.args, *DEFAULTS[len(node.args) - 2 :]]
    return (*given[:3], *([each] * 2 if isinstance(each, int) else list(each) for each in given[3:6]), given[6])
