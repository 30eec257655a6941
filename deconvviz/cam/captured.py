"""A captured network as the engine uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconvviz.cam.tokens import Layout, layout_of
from deconvviz.deconv.places import Places
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.rules import BackwardRule
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import CamError, CaptureError
from deconvviz.graph.layers import channel_axis
from deconvviz.graph.network import Network
from deconvviz.graph.scores import Readout

if TYPE_CHECKING:
    from deconvviz.cam.engine import Seed


class Captured:
    """A captured network for the engine: what comes before a layer runs once, and a signal goes back by any policy."""

    def __init__(self, network: Network) -> None:
        self.network, self.name = network, network.name

    def __call__(self, x: Tensor) -> Any:
        """Return the output for images x."""
        return self.network(x)

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

    def back(self, x: Tensor, seed: Seed, policy: BackwardRule) -> Tensor:
        """Send a signal from the output back to the images; that of several outputs is summed.

        Raises:
            CamError: the target does not follow from the output by a gradient.
        """
        network, images = self.network, self.network.checked(x)
        nodes, places = network.output_nodes(), Places.of(range(len(x)), [(0, 0)] * len(x), x.device)
        plans = {
            node: make_plan(network, network.names[node], windowed=False) for node in nodes if node in network.names
        }
        sweeps = {node: Sweep(network, plan, images, places) for node, plan in plans.items()}
        values = {node: sweep.forward() for node, sweep in sweeps.items()}
        beside = [node for node in nodes if node not in values]  # the images themselves, or a value of the whole batch
        values |= network.run({network.image: images}, beside, len(x)) if beside else {}
        signals = seed(network.packed(values))
        parts = [
            sweeps[node].back(signal, policy)
            for node, signal in zip(nodes, signals, strict=True)
            if signal is not None and node in sweeps
        ]
        if not parts:
            raise CamError(f"the target has no gradient with respect to what {self.name} returns")
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
