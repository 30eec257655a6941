"""The criterion of explanations: gates, their cost, the loss at its ends, and a planted branch that decides nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from tiny_explainers import TINY_PREPROCESS, TINY_SIZE, lively_explainer
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.learned.bump import Bump
from deconvviz.data.feed import Feed
from deconvviz.data.memory import InMemoryImages
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import CamError, DataError
from deconvviz.graph.channels import channel_groups
from deconvviz.graph.choose import last_maps
from deconvviz.run.options import RunOptions
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer
from deconvviz.studies.pruning.criteria import CRITERIA
from deconvviz.studies.pruning.criteria.explanations import CostShare, Gates
from deconvviz.studies.pruning.subject import PruningSubject


class Branches(nn.Module):
    """One branch sees the whole image, the other its corner; `mixed` and all that follows read the first one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.corner = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm, self.mixed = nn.BatchNorm2d(6), nn.Conv2d(12, 5, 1)
        self.head = nn.Linear(5, 4)
        mask = torch.zeros(1, 1, *TINY_SIZE)
        mask[..., :3, :3] = 1
        self.register_buffer("mask", mask)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
        with torch.no_grad():
            self.corner.weight.mul_(10)  # what a criterion of size keeps
            self.mixed.weight[:, 6:] = 0
            self.mixed.weight[:, :6].mul_(3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.norm(self.seen(x)).relu(), self.corner(x * self.mask).relu()], 1)
        return self.head(self.mixed(both).relu().mean((2, 3)))


def network(seed: int = 0) -> dv.Network:
    torch.manual_seed(seed)
    return dv.capture(Branches().double().eval(), (3, *TINY_SIZE))


def subject(net: dv.Network, kept: int = 6, count: int = 24, **run: Any) -> PruningSubject:
    rng = np.random.default_rng(3)
    images = InMemoryImages([rng.integers(0, 256, (*TINY_SIZE, 3), np.uint8) for _ in range(count)])
    options = RunOptions(progress=False, batch_size=8, workers=1, **run)
    return PruningSubject(
        network=net,
        groups=channel_groups(net),
        chosen={"seen": kept, "corner": kept},
        feed=Feed(images, TINY_PREPROCESS, workers=1),
        run=options,
    )


def bump(net: dv.Network) -> Bump:
    """A bump that reads `mixed`, with weights that make its numbers lively."""
    explainer = new_explainer("bump", FrozenNetwork(net, ["mixed"], TINY_PREPROCESS, "fp32"), {"width": 4}, 0)
    assert isinstance(explainer, Bump)
    with torch.no_grad():
        for parameter in explainer.parameters():
            parameter.mul_(3)
    return explainer


def test_cost_by_hand() -> None:
    """3 x 9 products for a filter of the branches, 12 x 5 where both are read, 5 x 4 at the end; 80 places."""
    net = network()
    share = CostShare(net, channel_groups(net))
    whole = 80 * (2 * 6 * 27 + 12 * 5) + 20
    gates = {"seen": torch.tensor([[1.0] * 6, [1, 0, 0, 1, 0, 0]]), "corner": torch.tensor([[1.0] * 6, [1] * 5 + [0]])}
    found = share(gates).double()
    assert found[0] == 1
    assert float(found[1]) == pytest.approx((80 * ((2 + 5) * 27 + (2 + 5) * 5) + 20) / whole, rel=1e-6)
    assert float(share({"mixed": torch.tensor([[1.0, 0, 0, 0, 0]])})) == pytest.approx(
        (80 * (2 * 6 * 27 + 12) + 4) / whole
    )


def test_all_gates_open() -> None:
    """r is 1 exactly and the numbers are those stored; with a gate closed that counts, they are not."""
    net = network()
    given = subject(net)
    gates = Gates(given, bump(net), 0.5)
    places, x = next(given.batches())
    whole = gates._whole(places, x)
    ones = {name: torch.ones(8, 6, dtype=torch.float64) for name in ("seen", "corner")}
    terms = gates.of_gates(ones, places, x, whole, answers=1.0)
    assert terms["match"] == 0 and terms["answers"] == pytest.approx(0, abs=1e-12)
    assert terms["cost"].item() == np.log(2.0)
    corner_closed = {**ones, "corner": torch.zeros(8, 6, dtype=torch.float64)}
    terms = gates.of_gates(corner_closed, places, x, whole)
    assert terms["match"].item() < 1e-20  # 80 places of half of both layers, and 20 products at the end
    assert terms["cost"].item() == pytest.approx(np.log(2 * (80 * 192 + 20) / (80 * 384 + 20)))
    closed = {**ones, "seen": torch.zeros(8, 6, dtype=torch.float64)}
    assert gates.of_gates(closed, places, x, whole)["match"].item() > 1e-3


