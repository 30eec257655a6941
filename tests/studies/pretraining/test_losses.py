"""The losses against loops in float64, their gradients against finite differences, and planted cases."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from deconvviz.errors import DataError, DeconvvizError
from deconvviz.studies.pretraining.losses import barlow_twins, nt_xent, sinkhorn, swapped_prediction
from deconvviz.studies.pretraining.objectives import OBJECTIVES, Objective, SwAV, make_objective

Array = NDArray[np.float64]


def drawn(count: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return a, a + 0.5 * torch.randn(count, width, generator=generator, dtype=torch.float64)


# --- replicas, by loops over images


def cosine(a: Array, b: Array) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt((a * a).sum()) / math.sqrt((b * b).sum()))


def replica_nt_xent(a: Array, b: Array, temperature: float) -> float:
    z, n = [*a, *b], len(a)
    total = 0.0
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        others = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(2 * n) if k != i)
        total -= math.log(math.exp(cosine(z[i], z[partner]) / temperature) / others)
    return total / (2 * n)


def replica_barlow_twins(a: Array, b: Array, weight: float) -> float:
    n, width = a.shape
    total = 0.0
    for i in range(width):
        for j in range(width):
            x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
            x, y = x / math.sqrt((x * x).mean() + 1e-5), y / math.sqrt((y * y).mean() + 1e-5)
            c = sum(p * q for p, q in zip(x, y, strict=True)) / n
            total += (1 - c) ** 2 if i == j else weight * c**2
    return total


def replica_sinkhorn(scores: Array, epsilon: float, rounds: int) -> Array:
    n, count = scores.shape
    q = np.exp(scores / epsilon)
    for _ in range(rounds):
        for k in range(count):
            q[:, k] /= q[:, k].sum() * count
        for i in range(n):
            q[i] /= q[i].sum()
    return q


def replica_swapped_prediction(a: Array, b: Array, temperature: float, epsilon: float, rounds: int) -> float:
    total = 0.0
    for coded, predicted in ((a, b), (b, a)):
        codes = replica_sinkhorn(coded, epsilon, rounds)
        for i in range(len(a)):
            shares = [math.exp(s / temperature) for s in predicted[i]]
            total -= sum(codes[i, k] * math.log(share / sum(shares)) for k, share in enumerate(shares))
    return total / 2 / len(a)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Array, Array], float]]] = {
    "nt-xent": (lambda a, b: nt_xent(a, b, 0.5), lambda a, b: replica_nt_xent(a, b, 0.5)),
    "nt-xent, sharp": (lambda a, b: nt_xent(a, b, 0.1), lambda a, b: replica_nt_xent(a, b, 0.1)),
    "barlow-twins": (
        lambda a, b: torch.stack(barlow_twins(a, b, 0.005)).sum(),
        lambda a, b: replica_barlow_twins(a, b, 0.005),
    ),
    "swav": (
        lambda a, b: swapped_prediction(a, b, 0.3, 0.4, 3),
        lambda a, b: replica_swapped_prediction(a, b, 0.3, 0.4, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("count", "width"), [(2, 3), (7, 5)])
def test_against_loops(name: str, count: int, width: int) -> None:
    ours, replica = CASES[name]
    a, b = drawn(count, width)
    assert float(ours(a, b)) == pytest.approx(replica(a.numpy(), b.numpy()), rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_gradients_against_finite_differences(name: str) -> None:
    """Of the swapped prediction the codes are constants: their gradient is stopped, and the replica's too."""
    a, b = (each.requires_grad_() for each in drawn(5, 4))
    if name != "swav":
        assert torch.autograd.gradcheck(CASES[name][0], (a, b))
        return
    codes = [torch.tensor(replica_sinkhorn(each.detach().numpy(), 0.4, 3)) for each in (a, b)]

    def with_constant_codes(a: Tensor, b: Tensor) -> Tensor:
        logarithms = [torch.log(torch.exp(each / 0.3) / torch.exp(each / 0.3).sum(1, keepdim=True)) for each in (a, b)]
        return -((codes[0] * logarithms[1]).sum() + (codes[1] * logarithms[0]).sum()) / 2 / len(a)

    assert torch.autograd.gradcheck(with_constant_codes, (a, b))
    expected = torch.autograd.grad(with_constant_codes(a, b), (a, b))
    for one, other in zip(torch.autograd.grad(CASES[name][0](a, b), (a, b)), expected, strict=True):
        assert torch.allclose(one, other)


# --- planted cases


