"""Explainers that are trained: their losses, gradients and maps against replicas, their files, and their training."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import math
import os
import pathlib
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import replicas as r
import replicas_learned as rl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from killing import Job
from numpy.typing import NDArray
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam.explain import cam
from deconvviz.cam.learned import base
from deconvviz.cam.learned.base import LEARNED, Batch, LearnedExplainer, Phase
from deconvviz.cam.learned.files import configuration, load_explainer, save_explainer
from deconvviz.cam.learned.masking import RealTimeMasking
from deconvviz.cam.registry import METHODS
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import (
    CamError,
    CaptureError,
    DataError,
    DeconvvizError,
    MismatchError,
    TargetError,
    TrainingError,
)
from deconvviz.models.weights import read_file
from deconvviz.studies.explainers.frozen import Frozen, new_explainer
from deconvviz.studies.explainers.train import Learned, train_explainer

NAMES = ("l-cam-fm", "l-cam-img", "real-time-masking")
SIZE = (10, 8)
PREPROCESS = Preprocess(resize=None, crop=SIZE, mean=(0.5, 0.25, 0.375), std=(0.25, 0.5, 0.125))  # exact in binary
Net = tuple[nn.Sequential, dv.Network]


# --- the loss terms by hand

SQUARE = [[0.5, 1.0], [0.0, 0.25]]
# down .5^2 + .75^2 = .8125, across .5^2 + .25^2 = .3125, border 1.25 + .0625 + .25 + 1.0625 = 2.625, of which 0.3
OBLONG = [[0.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]]
# down 1 + 1, across 3 + 0 + 1, border 2 + 1 + 1.25 + 1.25 = 5.5
BY_HAND = [(SQUARE, (0.8125 + 0.3125 + 0.3 * 2.625) / 2), (OBLONG, (2 + 4 + 0.3 * 5.5) / 2)]
ROOTS = {0.0: 0.102256518256357, 0.25: 0.660149530976637, 0.5: 0.812495986836937, 1.0: 1.000149973757435}  # of a+.0005


@pytest.mark.parametrize(("given", "expected"), BY_HAND)
def test_smoothness_and_area_by_hand(given: list[list[float]], expected: float) -> None:
    one = torch.tensor([given], dtype=torch.float64)
    two = torch.cat([one, one])
    assert float(base.smoothness(one)) == pytest.approx(expected, rel=1e-14)
    assert float(base.smoothness(two)) == pytest.approx(expected, rel=1e-14)  # a mean over images
    assert float(base.smoothness(two, 1)) == pytest.approx(2 * expected, rel=1e-14)
    numbers = [value for row in given for value in row]
    mean = sum(ROOTS[value] for value in numbers) / len(numbers)
    assert float(base.area(one, 0.3)) == pytest.approx(mean, rel=1e-13)
    assert float(base.area(one, 1.0)) == pytest.approx(sum(numbers) / len(numbers) + 0.0005, rel=1e-13)
    assert rl.total_variation(one.numpy()) == pytest.approx(expected) and rl.area(one.numpy()) == pytest.approx(mean)


MAPS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 1))


@settings(max_examples=60, deadline=None)
@given(maps=MAPS, factor=st.floats(0.1, 3), level=st.floats(0, 1))
def test_properties_of_smoothness_and_area(maps: rl.Array, factor: float, level: float) -> None:
    a, (_, h, w) = torch.from_numpy(maps), maps.shape
    smooth, area = float(base.smoothness(a)), float(base.area(a, 0.3))
    assert smooth == pytest.approx(rl.total_variation(maps), abs=1e-12) and area == pytest.approx(rl.area(maps))
    for turned in (a.flip(1), a.flip(2), a.transpose(1, 2)):
        assert float(base.smoothness(turned)) == pytest.approx(smooth, abs=1e-12)
        assert float(base.area(turned, 0.3)) == pytest.approx(area)
    assert float(base.smoothness(a * factor)) == pytest.approx(factor**2 * smooth, abs=1e-12)
    flat = torch.full((1, h, w), level, dtype=torch.float64)
    assert float(base.smoothness(flat)) == pytest.approx(0.3 * level**2 * (h + w), abs=1e-12)  # the border alone
    assert float(base.area(torch.maximum(a, flat), 0.3)) >= area - 1e-12
    assert 0.0005**0.3 - 1e-12 <= area <= 1.0005**0.3 + 1e-12


# --- tiny networks and what they give


def tiny() -> nn.Sequential:
    """Four classes; layer 4 has 5 maps of 3 x 2, layer 2 has 4 of 5 x 4."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(30, 4),
    )


@cache
def tiny_net(seed: int = 3) -> Net:
    torch.manual_seed(seed)
    model = tiny().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model, dv.capture(model, (3, *SIZE))


def images(count: int, seed: int = 0) -> tuple[rl.Array, Tensor]:
    """Images in 0..1, [N,3,H,W], and normalised."""
    raw = np.random.default_rng(seed).random((count, 3, *SIZE))
    mean, std = (np.array(v)[:, None, None] for v in (PREPROCESS.mean, PREPROCESS.std))
    return raw, torch.from_numpy((raw - mean) / std)


def layers_of(name: str) -> list[str]:
    return ["2", "4"] if LEARNED[name].many else ["4"]


def made(name: str, network: dv.Network | None = None, seed: int = 1, **options: Any) -> LearnedExplainer:
    """An untrained explainer of the tiny network, with weights that make lively maps."""
    frozen = Frozen(network or tiny_net()[1], layers_of(name), PREPROCESS, "fp32")
    options = {"width": 4, **options} if LEARNED[name].many else options
    explainer = new_explainer(name, frozen, options, seed)
    with torch.no_grad():
        for p in explainer.parameters():
            p.mul_(2)
    return explainer


def batch_of(
    name: str, x: Tensor, classes: list[int] | None, network: dv.Network | None = None, real: list[bool] | None = None
) -> Batch:
    """What the training gives for these images; its noise starts anew with every batch."""
    frozen = Frozen(network or tiny_net()[1], layers_of(name), PREPROCESS, "fp32")
    given = None if classes is None else torch.tensor(classes)
    batch = frozen.batch(x, given, torch.Generator().manual_seed(4))
    return batch if real is None else replace(batch, real=torch.tensor(real))


def values_of(model: nn.Sequential, x: Tensor, layer: str) -> rl.Array:
    with torch.no_grad():
        return model[: int(layer) + 1](x).numpy()


def state_of(explainer: nn.Module) -> dict[str, rl.Array]:
    return {name: value.detach().double().numpy() for name, value in explainer.state_dict().items()}


def class_maps(explainer: LearnedExplainer, a: rl.Array) -> rl.Array:
    state = state_of(explainer)
    return rl.class_maps(state["attention.weight"][:, :, 0, 0], state["attention.bias"], a)


# --- L-CAM: its loss


def masked_logits(name: str, model: nn.Sequential, raw: rl.Array, a: rl.Array, masks: rl.Array) -> rl.Array:
    """Logits where the masks [N,h,w] cover the maps, or (resized) the image while it is still in 0..1."""
    with torch.no_grad():
        if name == "l-cam-fm":
            return model[5:](torch.from_numpy(masks[:, None] * a)).numpy()
        covered = r.resize(masks, SIZE)[:, None] * raw
        mean, std = (np.array(v)[:, None, None] for v in (PREPROCESS.mean, PREPROCESS.std))
        return model(torch.from_numpy((covered - mean) / std)).numpy()


