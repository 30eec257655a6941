"""Dead, dominating, duplicate and flipped filters are found where they are planted, and not where they are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import SIDE, about, found, net, noise_images, weights
from in_memory import noise
from torch import nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.models.zfnet import PAPER_RANGE
from deconvviz.studies.diagnosis.checks import filters as checks_filters
from deconvviz.studies.diagnosis.measures.filters import Filters

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
    assert (f"weights of {count // 2} of them" in finding.what) == (count >= 2)
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


# --- duplicates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("copies", "severity"), [(0, None), (1, "note"), (3, "warning"), (12, "serious")])
def test_copies_of_a_filter_are_found(copies: int, severity: str | None) -> None:
    def copy(model: nn.Sequential) -> None:
        for place in range(copies):
            weights(model)[5 + place] = (1 + 0.1 * place) * weights(model)[2] + 0.003 * torch.randn(3, 5, 5)

    got = found("duplicates", about(net(edit=copy)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == (2, *range(5, 5 + copies)) and np.isclose(got[0].value, copies / 20)
        pairs = copies * (copies + 1) // 2
        assert f"from 0.9): {pairs}, by" in got[0].what and f"from 0.95): {pairs}. Near" in got[0].what
        assert len(got[0].evidence.arrays["pictures"]) == min(2 * pairs, 24)


def test_the_same_weights_with_another_bias_are_duplicates_by_weights() -> None:
    def copy(model: nn.Sequential) -> None:
        weights(model)[7] = weights(model)[2]
        model[0].bias.data[7] = -0.7 * weights(model)[2].square().sum().sqrt()

    (finding,) = found("duplicates", about(net(edit=copy)))
    assert finding.channels == (2, 7) and "from 0.9): 1," in finding.what and "from 0.95): 0." in finding.what


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_a_dead_input_tell_nothing(sign: int) -> None:
    pixels = noise(40, SIDE, SIDE, seed=3)
    pixels[..., 2] = 128  # no blue: (128 / 255 - 0.5) / 0.5 is next to nothing
    torch.manual_seed(5)
    idle = 5 * torch.randn(5, 5)

    def read_blue(model: nn.Sequential) -> None:
        weights(model)[3, 2], weights(model)[9, 2] = idle, sign * idle
        if sign < 0:  # the opposite by their weights, the same by what they answer
            weights(model)[9, :2] = weights(model)[3, :2]

    subject = about(net(edit=read_blue), InMemoryImages(pixels))
    assert sign * subject.filters("1").cosines[3, 9] > 0.9
    assert not found("flipped", subject) and bool(found("duplicates", subject)) == (sign < 0)


@pytest.mark.parametrize(("grey", "fires"), [(True, True), (False, False)])
def test_other_weights_with_the_same_answers_are_duplicates_by_responses(grey: bool, fires: bool) -> None:
    pixels = noise(40, SIDE, SIDE, seed=3)
    if grey:
        pixels[:] = pixels[..., :1]

    def one_colour(model: nn.Sequential) -> None:
        pattern = torch.randn(5, 5)
        weights(model)[[3, 9]] = 0
        weights(model)[3, 0], weights(model)[9, 2] = pattern, pattern

    got = found("duplicates", about(net(edit=one_colour), InMemoryImages(pixels)))
    assert bool([f for f in got if {3, 9} <= {*f.channels}]) == fires
    if fires:
        assert "from 0.9): 0," in got[0].what and "cosine 0.00, correlation 1.00" in got[0].what


def test_directions_that_chance_brings_together_are_not_compared() -> None:
    rng = np.random.default_rng(0)
    live = np.arange(64)
    assert (checks_filters._cosines(Filters(rng.standard_normal((64, 3, 1, 1)), np.ones(64)), live) == 0).all()
    assert (checks_filters._cosines(Filters(np.ones((64, 1, 1, 1)), np.ones(64)), live) == 0).all()
    wide = checks_filters._cosines(Filters(rng.standard_normal((64, 48, 1, 1)), np.ones(64)), live)
    assert wide.any() and (np.diag(wide) == 0).all()


def test_correlations_are_those_of_the_columns() -> None:
    rows = np.random.default_rng(0).random((50, 5)).astype(np.float32)
    rows[:, 4] = 2
    got = checks_filters._correlations(rows)
    want = np.corrcoef(rows[:, :4].astype(np.float64).T) - np.eye(4)
    assert np.allclose(got[:4, :4], want) and (got[4] == 0).all()


@pytest.mark.parametrize(("pairs", "severity"), [(0, None), (1, "note"), (3, "warning"), (10, "serious")])
def test_filters_of_opposite_sign_are_found(pairs: int, severity: str | None) -> None:
    def turn(model: nn.Sequential) -> None:
        for place in range(pairs):
            weights(model)[2 * place + 1] = -2 * weights(model)[2 * place]

    subject = about(net(edit=turn))
    got = found("flipped", subject)
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == tuple(range(2 * pairs)) and np.isclose(got[0].value, pairs / 10)
    assert not found("duplicates", subject)
