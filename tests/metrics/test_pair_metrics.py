"""Metrics of pairs against loops over the definition, and cases worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deconvviz.errors import DataError
from deconvviz.metrics.curves import gaussian_blur
from deconvviz.metrics.pairs import pair_change, pair_deletion, pair_insertion, pair_max_sensitivity

SIZE = (6, 5)
Pair = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def embed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 12, 7)).double().eval()


def pair(seed: int, channels: int = 3) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(2, channels, *SIZE, dtype=torch.float64, generator=generator) for _ in range(2))
    return first, second


def maps_of(seed: int) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(2, *SIZE, dtype=torch.float64, generator=generator) for _ in range(2))
    return first, second


def z(embed: nn.Module, x: Any) -> Any:
    with torch.no_grad():
        return embed(torch.as_tensor(x)[None])[0].numpy()


def cosine(a: Any, b: Any) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def areas(embed: nn.Module, starts: list[Any], ends: list[Any], whole: list[Any], maps: list[Any], steps: int) -> Any:
    """The two areas of one pair: pixels of `ends` replace those of `starts` one by one."""
    changed = [start.copy() for start in starts]
    curves: tuple[list[float], list[float]] = ([], [])
    orders = [np.argsort(-each.ravel(), kind="stable") for each in maps]
    done = 0
    for step in range(steps + 1):
        stop = round(step * maps[0].size / steps)
        for image in (0, 1):
            for pixel in orders[image][done:stop]:
                row, column = divmod(int(pixel), SIZE[1])
                changed[image][:, row, column] = ends[image][:, row, column]
        done = stop
        now, before = [z(embed, image) for image in changed], [z(embed, image) for image in whole]
        curves[0].append(cosine(*now))
        curves[1].append((cosine(now[0], before[1]) + cosine(before[0], now[1])) / 2)
    return [sum((p + q) / 2 for p, q in pairwise(c)) / steps for c in curves]


@pytest.mark.parametrize("steps", [4, 30])
def test_deletion_and_insertion_by_loops(embed: nn.Module, steps: int) -> None:
    x, maps, fill = pair(1), maps_of(2), torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    deleted = pair_deletion(embed, x, maps, steps, fill, batch_size=5).areas
    inserted = pair_insertion(embed, x, maps, steps, batch_size=7).areas
    blurred = [gaussian_blur(each).numpy() for each in x]
    for number in range(2):
        whole, one = [each[number].numpy() for each in x], [each[number].numpy() for each in maps]
        blank = [np.broadcast_to(fill.numpy()[:, None, None], whole[0].shape)] * 2
        expected = areas(embed, whole, blank, whole, one, steps)
        np.testing.assert_allclose([float(each[number]) for each in deleted], expected, rtol=1e-9)
        expected = areas(embed, [each[number] for each in blurred], whole, whole, one, steps)
        np.testing.assert_allclose([float(each[number]) for each in inserted], expected, rtol=1e-9)


def test_drop_and_increase_by_their_definition(embed: nn.Module) -> None:
    x, maps = pair(3), maps_of(4)
    change = pair_change(embed, x, maps, 0.2, batch_size=1)
    for number in range(2):
        masked = [each[number] * m[number] + 0.2 * (1 - m[number]) for each, m in zip(x, maps, strict=True)]
        before, after = [z(embed, each[number]) for each in x], [z(embed, each) for each in masked]
        s = cosine(*before)
        left = [cosine(*after), cosine(after[0], before[1]), cosine(before[0], after[1])]
        if s > 0:
            drops = [max(0.0, s - each) / s for each in left]
            assert float(change.drop_simultaneous[number]) == pytest.approx(drops[0])
            assert float(change.drop_conditional[number]) == pytest.approx((drops[1] + drops[2]) / 2)
        else:
            assert bool(change.drop_simultaneous[number].isnan())
        assert float(change.increase_simultaneous[number]) == (left[0] > s)
        assert float(change.increase_conditional[number]) == ((left[1] > s) + (left[2] > s)) / 2


def test_a_pair_that_is_not_alike_has_no_drop() -> None:
    x = torch.ones(1, 1, *SIZE)
    change = pair_change(lambda images: images.flatten(1), (x, -x), (maps_of(1)[0][:1].float(),) * 2)
    assert bool(change.drop_simultaneous.isnan().all()) and bool(change.drop_conditional.isnan().all())


def test_max_sensitivity_of_maps_that_are_known() -> None:
    """Maps that are the images themselves change by the noise; maps that do not follow the images do not change."""
    x = pair(5, channels=1)

    def explain(a: Tensor, b: Tensor) -> Pair:
        return a[:, 0], x[1][:, 0]

    measured = pair_max_sensitivity(explain, x, explain(*x), draws=4, radius=0.5, seed=3)
    generator = torch.Generator().manual_seed(3)
    largest = np.zeros(2)
    for _ in range(4):
        noise = 2 * torch.rand(1, *SIZE, generator=generator).double().numpy() - 1
        for number in range(2):
            image = x[0][number].numpy()
            change = np.linalg.norm(0.5 * image.std(ddof=1) * noise) / np.linalg.norm(image)
            largest[number] = max(largest[number], change)
    np.testing.assert_allclose(measured.numpy(), largest / 2, rtol=1e-9)  # the second map never changes
    still = pair_max_sensitivity(lambda a, b: (x[0][:, 0], x[1][:, 0]), x, explain(*x))
    assert still.tolist() == [0, 0]
    nothing = (torch.zeros(2, *SIZE), torch.zeros(2, *SIZE))
    assert bool(pair_max_sensitivity(lambda a, b: nothing, x, nothing).isnan().all())


def test_bad_input_is_refused(embed: nn.Module) -> None:
    x, maps = pair(1), maps_of(2)
    for call in (
        lambda: pair_deletion(embed, (x[0], x[1][:1]), maps),
        lambda: pair_deletion(embed, x, (maps[0][:, :3], maps[1])),
        lambda: pair_deletion(embed, x, maps, steps=31),
        lambda: pair_insertion(embed, x, (maps[0] * torch.nan, maps[1])),
        lambda: pair_change(embed, x, (maps[0] * 2, maps[1])),
        lambda: pair_change(lambda images: images, x, maps),
        lambda: pair_max_sensitivity(lambda a, b: maps, x, maps, draws=0),
    ):
        with pytest.raises(DataError):
            call()
