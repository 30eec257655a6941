"""Which nodes of a graph to run for some values, where others are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import fx

from deconvviz.graph.ops import op_of


class Plan(NamedTuple):
    """What to run.

    Attributes:
        steps: the ops to compute, in order.
        weights: the weights, buffers and constants that they read.
        release: node -> the values that are not needed any more once it is computed.
        overwriting: rectifiers that may write into their input, which nobody else reads.
    """

    steps: tuple[fx.Node, ...]
    weights: tuple[fx.Node, ...]
    release: dict[fx.Node, tuple[fx.Node, ...]]
    overwriting: frozenset[fx.Node]


def make_plan(graph: fx.Graph, given: frozenset[fx.Node], targets: Sequence[fx.Node], kept: bool = True) -> Plan:
    """Return the steps that compute the values of `targets` where those of `given` are there.

    Targets are kept to the end, or else released as other values are; nothing writes into them in either case.
    """
    needed: set[fx.Node] = set()
    stack = [node for node in targets if node not in given]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += [source for source in node.all_input_nodes if source not in given]
    ordered = [node for node in graph.nodes if node in needed]
    steps = tuple(node for node in ordered if node.op != "get_attr" or node in targets)
    weights = tuple(node for node in ordered if node.op == "get_attr" and node not in targets)
    last = {source: node for node in steps for source in node.all_input_nodes}
    if not kept:
        last |= {node: node for node in targets if node not in last}  # nothing reads it
    release: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for source, node in last.items():
        if source.op != "get_attr" and (not kept or source not in targets):  # weights stay in memory anyway
            release[node] = (*release.get(node, ()), source)
    fresh = {node for node in steps if node.op == "call_function" and op_of(node).fresh and node not in targets}
    overwriting = {n for n in steps if n.target is torch.ops.aten.relu.default and fresh & {*release.get(n, ())}}
    return Plan(steps, weights, release, frozenset(overwriting))


def crossing(graph: fx.Graph, node: fx.Node, plan: Plan, outputs: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the values that bypass a node: the outputs need them, and they do not follow from it.

    `plan` goes from the node and the image to the outputs.
    """
    after = {node}
    for other in graph.nodes:
        if any(source in after for source in other.all_input_nodes):
            after.add(other)
    needed = {source for step in plan.steps if step in after for source in step.all_input_nodes} | set(outputs)
    return [other for other in graph.nodes if other in needed and other not in after and other.meta["data"]]


def names_a_device(node: fx.Node) -> bool:
    """Return whether an op is told a device, such as one that makes a constant."""
    return "device" in node.kwargs or any(isinstance(value, torch.device) for value in node.args)
