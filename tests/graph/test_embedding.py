"""Networks that end at a layer: what they return, which layer is taken, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CaptureError
from deconvviz.graph.choose import maps_behind
from deconvviz.graph.classifier import classifier_input
from deconvviz.graph.embedding import default_embedding, embedding_network, pooled_places


class ChannelsLast(nn.Module):
    """Maps whose channels come last, as in ConvNeXt, and a classifier of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean((1, 2)))


class Tokens(nn.Module):
    """Patches as tokens behind a class token, which the classifier reads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(3, 5, 4, stride=4), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        row = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat([row[:, :1] * 0, row], 1))[:, 0])


def convolutional() -> nn.Module:
    """The classifier is a convolution of maps, as in SqueezeNet."""
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    return nn.Sequential(body, nn.Dropout(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def test_what_the_classifier_reads() -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 2))
    laid_out = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(6 * 36, 2))
    for model, name in ((pooled, "1"), (laid_out, "2"), (convolutional(), "0.1")):
        network = dv.capture(model.eval(), (3, 8, 8))
        assert default_embedding(network) == name == classifier_input(network)
    with pytest.raises(CaptureError, match="no layer before its classifier"):
        default_embedding(dv.capture(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), (3, 8, 8)))


def test_the_network_that_ends_there_returns_vectors() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 3, 8, 8)
    model = convolutional()
    network = dv.capture(model, (3, 8, 8))
    ended = embedding_network(network, "0")
    assert torch.equal(ended(x), model[0](x).mean((2, 3)))
    assert pooled_places(network, "0") == 36 and pooled_places(network, "4") == 1
    assert not any(name.startswith("2.") for name in ended.tensors) and "2" not in ended.layers
    assert torch.allclose(ended.forward_only()(x), ended(x), atol=1e-6)
    assert maps_behind(ended, ended.output_nodes()[0]) == "0.1"
    last = ChannelsLast().eval()
    network = dv.capture(last, (3, 8, 8))
    expected = last.norm(last.conv(x).permute(0, 2, 3, 1)).mean((1, 2))
    assert torch.allclose(embedding_network(network, "norm")(x), expected, atol=1e-6)
    assert network(x).shape == (3, 4)  # the whole network is left as it was


def test_what_is_no_embedding_is_refused() -> None:
    network = dv.capture(Tokens().eval(), (3, 16, 16))
    with pytest.raises(CaptureError, match=r"a row of tokens, \[17, 5\]"):
        embedding_network(network, "block")
    x = torch.rand(2, 3, 16, 16)
    assert embedding_network(network, default_embedding(network))(x).shape == (2, 5)
    single = nn.Sequential(nn.Conv2d(3, 1, 3), nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(CaptureError, match=r"1 number for an image; .* needs 2 or more: take '1'"):
        embedding_network(dv.capture(single, (3, 8, 8)), "0")
