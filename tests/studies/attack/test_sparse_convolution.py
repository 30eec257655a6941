"""The attack whose mask is a convolution: a replica with torch's own layer and optimiser, and what is known of it."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from attacked import classifier, fewest_of_linear, images, linear, victims
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.errors import DataError
from deconvviz.studies.attack import mask_convolution
from deconvviz.studies.attack.attacks import ATTACKS, sparse_convolution
from deconvviz.studies.attack.mask_convolution import MaskConvolution
from deconvviz.studies.attack.result import AttackStudy
from deconvviz.studies.attack.running import AttackRun
from deconvviz.studies.attack.victims import Victims

ATTACK = ATTACKS["sparse-convolution"]
PREPROCESS = dv.Preprocess(resize=None, crop=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def entropy_of(v: Victims, image: Tensor, own: int) -> Tensor:
    """The cross-entropy of one image [C, H, W]."""
    return functional.cross_entropy(v.network.scores(image[None]), torch.tensor([own]))


class Replica:
    """One image, from the definition: a convolution of torch, as large as the image, and torch's SGD.

    Attributes:
        masks: s of each step, [H, W].
        changes: n of each step, [C, H, W].
        points: what was tried, bool [H, W].
        gains: L of each step.
    """

    def __init__(self, v: Victims, place: int) -> None:
        self.v, self.x, self.own, self.eps = v, v.x[place], int(v.own[place]), v.epsilon
        channels, height, width = self.x.shape
        self.noise = v.draw([place], (channels, height, width), 0)[0]
        weights = v.draw([place], (height * width, channels * height * width + 1), 1)[0]
        self.weights = weights / math.sqrt(channels * height * width)
        self.masks, self.changes, self.points = list[Tensor](), list[Tensor](), list[Tensor]()
        self.gains = list[float]()

    def inside(self, image: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(image, self.x - self.eps), self.x + self.eps).clamp(0, 1)

    def start(self, steps: int) -> Tensor:
        image, momentum = self.inside(self.x + self.eps * self.noise), torch.zeros_like(self.x)
        for _ in range(steps):
            leaf = image.clone().requires_grad_()
            (slope,) = torch.autograd.grad(entropy_of(self.v, leaf, self.own), leaf)
            momentum = 0.9 * momentum + slope / slope.abs().sum()
            image = self.inside(image + self.eps / 2 * momentum.sign())
        return image - self.x

    def search(self, change: Tensor, steps: int, crowding: float) -> None:
        channels, height, width = self.x.shape
        layer = nn.Conv2d(channels, height * width, (height, width)).double()
        layer.weight.data = self.weights[:, :-1].reshape(layer.weight.shape).clone()
        layer.bias.data = self.weights[:, -1].clone()
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        hardest = entropy_of(self.v, self.x + change, self.own).detach()
        alpha, momentum = 0.1, torch.zeros_like(self.x)
        for step in range(steps):
            leaf = change.clone().requires_grad_()
            values = layer(leaf[None]).view(height, width)
            mask = torch.sigmoid(alpha * values)
            gain = 1 - entropy_of(self.v, self.x + mask * leaf, self.own) / hardest
            self.gains.append(gain.item())
            gain = 0.05 * gain if gain < 0 else gain
            crowded = 1 + crowding * (mask > 0.5).double().mean().item()
            loss = gain + crowded * mask.mean()
            slope, *slopes = torch.autograd.grad(loss, [leaf, *layer.parameters()])
            for parameter, each in zip(layer.parameters(), slopes, strict=True):
                parameter.grad = each
            self.masks.append(values.detach()), self.changes.append(change)
            momentum = 0.9 * momentum + slope / slope.abs().sum()
            optimiser.step()
            change = self.inside(self.x + change - self.eps / 2 * momentum.sign()) - self.x
            alpha_step = 99.9 / (steps - 1)
            if step >= steps - steps // 6:
                with torch.no_grad():
                    self.points.append(layer(change[None]).view(height, width) > 0)
                crisp = ((mask < 0.01) | (mask > 0.99)).double().mean()
                alpha_step *= 10 if crisp < 0.99 else 1
            alpha += alpha_step


@pytest.mark.parametrize(("crowding", "steps"), [(10.0, 5), (1.0, 1)])
def test_every_step_is_that_of_the_definition(monkeypatch: pytest.MonkeyPatch, crowding: float, steps: int) -> None:
    """In float64, image by image, with the gradient of the whole convolution: the same to 1e-9 in each of 36 steps."""
    v = victims(classifier().double(), images(4, dtype=torch.float64), 0.1)
    masks, changes, points = list[Tensor](), list[Tensor](), list[Tensor]()
    call, tried = MaskConvolution.__call__, sparse_convolution._tried

    def seen(self: MaskConvolution, change: Tensor) -> Tensor:
        masks.append(call(self, change)), changes.append(change)
        return masks[-1]

    def asked(v: Victims, best: Any, chosen: Tensor, full: Tensor) -> Any:
        points.append(chosen)
        return tried(v, best, chosen, full)

    monkeypatch.setattr(MaskConvolution, "__call__", seen)
    monkeypatch.setattr(sparse_convolution, "_tried", asked)
    monkeypatch.setattr(sparse_convolution, "CROWDING", (crowding,))
    ATTACK(v, steps=steps, mask_steps=36)
    assert len(masks) == 37 and len(points) == 6
    beyond = False
    for place in range(4):
        replica = Replica(v, place)
        replica.search(replica.start(steps), 36, crowding)
        beyond |= min(replica.gains) < 0
        for ours, theirs in ((masks[:-1], replica.masks), (changes[:-1], replica.changes)):
            both = torch.stack([each[place] for each in ours]), torch.stack(theirs)
            assert torch.allclose(*both, rtol=0, atol=1e-9), float((both[0] - both[1]).abs().max())
        assert torch.equal(torch.stack([each[place] for each in points]), torch.stack(replica.points))
        assert float(replica.changes[0].abs().max()) > 0.02 and float(replica.masks[-1].std()) > 1e-3
    assert beyond == (steps == 1)  # the search finds what fools more than its start


def test_what_is_changed_is_the_mask_times_the_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that was tried and fools, the fewest pixels, as they are kept; nothing goes farther than epsilon."""
    v, tried, taken = victims(classifier(), images(), 0.2), sparse_convolution._tried, list[Tensor]()

    def asked(v: Victims, best: Any, chosen: Tensor, full: Tensor) -> Any:
        taken.append(v.kept(v.x + chosen[:, None] * (full - v.x)))
        return tried(v, best, chosen, full)

    monkeypatch.setattr(sparse_convolution, "_tried", asked)
    monkeypatch.setattr(sparse_convolution, "CROWDING", (10.0,))
    changed = ATTACK(v)
    assert len(taken) == 60
    for place in range(len(v.x)):
        count = (changed[place] != v.x[place]).any(0).sum()
        wins = [image[place] for image in taken if v.fooled(image)[place]]
        least = min([int((image != v.x[place]).any(0).sum()) for image in wins], default=0)
        assert int(count) == least and (not wins or any(torch.equal(changed[place], image) for image in wins))
    assert int(v.fooled(changed).sum()) >= 4
    assert float((changed.double() - v.x.double()).abs().max()) <= 0.2
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_on_a_linear_network_the_pixels_are_those_of_the_largest_effect(seed: int) -> None:
    """z = W x on 8 x 8 images, sure of its classes: nine in ten are among as many of largest |W_other - W_own|.

    They are more than by brute force: the loss trades the cross-entropy for pixels, and goes on beyond the class.
    """
    model = linear(2, 8, seed).double()
    model[1].bias.detach().zero_()
    model[1].weight.detach().mul_(30)
    x = 0.25 + 0.5 * torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    v = victims(model, x, 0.2, preprocess=dv.Preprocess(resize=None, crop=8, mean=(0,) * 3, std=(1,) * 3))
    changed = ATTACK(v)
    weights = model[1].weight.detach().numpy()
    effect = np.abs(weights[0] - weights[1]).reshape(3, -1).sum(0)
    right = total = 0
    for place in range(5):
        points = {*np.flatnonzero((changed[place] != x[place]).any(0).numpy()).tolist()}
        assert len(points) >= len(fewest_of_linear(weights, x[place].numpy(), int(v.own[place]), 0.2)) > 0
        assert len(points) <= 32
        right += len(points & {*np.argsort(-effect)[: len(points)].tolist()})
        total += len(points)
    assert right >= 0.9 * total
    assert bool(v.fooled(changed).all())