@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("batch_wide", [False, True])
def test_lcam_loss_against_the_replica(name: str, batch_wide: bool) -> None:
    model, _ = tiny_net()
    (raw, x), classes = images(3), np.array([2, 0, 2])
    explainer = made(name, batch_wide=batch_wide)
    terms, right = explainer.terms(batch_of(name, x, classes.tolist()), name)
    a = values_of(model, x, "4")
    maps = class_maps(explainer, a)
    logits = masked_logits(name, model, raw, a, rl.sigmoid(maps)[[0, 1, 2], classes])
    (tv, av), ce = rl.lcam_regularisers(maps, classes, batch_wide), rl.cross_entropy(logits, classes)
    expected = {"smoothness": 0.01 * tv, "area": 2 * av, "cross_entropy": 1.5 * ce}
    assert set(terms) == set(expected)
    for term, value in expected.items():
        assert terms[term].item() == pytest.approx(value, rel=1e-10), term
    assert float(sum(terms.values())) == pytest.approx(rl.lcam_loss(tv, av, ce), rel=1e-10)
    assert right.tolist() == (logits.argmax(1) == classes).tolist()
    one = rl.lcam_regularisers(maps, classes, not batch_wide)
    assert abs(one[0] - tv) > 1e-3 and abs(one[1] - av) > 1e-6  # the two forms differ here


def test_lcam_options_are_the_weights() -> None:
    """Each option scales its own term; ce_only leaves cross-entropy with weight 1."""
    _, x = images(3)
    batch = batch_of("l-cam-fm", x, [1, 0, 3])
    plain, _ = made("l-cam-fm").terms(batch, "")
    scaled, _ = made("l-cam-fm", smoothness=0.03, area=8.0, cross_entropy=0.75).terms(batch, "")
    for term, factor in (("smoothness", 3), ("area", 4), ("cross_entropy", 0.5)):
        assert float(scaled[term]) == pytest.approx(factor * float(plain[term]))
    alone, _ = made("l-cam-fm", ce_only=True).terms(batch, "")
    assert alone["cross_entropy"].item() == pytest.approx(float(plain["cross_entropy"]) / 1.5)
    assert alone["smoothness"].item() == alone["area"].item() == 0
    linear, _ = made("l-cam-fm", power=1.0).terms(batch, "")
    attention = rl.sigmoid(class_maps(made("l-cam-fm"), batch.values["4"].numpy()))[[0, 1, 2], [1, 0, 3]]
    assert linear["area"].item() == pytest.approx(2 * (attention.mean() + 0.0005))


def test_the_released_form_grows_with_the_batch() -> None:
    """The same images twice: the N x N form's total variation doubles, the area and the per-image form stay."""
    _, x = images(3)
    once, twice = (
        batch_of("l-cam-fm", one, classes) for one, classes in ((x, [0, 1, 2]), (torch.cat([x, x]), [0, 1, 2] * 2))
    )
    for batch_wide, growth in ((False, 1), (True, 2)):
        explainer = made("l-cam-fm", batch_wide=batch_wide)
        (few, _), (many, _) = explainer.terms(once, ""), explainer.terms(twice, "")
        assert many["smoothness"].item() == pytest.approx(growth * float(few["smoothness"]), rel=1e-12)
        assert many["area"].item() == pytest.approx(float(few["area"]), rel=1e-12)


# --- real-time masking: its loss


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
    (_, x), classes = images(3), np.array([2, 0, 1])
    rng = np.random.default_rng(5)
    kept, gone = 2 * rng.normal(size=(3, 4)), 4 * rng.normal(size=(3, 4))
    network, fake = Recorded(kept, gone), ~np.array(real)
    explainer = made("real-time-masking")
    terms, right = explainer.terms(masking_batch(x, network, torch.zeros, real), "masks")
    values = {layer: values_of(model, x, layer) for layer in ("2", "4")}
    state = state_of(explainer)
    masks = np.stack([rl.drawn_mask(state, [values["2"][n], values["4"][n]], classes[n], 0.0) for n in range(3)])
    d, p = rl.destroy(gone, classes, fake), rl.preserve(kept, classes, fake)
    av, tv = rl.area(masks), rl.total_variation(r.resize(masks, SIZE))
    expected = {"destroy": d, "area": 8 * av, "smoothness": 0.005 * tv, "preserve": 0.3 * p}
    assert set(terms) == set(expected) and d > 0 and p > 0
    for term, value in expected.items():
        assert terms[term].item() == pytest.approx(value, rel=1e-9), term
    assert float(sum(terms.values())) == pytest.approx(rl.masking_loss(d, av, tv, p), rel=1e-9)
    assert right.tolist() == ((rl.margin(kept, classes) > 0) == np.array(real)).tolist()
    m = r.resize(masks, SIZE)[:, None]  # where noise is zero the replacement is grey: zero, once normalised
    np.testing.assert_allclose(network.seen[0], x.numpy() * m, atol=1e-9)
    np.testing.assert_allclose(network.seen[1], x.numpy() * (1 - m), atol=1e-9)


def test_hinges_by_hand() -> None:
    """Margins 3, -2 and 0.5: kept they cost 0, 3, 0.5 (fakes 4, 0, 1.5), destroyed 8, 3, 5.5 (fakes 2, 7, 4.5)."""
    logits = np.array([[1.0, 4, 0, 1], [0, 2, 1, 1.5], [0.5, 0, 0, -3]])
    classes = np.array([1, 0, 0])
    _, x = images(3)
    for real, keep, destroy in (([True] * 3, 3.5 / 3, 16.5 / 3), ([False] * 3, 5.5 / 3, 13.5 / 3)):
        batch = replace(masking_batch(x, Recorded(logits, logits), torch.zeros, real), classes=torch.tensor(classes))
        terms, _ = made("real-time-masking", preserve=1.0).terms(batch, "masks")
        assert terms["preserve"].item() == pytest.approx(keep) and terms["destroy"].item() == pytest.approx(destroy)


def test_selector_loss_against_the_replica() -> None:
    """Binary cross-entropy of the class's mean response at the deepest layer, real against fake."""
    model, _ = tiny_net()
    (_, x), classes, real = images(3), [2, 0, 1], [True, False, True]
    explainer = made("real-time-masking")
    terms, right = explainer.terms(masking_batch(x, None, torch.zeros, real), "selector")
    embedding = state_of(explainer)["embedding.weight"][classes]
    there = np.einsum("nkhw,nk->nhw", values_of(model, x, "4"), embedding).mean((1, 2))
    assert list(terms) == ["exists"]
    assert terms["exists"].item() == pytest.approx(rl.binary_cross_entropy(there, np.array(real)), rel=1e-10)
    assert right.tolist() == ((there > 0) == np.array(real)).tolist()


def constant_mask(level: float) -> LearnedExplainer:
    """Real-time masking whose mask is the same everywhere."""
    explainer = made("real-time-masking")
    assert isinstance(explainer, RealTimeMasking)
    with torch.no_grad():
        explainer.head.weight.zero_()
        explainer.head.bias.copy_(torch.tensor([level, level - 1]))
    return explainer


