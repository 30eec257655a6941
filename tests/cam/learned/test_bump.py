"""The bump: its formula, masks and loss against a float64 replica, and what it finds in planted networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import replicas_learned as rl
import torch
from numpy.typing import NDArray
from scipy import stats
from tiny_explainers import TINY_PREPROCESS, TINY_SIZE, batch_of, lively_explainer, state_of, tiny_images, tiny_net
from tiny_explainers import values_at as value_of
from torch import Tensor

from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import LEARNED, Batch
from deconvviz.cam.learned.bump import Bump, bump_of, exponent, relaxed
from deconvviz.errors import CamError, DataError, DeconvvizError
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer

Numbers = NDArray[np.float64]


def replica(abc: Numbers, size: tuple[int, int]) -> tuple[Numbers, Numbers]:
    """Centre and width, and the map."""
    place = rl.bump_place(abc, size)
    return place, rl.bump_map(place, size)


@pytest.mark.parametrize("size", [(32, 32), (10, 8)])
def test_formula_and_gradients(size: tuple[int, int]) -> None:
    """Centre, width and map; the derivative of a weighted sum of the map by finite differences of the replica."""
    rng = np.random.default_rng(1)
    abc = rng.normal(size=(4, 3)) * [9, 9, 3] + [0, 0, 2]
    numbers = torch.from_numpy(abc).requires_grad_()
    bumps = bump_of(numbers, size)
    maps = torch.exp(-exponent(bumps, size))
    weights = rng.normal(size=maps.shape)
    (gradient,) = torch.autograd.grad((maps * torch.from_numpy(weights)).sum(), numbers)
    for n in range(4):
        where, expected = replica(abc[n], size)
        np.testing.assert_allclose(bumps[n].detach(), where, rtol=1e-12)
        np.testing.assert_allclose(maps[n].detach(), expected, atol=1e-12)
        for k in range(3):
            sides = [(weights[n] * replica(abc[n] + sign * 1e-6 * np.eye(3)[k], size)[1]).sum() for sign in (1, -1)]
            assert float(gradient[n, k]) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_relaxed_masks() -> None:
    """By hand from uniform numbers; at a low temperature a pixel is on with the probability that its map says."""
    rng = np.random.default_rng(0)
    e, z = rng.uniform(0.01, 4, (2, 3, 3)), rng.normal(size=(2, 3, 3))
    u, m = stats.norm.cdf(z), np.exp(-e)
    expected = 1 / (1 + np.exp(-(np.log(m / (1 - m)) + np.log(u / (1 - u))) / 0.7))
    found = relaxed(torch.from_numpy(e), torch.from_numpy(z), 0.7).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    many = torch.full((1, 200, 200), -math.log(0.3), dtype=torch.float64)
    drawn = relaxed(many, torch.from_numpy(rng.normal(size=(1, 200, 200))), 0.01)
    assert float((drawn > 0.5).double().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 40000))
    extreme = torch.tensor([[[0.0, 1e-12, 500.0]]], requires_grad=True)  # the centre itself, and far outside
    relaxed(extreme, torch.zeros(1, 1, 3), 0.1).sum().backward()  # type: ignore[no-untyped-call]
    assert extreme.grad is not None and extreme.grad.isfinite().all()


def kl(scores: Numbers, masked: Numbers) -> float:
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    q = np.exp(masked) / np.exp(masked).sum(1, keepdims=True)
    return float((p * np.log(p / q)).sum(1).mean())


@pytest.mark.parametrize("options", [{}, {"relaxed": True}, {"fill": "mean", "power": 1.0, "area": 2.0}])
def test_loss_against_the_replica(options: dict[str, Any]) -> None:
    """KL of the network's answers to image and masked image, the mask's area and smoothness; extras and maps."""
    model, network = tiny_net()
    (_, x), classes = tiny_images(3), [2, 0, 1]
    explainer, batch = lively_explainer("bump", **options), batch_of("bump", x, classes)
    terms, right = explainer.terms(batch, "selector")
    shown = cam("bump", network, explainer=explainer)
    maps = shown(x, classes).numpy()
    numbers = explainer.selector({name: batch.values[name] for name in ("2", "4")}, torch.tensor(classes))
    masks = []
    for n, abc in enumerate(numbers.detach().numpy()):
        where, bump = replica(abc, TINY_SIZE)
        np.testing.assert_allclose(shown.extras["bump"][n], where, rtol=1e-9)
        np.testing.assert_allclose(maps[n], bump, atol=1e-9)
        masks.append(bump)
    mask = np.stack(masks)
    if options.get("relaxed"):  # the first numbers that a step of this seed draws
        noise = torch.randn((3, *TINY_SIZE), generator=torch.Generator().manual_seed(4)).double().numpy()
        u = stats.norm.cdf(noise)
        mask = 1 / (1 + np.exp(-(np.log(mask) - np.log1p(-mask) + np.log(u) - np.log1p(-u))))
    black = 0.0 if options.get("fill") else batch.black.numpy()
    images = x.numpy() * mask[:, None] + black * (1 - mask[:, None])
    with torch.no_grad():
        scores, masked = model(x).numpy(), model(torch.from_numpy(images)).numpy()
    expected = {
        "agreement": kl(scores, masked),
        "area": explainer.options["area"] * rl.area(mask, explainer.options["power"]),
        "smoothness": 0.001 * rl.total_variation(mask),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-6), name
    assert right.tolist() == (masked.argmax(1) == np.array(classes)).tolist()


def test_selector_against_the_replica() -> None:
    """Gate, first convolution, the two sizes joined, one linear map over all places."""
    model, _ = tiny_net()
    (_, x), classes, explainer = tiny_images(2), [3, 1], lively_explainer("bump")
    assert isinstance(explainer, Bump)
    values = {layer: value_of(model, x, layer) for layer in ("2", "4")}
    with torch.no_grad():
        given = {name: torch.from_numpy(value) for name, value in values.items()}
        found = explainer.selector(given, torch.tensor(classes)).numpy()
    state = state_of(explainer)
    for n, target in enumerate(classes):
        expected = rl.bump_numbers(state, [values["2"][n], values["4"][n]], target)
        np.testing.assert_allclose(found[n], expected, rtol=1e-8)


def test_the_predictor_is_a_copy_that_learns() -> None:
    """At first it answers as the network; each phase moves its own weights; the file leaves it out."""
    model, network = tiny_net()
    _, x = tiny_images(4)
    frozen = FrozenNetwork(network, ["2", "4"], TINY_PREPROCESS, "fp32")
    explainer = new_explainer("bump", frozen, {"predictor": True, "width": 4}, 0)
    assert isinstance(explainer, Bump)
    assert {key.replace("/", ".") for key in explainer.predictor} == set(dict(model.named_parameters()))
    batch = frozen.batch(x, None, torch.Generator().manual_seed(0))
    mask = torch.rand(4, *TINY_SIZE, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        expected = model(x * mask[:, None] + batch.black * (1 - mask[:, None]))
    assert torch.allclose(explainer.answers(batch, mask, learning=True), expected, atol=1e-10)
    for phase, moved in (("predictor", "predictor."), ("selector", "selector.")):
        explainer.zero_grad()
        terms, _ = explainer.terms(batch, phase)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        with_gradient = {name.split(".")[0] + "." for name, p in explainer.named_parameters() if p.grad is not None}
        assert with_gradient == {moved}
    assert all(p.grad is None for p in model.parameters())
    assert not any(name.startswith("predictor") for name in explainer.lasting_state())
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}
    with torch.no_grad():
        for value in explainer.predictor.values():
            value.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.tensors.items())
    assert [phase.name for phase in Bump.needed({"predictor": True})] == ["predictor", "selector"]
    assert [phase.name for phase in Bump.needed({})] == ["selector"]


def test_random_bumps_lie_where_the_paper_says() -> None:
    """Centres within 14 of 32 pixels of the middle, widths from 5 to 11, uniform."""
    explainer = lively_explainer("bump")
    assert isinstance(explainer, Bump)
    batch = batch_of("bump", tiny_images(1)[1].expand(4000, -1, -1, -1), None)
    drawn = explainer.drawn(batch).numpy()
    h, w = TINY_SIZE
    for values, low, high in zip(
        drawn.T,
        (2 * h / 32, 2 * w / 32, 5 * 8 / 32),
        (30 * h / 32, 30 * w / 32, 11 * 8 / 32),
        strict=True,
    ):
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-4
        assert values.min() >= low and values.max() <= high


def test_a_planted_block_is_found() -> None:
    """A network that reads only one block of each image, at a place that the maps mark: centre and width follow it."""
    size, side, rng = (32, 32), 8, np.random.default_rng(0)
    torch.manual_seed(0)
    explainer = Bump({"a": (1, 16, 16)}, 2, area=1.0, width=8)
    explainer.input_shape = (3, *size)
    corners = rng.integers(3, 32 - side - 3, (48, 2))
    maps, centres = torch.zeros(48, 1, *size), torch.from_numpy(corners + side / 2).float()
    for n, (i, j) in enumerate(corners):
        maps[n, 0, i : i + side, j : j + side] = 1.0
    values = {"a": torch.nn.functional.avg_pool2d(maps, 2)}

    def whole(images: Tensor) -> Tensor:
        left = (images[:, :1] * maps).sum((1, 2, 3)) / side**2
        return torch.stack([8 * left, 4 * torch.ones_like(left)], 1)

    x, zero = torch.ones(48, 3, *size), torch.zeros(3, 1, 1)
    classes = torch.zeros(48, dtype=torch.int64)
    noise = torch.Generator().manual_seed(0)
    batch = Batch(
        x, values, classes, classes == 0, zero, zero + 1, whole(x), whole, whole, lambda w, y: whole(y),
        lambda shape: torch.randn(shape, generator=noise),
    )  # fmt: skip
    optimiser = torch.optim.Adam(explainer.parameters(), 3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        terms, _ = explainer.terms(batch, "selector")
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        bumps = explainer.bumps(values, classes)
    apart = (bumps[:, :2] - centres).norm(dim=1)
    assert float(apart.mean()) < 1.5 and float(apart.max()) < 4, apart
    assert 3 < float(bumps[:, 2].mean()) < 8  # a block of 8 pixels


def test_bad_input() -> None:
    shapes = {"1": (4, 8, 8), "2": (4, 4, 4), "3": (4, 2, 2), "4": (4, 1, 1)}
    for options, complaint in (
        ({"area": -1.0}, "area -1.0"),
        ({"power": math.nan}, "power nan"),
        ({"width": 6}, "width 6"),
        ({"fill": "red"}, "black or mean"),
        ({"predictor": 3}, "true or false"),
        ({"relaxed": "x"}, "true or false"),
    ):
        with pytest.raises(DataError, match=complaint):
            Bump({"1": (4, 8, 8)}, 3, **options)
    with pytest.raises(CamError, match="at most three"):
        Bump(shapes, 3)
    by_hand = LEARNED["bump"]({"1": (4, 8, 8)}, 3, width=4)
    with pytest.raises(DeconvvizError, match="size of its images"):
        by_hand({"1": torch.zeros(1, 4, 8, 8)}, torch.tensor([0]))