def test_a_second_try_is_of_those_alone_that_the_first_fails_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of many points falls; what has points keeps them, what was fooled already is left alone."""
    own = victims(classifier(), images(), 0.1).own.clone()
    own[0] = (own[0] + 1) % 4
    v, search, asked = victims(classifier(), images(), 0.1, own), sparse_convolution.fewest_points, list[Any]()

    def recorded(part: Victims, full: Tensor, steps: int, crowding: float) -> Any:
        asked.append((part, crowding, search(part, full, steps, crowding)))
        return asked[-1][2]

    monkeypatch.setattr(sparse_convolution, "fewest_points", recorded)
    changed = ATTACK(v)
    (first, ten, found), *second = asked
    assert ten == 10 and torch.equal(first.x, v.x[1:]) and torch.equal(changed[0], v.x[0])
    missing = found.cost.isinf()
    assert torch.equal(changed[1:][~missing], found.image[~missing]) and bool((~missing).any())
    assert len(second) == int(missing.any())
    for part, crowding, _ in second:
        assert crowding == 1 and torch.equal(part.x, v.x[1:][missing])
        rows = 1 + torch.nonzero(missing)[:, 0]
        assert torch.equal(part.noise, v.noise[rows])


def test_groups_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images at once as fit into a number of numbers; in float64 one by one is all together."""
    v = victims(classifier().double(), images(dtype=torch.float64), 0.1)
    together = ATTACK(v, mask_steps=60)
    monkeypatch.setattr(mask_convolution, "MOST_NUMBERS", 1)
    assert mask_convolution.together((3, 12, 12), 60) == 1
    assert torch.equal(ATTACK(v, mask_steps=60), together)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("target", [None, 1])
