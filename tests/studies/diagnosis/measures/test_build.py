"""What a network is built of is read from its graph, and advice follows it."""

from __future__ import annotations

import pytest
import torch
from diagnosed import about, found, net, noise_images, weights
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.studies.diagnosis.checks.aliasing import _smoothed
from deconvviz.studies.diagnosis.measures.build import Build, Rectifier
from deconvviz.studies.diagnosis.measures.shifts import strided_ops


def build(*layers: nn.Module) -> Build:
    return Build(dv.capture(nn.Sequential(*layers).eval(), (3, 32, 32)))


@pytest.mark.parametrize(
    ("norm", "expected"),
    [(nn.BatchNorm2d(8), True), (nn.GroupNorm(2, 8), True), (nn.InstanceNorm2d(8), True), (nn.Identity(), False)],
)
def test_normalisation_is_seen(norm: nn.Module, expected: bool) -> None:
    assert build(nn.Conv2d(3, 8, 3), norm, nn.ReLU()).standardised is expected


@pytest.mark.parametrize(
    ("rectifier", "below", "above"),
    [
        (nn.ReLU(), True, False),
        (nn.ReLU6(), True, True),
        (nn.LeakyReLU(), False, False),
        (nn.PReLU(8), False, False),
        (nn.SiLU(), True, False),
        (nn.Hardtanh(), True, True),
    ],
)
def test_rectifiers_are_seen_far_from_zero(rectifier: nn.Module, below: bool, above: bool) -> None:
    seen = build(nn.Conv2d(3, 8, 3), rectifier, nn.MaxPool2d(2))
    assert seen.rectifier("1") == seen.rectifier("2") == Rectifier(flat_below=below, flat_above=above)
    assert seen.rectifier("0") is None


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x


def test_joins_dilation_and_strides_are_seen() -> None:
    skip, plain = build(Skip()), build(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    assert (skip.joined, skip.dilated) == (True, True) and (plain.joined, plain.dilated) == (False, False)
    assert not plain.strided_before("0") and plain.strided_before("2")


@pytest.mark.slow
def test_dead_filters_get_no_advice_that_is_followed_already() -> None:
    def dead(*more: nn.Module) -> str:
        model = nn.Sequential(nn.Conv2d(3, 20, 3), *more, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 2))
        torch.manual_seed(0)
        with torch.no_grad():
            for module in model:
                if getattr(module, "bias", None) is not None:
                    module.bias[:4] = -1000
        return found("dead", about(model))[0].remedy

    plain = dead(nn.ReLU())
    assert "BatchNorm" in plain and "leaky" in plain
    normalised = dead(nn.BatchNorm2d(20), nn.ReLU())
    assert "train with BatchNorm" not in normalised and "shifts of the normalisation" in normalised
    weight = nn.Conv2d(3, 20, 3)
    assert weight is not None and "leaky" not in dead_constant()


def dead_constant() -> str:
    """The advice about filters that are constant though their rectifier is leaky: their weights are zero."""

    def edit(model: nn.Sequential) -> None:
        model[1] = nn.LeakyReLU()
        weights(model)[:4] = 0

    return found("dead", about(net(edit=edit), noise_images()))[0].remedy


@pytest.mark.parametrize(
    ("op", "words"),
    [
        (nn.Conv2d(3, 4, 11, 4), "11x11 with stride 4"),
        (nn.Conv2d(3, 4, 3, 2), "BlurPool, Zhang 2019)."),
        (nn.Conv2d(3, 4, 1, 2), "one of 4 positions"),
        (nn.Conv2d(3, 4, 4, 4), "patch embedding"),
        (nn.MaxPool2d(2), "Pool with stride 1"),
    ],
)
def test_aliasing_is_answered_by_the_op(op: nn.Module, words: str) -> None:
    last = nn.Conv2d(3 if isinstance(op, nn.MaxPool2d) else 4, 2, 3)
    network = dv.capture(nn.Sequential(op, last).eval(), (3, 32, 32))
    advice = _smoothed(strided_ops(network)[0])
    assert words in advice and ("11x11" in advice) == ("11x11" in words)