def test_what_stands_where_the_mask_takes_away() -> None:
    """Half of the steps the image blurred (55 taps, sigma 11), else noise 0.11 on a colour within 0.33; 0.03 on all.

    These are in units of ImageNet's standard deviation, 0.225 of a pixel's range, whatever the network's own.
    """
    unit = 0.225 / np.array(PREPROCESS.std)[:, None, None]
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 3, 40, 36)))
    blurred = rl.gaussian_blur(x.numpy())
    empty, full, blurs, colours = constant_mask(0.0), constant_mask(1.0), 0, []
    for seed in range(60):
        for explainer in (empty, full):
            generator = torch.Generator().manual_seed(seed)
            network = Recorded(np.zeros((3, 4)), np.zeros((3, 4)))
            batch = masking_batch(
                x[:, :, : SIZE[0], : SIZE[1]],
                network,
                lambda s, g=generator: torch.randn(s, generator=g).double(),
                [True] * 3,
            )  # type: ignore[misc]
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
    (_, x), explainer = images(2), made("real-time-masking")
    assert isinstance(explainer, RealTimeMasking)
    seen: dict[str, rl.Array] = {}
    explainer.joins[0].register_forward_pre_hook(lambda _, inputs: seen.update(gated=inputs[0].detach().numpy()))
    explainer.head.register_forward_hook(lambda _, __, out: seen.update(scores=out.detach().numpy()))
    values, classes = {layer: torch.from_numpy(values_of(model, x, layer)) for layer in ("2", "4")}, [3, 1]
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
    explainer = made("real-time-masking")
    assert isinstance(explainer, RealTimeMasking)
    batch = batch_of("real-time-masking", images(2)[1], [0, 1])
    assert explainer.options["confidence"] == 6
    assert torch.equal(explainer(batch.values, batch.classes), explainer.masks(batch.values, batch.classes, 6.0))
    assert not torch.allclose(explainer(batch.values, batch.classes), explainer.masks(batch.values, batch.classes, 0.0))


# --- gradients


@pytest.mark.parametrize(
    ("name", "phase", "options"),
    [
        ("l-cam-fm", "", {}),
        ("l-cam-fm", "", {"batch_wide": True, "smoothness": 0.5}),
        ("l-cam-img", "", {}),
        ("real-time-masking", "masks", {}),
        ("real-time-masking", "selector", {}),
    ],
)
def test_gradient_by_finite_differences(name: str, phase: str, options: dict[str, Any]) -> None:
    _, x = images(3)
    classes, real = [2, 0, 2], [True, False, True] if LEARNED[name].many else [True] * 3
    explainer = made(name, **options)

    def loss() -> Tensor:
        terms, _ = explainer.terms(batch_of(name, x, classes, real=real), phase)
        return torch.stack(list(terms.values())).sum()

    loss().backward()  # type: ignore[no-untyped-call]
    rng, step, checked = np.random.default_rng(0), 1e-6, 0
    for parameter in explainer.parameters():
        exact = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        some = rng.permutation(parameter.numel())[: 24 if name in NAMES[:2] else 6]
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


@pytest.mark.parametrize("name", NAMES)
def test_nothing_reaches_the_network(name: str) -> None:
    """Its parameters require gradients and stay as they are; what the explainer reads was not differentiated."""
    model = copy.deepcopy(tiny_net()[0]).train()
    for p in model.parameters():
        p.requires_grad_(True)
    network, before = dv.capture(model, (3, *SIZE)), copy.deepcopy(model.state_dict())
    _, x = images(3)
    x.requires_grad_(True)
    for tensor in network.tensors.values():
        tensor.requires_grad_(tensor.is_floating_point())
    batch = batch_of(name, x, None, network)
    assert all(not value.requires_grad and value.grad_fn is None for value in batch.values.values())
    explainer = made(name, network)
    terms, _ = explainer.terms(batch, "masks")
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in explainer.parameters())
    assert (x.grad is None) == (name == "l-cam-fm")  # of the other two the masked image is in the loss
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(t.grad is None for t in network.tensors.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()) and model.training


# --- the maps


@pytest.mark.parametrize("name", NAMES[:2])
def test_the_attention_at_initialisation(name: str) -> None:
    """1x1 convolution to one map a class: `forward` is the class's before the sigmoid; shown is min-max, then up."""
    model, network = tiny_net()
    _, x = images(3)
    frozen = Frozen(network, ["4"], PREPROCESS, "fp32")
    explainer = new_explainer(name, frozen, {}, 7)
    state = state_of(explainer)
    assert {k: v.shape for k, v in state.items()} == {"attention.weight": (4, 5, 1, 1), "attention.bias": (4,)}
    bound = 1 / math.sqrt(5)  # of torch's initial weights
    assert all(0 < np.abs(v).max() <= bound for v in state.values())
    again, other = new_explainer(name, frozen, {}, 7), new_explainer(name, frozen, {}, 8)
    assert torch.equal(again.state_dict()["attention.weight"], explainer.state_dict()["attention.weight"])
    assert not torch.equal(other.state_dict()["attention.weight"], explainer.state_dict()["attention.weight"])
    a = values_of(model, x, "4")
    expected = class_maps(explainer, a)[[0, 1, 2], [3, 1, 1]]
    found = explainer({"4": torch.from_numpy(a)}, torch.tensor([3, 1, 1])).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(cam(name, network, explainer=explainer)(x, [3, 1, 1], raw=True).numpy(), expected)
    shown = cam(name, network, explainer=explainer)(x, [3, 1, 1]).numpy()
    for one, raw in zip(shown, expected, strict=True):
        np.testing.assert_allclose(one, r.resize(r.mm(raw), SIZE), atol=1e-9)
        assert np.abs(one - r.mm(r.resize(raw, SIZE))).max() > 1e-3  # the other order is another map


