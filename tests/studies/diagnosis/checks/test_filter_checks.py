"""Dead and dominating filters are found where they are planted, and not where they are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import Planted, about, found, net, noise_images, weights
from in_memory import noise
from torch import nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.models.zfnet import PAPER_RANGE

# --- dead ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "severity"), [(0, None), (1, "note"), (3, "warning"), (10, "serious")])
def test_dead_filters_are_found_where_they_are(count: int, severity: str | None) -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[2 : 2 + count] = -1000
        weights(model)[2 : 2 + count // 2] = 0

    got = found("dead", about(net(edit=kill)))
    if severity is None:
        assert got == []
        return
    (finding,) = got
    assert (finding.severity, finding.layer, finding.channels) == (severity, "1", tuple(range(2, 2 + count)))
    assert finding.value == count / 20 and finding.threshold == 0.01 and f"{count} of 20" in finding.what
    assert (f"{count // 2} of them ha" in finding.what) == ("practically zero" in finding.what) == (count >= 2)
    assert finding.evidence.kind == "tiles" and finding.evidence.arrays["pictures"].shape == (count, 5, 5, 3)


def test_dead_filters_are_not_nearly_dead_too() -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:6] = -1000

    (finding,) = found("dead", about(net(edit=kill), noise_images(200, side=8)))
    assert "6 of 20 filters are dead" in finding.what


def test_dead_is_constant_where_nothing_rectifies() -> None:
    def flat(model: nn.Sequential) -> None:
        weights(model)[:] -= 0.3  # most answers are below zero, none is dead
        weights(model)[5] = 0
        model[0].bias.data[5] = 2.5

    (finding,) = found("dead", about(net(edit=flat), layers=("0",)))
    assert finding.channels == (5,) and "constant" in finding.what


@pytest.mark.parametrize(("rare", "images", "expected"), [(6, 250, "warning"), (0, 250, None), (6, 150, None)])
def test_nearly_dead_filters_fire_in_few_of_many_images(rare: int, images: int, expected: str | None) -> None:
    pixels = noise(images, 8, 8, seed=3) // 2
    pixels[7] = 255  # the one image that is bright

    def shy(model: nn.Sequential) -> None:
        weights(model)[:rare] = 1 / 75
        model[0].bias.data[:rare] = -0.8

    got = found("dead", about(net(edit=shy), InMemoryImages(pixels)))
    assert [finding.severity for finding in got] == ([expected] if expected else [])
    if expected:
        assert got[0].channels == tuple(range(rare)) and got[0].evidence.kind == "histogram"
        assert got[0].evidence.mark == 0.01 and np.isclose(got[0].evidence.arrays["values"][0], 1 / images)


# --- dominating ------------------------------------------------------------------------------------------------------


def scaled(factor: float, level: float = 0.02) -> nn.Sequential:
    """A network whose filters all have an RMS of `level`, but for filter 4 that has `factor` times as much."""

    def scale(model: nn.Sequential) -> None:
        for place in (0, 2):
            values = weights(model, place)
            values *= level / values.square().mean((1, 2, 3), keepdim=True).sqrt()
        weights(model)[4] *= factor

    return net(edit=scale)


@pytest.mark.parametrize(
    ("factor", "severity"), [(1.0, None), (2.9, None), (3.1, "note"), (5.1, "warning"), (11, "serious")]
)
def test_a_filter_that_drowns_the_others_is_found(factor: float, severity: str | None) -> None:
    got = found("dominating", about(scaled(factor)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == (4,) and got[0].layer == "1" and np.isclose(got[0].value, factor)
        assert got[0].threshold == 3 and "times the median" in got[0].what and "radius" not in got[0].what
        assert got[0].evidence.labels[0] == "4" and np.isclose(got[0].evidence.arrays["values"][0], factor * 0.02)
        assert got[0].evidence.mark is not None and np.isclose(got[0].evidence.mark, 0.06)


@pytest.mark.parametrize(
    ("factor", "std", "fires"), [(1.5, PAPER_RANGE[0], True), (1.5, 0.5, False), (1.2, PAPER_RANGE[0], False)]
)
def test_the_papers_radius_counts_for_networks_of_its_inputs(factor: float, std: float, fires: bool) -> None:
    got = found("dominating", about(scaled(factor, 0.08), std=std))
    assert bool(got) == fires
    if fires:
        assert got[0].severity == "warning" and got[0].threshold == 0.1 and np.isclose(got[0].value, 0.12)
        assert "radius of 0.1" in got[0].what and "3 times" not in got[0].what and got[0].channels == (4,)
        both = found("dominating", about(scaled(3.5, 0.08), std=std))  # beyond either limit: the graver one counts
        assert both[0].severity == "warning" and "3 times the median and the paper's radius" in both[0].what


@pytest.mark.parametrize(("gamma", "fires"), [(1.0, False), (6.0, True)])
def test_batch_norm_is_part_of_a_filters_size(gamma: float, fires: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 5), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 400, 3))
    model[1].weight.data[3] = gamma
    got = found("dominating", about(model))
    assert [finding.channels for finding in got] == ([(3,)] if fires else [])


def killed(count: int) -> nn.Sequential:
    """A network whose first `count` filters never fire."""

    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:count] = -1000

    return net(edit=kill)


PLANTED = {
    "dead": Planted(lambda _: about(killed(3)), lambda _: about(killed(0))),
    "dominating": Planted(lambda _: about(scaled(4)), lambda _: about(scaled(1))),
}
