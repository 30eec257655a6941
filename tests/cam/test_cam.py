"""Every registered method against its replica, the identities between methods, and what surrounds them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import replicas as r
import replicas_attribution as ra
import replicas_learned as rl
import replicas_masks as rm
import replicas_optimised as ro
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.cam import shaping
from deconvviz.cam.captured import Captured
from deconvviz.cam.engine import View
from deconvviz.cam.explain import ConstantMapWarning, cam
from deconvviz.cam.learned.base import LEARNED, LearnedExplainer
from deconvviz.cam.methods import images, scales, surrogates
from deconvviz.cam.options import ExplainOptions
from deconvviz.cam.registry import METHODS
from deconvviz.cam.superpixels import superpixels
from deconvviz.errors import (
    CamError,
    CaptureError,
    DataError,
    DeconvvizError,
    LayerNotFound,
    TargetError,
    require_choice,
)
from deconvviz.graph.choose import last_maps

SIZE, TARGET, SEED = (14, 11), 2, 5
Net = tuple[nn.Sequential, dv.Network]


def pooled() -> nn.Sequential:
    """Global pooling and one linear layer; 13 maps, so that no quantile falls on a value."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 13, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(13, 5),
    )


def deep() -> nn.Sequential:
    """More layers after the one explained, none of them linear in it."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 13, 3),
        nn.ReLU(),
        nn.Conv2d(13, 7, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 2, 9),
        nn.ReLU(),
        nn.Linear(9, 5),
    )


@pytest.fixture(scope="module", params=[pooled, deep])
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(SEED)
    model = request.param().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.7)
        if request.param is pooled:  # so that the rectified maps are not all zero
            model[-1].weight[TARGET].abs_()
    return model, dv.capture(model, (3, *SIZE))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(1, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))


def case(model: nn.Sequential, x: Tensor, layer: int = 4) -> r.Case:
    return r.case_of(model[: layer + 1], model[layer + 1 :], x[0], TARGET)


def view(network: dv.Network, x: Tensor) -> View:
    """What a method is given; for the random numbers it draws."""
    captured = Captured(network)
    return View(captured, captured, x, "4", TARGET, ExplainOptions(seed=SEED))


# name -> options, and the replica of the raw map for (model, network, x, case)
TRANSFORMERS = ("attention-rollout", "legrad")  # theirs are in test_attention.py
Replica = Callable[[nn.Sequential, dv.Network, Tensor, r.Case], Any]
NOISE = 3


def noise_of(network: dv.Network, x: Tensor) -> np.ndarray[Any, Any]:
    """The noise that SS-CAM draws, [n, K, H, W]: variants count channel by channel."""
    drawn = view(network, x).noise(torch.arange(13 * NOISE), SIZE).numpy()
    return drawn.reshape(13, NOISE, *SIZE).transpose(1, 0, 2, 3)


def colours(signal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.abs(signal).max(0)


def smooth_noise(network: dv.Network, x: Tensor) -> np.ndarray[Any, Any]:
    v = view(network, x)
    spread = 0.2 * float(x.max() - x.min())
    return np.stack([spread * v.noise(torch.tensor([i]), (3, *SIZE))[0].numpy() for i in range(4)])


def layers_of(model: nn.Sequential, x: Tensor) -> list[tuple[Any, Any]]:
    return [(c.a, c.g) for c in (case(model, x, 1), case(model, x, 4))]


def sess_by_replica(model: nn.Sequential, network: dv.Network, x: Tensor, _: r.Case) -> Any:
    boxes, parts = scales._windows(x, 3, 6)
    cases = [r.case_of(model[:5], model[5:], part, TARGET) for part in parts]
    maps = [r.mm(r.resize(r.grad_cam(c), SIZE)) for c in cases]
    probabilities = np.array([rm.probability(c, c.x) for c in cases])
    return rm.sess(maps, probabilities, boxes, SIZE, blur=(3, 3 * 5 / 11))  # 11 of 224 px are less than 3 of 11


def learned(name: str) -> LearnedExplainer:
    """An untrained explainer of either network: both have the same maps in layers 1 and 4."""
    torch.manual_seed(SEED)
    shallow = {"1": (6, *SIZE)} if LEARNED[name].many else {}
    explainer = LEARNED[name]({**shallow, "4": (13, 5, 3)}, 5).double().eval()
    explainer.input_shape = (3, *SIZE)
    return explainer


EXPLAINERS = {name: {"explainer": learned(name)} for name in ("l-cam-fm", "l-cam-img", "real-time-masking", "bump")}


def class_map(name: str, c: r.Case) -> Any:
    state = {key: value.numpy() for key, value in EXPLAINERS[name]["explainer"].state_dict().items()}
    return rl.class_maps(state["attention.weight"][:, :, 0, 0], state["attention.bias"], c.a)[TARGET]


def drawn_mask(model: nn.Sequential, x: Tensor, c: r.Case) -> Any:
    state = {key: value.numpy() for key, value in EXPLAINERS["real-time-masking"]["explainer"].state_dict().items()}
    return rl.drawn_mask(state, [case(model, x, 1).a, c.a], TARGET, 6.0)


def drawn_bump(model: nn.Sequential, x: Tensor, c: r.Case) -> Any:
    state = {key: value.numpy() for key, value in EXPLAINERS["bump"]["explainer"].state_dict().items()}
    return rl.drawn_bump(state, [case(model, x, 1).a, c.a], TARGET, SIZE)


def layers_for(name: str) -> str | list[str] | None:
    needs = METHODS[name].needs
    return None if needs in ("image", "trained") else ["1", "4"] if needs == "layers" else "4"


EXTREMAL: dict[str, Any] = {"steps": 3, "area": 0.3, "step": 1, "sigma": 1, "blur": 2}
REPLICAS: dict[str, list[tuple[dict[str, Any], Replica]]] = {
    "cam": [({}, lambda m, n, x, c: r.cam(c, m[-1].weight.detach().numpy()))],
    "grad-cam": [({}, lambda m, n, x, c: r.grad_cam(c))],
    "grad-cam++": [({}, lambda m, n, x, c: r.grad_cam_pp(c, shift=c.head(c.a)[TARGET]))],
    "xgrad-cam": [({}, lambda m, n, x, c: r.xgrad_cam(c))],
    "hirescam": [({}, lambda m, n, x, c: r.hires_cam(c))],
    "layercam": [({}, lambda m, n, x, c: r.layer_cam(c))],
    "abs-cam": [({}, lambda m, n, x, c: r.abs_cam(c))],
    "eigen-cam": [({}, lambda m, n, x, c: r.eigen_cam(c))],
    "eigengrad-cam": [({}, lambda m, n, x, c: r.eigengrad_cam(c))],
    "ablation-cam": [({}, lambda m, n, x, c: r.ablation_cam(c))],
    "score-cam": [
        ({}, lambda m, n, x, c: rm.score_cam(c)),
        ({"weights": "increase"}, lambda m, n, x, c: rm.score_cam(c, increase=True)),
    ],
    "ss-cam": [({"samples": NOISE, "sigma": 0.5}, lambda m, n, x, c: rm.ss_cam(c, 0.5 * noise_of(n, x)))],
    "is-cam": [({"samples": 4}, lambda m, n, x, c: rm.is_cam(c, 4))],
    "group-cam": [
        (
            {"groups": 4, "blur": (5, 2.0)},
            lambda m, n, x, c: rm.group_cam(c, shaping.gaussian_blur(x, 5, 2.0)[0].numpy(), groups=4),
        )
    ],
    "fd-cam": [({}, lambda m, n, x, c: r.fd_cam(c))],
    "recipro-cam": [
        ({"gaussian": False}, lambda m, n, x, c: r.recipro_cam(c)),
        ({}, lambda m, n, x, c: r.recipro_cam(c, gaussian=True)),
    ],
    "shap-cam": [({"permutations": 3}, lambda m, n, x, c: r.shap_cam(c, orders(c, 3))[0])],
    "sidu": [({}, lambda m, n, x, c: rm.sidu(c))],
    "sise": [({}, lambda m, n, x, c: rm.sise(c, layers_of(m, x)))],
    "ada-sise": [({}, lambda m, n, x, c: rm.ada_sise(c, layers_of(m, x)))],
    "rise": [({"masks": 20, "cells": 4}, lambda m, n, x, c: rm.rise(c, masks_of(n, x, 20), 0.5))],
    "d-rise": [({"masks": 20, "cells": 4}, lambda m, n, x, c: rm.rise(c, masks_of(n, x, 20), 0.5))],  # of a class
    "occlusion": [({"square": 4, "stride": 3, "fill": 0.3}, lambda m, n, x, c: rm.occlusion(c, 4, 3, 0.3))],
    "sess": [({"scales": 3, "step": 6, "method": "grad-cam"}, sess_by_replica)],
    "gradient": [({}, lambda m, n, x, c: colours(rm.backward(m, c.x, TARGET)))],
    "squared-gradient": [({}, lambda m, n, x, c: rm.squared_gradient(m, c.x, TARGET))],
    "gradient-x-input": [({}, lambda m, n, x, c: rm.gradient_times_input(m, c.x, TARGET))],
    "guided": [({}, lambda m, n, x, c: colours(rm.backward(m, c.x, TARGET, "guided")))],
    "deconvnet": [({}, lambda m, n, x, c: colours(rm.backward(m, c.x, TARGET, "deconvnet")))],
    "smoothgrad": [
        (
            {"samples": 4, "noise": 0.2},
            lambda m, n, x, c: colours(rm.smooth_grad(m, c.x, TARGET, smooth_noise(n, x))),
        )
    ],
    "guided-grad-cam": [({}, lambda m, n, x, c: colours(rm.guided_grad_cam(m, c.x, TARGET, 5)))],
    "lrp-epsilon": [({}, lambda m, n, x, c: rm.lrp_epsilon(m, c.x, TARGET).sum(0))],
    "lrp-zplus": [({}, lambda m, n, x, c: rm.lrp_zplus(m, c.x, TARGET, zennit=True).sum(0))],
    "integrated-gradients": [
        ({"steps": 5, "baseline": 0.2}, lambda m, n, x, c: ra.integrated_gradients(m, c.x, TARGET, 5, 0.2))
    ],
    "deeplift": [({"baseline": 0.2}, lambda m, n, x, c: ra.deeplift(m, c.x, TARGET, 0.2))],
    "full-grad": [
        ({}, lambda m, n, x, c: ra.full_grad(m, c.x, TARGET)),
        ({"scaled": False}, lambda m, n, x, c: ra.full_grad(m, c.x, TARGET, scaled=False)),
    ],
    "lateral-inhibition": [
        ({}, lambda m, n, x, c: ra.lateral_inhibition(m, c.x, TARGET)),
        ({"sigma": 0.6}, lambda m, n, x, c: ra.lateral_inhibition(m, c.x, TARGET, 0.6)),
        ({"sigma": 11, "centred": False}, lambda m, n, x, c: ra.blurred_gradients(m, c.x, TARGET)),
    ],
    "excitation-backprop": [({}, lambda m, n, x, c: ra.excitation(m, c.x, TARGET, 4))],
    "contrastive-excitation-backprop": [({}, lambda m, n, x, c: ra.excitation(m, c.x, TARGET, 4, True))],
    "lrp-gamma": [
        ({}, lambda m, n, x, c: ra.lrp(m, c.x, TARGET, [ra.box(*ra.pixel_limits(c.x)), *[ra.gamma] * 2][: convs(m)])),
        ({"pixels": "w^2"}, lambda m, n, x, c: ra.lrp(m, c.x, TARGET, [ra.squared, *[ra.gamma] * 2][: convs(m)])),
        ({"pixels": "as the others"}, lambda m, n, x, c: ra.lrp(m, c.x, TARGET, [ra.gamma] * convs(m))),
    ],
    "lrp-composite": [({"pixels": "flat"}, lambda m, n, x, c: ra.lrp(m, c.x, TARGET, by_depth(m)))],
    "lrp-alpha-beta": [
        ({}, lambda m, n, x, c: ra.alpha_beta(m, c.x, TARGET, 2, ra.flat)),
        ({"alpha": 1.5}, lambda m, n, x, c: ra.alpha_beta(m, c.x, TARGET, 1.5, ra.flat)),
    ],
    "finer-cam": [({}, lambda m, n, x, c: ro.finer_cam(c)), ({"references": 9}, lambda m, n, x, c: ro.finer_cam(c, 4))],
    "shapley-cam": [
        ({}, lambda m, n, x, c: ro.shapley_cam(c)),
        ({"utility": "logit"}, lambda m, n, x, c: r.grad_cam(c)),
    ],
    "kpca-cam": [
        ({}, lambda m, n, x, c: ro.kpca_cam(c)),
        ({"kernel": "rbf"}, lambda m, n, x, c: ro.kpca_cam(c, "rbf")),
    ],
    "refine-cam": [
        ({}, lambda m, n, x, c: refined(m, x, lambda each: r.grad_cam_pp(each, shift=each.head(each.a)[TARGET]))),
        ({"base": "hirescam"}, lambda m, n, x, c: refined(m, x, r.hires_cam)),
    ],
    "lime": [
        (
            {"segments": 6, "samples": 30, "compactness": 1000},
            lambda m, n, x, c: ro.lime(c, *cut(x, 6, lambda count: surrogates._halves(count, 30, SEED))),
        )
    ],
    "kernel-shap": [
        (
            {"segments": 5, "samples": 200, "compactness": 1000},
            lambda m, n, x, c: ro.exact_shapley(c, cut(x, 5)[0]),
        ),
        ({"segments": 9, "samples": 60, "fill": 0.1, "compactness": 1000}, lambda m, n, x, c: shapley_by_draws(x, c)),
    ],
    "mask": [
        (
            {"steps": 4, "cells": 5, "blur": (5, 2.0)},
            lambda m, n, x, c: ro.mask(m, x, shaping.gaussian_blur(x, 5, 2.0), TARGET, 4, (5, 5)),
        )
    ],
    "extremal-perturbation": [
        (EXTREMAL, lambda m, n, x, c: extremal(m, x, "preserve")),
        ({**EXTREMAL, "game": "dual"}, lambda m, n, x, c: extremal(m, x, "dual")),
    ],
    "sparse-attack": [
        (
            {"steps": 3, "mask_steps": 6, "levels": 40},
            lambda m, n, x, c: ro.sparse_attack(m, x, TARGET, 40, 3, 6),
        ),
    ],
    "l-cam-fm": [(EXPLAINERS["l-cam-fm"], lambda m, n, x, c: class_map("l-cam-fm", c))],
    "l-cam-img": [(EXPLAINERS["l-cam-img"], lambda m, n, x, c: class_map("l-cam-img", c))],
    "real-time-masking": [(EXPLAINERS["real-time-masking"], lambda m, n, x, c: drawn_mask(m, x, c))],
    "bump": [(EXPLAINERS["bump"], lambda m, n, x, c: drawn_bump(m, x, c))],
}


def refined(model: nn.Sequential, x: Tensor, method: Callable[[r.Case], Any]) -> Any:
    maps = [r.resize(r.mm(r.relu(method(case(model, x, layer)))), SIZE) for layer in (1, 4)]
    return maps[0] * maps[1]


def cut(x: Tensor, segments: int, rows: Callable[[int], Tensor] | None = None) -> tuple[Any, ...]:
    """The labels of an image's superpixels, and rows that say which of them take part."""
    parts = superpixels(x, segments, 1000)
    assert 3 < parts.counts[0] < 12
    return (parts.labels[0].numpy(), *([] if rows is None else [rows(parts.counts[0]).numpy()]))


