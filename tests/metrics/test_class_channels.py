"""The channels of classes and Model Doctor's constraints: closed forms, cases by hand, and finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deconvviz.metrics.class_channels import (
    channel_constraint,
    channel_strengths,
    class_masks,
    rivals,
    score_gradient,
    space_constraint,
)


class Net(nn.Module):
    """A convolution whose maps are constrained, a smooth part after it, and three classes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, 4, 3)
        self.inner, self.head = nn.Conv2d(4, 5, 2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.conv(x)
        return self.head(torch.relu(self.inner(torch.tanh(maps))).mean((2, 3))), maps


def test_pooled_and_linear_is_the_rectified_weight() -> None:
    """S_k(c) = h w ReLU(W_ck / (h w)): of maps that are averaged and read by a linear layer."""
    weight = torch.randn(3, 5, dtype=torch.float64)
    maps = torch.randn(4, 5, 6, 7, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([2, 0, 1, 2])
    gradient = score_gradient(maps.mean((2, 3)) @ weight.T, classes, maps)
    assert torch.allclose(gradient, (weight[classes] / 42)[:, :, None, None].expand(4, 5, 6, 7))
    assert torch.allclose(channel_strengths(gradient), weight[classes].relu())


def test_the_gradient_of_a_score_does_not_know_the_batch() -> None:
    net, x = Net().double(), torch.randn(6, 2, 6, 6, dtype=torch.float64)
    classes = torch.arange(6) % 3
    scores, maps = net(x)
    alone = [score_gradient(*_one(net, x[n : n + 1], classes[n : n + 1])) for n in range(6)]
    assert torch.allclose(score_gradient(scores, classes, maps), torch.cat(alone))
    constant = torch.zeros(2, 3, requires_grad=True)
    assert score_gradient(constant * 1, torch.tensor([0, 1]), torch.ones(2, 1, 1, 1, requires_grad=True)).sum() == 0


def _one(net: Net, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scores, maps = net(x)
    return scores, classes, maps


def test_masks_by_hand() -> None:
    strengths = torch.tensor([[1.0, 3.0, 11.0, 3.01], [0.0, 0.0, 0.0, 0.0]])
    assert class_masks(strengths).tolist() == [[False, False, True, True], [False] * 4]  # 1 + 0.2 * 10 = 3 is not above
    assert class_masks(strengths, 0.1)[0].tolist() == [False, True, True, True]


def test_rivals() -> None:
    scores = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0], [2.0, 2.0, 0.0]])
    assert rivals(scores, torch.tensor([1, 2, 0])).tolist() == [2, 1, 1]  # the runner-up; the decision; the other


def test_the_constraints_against_the_definition() -> None:
    """A replica in numpy: gradients by central differences of the network's second part, sums by hand."""
    net, x = Net(1).double(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2])
    masks = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    outside = torch.rand(3, 4, 4, dtype=torch.float64)
    scores, maps = net(x)
    found = channel_constraint(scores, classes, maps, masks).detach().numpy()
    space = space_constraint(scores, classes, maps, outside).detach().numpy()
    for image in range(3):
        g = _differences(lambda a: net.head(torch.relu(net.inner(torch.tanh(a))).mean((2, 3))), maps[image].detach())
        y = int(classes[image])
        others = [c for c in range(3) if c != y]
        r = max(others, key=lambda c: float(scores[image, c].detach()))
        s = np.maximum(g, 0).sum((2, 3))  # [classes, channels]
        expected = sum(s[r, k] for k in range(4) if masks[r, k]) + sum(s[y, k] for k in range(4) if not masks[y, k])
        assert found[image] == pytest.approx(expected, rel=1e-6)
        assert space[image] == pytest.approx((np.abs(g[y]).sum(0) * outside[image].numpy()).sum(), rel=1e-6)


def _differences(tail: Callable[[Tensor], Tensor], maps: Tensor, step: float = 1e-6) -> np.ndarray:
    """Return the gradient of each class's score by central differences, [classes, K, h, w]."""
    columns = []
    with torch.no_grad():
        for place in range(maps.numel()):
            change = torch.zeros(maps.numel(), dtype=maps.dtype)
            change[place] = step
            change = change.view_as(maps)
            columns.append((tail((maps + change)[None]) - tail((maps - change)[None]))[0] / (2 * step))
    return torch.stack(columns, 1).view(-1, *maps.shape).numpy()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_double_backward_against_finite_differences(dtype: torch.dtype) -> None:
    """The step of the training, in float64 and float32, against central differences in float64."""
    masks = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    torch.manual_seed(2)
    x, classes = torch.randn(4, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    outside = torch.rand(4, 4, 4, dtype=torch.float64)

    def loss(net: Net, kind: torch.dtype) -> Tensor:
        scores, maps = net(x.to(kind))
        terms = channel_constraint(scores, classes, maps, masks) + space_constraint(
            scores, classes, maps, outside.to(kind)
        )
        return terms.mean()

    net, exact = Net(3).to(dtype), Net(3).double()
    exact.load_state_dict(net.state_dict())
    torch.autograd.backward(loss(net, dtype))
    for own, there in zip(net.parameters(), exact.parameters(), strict=True):
        differences = torch.zeros(there.numel(), dtype=torch.float64)
        flat = there.data.view(-1)
        for n in range(len(flat)):
            values = []
            for sign in (1, -1):
                flat[n] += sign * 1e-6
                values.append(float(loss(exact, torch.float64).detach()))
                flat[n] -= sign * 1e-6
            differences[n] = (values[0] - values[1]) / 2e-6
        found = torch.zeros_like(own) if own.grad is None else own.grad
        tolerance = 1e-6 if dtype == torch.float64 else 1e-4
        assert torch.allclose(found.double().view(-1), differences, atol=tolerance, rtol=tolerance)


def test_classes_that_own_disjoint_channels_have_no_loss() -> None:
    """An image of a class drives its own channels alone: at the convolution's output, the others are shut."""
    conv, head = nn.Conv2d(3, 3, 1), nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[:, :, None, None])
        conv.bias.fill_(-0.5)
        head.weight.copy_(torch.eye(3))
    x = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4)  # red, green and blue
    classes, masks = torch.arange(3), torch.eye(3, dtype=torch.bool)

    def constraint() -> Tensor:
        maps = conv(x)
        return channel_constraint(head(maps.relu().mean((2, 3))), classes, maps, masks)

    assert constraint().tolist() == [0, 0, 0]
    with torch.no_grad():
        head.weight[1, 0] = 0.5  # green leans on the red channel as well, a foreign one
        conv.bias[0] = 0.1
    # The red channel is open everywhere now: green is driven by it (0.5), and so is red, the rival of green and blue.
    assert constraint().tolist() == pytest.approx([0, 1.5, 1])
