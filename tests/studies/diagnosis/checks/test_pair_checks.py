"""Filters that repeat another one, or are its negative, are found where they are planted, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diagnosed import SIDE, Planted, about, found, net, weights
from in_memory import noise
from numpy.typing import NDArray
from torch import nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.graph.filters import Filters
from deconvviz.studies.diagnosis.checks.pairs import SAME
from deconvviz.studies.diagnosis.measures.similarity import comparable_cosines, filter_cosines

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
        assert f"from 0.9): {pairs}; pairs" in got[0].what and f"from 0.95): {pairs}. The near" in got[0].what
        assert len(got[0].evidence.arrays["pictures"]) == min(2 * pairs, 24)


def test_the_same_weights_with_another_bias_are_duplicates_by_weights() -> None:
    def copy(model: nn.Sequential) -> None:
        weights(model)[7] = weights(model)[2]
        model[0].bias.data[7] = -0.7 * weights(model)[2].square().sum().sqrt()

    (finding,) = found("duplicates", about(net(edit=copy)))
    assert finding.channels == (2, 7) and "from 0.9): 1;" in finding.what and "from 0.95): 0." in finding.what


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
    filters = subject.filters("1")
    assert filters is not None and sign * filter_cosines(filters)[3, 9] > 0.9
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
        assert "from 0.9): 0;" in got[0].what and "cosine 0.00, correlation 1.00" in got[0].what


def test_directions_that_chance_brings_together_are_not_compared() -> None:
    rng = np.random.default_rng(0)

    def cosines(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return comparable_cosines(Filters(weights=values, scale=np.ones(64)), np.arange(64), SAME)

    assert (cosines(rng.standard_normal((64, 3, 1, 1))) == 0).all()
    assert (cosines(np.ones((64, 1, 1, 1))) == 0).all()
    wide = cosines(rng.standard_normal((64, 48, 1, 1)))
    assert wide.any() and (np.diag(wide) == 0).all()


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


def paired(sign: float) -> nn.Sequential:
    """A network of which filter 7 has the weights of filter 2, times `sign`; with 0 they are not alike."""

    def pair(model: nn.Sequential) -> None:
        if sign:
            weights(model)[[5, 7]] = sign * weights(model)[[1, 2]]

    return net(edit=pair)


PLANTED = {
    "duplicates": Planted(lambda _: about(paired(1)), lambda _: about(paired(0))),
    "flipped": Planted(lambda _: about(paired(-1)), lambda _: about(paired(0))),
}