def shapley_by_draws(x: Tensor, c: r.Case) -> Any:
    labels, rows = cut(x, 9, lambda count: surrogates.coalitions(count, 60, SEED)[0])
    return ro.drawn_shapley(c, labels, rows, fill=0.1)


def extremal(model: nn.Sequential, x: Tensor, game: str) -> Any:
    return ro.extremal(model, x, pyramid(x), TARGET, 0.3, 3, game)


def pyramid(x: Tensor) -> Tensor:
    """Eight levels of blur, from a deviation of 2 pixels to none."""
    sigmas = [2 * (1 - level / 7) for level in range(8)]
    return torch.cat([shaping.gaussian_blur(x, 2 * math.ceil(3 * s) + 1, s) if s else x for s in sigmas])


def convs(model: nn.Sequential) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model)


def by_depth(model: nn.Sequential) -> list[Any]:
    """Flat, gamma, epsilon of three convolutions; flat and epsilon of two."""
    return [ra.flat, ra.gamma, ra.plain] if convs(model) == 3 else [ra.flat, ra.plain]


def orders(c: r.Case, count: int) -> Any:
    generator = torch.Generator().manual_seed(SEED)
    return torch.stack([torch.randperm(c.a[0].size, generator=generator) for _ in range(count)]).numpy()


