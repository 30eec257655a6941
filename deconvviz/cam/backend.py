"""A network as the engine of explanations sees it, whether it is captured or runs with hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from deconvviz.cam.tokens import Layout
from deconvviz.deconv.rules import BackwardRule
from deconvviz.graph.network import Network
from deconvviz.graph.scores import Readout

Tail = Callable[[Tensor, Tensor | None], Any]
"""Values of a layer [M, ...] and int64 [M], the image each belongs to (None: in order) -> the network's output."""
Make = Callable[[Tensor, Tensor], Tensor]
"""Images int64 [m] and variants int64 [m] -> changed maps [m, K, h, w] or masks [m, H, W]."""
Seed = Callable[[Any], Sequence[Tensor | None]]
"""An output -> the signal that starts at each of its tensors; None where none does."""
Form = Callable[[Network], Network]
"""A captured network -> another form of it that runs in its place."""
Read = Callable[[Any, Tensor], Tensor]
"""An output and int64 [m], the image each of its rows belongs to -> what is read off it, [m, ...]."""


class Backend(Protocol):
    """A network as the engine sees it: captured, or a module with hooks; `name` says what it is."""

    name: str

    def __call__(self, x: Tensor) -> Any:
        """Return the output for images [N, ...]."""

    def split(self, layer: str, x: Tensor) -> tuple[Tensor, Tail]:
        """Return the layer's value for images x, and a function from values of that layer to the output.

        The function takes values [M, ...] and int64 [M], the image each belongs to (None: the images in order).
        """

    def prepared(self, x: Tensor) -> Tensor:
        """Return images in the dtype and the order in memory in which the network computes."""

    def observed(self, x: Tensor, layers: Sequence[str]) -> tuple[dict[str, Tensor], Any]:
        """Return the values of layers for images x, and the output, from one pass."""

    def layout(self, layer: str, value: Tensor, image: tuple[int, int], tokens: tuple[int, int] | None) -> Layout:
        """Return how the layer's value becomes maps."""

    def back(
        self, x: Tensor, seed: Seed, policy: BackwardRule, layer: str | None = None, form: Form | None = None
    ) -> Tensor:
        """Send a signal from the output back to the images, or to a layer, by a policy.

        Args:
            x: images [N, ...].
            seed: makes the signal from the output.
            policy: what each kind of op does to the signal.
            layer: where the signal ends; None for the images.
            form: the network that runs in the place of the captured one, such as one with its BatchNorm folded.
        """

    def readout(self, output: Any) -> Readout | None:
        """Return how outputs like this one become scores of classes; None where there are no such scores."""
