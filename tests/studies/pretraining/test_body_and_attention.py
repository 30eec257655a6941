"""Where embeddings and maps are read, the add-on's masks, and the watch for collapse: replicas and planted cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.errors import DataError, TrainingError
from deconvviz.graph.embedding import default_embedding, embedding_network
from deconvviz.studies.pretraining.attention import SpatialAttention
from deconvviz.studies.pretraining.body import Body
from deconvviz.studies.pretraining.watch import effective_rank, spread


def small(classifier: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *([nn.Linear(8, 5)] if classifier else []))


NETWORKS: dict[str, tuple[Any, int]] = {
    "zfnet": (lambda: dv.zfnet(classes=4, input_size=32, width=0.1), 32),
    "pooled": (small, 16),
    "without a classifier": (lambda: small(False), 16),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=7), 64),
    "squeezenet1_1": (lambda: torchvision.models.squeezenet1_1(num_classes=7), 64),
}
ENDS = {
    "zfnet": ("fc8", "pool5"),
    "pooled": ("5", "2"),
    "without a classifier": ("", "2"),
    "resnet18": ("fc", "layer4"),
    "squeezenet1_1": ("classifier.1", "classifier.0"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_embedding_is_that_of_the_graph(name: str) -> None:
    """In eval mode the hooks read what `graph.embedding` finds; without an add-on the network runs as it does alone."""
    build, side = NETWORKS[name]
    torch.manual_seed(1)
    model = build().eval()
    x = torch.rand(2, 3, side, side)
    body = Body(model, x)
    assert (body.ends.classifier, body.ends.maps) == ENDS[name]
    network = dv.capture(model, (3, side, side))
    layer = default_embedding(network) if ENDS[name][0] else "4"
    expected = embedding_network(network, layer)(x)
    with torch.no_grad():
        assert torch.allclose(body(x), expected, atol=1e-5) and body.ends.width == expected.shape[1]


def test_train_mode_is_train_mode() -> None:
    """BatchNorm takes the batch's statistics and keeps count; no hook is left behind."""
    model = small()
    body = Body(model, torch.rand(2, 3, 16, 16))
    assert int(model.get_buffer("1.num_batches_tracked")) == 0  # looking for the ends changed nothing
    model.train()
    x = torch.rand(4, 3, 16, 16)
    ours, theirs = body(x), model[:5](x)
    assert torch.equal(ours, theirs) and int(model.get_buffer("1.num_batches_tracked")) == 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "resnet18"])
def test_masked_maps_go_through_the_rest_of_the_network(name: str) -> None:
    build, side = NETWORKS[name]
    model = build().eval()
    x = torch.rand(2, 3, side, side)
    body = Body(model, x)
    plain = body(x)
    body.masking(lambda maps: torch.cat([maps, 0.5 * maps]))
    both = body(x)
    body.masking(None)
    assert torch.allclose(both[:2], plain, atol=1e-5) and both.shape == (4, plain.shape[1])
    if name != "zfnet":  # only pooling follows: half of the maps is half of the embedding
        assert torch.allclose(both[2:], 0.5 * plain, atol=1e-5)
    assert torch.equal(body(x), plain)


def test_networks_without_an_embedding() -> None:
    with pytest.raises(TrainingError, match="no embedding of 2 numbers"):
        Body(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)), torch.rand(2, 1, 1, 1))
    with pytest.raises(TrainingError, match=r"reads \[2, 3, 8\] for 2 images"):
        Body(nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), nn.Linear(8, 2)), torch.rand(2, 3, 8, 8))


# --- the add-on


def cosine(a: Any, b: Any) -> float:
    return float((a * b).sum() / math.sqrt((a * a).sum()) / math.sqrt((b * b).sum()))