@pytest.mark.parametrize("name", NAMES[:2])
def test_starting_from_the_classifier_is_cam(name: str) -> None:
    """Untrained, its map is CAM's and the bias, for every class; another network cannot be started from."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).double()
    network, (_, x) = dv.capture(model.eval(), (3, *SIZE)), images(2)
    explainer = new_explainer(name, Frozen(network, ["1"], PREPROCESS, "fp32"), {"start": "classifier"}, 0)
    state = {key: value.detach().numpy() for key, value in model[4].state_dict().items()}
    expected = rl.class_maps(state["weight"], state["bias"], values_of(model, x, "1"))[[0, 1], [3, 1]]
    np.testing.assert_allclose(
        cam(name, network, explainer=explainer)(x, [3, 1], raw=True).numpy(), expected, atol=1e-12
    )
    with pytest.raises(CamError):
        made(name, start="classifier")
    with pytest.raises(DataError, match="start"):
        made(name, start="zero")


def test_the_mask_is_shown_as_it_is() -> None:
    _, network = tiny_net()
    _, x = images(2)
    explainer = made("real-time-masking")
    values = {layer: values_of(tiny_net()[0], x, layer) for layer in ("2", "4")}
    shown = cam("real-time-masking", network, explainer=explainer)(x, [3, 1]).numpy()
    for n, target in enumerate((3, 1)):
        mask = rl.drawn_mask(state_of(explainer), [values["2"][n], values["4"][n]], target, 6.0)
        np.testing.assert_allclose(shown[n], r.resize(mask, SIZE), atol=1e-9)
        assert mask.min() > 0.001 or mask.max() < 0.999


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_and_a_batch_is_its_images(name: str) -> None:
    """One forward pass an image and nothing else; targets by index, several at once, not the top one alone."""
    model, network = tiny_net()
    _, x = images(5)
    explainer = cam(name, network, explainer=made(name))
    targets = [3, 0, 1, 2, 0]
    together = explainer(x, targets)
    assert explainer.passes == Counter(forward=5) and together.shape == (5, *SIZE)
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


# --- the tail


class Residual(nn.Module):
    """A value passes the layer by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def rest(self, value: Tensor, beside: Tensor) -> Tensor:
        return self.head((value.relu() + beside).relu().mean((2, 3)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        beside = self.norm(self.stem(x)).relu()
        return self.rest(self.conv(beside), beside)


class Patches(nn.Module):
    """A class token before a grid of patch tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 6, 2, 2), nn.Parameter(torch.randn(1, 1, 6))
        self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def before(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1))  # type: ignore[no-any-return]

    def rest(self, value: Tensor) -> Tensor:
        return self.head(value[:, 0].relu() + value.tanh().mean(1))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.before(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # float32 runs accelerated
def test_the_tail_at_mask_one_is_the_model(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Residual().to(dtype).eval()
    nn.init.uniform_(model.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
    network, tolerance = dv.capture(model, (3, *SIZE)), 1e-12 if dtype == torch.float64 else 1e-5
    x = images(3)[1].to(dtype)
    with torch.no_grad():
        whole, beside = model(x), model.norm(model.stem(x)).relu()
        value = model.conv(beside)
    batch = Frozen(network, ["conv"], PREPROCESS, "fp32").batch(x, None, torch.Generator())
    assert torch.allclose(batch.values["conv"], value, atol=tolerance) and (value < 0).any()  # before its ReLU
    assert batch.classes.tolist() == whole.argmax(1).tolist() and batch.real.all()
    for _ in range(2):  # what passes the layer by is still there the second time
        assert torch.allclose(batch.after(batch.values["conv"]), whole, atol=tolerance)
        assert torch.allclose(batch.whole(x), whole, atol=tolerance)
    half = 0.5 * value
    assert torch.allclose(batch.after(half), model.rest(half, beside), atol=tolerance)
    explainer = new_explainer("l-cam-fm", Frozen(network, ["conv"], PREPROCESS, "fp32"), {"ce_only": True}, 0)
    with torch.no_grad():
        explainer.attention.weight.zero_()  # type: ignore[operator, union-attr]
        explainer.attention.bias.fill_(60.0)  # type: ignore[operator, union-attr]
    terms, right = explainer.terms(batch, "")
    assert right.all()
    top = rl.cross_entropy(whole.double().numpy(), batch.classes.numpy())
    assert terms["cross_entropy"].item() == pytest.approx(top, rel=1e-5)


def test_the_tail_of_a_token_layer() -> None:
    """Patches become maps and go back; the class token stays its own."""
    torch.manual_seed(0)
    model = Patches().double().eval()
    network = dv.capture(model, (3, *SIZE))
    _, x = images(3)
    frozen = Frozen(network, ["block"], PREPROCESS, "fp32")
    batch = frozen.batch(x, None, torch.Generator())
    with torch.no_grad():
        value, whole = model.before(x), model(x)
    maps = value[:, 1:].transpose(1, 2).reshape(3, 6, 5, 4)
    assert frozen.shapes == {"block": (6, 5, 4)} and torch.allclose(batch.values["block"], maps)
    assert torch.allclose(batch.after(batch.values["block"]), whole)
    changed = torch.cat([value[:, :1], 0.3 * value[:, 1:]], 1)
    assert torch.allclose(batch.after(0.3 * maps), model.rest(changed))
    explainer = new_explainer("l-cam-fm", frozen, {}, 0)
    found = cam("l-cam-fm", network, explainer=explainer)(x, 2, raw=True)
    np.testing.assert_allclose(found.numpy(), class_maps(explainer, maps.numpy())[:, 2], atol=1e-12)


def test_a_black_pixel_is_black() -> None:
    """What L-CAM-Img leaves out becomes what a black pixel is once normalised."""
    batch = batch_of("l-cam-img", images(1)[1], [0])
    assert batch.black.flatten().tolist() == [-2.0, -0.5, -3.0]  # (0 - mean) / std


# --- files


def saved(name: str, path: pathlib.Path, **options: Any) -> LearnedExplainer:
    """An explainer of the tiny network, in float32 as a file is read."""
    explainer = made(name, **options)
    save_explainer(explainer, path, configuration(explainer, tiny_net()[1], {}))
    return explainer


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_back_the_explainer(tmp_path: pathlib.Path, name: str) -> None:
    explainer = saved(name, tmp_path / "e.pth", power=0.5)
    state = torch.load(tmp_path / "e.pth", weights_only=True)
    assert set(state) == set(explainer.state_dict()) and all(isinstance(v, Tensor) for v in state.values())
    again = load_explainer(tmp_path / "e.pth")
    assert type(again) is type(explainer) and again.options == explainer.options and again.layers == explainer.layers
    assert again.options["power"] == 0.5 and again.outputs == 4 and not again.training
    for key, value in explainer.state_dict().items():
        assert torch.allclose(again.state_dict()[key].double(), value, atol=1e-6)
    config = json.loads((tmp_path / "e.json").read_text())
    assert config["model_fingerprint"] == tiny_net()[1].fingerprint and config["method"] == name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_explains(tmp_path: pathlib.Path, name: str, dtype: torch.dtype) -> None:
    """What is explained by a file is what the explainer itself explains, in the network's precision."""
    network, x = tiny_net()[1].to(dtype), images(2)[1].to(dtype)
    explainer = made(name, network)
    save_explainer(explainer, tmp_path / "e.pth", configuration(explainer, network, {}))
    expected = cam(name, network, explainer=explainer)(x, [0, 1])
    found = cam(name, network, explainer=str(tmp_path / "e.pth"))(x, [0, 1])
    assert found.dtype == dtype and torch.equal(found, expected)


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[pathlib.Path], None]:
    def edited(path: pathlib.Path) -> None:
        config = json.loads(path.with_suffix(".json").read_text())
        change(config)
        path.with_suffix(".json").write_text(json.dumps(config))

    return edited


class Foreign:
    """What a pickle may hold, and is never made."""


BROKEN: dict[str, tuple[Callable[[pathlib.Path], Any], str]] = {
    "no JSON": (lambda p: p.with_suffix(".json").unlink(), "keep both files together"),
    "JSON cut off": (lambda p: p.with_suffix(".json").write_text('{"format": '), "cannot be read"),
    "JSON of something else": (lambda p: p.with_suffix(".json").write_text('{"a": 1}'), "does not describe"),
    "JSON is a list": (lambda p: p.with_suffix(".json").write_text("[1]"), "does not describe"),
    "newer": (edit(lambda c: c.update(schema=99)), "update it"),
    "no such method": (edit(lambda c: c.update(method="l-cam-xy")), "l-cam-xy"),
    "no method": (edit(lambda c: c.pop("method")), "not whole"),
    "another option": (edit(lambda c: c["options"].update(colour=3)), "not whole"),
    "wrong outputs": (edit(lambda c: c.update(outputs=7)), "belong together"),
    "outputs no number": (edit(lambda c: c.update(outputs="four")), "not whole"),
    "two layers": (edit(lambda c: c["layers"].update(more=[2, 3, 3])), "not whole"),
    "another width of the layer": (edit(lambda c: c["layers"].update({"4": [9, 3, 2]})), "belong together"),
    "no weights": (lambda p: p.unlink(), "no weights file"),
    "weights cut off": (lambda p: p.write_bytes(p.read_bytes()[:-200]), "cannot be read"),
    "weights empty": (lambda p: p.write_bytes(b""), "no plain state dict"),
    "a pickled object": (lambda p: p.write_bytes(pickle.dumps(Foreign(), 2)), "no plain state dict"),
    "a module": (lambda p: torch.save(nn.Conv2d(5, 4, 1), p), "Python objects"),
    "a number": (lambda p: torch.save(3, p), "no state dict"),
    "another state": (lambda p: torch.save({"fc.weight": torch.zeros(2)}, p), "belong together"),
    "schema no number": (edit(lambda c: c.update(schema="one")), "schema"),
    "negative outputs": (edit(lambda c: c.update(outputs=-4)), "not whole"),
    "weights of another kind": (lambda p: p.write_bytes(b"abc"), "no plain state dict"),
    "numbers for tensors": (lambda p: torch.save({"attention.weight": 1.0, "attention.bias": [2.0]}, p), "no tensors"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path: pathlib.Path, case: str) -> None:
    """One clear error each, on one line."""
    saved("l-cam-fm", tmp_path / "e.pth")
    change, complaint = BROKEN[case]
    change(tmp_path / "e.pth")
    with pytest.raises(DeconvvizError, match=complaint) as raised:
        cam("l-cam-fm", tiny_net()[1], explainer=str(tmp_path / "e.pth"))
    assert "\n" not in str(raised.value)


def test_an_explainer_of_something_else(tmp_path: pathlib.Path) -> None:
    """Of another method, another network, another layer, or none at all."""
    saved("l-cam-fm", tmp_path / "e.pth")
    (model, network), path = tiny_net(), str(tmp_path / "e.pth")
    with pytest.raises(CamError, match="l-cam-fm"):
        cam("l-cam-img", network, explainer=path)
    with pytest.raises(MismatchError, match="trained for"):
        cam("l-cam-fm", tiny_net(4)[1], explainer=path)  # the same architecture, other weights
    with pytest.raises(CamError, match="leave the layer out"):
        cam("l-cam-fm", network, "3", explainer=path)
    with pytest.raises(CamError, match="captured"):
        cam("l-cam-fm", model, explainer=path)
    with pytest.raises(CamError, match="train-cam"):
        cam("l-cam-fm", network)
    with pytest.raises(DeconvvizError, match="colour"):
        cam("l-cam-fm", network, explainer=path, colour=1)
    cam("l-cam-fm", network, "4", explainer=path)


def test_making_one(tmp_path: pathlib.Path) -> None:
    """Wrong layers, options and images are told before anything is written."""
    network = tiny_net()[1]
    frozen = Frozen(network, ["4"], PREPROCESS, "fp32")
    two = Frozen(network, ["1", "4"], PREPROCESS, "fp32")
    for name, reads, options, complaint in (
        ("l-cam-fm", frozen, {"colour": 1}, "no option 'colour'"),
        ("l-cam-fm", two, {}, "reads one layer"),
        ("l-cam-img", frozen, {"area": -1.0}, "area -1.0"),
        ("l-cam-img", frozen, {"area": math.nan}, "area nan"),
        ("real-time-masking", frozen, {}, "two to four"),
        ("l-cam", frozen, {}, "l-cam-fm"),
    ):
        with pytest.raises(DeconvvizError, match=complaint):
            new_explainer(name, reads, options, 0)
    with pytest.raises(CaptureError, match="preprocessing"):
        Frozen(network, ["4"], Preprocess(), "fp32")
    with pytest.raises(CamError, match="rows and columns"):
        Frozen(network, ["6"], PREPROCESS, "fp32")
    for wrong in (
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.inf},
        {"decay": 1.1},
        {"weight_decay": -1},
    ):
        with pytest.raises(DataError, match=next(iter(wrong))):
            Phase("x", **wrong)  # type: ignore[arg-type]


# --- training


class Kept:
    """Drawn scenes, kept; labelled images as `Images` has them."""

    def __init__(self, count: int) -> None:
        scenes = dv.Scenes(count, seed=11)
        self.classes, self.labels, self.names = scenes.classes, scenes.labels, scenes.names
        self.fingerprint = scenes.fingerprint
        self.pictures = [scenes[n][0] for n in range(count)]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.pictures[index], int(self.labels[index])


@cache
def demo() -> tuple[nn.Module, dv.Network, Preprocess, Kept]:
    loaded = dv.load_model("demo")
    preprocess = Preprocess.from_dict(loaded.settings)
    return loaded.model.eval(), dv.capture(loaded.model, preprocess.shape), preprocess, Kept(64)


SHORT = Phase("attention", epochs=2, batch_size=16, lr=0.3, decay=0.5)
ADAM: dict[str, Any] = {"optimiser": "adam", "lr": 3e-3, "bias_lr": 1.0, "decay": 0.1, "every": 4000, "batch_size": 16}
SELECTOR = Phase("selector", epochs=1, fakes=0.5, parameters=("embedding",), **ADAM)
MASKS = Phase("masks", epochs=2, fakes=0.3, **ADAM)


def learn(name: str, out: pathlib.Path, *phases: Phase, **given: Any) -> Learned:
    _, network, preprocess, scenes = demo()
    many = LEARNED[name].many
    given = {"options": {"width": 8} if many else {}, "workers": 1, "progress": False, "seed": 2, **given}
    layers = given.pop("layers", ["relu2", "relu5"] if many else ["relu5"])
    phases = phases or ((SELECTOR, MASKS) if many else (SHORT,))
    source = given.pop("images", scenes)
    return train_explainer(name, network, source, layers, out, preprocess=preprocess, phases=phases, **given)


def rows(out: pathlib.Path) -> list[dict[str, str]]:
    """The CSV but for the seconds."""
    with out.with_suffix(".csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        assert float(row.pop("seconds")) >= 0
    return found


def same_files(one: pathlib.Path, two: pathlib.Path) -> None:
    a, b = (torch.load(path, weights_only=True) for path in (one, two))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert rows(one) == rows(two) and one.with_suffix(".json").read_text() == two.with_suffix(".json").read_text()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("name", NAMES[:2])
def test_training_against_plain_torch(tmp_path: pathlib.Path, name: str, labels: bool) -> None:
    """Two epochs by hand: order, classes, loss, Nesterov steps, rates of weights and biases; and the CSV."""
    model, _, preprocess, scenes = demo()
    phase = Phase(
        "attention", epochs=2, batch_size=24, lr=0.2, decay=0.5, momentum=0.8, weight_decay=0.01, augment=False
    )
    mapping = np.roll(np.arange(10), 3)  # no label explains its own class
    out = tmp_path / "e.pth"
    first = new_explainer(name, Frozen(demo()[1], ["relu5"], preprocess, "fp32"), {}, 2)
    trained = learn(name, out, phase, outputs=mapping if labels else None)

    w = first.state_dict()["attention.weight"][:, :, 0, 0].clone().requires_grad_()
    b = first.state_dict()["attention.bias"].clone().requires_grad_()
    speed = [torch.zeros_like(w), torch.zeros_like(b)]
    x = torch.stack([preprocess(picture) for picture in scenes.pictures])
    black = torch.tensor([-m / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)])[:, None, None]
    last = list(dict(model.named_children())).index("relu5") + 1
    parts = nn.Sequential(*list(model.children())[:last]), nn.Sequential(*list(model.children())[last:])
    for epoch in range(2):
        order = np.random.default_rng([2, 0, epoch]).permutation(64)
        sums = Counter[str]()
        for start in range(0, 64, 24):
            chosen = order[start : start + 24]
            n = len(chosen)
            with torch.no_grad():
                a = parts[0](x[chosen])
                y = torch.from_numpy(mapping[scenes.labels[chosen]]) if labels else parts[1](a).argmax(1)
            attention = (torch.einsum("rk,nkhw->nrhw", w, a) + b[:, None, None])[torch.arange(n), y].sigmoid()
            if name == "l-cam-fm":
                logits = parts[1](a * attention[:, None])
            else:
                mask = nn.functional.interpolate(attention[:, None], (64, 64), mode="bilinear")
                logits = model((x[chosen] - black) * mask + black)
            d, q = attention.diff(dim=1), attention.diff(dim=2)
            edges = [attention[:, 0], attention[:, -1], attention[:, :, 0], attention[:, :, -1]]
            tv = (d.pow(2).sum() + q.pow(2).sum() + 0.3 * sum(e.pow(2).sum() for e in edges)) / (2 * n)
            ce = nn.functional.cross_entropy(logits, y)
            terms = {
                "smoothness": 0.01 * tv,
                "area": 2 * ((attention + 0.0005) ** 0.3).mean(),
                "cross_entropy": 1.5 * ce,
            }
            loss = terms["smoothness"] + terms["area"] + terms["cross_entropy"]
            right = (logits.argmax(1) == y).double().mean()
            for key, value in {**terms, "loss": loss, "right": right}.items():
                sums[key] += float(value.detach()) * n  # type: ignore[assignment]
            gradients = torch.autograd.grad(loss, [w, b])
            with torch.no_grad():
                for p, g, v, factor in zip((w, b), gradients, speed, (1, 2), strict=True):
                    g = g + 0.01 * p
                    v.mul_(0.8).add_(g)
                    p -= 0.2 * 0.5**epoch * factor * (g + 0.8 * v)
        row, recorded = rows(out)[epoch], trained.history[epoch]
        assert row["phase"] == "attention" and int(row["epoch"]) == epoch + 1
        assert float(row["lr"]) == pytest.approx(0.2 * 0.5**epoch)
        for key, total in sums.items():
            assert float(row[key]) == pytest.approx(total / 64, rel=1e-3, abs=1e-6), key
            assert float(row[key]) == pytest.approx(recorded[key], rel=1e-6)
    found = torch.load(out, weights_only=True)
    assert torch.allclose(found["attention.weight"][:, :, 0, 0], w, atol=2e-4)
    assert torch.allclose(found["attention.bias"], b, atol=2e-4)
    assert float((w.detach() - first.state_dict()["attention.weight"][:, :, 0, 0]).abs().max()) > 0.01


def test_terms_in_the_csv_add_up_and_crops_matter(tmp_path: pathlib.Path) -> None:
    """Weighted terms sum to the loss; crops are drawn from the seed: the same again, others with another one."""
    plain, again, other = (learn("l-cam-fm", tmp_path / f"{n}.pth", seed=s) for n, s in enumerate((2, 2, 3)))
    same_files(plain.path, again.path)
    assert [{**record, "seconds": 0} for record in plain.history] == [{**r, "seconds": 0} for r in again.history]
    assert plain.history[0]["loss"] != other.history[0]["loss"]
    still = learn("l-cam-fm", tmp_path / "still.pth", replace(SHORT, augment=False))
    assert still.history[0]["loss"] != plain.history[0]["loss"]
    for row in rows(plain.path):
        total = sum(float(row[term]) for term in ("smoothness", "area", "cross_entropy"))
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5) and 0 <= float(row["right"]) <= 1


