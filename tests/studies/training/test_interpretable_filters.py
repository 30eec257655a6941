"""Interpretable filters: templates and losses by loops, planted maps, and trainings with the addition."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from courses import course_of, same_weights, small_net, step_of, trained
from torch import Tensor, nn

from deconvviz.errors import TrainingError
from deconvviz.studies.training.additions import templates
from deconvviz.studies.training.additions.base import Part
from deconvviz.studies.training.additions.branches import branches
from deconvviz.studies.training.additions.interpretable_filters import InterpretableFilters

Array = np.ndarray[Any, Any]


def coordinate(place: int, side: int) -> float:
    return -1 + 2 * place / (side - 1) if side > 1 else 0.0


def away(one: tuple[int, ...], two: tuple[int, ...], size: tuple[int, int]) -> float:
    return sum(abs(coordinate(a, n) - coordinate(b, n)) for a, b, n in zip(one, two, size, strict=True))


def template(peak: tuple[int, ...], size: tuple[int, int], slope: float) -> Array:
    out = np.zeros(size)
    for place in np.ndindex(*size):
        out[place] = max(1 - slope * away(place, peak, size), -1)
    return out


def maps_of(seed: int = 0, size: tuple[int, int] = (4, 3), images: int = 5, filters: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(images, filters, *size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("size", "slope"), [((4, 3), 2.0), ((5, 5), 1.3), ((1, 4), 4.0)])
def test_templates_by_loop(size: tuple[int, int], slope: float) -> None:
    every = templates.templates(*size, torch.zeros((), dtype=torch.float64), slope)
    for number, peak in enumerate(np.ndindex(*size)):
        assert np.abs(every[number].numpy() - template(peak, size, slope)).max() < 1e-15
    x = maps_of(size=size)
    found = templates.masked(x, slope).numpy()
    for n, k in np.ndindex(5, 3):
        one = x[n, k].numpy()
        peak = np.unravel_index(one.argmax(), size)
        expected = np.maximum(one * template(tuple(map(int, peak)), size, slope), 0)
        assert np.abs(found[n, k] - expected).max() < 1e-15


def information_by_loop(x: Array, slope: float) -> float:
    """Mean over filters of sum_T p(T) sum_X p(X|T) log(p(X|T) / p(X))."""
    images, filters, h, w = x.shape
    every = [template(peak, (h, w), slope) for peak in np.ndindex(h, w)] + [-np.ones((h, w))]
    total = 0.0
    for k in range(filters):
        given, t = [], 0.5 * x[:, k].sum() / images
        for each in every:
            weights = [math.exp((x[n, k] * each).sum() / t) for n in range(images)]
            given.append([weight / sum(weights) for weight in weights])
        for n in range(images):
            overall = sum(row[n] for row in given) / len(every)
            total += sum(row[n] * math.log(row[n] / overall) for row in given) / len(every)
    return total / filters


@pytest.mark.parametrize("scale", [1e-6, 1.0, 60.0])
def test_the_information_by_loop(scale: float) -> None:
    x = scale * maps_of()
    expected = information_by_loop(x.numpy(), 2.0)
    assert float(templates.information(x)) == pytest.approx(expected, rel=1e-9) and expected > 0


def test_the_information_of_planted_maps() -> None:
    """None where all images look alike; more where each image has a place of its own than where its maps are even."""
    alike = maps_of(images=1).expand(6, -1, -1, -1)
    assert abs(float(templates.information(alike))) < 1e-12 and templates.information(0 * maps_of()) == 0
    own = torch.zeros(2, 1, 5, 5, dtype=torch.float64)
    own[0, 0, 0, 0] = own[1, 0, 4, 4] = 1.0
    even = torch.full_like(own, 1 / 25)
    even[1] *= 0.5
    assert math.log(2) > float(templates.information(own)) > 2 * float(templates.information(even)) > 0


def losses_by_loop(x: Array, own: Array) -> tuple[float, float]:
    spreads, shares = [], []
    for k in range(x.shape[1]):
        distances: list[float] = []
        inside: list[float] = []
        outside: list[float] = []
        for n in range(len(x)):
            one = x[n, k]
            peak = tuple(map(int, np.unravel_index(one.argmax(), one.shape)))
            far = sum(one[place] * away(place, peak, one.shape) for place in np.ndindex(*one.shape))
            if own[n, k] and one.sum() > 0:
                distances.append(far / one.sum())
            (inside if own[n, k] else outside).append(one.mean())
        if distances:
            spreads.append(np.mean(distances))
        if inside and outside and np.mean(inside) + np.mean(outside) > 0:
            shares.append(np.mean(outside) / (np.mean(inside) + np.mean(outside)))
    return float(np.mean(spreads)) if spreads else 0.0, float(np.mean(shares)) if shares else 0.0


def test_spread_and_activity_elsewhere_by_loop() -> None:
    x = maps_of(images=7, filters=5)
    x[:, 3] = 0  # a dead filter
    x[2, 0] = 0
    own = torch.rand(7, 5, generator=torch.Generator().manual_seed(2)) > 0.5
    own[:, 1], own[:, 2] = True, False
    spread, elsewhere = losses_by_loop(x.numpy(), own.numpy())
    assert float(templates.own_spread(x, own)) == pytest.approx(spread, rel=1e-12) and spread > 0
    assert float(templates.activity_elsewhere(x, own)) == pytest.approx(elsewhere, rel=1e-12) and elsewhere > 0
    nobody = torch.zeros_like(own)
    assert templates.own_spread(x, nobody) == 0 == templates.activity_elsewhere(x, nobody)
    peak = torch.zeros(3, 2, 5, 5, dtype=torch.float64)
    peak[:, :, 1, 3] = 2.0
    assert templates.own_spread(peak, torch.ones(3, 2, dtype=torch.bool)) == 0


def test_gradients_against_finite_differences() -> None:
    x = (0.2 + 8 * maps_of(3)).requires_grad_()
    own = torch.arange(5)[:, None] % 2 == torch.arange(3) % 2
    for loss in (
        templates.information,
        templates.masked,
        lambda each: templates.own_spread(each, own),
        lambda each: templates.activity_elsewhere(each, own),
    ):
        assert torch.autograd.gradcheck(loss, (x,), eps=1e-6, atol=1e-8)


def part_of(labels: Tensor) -> Part:
    return Part(step=step_of(labels), start=0, stop=len(labels), x=torch.zeros(len(labels), 3, 12, 12), targets=labels)


def test_terms_are_those_of_the_rectified_layer() -> None:
    """Also the class of a filter: that in which its largest values were highest on average."""
    model, labels = small_net(), torch.tensor([0, 1, 1, 0, 1])
    x = torch.randn(5, 3, 12, 12)
    addition = InterpretableFilters(layer="3", form="spread", weight=0.5)
    addition.begin(course_of(model))
    maps = model[:4](x).relu().detach().double()
    found = addition.terms(model(x), part_of(labels))
    everyone = torch.ones(5, 8, dtype=torch.bool)
    spread = losses_by_loop(maps.numpy(), everyone.numpy())[0]
    assert float(found["distance"].detach()) == pytest.approx(0.5 * spread, rel=1e-5) and list(found) == ["distance"]
    assert addition.end_epoch(0)["spread"] == pytest.approx(spread, rel=1e-5)
    largest = maps.amax((2, 3))
    own = torch.stack([largest[labels == c].mean(0) for c in (0, 1)]).argmax(0)
    assert 0 < own.sum() < 8
    found = addition.terms(model(x), part_of(labels))
    expected = losses_by_loop(maps.numpy(), (labels[:, None] == own).numpy())
    assert [float(term.detach()) / 0.5 for term in found.values()] == pytest.approx(expected, rel=1e-5)
    addition.end()
    assert not any(module._forward_hooks for module in model.modules())


def test_the_mask_is_on_while_training_only() -> None:
    model, x = small_net(), torch.randn(4, 3, 12, 12)
    plain = model(x)
    addition = InterpretableFilters(mask=True)
    addition.begin(course_of(model))
    masked = model[5:](templates.masked(model[:4](x).relu()))
    assert torch.allclose(model(x), masked) and not torch.allclose(plain, masked)
    model.eval()
    assert torch.equal(model(x), plain)
    addition.end()


@pytest.mark.parametrize("form", ["information", "spread"])
def test_maps_that_follow_the_loss_get_one_peak(form: str) -> None:
    """Free maps instead of a network: what is learned is what the loss asks for."""
    free = maps_of(4, (5, 5), images=6).requires_grad_()
    own = torch.arange(6)[:, None] % 3 == torch.arange(3)
    optimiser = torch.optim.Adam([free], 0.02)

    def losses() -> tuple[Tensor, Tensor, Tensor]:
        maps = free.relu()
        elsewhere = templates.activity_elsewhere(maps, own)
        return templates.information(maps), templates.own_spread(maps, own), elsewhere

    before = [float(loss.detach()) for loss in losses()]
    for _ in range(100):
        information, spread, elsewhere = losses()
        (free.grad,) = torch.autograd.grad(-information if form == "information" else spread + elsewhere, free)
        optimiser.step()
    after = [float(loss.detach()) for loss in losses()]
    if form == "information":
        assert after[0] > 3 * before[0] and after[1] < 0.7 * before[1]
    else:
        assert after[1] < 0.3 * before[1] and after[2] < 0.5 * before[2] and after[1] > 0


def test_the_gradient_of_a_branch_by_loop() -> None:
    x = torch.randn(4, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    task, further = torch.randn_like(x), torch.randn_like(x)
    task[:, 1], further[:, 2], further[:, 3] = 0, 0, 1e-3 * further[:, 3]
    onwards, looked_at = branches(x, 0.5)
    assert torch.equal(onwards, x) and torch.equal(looked_at, x)
    (found,) = torch.autograd.grad((task * onwards + further * looked_at).sum(), x)
    for k in range(5):
        g, f = task[:, k].numpy().ravel(), further[:, k].numpy().ravel()
        length, longest = math.sqrt((f**2).sum()), 0.5 * math.sqrt((g**2).sum())
        expected = g + f * (longest / length if length > longest else 1)
        assert found[:, k].numpy().ravel() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(found[:, 1], task[:, 1]) and torch.equal(found[:, 2], task[:, 2])
    (alone,) = torch.autograd.grad((task * branches(x, 0.5)[0]).sum(), x)
    assert torch.equal(alone, task)


def test_a_filter_that_the_task_does_not_ask_for_is_left_alone() -> None:
    """However small its values are, which is where the loss's own gradient is largest."""
    torch.manual_seed(0)
    first, last = nn.Conv2d(3, 2, 3), nn.Linear(2 * 100, 2)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), last)
    with torch.no_grad():
        first.weight.mul_(1e-3)
        last.weight[:, 100:] = 0  # nothing of the second filter arrives
    addition = InterpretableFilters(layer="1", weight=100.0)
    addition.begin(course_of(model))
    labels = torch.tensor([0, 1, 1])
    outputs = model(torch.randn(3, 3, 12, 12))
    terms = addition.terms(outputs, part_of(labels))
    task = nn.functional.cross_entropy(outputs, labels)
    plain = torch.autograd.grad(task, first.weight, retain_graph=True)[0]
    both = torch.autograd.grad(task + terms["information"], first.weight)[0]
    assert torch.equal(both[1], torch.zeros_like(both[1])) and not torch.allclose(both[0], plain[0], rtol=0.1)
    assert float((both[0] - plain[0]).norm()) < 10 * float(plain[0].norm())


