"""The galleries and decisions that the atlas is made of, held against the definitions."""

from __future__ import annotations

import pathlib
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from click.testing import Result as Outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

import deconvviz as dv
from deconvviz.data.decode import encode
from deconvviz.data.images import ImageStore
from deconvviz.data.pack import pack
from deconvviz.data.preprocess import Preprocess
from deconvviz.errors import DataError, LayerNotFound, MismatchError
from deconvviz.figures.tiles import stretched
from deconvviz.models.load import DEMO_SNAPSHOTS
from deconvviz.results.features import FeatureArrays
from deconvviz.results.folders import claim
from deconvviz.results.results import Result
from deconvviz.results.snapshots import Snapshots
from deconvviz.results.tiles import Gallery, TileWriter, load_gallery
from deconvviz.studies.atlas import aspects, similarity
from deconvviz.studies.atlas import decisions as deciding
from deconvviz.studies.atlas import galleries as making
from deconvviz.studies.atlas.command import atlas
from deconvviz.studies.atlas.galleries import GalleryMaker, resized, signed, tile_size
from deconvviz.studies.atlas.make import AtlasMaker, Wanted
from deconvviz.studies.evolution.evolve import evolve
from deconvviz.studies.evolution.result import Evolution
from deconvviz.studies.mining.mine import mine
from deconvviz.studies.mining.result import Mined, MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK

SIDE, IMAGES, K = 28, 30, 4
PREPROCESS = Preprocess(resize=None, crop=SIDE)
DEAD, RARE = 3, 5  # channels of relu2: one that never fires, one that fires in few images


class Small(nn.Module):
    """Two convolutions and a classifier; channel DEAD never fires, RARE seldom, and 7 repeats 6."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 5, stride=2), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 10, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(10, 7)
        with torch.no_grad():
            self.conv2.bias[DEAD] = -100.0  # type: ignore[index]
            self.conv2.weight[7] = 3 * self.conv2.weight[6]
            self.conv2.bias[7] = 3 * self.conv2.bias[6]  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc(maps.amax((2, 3)))  # type: ignore[no-any-return]


class Case:
    """The small network, thirty noisy pictures of four classes, and what mining found in them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        for i in range(IMAGES):
            coarse = rng.integers(0, 256, (7, 7, 3), np.uint8).repeat(4, 0).repeat(4, 1)
            noisy = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
            (folder / "images" / f"class{i % 4}").mkdir(parents=True, exist_ok=True)
            (folder / "images" / f"class{i % 4}" / f"{i:02d}.png").write_bytes(encode(noisy))
        pack(folder / "images", folder / "store.h5", progress=False)
        self.store = ImageStore.open(folder / "store.h5")
        self.model = Small().eval()
        self.pictures = np.stack([self.store[i][0] for i in range(IMAGES)])
        self.x = PREPROCESS.tensor(self.pictures)
        with torch.no_grad():
            values = self.model.conv2(self.model.relu1(self.model.conv1(self.x)))[:, RARE].amax((1, 2))
            strongest = values.sort(descending=True).values
            self.model.conv2.bias[RARE] -= (strongest[1] + strongest[2]) / 2  # fires in two images
            hidden = self.model.relu1(self.model.conv1(self.x))
            self.maps = {"relu1": hidden.numpy(), "relu2": self.model.relu2(self.model.conv2(hidden)).numpy()}
        self.network = dv.capture(self.model, (3, SIDE, SIDE))
        self.mined = mine(self.network, self.store, ["relu1", "relu2"], K + 1, preprocess=PREPROCESS, progress=False)

    def maker(self, **changes: Any) -> GalleryMaker:
        maxima = FeatureArrays({name: maps.max((2, 3)) for name, maps in self.maps.items()}, self.store.labels)
        given: dict[str, Any] = {"k": K, "progress": False, **changes}
        return GalleryMaker(self.mined, maxima, self.store, self.network, ("relu1", "relu2"), **given)

    def gallery(self, layer: str, **changes: Any) -> Gallery:
        path = self.folder / f"{layer}-{len(list(self.folder.iterdir()))}.h5"
        self.maker(**changes).make(layer).save(path)
        return load_gallery(path)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def shown(case: Case) -> Callable[[str], Gallery]:
    return cache(case.gallery)


# --- tiles in a file


def written(folder: pathlib.Path, tiles: NDArray[np.uint8]) -> Gallery:
    config = {"layer": "a", "model": "b"}
    arrays = {"channels": np.arange(len(tiles)), "plain": tiles, **making.compressed("some/tiles", tiles)}
    Result("gallery", 1, config, {"command": "c"}, arrays).save(folder / "g.h5")
    return load_gallery(folder / "g.h5")