def masks_of(network: dv.Network, x: Tensor, count: int) -> Any:
    everyone = torch.arange(count)
    return images.random_masks(view(network, x), count, 4, 0.5)(everyone * 0, everyone).numpy()


def test_every_method_has_a_replica() -> None:
    assert {*REPLICAS, *TRANSFORMERS} == set(METHODS)
    for method in METHODS.values():
        assert len(method.source) > 40, method.name


def require_passes(explainer: Any) -> None:
    """What ran is what the list of methods says; K channels, P positions, and as many windows as fit."""
    listed, used = explainer.method.passes, dict(explainer.passes)
    defaults = {key: value for key, value in explainer.method.options.items() if isinstance(value, int)}
    numbers = {**defaults, **explainer.options, "K": 13, "P": 15, "layers": 2, "windows": 20}
    if explainer.method.name in ("sess", "abs-cam") or explainer.options.get("weights") or "dual" in numbers.values():
        return  # the passes of another method, or an option's, come on top
    for term in listed.removeprefix("up to ").split(", "):
        kind = next(kind for kind in ("tail backward", "tail", "backward", "forward") if term.endswith(kind))
        most, ran = eval(term.removesuffix(kind), {}, numbers), used.pop(kind)
        assert ran == most or (listed.startswith("up to") and ran <= most), (listed, kind, ran)
    assert not used


