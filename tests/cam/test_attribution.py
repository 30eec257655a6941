"""What attribution methods promise: sums, closed forms of linear networks, exact Shapley values, planted blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.methods.surrogates import coalitions, shapley_values
from deconvviz.cam.superpixels import superpixels
from deconvviz.errors import CamError, DataError, DeconvvizError

SIDE = 12


class Mixed(nn.Module):
    """BatchNorm, SiLU, a gate, a sum, LayerNorm, a softmax of products: no op is left out by the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.SiLU()
        self.gate, self.rows, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.act(self.norm(self.conv(x)))
        maps = maps * self.gate(maps.mean((2, 3))).sigmoid()[:, :, None, None] + maps
        tokens = nn.functional.max_pool2d(maps, 2).flatten(2).transpose(1, 2)
        tokens = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.head(self.rows(tokens).mean(1))


def captured(model: nn.Module) -> dv.Network:
    return dv.capture(model.double().eval(), (3, SIDE, SIDE))


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def mixed() -> dv.Network:
    torch.manual_seed(1)
    model = Mixed()
    nn.init.uniform_(model.norm.running_mean, -1, 1)  # type: ignore[arg-type]
    return captured(model)


@pytest.fixture(scope="module")
def linear() -> tuple[dv.Network, Tensor]:
    """A network that is linear, and the weights [4, 3, H, W] with which it reads the pixels."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(125, 4))
    network = captured(model)
    zero, units = torch.zeros(1, 3, SIDE, SIDE), torch.eye(3 * SIDE**2).reshape(-1, 3, SIDE, SIDE)
    with torch.no_grad():
        weights = (model(units.double()) - model(zero.double())).T.reshape(4, 3, SIDE, SIDE)
    return network, weights


@pytest.mark.parametrize("baseline", [0.0, "blur"])
@pytest.mark.parametrize(("name", "within"), [("integrated-gradients", 1e-2), ("deeplift", 1e-6)])
def test_the_map_adds_up_to_the_difference(mixed: dv.Network, name: str, within: float, baseline: Any) -> None:
    from deconvviz.cam.shaping import gaussian_blur
    from deconvviz.lengths import STRONG_BLUR

    x = images()
    start = gaussian_blur(x, *STRONG_BLUR.of(SIDE, SIDE)) if baseline == "blur" else torch.zeros_like(x)
    explainer = dv.cam(name, mixed, baseline=baseline)
    total = explainer(x, [1, 3], raw=True).sum((1, 2))
    expected = (mixed(x) - mixed(start))[[0, 1], [1, 3]]
    assert expected.abs().min() > 1e-3 and (total - expected).abs().max() < within * expected.abs().max()
    assert torch.allclose(explainer.extras["unexplained"], expected - total, atol=1e-12)


def test_full_gradients_add_up_to_the_score() -> None:
    """Of a network with BatchNorm, ReLU6 and a mean; the implicit bias of ReLU6 is part of the sum."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 5, 3), nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(80, 4),
    )  # fmt: skip
    for tensor, values in ((model[1].running_mean, 0.5), (model[1].weight, 6.0)):
        assert isinstance(tensor, Tensor)
        nn.init.constant_(tensor, values)
    explainer, x = dv.cam("full-grad", captured(model)), images()
    explainer(x, 2)
    assert model[:2](x).max() > 6 and explainer.extras["unexplained"].abs().max() < 1e-10


def test_linear_networks_have_closed_forms(linear: tuple[dv.Network, Tensor]) -> None:
    """Every attribution of a linear network is (x - b) w; KernelSHAP's and LIME's are sums of it over superpixels."""
    network, weights = linear
    x = images(1)
    options: dict[str, Any] = {"segments": 6, "compactness": 1000.0, "fill": 0.3}
    parts = superpixels(x, 6, 1000.0)
    share = ((x - 0.3) * weights[2]).sum(1)
    for name in ("integrated-gradients", "deeplift"):
        assert torch.allclose(dv.cam(name, network, baseline=0.3)(x, 2, raw=True), share)

    def logit(output: Tensor) -> Tensor:
        return output[:, 2]

    sums = torch.stack([share[parts.labels == label].sum() for label in range(parts.counts[0])])
    assert len(sums) > 3
    shap = dv.cam("kernel-shap", network, samples=60, **options)(x, logit, raw=True)
    lime = dv.cam("lime", network, samples=60, alpha=0, **options)(x, logit, raw=True)
    for found in (shap, lime):
        assert torch.allclose(found, sums[parts.labels])


