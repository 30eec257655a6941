"""Methods for pairs against their replicas, closed forms, and what surrounds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import replicas_pairs as rp
import torch
from torch import Tensor, nn
from torch.nn import functional

import deconvviz as dv
from deconvviz.cam.explain import ConstantMapWarning, cam
from deconvviz.cam.pairs import draws, methods
from deconvviz.cam.pairs.catalogue import pair_declarations
from deconvviz.cam.pairs.explain import PairExplainer
from deconvviz.cam.pairs.registry import PAIR_METHODS
from deconvviz.cam.pairs.similarity import CapturedEmbedding, EmbeddingView
from deconvviz.errors import CamError, CaptureError, DataError, DeconvvizError, LayerNotFound
from deconvviz.graph.embedding import embedding_network

SIZE, SEED = (16, 8), 5
Pair = tuple[Tensor, Tensor]
Net = tuple[nn.Sequential, dv.Network, int]  # the model, captured; the embedding is what its first layers return


def pooled() -> tuple[nn.Sequential, int]:
    """Global pooling is the embedding."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    return model, 7


def deep() -> tuple[nn.Sequential, int]:
    """A rectified linear layer, behind contrast normalisation, is the embedding."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.LocalResponseNorm(3, alpha=3.0),
        nn.Flatten(),
        nn.Linear(8 * 12, 9),
        nn.ReLU(),
        nn.Linear(9, 5),
    )
    return model, 9


@pytest.fixture(scope="module", params=[pooled, deep])
def net(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(SEED)
    model, end = request.param()
    model = model.double().eval()
    return model, dv.capture(model, (3, *SIZE)), end


def images(count: int, seed: int = SEED) -> Tensor:
    return torch.randn(count, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def x() -> Pair:
    return images(1), images(1, 6)


SMALL: dict[str, dict[str, Any]] = {
    "conditional-occlusion": {"square": 4, "stride": 3, "fill": 0.3},
    "context-agnostic": {"square": 4, "stride": 3, "fill": 0.3},
    "pairwise-occlusion": {"draws": 8},
    "interaction-cam": {"maps": "4"},
    "averaged-transforms": {},
    "pixel-invariance": {"draws": 12, "pixels": 8},
    "spatial-attention": {"maps": "4"},
}


def numbers(x: Tensor) -> np.ndarray[Any, Any]:
    return x[0].numpy()


def colours(x: Tensor) -> draws.Colours:
    return draws.Colours(x, None, SEED)


def both(one: Any, x: Pair) -> tuple[Any, Any]:
    return one(x[0], x[1]), one(x[1], x[0])


def occluded(name: str, model: nn.Module, x: Pair, **o: Any) -> Any:
    replica = getattr(rp, name)
    return both(lambda a, b: replica(rp.embedding_of(model), numbers(a), numbers(b), 4, 3, 0.3), x)


def pairwise(model: nn.Module, x: Pair, temperature: float | None = None, relative: bool = True) -> Any:
    p, q = methods._boxes(8, SIZE, (0.1, 0.3), (1.0, 1.5), SEED)
    boxes = [list(row) for two in zip(p.tolist(), q.tolist(), strict=True) for row in (two, two[::-1])]
    first, second = [row[0] for row in boxes], [row[1] for row in boxes]
    f = rp.embedding_of(model)
    return rp.pairwise_occlusion(f, (numbers(x[0]), numbers(x[1])), (first, second), 0.0, temperature, relative)


def averaged(model: nn.Module, x: Pair, transforms: int = 1, guided: bool = False) -> Any:
    def one(a: Tensor, b: Tensor) -> Any:
        changed = [numbers(colours(a).changed(t)) for t in range(transforms)]
        return rp.averaged_transforms(model, numbers(a), numbers(b), changed, guided)

    return both(one, x)


def drawn(a: Tensor, count: int) -> list[Any]:
    changed = []
    for draw in range(count):
        image, box = numbers(colours(a).changed(draw)).copy(), colours(a).box(draw)
        if box is not None:
            image[:, box[0] : box[2], box[1] : box[3]] = 0
        changed.append(image)
    return changed


def invariance(model: nn.Module, x: Pair) -> Any:
    f = rp.embedding_of(model)
    return both(lambda a, b: rp.pixel_invariance(f, drawn(a, 12), numbers(b), (8, 8), 0.5)[0], x)


def cams(model: nn.Module, x: Pair, reduce: str = "mean", interact: bool = False) -> Any:
    arrays = numbers(x[0]), numbers(x[1])
    return rp.interaction_cam(model[:5], model[5:], arrays, reduce, interact)


def attention(model: nn.Module, x: Pair, mutual: bool = False, weigh: bool = False) -> Any:
    return rp.spatial_attention(model[:5], (numbers(x[0]), numbers(x[1])), mutual, weigh)


# name -> options, and the replica of both raw maps for (the layers up to the embedding, the images)
REPLICAS: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "conditional-occlusion": [({}, lambda m, x: occluded("conditional_occlusion", m, x))],
    "context-agnostic": [({}, lambda m, x: occluded("context_agnostic", m, x))],
    "pairwise-occlusion": [
        ({}, pairwise),
        ({"temperature": 1.0, "relative": False}, lambda m, x: pairwise(m, x, 1.0, False)),
    ],
    "interaction-cam": [
        ({}, cams),
        ({"reduce": "max"}, lambda m, x: cams(m, x, "max")),
        ({"reduce": "attention"}, lambda m, x: cams(m, x, "attention")),
        ({"interact": True}, lambda m, x: cams(m, x, interact=True)),
    ],
    "averaged-transforms": [
        ({"transforms": 2}, lambda m, x: averaged(m, x, 2)),
        ({"rule": "guided"}, lambda m, x: averaged(m, x, guided=True)),
    ],
    "pixel-invariance": [({"pixels": 8, "blur": False}, invariance)],
    "spatial-attention": [
        ({}, attention),
        ({"match": "mutual"}, lambda m, x: attention(m, x, True)),
        ({"weigh": True}, lambda m, x: attention(m, x, weigh=True)),
    ],
}


def test_every_method_has_a_replica_and_says_where_it_is_from_and_what_it_costs() -> None:
    assert set(REPLICAS) == set(PAIR_METHODS) == set(pair_declarations())
    for name, method in PAIR_METHODS.items():
        authors = "Banitalebi-Dehkordi and Zhang" if name == "spatial-attention" else "Sammani et al."
        assert f"{authors} 2022" in method.source and "pass" in method.cost
        assert pair_declarations()[name].defaults == method.options


@pytest.mark.parametrize(("name", "which"), [(name, i) for name, each in REPLICAS.items() for i in range(len(each))])
def test_against_the_replica(net: Net, x: Pair, name: str, which: int) -> None:
    model, network, end = net
    options, replica = REPLICAS[name][which]
    options = {**SMALL[name], **options}
    explainer = dv.pair(name, network, seed=SEED, batch_size=7, **options)
    maps = explainer(*x, raw=True)
    for mine, expected in zip(maps, replica(model[:end], x), strict=True):
        found = mine[0].numpy()
        assert found.shape == expected.shape and np.abs(expected).max() > 0
        assert np.abs(found - expected).max() <= 1e-8 * np.abs(expected).max()


def test_the_explained_variance_is_that_of_the_replica(net: Net, x: Pair) -> None:
    model, network, end = net
    explainer = dv.pair("pixel-invariance", network, seed=SEED, **SMALL["pixel-invariance"])
    explainer(*x)
    f = rp.embedding_of(model[:end])
    expected = both(lambda a, b: rp.pixel_invariance(f, drawn(a, 12), numbers(b), (8, 8), 0.5)[1], x)
    assert explainer.extras["explained variance"].shape == (1, 2)
    np.testing.assert_allclose(explainer.extras["explained variance"][0].numpy(), expected, rtol=1e-6)


# --- closed forms and identities


def gradient_of_cosine(z: Tensor, other: Tensor) -> Tensor:
    """d cos(z, other) / dz = (other / |other| - s z / |z|) / |z|, worked out by hand."""
    s = (z * other).sum() / z.norm() / other.norm()
    return (other / other.norm() - s * z / z.norm()) / z.norm()


def linear() -> tuple[nn.Linear, dv.Network]:
    torch.manual_seed(1)
    layer = nn.Linear(3 * SIZE[0] * SIZE[1], 4, bias=False).double()
    return layer, dv.capture(nn.Sequential(nn.Flatten(), layer, nn.Linear(4, 3).double()).eval(), (3, *SIZE))


def test_a_linear_embedding_in_closed_form(x: Pair) -> None:
    """f(x) = W x: what is left under a window is W x - W (x in the window), and the gradient of s is known."""
    layer, network = linear()
    w = layer.weight.detach()
    a, b = (each[0] for each in x)
    z, other = w @ a.flatten(), w @ b.flatten()
    found = dv.pair("conditional-occlusion", network, square=8, stride=8)(*x, raw=True).a[0]
    alone = dv.pair("context-agnostic", network, square=8, stride=8)(*x, raw=True).a[0]
    for row in range(2):  # windows of 8 x 8 do not overlap
        window = torch.zeros(3, *SIZE, dtype=torch.float64)
        window[:, 8 * row : 8 * row + 8] = 1
        inside = w @ (a * window).flatten()
        fall = functional.cosine_similarity(z, other, 0) - functional.cosine_similarity(z - inside, other, 0)
        assert torch.allclose(found[8 * row : 8 * row + 8], fall)
        assert torch.allclose(
            alone[8 * row : 8 * row + 8], functional.cosine_similarity(2 * inside - z, other, 0)
        )  # f(w|x) - f(x without w) = W w - (W x - W w)
    changed = colours(x[0]).changed(0)[0]
    total = torch.zeros_like(a)
    for tenth in range(1, 10):
        mix = tenth / 10 * a + (1 - tenth / 10) * changed
        total += (w.T @ gradient_of_cosine(w @ mix.flatten(), other)).reshape(a.shape) / 9
    averaged = dv.pair("averaged-transforms", network, seed=SEED)(*x, raw=True).a[0]
    assert torch.allclose(averaged, (a * total).abs().amax(0))


def test_interaction_cam_of_a_pooled_embedding_in_closed_form(x: Pair) -> None:
    """z is the mean of the maps, so that G_k is the gradient of the cosine over the number of places."""
    torch.manual_seed(2)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()).double()
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)).double().eval()
    network = dv.capture(model, (3, *SIZE))
    a, b = (body(each)[0].detach() for each in x)
    z = a.mean((1, 2)), b.mean((1, 2))
    expected = torch.einsum("k,khw->hw", z[0] * z[1] * gradient_of_cosine(*z).relu() / a[0].numel(), a)
    assert torch.allclose(dv.pair("interaction-cam", network)(*x, raw=True).a[0], expected)


def test_occlusion_and_layercam_of_the_same_score(net: Net, x: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods of one image, with the cosine as their target, are the same computation by another way."""
    _, network, _ = net
    explainer = dv.pair("conditional-occlusion", network, square=4, stride=3)
    embedded = explainer.network
    other = embedded(x[1])

    def likeness(z: Tensor) -> Tensor:
        return functional.cosine_similarity(z, other, dim=1)

    occlusion = cam("occlusion", embedded, square=4, stride=3)(x[0], likeness, raw=True)
    assert torch.allclose(explainer(*x, raw=True).a, occlusion)
    monkeypatch.setattr(methods, "_reduced", lambda maps, _: maps.new_ones(maps.shape[:2]))
    layer_cam = cam("layercam", embedded, "4")(x[0], likeness, raw=True)
    assert torch.allclose(dv.pair("interaction-cam", network, maps="4")(*x, raw=True).a, layer_cam)


