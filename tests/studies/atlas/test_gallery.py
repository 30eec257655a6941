"""The gallery of a layer, held against the definitions."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from gallery_case import DEAD, IMAGES, RARE, SIDE, Case, K, soft_tiles
from torch import nn

import deconvviz as dv
from deconvviz.arrays import stretched
from deconvviz.data.pictures import resized, signed_picture
from deconvviz.errors import MismatchError
from deconvviz.results.tiles import GREY, Gallery, load_gallery
from deconvviz.run.options import RunOptions
from deconvviz.studies.atlas import galleries as making
from deconvviz.studies.atlas.galleries import tile_size
from deconvviz.studies.atlas.site.inputs import GalleryFile
from deconvviz.studies.mining.cache import ProjectionCache
from deconvviz.studies.mining.result import Mined, MinedLayer
from deconvviz.studies.mining.topk import Activity, TopK


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
    found = MinedLayer(name="conv", top=TopK(values, images, positions), activity=Activity.empty(2))
    table = making.StrongestImages.of(found, np.array([1, 0]), 3)
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
        strongest = np.abs(cut).max(2)  # of the colours of each pixel, which keep their ratio
        peak = np.percentile(strongest[strongest > 0], 99)
        expected = 127.5 + 127.5 * cut / np.maximum(strongest, peak)[..., None]
        assert np.abs(tiles[f, r] - expected).max() <= 1.01, (f, r)
        energy = (whole**2).sum(0).numpy()
        sides.append(energy[top:bottom, left:right].sum() / energy.sum())
    assert np.median(sides) > 0.95


def test_the_rule_is_chosen_for_each_layer(case: Case, shown: Callable[[str], Gallery]) -> None:
    """The configuration has what was asked for, so that an atlas resumes; rule and reason stand beside it."""
    for layer in case.maps:
        choice = ProjectionCache(case.mined, case.store, case.network, progress=False).choice(layer)
        gallery = shown(layer)
        assert choice is not None and gallery.config["rule"] == "auto"
        assert (gallery.rule, gallery.why) == (choice.rule, choice.words())
        given = case.gallery(layer, rule=choice.rule, channels={layer: [0, 1]})
        assert (given.config["rule"], given.rule, given.why) == (choice.rule, choice.rule, "")
        assert np.array_equal(given.arrays["projections"][:], gallery.arrays["projections"][:2])
    made = case.maker().make("relu2")
    made.save(case.folder / "chosen.h5")
    replace(made, config={**made.config, "rule": "guided"}, state={}).save(case.folder / "old.h5")  # as 0.1.0 wrote it
    pages = [GalleryFile(case.folder / name) for name in ("chosen.h5", "old.h5")]
    assert [page.config["rule"] for page in pages] == [shown("relu2").rule, "guided"]
    assert [page.config.get("why") for page in pages] == [shown("relu2").why, None]


def test_the_contrast_is_that_of_the_layer_figure() -> None:
    rng, sparse = np.random.default_rng(4), np.zeros((40, 40, 3))
    sparse[3, 5] = 0.2, -0.4, 0
    for values in (sparse, rng.normal(0, 1, (20, 17, 3)), np.zeros((4, 4, 3)), rng.normal(0, 1e-9, (9, 9, 1))):
        values[:1, :1] *= 40  # beyond full contrast
        expected = np.floor(255 * stretched(values) + 0.5)
        assert np.array_equal(signed_picture(values), np.broadcast_to(expected, (*values.shape[:2], 3)))
    assert (signed_picture(np.zeros((4, 4, 3))) == GREY).all()


def test_tiles_are_bounded_and_keep_their_form() -> None:
    assert tile_size((95, 95)) == (95, 95) and tile_size((192, 96)) == (96, 48) and tile_size((5000, 4)) == (96, 1)
    picture = soft_tiles((1, 1, 192, 96, 3))[0, 0]
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
        ({"inputs": case.inputs(network=other)}, "mined with model"),
    ):
        with pytest.raises(MismatchError, match=words):
            case.maker(**change)


def test_what_is_known_of_the_whole_layer(case: Case, tmp_path: pathlib.Path) -> None:
    """Also where some filters are shown; in front of the second convolution there is no pooling."""
    dead = (case.maps["relu2"].max((0, 2, 3)) <= 0).sum()
    maker = case.maker(channels={"relu2": [0, 1]}, rule="guided")
    expected = {"rectified": True, "pooled": False, "channels": 10, "dead": dead, "switches": False}
    for layer, more in (("relu2", {}), ("relu1", {"channels": 6, "dead": 0, "switches": True})):
        maker.make(layer).save(tmp_path / "g.h5")
        assert load_gallery(tmp_path / "g.h5").whole == {**expected, **more}
    maker.make("relu2").save(tmp_path / "g.h5")
    file = GalleryFile(tmp_path / "g.h5")
    assert file.dead == {"shown": 0, "dead": dead, "channels": 10} and dead
    assert file.rectified and not file.switches and not file.pooled


def test_the_steps_of_a_gallery_are_named(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (True, False):
        replace(case.maker(rule="auto", channels={"relu2": [0]}), run=RunOptions(progress=progress)).make("relu2")
        told = capsys.readouterr().err
        assert all((text in told) == progress for text in ("choosing relu2's rule", "projecting relu2")), told