@pytest.mark.parametrize("form", ["information", "spread"])
def test_its_weight_counts(tmp_path: pathlib.Path, form: str) -> None:
    """With weight 0 it is plain training, bit for bit, and still measures the spread."""
    plain, _ = trained(tmp_path / "a.pth", [])
    off, measured = trained(tmp_path / "b.pth", [InterpretableFilters(form=form, weight=0)])
    assert same_weights(plain, off) and measured[-1]["interpretable_filters_spread"] > 0
    on, history = trained(tmp_path / "c.pth", [InterpretableFilters(form=form)])
    assert not same_weights(plain, on)
    terms = {name.removeprefix("interpretable_filters_") for name in history[-1] if name.startswith("interpretable")}
    assert terms == {"spread", *(["information"] if form == "information" else ["distance", "elsewhere"])}


def test_layers_and_options_that_do_not_fit() -> None:
    for options, complaint in (
        ({"form": "peak"}, "form"),
        ({"weight": -1}, "weight"),
        ({"at_most": math.inf}, "at most"),
    ):
        with pytest.raises(TrainingError, match=complaint):
            InterpretableFilters(**options)
    with pytest.raises(TrainingError, match="no layer '6' that gives maps"):
        InterpretableFilters(layer="6").begin(course_of(small_net()))
    flat = nn.Sequential(nn.Conv2d(3, 2, 12), nn.Flatten())
    with pytest.raises(TrainingError, match="that gives maps"):
        InterpretableFilters().begin(course_of(flat))