@pytest.mark.parametrize(
    ("name", "which"), [(name, i) for name, entries in REPLICAS.items() for i in range(len(entries))]
)
def test_against_the_replica(net: Net, x: Tensor, name: str, which: int) -> None:
    model, network = net
    is_pooled = isinstance(model[5], nn.AdaptiveAvgPool2d)
    if name == "cam" and not is_pooled:
        pytest.skip("the method is for the other architecture")
    options, replica = REPLICAS[name][which]
    layer = layers_for(name)
    explainer = cam(name, network, layer, seed=SEED, batch_size=7, **options)
    found = explainer(x, TARGET, raw=True)[0].numpy()
    require_passes(explainer)
    expected = replica(model, network, x, case(model, x))
    assert found.shape == expected.shape and np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


def test_the_other_variants(net: Net, x: Tensor) -> None:
    """Options that no replica covers, by their definition in terms of what one covers."""
    model, network = net
    c = case(model, x)
    stage = r.abs_cam(c)  # its masks cancel the weights: Score-CAM's masks, summed by score
    masks = [r.mm(r.resize(channel, SIZE)) for channel in c.a if np.ptp(channel)]
    expected = sum(rm.probability(c, c.x * m) * m for m in masks)
    found = cam("abs-cam", network, "4", refined=True)(x, TARGET, raw=True)[0].numpy()
    assert stage.shape != found.shape and np.allclose(found, expected, rtol=1e-9)
    live = [k for k in range(13) if np.ptp(c.a[k])]
    weights = r.softmax(np.array([c.model(c.x * m)[TARGET] for m in masks]))
    expected = r.relu(sum(w * r.resize(c.a[k], SIZE) for k, w in zip(live, weights, strict=True)))
    assert np.allclose(cam("score-cam", network, "4", weights="logit")(x, TARGET, raw=True)[0].numpy(), expected)


