"""What holds for every trained explainer: exact gradients of its own alone, and one pass an image."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tiny_explainers import EXPLAINERS, TINY_SIZE, batch_of, lively_explainer, tiny_images, tiny_net
from torch import Tensor

import deconvviz as dv
from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import LEARNED
from deconvviz.errors import (
    CamError,
    TargetError,
)


@pytest.mark.parametrize(
    ("name", "phase", "options"),
    [
        ("l-cam-fm", "", {}),
        ("l-cam-fm", "", {"batch_wide": True, "smoothness": 0.5}),
        ("l-cam-img", "", {}),
        ("real-time-masking", "masks", {}),
        ("real-time-masking", "selector", {}),
        ("bump", "selector", {"relaxed": True}),
        ("bump", "predictor", {"predictor": True}),
    ],
)
def test_gradient_by_finite_differences(name: str, phase: str, options: dict[str, Any]) -> None:
    _, x = tiny_images(3)
    classes, real = [2, 0, 2], [True, False, True] if LEARNED[name].many else [True] * 3
    explainer = lively_explainer(name, **options)

    def loss() -> Tensor:
        terms, _ = explainer.terms(batch_of(name, x, classes, real=real), phase)
        return torch.stack(list(terms.values())).sum()

    loss().backward()  # type: ignore[no-untyped-call]
    rng, step, checked = np.random.default_rng(0), 1e-6, 0
    for parameter in explainer.parameters():
        exact = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        some = rng.permutation(parameter.numel())[: 24 if name in EXPLAINERS[:2] else 6]
        for index in some.tolist():
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[index] += sign * step
                    sides.append(float(loss()))
                    parameter.view(-1)[index] -= sign * step
            checked += abs(sides[0] - sides[1]) > 1e-9
            expected = (sides[0] - sides[1]) / (2 * step)
            assert float(exact.reshape(-1)[index]) == pytest.approx(expected, rel=1e-4, abs=2e-8)
    assert checked >= (3 if phase == "selector" else 10)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_nothing_reaches_the_network(name: str) -> None:
    """Its parameters require gradients and stay as they are; what the explainer reads was not differentiated."""
    model = copy.deepcopy(tiny_net()[0]).train()
    for p in model.parameters():
        p.requires_grad_(True)
    network, before = dv.capture(model, (3, *TINY_SIZE)), copy.deepcopy(model.state_dict())
    _, x = tiny_images(3)
    x.requires_grad_(True)
    for tensor in network.tensors.values():
        tensor.requires_grad_(tensor.is_floating_point())
    batch = batch_of(name, x, None, network)
    assert all(not value.requires_grad and value.grad_fn is None for value in batch.values.values())
    explainer = lively_explainer(name, network)
    terms, _ = explainer.terms(batch, "masks")
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in explainer.parameters())
    assert (x.grad is None) == (name == "l-cam-fm")  # of the other two the masked image is in the loss
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(t.grad is None for t in network.tensors.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()) and model.training


@pytest.mark.parametrize("name", EXPLAINERS)
def test_one_pass_and_a_batch_is_its_images(name: str) -> None:
    """One forward pass an image and nothing else; targets by index, several at once, not the top one alone."""
    model, network = tiny_net()
    _, x = tiny_images(5)
    explainer = cam(name, network, explainer=lively_explainer(name))
    targets = [3, 0, 1, 2, 0]
    together = explainer(x, targets)
    assert explainer.passes == Counter(forward=5) and together.shape == (5, *TINY_SIZE)
    alone = torch.cat([explainer(x[n : n + 1], t) for n, t in enumerate(targets)])
    assert torch.allclose(together, alone, atol=1e-12) and explainer.passes == Counter(forward=1)
    with torch.no_grad():
        top = model(x).argmax(1)
    assert torch.equal(explainer(x), explainer(x, top)) and any(t != int(o) for t, o in zip(targets, top, strict=True))
    assert not torch.allclose(explainer(x, 0)[0], explainer(x, 1)[0], atol=1e-4)
    assert explainer(x, 1).requires_grad is False
    with pytest.raises(CamError, match="explains a class"):
        explainer(x, lambda out: out[:, 0])
    for wrong in (4, -1, [0, 1]):
        with pytest.raises(TargetError):
            explainer(x, wrong)