def test_phases_in_order(tmp_path: pathlib.Path) -> None:
    """First the selector, which changes the embedding alone; then everything; and the defaults are the authors'."""
    _, network, preprocess, _ = demo()
    first = new_explainer("real-time-masking", Frozen(network, ["relu2", "relu5"], preprocess, "fp32"), {"width": 8}, 2)
    half = learn("real-time-masking", tmp_path / "half.pth", SELECTOR).explainer.state_dict()
    for key, value in first.state_dict().items():
        assert torch.equal(half[key], value) == (key != "embedding.weight"), key
    head = learn(
        "real-time-masking", tmp_path / "head.pth", replace(MASKS, epochs=1, parameters=("head", "joins.0.norm"))
    )
    for key, value in first.state_dict().items():
        assert torch.equal(head.explainer.state_dict()[key], value) != key.startswith(("head", "joins.0.norm")), key
    whole = learn("real-time-masking", tmp_path / "whole.pth")
    assert [(r["phase"], r["epoch"]) for r in whole.history] == [("selector", 1), ("masks", 1), ("masks", 2)]
    assert whole.history[0]["exists"] == pytest.approx(whole.history[0]["loss"]) and "area" not in whole.history[0]
    state = whole.explainer.state_dict()
    assert all(not torch.equal(state[key], half[key]) for key in state)
    selector, masks = first.schedule()
    assert (selector.steps, selector.batch_size, selector.fakes, selector.every) == (8500, 128, 0.5, 4000)
    assert (masks.steps, masks.batch_size, masks.fakes, masks.lr, masks.weight_decay) == (3000, 64, 0.3, 1e-3, 1e-4)
    (attention,) = made("l-cam-fm").schedule()
    assert (attention.epochs, attention.batch_size, attention.lr, attention.bias_lr) == (26, 64, 1e-4, 2)
    assert (attention.decay, attention.momentum, attention.weight_decay) == (0.95, 0.9, 5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_learns_about_the_same(tmp_path: pathlib.Path, name: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, 4),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2),
        nn.ReLU(),
        nn.AvgPool2d(7),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()
    network, many = dv.capture(model, (3, 64, 64)), LEARNED[name].many
    losses = []
    for precision in ("fp32", "bf16"):
        trained = train_explainer(
            name,
            network,
            demo()[3],
            ["1", "3"] if many else ["3"],
            tmp_path / f"{precision}.pth",
            workers=1,
            preprocess=Preprocess(72, 64, (0.5,) * 3, (0.25,) * 3),
            phases=(MASKS if many else SHORT,),
            options={"width": 8} if many else {},
            outputs=np.arange(10) % 5,
            precision=precision,
            progress=False,
        )
        assert all(value.dtype == torch.float32 for value in trained.explainer.state_dict().values())
        assert all(t.dtype == torch.float32 for t in network.tensors.values())
        losses.append([record["loss"] for record in trained.history])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.02)  # later the steps themselves differ
    assert losses[1] == pytest.approx(losses[0], rel=0.1) and losses[1] != losses[0]


