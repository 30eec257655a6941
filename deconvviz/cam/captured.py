"""A captured network as the engine uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from deconvviz.cam.tokens import Layout, layout_of
from deconvviz.deconv.plan import make_plan
from deconvviz.deconv.rules import BackwardRule
from deconvviz.deconv.windows import Sweep
from deconvviz.errors import CamError
from deconvviz.graph.layers import channel_axis
from deconvviz.graph.network import Network


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

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Return the layers' values and the output, from one pass."""
        return self.network.observed(x, layers)

    def layout(self, layer: str, value: Tensor, image: tuple[int, int], tokens: tuple[int, int] | None) -> Layout:
        """Return how the layer's value becomes maps."""
        axis = channel_axis(self.network.layer(layer).node)
        return layout_of(layer, tuple(value.shape[1:]), axis, image, tokens)

    def back(self, x: Tensor, seed: Callable[[Any], Tensor], policy: BackwardRule) -> Tensor:
        """Send a signal from the output back to the images; raises CamError where there is more than one output."""
        output = self._output()
        images = self.network.checked(x)
        index = torch.arange(len(x), device=x.device)
        sweep = Sweep(
            self.network, make_plan(self.network, output, windowed=False), images, index, index * 0, index * 0
        )
        return sweep.back(seed(sweep.forward()), policy)

    def _output(self) -> str:
        nodes = [n for n in self.network.output.all_input_nodes if isinstance(n, fx.Node)]
        names = [name for name, layer in self.network.layers.items() if layer.node in nodes]
        if len(nodes) != 1 or not names:
            raise CamError(f"{self.name} returns {len(nodes)} values; maps on pixels need a model that returns one")
        return names[0]
