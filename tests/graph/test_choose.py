"""The layers that a study takes where none is named: those that everything passes through, by their depth."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import CamError, DataError
from deconvviz.graph.choose import by_depth, default_layers, first_and_last, last_maps


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inside, self.relu = nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.relu(self.inside(x)))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.passed_by, self.second, self.last = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.second(torch.relu(x + self.passed_by(x))))


def test_default_layers() -> None:
    """The last value of each stage that everything passes through, and not the output's; a ZFNet's are the paper's."""
    demo = dv.capture(dv.load_model("demo").model, (3, 64, 64))
    assert default_layers(demo) == ("norm1", "norm2", "relu3", "relu4", "pool5", "relu6", "relu7")
    assert default_layers(demo, pooled=False) == ("norm1", "norm2", "relu3", "relu4", "relu5", "relu6", "relu7")
    assert default_layers(demo, 3) == ("norm1", "relu4", "relu7")
    blocks = nn.Sequential(*(Residual(4) for _ in range(3)))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), blocks, nn.Flatten(), nn.Dropout(), nn.Linear(4 * 144, 5))
    # the blocks' insides are passed by; flattened or dropped, the last block's value is the same
    assert default_layers(dv.capture(net.eval(), (3, 14, 14))) == ("1", "2.0", "2.1", "2.2")
    assert default_layers(dv.capture(Skip().eval(), (3, 14, 14))) == ("first", "second")
    with pytest.raises(DataError, match="name the layers"):
        default_layers(dv.capture(nn.Conv2d(3, 4, 3), (3, 14, 14)))


class PassedBy(nn.Module):
    """A convolution whose value passes its ReLU by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Linear(48, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        out: Tensor = self.fc((x + self.relu(x)).flatten(1))
        return out


@pytest.mark.slow
def test_layers_by_depth() -> None:
    assert by_depth(dv.capture(PassedBy(), (3, 4, 4))) == ("conv", "fc")
    loaded = dv.load_model("zfnet", "none")
    network = dv.capture(loaded.model, (3, 224, 224))
    assert by_depth(network) == (*(f"relu{n}" for n in range(1, 8)), "fc8")
    assert first_and_last(network) == ("relu1", "relu7")
    squeezed = dv.capture(torchvision.models.squeezenet1_0().eval(), (3, 64, 64))
    assert first_and_last(squeezed) == ("features.1", "features.12") and len(by_depth(squeezed)) == 26
    residual = dv.capture(torchvision.models.resnet18().eval(), (3, 64, 64))
    assert first_and_last(residual) == ("relu", "avgpool")
    assert by_depth(residual)[:3] == ("relu", "layer1.0.relu", "layer1.0.bn2") and len(by_depth(residual)) == 21
    with pytest.raises(CamError, match="no convolution or linear layer"):
        first_and_last(dv.capture(nn.Sequential(nn.ReLU(), nn.Flatten()), (3, 4, 4)))


class Attending(nn.Module):
    """A transformer on patches, whose heads are reordered by ops that have names of their own."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.patches, self.values = fused, nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 24)
        self.out, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        shape = (*tokens.shape[:2], 2, 4)
        queries, keys, values = (part.view(shape).transpose(1, 2) for part in self.values(tokens).chunk(3, -1))
        if self.fused:
            attended = nn.functional.scaled_dot_product_attention(queries, keys, values)
        else:
            attended = (queries @ keys.transpose(2, 3)).softmax(-1) @ values
        scores: Tensor = self.head(self.out(attended.transpose(1, 2).reshape(tokens.shape)).mean(1))
        return scores


@pytest.mark.parametrize("fused", [True, False])
def test_heads_of_attention_are_no_maps(fused: bool) -> None:
    for size in (16, 32):  # 16 and 64 tokens: of 16, a table of weights is as square as the image
        assert last_maps(dv.capture(Attending(fused).eval(), (3, size, size))) == "patches"