def test_shapley_error_and_efficiency(net: Net, x: Tensor) -> None:
    model, network = net
    explainer = cam("shap-cam", network, "4", seed=SEED, permutations=5)
    phi = explainer(x, TARGET, raw=True)[0].numpy()
    c = case(model, x)
    _, error = r.shap_cam(c, orders(c, 5))
    assert np.allclose(explainer.extras["standard error"][0].numpy(), error)
    everything = r.softmax(c.head(c.a))[TARGET] - r.softmax(c.head(c.a * 0))[TARGET]
    assert np.isclose(phi.sum(), everything)


def test_layercam_fusion(net: Net, x: Tensor) -> None:
    model, network = net
    maps = [r.layer_cam(case(model, x, layer)) for layer in (1, 4)]
    found = cam("layercam", network, ["1", "4"])(x, TARGET)[0].numpy()
    fused = np.stack([np.tanh(2 * r.mm(r.resize(one, SIZE))) for one in maps]).max(0)
    assert np.allclose(found, r.mm(fused))


@pytest.mark.parametrize("name", list(REPLICAS))
def test_a_batch_is_its_images(net: Net, name: str) -> None:
    """Seven images with mixed targets equal seven calls, whatever the masks at once; nothing is left on parameters."""
    model, network = net
    if name == "cam" and not isinstance(model[5], nn.AdaptiveAvgPool2d):
        pytest.skip("no global pooling")
    x = torch.randn(7, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = [0, 1, 2, 3, 4, 0, 1]
    small: dict[str, Any] = {
        "rise": {"masks": 9},
        "d-rise": {"masks": 9},
        "sess": {"scales": 2, "step": 5},
        "smoothgrad": {"samples": 2},
    }
    small |= {"ss-cam": {"samples": 2}, "shap-cam": {"permutations": 1}, "occlusion": {"square": 4, "stride": 4}}
    small |= {"integrated-gradients": {"steps": 3}, "lime": {"segments": 4, "samples": 8}}
    small |= {"mask": {"steps": 2, "cells": 4}, "extremal-perturbation": {"steps": 2}}
    small |= {"sparse-attack": {"steps": 2, "mask_steps": 3, "levels": 20}}
    small |= {"kernel-shap": {"segments": 4, "samples": 8}}
    small |= EXPLAINERS
    layer = layers_for(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantMapWarning)
        together = cam(name, network, layer, batch_size=32, **small.get(name, {}))(x, targets)
        odd = cam(name, network, layer, batch_size=5, **small.get(name, {}))
        alone = torch.cat([odd(x[n : n + 1], targets[n]) for n in range(7)])
    assert together.shape == (7, *SIZE) and float(together.min()) >= 0 and float(together.max()) <= 1
    assert torch.allclose(together, alone, atol=1e-9)
    assert all(p.grad is None for p in model.parameters())


# --- identities (a network of global pooling and one linear layer)


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer4"), pytest.param("densenet121", "relu", marks=pytest.mark.slow)]
)
def test_identities(network: Callable[[str, int], tuple[nn.Module, dv.Network]], name: str, layer: str) -> None:
    model, net = network(name, 64)
    if layer == "relu":  # the functional rectifier that the pooling reads
        layer = next(reversed([n for n, one in net.layers.items() if one.kind == "relu"]))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    linear = model.fc if name == "resnet18" else model.classifier
    a = net.activations(x, [layer])[layer][0].detach()
    area, c = a[0].numel(), 3
    weight, y = linear.weight.detach()[c], float(net(x)[0, c])

    def raw(method: str, **options: Any) -> Tensor:
        return cam(method, net, layer, **options)(x, c, raw=True)[0]

    expected = torch.einsum("k,khw->hw", weight, a)
    scale = float(expected.abs().max())
    assert torch.allclose(raw("cam"), expected, atol=1e-9 * scale)
    assert torch.allclose(raw("hirescam"), expected / area, atol=1e-9 * scale)
    assert torch.allclose(raw("grad-cam"), expected.relu() / area, atol=1e-9 * scale)
    assert torch.allclose(raw("xgrad-cam"), expected.relu() / area, atol=1e-4 * scale)  # its 1e-6 under the fraction
    layercam = torch.einsum("k,khw->hw", weight.relu(), a) / area
    assert torch.allclose(raw("layercam"), layercam, atol=1e-9 * float(layercam.max()))
    assert float(raw("hirescam").sum()) + float(linear.bias[c]) == pytest.approx(y)
    ablation = torch.einsum("k,khw->hw", weight * a.mean((1, 2)) / abs(y), a).relu()
    assert torch.allclose(raw("ablation-cam"), ablation, atol=1e-9 * max(float(ablation.max()), 1e-9))
    positions = a.flatten(1).T @ linear.weight.detach().T / area + linear.bias.detach()
    assert torch.allclose(raw("recipro-cam", gaussian=False).flatten(), positions.softmax(1)[:, c])


