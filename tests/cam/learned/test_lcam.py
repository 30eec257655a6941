"""L-CAM: its loss against the replica, its attention before any training, and where it may start."""

from __future__ import annotations

import math

import numpy as np
import pytest
import replicas as r
import replicas_learned as rl
import torch
from tiny_explainers import (
    EXPLAINERS,
    TINY_PREPROCESS,
    TINY_SIZE,
    batch_of,
    class_maps,
    lively_explainer,
    state_of,
    tiny_images,
    tiny_net,
    values_at,
)
from torch import nn

import deconvviz as dv
from deconvviz.cam.explain import cam
from deconvviz.errors import (
    CamError,
    DataError,
)
from deconvviz.studies.explainers.frozen import FrozenNetwork, new_explainer


def masked_logits(name: str, model: nn.Sequential, raw: rl.Array, a: rl.Array, masks: rl.Array) -> rl.Array:
    """Logits where the masks [N,h,w] cover the maps, or (resized) the image while it is still in 0..1."""
    with torch.no_grad():
        if name == "l-cam-fm":
            return model[5:](torch.from_numpy(masks[:, None] * a)).numpy()
        covered = r.resize(masks, TINY_SIZE)[:, None] * raw
        mean, std = (np.array(v)[:, None, None] for v in (TINY_PREPROCESS.mean, TINY_PREPROCESS.std))
        return model(torch.from_numpy((covered - mean) / std)).numpy()


@pytest.mark.parametrize("name", EXPLAINERS[:2])
@pytest.mark.parametrize("batch_wide", [False, True])
def test_lcam_loss_against_the_replica(name: str, batch_wide: bool) -> None:
    model, _ = tiny_net()
    (raw, x), classes = tiny_images(3), np.array([2, 0, 2])
    explainer = lively_explainer(name, batch_wide=batch_wide)
    terms, right = explainer.terms(batch_of(name, x, classes.tolist()), name)
    a = values_at(model, x, "4")
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
    _, x = tiny_images(3)
    batch = batch_of("l-cam-fm", x, [1, 0, 3])
    plain, _ = lively_explainer("l-cam-fm").terms(batch, "")
    scaled, _ = lively_explainer("l-cam-fm", smoothness=0.03, area=8.0, cross_entropy=0.75).terms(batch, "")
    for term, factor in (("smoothness", 3), ("area", 4), ("cross_entropy", 0.5)):
        assert float(scaled[term]) == pytest.approx(factor * float(plain[term]))
    alone, _ = lively_explainer("l-cam-fm", ce_only=True).terms(batch, "")
    assert alone["cross_entropy"].item() == pytest.approx(float(plain["cross_entropy"]) / 1.5)
    assert alone["smoothness"].item() == alone["area"].item() == 0
    linear, _ = lively_explainer("l-cam-fm", power=1.0).terms(batch, "")
    attention = rl.sigmoid(class_maps(lively_explainer("l-cam-fm"), batch.values["4"].numpy()))[[0, 1, 2], [1, 0, 3]]
    assert linear["area"].item() == pytest.approx(2 * (attention.mean() + 0.0005))


def test_the_released_form_grows_with_the_batch() -> None:
    """The same images twice: the N x N form's total variation doubles, the area and the per-image form stay."""
    _, x = tiny_images(3)
    once, twice = (
        batch_of("l-cam-fm", one, classes) for one, classes in ((x, [0, 1, 2]), (torch.cat([x, x]), [0, 1, 2] * 2))
    )
    for batch_wide, growth in ((False, 1), (True, 2)):
        explainer = lively_explainer("l-cam-fm", batch_wide=batch_wide)
        (few, _), (many, _) = explainer.terms(once, ""), explainer.terms(twice, "")
        assert many["smoothness"].item() == pytest.approx(growth * float(few["smoothness"]), rel=1e-12)
        assert many["area"].item() == pytest.approx(float(few["area"]), rel=1e-12)


@pytest.mark.parametrize("name", EXPLAINERS[:2])
def test_the_attention_at_initialisation(name: str) -> None:
    """1x1 convolution to one map a class: `forward` is the class's before the sigmoid; shown is min-max, then up."""
    model, network = tiny_net()
    _, x = tiny_images(3)
    frozen = FrozenNetwork(network, ["4"], TINY_PREPROCESS, "fp32")
    explainer = new_explainer(name, frozen, {}, 7)
    state = state_of(explainer)
    assert {k: v.shape for k, v in state.items()} == {"attention.weight": (4, 5, 1, 1), "attention.bias": (4,)}
    bound = 1 / math.sqrt(5)  # of torch's initial weights
    assert all(0 < np.abs(v).max() <= bound for v in state.values())
    again, other = new_explainer(name, frozen, {}, 7), new_explainer(name, frozen, {}, 8)
    assert torch.equal(again.state_dict()["attention.weight"], explainer.state_dict()["attention.weight"])
    assert not torch.equal(other.state_dict()["attention.weight"], explainer.state_dict()["attention.weight"])
    a = values_at(model, x, "4")
    expected = class_maps(explainer, a)[[0, 1, 2], [3, 1, 1]]
    found = explainer({"4": torch.from_numpy(a)}, torch.tensor([3, 1, 1])).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(cam(name, network, explainer=explainer)(x, [3, 1, 1], raw=True).numpy(), expected)
    shown = cam(name, network, explainer=explainer)(x, [3, 1, 1]).numpy()
    for one, raw in zip(shown, expected, strict=True):
        np.testing.assert_allclose(one, r.resize(r.mm(raw), TINY_SIZE), atol=1e-9)
        assert np.abs(one - r.mm(r.resize(raw, TINY_SIZE))).max() > 1e-3  # the other order is another map


@pytest.mark.parametrize("name", EXPLAINERS[:2])
def test_starting_from_the_classifier_is_cam(name: str) -> None:
    """Untrained, its map is CAM's and the bias, for every class; another network cannot be started from."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).double()
    network, (_, x) = dv.capture(model.eval(), (3, *TINY_SIZE)), tiny_images(2)
    explainer = new_explainer(name, FrozenNetwork(network, ["1"], TINY_PREPROCESS, "fp32"), {"start": "classifier"}, 0)
    state = {key: value.detach().numpy() for key, value in model[4].state_dict().items()}
    expected = rl.class_maps(state["weight"], state["bias"], values_at(model, x, "1"))[[0, 1], [3, 1]]
    np.testing.assert_allclose(
        cam(name, network, explainer=explainer)(x, [3, 1], raw=True).numpy(), expected, atol=1e-12
    )
    with pytest.raises(CamError):
        lively_explainer(name, start="classifier")
    with pytest.raises(DataError, match="start"):
        lively_explainer(name, start="zero")
