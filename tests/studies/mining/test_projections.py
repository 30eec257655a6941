"""Projections of winners: what is computed, what the file keeps, and when the network is needed."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deconvviz as dv
from deconvviz.data.feed import Feed
from deconvviz.deconv.choice import CANDIDATES
from deconvviz.errors import DataError, MismatchError
from deconvviz.graph.network import Network
from deconvviz.graph.ops import OPS
from deconvviz.studies.mining import cache as caching
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.panels import layer_panels, panels_from
from deconvviz.studies.mining.projections import StoredProjection, first_layer_weights, project_winners
from deconvviz.studies.mining.result import Mined, Winner, load_mined
from deconvviz.types import Box

SIDE, K = 40, 4
PREPROCESS = dv.Preprocess(resize=None, crop=SIDE)
RECTIFIERS = sorted(name for name in OPS if OPS[name].kind == "rectifier")


@pytest.fixture(scope="module")
def images() -> dv.InMemoryImages:
    return dv.InMemoryImages(np.random.default_rng(0).integers(0, 256, (24, SIDE, SIDE, 3), np.uint8))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 7, 2), nn.Mish(), nn.MaxPool2d(2), nn.Conv2d(8, 100, 3), nn.ReLU())
    return dv.capture(model, (3, SIDE, SIDE))


@pytest.fixture(scope="module")
def mined(network: Network, images: dv.InMemoryImages) -> Mined:
    return dv.mine(network, images, ["1", "4"], K, preprocess=PREPROCESS, progress=False)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Winner, ...]]:
    """What is projected from now on, group by group."""
    projected: list[tuple[Winner, ...]] = []

    def recorded(network: Network, layer: object, feed: Feed, winners: Sequence[Winner], rule: str) -> object:
        projected.append(tuple(winners))
        return project_winners(network, layer, feed, winners, rule)  # type: ignore[arg-type]

    monkeypatch.setattr(caching, "project_winners", recorded)
    return projected


# --- the projections


@pytest.mark.parametrize("rule", ["deconvnet", "guided", "gradient"])
def test_projections_of_winners_are_those_of_single_units(
    rule: str, network: Network, images: dv.InMemoryImages, mined: Mined
) -> None:
    layer, feed = mined["4"], Feed(images, PREPROCESS)
    winners = layer.winners([7, 3, 99])
    projections = project_winners(network, layer, feed, winners, rule)
    assert list(projections) == winners and len(winners) == 3 * K
    for winner, stored in projections.items():
        y, x = map(int, layer.positions[winner])
        picture = PREPROCESS(images[int(layer.images[winner])][0])
        single = dv.project(network, picture[None], "4", winner.channel, (y, x), rule)
        assert stored.box == single.window and stored.pixels.dtype == np.float16
        expected = (single.pixels / single.pixels.abs().max()).numpy()
        assert np.abs(stored.pixels - expected).max() < 1e-3
        whole = stored.cut(Box(0, 0, SIDE, SIDE))
        assert np.abs(whole - (single.full() / single.pixels.abs().max()).permute(1, 2, 0).numpy()).max() < 1e-3


def test_windows_stay_in_the_image_and_show_the_projection() -> None:
    pixels = np.zeros((3, 10, 10), np.float16)
    pixels[:, 7, 2] = 1  # all the energy in one pixel
    projection = StoredProjection(pixels=pixels, box=Box(20, 0, 30, 10))
    assert projection.centre() == (27, 2) and projection.extent() == 1
    assert projection.window((5, 5), (32, 32)) == Box(25, 0, 30, 5)  # centred on the energy
    assert projection.window((7, 5), (32, 32)) == Box(23, 0, 30, 5)  # moved into the box: 24 to 31 would leave it
    assert projection.window((10, 20), (32, 32)) == Box(20, 0, 30, 20)  # centred on the box, moved inside
    assert projection.window((99, 99), (32, 16)) == Box(0, 0, 32, 16)  # no larger than the image
    assert projection.cut(Box(0, 20, 9, 30)).tolist() == np.zeros((9, 10, 3)).tolist()  # beside the box
    nothing = StoredProjection(pixels=np.zeros((1, 4, 6), np.float16), box=Box(2, 4, 6, 10))
    assert nothing.centre() == (4, 7) and nothing.extent() == 1


def test_the_extent_holds_98_percent_of_the_energy() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        pixels = (rng.random((3, 9, 12)) ** 6).astype(np.float16)
        projection = StoredProjection(pixels=pixels, box=Box(5, 40, 14, 52))
        (y, x), side, energy = projection.centre(), projection.extent(), projection.energy()

        def held(side: int, y: int = y - 5, x: int = x - 40, energy: np.ndarray = energy) -> float:
            half = side // 2
            part = energy[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1]
            return float(part.sum() / energy.sum())

        assert side == 12 or held(side) >= 0.98 - 1e-9
        assert side == 1 or held(side - 2 + side % 2 - 1) < 0.98


# --- the first filters


def rectified(name: str) -> nn.Module:
    """A convolution of the image, and the rectifier of that ATen name."""

    class Rectified(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.slope = nn.Conv2d(3, 6, 5), nn.BatchNorm2d(6), nn.Parameter(torch.tensor([0.1]))
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            more = {"hardtanh": (-1, 1), "clamp_min": (0,), "prelu": (self.slope,)}.get(name, ())
            return self.last(getattr(torch.ops.aten, name)(self.norm(self.conv(x)), *more).contiguous())

    return Rectified().eval()


@pytest.mark.parametrize("name", RECTIFIERS)
def test_first_filters_are_shown_behind_every_rectifier(name: str) -> None:
    model = rectified(name)
    network = dv.capture(model, (3, 16, 16))
    layer = list(network.layers)[-1]
    assert name in {str(node.target).split(".")[1] for node in network.graph.nodes if node.op == "call_function"}
    weights = first_layer_weights(network, layer)
    assert weights is not None
    assert np.array_equal(weights, model.conv.weight.detach().permute(0, 2, 3, 1).numpy())


def test_first_filters_are_shown_behind_a_border() -> None:
    """As in networks whose first convolution pads by itself, such as EfficientNet-Lite0."""
    model = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU6())
    weights = first_layer_weights(dv.capture(model.eval(), (3, 16, 16)), "3")
    assert weights is not None
    assert np.array_equal(weights, model[1].weight.detach().permute(0, 2, 3, 1).numpy())


def test_there_are_many_rectifiers() -> None:
    assert len(RECTIFIERS) >= 15 and {"relu", "mish", "elu", "prelu"} <= set(RECTIFIERS)


def test_layers_without_first_filters(network: Network) -> None:
    assert first_layer_weights(network, "0") is not None and first_layer_weights(network, "1") is not None
    assert first_layer_weights(network, "2") is None  # a pooling
    assert first_layer_weights(network, "4") is None  # a later convolution
    grey = dv.capture(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), (1, 8, 8))
    assert first_layer_weights(grey, "1") is None


# --- what the file keeps


def test_what_was_sampled_for_the_crop_is_not_computed_again(
    network: Network, images: dv.InMemoryImages, mined: Mined, groups: list[tuple[Winner, ...]]
) -> None:
    cache = ProjectionCache(mined, images, network, "deconvnet", progress=False)
    size, rule, surrounded = cache.crop("4")
    assert rule == "the smallest square with 98 % of the projections' energy, median of the layer" and not surrounded
    sampled = {winner for group in groups for winner in group}
    assert len(sampled) == 64 and {winner.rank for winner in sampled} == {0}
    panels = panels_from(cache, "4", sorted(winner.channel for winner in sampled)[:3], "energy")
    assert panels.crop == size
    projected = [winner for group in groups for winner in group]
    assert len(projected) == len(set(projected)) == 64 + 3 * (K - 1)  # each once
    channels = [panels.panels[0].channel]
    fresh = layer_panels(mined, images, network, "4", channels, rule="deconvnet", crop=size[0], progress=False)
    assert np.array_equal(fresh.panels[0].projections, panels.panels[0].projections)


def test_what_rules_were_measured_on_is_not_computed_again(
    network: Network, images: dv.InMemoryImages, mined: Mined, groups: list[tuple[Winner, ...]]
) -> None:
    """The sample that "auto" chooses by has its projections already, the same as computed by themselves."""
    cache = ProjectionCache(mined, images, network, "auto", progress=False)
    rule, sample = cache.rule_of("4"), cache.sample("4")
    found = cache.projections("4", sample)
    assert not groups
    alone = ProjectionCache(mined, images, network, rule, progress=False).projections("4", sample)
    assert groups and all(np.array_equal(found[winner].pixels, alone[winner].pixels) for winner in sample)


def test_the_file_keeps_what_is_shown_and_needs_no_network_then(
    network: Network,
    images: dv.InMemoryImages,
    mined: Mined,
    groups: list[tuple[Winner, ...]],
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "mined.h5"
    loaded: list[int] = []

    def load() -> Network:
        loaded.append(1)
        return network

    cache = ProjectionCache(mined, images, load, progress=False)
    assert not loaded
    panels = panels_from(cache, "1", [5, 2])
    cache.save(path)
    assert loaded == [1] and not mined.figure_arrays  # the mined result itself stays as it was
    names, rule = set(load_mined(path).figure_arrays), panels.rule
    assert rule in CANDIDATES
    places = {f"projections/1/{rule}/{c}/{r}" for c in (2, 5) for r in range(K)}  # not all that were sampled
    boxes = {f"{place}_box" for place in places}
    maps = {f"projections/1/map/{c}/{r}" for c in (2, 5) for r in range(K)}
    told = {"figures/1/switches", "figures/1/rectified"}
    measured = told | {f"figures/1/kept/{candidate}" for candidate in CANDIDATES}
    assert names == places | boxes | maps | measured | {f"figures/1/need_{rule}", "figures/1/filters"}
    groups.clear()

    def no_network() -> Network:
        pytest.fail("the network was loaded")

    again = ProjectionCache(load_mined(path), images, no_network, progress=False)
    once_more = panels_from(again, "1", [5, 2])
    assert not groups
    for one, other in zip(panels.panels, once_more.panels, strict=True):
        assert np.array_equal(one.projections, other.projections) and np.array_equal(one.patches, other.patches)
        assert np.array_equal(one.firing, other.firing) and one.insides == other.insides
    assert panels.weights is not None and once_more.weights is not None
    assert np.array_equal(panels.weights, once_more.weights)
    before = path.stat().st_mtime_ns
    again.save(path)
    assert path.stat().st_mtime_ns == before  # nothing was added


def test_projections_that_are_not_kept_are_not_written(
    network: Network, images: dv.InMemoryImages, mined: Mined, tmp_path: pathlib.Path
) -> None:
    cache = ProjectionCache(mined, images, network, "deconvnet", progress=False)
    cache.projections("4", mined["4"].winners([1]), keep=False)
    cache.save(tmp_path / "mined.h5")
    assert not (tmp_path / "mined.h5").exists()
    chosen = ProjectionCache(mined, images, network, progress=False)
    chosen.projections("4", mined["4"].winners([1]), keep=False)
    chosen.save(tmp_path / "mined.h5")  # only what the rule was chosen by
    names = {f"figures/4/kept/{candidate}" for candidate in CANDIDATES} | {"figures/4/switches"}
    assert set(load_mined(tmp_path / "mined.h5").figure_arrays) == names


def test_groups_are_bounded(
    network: Network, images: dv.InMemoryImages, mined: Mined, groups: list[tuple[Winner, ...]]
) -> None:
    cache = ProjectionCache(mined, images, network, "deconvnet", progress=False)
    winners = mined["4"].winners(range(40))
    assert list(cache.projections("4", winners)) == winners
    assert [len(group) for group in groups] == [16 * K, 16 * K, 8 * K]


def test_another_network_and_other_images_are_refused(
    network: Network, images: dv.InMemoryImages, mined: Mined
) -> None:
    torch.manual_seed(1)
    other = dv.capture(nn.Sequential(nn.Conv2d(3, 8, 7, 2), nn.Mish()), (3, SIDE, SIDE))
    with pytest.raises(MismatchError, match="fingerprint"):
        ProjectionCache(mined, images, other)
    late = ProjectionCache(mined, images, lambda: other, progress=False)
    with pytest.raises(MismatchError, match="fingerprint"):
        late.projections("4", [Winner(0, 0)])
    fewer = dv.InMemoryImages([images[0][0]])
    with pytest.raises(MismatchError, match="not the store that was mined"):
        ProjectionCache(mined, fewer, network)
    cache = ProjectionCache(mined, images, network, progress=False)
    for crop in ("small", "0", 0):
        with pytest.raises(DataError, match=f"crop '?{crop}'? given"):
            cache.crop("4", crop)
