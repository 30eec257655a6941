"""Filters that repeat another one, or are its negative, are found where they are planted, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from diagnosed import SIDE, Planted, about, found, net, weights
from in_memory import noise
from numpy.typing import NDArray
from torch import Tensor, nn

from deconvviz.data.memory import InMemoryImages
from deconvviz.graph.filters import Filters
from deconvviz.studies.diagnosis.checks.pairs import SAME, Alike
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
        (together,) = got[0].evidence.sets  # each filter once, however many pairs it is in
        shown = min(copies + 1, 6)
        assert together.tiles == shown == len(got[0].evidence.arrays["pictures"]) == len({*got[0].evidence.labels})
        assert "by weights and responses: cosine " in together.label
        assert ("more filter" in together.label) == (copies > 5)


def test_the_same_weights_with_another_bias_are_duplicates_by_weights() -> None:
    def copy(model: nn.Sequential) -> None:
        weights(model)[7] = weights(model)[2]
        model[0].bias.data[7] = -0.7 * weights(model)[2].square().sum().sqrt()

    (finding,) = found("duplicates", about(net(edit=copy)))
    assert finding.channels == (2, 7) and "from 0.9): 1;" in finding.what and "from 0.95): 0." in finding.what
    assert finding.evidence.sets[0].label.startswith("by weights: cosine 1.00, correlation 0.")


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


def test_sets_are_what_pairs_connect() -> None:
    """Filters 1, 2 and 3 hang together though 1 and 3 are no pair; the set of the nearest pair comes first."""
    cosines = np.eye(6) * 0
    for first, second, value in ((1, 2, 0.92), (2, 3, 0.94), (0, 5, 0.99)):
        cosines[first, second] = cosines[second, first] = value
    near = cosines >= SAME
    pairs = np.array([[0, 5], [2, 3], [1, 2]])
    alike = Alike(np.arange(6), cosines, np.full((6, 6), 0.7), near, np.zeros_like(near), pairs)
    assert alike.sets() == [[0, 5], [2, 3, 1]]
    assert alike.label([2, 3, 1]) == "by weights: cosine 0.92 to 0.94, correlation 0.70"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda tail: [nn.ReLU(), *tail], "add its weights in the next layer to those of the other"),
        (lambda tail: [nn.ReLU(), nn.Conv2d(20, 20, 3, groups=20), *tail], "remove the depthwise filter that reads it"),
        (
            lambda tail: [nn.ZeroPad2d(1), nn.Conv2d(20, 40, 3, groups=20), nn.Conv2d(40, 20, 1), *tail],
            "depthwise filter",
        ),
        (lambda tail: [Doubled(), *tail], "None can be removed by itself"),
    ],
)
def test_how_to_save_a_filter_depends_on_who_reads_it(
    model: Callable[[list[nn.Module]], list[nn.Module]], words: str
) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 20, 5)
    first.weight.data[7] = 1.1 * first.weight.data[2] + 0.005 * torch.randn(3, 5, 5)
    tail = [nn.Conv2d(20, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    got = [f for f in found("duplicates", about(nn.Sequential(first, *model(tail)))) if 7 in f.channels]
    assert words in got[0].remedy and "initialised" not in got[0].remedy


class Doubled(nn.Module):
    """Adds what a convolution makes of a value to the value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(20, 20, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


@pytest.mark.parametrize(("noise_of_copies", "said"), [(0.0, True), (0.003, False)])
def test_initialisation_is_blamed_for_equal_weights_alone(noise_of_copies: float, said: bool) -> None:
    def copy(model: nn.Sequential) -> None:
        for place in range(3):
            weights(model)[5 + place] = weights(model)[2] + noise_of_copies * torch.randn(3, 5, 5)

    (finding,) = found("duplicates", about(net(edit=copy)))
    assert ("initialised" in finding.remedy) == said


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
