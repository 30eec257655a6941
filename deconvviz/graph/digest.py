"""The fingerprint of a graph and its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, fx


def fingerprint(graph: fx.Graph, tensors: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> str:
    """Return a digest of a graph and of every weight, 16 hexadecimal digits; it is the same on any device."""
    steps = [(n.op, _target(n), fx.node.map_arg((n.args, n.kwargs), str)) for n in graph.nodes]
    digest = hashlib.sha256(repr((input_shape, steps)).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _target(node: fx.Node) -> str:
    """Return the name of a node's target, without the address in memory that the text of a function holds."""
    return str(getattr(node.target, "__name__", node.target))
