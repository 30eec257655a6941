"""LRP beyond plain networks: against dense algebra on a residual block, an identity on whole networks, and captum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from captum.attr import LRP
from networks import by_weight
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.cam.explain import cam

EPS = 1e-6


class Block(nn.Module):
    """A convolution, a residual branch with BatchNorm around it, a pool, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = functional.relu(self.stem(x))
        b = functional.relu(self.norm(self.conv(a)) + a)
        return self.head(functional.avg_pool2d(b, 6).flatten(1))


def dense(module: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear module, [outputs, inputs], from the images of the unit vectors."""
    count = int(torch.Size(shape).numel())
    with torch.no_grad():
        return module(torch.eye(count, dtype=torch.float64).reshape(count, *shape)).flatten(1).T


def away(z: Tensor) -> Tensor:
    return z + EPS * torch.where(z >= 0, 1.0, -1.0).double()


def shared(matrix: Tensor, a: Tensor, z: Tensor, relevance: Tensor) -> Tensor:
    """R_j = a_j sum_k w_kj R_k / (z_k + eps sign z_k)."""
    return a * (matrix.T @ (relevance / away(z)))


def positive(matrix: Tensor, bias: Tensor | float, a: Tensor, relevance: Tensor) -> Tensor:
    """The z+ rule; what is positive of a w counts."""
    up, down = a.clamp(min=0), a.clamp(max=0)
    z = matrix.clamp(min=0) @ up + matrix.clamp(max=0) @ down + bias
    share = relevance / away(z)
    return up * (matrix.clamp(min=0).T @ share) + down * (matrix.clamp(max=0).T @ share)


@pytest.mark.parametrize("rule", ["lrp-epsilon", "lrp-zplus"])
def test_a_residual_block(rule: str) -> None:
    torch.manual_seed(1)
    model = Block().double().eval()
    nn.init.uniform_(model.norm.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
    nn.init.uniform_(model.norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    nn.init.uniform_(model.norm.bias, -0.2, 0.2)
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        a = model.stem(x).relu()
        normed = model.norm(model.conv(a))
        b = (normed + a).relu()
        y = model.head(functional.avg_pool2d(b, 6).flatten(1))[0]
    pooled = functional.avg_pool2d(b, 6).flatten()
    relevance = torch.zeros(3, dtype=torch.float64)
    relevance[2] = y[2]
    relevance = shared(model.head.weight.detach(), pooled, y, relevance)
    relevance = shared(dense(lambda v: functional.avg_pool2d(v, 6), (4, 6, 6)), b.flatten(), pooled, relevance)
    total = normed + a  # the rectifier hands its relevance on; the sum shares it by what each part contributed
    share = relevance.reshape(total.shape) / away(total)
    branch, skip = normed * share, a * share
    # BatchNorm and its convolution are one linear map
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    bias = (model.norm.bias - model.norm.running_mean * scale).repeat_interleave(36)
    matrix = scale.repeat_interleave(36)[:, None] * dense(model.conv, (4, 6, 6))
    if rule == "lrp-epsilon":
        down = shared(matrix, a.flatten(), normed.flatten(), branch.flatten())
    else:
        down = positive(matrix, bias.clamp(min=0), a.flatten(), branch.flatten())
    relevance = down + skip.flatten()
    stem, bias = nn.Conv2d(2, 4, 3, padding=1, bias=False).double(), model.stem.bias.repeat_interleave(36)
    stem.weight.data = model.stem.weight.data
    matrix, z = dense(stem, (2, 6, 6)), model.stem(x).flatten()
    if rule == "lrp-epsilon":
        expected = shared(matrix, x.flatten(), z, relevance)
    else:
        expected = positive(matrix, bias.clamp(min=0), x.flatten(), relevance)
    found = cam(rule, dv.capture(model, (2, 6, 6)))(x, 2, raw=True)
    assert torch.allclose(found[0], expected.reshape(2, 6, 6).sum(0).detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", by_weight(["resnet18", "densenet121", "squeezenet1_0"]))
def test_without_epsilon_it_is_gradient_times_input(
    network: Callable[[str, int], tuple[nn.Module, dv.Network]], name: str
) -> None:
    """Ancona et al. 2018, proposition: with rectifiers only, through sums, concatenations and BatchNorm."""
    _, net = network(name, 64)
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = cam("lrp-epsilon", net, epsilon=1e-14)(x, 3, raw=True)
    expected = cam("gradient-x-input", net)(x, 3, raw=True)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.peers
def test_captum_on_a_plain_network() -> None:
    torch.manual_seed(0)
    model = torchvision.models.vgg11(weights=None).double().eval()
    model.avgpool = nn.Dropout(0)  # captum has no rule for adaptive pooling; its own epsilon is 1e-9
    model.classifier[0] = nn.Linear(512, 64, dtype=torch.float64)
    model.classifier[3], model.classifier[6] = (nn.Linear(64, n, dtype=torch.float64) for n in (64, 10))
    model.eval()
    network = dv.capture(model, (3, 32, 32))
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    found = cam("lrp-epsilon", network, epsilon=1e-9)(x, 3, raw=True)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    theirs = LRP(model).attribute(x.clone().requires_grad_(), target=3).detach().sum(1)
    assert (found - theirs).abs().max() <= 1e-4 * theirs.abs().max()
