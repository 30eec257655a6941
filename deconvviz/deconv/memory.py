"""Which values of a pass forward and back can share memory, or are not needed any more."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import fx

from deconvviz.deconv.plan import descendants
from deconvviz.graph.ops import op_of
from deconvviz.graph.reach import data_inputs


class MemoryPlan(NamedTuple):
    """Where memory is used again; by default nowhere, so that every value stays.

    New memory is dear on a CPU: the system fills it with zeros first, which takes as long as a cheap op.

    Attributes:
        overwriting: rectifiers that write into their input.
        kept: the nodes to which a signal comes back, once; None where it may come back to any node, and again.
        passed: the nodes that the signal goes through on its way.
        release: node -> the values that nothing needs once it is computed.
    """

    overwriting: frozenset[fx.Node] = frozenset()
    kept: frozenset[fx.Node] | None = None
    passed: frozenset[fx.Node] = frozenset()
    release: Mapping[fx.Node, tuple[fx.Node, ...]] = MappingProxyType({})


EVERYTHING_STAYS = MemoryPlan()


def memory_plan(
    steps: Sequence[fx.Node], kept: Collection[fx.Node], cut: Collection[fx.Node] | None = None
) -> MemoryPlan:
    """Return where memory is used again in a pass forward, and back to some nodes only.

    Args:
        steps: the nodes that are computed, in order.
        kept: the nodes to which the signal comes back; their values are asked for.
        cut: nodes whose values below zero are not needed on the way back; None means all.
    """
    passed = descendants(list(kept), steps)  # their inputs and values are read on the way back
    needed = {*kept, *passed, *(source for node in passed for source in node.all_input_nodes)}
    last = {source: node for node in steps for source in data_inputs(node)}
    release: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for source, node in last.items():
        if source not in needed:
            release[node] = (*release.get(node, ()), source)
    return MemoryPlan(overwriting(steps, kept, cut), frozenset(kept), frozenset(passed), release)


def overwriting(
    steps: Sequence[fx.Node], kept: Collection[fx.Node], cut: Collection[fx.Node] | None = None
) -> frozenset[fx.Node]:
    """Return the rectifiers that may write into their input: it is fresh memory, and nothing else reads it.

    Args:
        steps: the nodes that are computed, in order.
        kept: nodes whose values are asked for.
        cut: nodes whose values below zero are not needed on the way back either; None means all.
    """
    computed = set(steps)
    rectifiers = set()
    for node in steps:
        if node.target is torch.ops.aten.relu.default:
            source = data_inputs(node)[0]
            fresh = source.op == "call_function" and op_of(source).fresh
            alone = {reader for reader in source.users if reader in computed} == {node}
            if fresh and alone and source not in kept and (cut is None or source in cut):
                rectifiers.add(node)
    return frozenset(rectifiers)