def test_excitation_is_a_probability(mixed: dv.Network) -> None:
    """Without negative values nothing is lost on the way: it adds up to 1 at every layer."""
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    network = captured(model)
    for layer in ("1", "2", "5"):
        found = dv.cam("excitation-backprop", network, layer)(images(), [0, 3], raw=True)
        assert found.min() >= 0 and torch.allclose(found.sum((1, 2)), torch.ones(2).double())


def test_no_is_the_opposite_of_yes() -> None:
    """Of a single output: what excites "no" is what excites the output with the classifier's weights negated."""
    torch.manual_seed(4)
    body = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    one, two = nn.Sequential(*body, nn.Linear(6, 1)).double(), nn.Sequential(*body, nn.Linear(6, 2)).double()
    weight = one.state_dict()["4.weight"]
    two.load_state_dict({**two.state_dict(), "4.weight": torch.cat([weight, -weight])})
    for name in ("excitation-backprop", "contrastive-excitation-backprop"):
        maps = [dv.cam(name, captured(model), "1")(images(), [0, 1], raw=True) for model in (one, two)]
        assert torch.allclose(maps[0], maps[1]) and maps[0].max() > 0


def test_drawn_coalitions_come_near_the_exact_values() -> None:
    """A game whose values are known: gains of pairs, which the two players share."""
    weights = torch.tensor([3.0, -1.0, 0.5, 0.0, 2.0, 0.0, 1.0, -2.0, 0.0, 0.0, 0.0, 1.0]).double()

    def game(rows: Tensor) -> Tensor:
        return rows @ weights + 4 * rows[:, 0] * rows[:, 3]

    exact = weights + torch.tensor([2.0, 0, 0, 2.0, *[0] * 8])
    total = float(game(torch.ones(1, 12).double()))
    for samples, within in ((4094, 1e-9), (600, 0.15)):
        rows, kernel = coalitions(12, samples, seed=1)
        assert len(rows) == samples and int(rows.sum(1).min()) > 0 and int(rows.sum(1).max()) < 12
        found = shapley_values(rows, game(rows), kernel, total)
        assert (found - exact).abs().max() < within and float(found.sum()) == pytest.approx(total)


@pytest.mark.parametrize("name", ["lime", "kernel-shap", "extremal-perturbation", "mask"])
def test_the_same_seed_gives_the_same_map(linear: tuple[dv.Network, Tensor], name: str) -> None:
    few: dict[str, Any] = {"steps": 3}
    if name in ("lime", "kernel-shap"):
        few = {"segments": 20, "samples": 40, "compactness": 1000.0}
    maps = [dv.cam(name, linear[0], seed=seed, **few)(images(1), 1, raw=True) for seed in (1, 1, 2)]
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2]) == (name in ("extremal-perturbation", "mask"))  # these draw nothing


class Planted(nn.Module):
    """Scores how bright one block is: the mean of its pixels less the mean of all, sharply."""

    block = (slice(None), slice(None), slice(4, 12), slice(14, 22))

    def forward(self, x: Tensor) -> Tensor:
        inside = x[:, :, 4:12, 14:22].mean((1, 2, 3))
        return torch.stack([6 * inside, 0 * inside], 1)


@pytest.fixture(scope="module")
def planted() -> tuple[dv.Network, Tensor, np.ndarray[Any, Any]]:
    """A network that reads one block, an image of texture whose blur is dark there, and the block's mask."""
    pattern = torch.where((torch.arange(28)[:, None] + torch.arange(28)) % 2 == 0, 1.0, -1.0)
    x = 0.2 * pattern.expand(1, 3, 28, 28).clone()
    inside = np.zeros((28, 28), bool)
    inside[4:12, 14:22] = True
    x[Planted.block] = 1.0
    return dv.capture(Planted(), (3, 28, 28)), x, inside


def test_mask_finds_what_is_read(planted: tuple[dv.Network, Tensor, np.ndarray[Any, Any]]) -> None:
    network, x, inside = planted
    found = dv.cam("mask", network, steps=80, cells=14, blur=(27, 10.0))(x, 0, raw=True)[0].numpy()
    assert found[5:11, 15:21].mean() > 0.6 > 3 * found[~inside].mean()


@pytest.mark.slow
@pytest.mark.parametrize("area", [0.08, 0.2])
def test_extremal_holds_the_area_and_finds_what_is_read(
    planted: tuple[dv.Network, Tensor, np.ndarray[Any, Any]], area: float
) -> None:
    network, x, inside = planted
    options: dict[str, Any] = {"steps": 400, "area": area, "step": 2, "sigma": 3, "blur": 8}
    found = dv.cam("extremal-perturbation", network, **options)(x, 0, raw=True)[0].numpy()
    assert abs(float((found > 0.5).mean()) - area) < 0.03
    energy = found[inside].sum() / found.sum()
    assert energy > 4 * inside.mean()


