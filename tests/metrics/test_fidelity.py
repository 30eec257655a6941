"""Fidelity against a loop that masks pixels by hand, closed forms of linear units, and planted units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.deconv.projection import Unit
from deconvviz.deconv.views import UnitViews
from deconvviz.errors import DataError
from deconvviz.metrics.fidelity import SHARES, Activations, Fidelity, energy, fidelity, nearest, smooth_noise

Array = NDArray[np.float64]
COUNT, COLOURS, HEIGHT, WIDTH = 5, 3, 7, 6


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views, maps with many ties, which places are pixels, and the weights of a unit each."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(COUNT, COLOURS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    maps = torch.randint(-2, 3, (COUNT, HEIGHT, WIDTH), generator=generator).double()
    seen = torch.ones(COUNT, HEIGHT, WIDTH, dtype=torch.bool)
    seen[1, :3], seen[2, :, :4], seen[3, 5:] = False, False, False
    views = views * seen[:, None]
    weights = torch.randn(COUNT, COLOURS, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    return views, maps, seen, weights


def activation(weights: Array, view: Array) -> float:
    """What the units of these tests are: neither linear nor symmetric."""
    return float(np.maximum((weights * view).sum(0), -1).sum() + 0.1 * (weights * view**2).sum())


def strongest(ranking: Array, seen: NDArray[np.bool_], share: float) -> list[tuple[int, int]]:
    """The strongest pixels in order; of equal ones the first in reading order; at least one."""
    pixels = [(y, x) for y, x in product(*map(range, ranking.shape)) if seen[y, x]]
    ordered = sorted(pixels, key=lambda place: (-ranking[place], place))
    return ordered[: max(1, round(len(pixels) * share / 100))]


def by_hand(
    views: Array, maps: Array, seen: NDArray[np.bool_], weights: Array, fill: Array, shares: Sequence[float]
) -> Array:
    """[2, N, S]: kept, left."""
    out = np.full((2, len(views), len(shares)), np.nan)
    for n, view in enumerate(views):
        whole = activation(weights[n], view)
        for s, share in enumerate(shares):
            marked = strongest(maps[n], seen[n], share)
            kept, left = view.copy(), view.copy()
            for y, x in product(range(HEIGHT), range(WIDTH)):
                if seen[n, y, x]:
                    (left if (y, x) in marked else kept)[:, y, x] = fill[n, :, y, x]
            if whole > 0:
                out[:, n, s] = activation(weights[n], kept) / whole, activation(weights[n], left) / whole
    return out


def scorer(weights: Tensor) -> tuple[list[int], Activations]:
    sizes: list[int] = []

    def score(units: Tensor, changed: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        sizes.append(len(units))
        pairs = zip(weights[units].numpy(), changed.numpy(), strict=True)
        return torch.tensor([activation(w, v) for w, v in pairs], dtype=torch.float64)

    return sizes, score


@pytest.mark.parametrize("kind", ["mean", "blur"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_against_a_loop(kind: str, batch_size: int) -> None:
    """Both sides, ties, views that are partly border, one fill for all and one for each pixel, any size of batch."""
    views, maps, seen, weights = case()
    fill = views.mean((0, 2, 3), keepdim=True) if kind == "mean" else views.roll(1, 3).roll(2, 2) / 2 + 0.3
    shares = (2.0, 12.5, 40.0, 100.0)
    sizes, score = scorer(weights)
    found = fidelity(score, views, maps, seen, fill, shares, batch_size)
    expected = by_hand(
        views.numpy(), maps.numpy(), seen.numpy(), weights.numpy(), fill.expand_as(views).numpy(), shares
    )
    assert np.allclose(found.kept, expected[0], rtol=1e-12, atol=1e-13, equal_nan=True)
    assert np.allclose(found.left, expected[1], rtol=1e-12, atol=1e-13, equal_nan=True)
    assert np.isfinite(expected).any() and found.shares == shares
    values = [activation(w, v) for w, v in zip(weights.numpy(), views.numpy(), strict=True)]
    assert np.allclose(found.activations, values, rtol=1e-12)
    assert max(sizes) <= batch_size and sum(sizes) == COUNT * (1 + 2 * len(shares))


def test_units_that_are_silent_are_not_counted() -> None:
    """An activation of zero or less has no share that could be brought back."""
    values = torch.tensor([2.0, 0.0, -1.0, 0.5]).double()
    views, seen = torch.ones(4, 1, 2, 2).double(), torch.ones(4, 2, 2, dtype=torch.bool)
    found = fidelity(
        lambda units, changed: values[units] * changed.mean((1, 2, 3)),
        views,
        torch.zeros(4, 2, 2),
        seen,
        torch.zeros(1),
        (25, 50),
    )
    assert found.counted.tolist() == [0, 3] and np.array_equal(found.activations, values.numpy())
    for curves in (found.kept, found.left):
        assert np.isnan(curves[[1, 2]]).all() and np.isfinite(curves[[0, 3]]).all()
    assert np.allclose(found.kept[[0, 3]], [[0.25, 0.5]] * 2) and np.allclose(found.left[[0, 3]], [[0.75, 0.5]] * 2)
    assert np.isnan(found.area()[[1, 2]]).all() and np.allclose(found.area()[[0, 3]], 0.375)


def test_without_the_mirror() -> None:
    """Only half of the views are scored, and `left` is NaN."""
    views, maps, seen, weights = case()
    sizes, score = scorer(weights)
    found = fidelity(score, views, maps, seen, torch.zeros(1), mirror=False)
    assert found.shares == SHARES and sum(sizes) == COUNT * (1 + len(SHARES))
    both = fidelity(score, views, maps, seen, torch.zeros(1))
    assert np.isnan(found.left).all() and np.array_equal(found.kept, both.kept, equal_nan=True)


def test_a_linear_unit_in_closed_form() -> None:
    """With w x >= 0 and zero as fill, the strongest n % of the map w x bring back their own sum, and lose it."""
    generator = torch.Generator().manual_seed(3)
    parts = torch.rand(COUNT, 10, 10, generator=generator, dtype=torch.float64) ** 4  # w x
    views = torch.rand(COUNT, 1, 10, 10, generator=generator, dtype=torch.float64) + 0.1
    weights, seen = parts / views[:, 0], torch.ones(COUNT, 10, 10, dtype=torch.bool)
    found = fidelity(
        lambda units, changed: (weights[units] * changed[:, 0]).sum((1, 2)), views, parts, seen, torch.zeros(1)
    )
    ordered = np.sort(parts.flatten(1).numpy(), 1)[:, ::-1]
    for number, share in enumerate((1, 2, 5, 10, 20)):  # of 100 pixels: as many
        expected = ordered[:, :share].sum(1) / ordered.sum(1)
        assert np.allclose(found.kept[:, number], expected, rtol=1e-12)
        assert np.allclose(found.left[:, number], 1 - expected, rtol=1e-12)
    other = fidelity(
        lambda units, changed: (weights[units] * changed[:, 0]).sum((1, 2)), views, parts.flip(1), seen, torch.zeros(1)
    )
    assert (found.kept >= other.kept).all()  # no other ranking brings back more


def planted(layer: str = "conv2d") -> tuple[dv.Network, Tensor, list[Unit]]:
    """Units with a field of 9 x 9 that read a block of 3 x 3 in it alone, rows 1 to 3 and columns 4 to 6."""
    model = nn.Conv2d(2, 1, 9, padding=2, bias=False).double()
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.weight[:, :, 1:4, 4:7] = 1
    x = torch.rand(2, 2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    return dv.capture(model, (2, 20, 20)), x, [(0, layer, 0, (5, 5)), (1, layer, 0, (8, 2)), (0, layer, 0, (2, 9))]


def test_a_planted_unit() -> None:
    """The block is brought back by 9 of 81 pixels: 1 with them and 0 without; a map of another block does neither."""
    network, x, units = planted()
    views = UnitViews(network, x, units)
    maps = torch.zeros(len(units), 9, 9)
    maps[:, 1:4, 4:7] = 1
    share = 100 * 9 / 81
    for fill, blank in ((torch.zeros(1).double(), 0.0), (-x.mean((0, 2, 3), keepdim=True), None)):
        found = fidelity(views.activations, views.pixels, maps, views.seen, fill, (share,))
        assert np.allclose(found.kept, 1, rtol=1e-12)
        other = fidelity(views.activations, views.pixels, maps.roll(4, 1), views.seen, fill, (share,))
        assert np.allclose(other.left, 1, rtol=1e-12)
        if blank is not None:
            assert np.allclose(found.left, 0, atol=1e-12) and np.allclose(other.kept, 0, atol=1e-12)
        else:
            assert (found.left < 0).all() and np.allclose(found.left, other.kept)
    gradient = views.placed(dv.project_units(network, x, units, "gradient"))
    by_rule = fidelity(views.activations, views.pixels, energy(gradient, 0), views.seen, torch.zeros(1), (share,))
    assert np.allclose(by_rule.kept, 1) and np.allclose(by_rule.left, 0, atol=1e-12)


def test_what_is_not_image_is_neither_ranked_nor_changed() -> None:
    """At a corner the places beyond the border stay zero, though their maps are the strongest."""
    network, x, _ = planted()
    views = UnitViews(network, x, [(0, "conv2d", 0, (0, 0)), (1, "conv2d", 0, (15, 15))])
    assert views.seen.flatten(1).sum(1).tolist() == [49, 49]
    maps = torch.where(views.seen, torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(1)), 9.0)
    changed: list[Tensor] = []

    def activations(numbers: Tensor, pixels: Tensor) -> Tensor:
        changed.append(pixels)
        return views.activations(numbers, pixels)

    found = fidelity(activations, views.pixels, maps, views.seen, torch.full((1,), 7.0).double(), (100 / 49, 100))
    for pixels in changed[1:]:
        everyone = pixels.reshape(2, 2, 2, 9, 9)  # unit, share, colour
        assert (everyone.movedim(2, -1)[~views.seen[:, None].expand(2, 2, 9, 9)] == 0).all()
    first = (changed[1].reshape(2, 2, 2, 9, 9)[:, 0] != 7).all(1) & views.seen
    assert first.flatten(1).sum(1).tolist() == [1, 1]  # 1 of 49 pixels is kept, none of 81 - 49
    assert np.allclose(found.kept[:, 1], 1)


def test_an_area_by_hand() -> None:
    """Trapezoids between shares that stand unevenly: (1 + 3) / 2 of 1, and (3 + 5) / 2 of 3, over 4."""
    curves = np.array([[1.0, 3.0, 5.0], [0.0, 0.0, 8.0]])
    found = Fidelity(shares=(1, 2, 5), kept=curves, left=curves[::-1], activations=np.ones(2))
    assert found.area().tolist() == [(2 * 1 + 4 * 3) / 4, 4 * 3 / 4]
    assert found.area(mirror=True).tolist() == found.area()[::-1].tolist()
    single = Fidelity(shares=(5,), kept=curves[:, :1], left=curves[:, 1:2], activations=np.ones(2))
    assert single.area().tolist() == [1.0, 0.0] and single.area(mirror=True).tolist() == [3.0, 0.0]


def test_what_does_not_fit_is_refused() -> None:
    views, maps, seen, weights = case()
    _, score = scorer(weights)
    good: dict[str, Any] = {"views": views, "maps": maps, "seen": seen, "fill": torch.zeros(1)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"maps": maps[:, 1:]}, "maps"),
        ({"seen": seen[:2]}, "seen"),
        ({"maps": maps.clone().fill_(torch.nan)}, "finite"),
        ({"maps": torch.full_like(maps, torch.inf)}, "finite"),
        *(({"shares": shares}, "shares") for shares in ((), (0,), (5, 5), (9, 2), (50, 101), (-1, 2))),
    ]
    for wrong, message in cases:
        with pytest.raises(DataError, match=message):
            fidelity(score, **{**good, **wrong})


# --- what ranks the pixels ---


def test_energy_by_hand() -> None:
    """Squares summed over colours, then a Gaussian that loses what leaves the border."""
    projections = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(2))
    found = energy(projections, 1.5).numpy()
    squares = (projections.double().numpy() ** 2).sum(1)
    assert np.allclose(energy(projections, 0).numpy(), squares, rtol=1e-14) and found.dtype == np.float64
    reach = int(4 * 1.5 + 0.5)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 1.5) ** 2)
    bell /= bell.sum()
    expected = np.zeros_like(squares)
    for n, y, x, v, u in product(range(2), range(9), range(8), range(9), range(8)):
        if abs(y - v) <= reach and abs(x - u) <= reach:
            expected[n, y, x] += bell[y - v + reach] * bell[x - u + reach] * squares[n, v, u]
    assert np.allclose(found, expected, rtol=1e-12)


def test_nearest_by_hand() -> None:
    """Minus the distance to each unit's centre, which may lie between pixels."""
    centres = torch.tensor([[0.0, 0.0], [2.5, 1.0], [9.0, -3.0]])
    found = nearest(torch.zeros(3, 4, 5, dtype=torch.bool), centres)
    for n, y, x in product(range(3), range(4), range(5)):
        expected = -(((y - float(centres[n, 0])) ** 2 + (x - float(centres[n, 1])) ** 2) ** 0.5)
        assert float(found[n, y, x]) == pytest.approx(expected, rel=1e-12)


