"""Which part of every value a unit of a layer depends on: the plan by which its projection runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from deconvviz.graph.network import Network
from deconvviz.graph.reach import SAME, Geometry, Reach, axes_of, data_inputs, lengths, shape_of

MEMORY = 256 * 2**20  # bytes of values that the units of one batch may keep


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

    def units_at_once(self, copies: int, element_size: int) -> int:
        """Return how many units run together, so that `copies` of every value fit in MEMORY; at most 256.

        Args:
            copies: of each value that are in memory, such as the signals beside the values.
            element_size: bytes of a number.
        """
        return max(1, min(256, MEMORY // (copies * self.elements() * element_size)))

    def elements(self) -> int:
        """The number of values that one unit keeps in memory."""
        total = 0
        for node in self.steps:
            shape = shape_of(node)
            count = 1
            for size in shape[1:]:
                count *= max(size, 1)
            if node in self.windows:
                rows, columns = lengths(node)
                count = count * self.windows[node][0].size * self.windows[node][1].size // (rows * columns)
            total += count
        return total


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
        for source, reach in zip(data_inputs(node), geometry.reach, strict=True):
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