def test_more_epochs_and_other_options(tmp_path: pathlib.Path) -> None:
    """A finished training goes on as if it had been longer; another training over it changes nothing."""
    out, straight = tmp_path / "e.pth", tmp_path / "straight" / "e.pth"
    straight.parent.mkdir()
    learn("l-cam-fm", out, replace(SHORT, epochs=1))
    grown = learn("l-cam-fm", out)
    learn("l-cam-fm", straight)
    same_files(out, straight)
    assert [record["epoch"] for record in grown.history] == [1, 2]
    learn("l-cam-fm", out)  # the same once more changes nothing
    same_files(out, straight)
    before = contents(tmp_path)
    for asked, phase in (
        ({"seed": 3}, SHORT),
        ({"options": {"area": 3.0}}, SHORT),
        ({"layers": ["relu4"]}, SHORT),
        ({"precision": "bf16"}, SHORT),
        ({"outputs": np.arange(10)}, SHORT),
        ({"images": Kept(40)}, SHORT),
        ({}, replace(SHORT, lr=0.2)),
        ({}, replace(SHORT, batch_size=8)),
    ):
        with pytest.raises(MismatchError, match="choose another --out"):
            learn("l-cam-fm", out, phase, **asked)
    with pytest.raises(MismatchError, match="method"):
        learn("l-cam-img", out)
    out.with_suffix(".training.pth").rename(tmp_path / "away")
    with pytest.raises(DataError, match="go on from"):
        learn("l-cam-fm", out)
    (tmp_path / "away").rename(out.with_suffix(".training.pth"))
    assert contents(tmp_path) == before