def test_smooth_noise() -> None:
    """White noise of a seed, a map each, blurred: neighbours are alike, far pixels are not, the maps differ."""
    seen = torch.ones(40, 40, 40, dtype=torch.bool)
    found = smooth_noise(seen, 2.0).numpy()
    white = np.random.default_rng(0).standard_normal((40, 40, 40))
    assert np.allclose(smooth_noise(seen, 0.0).numpy(), white)
    assert np.array_equal(found, smooth_noise(seen, 2.0, seed=0).numpy())
    assert not np.array_equal(found, smooth_noise(seen, 2.0, seed=1).numpy())

    def alike(first: Array, second: Array) -> float:
        return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])

    assert alike(found[:, 1:], found[:, :-1]) == pytest.approx(np.exp(-1 / 16), abs=0.02)  # exp(-d^2 / 4 sigma^2)
    assert alike(found[:, :, 4:], found[:, :, :-4]) == pytest.approx(np.exp(-1), abs=0.05)
    assert abs(alike(found[:, 20:], found[:, :-20])) < 0.05 and abs(alike(found[1:], found[:-1])) < 0.05


def test_the_nearest_pixels_bring_back_a_gaussian_unit() -> None:
    """A unit whose weights fall with the distance: the nearest n % are the strongest, noise brings back less."""
    model = nn.Conv2d(1, 1, 11, bias=False).double()
    bell = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 8)
    with torch.no_grad():
        model.weight[:] = bell[:, None] * bell
    network, x = dv.capture(model, (1, 21, 21)), torch.ones(1, 1, 21, 21).double()
    views = UnitViews(network, x, [(0, "conv2d", 0, (3, 4)), (0, "conv2d", 0, (9, 0))])
    control = nearest(views.seen, views.centres())
    near = fidelity(views.activations, views.pixels, control, views.seen, torch.zeros(1))
    weights = model.weight[0].detach().expand(2, 11, 11)
    best = fidelity(views.activations, views.pixels, weights, views.seen, torch.zeros(1))
    chance = fidelity(views.activations, views.pixels, smooth_noise(views.seen, 1.0), views.seen, torch.zeros(1))
    assert np.allclose(near.kept, best.kept, rtol=1e-12) and (near.kept > chance.kept).all()
