"""Contrast normalisation as one op: torch.export decomposes it into several, which are recognised here."""

from __future__ import annotations

from typing import Any

from torch import fx

from deconvviz.graph.ops import op_name, op_of
from deconvviz.graph.table import local_response_norm


def fuse_response_norm(graph: fx.Graph) -> None:
    """Make one op of `x / (k + alpha * avg_pool(x * x)) ** beta`, which local_response_norm decomposes into."""
    for node in list(graph.nodes):
        arguments = _response_norm(node)
        if arguments is None:
            continue
        with graph.inserting_before(node):
            fused = graph.create_node("call_function", local_response_norm, arguments, name=f"{node.name}_lrn")
        fused.meta = dict(node.meta)
        node.replace_all_uses_with(fused)


def _response_norm(node: fx.Node) -> tuple[Any, ...] | None:
    """Return local_response_norm's arguments where `node` is the division that ends it."""
    if node.op != "call_function" or op_name(node) != "div" or not isinstance(node.args[1], fx.Node):
        return None
    x, constants = node.args[0], dict[str, Any]()
    chain: Any = node.args[1]
    while isinstance(chain, fx.Node) and chain.op == "call_function" and len(chain.users) == 1:
        name = op_name(chain)
        if name == "mul" and chain.args[0] is chain.args[1]:
            complete = {"pow", "add", "mul", "pool"} <= constants.keys() and chain.args[0] is x
            return (x, constants["pool"], constants["mul"], constants["pow"], constants["add"]) if complete else None
        if name in ("pow", "add", "mul"):
            constants[name] = chain.args[1]
        elif name in ("avg_pool2d", "avg_pool3d"):
            kernel: Any = chain.args[1]
            constants["pool"] = kernel[0]
        elif name not in ("pad", "constant_pad_nd") and not op_of(chain).reshapes:
            return None
        chain = chain.args[0]
    return None