@given(st.integers(2, 30), st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_codes_sum_to_one_and_prototypes_are_used_alike(count: int, prototypes: int, seed: int) -> None:
    scores = torch.randn(count, prototypes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    codes = sinkhorn(scores, 0.5, 3)
    assert torch.allclose(codes.sum(1), torch.ones(count, dtype=torch.float64)) and float(codes.min()) >= 0
    shares = sinkhorn(scores, 0.5, 200).mean(0)
    assert torch.allclose(shares, torch.full_like(shares, 1 / prototypes), rtol=1e-3)


def test_codes_of_scores_that_would_overflow() -> None:
    codes = sinkhorn(torch.tensor([[900.0, -900.0], [800.0, 700.0]]), 0.05, 3)
    assert torch.equal(codes, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # each prototype takes one of two images


def test_identical_views_with_confident_codes_give_a_small_loss() -> None:
    scores = torch.eye(4).repeat(3, 1)
    alike = swapped_prediction(scores, scores, 0.1, 0.05, 3)
    crossed = swapped_prediction(scores, scores.roll(1, 1), 0.1, 0.05, 3)
    assert float(alike) == pytest.approx(math.log(1 + 3 * math.exp(-10)), abs=1e-5) and float(crossed) > 9


def test_losses_at_their_ends() -> None:
    """Equal views of unlike images are the lowest, equal embeddings of all images are log(2 N - 1)."""
    unlike = torch.eye(6)
    assert float(nt_xent(unlike, unlike, 0.05)) < 1e-6
    assert float(nt_xent(torch.ones(6, 3), torch.ones(6, 3), 0.5)) == pytest.approx(math.log(11))
    agreement, redundancy = barlow_twins(torch.randn(50, 1).repeat(1, 4), torch.randn(50, 1).repeat(1, 4), 1.0)
    assert float(redundancy) == pytest.approx(3 * (4 - 0) * float(redundancy) / 12) and float(agreement) > 0
    one = torch.randn(50, 1)
    agreement, redundancy = barlow_twins(one.repeat(1, 4), one.repeat(1, 4), 1.0)
    assert float(agreement) < 1e-6 and float(redundancy) == pytest.approx(12, rel=1e-3)  # 4 x 4 - 4 correlations of 1


# --- objectives


def test_the_objectives_are_those_of_the_command() -> None:
    from deconvviz.choices import OBJECTIVE_NAMES

    assert tuple(OBJECTIVES) == OBJECTIVE_NAMES


@pytest.mark.parametrize("name", [*OBJECTIVES])
def test_an_objective_learns_what_its_loss_says(name: str) -> None:
    small = {"hidden": 16, "out": 8} | ({"prototypes": 5, "freeze": 0} if name == "swav" else {})
    objective = make_objective(name, 6, small, seed=1)
    a, b = (each.float() for each in drawn(20, 6))
    optimiser = torch.optim.Adam(objective.parameters(), 0.01)
    losses = []
    for step in range(60):
        loss = torch.stack([*objective.terms(objective.projector(a), objective.projector(b)).values()]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        objective.before_update(step)
        optimiser.step()
        objective.after_update()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_prototypes_are_frozen_at_first_and_of_length_one() -> None:
    objective = make_objective("swav", 6, {"prototypes": 5, "freeze": 2})
    assert isinstance(objective, SwAV)
    optimiser = torch.optim.Adam(objective.parameters(), 0.1)
    before = objective.prototypes.detach().clone()
    for step in range(3):
        optimiser.zero_grad()
        torch.stack(
            [*objective.terms(*(objective.projector(each.float()) for each in drawn(8, 6))).values()]
        ).sum().backward()  # type: ignore[no-untyped-call]
        objective.before_update(step)
        optimiser.step()
        objective.after_update()
        moved = not torch.allclose(objective.prototypes, before, atol=1e-6)
        assert moved == (step == 2)
    assert torch.allclose(objective.prototypes.norm(dim=1), torch.ones(5))


def test_earlier_projections_share_the_prototypes() -> None:
    """Codes are those of queue and batch together, by the replica; the queue works once it is full, latest first."""
    objective = make_objective("swav", 6, {"prototypes": 5, "queue": 7, "hidden": 4, "out": 3})
    assert isinstance(objective, SwAV)
    kept: list[list[Tensor]] = [[], []]
    for step in range(5):
        views = [each.float()[:, :3] for each in drawn(4, 6, seed=step)]
        found = float(objective.terms(*views)["prediction"].detach())
        objective.terms(*(10 * each for each in views))  # masked maps, which do not enter the queue
        queues = [torch.cat([view, *old])[: 4 + 7] for view, old in zip(views, kept, strict=True)]
        unit = [each / each.norm(dim=1, keepdim=True) for each in queues]
        scores = [(each @ objective.prototypes.detach().T).double().numpy() for each in unit]
        if step < 2:  # 4 and 8 projections, of which 7 are kept: full before the third step
            scores = [each[:4] for each in scores]
        expected = 0.0
        for coded, predicted in ((0, 1), (1, 0)):
            codes = replica_sinkhorn(scores[coded], 0.05, 3)[:4]
            shares = np.exp(scores[predicted][:4] / 0.1)
            expected -= float((codes * np.log(shares / shares.sum(1, keepdims=True))).sum(1).mean()) / 2
        assert found == pytest.approx(expected, rel=1e-4)
        objective.after_update()
        kept = [[view, *old] for view, old in zip(views, kept, strict=True)]
    again = make_objective("swav", 6, {"prototypes": 5, "queue": 7, "hidden": 4, "out": 3}, seed=9)
    again.load_state_dict(objective.state_dict())
    assert isinstance(again, SwAV) and int(again.queued) == 7 and torch.equal(again.queue, objective.queue)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("simclr", {"prototypes": 3}, "objective simclr does not have; its options are: temperature=0.5"),
        ("simclr", {"temperature": "hot"}, "temperature='hot' given; expected a number"),
        ("simclr", {"temperature": -1.0}, "temperature -1.0 given; expected a positive number"),
        ("swav", {"prototypes": 1.5}, "expected a whole number"),
        ("swav", {"prototypes": True}, "expected a whole number"),
        ("swav", {"queue": -1}, "queue -1 given; expected 0 or more"),
        ("barlow-twins", {"out": 1}, "out 1 given; expected 2 or more"),
    ],
)
def test_wrong_options(name: str, options: dict[str, object], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        make_objective(name, 6, options)
    with pytest.raises(DeconvvizError, match="no objective named 'simclar'; nearest: simclr"):
        make_objective("simclar", 6, {})
    assert issubclass(OBJECTIVES[name], Objective)
