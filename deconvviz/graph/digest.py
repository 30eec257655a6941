"""The fingerprint of a graph and its weights, and that of its architecture alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx

if TYPE_CHECKING:
    from deconvviz.graph.network import Network


def fingerprint(graph: fx.Graph, tensors: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> str:
    """Return a digest of a graph and of every weight, 16 hexadecimal digits; it is the same on any device."""
    digest = hashlib.sha256(repr((input_shape, _steps(graph))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def architecture(network: Network) -> str:
    """Return a digest of a network's graph and of the names and shapes of its weights, without their values.

    Networks that differ in their weights alone have the same 16 digits.
    """
    shapes = [(name, tuple(tensor.shape)) for name, tensor in sorted(network.tensors.items())]
    return hashlib.sha256(repr((_steps(network.graph), shapes)).encode()).hexdigest()[:16]


def _steps(graph: fx.Graph) -> list[tuple[str, str, object]]:
    return [(n.op, _target(n), fx.node.map_arg((n.args, n.kwargs), str)) for n in graph.nodes]


def _target(node: fx.Node) -> str:
    """Return the name of a node's target, without the address in memory that the text of a function holds."""
    return str(getattr(node.target, "__name__", node.target))
