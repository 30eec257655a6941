"""Real-time masking: its losses against the replica, what it puts where the mask takes away, its gate and its mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import replicas as r
import replicas_learned as rl
import torch
from tiny_explainers import (
    TINY_PREPROCESS,
    TINY_SIZE,
    batch_of,
    lively_explainer,
    state_of,
    tiny_images,
    tiny_net,
    values_at,
)
from torch import Tensor

from deconvviz.cam.explain import cam
from deconvviz.cam.learned.base import Batch, LearnedExplainer
from deconvviz.cam.learned.masking import RealTimeMasking


class Recorded:
    """Stands for the network: keeps the images that it is given and answers with prepared logits."""

    def __init__(self, *answers: rl.Array) -> None:
        self.answers, self.seen = [torch.from_numpy(a) for a in answers], list[rl.Array]()

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().numpy())
        return self.answers[len(self.seen) - 1]


def masking_batch(x: Tensor, whole: Any, noise: Callable[[tuple[int, ...]], Tensor], real: list[bool]) -> Batch:
    batch = batch_of("real-time-masking", x, [2, 0, 1], real=real)
    return replace(batch, whole=whole, noise=noise)


@pytest.mark.parametrize("real", [[True] * 3, [False] * 3, [True, False, True]])
def test_masking_loss_against_the_replica(real: list[bool]) -> None:
    """Without noise; hinges of kept and destroyed images, fakes the other way round, area small, smoothness large."""
    model, _ = tiny_net()
    (_, x), classes = tiny_images(3), np.array([2, 0, 1])
    rng = np.random.default_rng(5)
    kept, gone = 2 * rng.normal(size=(3, 4)), 4 * rng.normal(size=(3, 4))
    network, fake = Recorded(kept, gone), ~np.array(real)
    explainer = lively_explainer("real-time-masking")
    terms, right = explainer.terms(masking_batch(x, network, torch.zeros, real), "masks")
    values = {layer: values_at(model, x, layer) for layer in ("2", "4")}
    state = state_of(explainer)
    masks = np.stack([rl.drawn_mask(state, [values["2"][n], values["4"][n]], classes[n], 0.0) for n in range(3)])
    d, p = rl.destroy(gone, classes, fake), rl.preserve(kept, classes, fake)
    av, tv = rl.area(masks), rl.total_variation(r.resize(masks, TINY_SIZE))
    expected = {"destroy": d, "area": 8 * av, "smoothness": 0.005 * tv, "preserve": 0.3 * p}
    assert set(terms) == set(expected) and d > 0 and p > 0
    for term, value in expected.items():
        assert terms[term].item() == pytest.approx(value, rel=1e-9), term
    assert float(sum(terms.values())) == pytest.approx(rl.masking_loss(d, av, tv, p), rel=1e-9)
    assert right.tolist() == ((rl.margin(kept, classes) > 0) == np.array(real)).tolist()
    m = r.resize(masks, TINY_SIZE)[:, None]  # where noise is zero the replacement is grey: zero, once normalised
    np.testing.assert_allclose(network.seen[0], x.numpy() * m, atol=1e-9)
    np.testing.assert_allclose(network.seen[1], x.numpy() * (1 - m), atol=1e-9)


def test_hinges_by_hand() -> None:
    """Margins 3, -2 and 0.5: kept they cost 0, 3, 0.5 (fakes 4, 0, 1.5), destroyed 8, 3, 5.5 (fakes 2, 7, 4.5)."""
    logits = np.array([[1.0, 4, 0, 1], [0, 2, 1, 1.5], [0.5, 0, 0, -3]])
    classes = np.array([1, 0, 0])
    _, x = tiny_images(3)
    for real, keep, destroy in (([True] * 3, 3.5 / 3, 16.5 / 3), ([False] * 3, 5.5 / 3, 13.5 / 3)):
        batch = replace(masking_batch(x, Recorded(logits, logits), torch.zeros, real), classes=torch.tensor(classes))
        terms, _ = lively_explainer("real-time-masking", preserve=1.0).terms(batch, "masks")
        assert terms["preserve"].item() == pytest.approx(keep) and terms["destroy"].item() == pytest.approx(destroy)


def test_selector_loss_against_the_replica() -> None:
    """Binary cross-entropy of the class's mean response at the deepest layer, real against fake."""
    model, _ = tiny_net()
    (_, x), classes, real = tiny_images(3), [2, 0, 1], [True, False, True]
    explainer = lively_explainer("real-time-masking")
    terms, right = explainer.terms(masking_batch(x, None, torch.zeros, real), "selector")
    embedding = state_of(explainer)["embedding.weight"][classes]
    there = np.einsum("nkhw,nk->nhw", values_at(model, x, "4"), embedding).mean((1, 2))
    assert list(terms) == ["exists"]
    assert terms["exists"].item() == pytest.approx(rl.binary_cross_entropy(there, np.array(real)), rel=1e-10)
    assert right.tolist() == ((there > 0) == np.array(real)).tolist()


