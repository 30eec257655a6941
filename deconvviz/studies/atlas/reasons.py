"""Because of which filters a network decided: the channels of one layer with the largest shares in a score."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from deconvviz.deconv.decision import RULE, Decisions
from deconvviz.errors import CaptureError
from deconvviz.graph.network import Network
from deconvviz.halving import AtOnce
from deconvviz.types import Array

if TYPE_CHECKING:
    from deconvviz.choices import Precision

SPEAKING = 5  # channels that are kept of those that speak for a class; beside them the one that speaks most against it


class Reasons:
    """Shares the scores of classes out among the channels of one layer.

    Attributes:
        layer: name of the layer.
        rule: one of `choices.RELEVANCE_RULES`.
    """

    def __init__(self, network: Network, layer: str, batch_size: int, precision: Precision = "fp32") -> None:
        """Prepare a network; raises CaptureError where its scores do not follow from the layer."""
        self.layer, self.rule, self._network = layer, RULE, network
        self._decisions = Decisions(network, [layer], RULE, precision=precision)
        self._at_once = AtOnce(batch_size, "images")

    @property
    def config(self) -> dict[str, str]:
        """The layer and the rule, as JSON values."""
        return {"layer": self.layer, "rule": self.rule}

    def of(self, x: Tensor, targets: Tensor) -> dict[str, Array]:
        """Return which channels decide for some outputs about one image.

        Args:
            x: the image, [1, C, H, W].
            targets: int64 [T], the outputs.

        Returns:
            "because/channels" int64 [T, SPEAKING + 1]: the channels with the largest shares above zero, the largest
            first, and in the last place that with the smallest below zero; -1 where there is none.
            "because/shares" float64 of the same shape: the relevance of each over the sum of the absolute relevance of
            all channels of the layer, in -1..1; 0 where there is none.
        """
        targets = targets.to(x.device)

        def part(start: int, stop: int) -> Tensor:
            images = x.expand(stop - start, -1, -1, -1).contiguous()
            relevance = self._decisions.of(images, targets[start:stop]).relevance[self.layer]
            return self._network.maps(self.layer, relevance).flatten(2).sum(2, dtype=torch.float64).cpu()

        return largest_shares(torch.cat([*self._at_once.parts(len(targets), part)]).numpy())


def largest_shares(relevance: Array) -> dict[str, Array]:
    """Return the largest shares of each row, and the smallest, as `Reasons.of` does.

    Args:
        relevance: float64 [T, C], of channels. A row that is not finite has no share.

    >>> arrays = largest_shares(np.array([[1.0, 0.0, 6.0, -3.0]]))
    >>> arrays["because/channels"].tolist(), arrays["because/shares"].tolist()
    ([[2, 0, -1, -1, -1, 3]], [[0.6, 0.1, 0.0, 0.0, 0.0, -0.3]])
    """
    finite = np.where(np.isfinite(relevance).all(1, keepdims=True), relevance, 0.0)
    shares = finite / np.maximum(np.abs(finite).sum(1, keepdims=True), 1e-30)
    order = np.argsort(-shares, axis=1, kind="stable")
    channels = np.full((len(shares), SPEAKING + 1), -1)
    kept = np.zeros(channels.shape)
    best = order[:, :SPEAKING]
    for places, chosen, sign in ((slice(0, best.shape[1]), best, 1), (slice(SPEAKING, None), order[:, -1:], -1)):
        values = np.take_along_axis(shares, chosen, 1)
        speaks = sign * values > 0
        channels[:, places], kept[:, places] = np.where(speaks, chosen, -1), np.where(speaks, values, 0.0)
    return {"because/channels": channels.astype(np.int64), "because/shares": kept}


def reasons_at(
    network: Network, layers: Sequence[str], cam_layer: str | None, batch_size: int, precision: Precision = "fp32"
) -> Reasons | None:
    """Return what finds the channels that decide; None where no layer allows it.

    Args:
        network: a captured network that returns one score for each class.
        layers: that the atlas shows, in the order of depth.
        cam_layer: the layer that the user named for the maps; it is taken where the atlas shows it. Else it is the
            deepest one with rows and columns that the scores follow from.
        batch_size: scores that are shared out in one pass.
        precision: number format of the passes, one of `choices.PRECISIONS`.
    """
    with_places = [name for name in layers if max(network.layer(name).units[1:]) > 1]
    for layer in [cam_layer] if cam_layer in layers else reversed(with_places):
        with contextlib.suppress(CaptureError):  # such as of a layer that the scores do not follow from
            return Reasons(network, str(layer), batch_size, precision)
    return None