@pytest.mark.slow
def test_cam_of_a_convolutional_classifier(network: Callable[[str, int], tuple[nn.Module, dv.Network]]) -> None:
    """SqueezeNet: the class's map of the last convolution, and Grad-CAM there is that map over its area."""
    _, net = network("squeezenet1_0", 64)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    maps = net.activations(x, ["classifier.1"])["classifier.1"].detach()
    assert torch.allclose(cam("cam", net, "features.12")(x, 7, raw=True), maps[:, 7])
    assert torch.allclose(cam("cam", net, "classifier.1")(x, 7, raw=True), maps[:, 7])
    y = net(x)[:, 7]
    inside = (maps[:, 7] > 0).double()
    weight = inside.mean((1, 2)) / maps[0, 0].numel()
    assert torch.allclose(
        cam("grad-cam", net, "classifier.1")(x, 7, raw=True), (weight[:, None, None] * maps[:, 7]).relu()
    )
    assert y.shape == (2,)


# --- targets, models, layers


def test_targets(net: Net, x: Tensor) -> None:
    _, network = net
    explainer, two = cam("grad-cam", network, "4"), torch.cat([x, -x])
    own = network(two).argmax(1)
    assert torch.equal(explainer(two), explainer(two, own)) and torch.equal(
        explainer(two), explainer(two, own.tolist())
    )
    by_function = explainer(two, lambda out: 2 * out[:, 1] - out[:, 0], raw=True)
    gradient = 2 * cam("hirescam", network, "4")(two, 1, raw=True) - cam("hirescam", network, "4")(two, 0, raw=True)
    assert torch.allclose(cam("hirescam", network, "4")(two, lambda o: 2 * o[:, 1] - o[:, 0], raw=True), gradient)
    assert by_function.shape == (2, *explainer(two, raw=True).shape[1:])
    for target, complaint in ((5, "classes 0 to 4"), (-1, "classes 0 to 4"), ([1], "1 target given for 2 images")):
        with pytest.raises(TargetError, match=complaint):
            explainer(two, target)
    with pytest.raises(TargetError, match="one number for each of 2 images"):
        explainer(two, lambda out: out)


def test_segmentation(x: Tensor) -> None:
    """A model that returns a dictionary of maps, explained through a function of it."""

    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.head(self.body(x)), "aux": x}

    torch.manual_seed(0)
    model = Segmenter().double().eval()
    network = dv.capture(model, (3, *SIZE))
    found = cam("hirescam", network, "body")(x, lambda out: out["out"][:, 1].sum((1, 2)), raw=True)[0]
    a = network.activations(x, ["body"])["body"][0]
    assert torch.allclose(found, torch.einsum("k,khw->hw", model.head.weight.detach()[1, :, 0, 0], a))
    with pytest.raises(TargetError, match="or a function of the output"):
        cam("hirescam", network, "body")(x)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)["out"][:, 1].sum(), leaf)
    on_pixels = cam("gradient", network)(x, lambda out: out["out"][:, 1].sum((1, 2)), raw=True)
    assert torch.allclose(on_pixels, gradient.abs().amax(1))