def replica(attention: SpatialAttention, maps: Tensor) -> Any:
    """The masks by loops over images and places, float64."""
    count, _, rows, columns = maps.shape
    keys = queries = maps.numpy()
    if attention.form == "module":
        queries, keys = (
            np.einsum("kc,nchw->nkhw", conv.weight.detach().numpy()[:, :, 0, 0], maps.numpy())
            for conv in (attention.query, attention.key)
        )
    masks = np.zeros((count, rows, columns))
    for i in range(count):
        j = (i + count // 2) % count
        if attention.partner == "neighbour":
            means = maps.numpy().mean((2, 3))
            others = [k for k in range(count) if k % (count // 2) != i % (count // 2)]
            alike = {k: cosine(means[i], means[k]) for k in others}
            j = max(alike, key=alike.__getitem__)
        for u in np.ndindex(rows, columns):
            masks[i][u] = max(
                cosine(queries[i][:, u[0], u[1]], keys[j][:, v[0], v[1]]) for v in np.ndindex(rows, columns)
            )
        if attention.form == "plain":
            masks[i] = (masks[i] - masks[i].min()) / (masks[i].max() - masks[i].min())
        else:
            masks[i] = 1 / (1 + np.exp(-(5 * masks[i] + float(attention.beta))))
    return masks


@pytest.mark.parametrize("form", ["plain", "module"])
@pytest.mark.parametrize("partner", ["view", "neighbour"])
def test_masks_against_loops(form: str, partner: str) -> None:
    torch.manual_seed(0)
    attention = SpatialAttention(8, form, partner).double()
    if form == "module":
        attention.beta.data.fill_(-0.7)
    maps = torch.randn(6, 8, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(attention.masks(maps).numpy(), replica(attention, maps), atol=1e-10)
        assert torch.equal(attention.beside(maps)[:6], maps)
        assert torch.equal(attention.beside(maps)[6:], attention.masks(maps)[:, None] * maps)


@pytest.mark.parametrize("form", ["plain", "module"])
def test_gradients_of_masks_against_finite_differences(form: str) -> None:
    torch.manual_seed(0)
    attention = SpatialAttention(4, form).double()
    maps = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention.masks, maps)


def test_the_mask_peaks_on_a_planted_patch() -> None:
    """Two images of noise with one patch in common, at different places: there the mask is 1, elsewhere low."""
    maps = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(0))
    patch = torch.randn(16, 2, 2, generator=torch.Generator().manual_seed(1))
    maps[0, :, 1:3, 0:2] = patch
    maps[1, :, 3:5, 4:6] = patch
    masks = SpatialAttention(16).masks(maps)
    for mask, place in zip(masks, ((slice(1, 3), slice(0, 2)), (slice(3, 5), slice(4, 6))), strict=True):
        assert float(mask[place].min()) > 0.999
        rest = mask.clone()
        rest[place] = 0
        assert float(rest.max()) < 0.75


def test_wrong_settings_of_the_addon() -> None:
    for wrong in ({"form": "plane"}, {"partner": "me"}, {"weight": 0.0}):
        with pytest.raises(DataError, match=next(iter(wrong))):
            SpatialAttention(8, **wrong)


# --- collapse


def test_rank_and_spread_in_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(100, 1, generator=generator) @ torch.randn(1, 8, generator=generator)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    orthogonal = torch.linalg.qr(torch.randn(200, 5, dtype=torch.float64, generator=generator))[0]
    assert effective_rank(torch.cat([orthogonal, -orthogonal])) == pytest.approx(5)
    weights = np.array([4.0, 2.0, 1.0, 1.0, 0.0])
    shares = weights[:4] / 8
    scaled = torch.cat([orthogonal, -orthogonal]) * torch.from_numpy(weights)
    assert effective_rank(scaled) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert effective_rank(torch.full((9, 4), 0.3)) == 0 == spread(torch.full((9, 4), 0.3))
    z = torch.randn(30, 6, generator=generator)
    cosines = [cosine(a.numpy(), b.numpy()) for a in z for b in z]
    assert spread(z) == pytest.approx(math.sqrt(1 - np.mean(cosines)), rel=1e-5)