def constant_mask(level: float) -> LearnedExplainer:
    """Real-time masking whose mask is the same everywhere."""
    explainer = lively_explainer("real-time-masking")
    assert isinstance(explainer, RealTimeMasking)
    with torch.no_grad():
        explainer.head.weight.zero_()
        explainer.head.bias.copy_(torch.tensor([level, level - 1]))
    return explainer


@pytest.mark.slow
def test_what_stands_where_the_mask_takes_away() -> None:
    """Half of the steps the image blurred (55 taps, sigma 11), else noise 0.11 on a colour within 0.33; 0.03 on all.

    These are in units of ImageNet's standard deviation, 0.225 of a pixel's range, whatever the network's own.
    """
    unit = 0.225 / np.array(TINY_PREPROCESS.std)[:, None, None]
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 3, 40, 36)))
    blurred = rl.gaussian_blur(x.numpy())
    empty, full, blurs, colours = constant_mask(0.0), constant_mask(1.0), 0, []
    for seed in range(60):
        for explainer in (empty, full):
            generator = torch.Generator().manual_seed(seed)
            network = Recorded(np.zeros((3, 4)), np.zeros((3, 4)))

            def normal(shape: tuple[int, ...], generator: torch.Generator = generator) -> Tensor:
                return torch.randn(shape, generator=generator).double()

            batch = masking_batch(x[:, :, : TINY_SIZE[0], : TINY_SIZE[1]], network, normal, [True] * 3)
            explainer.terms(replace(batch, x=x), "masks")
            kept, gone = network.seen
            image, other = (gone, kept) if explainer is empty else (kept, gone)
            assert 0.02 < ((image - x.numpy()) / unit).std() < 0.04
            if abs(other - blurred).max() < 0.3:
                blurs += 1
                assert 0.02 < ((other - blurred) / unit).std() < 0.04
            else:
                other = other / unit
                middle = other.mean((2, 3))
                colours += middle.ravel().tolist()
                assert (other - middle[..., None, None]).std() == pytest.approx(math.hypot(0.11, 0.03), rel=0.1)
    assert 36 <= blurs <= 84 and max(map(abs, colours)) < 0.36
    assert np.std(colours) == pytest.approx(0.33 / math.sqrt(3), rel=0.15)


@pytest.mark.parametrize("confidence", [0.0, 6.0])
def test_gate_and_mask(confidence: float) -> None:
    """What reaches the decoder is F times the gate; what leaves it becomes |s0| / (|s0| + |s1|)."""
    model, _ = tiny_net()
    (_, x), explainer = tiny_images(2), lively_explainer("real-time-masking")
    assert isinstance(explainer, RealTimeMasking)
    seen: dict[str, rl.Array] = {}
    explainer.joins[0].register_forward_pre_hook(lambda _, inputs: seen.update(gated=inputs[0].detach().numpy()))
    explainer.head.register_forward_hook(lambda _, __, out: seen.update(scores=out.detach().numpy()))
    values, classes = {layer: torch.from_numpy(values_at(model, x, layer)) for layer in ("2", "4")}, [3, 1]
    masks = explainer.masks(values, torch.tensor(classes), confidence).detach().numpy()
    state = state_of(explainer)
    for n, target in enumerate(classes):
        deep = values["4"][n].numpy()
        np.testing.assert_allclose(
            seen["gated"][n], deep * rl.gate(deep, state["embedding.weight"][target], confidence)
        )
        np.testing.assert_allclose(masks[n], rl.two_class_mask(seen["scores"][n]), atol=1e-12)
        replica = rl.drawn_mask(state, [values["2"][n].numpy(), deep], target, confidence)
        np.testing.assert_allclose(masks[n], replica, atol=1e-10)
    assert masks.shape == (2, 5, 4) and masks.min() >= 0 and masks.max() <= 1 and np.ptp(masks) > 0.01


def test_the_gate_at_work_is_that_of_inference() -> None:
    """`forward` takes the confidence 6 of the options, the training 0."""
    explainer = lively_explainer("real-time-masking")
    assert isinstance(explainer, RealTimeMasking)
    batch = batch_of("real-time-masking", tiny_images(2)[1], [0, 1])
    assert explainer.options["confidence"] == 6
    assert torch.equal(explainer(batch.values, batch.classes), explainer.masks(batch.values, batch.classes, 6.0))
    assert not torch.allclose(explainer(batch.values, batch.classes), explainer.masks(batch.values, batch.classes, 0.0))


def test_the_mask_is_shown_as_it_is() -> None:
    _, network = tiny_net()
    _, x = tiny_images(2)
    explainer = lively_explainer("real-time-masking")
    values = {layer: values_at(tiny_net()[0], x, layer) for layer in ("2", "4")}
    shown = cam("real-time-masking", network, explainer=explainer)(x, [3, 1]).numpy()
    for n, target in enumerate((3, 1)):
        mask = rl.drawn_mask(state_of(explainer), [values["2"][n], values["4"][n]], target, 6.0)
        np.testing.assert_allclose(shown[n], r.resize(mask, TINY_SIZE), atol=1e-9)
        assert mask.min() > 0.001 or mask.max() < 0.999