class Awkward(nn.Module):
    """In-place ReLU after the layer, a module used twice, and a skip connection that passes the layer by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.act = (
            nn.Conv2d(3, 5, 3, padding=1),
            nn.Conv2d(5, 5, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.act(self.stem(x))
        value = self.act(self.conv(stem))
        value = self.act(self.conv(value) + stem)
        return self.head(value.mean((2, 3)))


def test_awkward_networks(x: Tensor) -> None:
    """A layer's value is what the module returned; values that pass it by are kept for each image."""
    torch.manual_seed(0)
    model = Awkward().double().train()
    for p in model.parameters():
        p.requires_grad_(False)
    network = dv.capture(model, (3, *SIZE))
    two = torch.cat([x, -x])
    with torch.no_grad():  # under no_grad and with frozen parameters
        found = cam("hirescam", network, "conv")(two, 1, raw=True)
        ablated = cam("ablation-cam", network, "conv")(two, [1, 3], raw=True)
    assert model.training

    def tail(a: Tensor, stem: Tensor) -> Tensor:
        return model.head(model.act(model.conv(a.relu()) + stem).mean((2, 3)))

    stem = model.stem(two).relu()
    a = model.conv(stem).requires_grad_()
    (g,) = torch.autograd.grad(tail(a, stem.clone())[:, 1].sum(), a)
    assert torch.allclose(found, (g * a.detach()).sum(1))
    for n, target in enumerate((1, 3)):
        y = float(tail(a[n : n + 1], stem[n : n + 1].clone())[0, target])
        weights = []
        for k in range(5):
            changed = a[n : n + 1].detach().clone()
            changed[:, k] = 0
            weights.append((y - float(tail(changed, stem[n : n + 1].clone())[0, target])) / abs(y))
        expected = torch.einsum("k,khw->hw", torch.tensor(weights, dtype=torch.float64), a[n].detach()).relu()
        assert torch.allclose(ablated[n], expected)


def test_what_is_known_does_not_run_again(net: Net, x: Tensor) -> None:
    """The output comes with the layer's value where hooks look on, and with its gradient; of a graph only the head."""
    model, network = net
    runs: list[str] = []
    handle = model.register_forward_hook(lambda *arguments: runs.append("model"))
    for name, expected in {"eigen-cam": 1, "grad-cam": 2, "recipro-cam": 2}.items():
        runs.clear()
        cam(name, model, "4")(x, 1)
        assert len(runs) == expected, name
    handle.remove()
    explained = cam("grad-cam", network, "4")
    explained(x, 1)
    assert dict(explained.passes) == {"forward": 1, "tail backward": 1}
    assert explained.logits is not None and torch.allclose(explained.logits, model(x), atol=1e-12)
    assert explained.scores is not None and torch.allclose(explained.scores, model(x).softmax(1)[:, 1], atol=1e-12)
    assert not explained.output.requires_grad


