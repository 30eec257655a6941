"""Dead and dominating filters are found where they are planted, and not where they are not."""

from __future__ import annotations

from collections.abc import Callable

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
    assert finding.what.startswith("1 of 20 filters is dead: it is never") == (count == 1)
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


@pytest.mark.parametrize(
    ("count", "without", "words"),
    [
        (1, 1, "Its weights are"),
        (3, 3, "The weights of all of them are"),
        (3, 1, "1 of them has"),
        (3, 2, "2 of them have"),
    ],
)
def test_dead_filters_without_weights_are_told_in_one_number(count: int, without: int, words: str) -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:count] = -1000
        weights(model)[:without] *= 1e-8

    (finding,) = found("dead", about(net(edit=kill)))
    assert f". {words} " in finding.what
    pictures, labels = finding.evidence.arrays["pictures"], finding.evidence.labels
    for place in range(count):  # no contrast of their own for what has vanished
        assert (np.abs(pictures[place].astype(int) - 128).max() <= 1) == (place < without)
        assert labels[place].startswith(f"filter {place}, RMS ") == (place < without)


def test_a_dead_filter_may_hold_a_value() -> None:
    """A rectifier passes a bias above zero on: such a filter is never zero, and always the same."""

    def hold(model: nn.Sequential) -> None:
        weights(model)[:2] = 0
        model[0].bias.data[:2] = 3

    (finding,) = found("dead", about(net(edit=hold), layers=("1",)))
    assert "never above zero" not in finding.what and "their values are constant" in finding.what
    assert "once the constant value" in finding.remedy and "costs nothing" not in finding.remedy


def separable(edit: Callable[[nn.Sequential], object] | None = None, padded: int = 1) -> nn.Sequential:
    """A convolution of 20 filters, a depthwise one that reads them, and one that reads that; of seeded weights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3),
        nn.ReLU(),
        nn.ZeroPad2d(padded),
        nn.Conv2d(20, 20, 3, groups=20),
        nn.ReLU(),
        nn.Conv2d(20, 8, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with torch.no_grad():
        for place in (0, 3):
            model[place].bias.zero_()
        if edit is not None:
            edit(model)
    return model


@pytest.mark.parametrize(("held", "cost"), [(0.0, "costs nothing"), (0.5, "once the constant value")])
def test_one_cause_is_told_once(held: float, cost: str) -> None:
    """A depthwise filter whose channel is dead is no finding of its own; one that is dead by itself is."""

    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:4] = -1000
        model[3].bias.data[:4] = held  # what the depthwise filters make of nothing
        model[3].bias.data[7] = -1000

    got = {finding.layer: finding for finding in found("dead", about(separable(kill), layers=("1", "4")))}
    assert {layer: finding.channels for layer, finding in got.items()} == {"1": (0, 1, 2, 3), "4": (7,)}
    assert "4 more are constant only because the channels that they read are dead in 1." in got["4"].what
    assert cost in got["1"].remedy and "the filters of the depthwise layer that read their channels" in got["1"].remedy
    assert "together with the channels that they read" in got["4"].remedy and "costs nothing" in got["4"].remedy
    alone = found("dead", about(separable(kill), layers=("4",)))  # of what it reads nothing is known
    assert alone[0].channels == (0, 1, 2, 3, 7)


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
        shown = got[0].evidence  # in the unit of value and threshold
        assert shown.labels[0] == "4" and np.isclose(shown.arrays["values"][0], factor)
        assert shown.mark == got[0].threshold and shown.named == (0,) and "times the median" in shown.y


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


def quiet(factor: float) -> nn.Sequential:
    """A network of two layers; filter 4 of the second has 12 times the weights, and reads a quiet channel: `factor`."""

    def edit(model: nn.Sequential) -> None:
        weights(model)[3] *= factor
        values = weights(model, 2)
        values[:] = 0.02 * torch.randn(8, 20, 3, 3)
        values[4] = 0
        values[4, 3] = 0.02 * 12 * 20**0.5

    return net(edit=edit)


@pytest.mark.parametrize(("factor", "severity"), [(1.0, "serious"), (1e-3, None)])
def test_large_weights_that_make_up_for_a_quiet_input_are_no_finding(factor: float, severity: str | None) -> None:
    got = [finding for finding in found("dominating", about(quiet(factor))) if finding.layer == "3"]
    assert [finding.severity for finding in got] == ([severity] if severity else [])


@pytest.mark.parametrize(("loud", "severity"), [(1.0, None), (1.9, "note"), (3.0, "warning"), (8.0, "serious")])
def test_the_response_grades_as_well_as_the_weights(loud: float, severity: str | None) -> None:
    """Of 20 filters, one with 12 times the weights makes loud^2 of loud^2 + 19 parts of the squared response."""
    subject = about(scaled(12))
    responses = subject.responses["1"]
    responses.squares[:] = 1
    responses.squares[4] = loud**2
    (above,) = [loud**2 / (loud**2 + 19) - 1 / 20]
    expected = [name for name, limit in (("note", 0.1), ("warning", 0.25), ("serious", 0.5)) if above >= limit]
    assert (expected[-1] if expected else None) == severity
    got = found("dominating", subject)
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert f"makes {loud**2 / (loud**2 + 19):.0%} of" in got[0].what and "is 5% of its filters" in got[0].what


def test_depthwise_filters_are_not_compared() -> None:
    def scale(model: nn.Sequential) -> None:
        model[3].weight.data[4] *= 40

    assert not found("dominating", about(separable(scale)))


def killed(count: int) -> nn.Sequential:
    """A network whose first `count` filters never fire."""

    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:count] = -1000

    return net(edit=kill)


PLANTED = {
    "dead": Planted(lambda _: about(killed(3)), lambda _: about(killed(0))),
    "dominating": Planted(lambda _: about(scaled(4)), lambda _: about(scaled(1))),
}
