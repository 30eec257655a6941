"""Filters that are always on, tell no class, or share few directions are found, and not where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diagnosed import SIDE, Planted, about, found, net, noise_images, skipped, weights
from in_memory import noise
from torch import nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.run.responses import selectivity
from deconvviz.studies.diagnosis.checks.responses import effective_rank, eigenvalues

# --- saturated -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "severity"), [(0, None), (4, None), (5, "note"), (10, "warning"), (18, "serious")])
def test_filters_that_are_always_on_are_found(count: int, severity: str | None) -> None:
    def lift(model: nn.Sequential) -> None:
        model[0].bias.data[:count] = 50

    got = found("saturated", about(net(edit=lift), layers=("1",)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert got[0].channels == tuple(range(count)) and f"{count} fire at 99%" in got[0].what
    assert not found("saturated", about(net(edit=lift), layers=("0",)))  # before the rectifier it means nothing


def test_dead_filters_are_not_saturated() -> None:
    def kill(model: nn.Sequential) -> None:
        model[0].bias.data[:10] = -1000
        model[0].bias.data[10:16] = 50
        weights(model)[10:16] = 0  # on, but the same everywhere: dead as well

    assert not found("saturated", about(net(edit=kill)))


@pytest.mark.parametrize(("gain", "fires"), [(1.0, False), (1000.0, True)])
def test_filters_at_their_ceiling_are_found(gain: float, fires: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU6(), nn.Flatten(), nn.Linear(8 * 400, 3))
    with torch.no_grad():
        model[0].weight.mul_(gain)
        model[0].bias.fill_(0.5 * gain)  # most positions are above zero, none all the time
    got = found("saturated", about(model))
    assert bool(got) == fires
    if fires:
        assert "at their ceiling" in got[0].what and got[0].severity == "serious"
        assert got[0].remedy.endswith(" A rectifier that does not clip has no ceiling to be stuck at.")


# --- class-blind -----------------------------------------------------------------------------------------------------


def coloured(each: int) -> InMemoryImages:
    """Noise whose mean brightness in red, green and blue tells three classes."""
    pixels, labels = noise(3 * each, SIDE, SIDE, seed=3) // 4, [label for label in range(3) for _ in range(each)]
    for picture, label in zip(pixels, labels, strict=True):
        picture[..., label] += 150
    return InMemoryImages(pixels, labels, [f"class {n}" for n in range(3)])


def colour_filters(blind: int) -> Callable[[nn.Sequential], None]:
    """A second layer of 8 filters that answer to one colour each, but for some that answer to the pixels' noise."""

    def fill(model: nn.Sequential) -> None:
        weights(model)[:] = 0
        for place in range(20):  # colours are handed on, and fine noise of all three
            weights(model)[place, place % 3, 2, 2] = 1
            if place >= 12:
                weights(model)[place, :, 2, 2], weights(model)[place, :, 2, 3] = 1, -1
        weights(model, 2)[:] = 0
        model[2].bias.data[:] = 1  # the index of those that tell is small, but real
        for place in range(8):
            source = 12 + place if place < blind else place
            weights(model, 2)[place, source, 1, 1] = 1

    return fill


@pytest.mark.parametrize(("blind", "severity"), [(0, None), (2, "note"), (5, "warning")])
def test_late_filters_that_tell_no_class_are_found(blind: int, severity: str | None) -> None:
    subject = about(net(edit=colour_filters(blind)), coloured(20))
    got = found("class-blind", subject)
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:  # the first layer is blind as well, and is not asked
        assert {f.layer for f in got} == {"3"} and got[0].channels == tuple(range(blind)) and got[0].value == blind / 8


def test_a_blind_filter_is_told_with_what_it_detects() -> None:
    subject = about(net(edit=colour_filters(5)), coloured(20), concepts={"3": {1: "wheel", 7: "blue"}, "1": {2: "eye"}})
    (finding,) = found("class-blind", subject)
    assert finding.what.endswith("shuffled classes. Of them, filter 1 detects wheel.")


def test_classes_of_few_images_tell_nothing() -> None:
    subject = about(net(edit=colour_filters(5)), coloured(4))
    assert not found("class-blind", subject) and "5 images each" in skipped("class-blind", subject)
    subject = about(net(edit=colour_filters(5)))
    assert not found("class-blind", subject) and "not known" in skipped("class-blind", subject)


def test_selectivity_by_hand() -> None:
    means = np.array([[3.0, 0, 2], [1, 0, 2], [np.nan] * 3, [1, 0, 2]])
    assert selectivity(means).tolist() == [0.5, 0, 0]
    assert selectivity(np.array([[4.0], [0], [0]])).tolist() == [1]


# --- rank ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("common", "severity"), [(0.0, None), (30.0, "serious")])
def test_a_layer_of_one_direction_is_found(common: float, severity: str | None) -> None:
    def align(model: nn.Sequential) -> None:
        weights(model)[:] += common

    got = found("rank", about(net(edit=align), layers=("1",)))
    assert [finding.severity for finding in got] == ([severity] if severity else [])
    if severity:
        assert 0 <= got[0].value < 0.01 and got[0].evidence.arrays["values"][0] > 0.9


def test_images_that_are_all_alike_say_nothing_of_a_layer() -> None:
    same = InMemoryImages(np.repeat(noise_images(1)[0][0][None], 12, 0))
    assert not found("rank", about(net(), same, layers=("1",)))


def test_a_late_layer_needs_no_more_directions_than_there_are_classes() -> None:
    torch.manual_seed(0)
    outputs = {2: [], 40: ["rank"]}
    for classes, expected in outputs.items():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 5),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
        with torch.no_grad():
            model[2].weight.mul_(1e-3).add_(0.3)
        got = [f.check for f in found("rank", about(model)) if f.layer == "3"]
        assert got == expected


def test_effective_rank_equals_its_definition() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 6)) * [5, 1, 1, 0.1, 2, 0.5]
    values = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert np.allclose(eigenvalues(rows), values / values.sum())
    assert np.isclose(effective_rank(np.full(5, 0.2)), 5) and np.isclose(effective_rank(np.array([1.0, 0])), 1)
    assert np.isclose(effective_rank(np.array([0.5, 0.25, 0.25])), 2**1.5)  # entropy of 1.5 bits
    assert (eigenvalues(np.ones((3, 4))) == 0).all()


def lifted(count: int) -> nn.Sequential:
    """A network whose first `count` filters are always on."""

    def lift(model: nn.Sequential) -> None:
        model[0].bias.data[:count] = 50

    return net(edit=lift)


def aligned(common: float) -> nn.Sequential:
    """A network whose filters have a common part of this size."""

    def align(model: nn.Sequential) -> None:
        weights(model)[:] += common

    return net(edit=align)


PLANTED = {
    "saturated": Planted(lambda _: about(lifted(10), layers=("1",)), lambda _: about(lifted(0), layers=("1",))),
    "class-blind": Planted(
        lambda _: about(net(edit=colour_filters(5)), coloured(20)),
        lambda _: about(net(edit=colour_filters(0)), coloured(20)),
    ),
    "rank": Planted(lambda _: about(aligned(30), layers=("1",)), lambda _: about(aligned(0), layers=("1",))),
}