def test_what_bad_input_gets(linear: tuple[dv.Network, Tensor]) -> None:
    network, x = linear[0], images(1)
    wrong: list[tuple[type[DeconvvizError], str, Any]] = [
        (DataError, "steps 0 given; expected a whole number of at least 1", ("integrated-gradients", {"steps": 0})),
        (DataError, "steps 'x' given", ("mask", {"steps": "x"})),
        (DataError, "samples 1.5 given", ("lime", {"samples": 1.5})),
        (DataError, "segments 0 given", ("kernel-shap", {"segments": 0})),
        (DataError, "area 2 given; expected a number from 0.001 to 0.999", ("extremal-perturbation", {"area": 2})),
        (DataError, "game 'x' given; expected one of preserve", ("extremal-perturbation", {"game": "x"})),
        (DataError, "pixels 'x' given", ("lrp-gamma", {"pixels": "x"})),
        (DataError, "alpha 0.5 given", ("lrp-alpha-beta", {"alpha": 0.5})),
        (DataError, "fill 'x' given", ("lime", {"fill": "x"})),
        (DataError, "fill 'x' given", ("deeplift", {"baseline": "x"})),
    ]
    for kind, complaint, (name, options) in wrong:
        with pytest.raises(kind, match=complaint):
            dv.cam(name, network, **options)(x, 1)
    with pytest.raises(CamError, match="is not captured"):
        dv.cam("full-grad", nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 2)).double())(x, 1)
    with pytest.raises(CamError, match="take grad-cam"):
        dv.cam("finer-cam", network, "0")(x, lambda output: output[:, 0])


def test_models_that_are_not_captured(linear: tuple[dv.Network, Tensor]) -> None:
    """Methods that need gradients of the image, or scores alone, run through hooks too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    network, x = captured(model), images(1)
    few: dict[str, dict[str, Any]] = {
        "integrated-gradients": {"steps": 4},
        "mask": {"steps": 3},
        "lime": {"samples": 9},
    }
    for name, options in few.items():
        by_hooks = dv.cam(name, model, **options)(x, 1, raw=True)
        assert torch.allclose(by_hooks, dv.cam(name, network, **options)(x, 1, raw=True), atol=1e-9), name


def test_the_gradient_is_exact_through_contrast_normalisation() -> None:
    """Central differences of the class's score, pixel by pixel."""
    torch.manual_seed(3)
    norm = nn.LocalResponseNorm(3, alpha=3.0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), norm, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(125, 4))
    network, x, step = captured(model), images(1), 1e-6
    moved = step * torch.eye(3 * SIDE**2, dtype=torch.float64).reshape(-1, 3, SIDE, SIDE)
    with torch.no_grad():
        slopes = ((model(x + moved) - model(x - moved))[:, 1] / (2 * step)).reshape(3, SIDE, SIDE)
    expected = {
        "gradient": slopes.abs().amax(0),
        "squared-gradient": slopes.square().sum(0),
        "gradient-x-input": (slopes * x[0]).sum(0),
    }
    for name, values in expected.items():
        assert torch.allclose(dv.cam(name, network)(x, 1, raw=True)[0], values, atol=1e-8), name
    one = dv.cam("smoothgrad", network, samples=1, noise=0.0)(x, 1, raw=True)[0]
    assert torch.allclose(one, expected["gradient"], atol=1e-8)


@pytest.mark.parametrize("name", ["lrp-epsilon", "lrp-zplus", "lrp-gamma", "lrp-alpha-beta", "lrp-composite"])
def test_relevance_does_not_depend_on_how_a_linear_map_is_written(name: str) -> None:
    """A convolution with a BatchNorm behind it, and one that was folded by hand."""
    torch.manual_seed(4)
    conv, norm, folded = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(3, 5, 3)
    for values, low in ((norm.running_mean, -1), (norm.running_var, 0.5), (norm.weight, -1), (norm.bias, -1)):
        assert values is not None
        nn.init.uniform_(values, low, 2)
    with torch.no_grad():
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        folded.weight.copy_(conv.weight * factor[:, None, None, None])
        folded.bias.copy_((conv.bias - norm.running_mean) * factor + norm.bias)
    rest = nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    split, whole = (captured(nn.Sequential(*begin, *rest)) for begin in ((conv, norm), (folded,)))
    maps = [dv.cam(name, network)(images(), 1, raw=True) for network in (split, whole)]
    assert torch.allclose(maps[0], maps[1], atol=1e-9) and maps[0].abs().max() > 1e-4
