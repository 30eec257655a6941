"""FGSM and PGD against captum.robust."""

from __future__ import annotations

import pytest
import torch
from attacked import PLAIN, classifier, images, victims
from captum.robust import FGSM, PGD
from torch import Tensor, nn

from deconvviz.studies.attack.attacks import ATTACKS

pytestmark = pytest.mark.peers


class Normalised(nn.Module):
    """The network with its normalisation inside, as other libraries are given it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(row, dtype=x.dtype)[:, None, None] for row in (PLAIN.mean, PLAIN.std))
        scores: Tensor = self.model((x - mean) / std)
        return scores


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("epsilon", [2 / 255, 0.1])
def test_fgsm_and_pgd_equal_captum(target: int | None, epsilon: float) -> None:
    model, x = classifier().double(), images(dtype=torch.float64)
    v = victims(model, x, epsilon, target=target)
    wanted, targeted = (v.own, False) if target is None else (torch.full_like(v.own, target), True)
    theirs = FGSM(Normalised(model), nn.CrossEntropyLoss(reduction="none"), lower_bound=0, upper_bound=1)
    expected = theirs.perturb(x, epsilon=epsilon, target=wanted, targeted=targeted)
    assert torch.allclose(ATTACKS["fgsm"](v), expected, atol=1e-12)
    steps = PGD(Normalised(model), nn.CrossEntropyLoss(reduction="none"), lower_bound=0, upper_bound=1)
    steps.fgsm.zero_thresh = 0  # below which it leaves a pixel as it is
    expected = steps.perturb(
        x, radius=epsilon, step_size=0.3 * epsilon, step_num=7, target=wanted, targeted=targeted, random_start=False
    )
    ours = ATTACKS["pgd"](v, steps=7, step=0.3, start="image", stop=False)
    assert torch.allclose(ours, expected, atol=1e-12)
