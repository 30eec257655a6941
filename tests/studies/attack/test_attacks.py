"""Attacks against what is known of them: closed forms, brute force, their ball, and that batches do not matter."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from attacked import PLAIN, classifier, fewest_of_linear, images, linear, victims

import deconvviz as dv
from deconvviz.cam.adversarial import Changes, ball_around, fewest_changes, fewest_pixels, margin_of
from deconvviz.errors import DataError
from deconvviz.studies.attack.attacks import ATTACKS
from deconvviz.studies.attack.pixels import PixelNetwork, PixelScale
from deconvviz.studies.attack.registry import attack_declarations


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 1 / 255, 4 / 255, 8 / 255, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ball_is_exact(epsilon: float, dtype: torch.dtype) -> None:
    x = images(20, dtype=dtype)
    low, high = ball_around(x, epsilon)
    for end in (low, high):
        assert bool((end >= 0).all()) and bool((end <= 1).all())
        assert bool(((end.double() - x.double()).abs() <= epsilon).all())
        assert bool(((end - x).abs() <= epsilon).all())  # also as float32 subtracts
    assert bool((low <= x).all()) and bool((x <= high).all())
    room = torch.minimum(torch.tensor(epsilon, dtype=torch.float64), 1 - x.double())
    assert float((high.double() - x.double() - room).abs().max()) <= 2 * torch.finfo(dtype).eps
    outside = torch.tensor([[[[-0.5, 1.5]]]], dtype=dtype)  # floats beyond black and white may stay
    assert torch.equal(ball_around(outside, 0.0).nearest(outside), outside)


@pytest.mark.parametrize("name", list(ATTACKS))
@pytest.mark.parametrize("target", [None, 2])
def test_every_attack_keeps_to_its_ball(name: str, target: int | None) -> None:
    for epsilon in (0.0, 3 / 255, 0.2):
        v = victims(classifier(), images(), epsilon, target=target)
        changed = ATTACKS[name](v)
        assert bool(((changed.double() - v.x.double()).abs() <= epsilon).all())
        assert float(changed.min()) >= 0 and float(changed.max()) <= 1
        assert epsilon > 0 or torch.equal(changed, v.x)


def test_on_a_linear_network_the_sign_steps_have_the_closed_form() -> None:
    """x + epsilon sign(W_other - W_own) of the pixels, cut to 0..1; a target in the place of the other class."""
    model, x, epsilon = linear(), images(dtype=torch.float64), 0.05
    model = model.double()
    own = torch.tensor([0, 1, 0, 1, 0, 1])
    rows = model[1].weight.detach()
    direction = (rows[1 - own] - rows[own]).sign().view_as(x)
    expected = (x + epsilon * direction).clamp(0, 1)
    towards = victims(model, x, epsilon, own)
    assert torch.allclose(ATTACKS["fgsm"](towards), expected, atol=1e-12)
    full = {"stop": False, "steps": 12, "step": 0.3}
    for start in ("image", "uniform"):
        assert torch.allclose(ATTACKS["pgd"](towards, start=start, **full), expected, atol=1e-12)
    assert torch.allclose(ATTACKS["pgd"](towards, momentum=1.0, start="image", **full), expected, atol=1e-12)
    to_first = victims(model, x, epsilon, torch.ones(6, dtype=torch.int64), target=0)
    direction = (rows[0] - rows[1]).sign().view(1, *x.shape[1:])
    assert torch.allclose(ATTACKS["pgd"](to_first, **full), (x + epsilon * direction).clamp(0, 1), atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("classes", [2, 3])
def test_on_a_linear_network_the_fewest_pixels_are_those_of_the_largest_effect(seed: int, classes: int) -> None:
    """z = W x on 8 x 8 images: the pixels of largest |W_other - W_own|, as many as are needed."""
    model = linear(classes, 8, seed).double()
    model[1].bias.detach().zero_()
    x = 0.25 + 0.5 * torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    plain = dv.Preprocess(resize=None, crop=8, mean=(0,) * 3, std=(1,) * 3)
    v = victims(model, x, 0.2, preprocess=plain)  # no pixel reaches black or white: what counts is the weight alone
    changed = ATTACKS["sparse"](v)
    weights = model[1].weight.detach().numpy()
    for number in range(5):
        points = {*np.flatnonzero((changed[number] != x[number]).any(0).numpy()).tolist()}
        expected = fewest_of_linear(weights, x[number].numpy(), int(v.own[number]), 0.2)
        if classes == 2:
            rows = np.abs(weights[0] - weights[1]).reshape(3, -1).sum(0)
            assert expected == {*np.argsort(-rows)[: len(expected)].tolist()}
            assert points == expected
        assert len(points) == len(expected)  # of several other classes two may need as few


def test_the_points_are_enough_and_not_superfluous() -> None:
    """What is changed is m n: the pixels of the mask as the full change has them; one less by order does not do."""
    v = victims(classifier(), images(), 0.1)
    changes = fewest_changes(lambda x: v.seen(x, "margin")[:2], v.x, v.ball, v.epsilon / 2, 20, 60)
    points = fewest_pixels(v.fooled, v.x, changes, v.already)
    changed = ATTACKS["sparse"](v)
    assert torch.equal(changed - v.x, points[:, None] * (changes.full - v.x))
    assert bool(v.fooled(changed)[points.any((1, 2))].all()) and int(points.any((1, 2)).sum()) >= 5
    least = torch.where(points, changes.logits, torch.inf).flatten(1).argmin(1)
    fewer = points.flatten(1).clone()
    fewer[torch.arange(len(fewer)), least] = False
    without = torch.where(fewer.view_as(points)[:, None], changes.full, v.x)
    assert not v.fooled(without)[points.any((1, 2))].any()


def test_what_stops_and_what_needs_nothing() -> None:
    """An image that fools the network already stays as it is, and one that is fooled on the way stays there."""
    model, x = classifier(), images()
    own = PixelNetwork(dv.capture(model, tuple(x.shape[1:])), PixelScale(PLAIN)).scores(x).argmax(1)
    wrong = own.clone()
    wrong[:2] = (own[:2] + 1) % 4
    v = victims(model, x, 0.1, wrong)
    for name in ("pgd", "sparse"):
        changed = ATTACKS[name](v)
        assert torch.equal(changed[:2], x[:2]) and not torch.equal(changed[2:], x[2:])
    moved = ATTACKS["pgd"](v, stop=False)
    assert not torch.equal(moved[:2], x[:2])
    long, short = (ATTACKS["pgd"](victims(model, x, 0.1), start="image", step=0.05, steps=steps) for steps in (40, 80))
    fooled = v.fooled(long)
    assert bool(fooled[2:].any()) and torch.equal(long[2:][fooled[2:]], short[2:][fooled[2:]])


def test_the_sparse_attack_fails_where_nothing_is_enough() -> None:
    v = victims(classifier(), images(), 1e-6)
    assert torch.equal(ATTACKS["sparse"](v), v.x)


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("target", [None, 1])
def test_losses_and_their_gradients(loss: str, target: int | None) -> None:
    """By hand, and by finite differences in float64."""
    v = victims(classifier().double(), images(3, dtype=torch.float64), 0.1, target=target, loss=loss)
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0]] * 3, dtype=torch.float64)
    wanted = v.own if target is None else torch.full((3,), target)
    for number, value in enumerate(v.losses(scores, loss).tolist()):
        z, c = scores[number], int(wanted[number])
        others = max(float(z[k]) for k in range(4) if k != c)
        sign = 1 if target is None else -1
        entropy = float(z.exp().sum().log() - z[c])  # CE = log(1 + exp(odds))
        expected = others - float(z[c]) if loss == "margin" else float(np.log(np.expm1(entropy)))
        assert value == pytest.approx(sign * expected)
    seen = v.seen(v.x)
    step = torch.zeros_like(v.x)
    step[:, 1, 3, 4] = 1e-6
    slope = (v.seen(v.x + step).loss - v.seen(v.x - step).loss) / 2e-6
    assert torch.allclose(slope, seen.gradient[:, 1, 3, 4], rtol=1e-5, atol=1e-7)
    assert torch.equal(seen.fooled, v.fooled(v.x)) and torch.equal(
        margin_of(scores, wanted) > 0, scores.argmax(1) != wanted
    )


def test_an_attack_begins_where_the_probability_is_1_to_rounding() -> None:
    """The scores are 400 apart: the cross-entropy is 0 in float32, and has no gradient there."""
    model, x = linear(3), images()
    with torch.no_grad():
        model[1].weight.mul_(400)
    v = victims(model, x, 0.02)
    assert float(torch.nn.functional.cross_entropy(v.network.scores(x), v.own, reduction="none").min()) == 0
    assert bool(v.seen(x).gradient.flatten(1).any(1).all())
    exact = victims(linear(3).double(), x.double(), 0.02)  # the same network, less sure: the same two directions
    assert bool(v.fooled(ATTACKS["pgd"](v)).any()) and bool(exact.fooled(ATTACKS["pgd"](exact)).any())


def test_pixels_of_other_ranges() -> None:
    """Floats from -2 to 3, and one grey channel of colours: shares lead to the same input."""
    floats = dv.Preprocess(resize=None, crop=4, mean=(0.5, 0.1), std=(2.0, 3.0), limits=(-2.0, 3.0))
    pictures = np.random.default_rng(0).uniform(-2, 3, (2, 4, 4, 2)).astype(np.float32)
    scale = PixelScale(floats)
    shares = scale.shares(pictures)
    assert float(shares.min()) >= 0 and float(shares.max()) <= 1
    assert torch.allclose(scale.inputs(shares), floats.tensor(pictures), atol=1e-6)
    grey = dv.Preprocess(resize=None, crop=4, mean=(0.5,), std=(0.2,))
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    assert torch.equal(PixelScale(grey).inputs(PixelScale(grey).shares(colours)), grey.tensor(colours))


def test_what_is_declared_is_what_is_registered() -> None:
    declared = attack_declarations()
    assert list(declared) == list(ATTACKS)
    for name, entry in ATTACKS.items():
        assert declared[name].docstring == entry.source and dict(declared[name].defaults) == dict(entry.options)
        assert entry.epsilon == declared[name].keywords["levels"] / 255


def test_options_that_attacks_do_not_take() -> None:
    v = victims(classifier(), images(1), 0.1)
    with pytest.raises(DataError, match="fgsm has no option 'steps'; its options are: none"):
        ATTACKS["fgsm"].checked({"steps": 3})
    for name, options, complaint in (
        ("pgd", {"steps": 0}, "steps 0 given; expected a whole number of at least 1"),
        ("pgd", {"steps": "x"}, "steps 'x' given"),
        ("pgd", {"step": 3}, "step 3 given; expected a number from 0 to 2"),
        ("pgd", {"start": "x"}, "start 'x' given; expected uniform or image"),
        ("pgd", {"momentum": -1}, "momentum -1 given"),
        ("sparse", {"mask_steps": 0}, "mask_steps 0 given"),
    ):
        with pytest.raises(DataError, match=complaint):
            ATTACKS[name](v, **options)


@pytest.mark.slow
def test_the_sparse_attack_on_a_trained_network_beats_a_greedy_choice() -> None:
    """At least 90 % of the scenes are flipped, with fewer pixels than by the size of the gradient, as many steps."""
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    scenes = dv.Scenes(10, seed=7)
    network = PixelNetwork(dv.capture(loaded.model, preprocess.shape), PixelScale(preprocess))
    x = network.shares(np.stack([preprocess.picture(scenes[n][0]) for n in range(10)]))
    own = torch.from_numpy(scenes.labels.copy())
    already = network.scores(x).argmax(1) != own
    v = dataclasses.replace(victims(classifier(), images(10), 8 / 255), network=network, x=x, own=own, already=already)
    changed = ATTACKS["sparse"](v)
    ours = (changed != x).any(1).sum((1, 2)).double()
    assert float(v.fooled(changed)[~already].double().mean()) >= 0.9

    def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return v.seen(x, "margin")[:2]

    full = fewest_changes(slopes, x, v.ball, v.epsilon / 2, 20, 0).full
    by_gradient = Changes(full, v.seen(x, "margin").gradient.abs().sum(1))
    greedy = fewest_pixels(v.fooled, x, by_gradient, already).sum((1, 2)).double()
    both = (ours > 0) & (greedy > 0)
    assert int(both.sum()) >= 8 and float(ours[both].mean()) < 0.8 * float(greedy[both].mean())