def test_the_cross_entropy(kind: str, target: int | None) -> None:
    """-log p of the own class, or -log(1 - p) of the target, from the probabilities themselves."""
    layers: dict[str, list[nn.Module]] = {"softmax": [], "sigmoid": [nn.Sigmoid()], "probabilities": [nn.Softmax(1)]}
    v = victims(
        nn.Sequential(classifier(), *layers[kind]).double().eval(), images(dtype=torch.float64), 0.1, target=target
    )
    scores = v.network.scores(v.x)
    shares = v.network.probabilities(scores)[range(6), v.own if target is None else [target] * 6]
    expected = -shares.log() if target is None else -(1 - shares).log()
    assert torch.allclose(v.entropy(scores), expected, rtol=1e-9)


def attack(out: pathlib.Path | None = None, **given: Any) -> AttackStudy:
    rng = np.random.default_rng(0)
    pictures = dv.InMemoryImages(rng.integers(0, 256, (7, 12, 12, 3), np.uint8))
    about: dict[str, Any] = {"preprocess": PREPROCESS, "away_from": "top", "progress": False, "batch_size": 2}
    about |= {"epsilons": [0.1], "method_options": {"steps": 10, "mask_steps": 60}, "commit_every": 1, **given}
    return dv.attack(dv.capture(classifier(), (3, 12, 12)), pictures, "sparse-convolution", out, **about)


def test_batches_interruptions_and_seeds(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image draws the same numbers in every batch; what was interrupted ends as what was not, bit for bit."""
    straight, alone = attack(), attack(batch_size=1)
    assert np.array_equal(straight.pixels, alone.pixels) and np.mean(straight.noise != alone.noise) < 0.01
    assert straight.success[0] > 0.5 and not np.array_equal(attack(seed=1).noise, straight.noise)
    original, calls = AttackRun.attacked, list[int]()

    def stopping(self: Any, x: Any, first: int, study: AttackStudy) -> Any:
        calls.append(first)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, x, first, study)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AttackRun, "attacked", stopping)
        attack(tmp_path / "a.h5")
    assert AttackStudy.load(tmp_path / "a.h5").done == 4
    ended = attack(tmp_path / "a.h5")
    for name in ("noise", "pixels", "after", "length"):
        assert np.array_equal(getattr(ended, name), getattr(straight, name)), name


def test_images_that_are_too_large_are_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a file is written: 115 px are the most, as the weights are counted."""
    side = mask_convolution.largest_side(3)
    assert 3 * side**4 + side**2 <= 2**29 < 3 * (side + 1) ** 4 + (side + 1) ** 2
    mask_convolution.require_room((3, side, side))
    monkeypatch.setattr(mask_convolution, "MOST_NUMBERS", 3 * 11**4 + 11**2)
    message = "sparse-convolution has 62,352 weights for an image of 12 x 12 px, .* of up to 11 x 11 px; take sparse"
    with pytest.raises(DataError, match=message):
        attack(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
    for options in ({"steps": 0}, {"mask_steps": 0}):
        with pytest.raises(DataError, match="steps 0 given; expected a whole number of at least 1"):
            ATTACK(victims(classifier(), images(1), 0.1), **options)
