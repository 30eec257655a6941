"""Batches that do not fit are halved, for good, and the results are those of whole ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deconvviz.errors import CaptureError
from deconvviz.halving import AtOnce, gradients_in_parts, out_of_memory


def limited(most: int, sizes: list[int]) -> Any:
    def compute(start: int, stop: int) -> list[int]:
        sizes.append(stop - start)
        if stop - start > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return list(range(start, stop))

    return compute


def test_halved_for_good_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    at_once, sizes = AtOnce(32, "images"), list[int]()
    numbers = [n for part in at_once.parts(45, limited(5, sizes)) for n in part]
    assert numbers == list(range(45))
    assert sizes == [32, 16, 8, *[4] * 11, 1] and at_once.size == 4
    assert [n for part in at_once.parts(8, limited(5, sizes)) for n in part] == list(range(8))
    assert sizes[-2:] == [4, 4]
    assert capsys.readouterr().err.count("out of memory: continuing with batches of 4") == 1


def test_one_item_that_does_not_fit_and_other_errors() -> None:
    with pytest.raises(CaptureError, match="one masked image does not fit in memory; take a smaller one"):
        list(AtOnce(4, "masked images", "take a smaller one").parts(4, limited(0, [])))

    def broken(start: int, stop: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        list(AtOnce(4).parts(4, broken))
    assert out_of_memory(MemoryError()) and out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not out_of_memory(RuntimeError("index out of range"))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_gradients_in_parts_are_those_of_the_batch() -> None:
    whole, halved = model(), model()
    halved[3].bias.requires_grad_(False)
    halved[1].weight.grad = torch.ones_like(halved[1].weight)  # of an earlier step
    x, y = torch.randn(11, 6, dtype=torch.float64), torch.randint(0, 3, (11,))
    nn.functional.cross_entropy(whole(x), y).backward()  # type: ignore[no-untyped-call]

    def loss(start: int, stop: int) -> tuple[Tensor, int]:
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        share = (stop - start) / len(y)
        return nn.functional.cross_entropy(halved(x[start:stop]), y[start:stop]) * share, stop - start

    assert gradients_in_parts(AtOnce(64), len(y), list(halved.parameters()), loss) == [3, 3, 3, 2]
    for ours, theirs in zip(halved.parameters(), whole.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=0)
    assert halved[3].bias.grad is None
