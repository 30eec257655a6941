"""A captured network as the engine uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.cam.backend import Form, Seed
from deconvviz.cam.tokens import Layout, layout_of
from deconvviz.deconv.places import Places
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.rules import BackwardRule
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import CamError, CaptureError
from deconvviz.graph.changes import Changes
from deconvviz.graph.layers import channel_axis
from deconvviz.graph.network import Network
from deconvviz.graph.ops import Call
from deconvviz.graph.program import Values
from deconvviz.graph.scores import Readout
from deconvviz.types import Ints

WORTH = 0.9  # of the work of a whole pass: with more, nothing is gained


class Captured:
    """A captured network for the engine: what comes before a layer runs once, and a signal goes back by any policy."""

    def __init__(self, network: Network) -> None:
        self.network, self.name = network, network.name
        self._changes: dict[bytes, Changes | None] = {}

    @property
    def reads(self) -> list[fx.Node]:
        """The nodes of whose values `returned` makes what a call returns."""
        return self.network.output_nodes()

    def returned(self, values: Values) -> Any:
        """Return what a call returns, from the values of `reads`."""
        return self.network.packed(values)

    def __call__(self, x: Tensor) -> Any:
        """Return the output for images x."""
        network = self.network
        return self.returned(network.run({network.image: network.checked(x)}, self.reads, len(x)))

    def changes(self, boxes: Ints) -> Changes | None:
        """Return the passes over images that differ from others within boxes, int64 [W, 4]; see `Changes`.

        It is None where they cost as much as whole passes.
        """
        key = boxes.tobytes()
        if key not in self._changes:
            changes = Changes(self.network, self.reads, boxes)
            self._changes[key] = changes if changes.share < WORTH else None
        return self._changes[key]

    def split(self, layer: str, x: Tensor) -> tuple[Tensor, Callable[[Tensor, Tensor | None], Any]]:
        """Return the layer's value, and the output as a function of it."""
        return self.network.split(layer, x)

    def prepared(self, x: Tensor) -> Tensor:
        """Return images in the dtype and the order in memory in which the network computes."""
        return self.network.checked(x)

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Return the layers' values and the output, from one pass."""
        return self.network.observed(x, layers)

    def layout(self, layer: str, value: Tensor, image: tuple[int, int], tokens: tuple[int, int] | None) -> Layout:
        """Return how the layer's value becomes maps."""
        axis = channel_axis(self.network.layer(layer).node)
        return layout_of(layer, tuple(value.shape[1:]), axis, image, tokens)

    def readout(self, output: Any) -> Readout | None:
        """Return how the output becomes scores of classes; None where it has none."""
        try:
            return self.network.readout
        except CaptureError:
            return None

    def back(
        self, x: Tensor, seed: Seed, policy: BackwardRule, layer: str | None = None, form: Form | None = None
    ) -> Tensor:
        """Send a signal from the output back to the images or to a layer; that of several outputs is summed.

        Raises:
            CamError: the target does not follow from the output, or not from the layer, by a gradient.
        """
        network = self.network if form is None else form(self.network)
        node = network.image if layer is None else network.layer(layer).node
        signals, _ = sent_back(network, x, seed, policy, [node])
        if node not in signals:
            if layer is None:
                return torch.zeros_like(x)
            raise CamError(f"the output does not follow from layer {layer!r}; choose another one")
        return signals[node]


def sent_back(
    network: Network, x: Tensor, seed: Seed, policy: BackwardRule, nodes: Sequence[fx.Node]
) -> tuple[dict[fx.Node, Tensor], dict[fx.Node, Call]]:
    """Send a signal from the output back to some values; that of several outputs is summed.

    Returns:
        node -> the signal that arrives at it, without those that no signal reaches; and node -> the call that computed
        its value, for all values on the way.

    Raises:
        CamError: the target does not follow from the output by a gradient.
    """
    images = network.checked(x)
    outputs, places = network.output_nodes(), Places.of(range(len(x)), [(0, 0)] * len(x), x.device)
    plans = {node: make_plan(network, network.names[node], windowed=False) for node in outputs if node in network.names}
    sweeps = {node: Sweep(network, plan, images, places) for node, plan in plans.items()}
    values = {node: sweep.forward() for node, sweep in sweeps.items()}
    beside = [node for node in outputs if node not in values]  # the images themselves, or a value of the whole batch
    values |= network.run({network.image: images}, beside, len(x)) if beside else {}
    arrived, calls, reached = dict[fx.Node, Tensor](), dict[fx.Node, Call](), False
    for node, signal in zip(outputs, seed(network.packed(values)), strict=True):
        if signal is None or node not in sweeps:
            continue
        reached, sweep = True, sweeps[node]
        calls |= sweep.calls
        for place, part in sweep.signals_at(nodes, {node: signal}, policy).items():
            arrived[place] = arrived[place] + part if place in arrived else part
    if not reached:
        raise CamError(f"the target has no gradient with respect to what {network.name} returns")
    return arrived, calls