# --- a third explainer, as a user would write one


class Corners(LearnedExplainer):
    """One number a class and place, whatever the image: the map that a class has on average. For this test only."""

    name = "corners"
    fail_at: int = -1
    seen: list[tuple[list[int], list[bool], torch.dtype]] = []  # noqa: RUF012

    def __init__(self, layers: Mapping[str, tuple[int, ...]], outputs: int, *, area: float = 2.0) -> None:
        super().__init__(layers, outputs, area=area)
        ((self.layer, shape),) = layers.items()
        self.places = nn.Parameter(torch.zeros(outputs, *shape[1:]))

    def forward(self, values: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        return self.places[classes]

    def terms(self, batch: Batch, phase: str) -> tuple[dict[str, Tensor], Tensor]:
        mask = self(batch.values, batch.classes).sigmoid()
        logits = batch.after(mask[:, None] * batch.values[self.layer])
        Corners.seen.append((batch.classes.tolist(), batch.real.tolist(), logits.dtype))
        loss = nn.functional.cross_entropy(logits, batch.classes)
        if len(Corners.seen) == Corners.fail_at:
            loss = loss * math.nan
        area = self.options["area"] * base.area(mask, 0.3)
        return {"cross_entropy": loss, "area": area}, logits.argmax(1) == batch.classes

    @classmethod
    def schedule(cls) -> tuple[Phase, ...]:
        return (Phase("corners", epochs=2, batch_size=16, lr=20.0),)


@pytest.fixture
def corners() -> Iterator[type[Corners]]:
    base.learned(Corners)
    Corners.seen, Corners.fail_at = [], -1
    yield Corners
    del LEARNED._entries["corners"], METHODS._entries["corners"]


def test_a_third_explainer(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    """Less than 60 lines of its own, and it trains, is saved, and explains by its file in one pass."""
    import inspect

    assert len(inspect.getsource(corners).splitlines()) < 60
    _, network, preprocess, scenes = demo()
    trained = train_explainer(
        "corners", network, scenes, ["relu5"], tmp_path / "c.pth", preprocess=preprocess, progress=False
    )
    assert trained.history[-1]["loss"] < trained.history[0]["loss"] and len(trained.history) == 2
    explainer = cam("corners", network, explainer=str(tmp_path / "c.pth"))
    x = torch.stack([preprocess(picture) for picture in scenes.pictures[:3]])
    found = explainer(x, [1, 1, 4])
    assert explainer.passes == Counter(forward=3) and torch.equal(found[0], found[1])
    places = torch.load(tmp_path / "c.pth", weights_only=True)["places"][4].double().numpy()
    np.testing.assert_allclose(found[2].numpy(), r.resize(r.mm(places), (64, 64)), atol=1e-6)
    assert "One number a class" in METHODS["corners"].source


def test_decisions_labels_and_fakes(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    """Explained are the network's decisions, or labels; a fake is any other class, for its share of the images."""
    model, _, preprocess, scenes = demo()
    phase = Phase("corners", epochs=1, batch_size=64, lr=0.1, augment=False)
    order = np.random.default_rng([2, 0, 0]).permutation(64)
    with torch.no_grad():
        own = model(torch.stack([preprocess(scenes.pictures[n]) for n in order])).argmax(1)
    learn("corners", tmp_path / "own.pth", phase)
    assert corners.seen[0][:2] == (own.tolist(), [True] * 64)
    mapping = np.roll(np.arange(10), 4)
    learn("corners", tmp_path / "labels.pth", phase, outputs=mapping)
    assert corners.seen[1][0] == mapping[scenes.labels[order]].tolist()
    unknown = Kept(64)
    unknown.labels = np.where(np.arange(64) % 2, unknown.labels, -1)
    learn("corners", tmp_path / "some.pth", phase, outputs=mapping, images=unknown)
    assert len(corners.seen[2][0]) == 32
    corners.seen = []
    learn("corners", tmp_path / "fakes.pth", replace(phase, epochs=6, fakes=0.3))
    fakes = 0
    for epoch, (classes, real, _) in enumerate(corners.seen):
        with torch.no_grad():
            order = np.random.default_rng([2, 0, epoch]).permutation(64)
            own = model(torch.stack([preprocess(scenes.pictures[n]) for n in order])).argmax(1)
        assert [c == o for c, o in zip(classes, own.tolist(), strict=True)] == real
        fakes += real.count(False)
    assert 0.2 < fakes / (6 * 64) < 0.4
    corners.seen = []
    with pytest.raises(DataError, match="no folder"):
        learn("corners", tmp_path / "none" / "e.pth", phase)
    assert not corners.seen  # told before the first step
    with pytest.raises(DataError, match="no image has a known class"):
        unknown.labels = np.full(64, -1)
        learn("corners", tmp_path / "none.pth", phase, outputs=mapping, images=unknown)


def test_a_loss_that_is_not_finite(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    """The last good state stays, and from it the training ends as one that never failed."""
    straight, out = tmp_path / "straight.pth", tmp_path / "e.pth"
    learn("corners", straight, replace(SHORT, epochs=3))
    corners.seen, corners.fail_at = [], 7  # the third step of the second epoch
    with pytest.raises(TrainingError, match="step 6"):
        learn("corners", out, replace(SHORT, epochs=3))
    one_epoch = learn("corners", tmp_path / "one.pth", replace(SHORT, epochs=1))
    assert torch.equal(torch.load(out, weights_only=True)["places"], one_epoch.explainer.state_dict()["places"])
    assert len(rows(out)) == 1
    learn("corners", out, replace(SHORT, epochs=3))
    same_files(out, straight)


# --- what is claimed of the terms


def measured(explainer: LearnedExplainer) -> tuple[float, float]:
    """Mean area and total variation of the maps in 0..1 that the network's decisions have; masks at the image's size,
    as their loss takes them."""
    _, network, preprocess, scenes = demo()
    x = torch.stack([preprocess(picture) for picture in scenes.pictures[:16]])
    with torch.no_grad():
        values, logits = network.observed(x, list(explainer.layers))
        classes = logits.argmax(1)
        if isinstance(explainer, RealTimeMasking):
            maps = explainer.masks(values, classes, 0.0).double().numpy()
            return float(maps.mean()), rl.total_variation(r.resize(maps, (64, 64)))
        maps = rl.sigmoid(explainer(values, classes).double().numpy())
    return float(maps.mean()), rl.total_variation(maps)


AREAS, FINE = {"l-cam-fm": (0.0, 2.0, 20.0), "real-time-masking": (0.0, 30.0, 300.0)}, (0.0, 0.3, 3.0)
WEIGHTS = [(name, term) for name in NAMES for term in ("area", "smoothness")]


@pytest.mark.parametrize(("name", "term"), WEIGHTS)
def test_terms_do_what_they_claim(tmp_path: pathlib.Path, name: str, term: str) -> None:
    """The more the area weighs the smaller the maps, the more smoothness weighs the smoother they are."""
    many, found = LEARNED[name].many, []
    steps = replace(MASKS, lr=1e-2) if many else replace(SHORT, lr=0.2, decay=1.0)
    for n, weight in enumerate(AREAS.get(name, AREAS["l-cam-fm"]) if term == "area" else FINE):
        options = {"width": 8, term: weight} if many else {term: weight}
        trained = learn(name, tmp_path / f"{n}.pth", replace(steps, augment=False), options=options)
        found.append(measured(trained.explainer)[0 if term == "area" else 1])
    assert found[0] > 1.01 * found[1] > 1.01**2 * found[2], found


# --- defects that stand


def test_the_explainer_that_training_returns_knows_its_network(tmp_path: pathlib.Path) -> None:
    """It is refused for another network just as its file is."""
    _, network, *_ = demo()
    trained = learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1))
    other = network.replaced(
        network.graph, {k: t * 1.01 if t.is_floating_point() else t for k, t in network.tensors.items()}
    )
    with pytest.raises(MismatchError):
        cam("l-cam-fm", other, explainer=str(trained.path))
    with pytest.raises(MismatchError):
        cam("l-cam-fm", other, explainer=trained.explainer)


def test_another_mapping_of_labels_is_another_training(tmp_path: pathlib.Path) -> None:
    learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1), outputs=np.arange(10))
    with pytest.raises(MismatchError):
        learn("l-cam-fm", tmp_path / "e.pth", outputs=np.arange(10)[::-1].copy())