@pytest.mark.parametrize("name", list(REPLICAS))
def test_equal_images_have_equal_maps_and_exchanged_ones_exchanged_maps(net: Net, x: Pair, name: str) -> None:
    _, network, _ = net
    explainer = dv.pair(name, network, seed=SEED, **SMALL[name])
    same = explainer(x[0], x[0].clone(), raw=True)
    assert torch.allclose(same.a, same.b, atol=1e-12) and same.similarity.tolist() == pytest.approx([1.0])
    there, back = explainer(*x, raw=True), explainer(x[1], x[0], raw=True)
    assert torch.allclose(there.a, back.b, atol=1e-12) and torch.allclose(there.b, back.a, atol=1e-12)
    assert not torch.allclose(there.a, there.b)


@pytest.mark.parametrize("name", list(REPLICAS))
def test_a_batch_is_its_pairs(net: Net, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pairs equal three calls, whatever runs at once; also where two pairs do not fit in memory together."""
    _, network, _ = net
    a, b = images(3, 7), images(3, 8)
    explainer = dv.pair(name, network, seed=SEED, batch_size=5, **SMALL[name])
    together, alone = explainer(a, b), [explainer(a[n : n + 1], b[n : n + 1]) for n in range(3)]
    for which in ("a", "b", "similarity"):
        joined = torch.cat([getattr(each, which) for each in alone])
        assert torch.allclose(getattr(together, which), joined, atol=1e-9)
    assert together.a.shape == (3, *SIZE) and float(together.a.min()) >= 0 and float(together.a.max()) <= 1
    whole = PairExplainer._part

    def small(self: PairExplainer, first: Tensor, second: Tensor) -> Any:
        if len(first) > 1:
            raise MemoryError
        return whole(self, first, second)

    monkeypatch.setattr(PairExplainer, "_part", small)
    assert torch.allclose(explainer(a, b).b, together.b, atol=1e-9)


def test_passes_are_those_of_the_list() -> None:
    """At 224 px, on a network that costs nothing."""
    model = nn.Sequential(nn.Conv2d(3, 2, 32, stride=32), nn.ReLU(), nn.Flatten(), nn.Linear(98, 4)).eval()
    network = dv.capture(model, (3, 224, 224))
    a, b = torch.rand(2, 1, 3, 224, 224)
    expected = {
        "conditional-occlusion": (442, 0),
        "context-agnostic": (883, 0),
        "pairwise-occlusion": (101, 0),
        "averaged-transforms": (10, 9),
        "pixel-invariance": (1001, 0),
    }
    for name, (forward, backward) in expected.items():
        cost = PAIR_METHODS[name].cost
        assert cost.startswith(f"{forward} forward") and (not backward or f"{backward} back" in cost)
        if name in ("pairwise-occlusion", "averaged-transforms", "conditional-occlusion"):  # the others take longer
            explainer = dv.pair(name, network)
            explainer(a, b)
            assert (explainer.passes["forward"] / 2, explainer.passes["backward"] / 2) == (forward, backward)


# --- draws


def test_boxes_and_what_they_cover() -> None:
    size = (30, 20)
    boxes = [draws.random_box(size, (0.1, 0.3), (1.0, 1.5), draws.generator_of(0, n)) for n in range(300)]
    areas = np.array([(bottom - top) * (right - left) for top, left, bottom, right in boxes]) / 600
    ratios = np.array([(bottom - top) / (right - left) for top, left, bottom, right in boxes])
    assert 0.08 < areas.min() < 0.13 and 0.27 < areas.max() < 0.33 and abs(areas.mean() - 0.2) < 0.02
    assert ratios.min() > 0.85 and ratios.max() < 1.75 and abs(np.log(ratios).mean() - np.log(1.5) / 2) < 0.05
    tops = {top for top, *_ in boxes}
    assert min(tops) == 0 and max(bottom for _, _, bottom, _ in boxes) == 30
    assert all(0 <= left < right <= 20 for _, left, _, right in boxes)
    mask = draws.covers(torch.tensor(boxes[:5]), size).numpy()
    for (top, left, bottom, right), covered in zip(boxes[:5], mask, strict=True):
        expected = np.zeros(size, bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(covered, expected)


def test_colours_move_no_pixel() -> None:
    """Where a draw does not blur, pixels that change places change places in the result."""
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(64 * 64, generator=torch.Generator().manual_seed(0))

    def moved(each: Tensor) -> Tensor:
        return each.flatten(2)[:, :, order].reshape(each.shape)

    unblurred = 0
    for draw in range(12):
        there, here = colours(moved(x)).changed(draw), moved(colours(x).changed(draw))
        unblurred += torch.allclose(there, here, atol=1e-9)
        assert not torch.equal(colours(x).changed(draw), colours(x).changed(draw + 1))
    assert 2 <= unblurred <= 10
    bounds = (torch.zeros(3), torch.ones(3))
    outside = draws.Colours(x, bounds, SEED).changed(0)
    assert float(outside.min()) >= 0 and float(outside.max()) <= 1
    assert draws.Colours(images(1)[:, :1].repeat(1, 5, 1, 1), None, 0).changed(1).shape == (1, 5, *SIZE)


# --- what is refused


def test_bad_input_is_refused(net: Net, x: Pair) -> None:
    model, network, _ = net
    with pytest.raises(DeconvvizError, match="nearest: interaction-cam"):
        dv.pair("interaktion-cam", network)
    with pytest.raises(DataError, match="has no option 'square'; its options are: reduce='mean'"):
        dv.pair("interaction-cam", network, square=3)
    with pytest.raises(LayerNotFound):
        dv.pair("interaction-cam", network, "nowhere")
    with pytest.raises(CamError, match="need a captured network"):
        dv.pair("interaction-cam", model)  # type: ignore[arg-type]
    with pytest.raises(CamError, match="without rows and columns"):
        dv.pair("interaction-cam", network, maps="5" if isinstance(model[5], nn.AdaptiveAvgPool2d) else "6")
    explainer = dv.pair("interaction-cam", network)
    for a, b in ((x[0], images(2)), (x[0], x[1][..., :4]), (x[0][0], x[1][0])):
        with pytest.raises(DataError, match="two batches of one shape"):
            explainer(a, b)
    with pytest.raises(CaptureError):
        explainer(x[0][..., :4], x[1][..., :4])
    for name, options in (
        ("pairwise-occlusion", {"draws": 1}),
        ("pairwise-occlusion", {"area": (0.5, 0.1)}),
        ("interaction-cam", {"reduce": "sum"}),
        ("averaged-transforms", {"rule": "deconvnet"}),
        ("averaged-transforms", {"step": 1}),
        ("pixel-invariance", {"draws": 2}),
    ):
        with pytest.raises(DataError):
            dv.pair(name, network, **options)(*x)
    head = dv.capture(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 1), nn.Linear(1, 3)).double(), (3, *SIZE)
    )
    with pytest.raises(CamError, match="1 number for an image"):
        dv.pair("conditional-occlusion", head, "1")


def test_a_constant_map_is_told(x: Pair) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 6, 3)).double().eval()
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.warns(ConstantMapWarning, match="image b of pair 0"):
        assert not dv.pair("averaged-transforms", dv.capture(model, (3, *SIZE)))(*x).b.any()


@pytest.mark.parametrize("name", list(REPLICAS))
def test_the_maps_point_at_the_object_that_is_common(name: str) -> None:
    """Noise, with a patch that is in both images at different places, and a network that has a detector for it."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(2)
    patch = torch.randn(3, 5, 5, dtype=torch.float64, generator=generator)
    body = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = body.double().eval()
    with torch.no_grad():
        body[0].weight[0], body[0].bias[0] = patch / patch.norm(), -0.3 * patch.norm()
        body[0].bias[1:] = 0.05
    a, b = (0.3 * torch.randn(1, 3, 20, 20, dtype=torch.float64, generator=generator) for _ in range(2))
    a[..., 1:6, 2:7], b[..., 12:17, 11:16] = patch, patch
    quick: dict[str, Any] = {"square": 5, "stride": 1, "draws": 150, "weigh": True}
    options = {key: value for key, value in quick.items() if key in PAIR_METHODS[name].options}
    maps = dv.pair(name, dv.capture(model, (3, 20, 20)), **options)(a, b)
    for map_, (top, left) in zip(maps, ((1, 2), (12, 11)), strict=True):
        inside = float(map_[0, top : top + 5, left : left + 5].sum() / map_[0].sum())
        assert inside > (1.25 if name == "pairwise-occlusion" else 1.5) * 25 / 400  # its boxes are larger


def test_views_are_of_embeddings(net: Net, x: Pair) -> None:
    model, network, end = net
    embedded = CapturedEmbedding(embedding_network(network, str(end - 1)))
    view = EmbeddingView(embedded, embedded, x[0], None, dv.pair("interaction-cam", network).how)
    view.facing(EmbeddingView(embedded, embedded, x[1], None, dv.pair("interaction-cam", network).how))
    assert torch.allclose(view.references, model[:end](x[1]).detach()) and embedded.readout(view.output) is None
