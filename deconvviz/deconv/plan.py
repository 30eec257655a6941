"""Which part of every value a unit of a layer depends on: the plan by which its projection runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx

from deconvviz.graph.costs import work
from deconvviz.graph.network import Network
from deconvviz.graph.reach import SAME, Geometry, Reach, axes_of, edges, lengths, shape_of


@dataclass(frozen=True)
class WindowPlan:
    """What to run for the units of one layer.

    Attributes:
        steps: the nodes that depend on the image, from the image to the layer.
        windows: node -> the rows and columns of its value that a unit depends on; a value that is missing here is
            needed as a whole.
    """

    steps: tuple[fx.Node, ...]
    windows: dict[fx.Node, Reach]

    def elements(self) -> int:
        """The number of values that one unit keeps in memory."""
        return sum(self._elements(node) for node in self.steps)

    def largest(self) -> int:
        """The number of values of the largest of them."""
        return max(self._elements(node) for node in self.steps)

    def elements_of_an_image(self) -> int:
        """The number of values that a whole image keeps in memory."""
        return sum(_size(node) for node in self.steps)

    def work(self, whole: bool) -> float:
        """Return what the windows cost on the way forward, for one unit, or for one whole image.

        The unit is one multiplication of a convolution.
        """
        return sum(work(node) * (1.0 if whole else self._share(node)) for node in self.windows)

    def _elements(self, node: fx.Node) -> int:
        return int(_size(node) * self._share(node))

    def _share(self, node: fx.Node) -> float:
        if node not in self.windows:
            return 1.0
        (rows, columns), window = lengths(node), self.windows[node]
        return window[0].size * window[1].size / (rows * columns)


def _size(node: fx.Node) -> int:
    """Return the number of values of a node for one image."""
    return math.prod(max(size, 1) for size in shape_of(node)[1:])


def make_plan(network: Network, layer: str, windowed: bool = True) -> WindowPlan:
    """Return the plan for the units of `layer`; `windowed=False` keeps every value whole."""
    target = network.layer(layer).node
    steps = [n for n in _ancestors(target) if n.meta["data"]]
    needed: dict[fx.Node, Reach | None] = {target: (SAME, SAME) if windowed and axes_of(target) else None}
    for node in reversed(steps):
        geometry: Geometry = node.meta["geometry"]
        window = needed[node]
        if window is not None and (not geometry.local or _covers(window, lengths(node))):
            window = needed[node] = None
        for source, reach in edges(node):
            step = None if window is None or reach is None else then(window, reach)
            needed[source] = _union(needed[source], step, source) if source in needed else step
    return WindowPlan(tuple(steps), {node: window for node, window in needed.items() if window is not None})


def _ancestors(target: fx.Node) -> list[fx.Node]:
    """Return the nodes from which a node's value is computed, and itself, in the order of the graph."""
    ancestors = {target}
    for node in reversed(target.graph.nodes):
        if node in ancestors:
            ancestors.update(node.all_input_nodes)
    return [node for node in target.graph.nodes if node in ancestors]


def descendants(nodes: Sequence[fx.Node], steps: Sequence[fx.Node]) -> set[fx.Node]:
    """Return those of some steps, in the order of the graph, that are computed from any of the nodes; not the nodes.

    A node that is computed from another one of them is a descendant too.
    """
    after: set[fx.Node] = set()
    for step in steps:
        if any(source in after or source in nodes for source in step.all_input_nodes):
            after.add(step)
    return after


def stays(source: fx.Node, reach: Reach | None, node: fx.Node) -> bool:
    """Return whether each position of a node's map is computed from the same position of an input's map alone."""
    return reach == (SAME, SAME) and lengths(source) == lengths(node)


def _covers(window: Reach, sizes: tuple[int, int]) -> bool:
    """Return whether the window is the whole map, or so large that the whole map costs no more."""
    return any(i.jump == 0 or i.size >= length for i, length in zip(window, sizes, strict=True))


def then(window: Reach, reach: Reach) -> Reach:
    """Return the rows and columns of an input that a window of an op's output reads; `reach` is the op's own."""
    return window[0].then(reach[0]), window[1].then(reach[1])


def _union(first: Reach | None, second: Reach | None, node: fx.Node) -> Reach | None:
    if first is None or second is None:
        return None
    rows, columns = lengths(node)
    return first[0].union(second[0], rows), first[1].union(second[1], columns)
