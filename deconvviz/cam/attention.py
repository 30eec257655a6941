"""The attention of a transformer: where it is in a captured graph, and its probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.errors import CamError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import op_name, op_of

FUSED = "scaled_dot_product_attention"


def attention_nodes(network: Network) -> list[fx.Node]:
    """Return the nodes that average values by attention, in the order of the graph.

    They are fused attentions, and products of a softmax with values.

    Raises:
        CamError: the network has none.
    """
    nodes = [node for node in network.graph.nodes if node.op == "call_function" and node.meta.get("data")]
    candidates = [node for node in nodes if op_name(node) == FUSED or _softmax_of(node) is not None]
    if not candidates:
        raise CamError(f"{network.name} has no attention; take a method for convolutional networks")
    return candidates


def sources(node: fx.Node) -> list[fx.Node]:
    """Return the nodes of which the probabilities and the values of an attention are computed."""
    if op_name(node) == FUSED:
        return [argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, fx.Node)]
    return [argument for argument in node.args[:2] if isinstance(argument, fx.Node)]


def probabilities(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[Tensor, Tensor]:
    """Return the probabilities of an attention [..., L, L] and the values that they average [..., L, d].

    Args:
        node: one of `attention_nodes`.
        values: of its `sources`, by node.

    Raises:
        CamError: it is causal, or has fewer heads for keys than for queries.
    """
    bound: Any = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    args, kwargs = bound
    if op_name(node) != FUSED:
        return args[0], args[1]
    arguments: list[Any] = [*args, *[None] * 3]
    query, key, value, bias, _, causal = arguments[:6]
    if causal or kwargs.get("is_causal") or kwargs.get("enable_gqa") or query.shape[:-2] != key.shape[:-2]:
        raise CamError("the network's attention is causal or shares its keys; no map of patches is made of it")
    bias = kwargs.get("attn_mask", bias)
    scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
    scores = query @ key.transpose(-2, -1) * scale
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias
    return scores.softmax(-1), value


def by_image(attention: Tensor, count: int) -> Tensor:
    """Return probabilities [..., L, L] as [N, heads, L, L].

    Raises:
        CamError: the attention is not one over all tokens of an image, but over windows or single queries.
    """
    if attention.shape[-1] != attention.shape[-2] or attention[..., 0, 0].numel() % count:
        raise CamError("the network's attention is not over all tokens of an image; take a method of one layer")
    return attention.reshape(count, -1, *attention.shape[-2:])


def _softmax_of(node: fx.Node) -> fx.Node | None:
    """Return the softmax whose result multiplies values in a node; None where there is none."""
    first: Any = node.args[0] if op_name(node) in ("matmul", "bmm") else None
    while isinstance(first, fx.Node) and first.op == "call_function" and _passes(first):
        first = first.args[0] if first.args else None
    is_softmax = (
        isinstance(first, fx.Node) and first.op == "call_function" and op_name(first) in ("softmax", "_softmax")
    )
    return first if is_softmax and isinstance(first, fx.Node) else None


def _passes(node: fx.Node) -> bool:
    op = op_of(node)
    return op.identity or op.reshapes or op_name(node) in ("expand", "to", "_to_copy")


def all_probabilities(network: Network, x: Tensor) -> list[Tensor]:
    """Return the probabilities of all attentions for images x, [N, heads, L, L] each; errors as above."""
    nodes = attention_nodes(network)
    source_nodes: Sequence[fx.Node] = list(dict.fromkeys(source for node in nodes for source in sources(node)))
    values = network.run({network.image: network.checked(x)}, source_nodes, len(x))
    return [by_image(probabilities(node, values)[0], len(x)) for node in nodes]
