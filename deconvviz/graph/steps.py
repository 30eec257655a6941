"""Which nodes of a graph to run for some values, from others that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import fx

from deconvviz.graph.ops import op_of


class Plan(NamedTuple):
    """Which nodes to run, after which of them which values are not needed any more, and which may overwrite theirs."""

    steps: tuple[fx.Node, ...]
    release: dict[fx.Node, tuple[fx.Node, ...]]
    overwriting: frozenset[fx.Node]


def make_plan(graph: fx.Graph, known: frozenset[fx.Node], wanted: Sequence[fx.Node]) -> Plan:
    """Return the steps from the known nodes to the wanted ones."""
    needed: set[fx.Node] = set()
    stack = [node for node in wanted if node not in known]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += [i for i in node.all_input_nodes if i not in known]
    steps = tuple(node for node in graph.nodes if node in needed)
    last = {source: node for node in steps for source in node.all_input_nodes}
    release: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for source, node in last.items():
        if source not in wanted:
            release[node] = (*release.get(node, ()), source)
    fresh = {node for node in steps if node.op == "call_function" and op_of(node).fresh}
    overwriting = {n for n in steps if n.target is torch.ops.aten.relu.default and fresh & {*release.get(n, ())}}
    return Plan(steps, release, frozenset(overwriting))


def crossing(graph: fx.Graph, node: fx.Node, plan: Plan, outputs: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the values that the outputs need and that do not follow from `node`; plan: from it to the outputs."""
    after = {node}
    for n in graph.nodes:
        if any(i in after for i in n.all_input_nodes):
            after.add(n)
    needed = {i for n in plan.steps if n in after for i in n.all_input_nodes} | set(outputs)
    return [n for n in graph.nodes if n in needed and n not in after and n.meta["data"]]