def test_gates_are_unbiased() -> None:
    """They are 0 or 1, open as often as sigmoid(theta) says, and their gradient is that of the relaxed gate."""
    net = network()
    gates = Gates(subject(net), bump(net), 0.5)
    theta = torch.tensor([-3.0, -1, 0, 0.5, 1, 3], dtype=torch.float64)
    with torch.no_grad():
        gates.theta["seen"].copy_(theta)
    drawn = gates.drawn(20000, torch.Generator().manual_seed(0))["seen"]
    assert {round(value, 9) for value in drawn.detach().flatten().tolist()} == {0.0, 1.0}
    chance = theta.sigmoid()
    assert ((drawn.detach().mean(0) - chance).abs() < 4 * (chance * (1 - chance) / 20000).sqrt()).all()
    one = gates.drawn(1, torch.Generator().manual_seed(5))["seen"]
    (gradient,) = torch.autograd.grad(one.sum(), gates.theta["seen"])
    noise = torch.logit(torch.rand((1, 6), generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    soft = torch.sigmoid((theta + noise) / 0.4)
    assert torch.allclose(gradient, soft * (1 - soft) / 0.4)


def test_a_branch_that_decides_nothing_goes() -> None:
    """`explanations` closes the gates of the corner and no other; `l1` would keep it, as its weights are large."""
    net = network()
    given = subject(net)
    scores = CRITERIA["explanations"](given, explainer=bump(net), steps=120, rate=0.15, cost=0.55)
    assert (scores["corner"] < 0).all() and (scores["seen"] > 0).sum() >= 5, scores
    sizes = CRITERIA["l1"](given)
    assert sizes["corner"].min() > sizes["seen"].max()
    again = CRITERIA["explanations"](given, explainer=bump(net), steps=2)
    same = CRITERIA["explanations"](given, explainer=bump(net), steps=2)
    other = CRITERIA["explanations"](subject(net, seed=1), explainer=bump(net), steps=2)
    assert (again["seen"] == same["seen"]).all() and (again["seen"] != other["seen"]).any()


def test_bad_input() -> None:
    net = network()
    for options, complaint in (
        ({}, "train-cam bump"),
        ({"cost": 0.0}, "cost 0.0"),
        ({"steps": 0}, "steps 0"),
        ({"rate": -1.0}, "rate -1.0"),
        ({"match": -1.0}, "match -1.0"),
        ({"cost": "half"}, "cost half"),
        ({"rate": "fast"}, "rate fast"),
        ({"answers": "yes"}, "answers yes"),
    ):
        with pytest.raises(DataError, match=complaint):
            CRITERIA["explanations"](subject(net), **options)
    with pytest.raises(CamError, match="of the method l-cam-fm"):
        CRITERIA["explanations"](subject(net), explainer=lively_explainer("l-cam-fm"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "squeezenet1_0", "mobilenet_v2"])
def test_on_networks_that_are_used(name: str) -> None:
    """Joins, BatchNorm, depthwise convolutions and residual sums: all gates open is the network, and gates learn."""
    torch.manual_seed(0)
    model = dv.load_model("demo").model if name == "demo" else torchvision.models.get_model(name)
    net = dv.capture(model.eval(), (3, 64, 64))
    preprocess = Preprocess(None, 64, (0.5,) * 3, (0.25,) * 3)
    explainer = new_explainer("bump", FrozenNetwork(net, [last_maps(net)], preprocess, "fp32"), {"width": 4}, 0)
    assert isinstance(explainer, Bump)
    groups = channel_groups(net)
    given = PruningSubject(
        network=net,
        groups=groups,
        chosen={layer: max(groups.groups[layer].units // 2, 1) for layer in groups.prunable},
        feed=Feed(dv.Scenes(4, size=64), preprocess, workers=1),
        run=RunOptions(progress=False, batch_size=4, workers=1),
    )
    gates = Gates(given, explainer, 0.5)
    places, x = next(given.batches())
    whole = gates._whole(places, x)
    ones = {layer: torch.ones(4, units) for layer, units in gates.gated.groups.items()}
    terms = gates.of_gates(ones, places, x, whole)
    assert terms["match"].item() < 1e-8 and terms["cost"].item() == pytest.approx(np.log(2.0), rel=1e-6)
    scores = CRITERIA["explanations"](given, explainer=explainer, steps=2)
    assert set(scores) == set(groups.prunable)
    assert all((values != 3).all() for layer, values in scores.items() if groups.groups[layer].convolution)