def smooth(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """Tiles [F, k, h, w, 3] of soft blobs, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (*shape[:2], 4, 4, 3), np.uint8)
    return np.array([[resized(one, (shape[2], shape[3])) for one in row] for row in coarse])


def test_small_tiles_come_back_as_they_were(tmp_path: pathlib.Path) -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 7, 3), np.uint8)
    found = written(tmp_path, tiles)
    kept = found.arrays["some/tiles"]
    assert kept.shape == tiles.shape and kept.dtype == np.uint8 and len(kept) == 5
    assert np.array_equal(np.asarray(kept), tiles) and np.array_equal(kept[1:4], tiles[1:4])
    assert np.array_equal(kept[2], tiles[2]) and np.array_equal(kept[[4, 0]], tiles[[4, 0]])
    assert np.array_equal(np.stack(list(kept)), tiles) and kept[5:].shape == (0, 3, 32, 7, 3)
    assert np.array_equal(found.arrays["plain"], tiles) and found.sources == {"command": "c"}
    with pytest.raises(IndexError):
        kept[5]


def test_large_tiles_are_nearly_as_they_were_and_do_not_touch(tmp_path: pathlib.Path) -> None:
    tiles = smooth((2, 4, 43, 61, 3))
    kept = np.asarray(written(tmp_path, tiles).arrays["some/tiles"])
    error = kept.astype(float) - tiles
    brightness = np.abs(error @ (0.299, 0.587, 0.114))
    assert np.abs(error).mean() < 2.5 and brightness.mean() < 1 and brightness.max() < 12
    other = tiles.copy()
    other[:, 1] = 255 - other[:, 1]
    changed = np.asarray(written(tmp_path, other).arrays["some/tiles"])
    same = np.array([0, 2, 3])
    assert np.array_equal(changed[:, same], kept[:, same]) and not np.array_equal(changed[:, 1], kept[:, 1])


def test_large_tiles_take_a_tenth(tmp_path: pathlib.Path) -> None:
    tiles = smooth((6, 9, 90, 90, 3))
    writer = TileWriter((9, 90, 90))
    for row in tiles:
        writer.add(row)
    assert sum(map(len, writer.rows)) < tiles.nbytes / 10


def test_a_damaged_row_is_told(tmp_path: pathlib.Path) -> None:
    arrays = {"channels": np.arange(2), **making.compressed("t", smooth((2, 2, 40, 40, 3)))}
    arrays["t/data"] = arrays["t/data"].copy()
    arrays["t/data"][int(arrays["t/offsets"][1]) :] = 7
    Result("gallery", 1, {}, {}, arrays).save(tmp_path / "g.h5")
    tiles = load_gallery(tmp_path / "g.h5").arrays["t"]
    assert tiles[0].shape == (2, 40, 40, 3)
    with pytest.raises(DataError, match="row 1"):
        tiles[1]
    with pytest.raises(DataError, match="at most"):
        TileWriter((2000, 96, 96))


# --- similarity


def test_similarity_is_the_correlation(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    maxima = np.maximum(rng.normal(0.3, 1, (50, 14)), 0).astype(np.float32)
    channels = np.array([1, 2, 4, 7, 8, 9, 11, 13])
    expected = np.corrcoef(maxima[:, channels].T.astype(np.float64))
    np.fill_diagonal(expected, -2)
    for at_once in (512, 3):
        monkeypatch.setattr(similarity, "AT_ONCE", at_once)
        found = similarity.similar_filters(maxima, channels, 6)
        order = np.argsort(-expected, 1)[:, :6]
        assert np.array_equal(found.neighbours, channels[order])
        np.testing.assert_allclose(found.similarity, np.take_along_axis(expected, order, 1), atol=1e-6)
        assert (found.duplicate_of == -1).all()


def test_duplicates_and_silent_filters() -> None:
    rng = np.random.default_rng(3)
    a, b = np.maximum(rng.normal(0, 1, (2, 60)), 0)
    rare = np.zeros((2, 60))
    rare[:, :5] = np.arange(5)  # they agree, in too few images to say so
    often = np.zeros((2, 60))
    often[:, :11] = np.arange(11)
    noisy = a + 2 * np.abs(rng.normal(0, 1, 60))
    dead = np.zeros(60)
    maxima = np.stack([b, a, 3 * a, dead, rare[0], rare[1], noisy, 0.5 * a, *often], 1).astype(np.float32)
    found = similarity.similar_filters(maxima, np.arange(10), 3)
    assert found.duplicate_of.tolist() == [-1, -1, 1, -1, -1, -1, -1, 1, -1, 8]
    assert found.neighbours[3].tolist() == [-1, -1, -1] and found.similarity[3].tolist() == [0, 0, 0]
    assert 3 not in found.neighbours and found.neighbours[4, 0] == 5 and found.neighbours[1, :2].tolist() == [2, 7]
    alone = similarity.similar_filters(maxima, np.array([2]), 3)
    assert alone.neighbours.shape == (1, 0) and alone.duplicate_of.tolist() == [-1]
    pair = similarity.similar_filters(maxima, np.array([7, 2]), 3)  # in the order given; only those shown
    assert pair.neighbours.tolist() == [[2], [7]] and pair.duplicate_of.tolist() == [2, -1]


# --- the gallery of a layer


def test_values_images_and_positions_are_the_strongest(case: Case, shown: Callable[[str], Gallery]) -> None:
    for layer, maps in case.maps.items():
        arrays, maxima = shown(layer).arrays, maps.max((2, 3))
        assert np.array_equal(arrays["channels"], np.arange(maps.shape[1]))
        for c in range(maps.shape[1]):
            order = [i for i in np.argsort(-maxima[:, c], kind="stable")[:K] if maxima[i, c] > 0]
            expected = order + [-1] * (K - len(order))
            assert arrays["images"][c].tolist() == expected, (layer, c)
            for r, i in enumerate(order):
                y, x = np.unravel_index(maps[i, c].argmax(), maps.shape[2:])
                assert arrays["positions"][c, r].tolist() == [y, x]
                assert arrays["values"][c, r] == pytest.approx(maxima[i, c], rel=1e-5)
            assert (arrays["values"][c, len(order) :] == 0).all()
            assert (arrays["positions"][c, len(order) :] == -1).all()


def test_entries_that_are_not_above_zero_are_none() -> None:
    values = np.array([[3, 0.5, -0.25, -np.inf], [0, 0, 0, -1]], np.float32)
    images, positions = np.array([[4, 2, 7, -1], [0, 1, 2, 3]]), np.arange(16).reshape(2, 4, 2)
    found = MinedLayer("conv", TopK(values, images, positions), Activity.empty(2))
    table = making._Table.of(found, np.array([1, 0]), 3)
    assert table.values.tolist() == [[0, 0, 0], [3, 0.5, 0]] and table.images.tolist() == [[-1] * 3, [4, 2, -1]]
    assert table.positions[1].tolist() == [[0, 1], [2, 3], [-1, -1]] and (table.positions[0] == -1).all()


def test_activity(case: Case, shown: Callable[[str], Gallery]) -> None:
    maps, arrays = case.maps["relu2"], shown("relu2").arrays
    fired = (maps.max((2, 3)) > 0).sum(0)
    assert fired[DEAD] == 0 and fired[RARE] == 2
    assert np.array_equal(arrays["fired"], fired) and np.array_equal(arrays["dead"], fired == 0)
    np.testing.assert_allclose(arrays["firing_rate"], fired / IMAGES)
    np.testing.assert_allclose(arrays["maximum"], maps.max((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(arrays["mean_activation"], maps.mean((0, 2, 3), dtype=np.float64), rtol=1e-4)
    expected = np.corrcoef(np.delete(maps.max((2, 3)), DEAD, 1).T.astype(np.float64))
    assert arrays["similarity"][0, 0] == pytest.approx(np.sort(expected[0])[-2], abs=1e-5)
    assert arrays["duplicate_of"].tolist() == [-1] * 7 + [6] + [-1] * 2


def test_boxes_are_receptive_fields_in_the_picture(shown: Callable[[str], Gallery]) -> None:
    """conv1 sees 5 pixels every 2; conv2, padded by 1, sees three of these: 9 pixels from 2 before."""
    for layer, size, offset in (("relu1", 5, 0), ("relu2", 9, -2)):
        arrays = shown(layer).arrays
        for f, r in zip(*np.nonzero(arrays["images"] >= 0), strict=True):
            start = arrays["positions"][f, r] * 2 + offset
            expected = [*np.maximum(start, 0), *np.minimum(start + size, SIDE)]
            assert arrays["boxes"][f, r].tolist() == expected
        assert (arrays["boxes"][arrays["images"] < 0] == -1).all()
    assert (shown("relu2").arrays["boxes"][..., 0] == 0).any(), "no box was cut: the test shows less than it should"


def test_patches_are_the_windows_of_the_pictures(case: Case, shown: Callable[[str], Gallery]) -> None:
    for layer in case.maps:
        arrays = shown(layer).arrays
        patches, windows = np.asarray(arrays["patches"]), arrays["windows"]
        for f, r in np.ndindex(*arrays["images"].shape):
            if arrays["images"][f, r] < 0:
                assert (patches[f, r] == 128).all() and (windows[f, r] == -1).all()
                continue
            top, left, bottom, right = windows[f, r]
            assert (bottom - top, right - left) == patches.shape[2:4]
            assert np.array_equal(patches[f, r], case.pictures[arrays["images"][f, r]][top:bottom, left:right])


@pytest.mark.parametrize("rule", ["deconvnet", "gradient"])
def test_projections_are_those_of_the_whole_image(case: Case, rule: str) -> None:
    arrays = case.gallery("relu2", rule=rule).arrays
    tiles, windows = np.asarray(arrays["projections"]), arrays["windows"]
    sides = []
    for f, r in np.ndindex(*arrays["images"].shape):
        image = int(arrays["images"][f, r])
        if image < 0:
            assert (tiles[f, r] == 128).all()
            continue
        y, x = (int(n) for n in arrays["positions"][f, r])
        whole = dv.project(case.network, case.x[image : image + 1], "relu2", f, (y, x), rule, windowed=False).full()
        top, left, bottom, right = windows[f, r]
        cut = whole[:, top:bottom, left:right].permute(1, 2, 0).double().numpy()
        peak = np.percentile(np.abs(cut), 99.8)
        expected = np.clip(127.5 + 127.5 * cut / peak, 0, 255)
        assert np.abs(tiles[f, r] - expected).max() <= 1.01, (f, r)
        energy = (whole**2).sum(0).numpy()
        sides.append(energy[top:bottom, left:right].sum() / energy.sum())
    assert np.median(sides) > 0.95


def test_the_contrast_is_that_of_the_layer_figure() -> None:
    rng, sparse = np.random.default_rng(4), np.zeros((40, 40, 3))
    sparse[3, 5] = 0.2, -0.4, 0
    for values in (sparse, rng.normal(0, 1, (20, 17, 3)), np.zeros((4, 4, 3)), rng.normal(0, 1e-9, (9, 9, 1))):
        values[:1, :1] *= 40  # beyond full contrast
        expected = np.floor(255 * stretched(values) + 0.5)
        assert np.array_equal(signed(values), np.broadcast_to(expected, (*values.shape[:2], 3)))
    assert (signed(np.zeros((4, 4, 3))) == making.GREY).all()


def test_tiles_are_bounded_and_keep_their_form() -> None:
    assert tile_size((95, 95)) == (95, 95) and tile_size((192, 96)) == (96, 48) and tile_size((5000, 4)) == (96, 1)
    picture = smooth((1, 1, 192, 96, 3))[0, 0]
    small = resized(picture, (96, 48))
    mean = picture.reshape(96, 2, 48, 2, 3).mean((1, 3))
    assert small.shape == (96, 48, 3) and np.abs(small - mean).mean() < 2
    assert resized(picture, (192, 96)) is picture


def test_large_crops_are_shown_small(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "TILE", 6)
    arrays = case.gallery("relu2", channels={"relu2": [0]}).arrays
    top, left, bottom, right = arrays["windows"][0, 0]
    assert arrays["patches"].shape[2:4] == (6, 6) and bottom - top > 6
    patch = case.pictures[arrays["images"][0, 0]][top:bottom, left:right]
    assert np.array_equal(arrays["patches"][0][0], resized(patch, (6, 6)))


def test_top_class() -> None:
    images = np.array([[4, 0, 1, 2], [3, 2, 1, 0], [0, 3, -1, -1], [-1, -1, -1, -1], [5, 6, 3, 1], [5, 6, -1, -1]])
    labels = np.array([0, 1, 1, 0, 2, -1, -1])
    found = making._classes(images, labels)
    assert found["top_class"].tolist() == [1, 0, 0, -1, 0, -1]
    np.testing.assert_allclose(found["top_class_share"], [0.5, 0.5, 1, 0, 0.25, 0])


def test_chosen_channels_are_rows_of_the_whole(case: Case, shown: Callable[[str], Gallery]) -> None:
    chosen = [7, 0, DEAD, 6]
    some = case.gallery("relu2", channels={"relu2": chosen}).arrays
    every = shown("relu2").arrays
    for name in ("values", "images", "windows", "boxes", "fired", "mean_activation", "top_class", "projections"):
        assert np.array_equal(np.asarray(some[name]), np.asarray(every[name])[chosen]), name
    assert some["channels"].tolist() == chosen and set(some["neighbours"].ravel()) <= {0, 6, 7, -1}
    assert some["duplicate_of"].tolist() == [6, -1, -1, -1]


def test_configuration(case: Case, shown: Callable[[str], Gallery]) -> None:
    config = shown("relu2").config
    assert config["layer"] == "relu2" and config["depth"] == 1 and config["kind"] == "ReLU" and config["k"] == K
    assert config["shape"] == [10, 12, 12] and config["receptive_field"] == [9, 9] and config["stride"] == [2, 2]
    assert config["count"] == IMAGES and config["image_size"] == [SIDE, SIDE] and config["channels"] is None
    assert config["model_fingerprint"] == case.network.fingerprint and config["parameters"] == 0
    assert config["images_fingerprint"] == case.store.fingerprint
    assert repr(shown("relu2")) == "Gallery(relu2 of Small: 10 filters)"
    assert case.maker(channels={"relu2": [3, 1]}, settings={"more": 1}).config("relu2") == {
        **config,
        "channels": [3, 1],
        "more": 1,
    }


def test_first_filters(case: Case, shown: Callable[[str], Gallery]) -> None:
    weights = case.model.conv1.weight.detach().permute(0, 2, 3, 1).numpy()
    expected = np.floor(255 * np.stack([stretched(one, 100) for one in weights]) + 0.5)
    assert np.array_equal(shown("relu1").arrays["filters"], expected)
    assert "filters" not in shown("relu2").arrays


def test_a_layer_that_is_wholly_dead(case: Case) -> None:
    found = case.gallery("relu2", channels={"relu2": [DEAD]}).arrays
    assert found["images"].tolist() == [[-1] * K] and (np.asarray(found["patches"]) == 128).all()
    assert found["neighbours"].shape == (1, 0) and found["dead"].tolist() == [1]


def test_what_does_not_belong_together_is_refused(case: Case) -> None:
    torch.manual_seed(1)
    other = dv.capture(nn.Conv2d(3, 6, 5), (3, SIDE, SIDE))
    for change, words in (
        ({"k": K + 2}, f"top {K + 1} of {IMAGES}"),
        ({"mined": Mined(**{**vars(case.mined), "done": 3})}, f"of 3 of {IMAGES}"),
        ({"network": other}, "mined with model"),
    ):
        arguments = {**vars(case.maker()), **change}
        with pytest.raises(MismatchError, match=words):
            GalleryMaker(**{name: arguments[name] for name in GalleryMaker.__dataclass_fields__})


# --- invariance, occlusion, evolution


def test_invariance_is_that_of_the_study(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aspects, "TRANSFORMED", 3)
    arguments = (case.network, case.store, ["relu1", "relu2"], tmp_path / "i.h5")
    found = aspects.measured_invariance(*arguments, preprocess=PREPROCESS, progress=False)
    expected = dv.invariance(
        case.network, case.store, "relu2", preprocess=PREPROCESS, which=[0, 14, 29], units=["relu2"], progress=False
    )
    arrays = found.of("relu2")
    assert sorted(arrays) == [f"invariance/{kind}" for kind in ("rotation", "scale", "translate-x", "translate-y")]
    for kind, scores in zip(expected.steps, expected.per_unit("relu2"), strict=True):
        np.testing.assert_allclose(arrays[f"invariance/{kind}"], scores, atol=1e-6)
    assert np.isnan(arrays["invariance/scale"][DEAD]) and len(found.of("relu1")["invariance/scale"]) == 6
    monkeypatch.setattr(aspects, "invariance", None)  # not measured again
    again = aspects.measured_invariance(*arguments, preprocess=PREPROCESS, progress=False)
    assert np.array_equal(again.of("relu2")["invariance/scale"], arrays["invariance/scale"], equal_nan=True)
    with pytest.raises(MismatchError, match="layers"):
        aspects.measured_invariance(case.network, case.store, ["relu2"], arguments[3], preprocess=PREPROCESS)


def occluded(case: Case, out: pathlib.Path) -> aspects.Measured:
    chosen = {"relu1": range(6), "relu2": [0, DEAD, 8]}
    return aspects.measured_occlusion(
        case.network, case.store, case.mined, chosen, out, preprocess=PREPROCESS, progress=False
    )


def test_occlusion_is_the_sum_of_the_map_under_each_square(case: Case, tmp_path: pathlib.Path) -> None:
    found = occluded(case, tmp_path / "o.h5")
    places = aspects.places_of(aspects.occluder_for(PREPROCESS))
    assert places[0].tolist() == [0, 0, 7, 7] and places[-1].tolist() == [21, 21, 28, 28] and len(places) == 64
    for layer, chosen in (("relu1", range(6)), ("relu2", [0, 8])):
        arrays = found.of(layer)
        for c in chosen:
            image = int(case.maps[layer].max((2, 3))[:, c].argmax())
            assert arrays["occlusion/image"][c] == image
            assert arrays["occlusion/whole"][c] == pytest.approx(case.maps[layer][image, c].sum(), rel=1e-4)
            for w in (0, 9, 63):
                top, left, bottom, right = places[w]
                x = case.x[image : image + 1].clone()
                for channel, (mean, std) in enumerate(zip(PREPROCESS.mean, PREPROCESS.std, strict=True)):
                    x[:, channel, top:bottom, left:right] = (0.5 - mean) / std
                with torch.no_grad():
                    value = case.model.relu1(case.model.conv1(x))
                    value = value if layer == "relu1" else case.model.relu2(case.model.conv2(value))
                assert arrays["occlusion/values"][c, w] == pytest.approx(float(value[0, c].sum()), rel=1e-4)
    arrays = found.of("relu2")
    assert arrays["occlusion/image"][DEAD] == -1 and np.isnan(arrays["occlusion/values"][DEAD]).all()
    assert arrays["occlusion/image"][1] == -1 and np.isnan(arrays["occlusion/whole"][1])  # not asked for


def test_an_interrupted_occlusion_goes_on(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occluded(case, tmp_path / "whole.h5")
    monkeypatch.setattr(aspects, "COMMIT", 2)
    done, measure = list[int](), aspects._Occluding.image

    def failing(self: Any, image: int, arrays: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(image)
        measure(self, image, arrays)

    monkeypatch.setattr(aspects._Occluding, "image", failing)
    with pytest.raises(KeyboardInterrupt):
        occluded(case, tmp_path / "o.h5")
    again = list[int]()
    monkeypatch.setattr(
        aspects._Occluding, "image", lambda self, i, arrays: (again.append(i), measure(self, i, arrays))
    )
    occluded(case, tmp_path / "o.h5")
    assert again[0] == done[2] and not {*done[:2]} & {*again}  # the two that were committed are not done again
    assert (tmp_path / "o.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("scenes") / "scenes.h5"
    pack(dv.Scenes(40, seed=3), path, progress=False)
    return path


def test_evolution_in_tiles(scenes: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, snapshots = dv.load_model("demo"), Snapshots(DEMO_SNAPSHOTS)
    preprocess = Preprocess.from_dict(loaded.settings)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    results = list[Evolution]()
    monkeypatch.setattr(aspects, "evolve", lambda *given, **more: results.append(evolve(*given, **more)) or results[0])
    with ImageStore.open(scenes) as store:
        found = aspects.followed(
            snapshots, loaded.model, store, ["relu3"], [5, 40], tmp_path, preprocess=preprocess, progress=False
        )["relu3"]
    layer = results[0].layers[0]
    assert found["evolution/epochs"].tolist() == list(snapshots.epochs)
    assert found["evolution/channels"].tolist() == [5, 40]
    assert np.array_equal(found["evolution/values"], layer.values)
    assert np.array_equal(found["evolution/patches"], layer.patches)  # a crop below the largest tile stays as it is
    assert np.array_equal(found["evolution/projections"][1, 2], signed(layer.projections[1, 2]))
    assert found["evolution/projections"].shape == layer.patches.shape
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the model itself got other weights"


# --- decisions


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40), st.integers(1, 45))
@settings(max_examples=60, deadline=None)
def test_spread(labels: list[int], count: int) -> None:
    given = np.array(labels)
    chosen = deciding.spread(given, count)
    assert len(chosen) == min(count, len(labels)) and (np.diff(chosen) > 0).all()
    times = {label: int((given[chosen] == label).sum()) for label in labels}
    for label, n in times.items():  # a class comes again only when every other one has come as often, or is used up
        assert all(n - 1 <= m or m == labels.count(other) for other, m in times.items()), times
        first = np.flatnonzero(given == label)[:n]
        assert np.array_equal(first, chosen[given[chosen] == label])


def test_spread_takes_classes_evenly() -> None:
    assert deciding.spread(np.arange(101), 5).tolist() == [0, 25, 50, 75, 100]
    assert deciding.spread(np.array([1, 1, 0, 0]), 2).tolist() == [0, 2]
    assert deciding.spread(np.array([0, 0, 0, 1]), 1).tolist() == [0]


OUTPUTS = np.array([6, 2, 0, 4])  # of the four classes


def decided(case: Case, out: pathlib.Path, count: int = 6, **more: Any) -> Result:
    explaining = deciding.Explaining(case.network, PREPROCESS, ("grad-cam", "recipro-cam", "gradient"), "relu2")
    return deciding.decisions(explaining, case.store, count, out, **{"outputs": OUTPUTS, "progress": False, **more})


@pytest.fixture(scope="module")
def six(case: Case) -> Result:
    decided(case, case.folder / "decisions.h5", names=list("abcdefg"))
    return Result.load(case.folder / "decisions.h5", "decisions", 1)


def test_targets_are_the_most_probable_and_the_label(case: Case, six: Result) -> None:
    with torch.no_grad():
        shares = case.model.double()(case.x.double()).softmax(1).numpy()
    case.model.float()
    replaced = 0
    assert six.arrays["images"].tolist() == sorted(six.arrays["images"]) and len(six.arrays["images"]) == 6
    for n, image in enumerate(six.arrays["images"]):
        own = OUTPUTS[case.store.labels[image]]
        expected = np.argsort(-shares[image])[:5].tolist()
        if own not in expected:
            expected[-1], replaced = own, replaced + 1
        assert six.arrays["targets"][n].tolist() == expected and six.arrays["label_output"][n] == own
        np.testing.assert_allclose(six.arrays["probabilities"][n], shares[image][expected], rtol=1e-5)
    assert 0 < replaced < 6, "both cases must come about"
    assert six.config["outputs"] == list("abcdefg") and six.config["methods"] == ["grad-cam", "recipro-cam", "gradient"]


def test_maps_are_those_of_the_methods(case: Case, six: Result) -> None:
    maps, targets = six.arrays["maps"], six.arrays["targets"]
    assert maps.shape == (6, 3, 5, SIDE, SIDE)
    for m, name in enumerate(six.config["methods"]):
        explainer = dv.cam(name, case.network, "relu2")
        for n, t in ((0, 0), (3, 4)):
            image = int(six.arrays["images"][n])
            alone = explainer(case.x[image : image + 1], int(targets[n, t]))[0].double().numpy()
            span = alone.max() - alone.min()
            expected = 255 * (alone - alone.min()) / (span or 1)
            assert np.abs(maps[n, m, t] - expected).max() <= 1, (name, n, t)
    assert maps.max() == 255


def test_large_maps_are_kept_small(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "MAP", 7)
    explaining = deciding.Explaining(case.network, PREPROCESS, ("gradient",), "relu2")
    found = explaining.image(case.pictures[0], -1)
    whole = dv.cam("gradient", case.network)(case.x[:1], int(found["targets"][0]))[0].double().numpy()
    mean = whole.reshape(7, 4, 7, 4).mean((1, 3))
    expected = 255 * (mean - mean.min()) / (mean.max() - mean.min())
    assert found["maps"].shape == (1, 5, 7, 7) and np.abs(found["maps"][0, 0] - expected).max() <= 1


def test_probabilities_under_a_square(case: Case, six: Result) -> None:
    places, found = six.arrays["occlusion/places"], six.arrays["occlusion/probability"]
    assert six.arrays["occlusion/square"].tolist() == [7, 7] and found.shape == (6, 5, 12, 12) and len(places) == 144
    for n, row, column in ((0, 0, 0), (2, 4, 9), (5, 11, 11)):
        top, left, bottom, right = places[row * 12 + column]
        assert (top, left) == (min(2 * row, 21), min(2 * column, 21)) and (bottom, right) == (top + 7, left + 7)
        image = int(six.arrays["images"][n])
        x = case.x[image : image + 1].clone()
        x[:, :, top:bottom, left:right] = ((0.5 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std))[
            None, :, None, None
        ]
        with torch.no_grad():
            shares = case.model(x).softmax(1)[0].numpy()
        np.testing.assert_allclose(found[n, :, row, column], shares[six.arrays["targets"][n]], rtol=1e-4)


def test_decisions_go_on_and_do_not_change(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(case, tmp_path / "whole.h5")
    explain, calls = deciding.Explaining.image, list[int]()

    def failing(self: Any, image: Any, own: int) -> Any:
        calls.append(own)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return explain(self, image, own)

    monkeypatch.setattr(deciding.Explaining, "image", failing)
    with pytest.raises(KeyboardInterrupt):
        decided(case, tmp_path / "d.h5")
    decided(case, tmp_path / "d.h5")
    assert len(calls) == 8  # five and the one that failed; then the last two, after the four committed
    assert (tmp_path / "d.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    decided(case, tmp_path / "d.h5")
    assert len(calls) == 8
    with pytest.raises(MismatchError, match="images: 6 in the file, 5 now"):
        decided(case, tmp_path / "d.h5", 5)


def test_decisions_without_labels(case: Case, tmp_path: pathlib.Path) -> None:
    found = decided(case, tmp_path / "d.h5", 2, outputs=None)
    assert found.arrays["label_output"].tolist() == [-1, -1] and found.config["outputs"] == []
    assert (np.diff(found.arrays["probabilities"], axis=1) <= 0).all()
    with pytest.raises(DataError, match="0 images"):
        decided(case, tmp_path / "e.h5", 0)


# --- the folder


def test_a_folder_is_taken_once(tmp_path: pathlib.Path) -> None:
    claim(tmp_path / "a" / "b", "atlas", {"k": 9})
    assert [path.name for path in (tmp_path / "a" / "b" / "data").iterdir()] == ["atlas.h5"]
    claim(tmp_path / "a" / "b", "atlas", {"k": 9})
    with pytest.raises(MismatchError, match=r"k: 9 in the file, 5 now\); remove it or choose another"):
        claim(tmp_path / "a" / "b", "atlas", {"k": 5})
    (tmp_path / "half" / "data").mkdir(parents=True)
    (tmp_path / "half" / "data" / ".atlas.h5.0123.part").touch()
    claim(tmp_path / "half", "atlas", {"k": 9})  # killed before it had begun
    (tmp_path / "half" / "pages").mkdir()
    (tmp_path / "half" / "pages" / ".index.html.89ab.part").touch()
    claim(tmp_path / "half", "atlas", {"k": 9})
    assert [path.name for path in (tmp_path / "half" / "data").iterdir()] == ["atlas.h5"]
    assert not list((tmp_path / "half" / "pages").iterdir())


def test_a_folder_with_other_files_is_left_alone(tmp_path: pathlib.Path) -> None:
    for name in ("mine/thesis.tex", "data-only/data/measured.csv", "file-there/data", "plain"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    for name in ("mine", "data-only", "file-there", "plain"):
        with pytest.raises(DataError, match="give another folder"):
            claim(tmp_path / name, "atlas", {})
    with pytest.raises(DataError, match="cannot make"):
        claim(tmp_path / "plain" / "below", "atlas", {})
    assert sorted(tmp_path.rglob("*")) == before


# --- all of it, and the command


def test_everything_at_once(case: Case, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aspects, "TRANSFORMED", 2)
    wanted = Wanted(
        ("relu2", "relu1"),
        K,
        (0, 5, 3),
        decisions=2,
        methods=("gradient",),
        cam_layer="relu2",
        invariance=True,
        occlusion=True,
    )
    made = AtlasMaker(case.network, case.model, case.store, PREPROCESS, wanted, outputs=OUTPUTS, progress=False)
    found = made.run(tmp_path / "atlas")
    assert [path.name for path in found.galleries] == ["00-relu1.h5", "01-relu2.h5"]  # in the order of depth
    assert found.filters == found.made == 6 and "6 filters of 2 layers" in repr(found)
    arrays = load_gallery(found.galleries[1]).arrays
    maxima = case.maps["relu2"].max((2, 3))[:, [0, 5, 3]]
    assert arrays["similarity"][0, 0] == pytest.approx(np.corrcoef(maxima.T[:2])[0, 1], abs=1e-5)
    assert len(arrays["invariance/scale"]) == 3 and np.isnan(arrays["invariance/scale"][2])
    assert arrays["occlusion/values"].shape == (3, 64) and arrays["occlusion/image"][2] == -1
    assert arrays["occlusion/places"].shape == (64, 4)
    assert np.array_equal(found.picture(7), case.pictures[7])
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*.h5")}
    again = made.run(tmp_path / "atlas")
    assert again.filters == 6 and again.made == 0 and again.galleries == found.galleries
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "atlas").rglob("*.h5")} == times
    assert found.decisions is not None and len(Result.load(found.decisions, "decisions", 1).arrays["images"]) == 2


class Called:
    """Stands in for the pages: remembers what it was given."""

    def __init__(self) -> None:
        self.arguments: tuple[Any, ...] = ()
        self.named: dict[str, Any] = {}

    def build_site(self, *arguments: Any, **named: Any) -> Any:
        self.arguments, self.named = arguments, named
        self.picture = arguments[3](3)  # while the store is open
        return types.SimpleNamespace(index=pathlib.Path(arguments[0]) / "index.html")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Called:
    called, module = Called(), types.ModuleType("deconvviz.studies.atlas.site.site")
    module.build_site = called.build_site  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deconvviz.studies.atlas.site.site", module)
    return called


def run(*arguments: Any) -> Outcome:
    return CliRunner().invoke(
        atlas, [str(a) for a in (*arguments, "--device", "cpu", "--quiet")], catch_exceptions=False
    )


def test_the_command(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    given = ("demo", scenes, "-l", "relu3", "--layers", "conv1", "--filters", "first", "-n", "3", "--top", "2")
    told = run(*given, "--decisions", "2", "-m", "gradient, grad-cam", "-o", tmp_path / "a")
    assert told.exit_code == 0 and "6 filters of 2 layers" in told.output
    assert told.output.strip().endswith(f"open {tmp_path / 'a' / 'index.html'}")
    out, galleries, decided, _, names, labels, classes = site.arguments
    assert str(out) == str(tmp_path / "a") and [path.name for path in galleries] == ["00-conv1.h5", "01-relu3.h5"]
    found = load_gallery(galleries[1])
    assert found.config["channels"] == [0, 1, 2] and found.arrays["images"].shape == (3, 2)
    assert {"model", "weights", "images", "command", "versions"} <= set(found.sources)
    why = Result.load(decided, "decisions", 1)
    assert why.config["methods"] == ["gradient", "grad-cam"] and (why.arrays["label_output"] >= 0).all()
    with ImageStore.open(scenes) as store:
        assert names == store.names and classes == store.classes and np.array_equal(labels, store.labels)
        preprocess = Preprocess.from_dict(dv.load_model("demo").settings)
        assert np.array_equal(site.picture, preprocess.picture(store[3][0]))
    assert site.named["title"] == "ZFNet on scenes.h5" and "randomised" in site.named["note"]
    with pytest.raises(MismatchError, match="k: 2 in the file, 3 now"):
        run(*given[:-1], "3", "--decisions", "2", "-m", "gradient,grad-cam", "-o", tmp_path / "a")


def test_a_mined_file_is_taken(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    loaded = dv.load_model("demo")
    preprocess = Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape)
    with ImageStore.open(scenes) as store:
        mine(network, store, ["relu3", "relu5"], 3, tmp_path / "m.h5", preprocess=preprocess, progress=False)
        mine(network, store, ["relu5"], 3, tmp_path / "few.h5", preprocess=preprocess, limit=7, progress=False)
    before = (tmp_path / "m.h5").read_bytes()
    shared = ("--filters", "0-2", "--top", "3", "--decisions", "0")
    run("demo", scenes, *shared, "-l", "relu5", "-o", tmp_path / "own")
    own = load_gallery(site.arguments[1][0])
    run("demo", scenes, *shared, "--mined", tmp_path / "m.h5", "-o", tmp_path / "taken")
    assert [path.name for path in site.arguments[1]] == ["00-relu3.h5", "01-relu5.h5"] and site.arguments[2] is None
    taken = load_gallery(site.arguments[1][1])
    assert not (tmp_path / "taken" / "data" / "mined.h5").exists() and (tmp_path / "m.h5").read_bytes() == before
    for name, array in own.arrays.items():
        assert np.array_equal(np.asarray(taken.arrays[name]), np.asarray(array)), name
    run("demo", scenes, *shared, "--mined", tmp_path / "few.h5", "-o", tmp_path / "few")
    few = load_gallery(site.arguments[1][0])
    assert few.config["count"] == 7 and few.arrays["images"].max() < 7
    for wrong, error, words in (
        (("--top", "9"), MismatchError, "top 9"),
        (("-l", "relu4"), DataError, "relu4"),
        (("--resize", "64"), MismatchError, "preprocess"),
    ):
        with pytest.raises(error, match=words):
            run("demo", scenes, *shared, "--mined", tmp_path / "m.h5", *wrong, "-o", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_wrong_input_changes_nothing(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    for wrong, words in (
        (("-l", "conv9"), "no layer 'conv9'"),
        (("-l", "conv1", "--filters", "18,19"), "channel 19 of layer 'conv1'"),
        (("-m", "no-cam"), "no method named 'no-cam'|no-cam"),
        (("--cam-layer", "conv9"), "no layer 'conv9'"),
        (("--filters", "best"), "best"),
        (("--snapshots", tmp_path / "none.h5"), "none.h5"),
        (("--mined", tmp_path / "none.h5"), "none.h5"),
        (("--classes", tmp_path / "none.txt"), "none.txt"),
    ):
        with pytest.raises((dv.DeconvvizError, LayerNotFound), match=words):
            run("demo", scenes, *wrong, "-o", tmp_path / "out")
    with pytest.raises(DataError, match="other files"):
        run("demo", scenes, "-o", tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"] and len(list((tmp_path / "full").iterdir())) == 1
    assert not site.arguments


BARE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
"""


def test_a_network_that_decides_nothing(scenes: pathlib.Path, tmp_path: pathlib.Path, site: Called) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    given = (f"{tmp_path / 'bare.py'}:make", scenes, "--weights", "none", "--input", "24", "--resize", "24", "-l", "3")
    told = run(*given, "-o", tmp_path / "a")
    assert "no decisions are explained" in told.output and site.arguments[2] is None
    with pytest.raises(dv.DeconvvizError, match="score"):
        run(*given, "--decisions", "3", "-o", tmp_path / "b")