@pytest.mark.parametrize("outputs", [np.full(10, 99), np.arange(4), np.full(10, -1)])
def test_outputs_that_do_not_fit(tmp_path: pathlib.Path, outputs: NDArray[np.int64]) -> None:
    with pytest.raises(DeconvvizError):
        learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1), outputs=outputs)


@pytest.mark.parametrize("wrong", [{"optimiser": "rmsprop"}, {"fakes": 1.5}, {"bias_lr": -1.0}, {"momentum": 1.0}])
def test_more_wrong_phases(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Phase("x", **wrong)


UNCHECKED: dict[str, Callable[[pathlib.Path], Any]] = {
    "a width that is no multiple of 4": lambda out: made("real-time-masking", width=6),
    "a weight that is no number": lambda out: made("real-time-masking", area=math.nan),
    "a negative power": lambda out: made("real-time-masking", power=-1.0),
    "deep layers first": lambda out: learn("real-time-masking", out, SELECTOR, layers=["relu5", "relu2"]),
    "nothing to learn": lambda out: learn("l-cam-fm", out, replace(SHORT, parameters=("embedding",))),
    "never commit": lambda out: learn("l-cam-fm", out, commit_every=0),
}


@pytest.mark.parametrize("case", UNCHECKED)
def test_more_that_is_wrong(tmp_path: pathlib.Path, case: str) -> None:
    with pytest.raises(DeconvvizError):
        UNCHECKED[case](tmp_path / "e.pth")


@pytest.mark.parametrize("kind", [((9, 3, 2), 4), ((5, 3, 2), 2)])
def test_an_explainer_made_for_other_shapes(kind: tuple[tuple[int, ...], int]) -> None:
    shape, outputs = kind
    explainer = LEARNED["l-cam-fm"]({"4": shape}, outputs).double()
    with pytest.raises(DeconvvizError):
        cam("l-cam-fm", tiny_net()[1], explainer=explainer)(images(1)[1], 3)


def test_fewer_epochs_than_are_done(tmp_path: pathlib.Path) -> None:
    """The configuration says how long the explainer was trained."""
    out = tmp_path / "e.pth"
    learn("l-cam-fm", out)
    with pytest.raises(MismatchError):
        learn("l-cam-fm", out, replace(SHORT, epochs=1))


def test_files_of_others_are_left(tmp_path: pathlib.Path) -> None:
    (tmp_path / "e.csv").write_text("precious")
    with pytest.raises(DataError):
        learn("l-cam-fm", tmp_path / "e.pth", replace(SHORT, epochs=1))


def test_weights_that_are_not_finite_are_not_kept(tmp_path: pathlib.Path, corners: type[Corners]) -> None:
    with pytest.raises(TrainingError):
        learn("corners", tmp_path / "e.pth", replace(SHORT, epochs=4, lr=1e38), commit_every=1)
    kept = read_file(tmp_path / "e.training.pth")["state_dict"]
    assert all(value.isfinite().all() for value in kept.values())


def test_names_that_differ_behind_a_dot(tmp_path: pathlib.Path) -> None:
    """Such as those of a grid of weights."""
    with contextlib.suppress(DataError):
        learn("l-cam-fm", tmp_path / "area-0.1", replace(SHORT, epochs=1))
        learn("l-cam-fm", tmp_path / "area-0.2", replace(SHORT, epochs=1))
    assert not (tmp_path / "area-0.json").exists()


# --- killed and continued

JOBS = ("l-cam-fm", "real-time-masking")
FILES = ("e.training.pth", "e.json", "e.pth", "e.csv")  # of a commit, in this order
MOVES = (6, 1, 2, 3, 4, 5, 7, 0, 0)  # before which move of a file into place a process is killed; 0: at any moment


class Training(Job):
    """A process that trains an explainer, commits after every step, and may kill itself when it would move a file."""

    def __init__(self, folder: pathlib.Path, name: str, move: int = 0) -> None:
        self.name, self.move = name, move
        super().__init__(folder, [], FILES[0])

    def _work(self) -> int:
        moves, replaced = 0, pathlib.Path.replace

        def counted(path: pathlib.Path, target: Any) -> Any:
            nonlocal moves
            moves += 1
            if moves == self.move:
                os.kill(os.getpid(), signal.SIGKILL)
            return replaced(path, target)

        pathlib.Path.replace = counted  # type: ignore[method-assign, assignment]
        learn(self.name, self.folder / "e.pth", commit_every=1)
        return 0

    def dies(self, rng: random.Random) -> bool:
        """Wait until it kills itself, or kill it; false where it came to its end before that."""
        if self.move:
            return os.WIFSIGNALED(os.waitpid(self.process, 0)[1])
        self.commits()
        time.sleep(rng.uniform(0, 0.05))
        return self.kill()


def program(root: pathlib.Path) -> None:
    """Train each twice, once with kills; print what each kill left, as JSON."""
    demo()
    assert len(list(pathlib.Path("/proc/self/task").iterdir())) == 1  # other threads would not survive a fork
    found: dict[str, Any] = {}
    for name in JOBS:
        straight, folder = root / name / "straight", root / name / "killed"
        straight.mkdir(parents=True)
        folder.mkdir()
        job = Training(straight, name)
        while job.runs():
            time.sleep(0.01)
        rng, kills = random.Random(1), list[tuple[int, int]]()
        for move in MOVES:
            died = Training(folder, name, move).dies(rng)
            assert died or not move, f"{name} ended before it could be killed ({move})"  # at any moment: or after it
            state = read_file(folder / FILES[0])
            kills.append((state["phase"], state["step"]))
        job = Training(folder, name)
        while job.runs():
            time.sleep(0.01)
        found[name] = {"kills": kills, "parts": sorted(p.name for p in folder.iterdir() if p.name.endswith(".part"))}
    print(json.dumps(found))


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has imported torch")
def test_killed_and_continued(tmp_path: pathlib.Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in JOBS:
        kills = [tuple(kill) for kill in found[name]["kills"]]
        assert len(kills) == len(MOVES) and kills == sorted(kills) and len(set(kills)) >= 6, found
        for file in FILES:
            assert any(part.startswith(f".{file}.") for part in found[name]["parts"]), (file, found)
        same_files(tmp_path / name / "killed" / "e.pth", tmp_path / name / "straight" / "e.pth")


if __name__ == "__main__":
    program(pathlib.Path(sys.argv[1]))