def test_hooks_are_the_same_and_leave_nothing(net: Net, x: Tensor) -> None:
    """A plain module, explained through hooks, gives what the captured network gives, and is left as it was."""
    model, network = net
    two = torch.cat([x, -x])
    model[2].train()
    for name in ("grad-cam", "ablation-cam", "score-cam", "recipro-cam", "rise"):
        layer = None if name == "rise" else "4"
        options: dict[str, Any] = {"masks": 9} if name == "rise" else {}
        by_hooks = cam(name, model, layer, batch_size=5, **options)(two, [1, 3])
        assert torch.allclose(by_hooks, cam(name, network, layer, **options)(two, [1, 3]), atol=1e-9)
    with pytest.raises(TargetError):
        cam("grad-cam", model, "4")(two, 99)
    with pytest.raises(CamError, match="need its graph"):
        cam("guided", model)(two, 1)
    with pytest.raises(LayerNotFound, match="nearest"):
        cam("grad-cam", model, "44")(two, 1)
    assert model[2].training and not model[4].training
    model[2].eval()
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_transformers(network: Callable[[str, int], tuple[nn.Module, dv.Network]], name: str) -> None:
    _, net = network(name, 224)
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = "encoder.layers.encoder_layer_10" if name == "vit_b_16" else "features"
    found = cam("hirescam", net, layer)(x, 5, raw=True)
    value = net.activations(x, [layer])[layer].detach().requires_grad_()
    (g,) = torch.autograd.grad(net.after(layer, x)(value)[0, 5], value)
    product = (g * value.detach()).sum(-1)
    expected = product[0, 1:].reshape(14, 14) if name == "vit_b_16" else product[0]
    assert torch.allclose(found[0], expected)
    assert net.layer(last_maps(net)).shape == ((768, 14, 14) if name == "vit_b_16" else (768, 7, 7))  # not its heads
    if name == "vit_b_16":
        assert torch.allclose(cam("hirescam", net, layer, tokens=(14, 14))(x, 5, raw=True), found)
        with pytest.raises(CamError, match=r"has 197 of them"):
            cam("hirescam", net, layer, tokens=(20, 20))(x, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "extra"),
    [
        ("vit_tiny_patch16_224", "blocks.10", 1),
        ("deit_tiny_distilled_patch16_224", "blocks.10", 2),
        ("swin_tiny_patch4_window7_224", "layers.3", 0),
    ],
)
def test_timms_transformers(name: str, layer: str, extra: int) -> None:
    """The grid of tokens is found: against the module's own value and gradient, through hooks of the test's own."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=7).eval()
    x = torch.randn(1, 3, 224, 224)
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: kept.append(out))
    output = model(x)
    handle.remove()
    (g,) = torch.autograd.grad(output[0, 5], kept[0])
    product = (g * kept[0]).sum(-1).detach()
    side = 7 if extra == 0 else 14
    expected = product[0, extra:].reshape(side, side) if extra else product[0]
    found = cam("hirescam", dv.capture(model, (3, 224, 224)), layer)(x, 5, raw=True)[0]
    assert found.shape == (side, side) and torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_what_bad_input_gets(net: Net, x: Tensor) -> None:
    model, network = net
    wrong: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (DeconvvizError, "no method named 'grad-cap'; nearest: grad-cam", lambda: cam("grad-cap", network, "4")),
        (CamError, "name one", lambda: cam("grad-cam", model)),
        (LayerNotFound, "no part of the captured model", lambda: cam("grad-cam", network, nn.ReLU())),
        (TargetError, "no class 'tabby'", lambda: cam("grad-cam", network, "4")(x, "tabby")),
        (DataError, "expected a float tensor", lambda: cam("grad-cam", network, "4")("cat.jpg")),
        (LayerNotFound, "no layer 'x'", lambda: cam("grad-cam", network, "x")),
        (CamError, "without rows and columns", lambda: cam("grad-cam", network, str(len(model) - 1))(x)),
        (DataError, "no option 'fast'; its options are: none", lambda: cam("grad-cam", network, "4", fast=1)),
        (DataError, "paper, pytorch-grad-cam", lambda: cam("grad-cam", network, "4", convention="x")),
        (DataError, "mean, max or none", lambda: cam("grad-cam", network, "4", fuse="sum")),
        (DataError, "fp32 or tf32 or bf16 or fp64", lambda: cam("grad-cam", network, "4", precision="fp8")),  # type: ignore[arg-type]
        (DataError, "at least 1", lambda: cam("grad-cam", network, "4", batch_size=0)),
        (DataError, "one of probability", lambda: cam("score-cam", network, "4", weights="x")(x)),
        (CaptureError, "expected", lambda: cam("grad-cam", network, "4")(x[..., :-1])),
    ]
    if not isinstance(model[5], nn.AdaptiveAvgPool2d):
        wrong.append((CamError, "take grad-cam", lambda: cam("cam", network, "4")(x)))
    for kind, complaint, act in wrong:
        with pytest.raises(kind, match=complaint) as error:
            act()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_constant_map_is_zeros_and_a_warning(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = pooled().to(dtype).eval()
    with torch.no_grad():
        model[3].bias.fill_(-100)  # every map is zero behind the rectifier
    network = dv.capture(model, (3, *SIZE))
    for name in METHODS:
        if METHODS[name].needs != "layer":
            continue
        with pytest.warns(ConstantMapWarning, match=f"{name.replace('+', '.')} gave a constant map for image 0"):
            found = cam(name, network, "4")(torch.randn(1, 3, *SIZE).to(dtype), 1)
        assert found.shape == (1, *SIZE) and not found.any() and not found.isnan().any()


def test_conventions() -> None:
    maps = torch.randn(2, 3, 4, dtype=torch.float64)
    paper = shaping.shaped(maps, (9, 8), "paper", False)
    theirs = shaping.shaped(maps, (9, 8), "torch-cam", False)
    for n in range(2):
        assert np.allclose(paper[n].numpy(), r.mm(r.resize(maps[n].numpy(), (9, 8))))
        assert np.allclose(theirs[n].numpy(), r.resize(r.mm(maps[n].numpy()), (9, 8)))
    assert not torch.allclose(paper, theirs)
    corners = shaping.shaped(maps, (9, 8), "torch-cam", True)
    assert torch.allclose(corners[:, 0, 0], shaping.min_max(maps)[:, 0, 0])


def test_random_masks_are_rises(net: Net, x: Tensor) -> None:
    """Each is a bilinear enlargement of a grid of zeros and ones, cut at a shift; half of it is on, on average."""
    made = masks_of(net[1], x, 400)
    assert made.min() >= 0 and made.max() <= 1 and abs(made.mean() - 0.5) < 0.02
    assert len({m.tobytes() for m in made}) > 380
    require_choice("letter", "a", ("a", "b"))
